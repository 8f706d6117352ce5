"""A loss in a training loop of PyTorch alone: COS-NCE between a student encoder and a wider teacher."""

import torch
from torch import nn

import kdzoo


class Encoder(nn.Module):
    """Tokens in, hidden states (B, S, D) out."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, width, padding_idx=0)
        layer = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=2 * width, batch_first=True, dropout=0.0)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.layers(self.embed(ids), src_key_padding_mask=ids == 0)


def batches(steps: int) -> list[torch.Tensor]:
    """Rows of token ids of different lengths, padded with 0."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 100, (steps, 8, 12), generator=generator)
    lengths = torch.randint(4, 13, (steps, 8, 1), generator=generator)
    return list(ids.masked_fill(torch.arange(12) >= lengths, 0))


def main(steps: int = 20) -> list[float]:
    torch.manual_seed(0)
    teacher, student = Encoder(64, 3).eval(), Encoder(32, 1)
    loss = kdzoo.create("cos_nce", student_dim=32, teacher_dim=64)
    # The loss learns the projection from 32 to 64, so the optimizer gets its parameters too.
    optimizer = torch.optim.AdamW([*student.parameters(), *loss.parameters()], lr=3e-3)
    values = []
    for ids in batches(steps):
        with torch.no_grad():
            target = teacher(ids)
        value = loss(student(ids), target, mask=ids != 0)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    return values


if __name__ == "__main__":
    values = main()
    print(f"COS-NCE: {values[0]:.3f} in the first step, {values[-1]:.3f} in the last")
