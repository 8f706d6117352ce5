"""The calls and the operators of `crd_nce`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.kernels.backend import Decision, accumulator, choose, on_host, unit_vectors
from kdzoo.kernels.crd_nce import blocks, launch
from kdzoo.kernels.crd_nce.checks import check
from kdzoo.kernels.crd_nce.reference import EPSILON
from kdzoo.kernels.layout import divisor
from kdzoo.kernels.operators import Operator, called, custom_op, gradient_room, without_autocast

MAX_WIDTH = 1024  # in Triton rows are held in registers whole


@without_autocast
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
    check(student, teacher, student_bank, teacher_bank, ids, normaliser, sample_ids, temperature)
    grad = torch.is_grad_enabled() and (student.requires_grad or teacher.requires_grad)
    return _operator(
        student,
        teacher,
        student_bank.detach(),
        teacher_bank.detach(),
        ids,
        normaliser.detach().to(accumulator(student.dtype)),
        sample_ids,
        divisor(student, None, count),
        temperature,
        grad,
        backend,
    )


@without_autocast
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
    check(student, teacher, student_bank, teacher_bank, ids, known, sample_ids, temperature)
    tensors = (tensor.detach() for tensor in (student, teacher, student_bank, teacher_bank))
    sums: Tensor = called("crd_nce_sums", *tensors, ids, known.detach(), sample_ids, temperature, backend)
    return sums


@without_autocast
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
    check(student, teacher, student_bank, teacher_bank, sample_ids.unsqueeze(-1), None, sample_ids, 1.0)
    tensors = (student_bank, teacher_bank, student.detach(), teacher.detach())
    called("crd_nce_update", *tensors, sample_ids, momentum, backend)


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
    gradients = gradient_room(student, with_gradient), gradient_room(student, with_gradient)
    drawn, noise = ids.shape[1], ids.shape[1] / max(len(student_bank), 1)
    # With u = log p - log(K/n + ε), -log p / (p + K/n + ε) is softplus(-u), and the noise's is softplus(u) and
    # log(1 + ε n / K).
    shifts = normaliser.log() + math.log(noise + EPSILON)
    constant = 2 * len(student) * drawn * math.log1p(EPSILON / noise) if drawn else 0.0
    value = torch.full((), constant, dtype=shifts.dtype, device=shifts.device)
    sides = tuple(side.to(accumulator(side.dtype)) for side in (student, teacher))
    slopes = [torch.zeros_like(side) for side in sides]
    contrast = (launch if _fused(student, backend) else blocks).contrast
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


_operator = Operator(
    "crd_nce",
    run,
    "Tensor student, Tensor teacher, Tensor student_bank, Tensor teacher_bank, Tensor ids, Tensor normaliser, "
    "Tensor? sample_ids, Tensor count, float temperature, bool with_gradient, str backend",
    wanted=9,
    sources=2,
    count=7,
)


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
            if on_host(z.device) and z > 0:
                continue
            own, positives = (rows.to(sums.dtype) for rows in (anchors, _positives(others, bank, sample_ids)))
            if fused:
                total, _ = launch.contrast(anchors, bank, ids, z, temperature, False, sums=True)
            else:
                total = blocks.scores_of(own, bank.to(sums.dtype), ids).div_(temperature).exp_().sum()
            total = total + ((own * positives).sum(-1) / temperature).exp().sum()
            sums[side] = torch.where(z > 0, 0.0, total)
    return sums


custom_op(
    "crd_nce_sums",
    run_sums,
    "(Tensor student, Tensor teacher, Tensor student_bank, Tensor teacher_bank, Tensor ids, Tensor known, "
    "Tensor? sample_ids, float temperature, str backend) -> Tensor",
    lambda student, *_: student.new_empty(2, dtype=accumulator(student.dtype)),
)


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
                launch.update(bank, new, sample_ids, momentum)
                continue
            # Where an id comes twice, both write what its last row says: on a GPU either might come last.
            order = torch.arange(len(sample_ids), device=bank.device)
            last = torch.where(sample_ids.unsqueeze(1) == sample_ids, order, -1).amax(1) if len(order) else order
            dtype = accumulator(bank.dtype)
            mixed = torch.lerp(new[last].to(dtype), bank[sample_ids].to(dtype), momentum)
            bank.index_copy_(0, sample_ids, unit_vectors(mixed).to(bank.dtype))


custom_op(
    "crd_nce_update",
    run_update,
    "(Tensor(a!) student_bank, Tensor(b!) teacher_bank, Tensor student, Tensor teacher, Tensor sample_ids, "
    "float momentum, str backend) -> ()",
    lambda *_: None,
    mutates_args=("student_bank", "teacher_bank"),
)


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
