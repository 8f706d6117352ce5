"""A loss in transformers' own Trainer: PKD and KD in a ``compute_loss``, without any of kdzoo's training code.

`kdzoo.DistillationTrainer` does this and more (capture, layer maps, checkpoints of what the losses learn); this is for
a Trainer that you have already.
"""

import tempfile

import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import kdzoo


class MyTrainer(Trainer):
    """Cross-entropy, softened classes, and the CLS states of the lower layers."""

    # The loss below is a mean over a micro-batch, so the Trainer has to divide by their number; a BERT, whose forward
    # takes any argument, passes for a model that does it by itself.
    loss_is_scaled_for_ga = False

    def __init__(self, *args, teacher, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False  # the same for a transformers before 5.20
        self.teacher = teacher.eval().to(self.args.device)
        self.kd = kdzoo.create("kd", temperature=2.0)
        self.pkd = kdzoo.create("pkd")

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        with torch.no_grad():
            theirs = self.teacher(**inputs, output_hidden_states=True)
        ours = model(**inputs, output_hidden_states=True)
        pairs = [(1, 2)]  # the student's first layer from the teacher's second
        student = torch.stack([ours.hidden_states[i][:, 0] for i, _ in pairs], dim=1)
        teacher = torch.stack([theirs.hidden_states[j][:, 0] for _, j in pairs], dim=1)
        loss = ours.loss + self.kd(ours.logits, theirs.logits) + self.pkd(student, teacher)
        return (loss, ours) if return_outputs else loss


def bert(layers: int) -> BertForSequenceClassification:
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 16}
    return BertForSequenceClassification(BertConfig(vocab_size=100, num_hidden_layers=layers, num_labels=2, **sizes))


def main(steps: int = 10, pieces: int = 1) -> list[float]:
    """The loss of each step, of 8 rows in one batch or in several pieces whose gradients are added up."""
    torch.manual_seed(0)
    ids = torch.randint(1, 100, (64, 12))
    rows = Dataset.from_dict(
        {"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist(), "labels": (ids[:, 1] % 2).tolist()}
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=8 // pieces,
            gradient_accumulation_steps=pieces,
            learning_rate=3e-3,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
        )
        trainer = MyTrainer(model=bert(2), teacher=bert(4), args=arguments, train_dataset=rows)
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    values = main()
    print(f"loss: {values[0]:.3f} in the first step, {values[-1]:.3f} in the last")
