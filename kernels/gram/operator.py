"""The call and the operator of `gram`.

Each relation is a function of the rows' N×N products, which a library multiplies. What follows them is done here: the
value, and its gradient at the N×N matrix, which one more product takes to the rows. Nothing is kept for the backward
pass but the gradient, and nothing is larger than N×N or N×D. The angles are the relation that costs; for the others the
Triton kernels save launches, not traffic: N×N is small.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from kdzoo.kernels.backend import PLAIN, Decision, accumulator, choose, plain
from kdzoo.kernels.gram.angle import angle
from kdzoo.kernels.gram.checks import SMOOTHING, checked
from kdzoo.kernels.gram.cka import cka
from kdzoo.kernels.gram.distance import distance
from kdzoo.kernels.gram.reference import gram_reference
from kdzoo.kernels.gram.shared import Result, prepared
from kdzoo.kernels.gram.similarity import MAX_ROWS, pkt, sp
from kdzoo.kernels.operators import Operator, gradient_room, without_autocast

_FUNCTIONS: dict[str, Callable[..., Result]] = {
    "distance": distance,
    "angle": angle,
    "sp": sp,
    "pkt": pkt,
    "pkt_released": partial(pkt, added=SMOOTHING),
    "cka": cka,
}


@without_autocast
def gram(
    student: Tensor,
    teacher: Tensor,
    relation: str,
    *,
    mask: Tensor | None = None,
    own: slice = slice(None),
    backend: str = "auto",
) -> Tensor:
    """One relation of the rows of each slot, student against teacher, summed, with its gradient at the student.

    With h(a, b) = ½ (a - b)² up to a difference of 1 and |a - b| - ½ beyond, and all indices over the rows of a slot
    that the mask counts, the first one over ``own`` only:

    - ``distance``: Σ_ij h(|s_i - s_j| / μ_s, |t_i - t_j| / μ_t), μ the mean distance of two different rows, at least
      1e-6 each;
    - ``angle``: Σ_i Σ_jk h(cos(s_j - s_i, s_k - s_i), cos(t_j - t_i, t_k - t_i)), the cosine being 0 where the vertex
      i coincides with j or k;
    - ``sp``: Σ_ij (ĝ_ij - ĝ'_ij)², the rows of the products S Sᵀ and T Tᵀ divided by their norms;
    - ``pkt``: Σ_ij p_ij log((p_ij + ε) / (q_ij + ε)), p and q the rows of (1 + cos) / 2 of teacher and student divided
      by their sums, ε = 1e-7; ``pkt_released`` adds ε to the norms of the cosines as well;
    - ``cka``: the sum over slots of two rows or more of 1 - ⟨K, K'⟩ / (‖K‖ ‖K'‖), K and K' the products of the
      centred rows; of a slot, the share of its rows that is ``own``.

    A row of infinite length counts as a row of zeros. Rows coincide, for the angles, where they are no further apart
    than what the rounding of their products leaves to see. What lies where the mask is False is never looked at.

    Args:
        student: (slots, N, D_s) or (N, D_s), float32, bfloat16, float16 or float64, of any strides.
        teacher: the same slots and rows in its own width, of the same type; without gradient.
        relation: ``"distance"``, ``"angle"``, ``"sp"``, ``"pkt"``, ``"pkt_released"`` or ``"cka"``.
        mask: (slots, N), 1 or True where a row is real.
        own: which of the rows are this process's own.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        A scalar: float64 for float64 input, float32 for the rest.

    Raises:
        KernelError: for shapes, types or devices that do not go together, or a backend that is not there.

    References:
        Park et al. 2019, Relational Knowledge Distillation, equations 5 to 9. https://arxiv.org/abs/1904.05068
        Tung, Mori 2019, Similarity-Preserving Knowledge Distillation. https://arxiv.org/abs/1907.09682
        Passalis, Tefas 2018, Probabilistic Knowledge Transfer. https://arxiv.org/abs/1803.10837
        Kornblith et al. 2019, Similarity of Neural Network Representations Revisited. https://arxiv.org/abs/1905.00414

    Examples:
        >>> import torch
        >>> from kdzoo.kernels.gram import gram
        >>> student, teacher = torch.randn(8, 37, requires_grad=True), torch.randn(8, 64)
        >>> gram(student, teacher, "angle").backward()
    """
    if _plain(student, relation, backend):
        return gram_reference(student, teacher, relation, mask=mask, own=own)
    student, teacher, real, own = checked(student, teacher, relation, mask, own)
    with_gradient = student.requires_grad and torch.is_grad_enabled()
    return _operator(student, teacher.detach(), real, own.start, own.stop, relation, with_gradient, backend)


def run(
    student: Tensor,
    teacher: Tensor,
    real: Tensor,
    start: int,
    stop: int,
    relation: str,
    with_gradient: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """What the operator does: the value, and its gradient at the student where that is wanted."""
    fused = choose("gram", student, backend, _unfit(student, relation)).triton
    empty = gradient_room(student, False, accumulator(student.dtype))
    if student.shape[0] * student.shape[1] == 0:
        return empty.new_zeros(()), empty.new_zeros(student.shape) if with_gradient else empty
    with torch.cuda.device_of(student):
        ours, theirs = prepared(student, real), prepared(teacher, real)
        value, gradient = _FUNCTIONS[relation](ours, theirs, real, slice(start, stop), with_gradient, fused)
    return value, empty if gradient is None else gradient


_operator = Operator(
    "gram",
    run,
    "Tensor student, Tensor teacher, Tensor real, SymInt start, SymInt stop, str relation, bool with_gradient, "
    "str backend",
    wanted=6,
    kept=accumulator,
)


def decision(tensor: Tensor, relation: str, backend: str = "auto") -> Decision:
    """The backend for a relation of a student (slots, N, D) or (N, D), and why."""
    if _plain(tensor, relation, backend):
        compared = f"{tensor.numel()} elements, under {PLAIN[f'gram_{relation}']} the plain formula was measured faster"
        return Decision("torch", compared)
    return choose("gram", tensor, backend, _unfit(tensor, relation))


def _plain(student: Tensor, relation: str, backend: str) -> bool:
    return plain(f"gram_{relation}", student, backend)


def _unfit(tensor: Tensor, relation: str) -> str | None:
    rows = tensor.shape[-2]
    if relation.startswith(("sp", "pkt")) and rows > MAX_ROWS:
        return f"{rows} rows are more than the {MAX_ROWS} of {relation}"
    return None
