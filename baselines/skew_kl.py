"""Skew Kullback-Leibler divergence, of DistiLLM (Ko et al. 2024)."""

from __future__ import annotations

from kdzoo.errors import KdzooError
from kdzoo.losses.divergence import Divergence
from kdzoo.losses.registry import register


@register("skew_kl")
class SkewKL(Divergence):
    """Kullback-Leibler divergence to a mixture that holds a share of the first side.

        1/B · Σ_i KL(t_i ‖ α t_i + (1 - α) s_i)

    with t and s the softmax of the logits over T. The share α bounds the ratio of the two sides, and with it the
    gradient. There is no T². A one-logit task has no classes: there it is the mean squared difference of the logits,
    as in ``kd``.

    Args:
        alpha: α, 0 up to but not 1; 0 is KL(t ‖ s).
        reverse: exchange the sides, KL(s ‖ α s + (1 - α) t): the paper's skew reverse divergence.
        temperature: T, above 0.
        variant: ``"paper"``; ``"released"`` is the authors' code: the forward divergence without the teacher's
            entropy, -Σ t log(α t + (1 - α) s), which has the same gradient. Their reverse one is the paper's.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S).

    Raises:
        KdzooError: for options out of range, or unequal shapes.

    References:
        Ko, Kim, Chen, Yun: DistiLLM: Towards Streamlined Distillation for Large Language Models, section 3.1.
        https://arxiv.org/abs/2402.03898

    See also:
        ``jsd``, which compares both sides with one mixture; ``kd`` at T = 1 and ``reverse_kl``, its α = 0.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 3, requires_grad=True)
        >>> kdzoo.create("skew_kl", alpha=0.1)(student, torch.randn(8, 3)).backward()
    """

    of_classes = ("temperature", "alpha", "reverse", "variant")
    variants = ("paper", "released")
    formula = r"\frac{1}{B} \sum_i \mathrm{KL}\left(p^t_i \,\middle\|\, \alpha p^t_i + (1 - \alpha) p^s_i\right)"
    complexity = "O(B·C)"
    related = ("kd", "reverse_kl", "jsd", "tvd")
    paper = "Ko et al. 2024, DistiLLM: Towards Streamlined Distillation for Large Language Models"
    year = 2024
    url = "https://arxiv.org/abs/2402.03898"

    def __init__(
        self,
        alpha: float = 0.1,
        temperature: float = 1.0,
        *,
        reverse: bool = False,
        variant: str = "paper",
        backend: str = "auto",
    ) -> None:
        super().__init__(temperature, variant=variant, backend=backend)
        if not 0 <= alpha < 1:
            raise KdzooError(f"{self.label}: alpha is {alpha}; it must be at least 0 and under 1")
        self.alpha = self.mixture = alpha
        self.reverse = reverse
        self.kind = "reverse_kl" if reverse else "cross_entropy" if variant == "released" else "kl"
