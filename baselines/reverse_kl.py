"""Reverse Kullback-Leibler divergence, the objective of MiniLLM (Gu et al. 2024)."""

from __future__ import annotations

from kdzoo.losses.divergence import Divergence
from kdzoo.losses.registry import register


@register("reverse_kl")
class ReverseKL(Divergence):
    """Kullback-Leibler divergence from the student's classes to the teacher's.

        1/B · Σ_i KL(softmax(zs_i / T) ‖ softmax(zt_i / T))

    It lets the student leave out what the teacher thinks possible, and punishes what the teacher thinks
    impossible; ``kd`` is the other way round. MiniLLM samples sequences from the student and follows a policy
    gradient of this objective; here it is taken exactly, on the given inputs. There is no T². A one-logit task has
    no classes: there it is the mean squared difference of the logits, as in ``kd``.

    Args:
        temperature: T, above 0.
        variant: ``"paper"``, the only one.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S).

    Raises:
        KdzooError: for a temperature that is not positive, or unequal shapes.

    References:
        Gu, Dong, Wei, Huang: MiniLLM: Knowledge Distillation of Large Language Models, equation 1.
        https://arxiv.org/abs/2306.08543

    See also:
        ``kd``, the forward divergence; ``jsd``, which lies between the two.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 3, requires_grad=True)
        >>> kdzoo.create("reverse_kl")(student, torch.randn(8, 3)).backward()
    """

    kind = "reverse_kl"
    formula = r"\frac{1}{B} \sum_i \mathrm{KL}\left(p^s_i \,\middle\|\, p^t_i\right), \quad p = \mathrm{softmax}(z / T)"
    complexity = "O(B·C)"
    related = ("kd", "jsd", "skew_kl", "tvd")
    paper = "Gu et al. 2024, MiniLLM: Knowledge Distillation of Large Language Models"
    year = 2024
    url = "https://arxiv.org/abs/2306.08543"
