"""A loss in sentence-transformers: an embedding model distilled with InfoNCE on its teacher's embeddings."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    models,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import kdzoo

WORDS = ["a", "cat", "dog", "bird", "sees", "hears", "likes", "the", "tree", "house", "river", "today"]


class EmbeddingDistillation(nn.Module):
    """Any loss of kdzoo on sentence embeddings; the teacher's are the ``label`` column."""

    def __init__(self, model: SentenceTransformer, name: str, **options: Any) -> None:
        super().__init__()
        self.model = model
        self.loss = kdzoo.create(name, **options)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        (features,) = sentence_features
        return self.loss(self.model(features)["sentence_embedding"], labels)


def encoder(width: int, folder: Path) -> SentenceTransformer:
    """A tiny, untrained sentence encoder; yours comes from ``SentenceTransformer("...")``."""
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 16}
    BertModel(BertConfig(vocab_size=len(vocabulary), hidden_size=width, **sizes)).save_pretrained(folder)
    words = models.Transformer(str(folder))
    return SentenceTransformer(modules=[words, models.Pooling(width)], device="cpu")


def main(steps: int = 12) -> list[float]:
    torch.manual_seed(0)
    picks = torch.randint(len(WORDS), (96, 5)).tolist()
    sentences = [" ".join(WORDS[pick] for pick in row) for row in picks]
    with tempfile.TemporaryDirectory() as folder:
        teacher, student = encoder(32, Path(folder, "teacher")), encoder(16, Path(folder, "student"))
        targets = teacher.encode(sentences, convert_to_numpy=True)
        loss = EmbeddingDistillation(student, "info_nce", temperature=0.1, student_dim=16, teacher_dim=32)
        trainer = SentenceTransformerTrainer(
            model=student,
            args=SentenceTransformerTrainingArguments(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=16,
                learning_rate=1e-2,
                logging_steps=1,
                report_to="none",
                save_strategy="no",
            ),
            train_dataset=Dataset.from_dict({"sentence": sentences, "label": targets.tolist()}),
            loss=loss,
        )
        trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    values = main()
    print(f"InfoNCE: {values[0]:.3f} in the first step, {values[-1]:.3f} in the last")
