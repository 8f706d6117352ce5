"""A loss in Lightning: TinyBERT's hidden states and predictions in a ``LightningModule``."""

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertForSequenceClassification

import kdzoo


class Distillation(lightning.LightningModule):
    """The losses are modules of this one, so that what they learn is trained and saved with it."""

    def __init__(self, student: BertForSequenceClassification, teacher: BertForSequenceClassification) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher.requires_grad_(False)
        widths = {"student_dim": student.config.hidden_size, "teacher_dim": teacher.config.hidden_size}
        self.hidden_mse = kdzoo.create("hidden_mse", **widths)
        self.soft_ce = kdzoo.create("soft_ce")
        self.values: list[float] = []

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        ids, mask = batch
        self.teacher.eval()
        with torch.no_grad():
            theirs = self.teacher(ids, attention_mask=mask, output_hidden_states=True)
        ours = self.student(ids, attention_mask=mask, output_hidden_states=True)
        hidden = self.hidden_mse(ours.hidden_states[-1], theirs.hidden_states[-1], mask=mask)
        soft = self.soft_ce(ours.logits, theirs.logits)
        self.log_dict({"hidden_mse": hidden, "soft_ce": soft})
        self.values.append((hidden + soft).item())
        return hidden + soft

    def configure_optimizers(self) -> torch.optim.Optimizer:
        learned = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(learned, lr=3e-3)


def bert(layers: int, width: int) -> BertForSequenceClassification:
    sizes = {"num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 16, "num_labels": 3}
    return BertForSequenceClassification(
        BertConfig(vocab_size=100, num_hidden_layers=layers, hidden_size=width, **sizes)
    )


def main(steps: int = 10) -> list[float]:
    torch.manual_seed(0)
    ids = torch.randint(1, 100, (80, 12))
    mask = (torch.arange(12) < torch.randint(4, 13, (80, 1))).long()
    module = Distillation(bert(1, 16), bert(2, 32))
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(ids, mask), batch_size=8))
    return module.values


if __name__ == "__main__":
    values = main()
    print(f"loss: {values[0]:.3f} in the first step, {values[-1]:.3f} in the last")
