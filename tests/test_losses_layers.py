"""Losses that pair the layers of the two models themselves, beyond the conformance suite."""

from __future__ import annotations

import pytest
import torch

import kdzoo
from kdzoo import QKV, KdzooError


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_bert_emd_without_numbers_of_layers_weighs_any_of_them_equally_at_every_step() -> None:
    free = kdzoo.create("bert_emd")
    assert not free.state_dict()
    for own, other in ((2, 3), (4, 4)):
        student, teacher = torch.randn(3, own, 5, 8), torch.randn(3, other, 5, 8)
        first = kdzoo.create("bert_emd", student_layers=own, teacher_layers=other)(student, teacher)
        assert [free(student, teacher).item() for _ in range(3)] == pytest.approx([first.item()] * 3)
    heads = [QKV(*(torch.randn(3, layers, 2, 5, 4) for _ in range(3))) for layers in (2, 3)]
    first = kdzoo.create("bert_emd", student_layers=2, teacher_layers=3)(*heads)
    assert free(*heads).item() == pytest.approx(first.item())


def test_bert_emd_with_numbers_of_layers_changes_its_weights_in_training_alone() -> None:
    student, teacher = torch.randn(3, 2, 8), torch.randn(3, 3, 8)
    loss = kdzoo.create("bert_emd", student_layers=2, teacher_layers=3)
    loss.eval()(student, teacher)
    assert loss.student_weights.tolist() == [0.5, 0.5]
    loss.train()(student, teacher)
    assert loss.student_weights.tolist() != [0.5, 0.5]
    assert loss.student_weights.sum().item() == pytest.approx(1.0)


def test_bert_emd_takes_both_numbers_of_layers_or_neither() -> None:
    with pytest.raises(KdzooError, match="bert_emd: give both student_layers and teacher_layers, or neither"):
        kdzoo.create("bert_emd", student_layers=2)
    with pytest.raises(KdzooError, match="student_layers is 0; it must be a positive number"):
        kdzoo.create("bert_emd", student_layers=0, teacher_layers=3)
