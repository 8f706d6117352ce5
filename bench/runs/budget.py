"""How long and how fast a training is: the budget, its steps, and the Trainer's arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import TrainingArguments

from kdzoo.distributed import launched
from kdzoo.errors import KdzooError


class Budget(BaseModel):
    """How one model is trained; the same for every method of a comparison.

    Attributes:
        epochs: passes over the training rows.
        batch_size: rows a step and process.
        gradient_accumulation: steps whose gradients are added up before an update.
        learning_rate: the highest rate.
        warmup_ratio: share of the steps in which the rate rises from 0; it falls to 0 in a straight line after.
        weight_decay: AdamW's.
        max_grad_norm: gradients are clipped to this norm.
        max_length: the most tokens a row keeps.
        precision: ``"fp32"``, or mixed precision in ``"bf16"`` or ``"fp16"``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: float = Field(default=3, gt=0)
    batch_size: int = Field(default=32, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=5e-5, gt=0)
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    max_length: int = Field(default=128, ge=8)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


def validated(kind: type[Any], **values: Any) -> Any:
    """Settings of a kind, with pydantic's complaints in one line.

    Raises:
        KdzooError: for a value that does not fit.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise KdzooError(f"{name} is missing; give at least one") from None
        raise KdzooError(f"{name} = {first['input']!r}: {first['msg'].lower()}") from None


def total_steps(budget: Budget, rows: int) -> int:
    """Updates of a training on so many rows."""
    rows_an_update = budget.batch_size * budget.gradient_accumulation * launched()[1]
    return max(1, int(np.ceil(rows / rows_an_update) * budget.epochs))


def training_arguments(budget: Budget, total: int, seed: int, folder: Path, **more: Any) -> TrainingArguments:
    """The Trainer's arguments for a budget.

    Args:
        budget: how long and how fast.
        total: its steps.
        seed: of everything drawn.
        folder: for checkpoints.
        more: further arguments.
    """
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=budget.epochs,
        per_device_train_batch_size=budget.batch_size,
        per_device_eval_batch_size=2 * budget.batch_size,
        gradient_accumulation_steps=budget.gradient_accumulation,
        learning_rate=budget.learning_rate,
        warmup_steps=int(np.ceil(budget.warmup_ratio * total)),
        weight_decay=budget.weight_decay,
        max_grad_norm=budget.max_grad_norm,
        bf16=budget.precision == "bf16",
        fp16=budget.precision == "fp16",
        use_cpu=not torch.accelerator.is_available(),
        seed=seed,
        data_seed=seed,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=max(1, total // 20),
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        **more,
    )


def check_precision(budget: Budget) -> None:
    """Refuse a precision that the machine does not have.

    Raises:
        KdzooError: names those it has.
    """
    if budget.precision == "fp16" and not torch.accelerator.is_available():
        raise KdzooError("precision fp16 needs an accelerator, and there is none; take fp32 or bf16")
