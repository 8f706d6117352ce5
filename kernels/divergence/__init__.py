"""Divergences of softened classes over any vocabulary: KL both ways, their skew forms, JSD, TVD, cross-entropy.

A row is read once for the maxima and the sums of both softmaxes, as they grow (online), and once more for the value
and the gradient, which is written there and then. JSD, TVD and the skew forms take one sweep between the two, for what
their gradient adds up to. No probability is ever kept: beside the gradient, memory is one value a tile.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdzoo.kernels import rows
from kdzoo.kernels.backend import KernelError, on_host, power_of_2, values_at_hand, why_not_positive
from kdzoo.kernels.operators import without_autocast

KINDS = ("kl", "reverse_kl", "cross_entropy", "jsd", "tvd")
LIMIT = 1e30  # what an infinite logit counts as, so that no difference of two of them is undefined
MANY = 32768  # elements of a block from which passes over them take longer than the calls
LARGE = 1e10  # a value above which a logit counts as `LIMIT`
SPREAD = 60.0  # logits of a block that differ by no more have exponentials that neither overflow nor underflow
CLOSE = 2.0  # logits whose middle is this close to 0 are taken as they are: a difference from it would be no smaller
WARM = 10.0  # a temperature above which KL is small beside the terms of its sum, whose rounding then needs care
TINY = 1.2e-38  # the least that a mixture of probabilities is taken for, so that it has a logarithm


@without_autocast
def divergence_reference(
    student: Tensor,
    teacher: Tensor,
    kind: str = "kl",
    *,
    mixture: float = 0.0,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """The formula on log-probabilities of all classes at once; see `divergence`."""
    kind, mixture = checked("divergence", kind, mixture, temperature)
    teacher, mask, number = rows.check("divergence", student, teacher, mask, count)
    student, teacher, real = rows.prepared(student, teacher, mask)
    s, t = (limited(side, temperature).log_softmax(-1) for side in (student, teacher))
    if kind == "tvd":
        values = (t.exp() - s.exp()).abs().sum(-1) / 2
    elif kind == "jsd":
        m = _log_mixture(t, s, mixture)
        values = (mixture * t.exp() * (t - m) + (1 - mixture) * s.exp() * (s - m)).sum(-1)
    else:
        first, second = (s, t) if kind == "reverse_kl" else (t, s)
        m = _log_mixture(first, second, mixture) if mixture else second
        values = (first.exp() * (-m if kind == "cross_entropy" else first - m)).sum(-1)
    return rows.total(values, real) / number


def limited(logits: Tensor, temperature: float) -> Tensor:
    """Logits over the temperature, none beyond `LIMIT`."""
    if torch.compiler.is_compiling():
        # What compiled code takes a fraction of a clamp's time for.
        logits = torch.where(logits.abs() > LIMIT, logits.sign() * LIMIT, logits)  # a NaN stays one
    elif not (logits.numel() and values_at_hand(logits) and _within(*logits.detach().aminmax())):
        logits = logits.clamp(-LIMIT, LIMIT)
    return logits if temperature == 1 else logits / temperature


def _within(least: Tensor, most: Tensor) -> bool:
    return least.item() >= -LIMIT and most.item() <= LIMIT


def _log_mixture(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """log(weight · p + (1 - weight) · q) of log-probabilities, for a weight between 0 and 1."""
    return torch.logaddexp(first + math.log(weight), second + math.log1p(-weight))


@without_autocast
def divergence(
    student: Tensor,
    teacher: Tensor,
    kind: str = "kl",
    *,
    mixture: float = 0.0,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    count: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """The mean divergence of two sets of logits, with its gradient at the student's.

    With s and t the softmax over the classes of the logits over T, and μ the ``mixture``, a row's value is

        kl             KL(t ‖ μ t + (1 - μ) s)
        reverse_kl     KL(s ‖ μ s + (1 - μ) t)
        cross_entropy  -Σ t log(μ t + (1 - μ) s)
        jsd            μ KL(t ‖ m) + (1 - μ) KL(s ‖ m),   m = μ t + (1 - μ) s;   KL(t ‖ s) at μ = 0, KL(s ‖ t) at 1
        tvd            ½ Σ |t - s|

    and the result the mean over the N rows that the mask counts. There is no T². An infinite logit counts as one of
    1e30; whether the gradient at one of the student's is that of 1e30 or 0 depends on the path that is taken. What lies
    where the mask is False is never looked at. KL falls with T², its rounding with T: at T = 1000 a value of float32
    logits has two digits.

    Args:
        student: (B, C) or (B, S, C), float32, bfloat16, float16 or float64, of any strides.
        teacher: of the same shape and type; without gradient.
        kind: one of the above.
        mixture: μ, 0 up to but not 1; for ``jsd`` 0 to 1; for ``tvd`` it has no meaning.
        temperature: T, above 0.
        mask: (B, S), 1 or True where a position is real.
        count: the number to divide by in place of N, a tensor of one element.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Shapes:
        student, teacher: (B, C), (B, S, C) with an optional mask (B, S), or (B, M, S, C) with the same.

    Returns:
        A scalar: float64 for float64 input, float32 for the rest.

    Raises:
        KernelError: for an unknown kind, a number out of range, shapes, types or devices that do not go together, or a
            backend that is not there.

    References:
        Milakov & Gimelshein 2018, Online normalizer calculation for softmax. https://arxiv.org/abs/1805.02867

    Examples:
        >>> import torch
        >>> from kdzoo.kernels.divergence import divergence
        >>> student, teacher = torch.randn(4, 30522, requires_grad=True), torch.randn(4, 30522)
        >>> divergence(student, teacher, "jsd", mixture=0.5, temperature=2.0).backward()
    """
    kind, mixture = checked("divergence", kind, mixture, temperature)
    if operator.plain(student, backend):
        return divergence_reference(
            student, teacher, kind, mixture=mixture, temperature=temperature, mask=mask, count=count
        )
    return operator(student, teacher, mask, count, backend, kind, mixture, float(temperature))


def checked(kernel: str, kind: str, mixture: float, temperature: float) -> tuple[str, float]:
    """The kind and its mixture; a JSD at its ends as the KL that it is."""
    if kind not in KINDS:
        raise KernelError(f"{kernel}: kind {kind!r} is not known; it is one of {', '.join(KINDS)}")
    wrong = why_not_positive(temperature)
    if wrong is not None:
        raise KernelError(f"{kernel}: temperature is {wrong}")
    if kind == "jsd" and mixture in (0, 1):
        kind, mixture = ("reverse_kl" if mixture else "kl"), 0.0
    if not 0 <= mixture < 1:
        bounds = "0 to 1" if kind == "jsd" else "0 to 1, without 1"
        raise KernelError(f"{kernel}: mixture is {mixture}; for {kind} it lies in {bounds}")
    return kind, float(mixture)


def _block(
    student: Tensor,
    teacher: Tensor,
    buffers: rows.Buffers,
    gradient: Tensor | None,
    scale: Tensor | float,
    kind: str,
    mixture: float,
    temperature: float,
) -> Tensor:
    """The values of rows, and their gradients where they go, as `rows.Block` says."""
    if kind == "kl" and not mixture and student.numel() >= MANY and on_host(student.device):
        found = _near(student, teacher, buffers, gradient, scale, temperature)
        if found is not None:
            return found
    values, slope, factor = _valued(student, teacher, buffers, kind, mixture, temperature)
    if gradient is not None:
        torch.mul(slope, scale * factor, out=gradient)
    return values


def _valued(
    student: Tensor, teacher: Tensor, buffers: rows.Buffers, kind: str, mixture: float, temperature: float
) -> tuple[Tensor, Tensor, float]:
    """The values of rows, their gradients but for a factor, and that factor."""
    x, y, s, t = buffers
    student, teacher = _softened(student, temperature, x), _softened(teacher, temperature, y)
    if not mixture and kind != "tvd":
        return (*_unmixed(student, teacher, buffers, kind), 1 / temperature)
    torch.softmax(student, -1, out=s)
    torch.softmax(teacher, -1, out=t)
    factor = 1 - mixture
    if kind == "tvd":
        apart = torch.sub(s, t, out=x)
        slope, factor = torch.sign(apart, out=y).mul_(s), 0.5
        values = apart.abs_().sum(-1) / 2
    elif kind == "jsd":
        m = torch.lerp(s, t, mixture, out=x).clamp_min_(TINY)
        values = torch.div(t, m, out=y).clamp_min_(TINY).log_().mul_(t).sum(-1) * mixture
        slope = torch.div(s, m, out=y).clamp_min_(TINY).log_().mul_(s)
        values += slope.sum(-1) * factor
    else:
        first, other = (s, t) if kind == "reverse_kl" else (t, s)
        m = torch.lerp(other, first, mixture, out=x).clamp_min_(TINY)
        share = torch.div(first, m, out=y)
        ratio = None if kind == "cross_entropy" else share.clamp_min(TINY).log_()
        values = -m.log_().mul_(first).sum(-1) if ratio is None else m.sub_(first).addcmul_(first, ratio).sum(-1)
        # The ones add up to a multiple of s, which the centring takes away; with them, equal sides have slopes of zero.
        slope = share.neg_().add_(1)
        if kind == "reverse_kl" and ratio is not None:
            slope, factor = slope.mul_(mixture).add_(ratio), 1.0
        slope.mul_(s)
    return values, _centred(slope, s), factor / temperature


def _near(
    student: Tensor,
    teacher: Tensor,
    buffers: rows.Buffers,
    gradient: Tensor | None,
    scale: Tensor | float,
    temperature: float,
) -> Tensor | None:
    """As `_block` for KL, in fewer passes; None where some of the logits are so far apart that exponentials need care.

    Neither side's probabilities are made: where all logits lie near to one number, exponentials of their differences
    from it, and the sums of these, neither overflow nor underflow.
    """
    ends = [[end.item() / temperature for end in torch.aminmax(side)] for side in (student, teacher)]
    if not all(most - least <= SPREAD for least, most in ends):
        return None
    logits, sums, powers = [], [], []
    # Only now: the rows may lie in the buffers, and a caller that is given None reads them as they were.
    for place, (side, (least, most)) in enumerate(zip((student, teacher), ends, strict=True)):
        middle = (least + most) / 2
        if temperature != 1:
            side = torch.mul(side, 1 / temperature, out=buffers[place])
        if abs(middle) > CLOSE:
            side = torch.sub(side, middle, out=buffers[place])
        room = buffers[2] if place else buffers[3] if gradient is None else gradient
        logits.append(side)
        powers.append(torch.exp(side, out=room))
        sums.append(room.sum(-1, keepdim=True))
    (s, t), (one, other) = powers, sums
    apart = torch.sub(logits[1], logits[0], out=buffers[0])
    # Of the rounded sums, in float64: then an error in them does not enter the value, as below.
    values = (one.double() / other.double()).log_().to(one.dtype)
    factor = 1.0 if gradient is None else scale / temperature
    # Each by itself, so that the slopes of equal sides are exactly 0.
    s.mul_(one.reciprocal_().mul_(factor))
    t.mul_(other.reciprocal_().mul_(factor))
    values = values.mul_(factor).add_(apart.mul_(t).sum(-1, keepdim=True))
    # Both probabilities sum to one, so that their difference adds 0; with it, an error in the sums adds none either.
    return values.add_(s.sub_(t).sum(-1, keepdim=True)).div_(factor).squeeze(-1)


def _softened(logits: Tensor, temperature: float, buffer: Tensor) -> Tensor:
    """Logits over the temperature, none beyond `LIMIT`; in the buffer, or as they are where nothing is to be done."""
    if logits.numel() and on_host(logits.device) and _within(*torch.aminmax(logits)):
        return logits if temperature == 1 else torch.div(logits, temperature, out=buffer)
    torch.clamp(logits, -LIMIT, LIMIT, out=buffer)
    return buffer if temperature == 1 else buffer.div_(temperature)


def _unmixed(student: Tensor, teacher: Tensor, buffers: rows.Buffers, kind: str) -> tuple[Tensor, Tensor]:
    x, y, log_s, log_t = buffers
    torch.log_softmax(student, -1, out=log_s)
    torch.log_softmax(teacher, -1, out=log_t)
    s, t = torch.exp(log_s, out=x), torch.exp(log_t, out=y)
    # Both sum to one, so that their difference adds 0; with it, an error in the sums does not enter the value.
    if kind == "reverse_kl":
        ratio = log_s.sub_(log_t)
        values = torch.sub(t, s, out=log_t).addcmul_(s, ratio).sum(-1)
        return values, _centred(ratio.mul_(s), s)
    if kind == "kl":
        ratio = log_t.sub_(log_s).mul_(t)
        return ratio.add_(s.sub_(t)).sum(-1), s
    return -log_s.mul_(t).sum(-1), s.sub_(t)


def _centred(slope: Tensor, s: Tensor) -> Tensor:
    """The gradient at the logits from that at log s."""
    return slope.addcmul_(s, slope.sum(-1, keepdim=True), value=-1)


# With Triton: a program for a row, or for several short ones


def _triton(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    inverse: Tensor,
    gradient: Tensor | None,
    kind: str,
    mixture: float,
    temperature: float,
) -> Tensor:
    from kdzoo.kernels.divergence import triton_kernels

    return rows.launch(
        triton_kernels.rows_kernel,
        student,
        teacher,
        mask,
        inverse,
        gradient,
        mixture,
        1 / temperature,
        tile=tiling(student, 4096 if kind == "reverse_kl" and not mixture else 8192),
        KIND=kind,
        MIXED=mixture > 0,
        LIMIT=LIMIT,
        TINY=TINY,
    )


def tiling(student: Tensor, widest: int) -> tuple[int, int, int]:
    """Rows of a program, their columns at a time (the widest tile by how much is summed up), and warps.

    A long row has a multiprocessor to itself: of the fewer rows that are read at once, more is still in the L2 cache
    when they are read again.
    """
    width = student.shape[-1]
    columns = min(power_of_2(width), widest)
    if columns > 1024:
        return 1, columns, columns // 512
    together = min(power_of_2(student.numel() // width), 1024 // columns, 32)
    # By what the compiler makes of them without a spill.
    return together, columns, max(1, together * columns // (128 if columns > 128 else 256))


def _simple(student: Tensor, teacher: Tensor, kind: str, mixture: float, temperature: float) -> Tensor | None:
    """KL of logits none of which is infinite; None otherwise, which the value shows."""
    if kind != "kl" or mixture or temperature > WARM or student.dtype not in (torch.float32, torch.float64):
        return None
    with torch.no_grad():
        target = (teacher if temperature == 1 else teacher / temperature).log_softmax(-1)
        weight = target.exp().div_(student.numel() // student.shape[-1])
    own = (student if temperature == 1 else student / temperature).log_softmax(-1)
    value = (target - own).mul(weight).sum()
    return value if abs(value.item()) < LARGE else None


operator = rows.Operator(
    "divergence",
    "str kind, float mixture, float temperature",
    _block,
    _triton,
    room=1024.0,
    simple=_simple,
    few=MANY,
)
