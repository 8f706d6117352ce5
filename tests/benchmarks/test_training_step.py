"""One training step of every recipe and stage, beside plain fine-tuning and the teacher's forward pass alone.

The target is a step of at most plain fine-tuning (``none``) plus the teacher's forward pass plus 15 %. LRC-BERT's
gradient perturbation runs the student twice, by its definition. A step that tags tokens or answers with a span is
measured beside a step of the same recipe that classifies rows of the same shape, the two taking turns: its target is
the same time, and the ratio is in ``extra_info``.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

import kdzoo
from kdzoo.objectives.recipe import Recipe

ROWS, LENGTH, SAMPLES = 32, 64, 4096


@pytest.fixture(scope="module")
def setting() -> SimpleNamespace:
    """A teacher of MiniLM's size, a student of three of its layers, one batch."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=3
    )
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(LENGTH // 2, LENGTH + 1, (ROWS,), generator=generator)
    batch = {
        "input_ids": torch.randint(1000, 30000, (ROWS, LENGTH), generator=generator),
        "attention_mask": (torch.arange(LENGTH) < lengths.unsqueeze(1)).long(),
        "labels": torch.randint(0, 3, (ROWS,), generator=generator),
        "sample_ids": torch.randperm(SAMPLES, generator=generator)[:ROWS],
    }
    teacher = BertForSequenceClassification(config).eval()
    return SimpleNamespace(teacher=teacher, batch=batch)


def _stages() -> list[Any]:
    cases = []
    for name in sorted(kdzoo.available("recipes"), key=lambda name: (name != "none", name)):
        spans = Recipe.load(name).spans()
        for index, (start, end, _) in enumerate(spans):
            label = name if len(spans) == 1 else f"{name}-stage-{index + 1}"
            cases.append(pytest.param(name, (start + end) / 2, id=label))
    return cases


KINDS = {"tokens": "BertForTokenClassification", "spans": "BertForQuestionAnswering"}


def _step(kind: str, setting: SimpleNamespace, name: str, folder: Any, progress: float = 0.5) -> Callable[[], float]:
    """One training step of a recipe on the setting's rows, labelled as the kind has it."""
    import transformers

    config = setting.teacher.config
    batch = dict(setting.batch)
    real, generator = batch["attention_mask"], torch.Generator().manual_seed(1)
    if kind == "tokens":
        drawn = torch.randint(0, config.num_labels, real.shape, generator=generator)
        batch["labels"] = drawn.masked_fill(real == 0, -100)
    elif kind == "spans":
        config = type(config).from_dict({**config.to_dict(), "num_labels": 2})
        del batch["labels"]
        for place in ("start_positions", "end_positions"):
            batch[place] = (torch.rand(ROWS, generator=generator) * real.sum(1)).long()
        batch["counted"] = real
    torch.manual_seed(0)
    teacher = getattr(transformers, KINDS[kind])(config).eval() if kind in KINDS else setting.teacher
    args = transformers.TrainingArguments(output_dir=str(folder), report_to="none", disable_tqdm=True, use_cpu=True)
    # As many rows as a bank of one a row is measured with; the steps take the one batch.
    rows = {name: [values[0].tolist()] * SAMPLES for name, values in batch.items()} | {"sample_ids": range(SAMPLES)}
    trainer = kdzoo.DistillationTrainer(
        model=kdzoo.make_student("teacher:1,3,5", teacher),
        teacher=teacher,
        recipe=name,
        args=args,
        train_dataset=Dataset.from_dict(rows),
    )
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    trainer.state.max_steps, trainer.state.global_step = 1000, int(1000 * progress)

    def step() -> float:
        loss = trainer.training_step(trainer.model, dict(batch))
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        return float(loss)

    return step


@pytest.mark.benchmark(group="training step")
@pytest.mark.parametrize(("name", "progress"), _stages())
def test_step(benchmark: Any, setting: SimpleNamespace, tmp_path: Any, name: str, progress: float) -> None:
    step = _step("rows", setting, name, tmp_path, progress)
    loss = benchmark.pedantic(step, rounds=7, warmup_rounds=2)
    assert math.isfinite(loss)


@pytest.mark.benchmark(group="training step")
def test_teacher_forward(benchmark: Any, setting: SimpleNamespace) -> None:
    taken = {name: setting.batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        output = benchmark.pedantic(lambda: setting.teacher(**taken), rounds=7, warmup_rounds=2)
    assert output.logits.shape == (ROWS, 3)


@pytest.mark.benchmark(group="training step by kind")
@pytest.mark.parametrize("name", ["none", "kd", "tinybert", "lrc"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_step_by_kind(benchmark: Any, setting: SimpleNamespace, tmp_path: Any, kind: str, name: str) -> None:
    plain = _step("rows", setting, name, tmp_path)
    step = _step(kind, setting, name, tmp_path)
    beside: list[float] = []
    own: list[float] = []

    def turn() -> float:
        began = time.perf_counter()
        plain()
        middle = time.perf_counter()
        loss = step()
        beside.append(middle - began)
        own.append(time.perf_counter() - middle)
        return loss

    loss = benchmark.pedantic(turn, rounds=7, warmup_rounds=2)
    over = [mine / other for mine, other in zip(own, beside, strict=True)]
    benchmark.extra_info["over a step of rows"] = round(statistics.median(over[2:] or over), 3)  # after the warm-up
    assert math.isfinite(loss)
