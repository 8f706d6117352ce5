"""What one training is told: its budget, its rows, its seed; its steps, and the Trainer's arguments.

The text under a field is also the help of the command line's option, which is made of it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kdzoo.distributed import launched
from kdzoo.errors import KdzooError

if TYPE_CHECKING:
    from transformers import TrainingArguments

Precision = Literal["fp32", "bf16", "fp16"]

# More than anybody means: what is over it is a slip of the hand, and would fill the memory or never end.
MOST_ROWS = 10**8
MOST_MADE_ROWS = 10**6  # of synthetic data, which are held in memory
MOST_BATCH = 2**16
MOST_LENGTH = 2**17
MOST_REPEATS = 10**6


class Told(BaseModel):
    """Settings: checked, unchangeable, and nothing in them that is unknown, infinite or not a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Budget(Told):
    """How one model is trained; the same for every method of a comparison."""

    epochs: float = Field(default=3, gt=0, le=10_000)
    """Passes over the training rows."""
    batch_size: int = Field(default=32, ge=1, le=MOST_BATCH)
    """Rows a step and process."""
    gradient_accumulation: int = Field(default=1, ge=1, le=MOST_BATCH)
    """Steps whose gradients are added up before an update."""
    learning_rate: float = Field(default=5e-5, gt=0)
    """The highest learning rate."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the rate rises from 0; it falls to 0 in a straight line after."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    max_length: int = Field(default=128, ge=8, le=MOST_LENGTH)
    """Most tokens a row keeps."""
    precision: Precision = "fp32"
    """fp32, or mixed precision in bf16 or fp16."""


class Rows(Told):
    """What a model is trained and scored on."""

    data: str = "synthetic"
    """'synthetic', 'hub' (nyu-mll/glue), a folder of GLUE files, or data of your own: see --text."""
    train_rows: int | None = Field(default=None, ge=2, le=MOST_ROWS)
    """Training rows to take; all by default."""
    validation_rows: int | None = Field(default=None, ge=2, le=MOST_ROWS)
    """Validation rows to take; all by default."""
    test_rows: int | None = Field(default=None, ge=0, le=MOST_ROWS)
    """Test rows to score at the end; all by default, 0: none."""

    @model_validator(mode="after")
    def _can_work(self) -> Rows:
        if wrong := self.idle():
            raise KdzooError(wrong)
        asked = (self.train_rows, self.validation_rows, self.test_rows)
        if self.data == "synthetic" and max(rows or 0 for rows in asked) > MOST_MADE_ROWS:
            raise KdzooError(f"synthetic data has at most {MOST_MADE_ROWS} rows a split; give fewer")
        return self

    def idle(self) -> str:
        """What is given and has no effect, in a line; empty where all has."""
        return ""

    def changed(self, *names: str) -> list[str]:
        """Those of the fields that are not at their defaults, as the command line calls them."""
        fields = type(self).model_fields
        return [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) != fields[name].default]


class OwnColumns(Told):
    """Which columns of one's own data make the task, and what the teacher of any task reads beside its sentences."""

    text: str | None = None
    """The text column of your own --data (a CSV, TSV, JSONL or Parquet file, a folder, or a hub name), or two: a,b."""
    label: str | None = None
    """The label's column; several of numbers: x,y."""
    kind: str | None = None
    """classification, multilabel or regression, by the labels; tokens, spans, seq2seq; triples, relations, links."""
    labels: str | None = None
    """The labels' names in order, separated by commas; those of the training rows by default."""
    metric: str | None = None
    """What the task is measured by: accuracy, macro_f1, ..., or package.module:function; by its kind by default."""
    label_separator: str | None = Field(default=None, min_length=1)
    """What parts several labels in one text; | by default."""
    decoding: str | None = None
    """How --kind seq2seq writes texts: beam=4,length_penalty=1,no_repeat_ngram=0,min_length=0,max_target=128."""
    folds: str | None = None
    """The column that names each row's fold, or how many to draw: each is a task, and tables show their mean."""
    knowledge: str | None = None
    """A triple file (subject, predicate, object), whose facts the teacher reads beside the sentences: K-BERT."""
    roles: str | None = None
    """A folder with the semantic roles of a task's rows, TASK.SPLIT.jsonl, which the teacher reads: SemBERT."""
    arms: str | None = None
    """Ways of reading facts (facts, none, random, blind, flat, both) or roles (roles, none, shuffled), a task each."""


class Distilled(Rows):
    """What the students' rows and the teacher's activations are."""

    augment: int = Field(default=0, ge=0, le=1000)
    """Copies of each training row with words exchanged, as TinyBERT has."""
    augment_model: str | None = None
    """The masked language model that says for which; the teacher by default."""
    glove: str | None = None
    """A GloVe file, for words that are several pieces."""
    cache_folder: str | None = None
    """Keep the teacher's activations there, so that it runs once a row."""
    cache_limit: float = Field(default=1.0, ge=0)
    """Most gigabytes of them on disk; over it the teacher runs live."""
    cache_precision: Precision = "fp32"
    """In which they are kept: fp32, bf16 or fp16."""
    cache_top: int | None = Field(default=None, ge=1)
    """Most logits of a token that are kept of a larger vocabulary; the others' probability is spread evenly."""

    def idle(self) -> str:
        if not self.augment and (given := self.changed("augment_model", "glove")):
            return f"{given[0]} says how rows are augmented, and --augment is 0; give how many copies of each"
        return self._idle_cache()

    def _idle_cache(self) -> str:
        if self.cache_folder is None and (given := self.changed("cache_limit", "cache_precision", "cache_top")):
            return f"{given[0]} is about a cache, and there is none; give its folder, --cache-folder"
        return ""


class Seeded(Told):
    """One training's random numbers."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of new weights, dropout, masks and the order of the rows."""


class OnText(Seeded):
    """A distillation on text."""

    steps: int | None = Field(default=None, ge=1, le=10**9)
    """Updates, instead of epochs."""
    pack: bool = True
    """Fill rows with several lines, or keep each line by itself."""
    text_column: str = "text"
    """The text's column in a datasets folder."""
    mlm_probability: float = Field(default=0.15, gt=0, lt=1)
    """Share of tokens to predict, where mlm is a loss."""


def validated(kind: type[Any], /, **values: Any) -> Any:
    """Settings of a kind, with pydantic's complaints in one line.

    Raises:
        KdzooError: for a value that does not fit.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        if not name:
            raise KdzooError(said) from None
        if first["type"] == "missing":
            raise KdzooError(f"{name} is missing; give at least one") from None
        raise KdzooError(f"{name} = {first['input']!r}: {said[:1].lower() + said[1:]}") from None


def total_steps(budget: Budget, rows: int) -> int:
    """Updates of a training on so many rows, as the Trainer counts them: a part of one is one."""
    rows_an_update = budget.batch_size * budget.gradient_accumulation * launched()[1]
    return math.ceil(budget.epochs * math.ceil(rows / rows_an_update))


def silent_arguments(folder: Path, batch_size: int, precision: Precision = "fp32", **more: Any) -> TrainingArguments:
    """The Trainer's arguments of every training of ours: on the accelerator where there is one, and without a word.

    Args:
        folder: for checkpoints.
        batch_size: rows a step and process.
        precision: of the budget.
        more: further arguments.
    """
    from transformers import TrainingArguments  # which takes seconds, and the command line is made of this file

    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not torch.accelerator.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        **more,
    )


def training_arguments(budget: Budget, total: int, seed: int, folder: Path, **more: Any) -> TrainingArguments:
    """The Trainer's arguments for a budget.

    Args:
        budget: how long and how fast.
        total: its steps.
        seed: of everything drawn.
        folder: for checkpoints.
        more: further arguments.
    """
    return silent_arguments(
        folder,
        budget.batch_size,
        budget.precision,
        num_train_epochs=budget.epochs,
        per_device_eval_batch_size=2 * budget.batch_size,
        gradient_accumulation_steps=budget.gradient_accumulation,
        learning_rate=budget.learning_rate,
        warmup_steps=int(np.ceil(budget.warmup_ratio * total)),
        weight_decay=budget.weight_decay,
        max_grad_norm=budget.max_grad_norm,
        seed=seed,
        data_seed=seed,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        logging_steps=max(1, total // 20),
        save_total_limit=1,
        **more,
    )


def check_precision(budget: Budget) -> None:
    """Refuse a precision that the machine does not have.

    Raises:
        KdzooError: names those it has.
    """
    if budget.precision == "fp16" and not torch.accelerator.is_available():
        raise KdzooError("precision fp16 needs an accelerator, and there is none; take fp32 or bf16")
