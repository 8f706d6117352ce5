"""One training step of every recipe and stage, beside plain fine-tuning and the teacher's forward pass alone.

The target is a step of at most plain fine-tuning (``none``) plus the teacher's forward pass plus 15 %. LRC-BERT's
gradient perturbation runs the student twice, by its definition.
"""

from __future__ import annotations

import math
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


@pytest.mark.benchmark(group="training step")
@pytest.mark.parametrize(("name", "progress"), _stages())
def test_step(benchmark: Any, setting: SimpleNamespace, tmp_path: Any, name: str, progress: float) -> None:
    from transformers import TrainingArguments

    student = kdzoo.make_student("teacher:1,3,5", setting.teacher)
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", disable_tqdm=True, use_cpu=True)
    rows = Dataset.from_dict({"input_ids": [[1]] * SAMPLES, "labels": [0] * SAMPLES, "sample_ids": range(SAMPLES)})
    trainer = kdzoo.DistillationTrainer(
        model=student, teacher=setting.teacher, recipe=name, args=args, train_dataset=rows
    )
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    trainer.state.max_steps, trainer.state.global_step = 1000, int(1000 * progress)

    def step() -> float:
        loss = trainer.training_step(trainer.model, dict(setting.batch))
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        return float(loss)

    loss = benchmark.pedantic(step, rounds=7, warmup_rounds=2)
    assert math.isfinite(loss)


@pytest.mark.benchmark(group="training step")
def test_teacher_forward(benchmark: Any, setting: SimpleNamespace) -> None:
    taken = {name: setting.batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        output = benchmark.pedantic(lambda: setting.teacher(**taken), rounds=7, warmup_rounds=2)
    assert output.logits.shape == (ROWS, 3)
