"""Attention scores and relations of student and teacher compared from their factors, tile by tile.

A side's scores are X Yᵀ / √d: of queries and keys (attention), or of X with itself (the relations of MiniLM). They are
compared as they are (mean squared difference), or after a softmax over the keys (divergence, cross-entropy). No
scores of size S×S are kept: the softmax's sums are gathered on the way (m, Σ e^(s - m)), and the gradient at X and at
Y is summed up in further sweeps, which make the scores anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from kdzoo.kernels import backend
from kdzoo.kernels.backend import (
    EPSILON,
    PLAIN,
    Decision,
    KernelError,
    accumulator,
    check_kind,
    choose,
    jit,
    load,
    once,
    plain,
    power_of_2,
    scaled,
)

if TYPE_CHECKING:
    import triton.language as tl

Pair: TypeAlias = tuple[Tensor, Tensor]
Factors: TypeAlias = Tensor | Pair
Masks: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None]

KINDS = ("mse", "kl", "ce")
WHOLE = 128  # columns up to which rows of half precision are held in registers whole
BLOCK = 65536  # scores of a block that the CPU keeps in its cache, for each thread
DEVICE_BLOCK = 1 << 25  # scores of a block on other devices


def relation_reference(
    student: Factors,
    teacher: Factors,
    *,
    mask: Tensor | None = None,
    kind: str = "kl",
    padded_queries: bool = False,
    floor: float | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """The formula on whole (B, ..., S, S) scores; see `relation`."""
    (x_s, y_s), (x_t, y_t) = _pair(student), _pair(teacher)
    pairs = mask
    if mask is not None and mask.dim() == 2:
        pairs = (mask != 0).unsqueeze(1) & ((mask != 0).unsqueeze(2) | padded_queries)
    padding = []
    if pairs is not None:
        pairs = pairs.view(len(pairs), *[1] * (x_s.dim() - 3), *pairs.shape[1:]) != 0
        padding = [~pairs.any(axis).unsqueeze(-1) for axis in (-1, -2)]

    def scores(x: Tensor, y: Tensor) -> Tensor:
        if padding:
            x, y = x.masked_fill(padding[0], 0.0), y.masked_fill(padding[1], 0.0)
        return (x.to(accumulator(x.dtype)) / math.sqrt(max(x.shape[-1], 1))) @ y.to(accumulator(y.dtype)).mT

    ours = scores(x_s, y_s)
    with torch.no_grad():
        theirs = scores(_finite(x_t), _finite(y_t))
    if kind == "mse":
        if floor is not None:
            ours, theirs = ours.masked_fill(ours <= floor, 0.0), theirs.masked_fill(theirs <= floor, 0.0)
        values = (ours - theirs) ** 2
    else:
        if pairs is not None:
            hidden, low = ~pairs, torch.finfo(ours.dtype).min / 2
            ours, theirs = ours.masked_fill(hidden, low), theirs.masked_fill(hidden, low)
        ours, theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
        values = (theirs.exp() * (theirs - ours if kind == "kl" else -ours)).sum(-1)
        pairs = None if pairs is None else pairs.any(-1)
    if pairs is not None:
        values = torch.where(pairs, values, 0.0)
    if count is not None:
        return values.sum() / count.detach().to(values.dtype).clamp_min(EPSILON)
    return values.sum() / (max(values.numel(), 1) if pairs is None else pairs.expand_as(values).sum().clamp_min(1))


def relation(
    student: Factors,
    teacher: Factors,
    *,
    mask: Tensor | None = None,
    kind: str = "kl",
    padded_queries: bool = False,
    floor: float | None = None,
    count: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """The difference of two sides' relations X Yᵀ / √d, with its gradient at the student's X and Y.

        mse:  1/(A·P) · Σ_a Σ_qk (s_aqk - t_aqk)²
        kl:   1/(A·N) · Σ_aq KL(softmax t_aq ‖ softmax s_aq)
        ce:  -1/(A·N) · Σ_aqk softmax(t_aq)_k · log softmax(s_aq)_k

    over the A heads and the P (query, key) pairs that count, or the N queries with such a pair; a softmax is over the
    keys that count. An infinite entry of the teacher's is taken for 0. What lies at a query or key that is in no pair
    that counts is never looked at.

    Args:
        student: the factors (X, Y), such as queries and keys; or X alone for X Xᵀ. Float32, bfloat16, float16 or
            float64, of any strides.
        teacher: likewise, of the same type and of its own width; without gradient.
        mask: (B, S), 1 or True where a position is real, so that a pair counts when both its positions are; or
            (B, S, S), where the query may see the key.
        kind: ``"mse"``, ``"kl"`` or ``"ce"``.
        padded_queries: let a query count that is not real itself; for a mask (B, S).
        floor: scores of ``floor`` or less become 0 on either side; for ``"mse"``.
        count: the number to divide by in place of `relation_count`, a tensor of one element.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Shapes:
        student, teacher: (B, A, S, d), two of the same shape on a side; d each side's own. There may be more axes
            than A, or none, between B and S.

    Returns:
        A scalar: float64 for float64 input, float32 for the rest.

    Raises:
        KernelError: for shapes, types or devices that do not go together, or a backend that is not there.

    References:
        Jiao et al. 2020, TinyBERT, equation 7. https://arxiv.org/abs/1909.10351
        Wang et al. 2020, MiniLM, sections 3.1 and 3.2. https://arxiv.org/abs/2002.10957
        Dao et al. 2022, FlashAttention, algorithms 1 and 4. https://arxiv.org/abs/2205.14135

    Examples:
        >>> import torch
        >>> from kdzoo.kernels.relation import relation
        >>> query, key = torch.randn(2, 2, 4, 7, 26, requires_grad=True).unbind()
        >>> teacher = torch.randn(2, 4, 7, 32), torch.randn(2, 4, 7, 32)
        >>> relation((query, key), teacher, mask=torch.ones(2, 7), kind="mse").backward()
    """
    (x_s, y_s), (x_t, y_t) = _pair(student), _pair(teacher)
    check_kind("relation", student=x_s, student_right=y_s, teacher=x_t, teacher_right=y_t)
    if kind not in KINDS:
        raise KernelError(f"relation: kind={kind!r} is not known; it is one of {', '.join(KINDS)}")
    if floor is not None and kind != "mse":
        raise KernelError(f"relation: floor={floor} is for kind='mse', not {kind!r}")
    for name, (x, y) in {"student": (x_s, y_s), "teacher": (x_t, y_t)}.items():
        if x.dim() < 3 or x.shape != y.shape:
            raise KernelError(
                f"relation: the {name}'s factors {tuple(x.shape)} and {tuple(y.shape)} must have one shape (B, A, S, d)"
            )
    if x_s.shape[:-1] != x_t.shape[:-1]:
        raise KernelError(
            f"relation: student {tuple(x_s.shape)} and teacher {tuple(x_t.shape)} must agree in all but the last axis, "
            "as (B, A, S, d)"
        )
    _check_mask(mask, x_s)
    if _small(x_s, mask, backend):
        options: dict[str, Any] = {"kind": kind, "padded_queries": padded_queries, "floor": floor, "count": count}
        return relation_reference(student, teacher, mask=mask, **options)
    queries, keys, pairs = _counted(mask, padded_queries)
    if count is None:
        count = _count(queries, keys, pairs, x_s, kind)
    # Scores that are symmetric, and so are the pairs that count.
    alone = x_s is y_s and x_t is y_t and pairs is None and not padded_queries
    value: Tensor
    value, *_ = torch.ops.kdzoo.relation(
        _heads(x_s),
        None if alone else _heads(y_s),
        _heads(x_t).detach(),
        None if alone else _heads(y_t).detach(),
        queries,
        keys,
        pairs,
        count.detach().to(accumulator(x_s.dtype)).clamp_min(EPSILON),
        kind,
        floor,
        (x_s.requires_grad or y_s.requires_grad) and torch.is_grad_enabled(),
        backend,
    )
    return value


def relation_count(
    student: Factors, *, mask: Tensor | None = None, kind: str = "kl", padded_queries: bool = False
) -> Tensor:
    """What `relation` divides by: the pairs (of ``"mse"``) or the queries that count, in all heads.

    Raises:
        KernelError: for a mask that does not fit.
    """
    left = _pair(student)[0]
    _check_mask(mask, left)
    return _count(*_counted(mask, padded_queries), left, kind)


def decision(student: Factors, mask: Tensor | None = None, backend: str = "auto") -> Decision:
    """The backend that `relation` takes for a student and a mask, and why."""
    left = _pair(student)[0]
    if _small(left, mask, backend):
        compared = f"{left.numel()} elements, under {PLAIN[_regime(mask)]} the plain formula was measured faster"
        return Decision("torch", compared)
    return choose("relation", left, backend)


def _small(left: Tensor, mask: Tensor | None, backend: str) -> bool:
    """Whether the reference is to be called in place of the operator; it holds no more scores than two blocks."""
    return plain(_regime(mask), left, backend) and math.prod(left.shape[:-1]) * left.shape[-2] <= 2 * BLOCK


def _regime(mask: Tensor | None) -> str:
    return "relation" if mask is None else "relation_masked"


def _pair(side: Factors) -> Pair:
    return (side, side) if isinstance(side, Tensor) else side


def _heads(vectors: Tensor) -> Tensor:
    """(B, A, S, d), with all axes between B and S as one."""
    rows, *between, length, width = vectors.shape
    return vectors if len(between) == 1 else vectors.reshape(rows, math.prod(between), length, width)


def _finite(vectors: Tensor) -> Tensor:
    """A teacher's vectors, 0 where they are infinite."""
    # On a CPU a sum tells in a fraction of the time that there is nothing to fill.
    if vectors.device.type == "cpu" and not torch.compiler.is_compiling() and math.isfinite(vectors.sum().item()):
        return vectors
    return vectors.nan_to_num(torch.nan, 0.0, 0.0)


def _check_mask(mask: Tensor | None, left: Tensor) -> None:
    if mask is None:
        return
    rows, length = left.shape[0], left.shape[-2]
    if mask.shape not in ((rows, length), (rows, length, length)):
        raise KernelError(
            f"relation: a mask {tuple(mask.shape)} does not fit {tuple(left.shape)}; it is (B, S) or (B, S, S) for "
            "(B, A, S, d)"
        )
    if mask.device != left.device:
        raise KernelError(f"relation: the mask is on {mask.device} and the vectors are on {left.device}")


def _counted(mask: Tensor | None, padded_queries: bool) -> Masks:
    """The queries (B, S) and the keys (B, S) that are in a pair that counts, and the pairs where these do not say."""
    if mask is None:
        return None, None, None
    mask = mask != 0
    if mask.dim() == 3:
        return mask.any(2), mask.any(1), mask
    # An operator's inputs must not share memory.
    return mask.any(1, keepdim=True).repeat(1, mask.shape[1]) if padded_queries else mask.clone(), mask, None


def _count(queries: Tensor | None, keys: Tensor | None, pairs: Tensor | None, left: Tensor, kind: str) -> Tensor:
    rows, *between, length, _ = left.shape
    heads = math.prod(between)
    if queries is None or keys is None:
        number = rows * heads * length * (length if kind == "mse" else 1)
        # A tensor in each case, so that the number of rows is no constant of a compiled graph.
        return torch.full((), number, dtype=torch.float64, device=left.device)
    if kind != "mse":
        return queries.sum() * heads
    return ((queries.sum(1) * keys.sum(1)).sum() if pairs is None else pairs.sum()) * heads


# The operator


def run(
    x_s: Tensor,
    y_s: Tensor | None,
    x_t: Tensor,
    y_t: Tensor | None,
    queries: Tensor | None,
    keys: Tensor | None,
    pairs: Tensor | None,
    count: Tensor,
    kind: str,
    floor: float | None,
    with_gradient: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the operator of `relation` does: the value, and its gradients at X and Y where they are wanted."""
    to_x, to_y = _outputs(x_s, y_s, with_gradient)
    # Triton has nothing to launch on where there are no elements.
    triton = choose("relation", x_s, backend).triton and x_s.numel() > 0 and x_t.numel() > 0
    with torch.cuda.device_of(x_s):
        value = (_triton if triton else _torch)(
            (x_s, x_s if y_s is None else y_s),
            (x_t, x_t if y_t is None else y_t),
            (queries, keys, pairs),
            kind,
            floor,
            count.reciprocal(),
            (to_x, to_x if y_s is None else to_y) if with_gradient else None,
        )
    return value.to(count.dtype) / count, to_x, to_y


def _outputs(x: Tensor, y: Tensor | None, with_gradient: bool) -> Pair:
    """Room for the gradients at X and Y, empty where there is none."""
    # Float16 has no room for the quotients by a large count: the backward pass makes it of float32.
    dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
    shape, none = x.shape, (0, *x.shape[1:])
    return (
        x.new_empty(shape if with_gradient else none, dtype=dtype),
        x.new_empty(none if y is None or not with_gradient else shape, dtype=dtype),
    )


_operator = torch.library.custom_op(
    "kdzoo::relation",
    run,
    mutates_args=(),
    schema="(Tensor x_s, Tensor? y_s, Tensor x_t, Tensor? y_t, Tensor? queries, Tensor? keys, Tensor? pairs, "
    "Tensor count, str kind, float? floor, bool with_gradient, str backend) -> (Tensor, Tensor, Tensor)",
)


@_operator.register_fake
def _(x_s: Tensor, y_s: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return (x_s.new_empty((), dtype=accumulator(x_s.dtype)), *_outputs(x_s, y_s, rest[-2]))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # zeros in place of the gradients at the gradients would be as large as these
    ctx.save_for_backward(*inputs[:2], *output[1:])


def _backward(ctx: Any, upstream: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if upstream is None:
        return (None,) * 12
    x, y, to_x, to_y = ctx.saved_tensors
    of_x = once("relation", scaled(to_x, upstream).to(x.dtype), x)
    of_y = None if y is None else once("relation", scaled(to_y, upstream).to(y.dtype), y)
    return (of_x, of_y, *(None,) * 10)


_operator.register_autograd(_backward, setup_context=_setup)


# Without Triton: block by block of the scores, each small enough for the cache


def _torch(
    student: Pair,
    teacher: Pair,
    masks: Masks,
    kind: str,
    floor: float | None,
    inverse: Tensor,
    gradients: Pair | None,
) -> Tensor:
    """The sum of the values; their gradients, times ``inverse``, are written to ``gradients``, or added up in one."""
    # Infinities, and NaN where nothing counts, are looked for once they show in the value; elsewhere than on a CPU,
    # asking for the value would cost more.
    careful = student[0].device.type != "cpu"
    value = _swept(student, teacher, masks, kind, floor, inverse, gradients, careful)
    if not careful and not math.isfinite(value.item()):
        value = _swept(student, teacher, masks, kind, floor, inverse, gradients, True)
    return value


def _swept(
    student: Pair,
    teacher: Pair,
    masks: Masks,
    kind: str,
    floor: float | None,
    inverse: Tensor,
    gradients: Pair | None,
    careful: bool,
) -> Tensor:
    queries, keys, pairs = masks
    rows, heads, length, _ = student[0].shape
    scales = [1 / math.sqrt(max(side[0].shape[-1], 1)) for side in (student, teacher)]
    (x_s, y_s), (x_t, y_t) = (
        [_flat(vectors, real, careful, side is teacher) for vectors, real in zip(side, (queries, keys), strict=True)]
        for side in (student, teacher)
    )
    blind, left_out = (None if m is None else ~m[:, None].expand(-1, heads, -1).flatten(0, 1) for m in (keys, queries))
    row = torch.arange(rows, device=x_s.device).repeat_interleave(heads)
    step = inverse * (scales[0] * (2 if kind == "mse" else 1))
    value = torch.zeros((), dtype=torch.float64, device=x_s.device)
    for slots, parts in _blocks(rows * heads, length, x_s.dtype, x_s.device):
        to_y: Tensor | None = None
        for part, room in parts:
            sides = ((x_s[slots, part], y_s[slots]), (x_t[slots, part], y_t[slots]))
            hidden = None if pairs is None else ~pairs[row[slots], part]
            if kind == "mse":
                sum_, slope = _squares(*sides, scales, hidden, floor, room)
            else:
                if hidden is None and blind is not None:
                    hidden = blind[slots, None]
                uncounted = None if left_out is None else left_out[slots, part]
                sum_, slope = _divergence(*sides, scales, hidden, uncounted, kind, room, gradients is not None)
            value += sum_
            if gradients is not None:
                torch.mul(slope @ y_s[slots], step, out=gradients[0].flatten(0, 1)[slots, part])
                to_y = slope.mT @ sides[0][0] if to_y is None else to_y.baddbmm_(slope.mT, sides[0][0])
        if gradients is not None and to_y is not None:
            if blind is not None:
                to_y.masked_fill_(blind[slots, :, None], 0.0)
            written = gradients[1].flatten(0, 1)[slots]
            if gradients[0] is gradients[1]:
                written += to_y.mul_(step)
            else:
                torch.mul(to_y, step, out=written)
    return value


def _flat(vectors: Tensor, real: Tensor | None, careful: bool, teacher: bool) -> Tensor:
    """(B·A, S, d) in the type of the sums; zero where not real, and where a teacher's entry is infinite."""
    dtype = accumulator(vectors.dtype)
    if careful and teacher:
        vectors = _finite(vectors)
    if careful and real is not None:
        vectors = vectors.masked_fill(~real[:, None, :, None], 0.0)
    elif real is not None:
        room = torch.empty(vectors.shape, dtype=dtype, device=vectors.device)
        vectors = torch.mul(vectors, real[:, None, :, None].to(dtype), out=room)
    return vectors.to(dtype).flatten(0, 1)


def _blocks(slots: int, length: int, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[slice, list[Any]]]:
    """The slots (a row's heads) of each block, the parts that their queries are taken in, and room for the scores.

    All blocks share the four buffers of a part: touching new memory would take longer than the arithmetic.
    """
    size = BLOCK * torch.get_num_threads() if device.type == "cpu" else DEVICE_BLOCK
    across = max(1, min(slots, size // max(length * length, 1)))
    tall = max(1, min(length, size // max(length, 1)))
    space = torch.empty((4, across * tall * length), dtype=dtype, device=device)
    for slot in range(0, slots, across):
        number, parts = min(across, slots - slot), []
        for query in range(0, length, tall):
            shape = (number, min(tall, length - query), length)
            parts.append((slice(query, query + tall), [one[: math.prod(shape)].view(shape) for one in space]))
        yield slice(slot, slot + number), parts


def _squares(
    ours: Pair, theirs: Pair, scales: list[float], hidden: Tensor | None, floor: float | None, room: list[Tensor]
) -> Pair:
    """The sum of squared differences of the scores of a block, and half its gradient at the student's scores."""
    gap = room[0].baddbmm_(ours[0], ours[1].mT, beta=0, alpha=scales[0])
    low = None
    if floor is None:
        gap.baddbmm_(theirs[0], theirs[1].mT, alpha=-scales[1])
    else:
        low, other = gap <= floor, room[1].baddbmm_(theirs[0], theirs[1].mT, beta=0, alpha=scales[1])
        gap.masked_fill_(low, 0.0).sub_(other.masked_fill_(other <= floor, 0.0))
    if hidden is not None:
        gap.masked_fill_(hidden, 0.0)
    value = torch.dot(gap.view(-1), gap.view(-1))
    return value, gap if low is None else gap.masked_fill_(low, 0.0)


def _divergence(
    ours: Pair,
    theirs: Pair,
    scales: list[float],
    hidden: Tensor | None,
    left_out: Tensor | None,
    kind: str,
    room: list[Tensor],
    with_slope: bool,
) -> Pair:
    """The sum of the divergences of the queries of a block, and its gradient at the student's scores.

    The scores of a query that does not count are those of zero vectors on both sides, so that its divergence and its
    gradient are exactly zero; its cross-entropy is not, and is left out.
    """
    bias, beta = None, 0
    if hidden is not None:
        bias, beta = torch.zeros_like(hidden, dtype=room[0].dtype), 1
        bias.masked_fill_(hidden, torch.finfo(bias.dtype).min / 2)
    sums, ones = [], room[0].new_ones(room[0].shape[-1])
    for (x, y), scale, score, weight in zip((ours, theirs), scales, room[:2], room[2:], strict=True):
        torch.baddbmm(score if bias is None else bias, x, y.mT, beta=beta, alpha=scale, out=score)
        score.sub_(score.amax(-1, keepdim=True))
        # Far below what a sum of 1 or more can tell from zero; where it underflows, exp is slow.
        torch.clamp(score, min=-60.0, out=weight).exp_()
        sums.append((weight.view(-1, len(ones)) @ ones).view(weight.shape[:-1]))
    score, other, weight, targets = room
    targets.mul_(sums[1].reciprocal().unsqueeze(-1))
    if kind == "kl":
        gap, logs = other.sub_(score), (sums[0] / sums[1]).log()
    else:
        gap, logs = score.neg_(), sums[0].log()
        if hidden is not None:
            gap.masked_fill_(hidden, 0.0)
        if left_out is not None:
            logs.masked_fill_(left_out, 0.0)
    value = torch.dot(targets.view(-1), gap.view(-1)) + logs.sum()
    return value, weight.mul_(sums[0].reciprocal().unsqueeze(-1)).sub_(targets) if with_slope else weight


# With Triton: one program for a tile of queries (or of keys) of one head, which sweeps over the keys (the queries)


def _launch(width: int, itemsize: int) -> tuple[int, int, int, int, int, int]:
    """Columns that are read and written at once, a program's rows, those it sweeps over at once, warps, stages."""
    if itemsize == 4:
        return 16, 64, 32, 32, 4, 1
    if width > WHOLE:
        return 64, 64, 64, 32, 4, 1
    return WHOLE, WHOLE, 64, 32, 4 if width <= 64 else 8, 1 if backend.architecture().startswith("gfx") else 2


def _even(side: Pair) -> tuple[Pair, tuple[int, ...]]:
    """A side with columns next to each other and both factors of the same strides, and those of row, head, position."""
    x, y = side
    if x.stride() != y.stride() or x.stride(-1) != 1:
        x, y = (x.contiguous(),) * 2 if x is y else (x.contiguous(), y.contiguous())
    return (x, y), x.stride()[:3]


def _triton(
    student: Pair,
    teacher: Pair,
    masks: Masks,
    kind: str,
    floor: float | None,
    inverse: Tensor,
    gradients: Pair | None,
) -> Tensor:
    """As `_torch`."""
    load(globals())
    if student[0].dtype == torch.bfloat16 and student[0].device.type == "cpu":
        # The interpreter, which alone runs there, multiplies the bits of bfloat16 as if they were integers.
        student, teacher = ((side[0].float(), side[1].float()) for side in (student, teacher))
    (student, strides_s), (teacher, strides_t) = _even(student), _even(teacher)
    queries, keys, pairs = (None if mask is None else mask.contiguous().view(torch.uint8) for mask in masks)
    rows, heads, length, width = student[0].shape
    widths = width, teacher[0].shape[-1]
    read, written, tall, long, warps, stages = _launch(max(widths), student[0].element_size())
    wide_s, wide_t = (max(16, power_of_2(each)) for each in widths)
    span = min(written, wide_s)
    programs = rows * heads * -(-length // tall)
    shape = heads, length, *widths, *(1 / math.sqrt(each) for each in widths), *strides_s, *strides_t
    values = torch.empty(programs, dtype=torch.float32, device=student[0].device)
    logs = None
    options = {
        "HELD": read == WHOLE,
        "TALL": tall,
        "LONG": long,
        "WIDE_S": min(read, wide_s),
        "WIDE_T": min(read, wide_t),
        "num_warps": warps,
        "num_stages": stages,
    }
    if kind != "mse":
        logs = values.new_empty((rows * heads, length, 2))
        _sums[(programs,)](
            *student, *teacher, queries, keys, pairs, values, logs, *shape, CROSS=kind == "ce", **options
        )
    alone = gradients is not None and gradients[0] is gradients[1]
    sweeps = [] if gradients is None and logs is not None else [0] if gradients is None or alone else [0, 1]
    for own in sweeps:
        other = 1 - own
        _slopes[(programs, -(-width // span) if gradients is not None else 1)](
            *(student[own], student[other], teacher[own], teacher[other]),
            *((queries, keys)[own], (queries, keys)[other], pairs, logs, inverse),
            None if gradients is None else gradients[own],
            values if logs is None and own == 0 else None,
            *shape,
            floor,
            SPAN=span,
            OWN_ASKS=own == 0,
            OTHER_ASKS=own == 1 or alone,
            **options,
        )
    return values.sum()


@jit
def _real(mask, at, length):  # type: ignore[no-untyped-def]
    real = at < length
    if mask is not None:
        real = tl.load(mask + at, mask=real, other=0) != 0
    return real


@jit
def _tile(vectors, at, real, column, width, by_position, FINITE: tl.constexpr, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Columns of rows of vectors, zero where these do not count or, FINITE, the numbers are infinite."""
    columns = column + tl.arange(0, WIDE)
    places = vectors + at.to(tl.int64)[:, None] * by_position + columns[None, :]
    tile = tl.load(places, mask=real[:, None] & (columns < width)[None, :], other=0.0)
    if FINITE:
        tile = tl.where(tl.abs(tile) == float("inf"), 0.0, tile).to(tile.dtype)
    return tile


@jit
def _scores(  # type: ignore[no-untyped-def]
    x, y, held, at_x, at_y, real_x, real_y, width, scale, by_position, FINITE: tl.constexpr, WIDE: tl.constexpr
):
    """The scores of a tile of rows, ``held`` or read part by part, with another tile."""
    if held is not None:
        near = _tile(y, at_y, real_y, 0, width, by_position, FINITE, WIDE)
        total = tl.dot(held, tl.trans(near), input_precision="ieee")
    else:
        total = tl.zeros((at_x.shape[0], at_y.shape[0]), tl.float32)
        for column in range(0, width, WIDE):
            one = _tile(x, at_x, real_x, column, width, by_position, FINITE, WIDE)
            two = _tile(y, at_y, real_y, column, width, by_position, FINITE, WIDE)
            total = tl.dot(one, tl.trans(two), total, input_precision="ieee")
    return total * scale


@jit
def _kept(pairs, at_own, at_other, length, OWN_ASKS: tl.constexpr):  # type: ignore[no-untyped-def]
    """1 for pairs that count, 0 for others; positions beyond the last have the last one's.

    As numbers, and from everywhere, because AMD has few registers for masks.
    """
    own = tl.minimum(at_own, length - 1)[:, None]
    other = tl.minimum(at_other, length - 1)[None, :]
    return tl.load(pairs + (own * length + other if OWN_ASKS else other * length + own)).to(tl.float32)


@jit
def _probability(score, log):  # type: ignore[no-untyped-def]
    """e^score over its row's sum; at most 1, which zeros in the place of scores that do not count might exceed."""
    return tl.exp(tl.minimum(score - log, 0.0, propagate_nan=tl.PropagateNan.ALL))


@jit
def _sums(  # type: ignore[no-untyped-def]
    x_s,
    y_s,
    x_t,
    y_t,
    queries,
    keys,
    pairs,
    values,
    logs,
    heads,
    length,
    width_s,
    width_t,
    scale_s,
    scale_t,
    s_row,
    s_head,
    s_position,
    t_row,
    t_head,
    t_position,
    CROSS: tl.constexpr,
    HELD: tl.constexpr,
    TALL: tl.constexpr,
    LONG: tl.constexpr,
    WIDE_S: tl.constexpr,
    WIDE_T: tl.constexpr,
):
    """The divergences of a tile's queries, and the logarithms of both sides' Σ e^score."""
    tiles = tl.cdiv(length, TALL)
    slot = (tl.program_id(0) // tiles).to(tl.int64)
    query = tl.program_id(0) % tiles * TALL + tl.arange(0, TALL)
    row, head = slot // heads, slot % heads
    x_s += row * s_row + head * s_head
    y_s += row * s_row + head * s_head
    x_t += row * t_row + head * t_head
    y_t += row * t_row + head * t_head
    if keys is not None:
        queries += row * length
        keys += row * length
    real = _real(queries, query, length)
    held_s, held_t = None, None
    if HELD:
        held_s = _tile(x_s, query, real, 0, width_s, s_position, False, WIDE_S)
        held_t = _tile(x_t, query, real, 0, width_t, t_position, True, WIDE_T)
    most_s = tl.full((TALL,), -1e30, tl.float32)
    most_t = tl.full((TALL,), -1e30, tl.float32)
    sum_s = tl.zeros((TALL,), tl.float32)
    sum_t = tl.zeros((TALL,), tl.float32)
    gaps = tl.zeros((TALL,), tl.float32)
    for start in range(0, length, LONG):
        key = start + tl.arange(0, LONG)
        known = _real(keys, key, length)
        s = _scores(x_s, y_s, held_s, query, key, real, known, width_s, scale_s, s_position, False, WIDE_S)
        t = _scores(x_t, y_t, held_t, query, key, real, known, width_t, scale_t, t_position, True, WIDE_T)
        # What a row gathers before its first key that counts, that key's factor e^(-1e30 - m) = 0 takes out again.
        bias = tl.where(known, 0.0, -1e30)[None, :]
        if pairs is not None:
            bias += _kept(pairs + row * length * length, query, key, length, True) * 1e30 - 1e30
        s += bias
        t += bias
        higher_s = tl.maximum(most_s, tl.max(s, 1))
        higher_t = tl.maximum(most_t, tl.max(t, 1))
        # Scores count from the highest so far, so that nothing of its size is lost to rounding.
        s -= higher_s[:, None]
        t -= higher_t[:, None]
        shrink = tl.exp(most_t - higher_t)
        weights = tl.exp(t)
        rise = higher_s - most_s
        if not CROSS:
            rise -= higher_t - most_t
        gaps = gaps * shrink + sum_t * shrink * rise + tl.sum(weights * (-s if CROSS else t - s), 1)
        sum_s = sum_s * tl.exp(most_s - higher_s) + tl.sum(tl.exp(s), 1)
        sum_t = sum_t * shrink + tl.sum(weights, 1)
        most_s, most_t = higher_s, higher_t
    log_s = tl.log(sum_s)
    log_t = tl.log(sum_t)
    divergence = gaps / sum_t + (log_s if CROSS else log_s - log_t)
    tl.store(values + tl.program_id(0), tl.sum(tl.where(real, divergence, 0.0), 0))
    at = logs + (slot * length + query) * 2
    tl.store(at, most_s + log_s, mask=query < length)
    tl.store(at + 1, most_t + log_t, mask=query < length)


@jit
def _slopes(  # type: ignore[no-untyped-def]
    own_s,
    other_s,
    own_t,
    other_t,
    own_real,
    other_real,
    pairs,
    logs,
    inverse,
    gradient,
    values,
    heads,
    length,
    width_s,
    width_t,
    scale_s,
    scale_t,
    s_row,
    s_head,
    s_position,
    t_row,
    t_head,
    t_position,
    floor,
    SPAN: tl.constexpr,
    OWN_ASKS: tl.constexpr,
    OTHER_ASKS: tl.constexpr,
    HELD: tl.constexpr,
    TALL: tl.constexpr,
    LONG: tl.constexpr,
    WIDE_S: tl.constexpr,
    WIDE_T: tl.constexpr,
):
    """The gradient at a tile of one factor, by a sweep over the other; and the squared differences of its rows.

    The own rows are the queries, or the keys, or with OWN_ASKS and OTHER_ASKS both, where the factors are the same.
    """
    tiles = tl.cdiv(length, TALL)
    slot = (tl.program_id(0) // tiles).to(tl.int64)
    at_own = tl.program_id(0) % tiles * TALL + tl.arange(0, TALL)
    column = tl.program_id(1) * SPAN
    row, head = slot // heads, slot % heads
    own_s += row * s_row + head * s_head
    other_s += row * s_row + head * s_head
    own_t += row * t_row + head * t_head
    other_t += row * t_row + head * t_head
    if own_real is not None:
        own_real += row * length
        other_real += row * length
    real = _real(own_real, at_own, length)
    held_s, held_t = None, None
    if HELD:
        held_s = _tile(own_s, at_own, real, 0, width_s, s_position, False, WIDE_S)
        held_t = _tile(own_t, at_own, real, 0, width_t, t_position, True, WIDE_T)
    if logs is not None:
        logs += slot * length * 2
        log_s = tl.load(logs + at_own * 2, mask=real, other=0.0)
        log_t = tl.load(logs + at_own * 2 + 1, mask=real, other=0.0)
    value = tl.zeros((TALL,), tl.float32)
    total = tl.zeros((TALL, SPAN), tl.float32)
    for start in range(0, length, LONG):
        at_other = start + tl.arange(0, LONG)
        known = _real(other_real, at_other, length)
        s = _scores(own_s, other_s, held_s, at_own, at_other, real, known, width_s, scale_s, s_position, False, WIDE_S)
        t = _scores(own_t, other_t, held_t, at_own, at_other, real, known, width_t, scale_t, t_position, True, WIDE_T)
        if logs is not None:
            slope = tl.zeros((TALL, LONG), tl.float32)
            if OWN_ASKS:
                slope += _probability(s, log_s[:, None]) - _probability(t, log_t[:, None])
            if OTHER_ASKS:
                their_s = tl.load(logs + at_other * 2, mask=known, other=0.0)
                their_t = tl.load(logs + at_other * 2 + 1, mask=known, other=0.0)
                slope += _probability(s, their_s[None, :]) - _probability(t, their_t[None, :])
        elif floor is not None:
            slope = tl.where(s <= floor, 0.0, s) - tl.where(t <= floor, 0.0, t)
        else:
            slope = s - t
        if pairs is not None:
            slope *= _kept(pairs + row * length * length, at_own, at_other, length, OWN_ASKS)
        if logs is None:
            value += tl.sum(slope * slope, 1)
            if floor is not None:
                slope = tl.where(s <= floor, 0.0, slope)
            if own_s.dtype.element_ty == tl.float16:
                slope = tl.minimum(tl.maximum(slope, -65504.0), 65504.0)
        if gradient is not None:
            near = _tile(other_s, at_other, known, column, width_s, s_position, False, SPAN)
            total = tl.dot(slope.to(near.dtype), near, total, input_precision="ieee")
    if gradient is not None:
        factor = tl.load(inverse) * scale_s
        if logs is None:
            factor *= 4 if OWN_ASKS and OTHER_ASKS else 2
        columns = column + tl.arange(0, SPAN)
        at = gradient + (slot * length + at_own)[:, None] * width_s + columns[None, :]
        inside = (at_own < length)[:, None] & (columns < width_s)[None, :]
        total = tl.where(real[:, None], total * factor, 0.0)
        tl.store(at, total.to(gradient.dtype.element_ty), mask=inside)
    if values is not None and tl.program_id(1) == 0:
        tl.store(values + tl.program_id(0), tl.sum(value, 0))
