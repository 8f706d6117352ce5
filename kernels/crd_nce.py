"""CRD's contrast with banks in one operator: negatives are scored as they are read; the gradient with the value.

Once Z is known, a negative's score says at once what it adds to the value and how far it pushes the gradient. So the
Triton kernel reads each drawn row of a bank a single time, and no more of them are ever held than a tile: not
(B, K + 1, D). The CPU holds the scores, (B, K), and gathers a part of the rows at a time; of a bank that has few rows,
drawn often, it takes the products with all instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.kernels.backend import (
    Decision,
    KernelError,
    accumulator,
    check_kind,
    choose,
    jit,
    load,
    once,
    power_of_2,
    scaled,
    text,
    unit,
)

if TYPE_CHECKING:
    import triton.language as tl

EPSILON = 1e-7  # the authors', beside the noise's density
MAX_WIDTH = 1024  # rows are held in registers whole
BLOCK = 2**17  # elements of gathered rows, or of products, that a CPU keeps in its cache
FEWEST = 16  # rows that multiply well
WHOLE = 8  # rows of a bank that the CPU multiplies, back and forth, in the time in which it gathers one
PROGRAMS = 1024  # where there are fewer anchors, their negatives are split


def crd_nce_reference(
    student: Tensor,
    teacher: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    ids: Tensor,
    normaliser: Tensor,
    *,
    sample_ids: Tensor | None = None,
    temperature: float = 0.07,
) -> Tensor:
    """The formula with all drawn rows gathered, (B, K, D) of either bank; see `crd_nce`."""
    dtype = accumulator(student.dtype)
    student, teacher, student_bank, teacher_bank = (
        rows.to(dtype) for rows in (student, teacher, student_bank.detach(), teacher_bank.detach())
    )
    ours, theirs = (student, teacher) if sample_ids is None else (student_bank[sample_ids], teacher_bank[sample_ids])
    noise = ids.shape[1] / max(len(student_bank), 1)
    value = student.new_zeros(())
    for anchors, positives, bank, z in (
        (student, theirs, teacher_bank, normaliser[0]),
        (teacher, ours, student_bank, normaliser[1]),
    ):
        p = ((anchors * positives).sum(-1) / temperature).exp() / z
        value = value - (p / (p + noise + EPSILON)).log().sum()
        p = ((anchors.unsqueeze(1) * bank[ids]).sum(-1) / temperature).exp() / z
        value = value - (noise / (p + noise + EPSILON)).log().sum()
    return value / max(len(student), 1)


def crd_nce(
    student: Tensor,
    teacher: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    ids: Tensor,
    normaliser: Tensor,
    *,
    sample_ids: Tensor | None = None,
    temperature: float = 0.07,
    count: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Both sides' noise contrast of a batch, with its gradients at both sides' embeddings.

    Per side, here the student's, with p_j = exp(s · b_j / τ) / Z over rows b_j of the teacher's bank:

        -1/B · Σ_i [ log p_0 / (p_0 + K/n + 1e-7) + Σ_k log (K/n) / (p_k + K/n + 1e-7) ]

    The teacher's contrasts t with the student's bank, and the two are added. Nothing is normalised here: embeddings
    and banks are unit vectors by their maker.

    Args:
        student: (B, D) embeddings, float32, bfloat16, float16 or float64.
        teacher: (B, D) embeddings of the same type.
        student_bank: (n, D) of the same type; without gradient, and free to be changed before the backward pass.
        teacher_bank: (n, D) likewise.
        ids: (B, K) integers, the negatives' rows in the banks.
        normaliser: (2,), Z of the student's side and of the teacher's.
        sample_ids: (B,) integers, the rows of the positives in the banks; without them the positive is the other
            side's embedding of the same row, which then gets its gradient.
        temperature: τ, above 0.
        count: the number to divide by in place of B, a tensor of one element.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        A scalar: float64 for float64 input, float32 for the rest.

    Raises:
        KernelError: for shapes, types or devices that do not go together, a temperature that is not positive, or a
            backend that is not there. Ids are taken to be in range.

    References:
        Tian, Krishnan, Isola: Contrastive Representation Distillation, equations 9, 10 and 18.
        https://arxiv.org/abs/1910.10699

    See also:
        `crd_nce_sums`, for Z; `crd_nce_update`, for the banks.

    Examples:
        >>> import torch
        >>> from kdzoo.kernels.crd_nce import crd_nce
        >>> student, teacher = torch.randn(2, 8, 16).requires_grad_()
        >>> banks = torch.randn(2, 100, 16)
        >>> crd_nce(student, teacher, *banks, torch.randint(100, (8, 50)), torch.ones(2)).backward()
    """
    _check(student, teacher, student_bank, teacher_bank, ids, normaliser, sample_ids, temperature)
    if count is None:
        # A tensor in each case, so that the number of rows is no constant of a compiled graph.
        count = torch.full((), len(student), dtype=torch.float64, device=student.device)
    grad = torch.is_grad_enabled() and (student.requires_grad or teacher.requires_grad)
    value: Tensor
    value, _, _ = torch.ops.kdzoo.crd_nce(
        student,
        teacher,
        student_bank.detach(),
        teacher_bank.detach(),
        ids,
        normaliser.detach().to(accumulator(student.dtype)),
        sample_ids,
        count.detach().to(accumulator(student.dtype)).clamp_min(1e-12),
        temperature,
        grad,
        backend,
    )
    return value


def crd_nce_sums(
    student: Tensor,
    teacher: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    ids: Tensor,
    known: Tensor,
    *,
    sample_ids: Tensor | None = None,
    temperature: float = 0.07,
    backend: str = "auto",
) -> Tensor:
    """What Z is made of: Σ exp(score / τ) of each side over the positives and negatives of all rows.

    Args:
        student, teacher, student_bank, teacher_bank, ids, sample_ids, temperature, backend: as for `crd_nce`.
        known: (2,), above 0 for a side whose Z is known already; its scores are not taken.

    Returns:
        (2,), 0 for a known side; without gradient.

    Raises:
        KernelError: as for `crd_nce`.
    """
    _check(student, teacher, student_bank, teacher_bank, ids, known, sample_ids, temperature)
    tensors = (tensor.detach() for tensor in (student, teacher, student_bank, teacher_bank))
    sums: Tensor = torch.ops.kdzoo.crd_nce_sums(*tensors, ids, known.detach(), sample_ids, temperature, backend)
    return sums


def crd_nce_update(
    student_bank: Tensor,
    teacher_bank: Tensor,
    student: Tensor,
    teacher: Tensor,
    sample_ids: Tensor,
    *,
    momentum: float,
    backend: str = "auto",
) -> None:
    """Update the banks' rows of a batch in place, to normalise(m · old + (1 - m) · new).

    Args:
        student_bank: (n, D), changed.
        teacher_bank: (n, D), changed.
        student: (B, D) the new embeddings.
        teacher: (B, D) likewise.
        sample_ids: (B,) integers, their rows in the banks; where one comes twice, its last row is what is kept.
        momentum: m, 0 to 1.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Raises:
        KernelError: as for `crd_nce`.
    """
    _check(student, teacher, student_bank, teacher_bank, sample_ids.unsqueeze(-1), None, sample_ids, 1.0)
    tensors = (student_bank, teacher_bank, student.detach(), teacher.detach())
    torch.ops.kdzoo.crd_nce_update(*tensors, sample_ids, momentum, backend)


def _check(
    student: Tensor,
    teacher: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    ids: Tensor,
    normaliser: Tensor | None,
    sample_ids: Tensor | None,
    temperature: float,
) -> None:
    banks = {"student_bank": student_bank, "teacher_bank": teacher_bank}
    check_kind("crd_nce", student=student, teacher=teacher, **banks)
    if student.dim() != 2 or student.shape != teacher.shape:
        raise KernelError(
            f"crd_nce: student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must have one shape, (B, D)"
        )
    rows, width = student.shape
    for name, bank in banks.items():
        if bank.dim() != 2 or bank.shape[1] != width or bank.shape != student_bank.shape:
            raise KernelError(
                f"crd_nce: {name} {tuple(bank.shape)} does not fit student {tuple(student.shape)} and student_bank "
                f"{tuple(student_bank.shape)}; both banks are (n, {width})"
            )
    for name, given, axes in (("ids", ids, 2), ("sample_ids", sample_ids, 1)):
        if given is None:
            continue
        if given.is_floating_point() or given.dim() != axes or len(given) != rows:
            raise KernelError(
                f"crd_nce: {name} {text(given.dtype)} {tuple(given.shape)} must be integers "
                f"({rows},{' K' if axes == 2 else ''}), for each row of student {tuple(student.shape)}"
            )
        if given.device != student.device:
            raise KernelError(f"crd_nce: {name} are on {given.device} and student is on {student.device}")
    if normaliser is not None:
        dtype, types = accumulator(student.dtype), (student.dtype, accumulator(student.dtype))
        if normaliser.shape != (2,) or normaliser.dtype not in types or normaliser.device != student.device:
            raise KernelError(
                f"crd_nce: a normaliser {tuple(normaliser.shape)} of {text(normaliser.dtype)} on {normaliser.device} "
                f"must be (2,) of {text(dtype)} on {student.device}, Z of the student's side and of the teacher's"
            )
    if not (math.isfinite(temperature) and temperature > 0):
        raise KernelError(f"crd_nce: temperature is {temperature}; it must be a positive number")


# The operators


def run(
    student: Tensor,
    teacher: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    ids: Tensor,
    normaliser: Tensor,
    sample_ids: Tensor | None,
    count: Tensor,
    temperature: float,
    with_gradient: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the operator of `crd_nce` does: the value, and its gradients at both sides where they are wanted."""
    shape = student.shape if with_gradient else (0, student.shape[1])
    gradients = student.new_empty(shape), student.new_empty(shape)
    drawn, noise = ids.shape[1], ids.shape[1] / max(len(student_bank), 1)
    # With u = log p - log(K/n + ε), -log p / (p + K/n + ε) is softplus(-u), and the noise's is softplus(u) and
    # log(1 + ε n / K).
    shifts = normaliser.log() + math.log(noise + EPSILON)
    constant = 2 * len(student) * drawn * math.log1p(EPSILON / noise) if drawn else 0.0
    value = torch.full((), constant, dtype=shifts.dtype, device=shifts.device)
    sides = tuple(side.to(accumulator(side.dtype)) for side in (student, teacher))
    slopes = [torch.zeros_like(side) for side in sides]
    contrast = _triton if _fused(student, backend) else _torch
    with torch.cuda.device_of(student):
        for side, (anchors, bank) in enumerate(((student, teacher_bank), (teacher, student_bank))):
            values, slope = contrast(anchors, bank, ids, shifts[side], temperature, with_gradient)
            own, positives = sides[side], _positives(sides[1 - side], bank, sample_ids)
            odds = (own * positives).sum(-1) / temperature - shifts[side]
            value = value + values - F.logsigmoid(odds).sum()
            if with_gradient and slope is not None:
                push = odds.neg().sigmoid().unsqueeze(-1)
                slopes[side] += slope.addcmul_(push, positives, value=-1)
                if sample_ids is None:
                    slopes[1 - side].addcmul_(push, own, value=-1)
        if with_gradient:
            # Float16 has no room for the quotients by a large B: there the backward pass divides.
            scale = 1 / temperature if student.dtype == torch.float16 else 1 / (temperature * count)
            for gradient, slope in zip(gradients, slopes, strict=True):
                gradient.copy_(slope * scale)
    return value / count, *gradients


_operator = torch.library.custom_op(
    "kdzoo::crd_nce",
    run,
    mutates_args=(),
    schema="(Tensor student, Tensor teacher, Tensor student_bank, Tensor teacher_bank, Tensor ids, Tensor normaliser, "
    "Tensor? sample_ids, Tensor count, float temperature, bool with_gradient, str backend) -> (Tensor, Tensor, Tensor)",
)


@_operator.register_fake
def _(student: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    shape = student.shape if rest[-2] else (0, student.shape[1])
    return student.new_empty((), dtype=accumulator(student.dtype)), student.new_empty(shape), student.new_empty(shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:2], *output[1:], inputs[7])


def _backward(ctx: Any, upstream: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if upstream is None:
        return (None,) * 11
    student, teacher, *gradients, count = ctx.saved_tensors
    factor = upstream / count if student.dtype == torch.float16 else upstream
    wanted = zip(gradients, (student, teacher), ctx.needs_input_grad[:2], strict=True)
    found = (once("crd_nce", scaled(gradient, factor), side) if needed else None for gradient, side, needed in wanted)
    return (*found, *(None,) * 9)


_operator.register_autograd(_backward, setup_context=_setup)


def run_sums(
    student: Tensor,
    teacher: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    ids: Tensor,
    known: Tensor,
    sample_ids: Tensor | None,
    temperature: float,
    backend: str,
) -> Tensor:
    """What the operator of `crd_nce_sums` does."""
    fused = _fused(student, backend)
    sums = torch.zeros_like(known, dtype=accumulator(student.dtype))
    with torch.cuda.device_of(student):
        for side, (anchors, others, bank) in enumerate(
            ((student, teacher, teacher_bank), (teacher, student, student_bank))
        ):
            z = known[side]
            # On an accelerator this look at a value would stop the host; there the kernel looks itself.
            if z.device.type == "cpu" and z > 0:
                continue
            own, positives = (rows.to(sums.dtype) for rows in (anchors, _positives(others, bank, sample_ids)))
            if fused:
                total, _ = _triton(anchors, bank, ids, z, temperature, False, sums=True)
            else:
                total = _scores(own, bank.to(sums.dtype), ids).div_(temperature).exp_().sum()
            total = total + ((own * positives).sum(-1) / temperature).exp().sum()
            sums[side] = torch.where(z > 0, 0.0, total)
    return sums


_sums_operator = torch.library.custom_op(
    "kdzoo::crd_nce_sums",
    run_sums,
    mutates_args=(),
    schema="(Tensor student, Tensor teacher, Tensor student_bank, Tensor teacher_bank, Tensor ids, Tensor known, "
    "Tensor? sample_ids, float temperature, str backend) -> Tensor",
)


@_sums_operator.register_fake
def _(student: Tensor, *rest: Any) -> Tensor:
    return student.new_empty(2, dtype=accumulator(student.dtype))


def run_update(
    student_bank: Tensor,
    teacher_bank: Tensor,
    student: Tensor,
    teacher: Tensor,
    sample_ids: Tensor,
    momentum: float,
    backend: str,
) -> None:
    """What the operator of `crd_nce_update` does."""
    fused = _fused(student, backend)
    with torch.cuda.device_of(student):
        for bank, new in ((student_bank, student), (teacher_bank, teacher)):
            if fused and bank.is_contiguous():
                load(globals())
                rows, width = new.shape
                wide = power_of_2(width)
                _update[(rows,)](
                    bank, new.contiguous(), sample_ids.contiguous(), rows, width, momentum, WIDE=wide, num_warps=4
                )
                continue
            # Where an id comes twice, both write what its last row says: on a GPU either might come last.
            order = torch.arange(len(sample_ids), device=bank.device)
            last = torch.where(sample_ids.unsqueeze(1) == sample_ids, order, -1).amax(1) if len(order) else order
            dtype = accumulator(bank.dtype)
            mixed = torch.lerp(new[last].to(dtype), bank[sample_ids].to(dtype), momentum)
            bank.index_copy_(0, sample_ids, unit(mixed).to(bank.dtype))


_update_operator = torch.library.custom_op(
    "kdzoo::crd_nce_update",
    run_update,
    mutates_args=("student_bank", "teacher_bank"),
    schema="(Tensor(a!) student_bank, Tensor(b!) teacher_bank, Tensor student, Tensor teacher, Tensor sample_ids, "
    "float momentum, str backend) -> ()",
)


@_update_operator.register_fake
def _(*inputs: Any) -> None:
    return None


def decision(tensor: Tensor, backend: str = "auto") -> Decision:
    """Which backend `crd_nce` takes for a student, and why."""
    width = tensor.shape[-1]
    unfit = f"a width of {width} is above {MAX_WIDTH}" if width > MAX_WIDTH else None
    return choose("crd_nce", tensor, backend, unfit)


def _fused(tensor: Tensor, backend: str) -> bool:
    """Whether Triton runs; it has nothing to launch on where there are no elements."""
    return decision(tensor, backend).triton and tensor.numel() > 0


def _positives(others: Tensor, bank: Tensor, sample_ids: Tensor | None) -> Tensor:
    return others if sample_ids is None else bank.index_select(0, sample_ids).to(others.dtype)


# Without Triton: the scores alone are held; rows are gathered a part at a time or, from a small bank, not at all


def _whole(bank: Tensor, ids: Tensor) -> bool:
    """Whether products with all of a bank take less time than gathering what is drawn from it."""
    return len(bank) <= WHOLE * ids.shape[1] or ids.shape[1] == 0


def _blocks(rows: int, size: int, fewest: int = 1) -> Iterator[slice]:
    step = max(fewest, BLOCK // max(size, 1))
    return (slice(start, start + step) for start in range(0, rows, step))


def _scores(anchors: Tensor, bank: Tensor, ids: Tensor) -> Tensor:
    """The products (B, K) of anchors with their negatives."""
    scores = anchors.new_empty(ids.shape)
    if _whole(bank, ids):
        for r in _blocks(len(ids), len(bank), FEWEST):
            torch.gather(anchors[r] @ bank.T, 1, ids[r], out=scores[r])
        return scores
    width = bank.shape[1]
    room = bank.new_empty(min(ids.shape[1], max(1, BLOCK // max(width, 1))), width)
    for anchor, chosen, found in zip(anchors, ids, scores, strict=True):
        for k in _blocks(len(chosen), width):
            part = torch.index_select(bank, 0, chosen[k], out=room[: len(chosen[k])])
            torch.mv(part, anchor, out=found[k])
    return scores


def _torch(
    anchors: Tensor, bank: Tensor, ids: Tensor, shift: Tensor, temperature: float, with_slopes: bool
) -> tuple[Tensor, Tensor | None]:
    """What the negatives add to the value, but for a constant; and of each anchor's, the sum, times their pushes."""
    dtype = accumulator(anchors.dtype)
    own, bank = anchors.to(dtype), bank.to(dtype)
    odds = _scores(own, bank, ids).div_(temperature).sub_(shift)
    value = -F.logsigmoid(-odds).sum()
    if not with_slopes:
        return value, None
    push = odds.sigmoid_()
    if not _whole(bank, ids):
        return value, F.embedding_bag(ids, bank, per_sample_weights=push, mode="sum")
    slopes = torch.empty_like(own)
    for r in _blocks(len(ids), len(bank), FEWEST):
        slopes[r] = push.new_zeros(len(push[r]), len(bank)).scatter_add_(1, ids[r], push[r]) @ bank
    return value, slopes


# With Triton: one program for an anchor, or for that and a part of its negatives


def _triton(
    anchors: Tensor,
    bank: Tensor,
    ids: Tensor,
    shift: Tensor,
    temperature: float,
    with_slopes: bool,
    sums: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """As `_torch`; with ``sums``, the sum of exp(score / τ), where the shift is a Z that is not known."""
    load(globals())
    (rows, width), drawn = anchors.shape, ids.shape[1]
    wide = power_of_2(width)
    short = max(1, min(4096 // wide, 64))
    parts = max(1, min(-(-drawn // short), -(-PROGRAMS // rows)))
    values = torch.empty((parts, rows), dtype=torch.float32, device=anchors.device)
    slopes = values.new_empty((parts, rows, width)) if with_slopes else None
    _score[(rows, parts)](
        anchors.contiguous(),
        bank.contiguous(),
        ids.contiguous(),
        shift,
        values,
        slopes,
        drawn,
        width,
        1 / temperature,
        SUMS=sums,
        WITH_SLOPES=with_slopes,
        SHORT=short,
        WIDE=wide,
        num_warps=4,
    )
    return values.sum(), None if slopes is None else slopes.sum(0)


@jit
def _score(  # type: ignore[no-untyped-def]
    anchors,
    bank,
    ids,
    shift,
    values,
    slopes,
    drawn,
    width,
    rate,
    SUMS: tl.constexpr,
    WITH_SLOPES: tl.constexpr,
    SHORT: tl.constexpr,
    WIDE: tl.constexpr,
):
    """An anchor against a part of its negatives, each of which is read once."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, WIDE)
    inside = column < width
    anchor = tl.load(anchors + row * width + column, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(shift)
    share = tl.cdiv(tl.cdiv(drawn, tl.num_programs(1)), SHORT) * SHORT
    first, last = part * share, tl.minimum(part * share + share, drawn)
    if SUMS:
        # Known, it takes no scores.
        last = tl.where(shift > 0, 0, last)
    value = tl.zeros((SHORT,), tl.float32)
    slope = tl.zeros((SHORT, WIDE), tl.float32)
    for start in range(first, last, SHORT):
        negative = start + tl.arange(0, SHORT)
        real = negative < last
        chosen = tl.load(ids + row * drawn + negative, mask=real, other=0).to(tl.int64)
        at = bank + chosen[:, None] * width + column[None, :]
        vector = tl.load(at, mask=real[:, None] & inside[None, :], other=0.0).to(tl.float32)
        score = tl.sum(vector * anchor[None, :], 1) * rate
        if SUMS:
            value += tl.where(real, tl.exp(score), 0.0)
        else:
            odds = score - shift
            # log(1 + e) loses the digits of a small e.
            small = tl.exp(-tl.abs(odds))
            rest = tl.where(small < 1e-3, small - 0.5 * small * small, tl.log(1 + small))
            value += tl.where(real, tl.maximum(odds, 0.0) + rest, 0.0)
            if WITH_SLOPES:
                # What is not real is a vector of zeros.
                slope += vector / (1 + tl.exp(-odds))[:, None]
    to = part.to(tl.int64) * tl.num_programs(0) + row
    tl.store(values + to, tl.sum(value, 0))
    if WITH_SLOPES:
        tl.store(slopes + to * width + column, tl.sum(slope, 0), mask=inside)


@jit
def _update(bank, new, ids, rows, width, momentum, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """One row of a bank, by the last of the batch's rows that has its id."""
    row, column = tl.program_id(0), tl.arange(0, WIDE)
    own = tl.load(ids + row).to(tl.int64)
    later = tl.zeros((128,), tl.int32)
    for start in range(row + 1, rows, 128):
        other = start + tl.arange(0, 128)
        later += (tl.load(ids + other, mask=other < rows, other=-1) == own).to(tl.int32)
    if tl.sum(later, 0) == 0:
        at = bank + own * width + column
        old = tl.load(at, mask=column < width, other=0.0).to(tl.float32)
        fresh = tl.load(new + row.to(tl.int64) * width + column, mask=column < width, other=0.0).to(tl.float32)
        mixed = fresh + momentum * (old - fresh)
        norm = tl.sqrt(tl.sum(mixed * mixed, 0))
        mixed = tl.where((norm == 0) | (norm == float("inf")), 0.0, mixed / tl.maximum(norm, 1e-12))
        tl.store(at, mixed.to(bank.dtype.element_ty), mask=column < width)
