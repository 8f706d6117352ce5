"""How the rows of a batch lie to one another, student against teacher: RKD's distances and angles, SP, PKT and CKA.

Each is a function of the rows' N×N products, which a library multiplies. What follows them is done here: the value, and
its gradient at the N×N matrix, which one more product takes to the rows. Nothing is kept for the backward pass but the
gradient, and nothing is larger than N×N or N×D.

The angles are the one that costs: N³/2 cosines a side, each from the three sides of a triangle of rows. In Triton a
program holds the matrix's tile (x, y) in registers and walks over all third rows z, adding up the value, and what the
triangle's three angles give to the side xy; no two programs write to one place. On a CPU tiles of two rows' indices
against all vertices stay in the cache. For the distances, SP and PKT the Triton kernels save launches, not traffic: N×N
is small. CKA needs three dot products of matrices, which are library calls, and has no kernel of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.kernels.backend import (
    EPSILON,
    PLAIN,
    Decision,
    KernelError,
    accumulator,
    check_kind,
    check_mask,
    choose,
    jit,
    load,
    once,
    plain,
    power_of_2,
    scaled,
    unit,
)

if TYPE_CHECKING:
    import triton.language as tl

RELATIONS = ("distance", "angle", "sp", "pkt", "pkt_released", "cka")
SMALLEST = 1e-6  # the least distance of two different rows
SMOOTHING = 1e-7  # PKT's, in the logarithm, and at the norms in the authors' code
NEAR = 1 / 32  # of two rows' squared sizes: a squared distance below it is not taken from products on a CPU
MAX_ROWS = 8192  # of SP and PKT in Triton: one row of the N×N matrix is held in registers whole
BLOCK = 65536  # elements of a temporary that the CPU keeps in its cache, for each thread


def gram_reference(
    student: Tensor,
    teacher: Tensor,
    relation: str,
    *,
    mask: Tensor | None = None,
    own: slice = slice(None),
) -> Tensor:
    """The formulas as they are written, the (N, N, N) cosines of a slot included; see `gram`."""
    student, teacher, real, own = _checked(student, teacher, relation, mask, own)
    ours, theirs = _prepared(student, real), _prepared(teacher.detach(), real)
    pairs = real.unsqueeze(1) & real.unsqueeze(2)
    if relation == "angle":
        cosines = []
        for side in (ours, theirs):
            steps = unit(side.unsqueeze(1) - side.unsqueeze(2)) * pairs.unsqueeze(-1)
            cosines.append(steps @ steps.mT)
        return F.smooth_l1_loss(cosines[0][:, own], cosines[1][:, own], reduction="sum")
    if relation == "distance":
        different = pairs & ~torch.eye(pairs.shape[-1], dtype=torch.bool, device=pairs.device)
        scales = []
        for side in (ours, theirs):
            apart = torch.cdist(side, side, compute_mode="donot_use_mm_for_euclid_dist").clamp_min(SMALLEST)
            apart = torch.where(different, apart, 0.0)
            scales.append(
                apart / (apart.sum((1, 2), True) / different.sum((1, 2), True).clamp_min(1)).clamp_min(EPSILON)
            )
        return F.smooth_l1_loss(scales[0][:, own], scales[1][:, own], reduction="sum")
    if relation == "sp":
        gap = unit(ours @ ours.mT) - unit(theirs @ theirs.mT)
        return (gap[:, own] ** 2).sum()
    if relation == "cka":
        kernels = [unit((side @ side.mT).flatten(1)) for side in (_centred(ours, real), _centred(theirs, real))]
        return ((1 - (kernels[0] * kernels[1]).sum(1)) * slot_shares(real, own, ours.dtype)).sum()
    chances = []
    for side in (ours, theirs):
        norm = torch.linalg.vector_norm(side, dim=-1, keepdim=True)
        directions = unit(side) if relation == "pkt" else side.masked_fill(norm == 0, 0.0) / (norm + SMOOTHING)
        alike = torch.where(pairs, (directions @ directions.mT + 1) / 2, 0.0)
        summed = alike.sum(-1, keepdim=True)
        chances.append(alike / torch.where(summed == 0, 1.0, summed))
    losses = chances[1] * ((chances[1] + SMOOTHING) / (chances[0] + SMOOTHING)).log()
    return losses[:, own].sum()


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
    student, teacher, real, own = _checked(student, teacher, relation, mask, own)
    with_gradient = student.requires_grad and torch.is_grad_enabled()
    value: Tensor
    value, _ = torch.ops.kdzoo.gram(
        student, teacher.detach(), real, own.start, own.stop, relation, with_gradient, backend
    )
    return value


def _checked(
    student: Tensor, teacher: Tensor, relation: str, mask: Tensor | None, own: slice
) -> tuple[Tensor, Tensor, Tensor, slice]:
    """The sides with their axis of slots, the mask as booleans, and the own rows."""
    check_kind("gram", student=student, teacher=teacher)
    if relation not in RELATIONS:
        raise KernelError(f"gram: relation {relation!r} is not known; it is one of {', '.join(RELATIONS)}")
    if student.shape[:-1] != teacher.shape[:-1] or student.dim() not in (2, 3):
        raise KernelError(
            f"gram: student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must agree in all but the last "
            "axis, as (N, D) or (slots, N, D)"
        )
    real = check_mask("gram", mask, student)
    if student.dim() == 2:
        student, teacher = student.unsqueeze(0), teacher.unsqueeze(0)
    if real is None:
        real = torch.ones(student.shape[:-1], dtype=torch.bool, device=student.device)
    rows = student.shape[1]
    start, stop = own.start or 0, rows if own.stop is None else own.stop
    if not 0 <= start <= stop <= rows or own.step not in (None, 1):
        raise KernelError(f"gram: own is {own}; of {rows} rows it is a slice from 0 to {rows} without a step")
    return student, teacher, real, slice(start, stop)


# The operator


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
    dtype, shape = accumulator(student.dtype), student.shape if with_gradient else (0, *student.shape[1:])
    if student.shape[0] * student.shape[1] == 0:
        return student.new_zeros((), dtype=dtype), student.new_zeros(shape, dtype=dtype)
    with torch.cuda.device_of(student):
        ours, theirs = _prepared(student, real), _prepared(teacher, real)
        value, gradient = _FUNCTIONS[relation](ours, theirs, real, slice(start, stop), with_gradient, fused)
    return value, ours.new_empty(shape) if gradient is None else gradient


_operator = torch.library.custom_op(
    "kdzoo::gram",
    run,
    mutates_args=(),
    schema="(Tensor student, Tensor teacher, Tensor real, SymInt start, SymInt stop, str relation, bool with_gradient, "
    "str backend) -> (Tensor, Tensor)",
)


@_operator.register_fake
def _(student: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    dtype, shape = accumulator(student.dtype), student.shape if rest[-2] else (0, *student.shape[1:])
    return student.new_empty((), dtype=dtype), torch.empty(shape, dtype=dtype, device=student.device)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(inputs[0], output[1])


def _backward(ctx: Any, upstream: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if upstream is None:
        return (None,) * 8
    student, gradient = ctx.saved_tensors
    return (once("gram", scaled(gradient, upstream).to(student.dtype), student), *(None,) * 7)


_operator.register_autograd(_backward, setup_context=_setup)


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


# What the relations share


Result = tuple[Tensor, "Tensor | None"]


def _prepared(vectors: Tensor, real: Tensor) -> Tensor:
    """In the type of sums; zeros where a row is not real, or of infinite length."""
    vectors = vectors.to(accumulator(vectors.dtype))
    none = ~real | (torch.linalg.vector_norm(vectors.detach(), dim=-1) == torch.inf)
    return vectors.masked_fill(none.unsqueeze(-1), 0.0)


def _both(real: Tensor) -> Tensor:
    """(slots, N, N) bool: both rows are real."""
    return real.unsqueeze(1) & real.unsqueeze(2)


def _moved(vectors: Tensor, real: Tensor) -> Tensor:
    """The rows less their mean: their products have smaller rounding errors, and their differences are the same."""
    return vectors - vectors.sum(1, keepdim=True) / real.sum(1).clamp_min(1)[:, None, None]


def _squares(moved: Tensor) -> tuple[Tensor, Tensor]:
    """The squared distance of each two rows, from their products, and the squared lengths (slots, N)."""
    products = moved @ moved.mT
    squares = products.diagonal(dim1=1, dim2=2)
    return torch.add(squares.unsqueeze(1) + squares.unsqueeze(2), products, alpha=-2), squares


def _refine(apart: Tensor, squares: Tensor, moved: Tensor, none: Tensor) -> None:
    """In place, take close rows' squared distances, in which the products cancel out, from their differences."""
    near = apart <= NEAR * (squares.unsqueeze(1) + squares.unsqueeze(2))
    # As many at once as the cache holds.
    for part in near.masked_fill_(none, False).triu_(1).nonzero().split(max(1, BLOCK // max(1, moved.shape[-1]))):
        slot, i, j = part.unbind(1)
        apart[slot, i, j] = apart[slot, j, i] = (moved[slot, i] - moved[slot, j]).square_().sum(-1)


def squared_distances(vectors: Tensor, real: Tensor, exact: bool = False) -> tuple[Tensor, Tensor]:
    """Rows (slots, N, D) less their mean, and their squared distances (slots, N, N).

    A distance is 0 where a row is not real, and where two rows coincide: are no further apart than what the rounding of
    the rows, or of their products, leaves to see, which would be noise with a huge gradient at the angles.

    Args:
        vectors: (slots, N, D), zero where not real.
        real: (slots, N) bool.
        exact: on a CPU, compute the distances of close rows again, from their differences; neither autograd nor a
            compiler passes through this.
    """
    moved = _moved(vectors, real)
    apart, squares = _squares(moved)
    none, eps = ~_both(real), torch.finfo(apart.dtype).eps
    blurred = (4 * eps) ** 2 * vectors.square().sum(-1)
    if exact and vectors.device.type == "cpu":
        _refine(apart, squares, moved, none)
    else:
        blurred = blurred + 64 * eps * squares
    # Not the opposite comparison: a NaN is seen, and stays.
    unseen = apart <= blurred.unsqueeze(1) + blurred.unsqueeze(2)
    return moved, apart.masked_fill(unseen | none, 0.0)


def _weighed(vectors: Tensor, weights: Tensor) -> Tensor:
    """Σ_j w_ij (x_i - x_j) for symmetric weights (slots, N, N)."""
    return torch.baddbmm(vectors * weights.sum(-1, keepdim=True), weights, vectors, alpha=-1)


def _symmetric(matrix: Tensor) -> Tensor:
    return matrix + matrix.mT


def _others_zeroed(matrix: Tensor, own: slice) -> Tensor:
    """In place, zeros in the rows (second axis) that are not own."""
    matrix[:, : own.start] = 0
    matrix[:, own.stop :] = 0
    return matrix


def _lengths_and_inverses(vectors: Tensor, added: float = 0.0) -> tuple[Tensor, Tensor]:
    """The norms on the last axis, and 1 / (norm + added); 0 for a norm of 0."""
    norm = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return norm, (norm + added).clamp_min_(EPSILON).reciprocal_().masked_fill_(norm == 0, 0.0)


# Angles


def _angle(ours: Tensor, theirs: Tensor, real: Tensor, own: slice, with_gradient: bool, fused: bool) -> Result:
    moved, own_squares = squared_distances(ours, real, exact=True)
    sides = own_squares, squared_distances(theirs, real, exact=True)[1]
    total, slope = (_triton_angle if fused else _torch_angle)(*sides, own, with_gradient)
    return total, None if slope is None else _weighed(moved, slope).mul_(2)


def _torch_angle(ours: Tensor, theirs: Tensor, own: slice, with_gradient: bool) -> Result:
    """The sum over all triangles, and its derivative by each squared distance, which is 0 where rows coincide.

    The cosine at the vertex i is (d_ij² + d_ik² - d_jk²) / (2 d_ij d_ik). From tiles (j, k) × all vertices.
    """
    slots, rows = ours.shape[:2]
    vertices = own.stop - own.start
    total = ours.new_zeros(())
    if vertices == 0:
        return total, torch.zeros_like(ours) if with_gradient else None
    halves, tables = [], []
    for side in (ours, theirs):
        half, inverse = side / 2, side.rsqrt().masked_fill_(side == 0, 0.0)[..., own].contiguous()
        halves.append(half.unsqueeze(-1))
        tables.append((inverse, inverse * half[..., own]))
    size = BLOCK * torch.get_num_threads() if ours.device.type == "cpu" else 2**24
    tall = max(1, min(rows, math.isqrt(size // vertices)))
    deep = max(1, min(slots, size // (tall * tall * vertices)))
    room = torch.empty((3, deep * tall * tall * vertices), dtype=ours.dtype, device=ours.device)
    along, turned = (torch.zeros_like(tables[0][0]) for _ in range(2))
    across = torch.empty_like(ours)
    for slot in range(0, slots, deep):
        at = slice(slot, slot + deep)
        for one in range(0, rows, tall):
            j = slice(one, one + tall)
            from_j = [(inverse[at, j, None], distance[at, j, None]) for inverse, distance in tables]
            for two in range(one, rows, tall):
                k = slice(two, two + tall)
                tile = (min(deep, slots - slot), min(tall, rows - one), min(tall, rows - two), vertices)
                flat = room[:, : math.prod(tile)]
                cosine, gap, slope = flat.view(3, *tile)
                from_k = [(inverse[at, None, k], distance[at, None, k]) for inverse, distance in tables]
                for out, half, (j_inverse, j_distance), (k_inverse, k_distance) in zip(
                    (cosine, gap), halves, from_j, from_k, strict=True
                ):
                    torch.addcmul(j_distance, half[at, j, k], j_inverse, value=-1, out=out)
                    out.mul_(k_inverse).addcmul_(j_inverse, k_distance)
                torch.clamp(torch.sub(cosine, gap, out=gap), -1, 1, out=slope)
                # h = slope · gap - ½ slope²; every tile off the diagonal stands for its mirror image.
                times = 1 if one == two else 2
                total.add_(flat[1] @ flat[2], alpha=times).sub_(flat[2] @ flat[2], alpha=times / 2)
                if not with_gradient:
                    continue
                (j_inverse, _), (k_inverse, _) = from_j[0], from_k[0]
                turn = cosine.mul_(slope)
                turned[at, j] += turn.sum(2)
                pull = torch.mul(slope, k_inverse, out=gap)
                along[at, j] += pull.sum(2)
                opposite = pull.mul_(j_inverse).sum(-1)
                across[at, j, k] = opposite
                if one != two:
                    across[at, k, j] = opposite.mT
                    turned[at, k] += turn.sum(1)
                    along[at, k] += torch.mul(slope, j_inverse, out=gap).sum(1)
    if not with_gradient:
        return total, None
    beside = torch.zeros_like(ours)
    inverse = tables[0][0]
    beside[..., own] = along.addcmul_(turned, inverse, value=-1).mul_(inverse)
    return total, _symmetric(beside).sub_(across).masked_fill_(ours == 0, 0.0)


# Distances


def _distance(ours: Tensor, theirs: Tensor, real: Tensor, own: slice, with_gradient: bool, fused: bool) -> Result:
    moved = _moved(ours, real)
    lengths = _triton_lengths if fused else _torch_lengths
    one, two = lengths(moved, real), lengths(_moved(theirs, real), real)
    count = real.sum(1).to(one.dtype)
    count = (count * (count - 1)).clamp_min_(1)[:, None, None]
    means = [(side.sum((1, 2), keepdim=True) / count).masked_fill_(count == 1, 1.0) for side in (one, two)]
    total, weights = (_triton_distance if fused else _torch_distance)(
        one, two, means[0], means[1], count, own, with_gradient
    )
    return total, None if weights is None else _weighed(moved, weights)


def _torch_lengths(vectors: Tensor, real: Tensor) -> Tensor:
    """Distances (slots, N, N); 0 on the diagonal and where a row is not real, else at least 1e-6."""
    none = ~_both(real)
    none.diagonal(dim1=1, dim2=2).fill_(True)
    if vectors.device.type != "cpu":
        apart = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    else:
        apart, squares = _squares(vectors)
        _refine(apart, squares, vectors, none)
        apart = apart.sqrt_()
    return apart.clamp_min_(SMALLEST).masked_fill_(none, 0.0)


def _torch_distance(
    ours: Tensor, theirs: Tensor, our_mean: Tensor, their_mean: Tensor, count: Tensor, own: slice, with_gradient: bool
) -> Result:
    """The sum over all pairs, and the weight of x_i - x_j in its gradient at x_i."""
    scaled_ours = ours / our_mean
    gap = torch.addcdiv(scaled_ours, theirs, their_mean, value=-1)
    slope = _others_zeroed(gap.clamp(-1, 1), own)
    total = slope.flatten() @ gap.flatten() - slope.flatten() @ slope.flatten() / 2
    if not with_gradient:
        return total, None
    # Every distance moves the mean.
    moved = scaled_ours.mul_(slope).sum((1, 2), keepdim=True) / count
    weights = _symmetric(slope).sub_(2 * moved).div_(our_mean).div_(ours)
    return total, weights.masked_fill_(ours <= SMALLEST, 0.0)


# Row by row: SP and PKT


def _sp(ours: Tensor, theirs: Tensor, real: Tensor, own: slice, with_gradient: bool, fused: bool) -> Result:
    one, two = ours @ ours.mT, theirs @ theirs.mT
    total, slope = (_triton_rows if fused else _torch_sp)(one, two, real, own, with_gradient)
    return total, None if slope is None else _symmetric(slope) @ ours


def _torch_sp(ours: Tensor, theirs: Tensor, _: Tensor, own: slice, with_gradient: bool) -> Result:
    norm, inverse = _lengths_and_inverses(ours)
    rows = ours * inverse
    gap = _others_zeroed(torch.addcmul(rows, theirs, _lengths_and_inverses(theirs)[1], value=-1), own)
    total = gap.flatten() @ gap.flatten()
    if not with_gradient:
        return total, None
    # A norm below the clamp is a constant, and bends nothing.
    bend = (gap * rows).sum(-1, keepdim=True).mul_(norm > EPSILON)
    return total, gap.addcmul_(rows, bend, value=-1).mul_(2 * inverse)


def _pkt(
    ours: Tensor, theirs: Tensor, real: Tensor, own: slice, with_gradient: bool, fused: bool, added: float = 0.0
) -> Result:
    norm, inverse = _lengths_and_inverses(ours, added)
    directions, others = ours * inverse, theirs * _lengths_and_inverses(theirs, added)[1]
    products = directions @ directions.mT, others @ others.mT
    total, slope = (_triton_rows if fused else _torch_pkt)(*products, real, own, with_gradient, True)
    if slope is None:
        return total, None
    gradient = _symmetric(slope) @ directions
    # u = v / (n + added); a norm below the clamp is a constant.
    bend = (gradient * directions).sum(-1, keepdim=True) / norm.masked_fill(norm == 0, 1.0) * (norm > EPSILON)
    return total, gradient.mul_(inverse).addcmul_(ours, bend * inverse, value=-1)


def _torch_pkt(ours: Tensor, theirs: Tensor, real: Tensor, own: slice, with_gradient: bool, _: bool) -> Result:
    others, chances, sums = ~_both(real), [], []
    for side in (ours, theirs):
        alike = side.add_(1).div_(2).masked_fill_(others, 0.0)
        summed = alike.sum(-1, keepdim=True)
        sums.append(summed.masked_fill_(summed == 0, 1.0))
        chances.append(alike.div_(summed))
    q, p = chances
    # Both sum to one, so that their difference adds 0; with it, and log1p, no digits are lost where they are close.
    apart = p - q
    smooth = q + SMOOTHING
    losses = (apart / (p + SMOOTHING)).neg_().log1p_().mul_(p).add_(apart)
    total = -losses[:, own].sum()
    if not with_gradient:
        return total, None
    slope = _others_zeroed(apart.sub_(SMOOTHING).div_(smooth), own)
    slope = torch.sub((slope * q).sum(-1, keepdim=True), slope).div_(2 * sums[0])
    return total, slope.masked_fill_(others, 0.0)


# CKA


def _cka(ours: Tensor, theirs: Tensor, real: Tensor, own: slice, with_gradient: bool, _: bool) -> Result:
    moved, others = _centred(ours, real), _centred(theirs, real)
    one, two = ((side @ side.mT).flatten(1) for side in (moved, others))
    (norm, inverse), (their_norm, their_inverse) = _lengths_and_inverses(one), _lengths_and_inverses(two)
    aligned = (one * two).sum(1, keepdim=True) * inverse * their_inverse
    one.mul_(inverse)
    gap = torch.addcmul(one, two, their_inverse, value=-1)
    # 1 - a·b is ½|a - b|² for a and b of length 1, which keeps its digits where they are alike.
    value = gap.square().sum(1, keepdim=True) / 2
    value = torch.where((norm > EPSILON) & (their_norm > EPSILON), value, 1 - aligned)
    shares = slot_shares(real, own, one.dtype).unsqueeze(1)
    total = (value * shares).sum()
    if not with_gradient:
        return total, None
    slope = gap.addcmul_(one, torch.where(norm > EPSILON, value, 1.0), value=-1).mul_(2 * shares * inverse)
    # The mean of the rows moves with them; centred products leave nothing of it, as their rows sum to zero.
    return total, slope.view(len(real), real.shape[1], -1) @ moved


def _centred(vectors: Tensor, real: Tensor) -> Tensor:
    """The rows less their mean, zero where not real; rows that are all equal are exactly zero."""
    if real.shape[1] == 0:
        return vectors
    counted = real.unsqueeze(-1)
    first = real.int().argmax(1)[:, None, None].expand(-1, 1, vectors.shape[-1])
    return _moved((vectors - vectors.gather(1, first)) * counted, real) * counted


def slot_shares(real: Tensor, own: slice, dtype: torch.dtype) -> Tensor:
    """The share of each slot's rows that is own; 0 for a slot of less than two rows."""
    rows = real.sum(1)
    return torch.where(rows > 1, real[:, own].sum(1).to(dtype) / rows.clamp_min(1), 0.0)


_FUNCTIONS: dict[str, Callable[..., Result]] = {
    "distance": _distance,
    "angle": _angle,
    "sp": _sp,
    "pkt": _pkt,
    "pkt_released": partial(_pkt, added=SMOOTHING),
    "cka": _cka,
}


# With Triton


def _triton_angle(ours: Tensor, theirs: Tensor, own: slice, with_gradient: bool) -> Result:
    """As `_torch_angle`; a program has a tile of one triangle of the matrix, and its mirror image."""
    load(globals())
    slots, rows = ours.shape[:2]
    side = 16 if rows <= 1024 else 32  # small tiles are more programs, and fill the device sooner
    across = -(-rows // side)
    values = ours.new_empty((slots, across, across))
    slope = torch.empty_like(ours) if with_gradient else None
    _triangles[(across, across, slots)](
        ours,
        theirs,
        values,
        slope,
        rows,
        own.start,
        own.stop,
        WITH_GRADIENT=with_gradient,
        SIDE=side,
        num_warps=side // 8,
    )
    return values.sum(), slope


def _triton_lengths(vectors: Tensor, real: Tensor) -> Tensor:
    """As `_torch_lengths`, from the differences of the rows."""
    load(globals())
    slots, rows, width = vectors.shape
    side = 16
    across = -(-rows // side)
    lengths = vectors.new_empty((slots, rows, rows))
    _lengths[(across, across, slots)](
        vectors.contiguous(),
        real.contiguous().view(torch.uint8),
        lengths,
        rows,
        width,
        SMALLEST=SMALLEST,
        SIDE=side,
        DEEP=16,
        num_warps=4,
    )
    return lengths


def _triton_distance(
    ours: Tensor,
    theirs: Tensor,
    our_mean: Tensor,
    their_mean: Tensor,
    count: Tensor,
    own: slice,
    with_gradient: bool,
) -> Result:
    """As `_torch_distance`; a program has one row of the matrix."""
    load(globals())
    slots, rows = ours.shape[:2]
    block = min(1024, power_of_2(rows))
    warps = max(1, block // 256)
    means = torch.cat([our_mean, their_mean], dim=1)
    sums = ours.new_empty((2, slots, rows))
    _pairs[(rows, slots)](
        ours, theirs, means, sums[0], sums[1], rows, own.start, own.stop, BLOCK=block, num_warps=warps
    )
    if not with_gradient:
        return sums[0].sum(), None
    moved = sums[1].sum(1) / count.flatten()
    weights = torch.empty_like(ours)
    _pair_weights[(rows, slots)](
        ours, theirs, means, moved, weights, rows, own.start, own.stop, SMALLEST=SMALLEST, BLOCK=block, num_warps=warps
    )
    return sums[0].sum(), weights


def _triton_rows(
    ours: Tensor, theirs: Tensor, real: Tensor, own: slice, with_gradient: bool, neighbours: bool = False
) -> Result:
    """As `_torch_sp` and, for ``neighbours``, `_torch_pkt`; a program has one row of the matrix."""
    load(globals())
    slots, rows = ours.shape[:2]
    wide = power_of_2(rows)
    values = ours.new_empty((slots, rows))
    slope = torch.empty_like(ours) if with_gradient else None
    _rows[(rows, slots)](
        ours.contiguous(),
        theirs.contiguous(),
        real.contiguous().view(torch.uint8),
        values,
        slope,
        rows,
        own.start,
        own.stop,
        EPSILON=EPSILON,
        SMOOTHING=SMOOTHING,
        NEIGHBOURS=neighbours,
        WITH_GRADIENT=with_gradient,
        WIDE=wide,
        num_warps=min(16, max(1, wide // 512)),
    )
    return values.sum(), slope


@jit
def _edge(squares, index, inside):  # type: ignore[no-untyped-def]
    """Of squared distances: half of them, the reciprocals of the distances, half the distances; all 0 where 0."""
    square = tl.load(squares + index, mask=inside, other=0.0)
    inverse = tl.where(square == 0, 0.0, tl.rsqrt(square))
    return 0.5 * square, inverse, 0.5 * square * inverse


@jit
def _clipped(gap):  # type: ignore[no-untyped-def]
    """Between -1 and 1; a NaN stays."""
    return tl.where(gap > 1, 1.0, tl.where(gap < -1, -1.0, gap))


@jit
def _smooth(gap):  # type: ignore[no-untyped-def]
    slope = _clipped(gap)
    return slope * (gap - 0.5 * slope)


@jit
def _triangles(  # type: ignore[no-untyped-def]
    ours,
    theirs,
    values,
    slopes,
    rows,
    start,
    stop,
    WITH_GRADIENT: tl.constexpr,
    SIDE: tl.constexpr,
):
    """Value and slope of the pairs (x, y) of a tile, over the third rows z of their triangles."""
    across, down, slot = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    at = (slot * tl.num_programs(1) + down) * tl.num_programs(0) + across
    if across < down:
        tl.store(values + at, 0.0)
        return
    ours += slot.to(tl.int64) * rows * rows
    theirs += slot.to(tl.int64) * rows * rows
    x = down * SIDE + tl.arange(0, SIDE)
    y = across * SIDE + tl.arange(0, SIDE)
    in_x, in_y = x < rows, y < rows
    inside = in_x[:, None] & in_y[None, :]
    index = x.to(tl.int64)[:, None] * rows + y[None, :]
    half, inverse, length = _edge(ours, index, inside)
    other_half, other_inverse, other_length = _edge(theirs, index, inside)
    own_x = ((x >= start) & (x < stop)).to(tl.float32)[:, None]
    own_y = ((y >= start) & (y < stop)).to(tl.float32)[None, :]
    value = tl.zeros((SIDE, SIDE), tl.float32)
    slope = tl.zeros((SIDE, SIDE), tl.float32)
    line, other_line = ours, theirs
    for z in range(rows):
        x_half, x_inverse, x_length = _edge(line, x, in_x)
        y_half, y_inverse, y_length = _edge(line, y, in_y)
        x_half, x_inverse, x_length = x_half[:, None], x_inverse[:, None], x_length[:, None]
        y_half, y_inverse, y_length = y_half[None, :], y_inverse[None, :], y_length[None, :]
        s_half, s_inverse, s_length = _edge(other_line, x, in_x)
        t_half, t_inverse, t_length = _edge(other_line, y, in_y)
        s_half, s_inverse, s_length = s_half[:, None], s_inverse[:, None], s_length[:, None]
        t_half, t_inverse, t_length = t_half[None, :], t_inverse[None, :], t_length[None, :]
        line += rows
        other_line += rows
        # The angle at z: (xz² + yz² - xy²) / (2 xz yz).
        cosine = x_length * y_inverse + x_inverse * (y_length - half * y_inverse)
        target = s_length * t_inverse + s_inverse * (t_length - other_half * t_inverse)
        gap = cosine - target
        own_z = tl.where((z >= start) & (z < stop), 1.0, 0.0)
        clipped = _clipped(gap)
        value += own_z * clipped * (gap - 0.5 * clipped)
        if WITH_GRADIENT:
            slope -= own_z * clipped * x_inverse * y_inverse
            # The angles at x and at y, of which xy is a side.
            cosine = length * x_inverse + inverse * (x_length - y_half * x_inverse)
            target = other_length * s_inverse + other_inverse * (s_length - t_half * s_inverse)
            turn = own_x * _clipped(cosine - target) * (x_inverse - cosine * inverse)
            cosine = length * y_inverse + inverse * (y_length - x_half * y_inverse)
            target = other_length * t_inverse + other_inverse * (t_length - s_half * t_inverse)
            turn += own_y * _clipped(cosine - target) * (y_inverse - cosine * inverse)
            slope += turn * inverse
    total = tl.sum(tl.sum(value, 1), 0)
    tl.store(values + at, tl.where(across == down, total, 2 * total))
    if WITH_GRADIENT:
        slope = tl.where(half == 0, 0.0, slope)
        slopes += slot.to(tl.int64) * rows * rows
        tl.store(slopes + index, slope, mask=inside)
        if across > down:
            tl.store(slopes + y.to(tl.int64)[None, :] * rows + x[:, None], slope, mask=inside)


@jit
def _lengths(  # type: ignore[no-untyped-def]
    vectors, real, lengths, rows, width, SMALLEST: tl.constexpr, SIDE: tl.constexpr, DEEP: tl.constexpr
):
    """The distances of a tile of pairs and of its mirror image."""
    across, down, slot = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    if across < down:
        return
    x = down * SIDE + tl.arange(0, SIDE)
    y = across * SIDE + tl.arange(0, SIDE)
    in_x, in_y = x < rows, y < rows
    vectors += slot * rows * width
    x_at, y_at = vectors + x.to(tl.int64) * width, vectors + y.to(tl.int64) * width
    square = tl.zeros((SIDE, SIDE), tl.float32)
    for first in range(0, width, DEEP):
        column = first + tl.arange(0, DEEP)
        seen = column < width
        one = tl.load(x_at[:, None] + column[None, :], mask=in_x[:, None] & seen[None, :], other=0.0)
        two = tl.load(y_at[:, None] + column[None, :], mask=in_y[:, None] & seen[None, :], other=0.0)
        step = one[:, None, :] - two[None, :, :]
        square += tl.sum(step * step, 2)
    x_real = tl.load(real + slot * rows + x, mask=in_x, other=0) != 0
    y_real = tl.load(real + slot * rows + y, mask=in_y, other=0) != 0
    length = tl.sqrt(square)
    length = tl.where(length < SMALLEST, SMALLEST, length)
    length = tl.where(x_real[:, None] & y_real[None, :] & (x[:, None] != y[None, :]), length, 0.0)
    lengths += slot * rows * rows
    inside = in_x[:, None] & in_y[None, :]
    tl.store(lengths + x.to(tl.int64)[:, None] * rows + y[None, :], length, mask=inside)
    if across > down:
        tl.store(lengths + y.to(tl.int64)[None, :] * rows + x[:, None], length, mask=inside)


@jit
def _gaps(ours, theirs, means, slot, index, inside):  # type: ignore[no-untyped-def]
    """Our distances, and the differences of both sides' in units of their means."""
    length = tl.load(ours + index, mask=inside, other=0.0)
    other = tl.load(theirs + index, mask=inside, other=0.0)
    return length, length / tl.load(means + 2 * slot) - other / tl.load(means + 2 * slot + 1)


@jit
def _pairs(ours, theirs, means, values, moved, rows, start, stop, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """A row's value, and its part in the derivative by the logarithm of the mean."""
    row, slot = tl.program_id(0), tl.program_id(1).to(tl.int64)
    value = tl.zeros((BLOCK,), tl.float32)
    move = tl.zeros((BLOCK,), tl.float32)
    if (row >= start) & (row < stop):
        for first in range(0, rows, BLOCK):
            column = first + tl.arange(0, BLOCK)
            index = (slot * rows + row) * rows + column
            length, gap = _gaps(ours, theirs, means, slot, index, column < rows)
            value += _smooth(gap)
            move += _clipped(gap) * length
    tl.store(values + slot * rows + row, tl.sum(value, 0))
    tl.store(moved + slot * rows + row, tl.sum(move, 0) / tl.load(means + 2 * slot))


@jit
def _pair_weights(  # type: ignore[no-untyped-def]
    ours, theirs, means, moved, weights, rows, start, stop, SMALLEST: tl.constexpr, BLOCK: tl.constexpr
):
    """A row of the weights that the differences of the rows have in the gradient."""
    row, slot = tl.program_id(0), tl.program_id(1).to(tl.int64)
    mean, move = tl.load(means + 2 * slot), tl.load(moved + slot)
    own = ((row >= start) & (row < stop)).to(tl.float32)
    for first in range(0, rows, BLOCK):
        column = first + tl.arange(0, BLOCK)
        index = (slot * rows + row) * rows + column
        length, gap = _gaps(ours, theirs, means, slot, index, column < rows)
        both = own + ((column >= start) & (column < stop)).to(tl.float32)
        weight = (both * _clipped(gap) - 2 * move) / (mean * tl.where(length == 0, 1.0, length))
        tl.store(weights + index, tl.where(length <= SMALLEST, 0.0, weight), mask=column < rows)


@jit
def _log_ratio(first, second, apart):  # type: ignore[no-untyped-def]
    """log(first / second) of positive numbers that are ``apart`` from one another, in full where they are close."""
    close = apart / (first + second)
    square = close * close
    near = 2 * close * (1 + square * (1 / 3 + square * (1 / 5 + square * (1 / 7 + square * (1 / 9)))))
    return tl.where(square < 0.015, near, tl.log(first / second))


@jit
def _rows(  # type: ignore[no-untyped-def]
    ours,
    theirs,
    real,
    values,
    slopes,
    rows,
    start,
    stop,
    EPSILON: tl.constexpr,
    SMOOTHING: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
    WIDE: tl.constexpr,
):
    """A row of the matrices: normalised, compared, and the derivative by each entry of the student's."""
    row, slot = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, WIDE)
    inside = column < rows
    index = (slot * rows + row) * rows + column
    if (row < start) | (row >= stop):
        tl.store(values + slot * rows + row, 0.0)
        if WITH_GRADIENT:
            tl.store(slopes + index, tl.zeros((WIDE,), tl.float32), mask=inside)
        return
    one = tl.load(ours + index, mask=inside, other=0.0)
    two = tl.load(theirs + index, mask=inside, other=0.0)
    if NEIGHBOURS:
        counted = tl.load(real + slot * rows + column, mask=inside, other=0) != 0
        counted = counted & (tl.load(real + slot * rows + row) != 0)
        one = tl.where(counted, 0.5 * one + 0.5, 0.0)
        two = tl.where(counted, 0.5 * two + 0.5, 0.0)
        summed, other = tl.sum(one, 0), tl.sum(two, 0)
        summed = tl.where(summed == 0, 1.0, summed)
        one = one / summed
        two = two / tl.where(other == 0, 1.0, other)
        # Both sum to one, so that their difference adds 0; with it no digits are lost where they are close.
        apart = two - one
        value = tl.sum(two * _log_ratio(two + SMOOTHING, one + SMOOTHING, apart) - apart, 0)
        slope = (apart - SMOOTHING) / (one + SMOOTHING)
        slope = tl.where(counted, (tl.sum(slope * one, 0) - slope) / (2 * summed), 0.0)
    else:
        norm, other = tl.sqrt(tl.sum(one * one, 0)), tl.sqrt(tl.sum(two * two, 0))
        inverse = tl.where(norm == 0, 0.0, 1 / tl.where(norm < EPSILON, EPSILON, norm))
        one = one * inverse
        two = two * tl.where(other == 0, 0.0, 1 / tl.where(other < EPSILON, EPSILON, other))
        gap = one - two
        value = tl.sum(gap * gap, 0)
        # A norm below the clamp is a constant, and bends nothing.
        bend = tl.where(norm > EPSILON, tl.sum(gap * one, 0), 0.0)
        slope = 2 * inverse * (gap - bend * one)
    tl.store(values + slot * rows + row, value)
    if WITH_GRADIENT:
        tl.store(slopes + index, slope, mask=inside)
