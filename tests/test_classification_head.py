"""The teacher's classification head as a function: it gives each family's own logits, in any precision."""

from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, LABELS, WIDTH, batch, tiny

from kdzoo import KdzooError
from kdzoo.models.heads import classification_head

ON_THE_FIRST_POSITION = [name for name in FAMILIES if name != "eurobert"]


@pytest.mark.parametrize("family", ON_THE_FIRST_POSITION)
def test_it_gives_the_models_own_logits(family: str) -> None:
    model = tiny(family)
    with torch.no_grad():
        outputs = model(**batch(), output_hidden_states=True)
        logits = classification_head(model)(outputs.hidden_states[-1][:, 0])
    torch.testing.assert_close(logits, outputs.logits)


@pytest.mark.parametrize("family", ON_THE_FIRST_POSITION)
def test_it_passes_the_gradient_and_takes_states_of_another_type(family: str) -> None:
    head = classification_head(tiny(family).bfloat16().requires_grad_(False))
    states = torch.randn(4, WIDTH, requires_grad=True)
    logits = head(states)
    assert logits.shape == (4, LABELS) and logits.dtype == torch.float32
    logits.square().sum().backward()
    assert states.grad is not None and states.grad.abs().sum() > 0


def test_a_model_that_pools_otherwise_is_refused() -> None:
    with pytest.raises(KdzooError, match="no classification head on its first position"):
        classification_head(tiny("eurobert"))
    with pytest.raises(KdzooError, match="no classification head"):
        classification_head(tiny("modernbert", classifier_pooling="mean"))
