"""Inside torch.compile on a CPU, what a compiler fuses is left to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kdzoo
from kdzoo.kernels.backend import FUSED_BY_COMPILERS, PLAIN

LOSSES = {
    "cos_nce": "cos_nce",
    "cosine": "cosine",
    "divergence": "kd",
    "hidden_mse": "hidden_mse",
    "info_nce": "info_nce",
    "normalized_mse": "pkd",
}


def operators_of(loss: Any, rows: int) -> list[str]:
    """Our operators in the graph of a loss; its value and gradient are those of the loss as it is."""
    seen: list[str] = []

    def compiler(graph: torch.fx.GraphModule, _: Any) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes if str(node.target).startswith("kdzoo."))
        return graph

    torch._dynamo.reset()
    student, teacher = torch.randn(rows, 512, requires_grad=True), torch.randn(rows, 512)
    value = torch.compile(loss, fullgraph=True, backend=compiler)(student, teacher)
    expected = loss(student, teacher)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one, student)[0] for one in (value, expected)))
    return seen


@pytest.mark.parametrize("kernel", FUSED_BY_COMPILERS)
def test_what_a_compiler_fuses_is_left_to_it(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PLAIN, kernel, 0)  # where the operator would run at every size
    assert not operators_of(kdzoo.create(LOSSES[kernel]), 6)
    assert operators_of(kdzoo.create(LOSSES[kernel], backend="torch"), 6), "asked for by name, it is there"


@pytest.mark.parametrize("loss", ["kd", "jsd", "tvd"])
@pytest.mark.parametrize("side", [0, 1])
def test_a_logit_that_is_no_number_stays_one(loss: str, side: int) -> None:
    sides = [torch.randn(4, 5, requires_grad=not place) for place in (0, 1)]
    sides[side].data[1, 2] = torch.nan
    torch._dynamo.reset()
    assert torch.compile(kdzoo.create(loss), fullgraph=True, backend="eager")(*sides).isnan()


def test_what_it_would_hold_a_matrix_for_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PLAIN, "gram_angle", 0)
    assert operators_of(kdzoo.create("rkd_angle"), 70)
    assert operators_of(kdzoo.create("info_nce"), 257), "up to 256 rows, the scores are fewer than the inputs' elements"
