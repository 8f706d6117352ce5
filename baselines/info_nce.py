"""InfoNCE (van den Oord et al. 2018): find your own teacher vector among those of the whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdzoo.distributed import gather_rows, mean_over_processes, processes
from kdzoo.errors import unknown
from kdzoo.kernels.backend import BACKENDS
from kdzoo.kernels.info_nce import info_nce, info_nce_rows
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_positive
from kdzoo.losses.registry import register


@register("info_nce")
class InfoNCE(DistillationLoss):
    """Softmax contrast of each row's student vector against the teacher vectors of all rows.

        1/B · Σ_i -log( exp(cos(W s_i, t_i) / τ) / Σ_j exp(cos(W s_i, t_j) / τ) )

    j runs over the rows of the batch (of all processes) and the ``queue``. Layers and positions are
    contrasted each by itself: a row competes with the other rows at the same layer and position, where those
    are real, and the mean is over all valid ones. One row alone has only its positive, and loss 0.

    All layers and positions are one operator, which streams over the keys and writes the gradient with the value: no
    (B, B) matrix is made. Half precision is read as it is and summed in float32.

    Args:
        temperature: τ, above 0.
        symmetric: add the other side, each teacher vector against the student vectors of all rows.
        student_dim: width of the student's vectors.
        teacher_dim: width of the teacher's. Where the two differ W is learned; where they are equal there is
            none.
        bias: give W a bias.
        variant: ``"paper"``, the only one.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

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
    fused = True
    formula = (
        r"-\frac{1}{B} \sum_i \log \frac{\exp(\cos(W s_i, t_i) / \tau)}"
        r"{\sum_j \exp(\cos(W s_i, t_j) / \tau)}"
    )
    complexity = "O(B·(B + queue)·D) a slot"
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
        backend: str = "auto",
    ) -> None:
        super().__init__(student_dim=student_dim, teacher_dim=teacher_dim, bias=bias, variant=variant)
        check_positive(self.label, temperature=temperature)
        if backend not in BACKENDS:
            raise unknown(f"backend of {self.label}", backend, BACKENDS)
        self.temperature = temperature
        self.symmetric = symmetric
        self.backend = backend

    def compute(  # type: ignore[override]
        self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, queue: Tensor | None = None
    ) -> Tensor:
        student, teacher, slots = self.vectors(student, teacher, mask)
        teacher = teacher.to(student.dtype)
        queue = None if queue is None else queue.to(teacher.dtype)
        options: dict[str, Any] = {"temperature": self.temperature, "backend": self.backend}
        if processes() == 1:
            return info_nce(student, teacher, mask=mask, queue=queue, symmetric=self.symmetric, **options)
        counted = torch.ones_like(student[..., 0], dtype=torch.bool) if slots is None else slots
        # The mean, so that the average over processes, which is taken of the gradients, is the whole batch's.
        count = mean_over_processes(counted.sum())
        if student.dim() > 2:
            # Another process may lack positions that this one has: those are masked there.
            counted = counted[:, 0] if counted.dim() == 3 else counted
            mask = gather_rows(counted.to(torch.uint8))[0]
        everyone, start = gather_rows(teacher)
        opposite = None
        if self.symmetric:
            ours, _ = gather_rows(student.detach())
            losses, sums = info_nce_rows(teacher, ours, mask=mask, start=start, **options)
            opposite = losses, gather_rows(sums)[0]
        return info_nce(
            student,
            everyone,
            mask=mask,
            queue=queue,
            symmetric=self.symmetric,
            start=start,
            opposite=opposite,
            count=count,
            **options,
        )
