"""InfoNCE (van den Oord et al. 2018): find your own teacher vector among those of the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.distributed import gather_rows, processes
from kdzoo.errors import KdzooError
from kdzoo.loss import DistillationLoss, check_positive, masked_mean, unit
from kdzoo.registry import register


@register("info_nce")
class InfoNCE(DistillationLoss):
    """Softmax contrast of each row's student vector against the teacher vectors of all rows.

        1/B · Σ_i -log( exp(cos(W s_i, t_i) / τ) / Σ_j exp(cos(W s_i, t_j) / τ) )

    j runs over the rows of the batch (of all processes) and the ``queue``. Layers and positions are
    contrasted each by itself: a row competes with the other rows at the same layer and position, where those
    are real, and the mean is over all valid ones. One row alone has only its positive, and loss 0.

    Args:
        temperature: τ, above 0.
        symmetric: add the other side, each teacher vector against the student vectors of all rows.
        student_dim: width of the student's vectors.
        teacher_dim: width of the teacher's. Where the two differ W is learned; where they are equal there is
            none.
        bias: give W a bias.
        variant: ``"paper"``, the only one.

    Shapes:
        student, teacher: (B, D), (B, S, D), (B, M, D) or (B, M, S, D); a mask (B, S) where there are
            positions.
        queue: (N, D of the teacher) further teacher vectors, negatives for every student vector; without
            gradient.

    Raises:
        KdzooError: for shapes or widths that do not fit, or a temperature that is not positive.

    References:
        van den Oord, Li, Vinyals: Representation Learning with Contrastive Predictive Coding, equation 4.
        https://arxiv.org/abs/1807.03748

    See also:
        ``cos_nce``, which is linear in the cosines; ``crd``, which contrasts against a bank of the whole
        data set.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 16, requires_grad=True)
        >>> loss = kdzoo.create("info_nce", temperature=0.1)
        >>> loss(student, torch.randn(8, 16), queue=torch.randn(100, 16)).backward()
    """

    features = ("cls", "hidden")
    extras = frozenset({"queue"})
    contrastive = True
    formula = (
        r"-\frac{1}{B} \sum_i \log \frac{\exp(\cos(W s_i, t_i) / \tau)}"
        r"{\sum_j \exp(\cos(W s_i, t_j) / \tau)}"
    )
    complexity = "O(B·(B + queue)·D) a slot, B·(B + queue) memory"
    related = ("cos_nce", "crd", "pkt")
    paper = "van den Oord et al. 2018, Representation Learning with Contrastive Predictive Coding"
    year = 2018
    url = "https://arxiv.org/abs/1807.03748"

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        symmetric: bool = False,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        bias: bool = False,
        variant: str = "paper",
    ) -> None:
        super().__init__(student_dim=student_dim, teacher_dim=teacher_dim, bias=bias, variant=variant)
        check_positive(self.label, temperature=temperature)
        self.temperature = temperature
        self.symmetric = symmetric

    def compute(  # type: ignore[override]
        self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, queue: Tensor | None = None
    ) -> Tensor:
        student, teacher, slots = self.vectors(student, teacher, mask)
        if queue is not None:
            if queue.dim() != 2 or queue.shape[1] != teacher.shape[-1]:
                shapes = f"queue {tuple(queue.shape)} and teacher {tuple(teacher.shape)}"
                raise KdzooError(f"{self.label}: {shapes} do not fit; a queue is (N, {teacher.shape[-1]})")
            queue = unit(queue.detach().to(teacher.dtype))
        student, teacher = unit(student), unit(teacher)
        losses = self._contrast(student, teacher, slots, queue)
        if self.symmetric:
            losses = losses + self._contrast(teacher, student, slots, None)
        return masked_mean(losses, slots)

    def _contrast(self, anchors: Tensor, keys: Tensor, slots: Tensor | None, queue: Tensor | None) -> Tensor:
        """Losses (B, ...) of unit anchors (B, ..., D) against the unit keys of all rows at the same slot."""
        if processes() > 1 and slots is None:
            # Another process may lack positions that this one has.
            slots = torch.ones(anchors.shape[:-1], dtype=torch.bool, device=anchors.device)
        anchors, (keys, own) = anchors / self.temperature, gather_rows(keys)
        similarity = _by_slot(anchors) @ _by_slot(keys).mT
        if slots is not None:
            valid = _by_slot(gather_rows(slots.to(torch.uint8))[0].unsqueeze(-1)).mT
            similarity = similarity.masked_fill(valid == 0, torch.finfo(similarity.dtype).min / 2)
        if queue is not None:
            similarity = torch.cat([similarity, _by_slot(anchors) @ queue.T], dim=-1)
        losses = similarity.logsumexp(-1) - similarity.diagonal(offset=own, dim1=1, dim2=2)
        return losses.T.reshape(anchors.shape[:-1])


def _by_slot(vectors: Tensor) -> Tensor:
    """(B, ..., D) as (slots, B, D)."""
    return vectors.unsqueeze(1).flatten(1, -2).transpose(0, 1)
