"""Generalised Jensen-Shannon divergence, of GKD (Agarwal et al. 2024)."""

from __future__ import annotations

from kdzoo.errors import KdzooError
from kdzoo.losses.divergence import Divergence
from kdzoo.losses.registry import register


@register("jsd")
class JSD(Divergence):
    """Generalised Jensen-Shannon divergence: of both sides to a mixture of them.

        1/B · Σ_i [ β KL(t_i ‖ m_i) + (1 - β) KL(s_i ‖ m_i) ],   m = β t + (1 - β) s

    with t and s the softmax of the logits over T. At β = 0 and 1, where that sum is 0, it is what the sum divided by β
    or 1 - β tends to, as in GKD: KL(t ‖ s) and KL(s ‖ t). Between them it is at most log 2. There is no T². A
    one-logit task has no classes: there it is the mean squared difference of the logits, as in ``kd``.

    GKD trains on sequences that the student generates; this is its divergence, on any inputs. Code that mixes the
    log-probabilities in place of the probabilities (TRL's first releases) computes something else.

    Args:
        beta: β, 0 to 1.
        temperature: T, above 0.
        variant: ``"paper"``, the only one.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S).

    Raises:
        KdzooError: for options out of range, or unequal shapes.

    References:
        Agarwal et al.: On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes, equation 1.
        https://arxiv.org/abs/2306.13649

    See also:
        ``kd`` at T = 1 is β = 0, ``reverse_kl`` is β = 1; ``skew_kl`` mixes on one side.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 3, requires_grad=True)
        >>> kdzoo.create("jsd", beta=0.1)(student, torch.randn(8, 3)).backward()
    """

    kind = "jsd"
    of_classes = ("temperature", "beta")
    formula = (
        r"\frac{1}{B} \sum_i \beta\, \mathrm{KL}\left(p^t_i \,\middle\|\, m_i\right) + (1 - \beta)\, "
        r"\mathrm{KL}\left(p^s_i \,\middle\|\, m_i\right), \quad m = \beta p^t + (1 - \beta) p^s"
    )
    complexity = "O(B·C)"
    related = ("kd", "reverse_kl", "skew_kl", "tvd")
    paper = "Agarwal et al. 2024, On-Policy Distillation of Language Models"
    year = 2024
    url = "https://arxiv.org/abs/2306.13649"

    def __init__(
        self, beta: float = 0.5, temperature: float = 1.0, *, variant: str = "paper", backend: str = "auto"
    ) -> None:
        super().__init__(temperature, variant=variant, backend=backend)
        if not 0 <= beta <= 1:
            raise KdzooError(f"{self.label}: beta is {beta}; it must be from 0 to 1")
        self.beta = self.mixture = beta
