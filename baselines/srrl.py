"""SRRL (Yang et al. 2021): the student's features must do for the teacher's own classification head."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdzoo.errors import KdzooError
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.reduction import masked_mean
from kdzoo.losses.registry import register
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe

PAPER = "Yang et al. 2021, Knowledge Distillation via Softmax Regression Representation Learning"
URL = "https://openreview.net/forum?id=ZzwDy_wiWv"


@register("srrl")
class SRRL(DistillationLoss):
    """Features like the teacher's, and the same logits from the teacher's head.

        1/B · Σ_i α · ‖W s_i - t_i‖² + β · ‖h(W s_i) - h(t_i)‖²

    h is the teacher's classification head, which is not trained: its gradient reaches the student alone, provided
    that its parameters are frozen. An objective hands it over for CLS states of the last layer.

    Args:
        alpha: weight of the feature matching.
        beta: weight of the softmax regression (on logits, by their squared distance).
        student_dim: width of the student's features.
        teacher_dim: width of the teacher's. Where the two differ W is learned. (The authors' connector for images
            adds batch normalisation and a ReLU, which would cut the signs of a transformer's states.)
        bias: give W a bias.
        variant: ``"paper"``, the sum over the width and over the classes; ``"released"``, the mean over either.

    Shapes:
        student: (B, student_dim). No mask.
        teacher: (B, teacher_dim).
        teacher_head: a function (B, teacher_dim) -> (B, C), without dropout. Must be given.

    Raises:
        KdzooError: for shapes or widths that do not fit, a mask, or a missing ``teacher_head``.

    References:
        Yang, Martinez, Bulat, Tzimiropoulos: Knowledge Distillation via Softmax Regression Representation
        Learning, section 3. https://openreview.net/forum?id=ZzwDy_wiWv

    See also:
        ``logit_mse``, which trains the student's own head; ``hidden_mse``, the feature matching alone.

    Examples:
        >>> import kdzoo, torch
        >>> head = torch.nn.Linear(16, 3).requires_grad_(False)
        >>> student = torch.randn(8, 16, requires_grad=True)
        >>> kdzoo.create("srrl")(student, torch.randn(8, 16), teacher_head=head).backward()
    """

    features = ("cls",)
    extras = frozenset({"teacher_head"})
    top_only = True
    variants = ("paper", "released")
    formula = r"\frac{1}{B} \sum_i \alpha \| W s_i - t_i \|^2 + \beta \| h(W s_i) - h(t_i) \|^2"
    complexity = "O(B·D) and the teacher's head"
    related = ("logit_mse", "hidden_mse", "kd")
    paper, year, url = PAPER, 2021, URL

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 1.0,
        *,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        bias: bool = False,
        variant: str = "paper",
    ) -> None:
        super().__init__(student_dim=student_dim, teacher_dim=teacher_dim, bias=bias, variant=variant)
        self.alpha, self.beta = alpha, beta

    def compute(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        mask: Tensor | None,
        teacher_head: Callable[[Tensor], Tensor] | None = None,
        **context: Any,
    ) -> Tensor:
        if teacher_head is None:
            raise KdzooError(f"{self.label} needs teacher_head=, the teacher's classification head as a function")
        if mask is not None or student.dim() != 2:
            given = "" if mask is None else f" and a mask {tuple(mask.shape)}"
            raise KdzooError(
                f"{self.label} compares (B, D) features, without a mask; got student {tuple(student.shape)}, teacher "
                f"{tuple(teacher.shape)}{given}"
            )
        student, teacher, _ = self.vectors(student, teacher, None)
        features = (student - teacher).square()
        logits = (_through(teacher_head, student) - _through(teacher_head, teacher).detach()).square()
        if self.variant == "released":
            return masked_mean(self.alpha * features.mean(-1) + self.beta * logits.mean(-1))
        return masked_mean(self.alpha * features.sum(-1) + self.beta * logits.sum(-1))


def _through(head: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """What a head makes of features: where it is a module, in its own precision, and its weights get no gradient."""
    if not isinstance(head, nn.Module) or (own := next(head.parameters(), None)) is None:
        return head(features)
    given = features.to(own.dtype)
    if any(weight.requires_grad for weight in head.parameters()):
        frozen = {name: weight.detach() for name, weight in head.named_parameters()}
        made: Tensor = torch.func.functional_call(head, frozen, (given,))
    else:
        made = head(given)
    return made.to(features.dtype)


@register_recipe("srrl")
def recipe() -> Recipe:
    """Labels, features and the teacher's head, on the last CLS state."""
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, TermSpec

    return Recipe(
        name="srrl",
        title="labels, the last CLS state, and what the teacher's head makes of it",
        citation=Citation(
            authors="Yang, J., Martinez, B., Bulat, A., Tzimiropoulos, G.",
            title="Knowledge Distillation via Softmax Regression Representation Learning",
            venue="ICLR",
            year=2021,
            url=URL,
        ),
        stages=(Stage(terms=(TermSpec(loss="ce"), TermSpec(loss="srrl", variant="released"))),),
        notes="Published for images; the weights, all 1, are those of the authors' code, whose means over width and "
        "classes they belong to. The teacher's head must look at the first position.",
        sources=(
            Source(
                origin="authors",
                where="train_imagenet_distillation.py",
                of=("ce.weight", "srrl.weight", "srrl.alpha", "srrl.beta", "srrl.variant"),
            ),
            Source(origin="ours", where="the vector that the head reads", of=("srrl.layers",)),
        ),
    )
