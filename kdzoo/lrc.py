"""LRC-BERT (Fu et al. 2021): the angular contrastive loss COS-NCE, gradient perturbation, the two-stage recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdzoo.distributed import sum_over_processes
from kdzoo.errors import KdzooError
from kdzoo.loss import DistillationLoss, masked_mean, reciprocal_norm, unit
from kdzoo.registry import register, register_recipe

if TYPE_CHECKING:
    from kdzoo.recipe import Recipe


@register("cos_nce")
class CosNCE(DistillationLoss):
    """Angular contrast (COS-NCE): towards the own teacher vector, away from those of the other rows.

        1/N · Σ_i [ 2 - 1.5 cos(W s_i, t_i) + 0.5 · mean_k cos(W s_i, t_k) ]

    which is the paper's (2K - (Σ_k g_k - K g)) / 2K + g with the distances g = 1 - cos. The negatives k are the
    other rows of the batch (of all processes) at the same layer and position, or ``negatives``. An anchor counts
    where its own row has a real token; its negatives are the other rows that have one there; the mean is over all
    N counted anchors of all layers and positions. Without a negative the last term is left out. A zero vector has
    cosine 0 with everything.

    The cosines enter linearly, so the sum over negatives is one dot product with the sum of all normalised teacher
    vectors: the cost grows with B·D, and no (B, B) matrix is made.

    Args:
        student_dim: width of the student's vectors.
        teacher_dim: width of the teacher's. Where the two differ W is learned; where they are equal there is
            none.
        bias: give W a bias.
        variant: ``"paper"``, the only one.

    Shapes:
        student, teacher: (B, D), (B, S, D), (B, M, D) or (B, M, S, D); a mask (B, S) where there are positions.
        negatives: (B, K, D of the teacher), the same K for all layers and positions of a row, or (B, K, ..., D)
            with those of each; in place of the batch's rows; without gradient.

    Raises:
        KdzooError: for shapes or widths that do not fit.

    References:
        Fu et al.: LRC-BERT: Latent-representation Contrastive Knowledge Distillation for Natural Language
        Understanding, equations 3 to 5. https://arxiv.org/abs/2012.07335

    See also:
        ``cosine``, its attracting half; ``info_nce``, which weighs hard negatives more.

    Examples:
        >>> import kdzoo, torch
        >>> loss = kdzoo.create("cos_nce", student_dim=16, teacher_dim=32)
        >>> student = torch.randn(4, 7, 16, requires_grad=True)
        >>> loss(student, torch.randn(4, 7, 32), mask=torch.ones(4, 7)).backward()
    """

    features = ("hidden", "cls")
    extras = frozenset({"negatives"})
    contrastive = True
    paper = "Fu et al. 2021, LRC-BERT: Latent-representation Contrastive Knowledge Distillation"
    year = 2021
    url = "https://arxiv.org/abs/2012.07335"

    def compute(  # type: ignore[override]
        self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, negatives: Tensor | None = None
    ) -> Tensor:
        student, teacher, slots = self.vectors(student, teacher, mask)
        scale = reciprocal_norm(teacher).squeeze(-1)
        if negatives is not None:
            positive, negative = _Cosines.apply(student, teacher, scale, self._centre(negatives, teacher, slots))
        else:
            counted = torch.ones_like(scale) if slots is None else slots.to(scale.dtype)
            total = sum_over_processes(torch.einsum("b...,b...d->...d", scale, teacher))
            others = sum_over_processes(counted.sum(0)) - 1
            positive, summed = _Cosines.apply(student, teacher, scale, total)
            # The own vector is in the total, and its cosine is the positive one.
            negative = torch.where(others > 0, (summed - positive) / others.clamp_min(1), 0.0)
        return masked_mean(2 - 1.5 * positive + 0.5 * negative, slots)

    def _centre(self, negatives: Tensor, teacher: Tensor, slots: Tensor | None) -> Tensor:
        """The mean of the normalised negatives of each row, (B, ..., D); zero without any."""
        rows, *between, width = teacher.shape
        shape = tuple(negatives.shape)
        for_all = len(shape) == 3 and (shape[0], shape[2]) == (rows, width)
        for_each = len(shape) > 3 and (shape[0], *shape[2:]) == (rows, *between, width)
        if not (for_all or for_each):
            raise KdzooError(
                f"{self.label}: negatives {shape} do not fit a teacher {tuple(teacher.shape)}; they are "
                f"({rows}, K, {width}), or (B, K, ..., D) with its layers and positions"
            )
        negatives = negatives.detach().to(teacher.dtype)
        if for_each and slots is not None:
            negatives = negatives.masked_fill(~slots.unsqueeze(1).unsqueeze(-1), 0.0)
        centre = unit(negatives).sum(1) / max(shape[1], 1)
        return centre if for_each else centre.view(rows, *(1 for _ in between), width)


class _Cosines(torch.autograd.Function):
    """cos(student, teacher) and ŝ · direction of every vector, (B, ...) each, for the student's gradient alone.

    The gradient is written in one sweep over the inputs; autograd would keep and add up several (B, ..., D)
    tensors, and takes three times as long on a CPU.

    Args:
        student, teacher: (B, ..., D).
        scale: (B, ...) the teacher's 1 / norm.
        direction: (..., D), or (B, ..., D).
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, scale: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        own_scale = reciprocal_norm(student).squeeze(-1)
        positive = (student * teacher).sum(-1) * own_scale * scale
        if direction.dim() < student.dim():
            other = torch.einsum("b...d,...d->b...", student, direction) * own_scale
        else:
            other = (student * direction).sum(-1) * own_scale
        ctx.save_for_backward(student, teacher, scale, direction, own_scale, positive, other)
        return positive, other

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_positive: Tensor, to_other: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, scale, direction, own_scale, positive, other = ctx.saved_tensors
        along = (to_positive * positive + to_other * other) * own_scale**2
        gradient = teacher * (to_positive * own_scale * scale).unsqueeze(-1)
        gradient.addcmul_((to_other * own_scale).unsqueeze(-1), direction)
        gradient.addcmul_(along.unsqueeze(-1), student, value=-1)
        return gradient, None, None, None


def gradient_perturbation(loss: Tensor, embedding: Tensor) -> Tensor:
    """What LRC-BERT adds to the embedding output before it runs the student again: the loss's gradient, normalised.

    Args:
        loss: the objective's total of a first forward pass, a scalar.
        embedding: (B, S, E), the embedding output of that pass.

    Returns:
        (B, S, E): g / ‖g‖ with the L2 norm over the width; zero at positions without a gradient, and everywhere
        when any entry of g is not finite.

    References:
        Fu et al. 2021, section "Training based on Gradient Perturbation". https://arxiv.org/abs/2012.07335
    """
    gradient: Tensor | None = torch.autograd.grad(loss, embedding, allow_unused=True)[0]
    if gradient is None:
        return torch.zeros_like(embedding)
    # Chosen on the device: asking the host would wait for it in every step.
    finite = gradient.isfinite().all()
    return torch.where(finite, unit(gradient.float()), 0.0).to(embedding.dtype)


@register_recipe("lrc")
def recipe() -> Recipe:
    """COS-NCE alone for 80 % of the steps, then with KD and the labels, on perturbed embeddings throughout."""
    from kdzoo.recipe import Citation, Recipe, Stage, TermSpec, Training

    contrast = TermSpec(loss="cos_nce", layers="uniform")
    return Recipe(
        name="lrc",
        title="angular contrast on every mapped layer, then with softened classes and labels; gradient perturbation",
        citation=Citation(
            authors="Fu, H., Zhou, S., Yang, Q., Tang, J., Liu, G., Liu, K., Li, X.",
            title="LRC-BERT: Latent-representation Contrastive Knowledge Distillation for Natural Language "
            "Understanding",
            venue="AAAI",
            year=2021,
            url="https://arxiv.org/abs/2012.07335",
        ),
        stages=(
            Stage(fraction=0.8, terms=(contrast,)),
            Stage(
                fraction=0.2,
                terms=(
                    contrast,
                    TermSpec(loss="kd", temperature=1.1),
                    TermSpec(loss="ce", weight=3.0),
                ),
            ),
        ),
        perturbation="gradient",
        student="4x312,heads=12,ffn=1200",
        training=Training(learning_rate=5e-5),
        notes="The perturbation has length one at every position, while an embedding's length grows with the root of "
        "the width: a narrow student is perturbed more, and one trained from scratch in few steps may learn little. "
        "perturbation=null leaves it out.",
    )
