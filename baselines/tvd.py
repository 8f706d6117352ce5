"""Total variation distance between the classes' probabilities (Wen et al. 2023)."""

from __future__ import annotations

from kdzoo.losses.divergence import Divergence
from kdzoo.losses.registry import register


@register("tvd")
class TVD(Divergence):
    """Total variation distance: half the summed absolute difference of the probabilities.

        1/B · Σ_i ½ Σ_c |softmax(zt_i / T)_c - softmax(zs_i / T)_c|

    It is symmetric and at most 1. It takes logits: probabilities, given in their place, would go through a second
    softmax. There is no T². A one-logit task has no classes: there it is the mean squared difference of the logits,
    as in ``kd``.

    Args:
        temperature: T, above 0.
        variant: ``"paper"``, the only one.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S).

    Raises:
        KdzooError: for a temperature that is not positive, or unequal shapes.

    References:
        Wen, Li, Du, Mou: f-Divergence Minimization for Sequence-Level Knowledge Distillation, section 2.2.
        https://arxiv.org/abs/2307.15190

    See also:
        ``jsd``, symmetric as well at β = 0.5, and smooth.

    Examples:
        >>> import kdzoo, torch
        >>> logits = torch.tensor([[30.0, 0.0, 0.0]])
        >>> round(kdzoo.create("tvd")(logits, logits.flip(-1)).item(), 4)
        1.0
    """

    kind = "tvd"
    formula = r"\frac{1}{B} \sum_i \frac{1}{2} \sum_c \left| p^t_{ic} - p^s_{ic} \right|"
    complexity = "O(B·C)"
    related = ("kd", "reverse_kl", "jsd", "skew_kl")
    paper = "Wen et al. 2023, f-Divergence Minimization for Sequence-Level Knowledge Distillation"
    year = 2023
    url = "https://arxiv.org/abs/2307.15190"
