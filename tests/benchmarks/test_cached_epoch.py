"""An epoch of methods on logits and CLS states with a warm teacher cache, against plain fine-tuning and a live teacher.

    pytest tests/benchmarks/test_cached_epoch.py -s

The target is an epoch of at most 1.15 times plain fine-tuning's. What is compared takes turns, and of each the shortest
of several epochs counts, since other work on the machine only ever makes one longer.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

import kdzoo
from kdzoo.training.cache import TeacherCache

ROWS, LENGTH, BATCH, ROUNDS = 128, 64, 32, 4
METHODS = ("kd", "pkd", "crd")
TARGET = 1.15


@pytest.fixture(scope="module")
def teacher() -> Any:
    """A teacher of MiniLM's size."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    return BertForSequenceClassification(BertConfig(**sizes, num_labels=2)).eval()


@pytest.fixture(scope="module")
def rows() -> Dataset:
    ids = torch.randint(1000, 30000, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    return Dataset.from_dict(
        {
            "input_ids": ids.tolist(),
            "attention_mask": torch.ones_like(ids).tolist(),
            "labels": (ids[:, 0] % 2).tolist(),
            "sample_ids": list(range(ROWS)),
            "length": [LENGTH] * ROWS,
        }
    )


def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([row[name] for row in batch]) for name in batch[0] if name != "length"}


def epoch(method: str, teacher: Any, rows: Dataset, folder: Path, cache: TeacherCache | None) -> float:
    """Seconds of one."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = kdzoo.DistillationTrainer(
        model=kdzoo.make_student("teacher:1,3,5", teacher),
        teacher=teacher,
        recipe=method,
        cache=cache,
        args=arguments,
        train_dataset=rows,
        data_collator=collate,
    )
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start


@pytest.mark.timeout(1800)  # some minutes on one thread
def test_a_warm_cache_leaves_little_more_than_fine_tuning(teacher: Any, rows: Dataset, tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path / "cache")
    for method in METHODS:  # the first one warms the cache for all
        epoch(method, teacher, rows, tmp_path, cache)
    cases = [("none", None), *((method, kept) for method in METHODS for kept in (cache, None))]
    times: dict[tuple[str, bool], list[float]] = {}
    for _ in range(ROUNDS):
        for method, kept in cases:
            taken = epoch(method, teacher, rows, tmp_path, kept)
            times.setdefault((method, kept is not None), []).append(taken)
    plain = min(times["none", False])
    print(f"\nan epoch of {ROWS} rows of {LENGTH} tokens, seconds, the shortest of {ROUNDS}: none {plain:.2f}")
    for method in METHODS:
        warm, live = min(times[method, True]), min(times[method, False])
        print(f"{method}: warm cache {warm:.2f} ({warm / plain:.3f}), live teacher {live:.2f} ({live / plain:.3f})")
    assert all(min(times[method, True]) <= TARGET * plain for method in METHODS)
