"""Attention masks of pairs, which say what token sees which, in every form that a collator may give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_data import collate, rows
from tiny_models import tiny
from transformers import TrainingArguments

import kdzoo
from kdzoo.training.cache import TeacherCache
from kdzoo.training.collated import lengths


@pytest.mark.parametrize("form", [(3, torch.long), (3, torch.bool), (4, torch.long), (4, torch.float)])
@pytest.mark.parametrize("kept", [False, True])
def test_a_visible_matrix_trains_the_same_in_every_form(form: Any, kept: bool, tmp_path: Path) -> None:
    """Rows of five tokens, of which the first does not see the last two; as transformers itself adds it to scores."""
    data = rows(8, length=5)

    def seen(batch: list[dict[str, Any]], form: Any) -> dict[str, Any]:
        axes, dtype = form
        pairs = torch.ones(len(batch), 5, 5, dtype=torch.bool)
        pairs[:, 0, 3:] = pairs[:, 3:, 0] = False
        pairs = pairs if axes == 3 else pairs.unsqueeze(1)
        least = torch.finfo(torch.float32).min
        mask = pairs.to(dtype) if dtype != torch.float else torch.zeros(pairs.shape).masked_fill(~pairs, least)
        return {**collate(batch), "attention_mask": mask}

    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=4, logging_steps=1, save_strategy="no", use_cpu=True,
        report_to="none", disable_tqdm=True,
    )  # fmt: skip
    found = []
    for one in ((4, torch.float), form):
        cache = TeacherCache(tmp_path / f"cache-{len(found)}") if kept else None
        made = kdzoo.DistillationTrainer(
            tiny("bert", seed=1), tiny("bert", seed=7, num_hidden_layers=4), objective="kd + ce + attention_kl",
            cache=cache, train_dataset=data, args=arguments, data_collator=lambda batch, one=one: seen(batch, one),
        )  # fmt: skip
        made.train()
        found.append([entry["loss"] for entry in made.state.log_history if "loss" in entry])
    assert found[0] == pytest.approx(found[1], rel=1e-6) and len(found[0]) == 2


def test_rows_that_hold_a_visible_matrix_have_lengths() -> None:
    masks = [[[1, 1, 0], [1, 1, 0], [0, 0, 0]], [[1, 0], [0, 1]]]
    assert lengths(Dataset.from_dict({"input_ids": [[1, 2, 0], [1, 2]], "attention_mask": masks})).tolist() == [2, 2]
