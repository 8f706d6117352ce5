"""Contrastive representation distillation (Tian et al. 2020): noise contrast against a bank of the data set."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdzoo.distributed import gather_rows, mean_over_processes
from kdzoo.errors import KdzooError, unknown
from kdzoo.kernels.backend import BACKENDS
from kdzoo.kernels.crd_nce import EPSILON, crd_nce, crd_nce_sums, crd_nce_update
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_count, check_positive
from kdzoo.losses.reduction import affine, masked_mean, unit_vectors
from kdzoo.losses.registry import register
from kdzoo.models.shape import ModelShape
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe, TermSpec

BANKS = ("dataset", "queue", "batch")


@register("crd")
class CRD(DistillationLoss):
    """Noise-contrastive estimation of a row's own pair among K rows drawn from a bank of past embeddings.

    Two linear maps with bias embed student and teacher as unit vectors e_s and e_t. Per side, here the
    student's, with p_j = exp(e_s · bank_t[j] / τ) / Z_s and j = 0 the row itself:

        -1/B · Σ_i [ log p_0 / (p_0 + K/n + 1e-7) + Σ_k log (K/n) / (p_k + K/n + 1e-7) ]

    The teacher's scores its embedding against the student's bank, and the two sides are added. Z is the mean
    of the first training batch's exponentials times n, and fixed from then on. After scoring, in training
    mode, the banks' rows of this batch become normalise(m · old + (1 - m) · new). Under torch.distributed
    every process makes the updates of all; give them the same seed, so that their banks start alike.

    Against a bank both sides are one operator, which scores negatives as it reads them and writes the gradients with
    the value: no (B, K, feature_dim) tensor is made.

    Args:
        num_samples: n, rows of the data set, which ``sample_ids`` number from 0; or the length of the queue.
            Not needed for ``bank="batch"``.
        feature_dim: width of the embeddings.
        num_negatives: K, drawn uniformly and with replacement; it may exceed n. Not used for
            ``bank="batch"``.
        temperature: τ, above 0.
        momentum: m, 0 to 1.
        student_dim: width of the student's vectors. Must be given.
        teacher_dim: width of the teacher's. Must be given.
        bank: ``"dataset"``, the paper's: one row of either bank for each row of the data set, 8 · n ·
            feature_dim bytes in all. ``"queue"``: the last ``num_samples`` embeddings of either side,
            whatever their ids; the positive is the row's fresh embedding of the other side. ``"batch"``: no
            bank; the negatives are the other rows of the batch (of all processes), K = n - 1 with n rows;
            one row alone keeps its positive.
        variant: ``"paper"``, the only one.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it against a bank.

    Shapes:
        student: (B, student_dim). No mask.
        teacher: (B, teacher_dim).
        sample_ids: (B,) integers, for ``bank="dataset"`` alone. Where an id comes twice in a batch its last
            row is what the bank keeps.
        contrast_ids: (B, K) rows of the bank to take as negatives instead of drawing them, or (B, K + 1)
            with the row itself first, as the authors' code has it. Not for ``bank="batch"``.

    Raises:
        KdzooError: for options out of range, widths that do not fit, a mask, missing ids, or (on a CPU) ids
            out of range.

    References:
        Tian, Krishnan, Isola: Contrastive Representation Distillation, equations 9, 10 and 18.
        https://arxiv.org/abs/1910.10699

    See also:
        ``info_nce``, a softmax over the batch in place of K + 1 binary choices.

    Examples:
        >>> import kdzoo, torch
        >>> loss = kdzoo.create("crd", num_samples=100, num_negatives=50, student_dim=16, teacher_dim=32)
        >>> student = torch.randn(8, 16, requires_grad=True)
        >>> loss(student, torch.randn(8, 32), sample_ids=torch.arange(8)).backward()
    """

    features: ClassVar[tuple[str, ...]] = ("cls",)
    needs = frozenset({"sample_ids"})
    extras = frozenset({"contrast_ids"})
    top_only = True
    contrastive = True
    formula = (
        r"-\frac{1}{B} \sum_i \left[ \log \frac{p_{i0}}{p_{i0} + K/n + \epsilon} "
        r"+ \sum_{k=1}^{K} \log \frac{K/n}{p_{ik} + K/n + \epsilon} \right], \quad "
        r"p_{ij} = \frac{1}{Z} \exp(e_s(s_i) \cdot b_{ij} / \tau)"
    )
    complexity = "O(B·K·F) for embeddings of width F"
    related = ("info_nce", "cos_nce")
    paper = "Tian et al. 2020, Contrastive Representation Distillation"
    year = 2020
    url = "https://arxiv.org/abs/1910.10699"

    def __init__(
        self,
        num_samples: int | None = None,
        feature_dim: int = 128,
        num_negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        *,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        bank: str = "dataset",
        variant: str = "paper",
        backend: str = "auto",
    ) -> None:
        super().__init__(variant=variant)
        if backend not in BACKENDS:
            raise unknown(f"backend of {self.label}", backend, BACKENDS)
        self.backend = backend
        if bank not in BANKS:
            raise unknown(f"bank of {self.label}", bank, BANKS)
        if student_dim is None or teacher_dim is None:
            raise KdzooError(f"{self.label} embeds both sides, so it needs student_dim= and teacher_dim=")
        if bank != "batch" and num_samples is None:
            raise KdzooError(f"{self.label} needs num_samples=, the rows of the data set or the queue's length")
        check_positive(self.label, temperature=temperature)
        check_count(
            self.label,
            feature_dim=feature_dim,
            num_negatives=num_negatives,
            student_dim=student_dim,
            teacher_dim=teacher_dim,
            num_samples=1 if num_samples is None else num_samples,
        )
        if not 0 <= momentum <= 1:
            raise KdzooError(f"{self.label}: momentum is {momentum}; it must be from 0 to 1")
        self.bank = bank
        self.temperature = temperature
        self.momentum = momentum
        self.num_negatives = num_negatives
        self.embed_student = nn.Linear(student_dim, feature_dim)
        self.embed_teacher = nn.Linear(teacher_dim, feature_dim)
        # Not of shape (): torch.compile loses an update in place of a buffer that is one float64 number.
        self.register_buffer("z_student", torch.zeros(1))
        self.register_buffer("z_teacher", torch.zeros(1))
        if bank != "dataset":
            self.needs = frozenset()
        if num_samples is not None and bank != "batch":
            bound = math.sqrt(3 / feature_dim)
            for side in ("student_bank", "teacher_bank"):
                self.register_buffer(side, torch.empty(num_samples, feature_dim).uniform_(-bound, bound))
        if bank == "queue":
            self.register_buffer("position", torch.zeros(1, dtype=torch.long))

    z_student: Tensor
    z_teacher: Tensor
    student_bank: Tensor
    teacher_bank: Tensor
    position: Tensor

    @staticmethod
    def bank_bytes(num_samples: int, feature_dim: int = 128) -> int:
        """What the two banks take, in bytes of float32."""
        return 2 * num_samples * feature_dim * 4

    @classmethod
    def fit(
        cls,
        options: dict[str, Any],
        *,
        feature: str,
        student: ModelShape,
        teacher: ModelShape,
        num_samples: int | None,
        **context: Any,
    ) -> dict[str, Any]:
        options.setdefault("student_dim", student.hidden_size)
        options.setdefault("teacher_dim", teacher.hidden_size)
        bank = options.get("bank", "dataset")
        if bank == "dataset" and num_samples is not None:
            options.setdefault("num_samples", num_samples)
            options.setdefault("num_negatives", min(16384, max(num_samples - 1, 1)))
        rows, width, free = options.get("num_samples"), options.get("feature_dim", 128), _free_memory()
        if bank in ("dataset", "queue") and isinstance(rows, int) and isinstance(width, int) and free is not None:
            size = cls.bank_bytes(rows, width)
            if size > free:
                raise KdzooError(
                    f"{cls.name}: a bank of {rows} rows takes {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; "
                    'take bank="queue" with num_samples= for its length, or bank="batch"'
                )
        return options

    def compute(  # type: ignore[override]
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        mask: Tensor | None,
        sample_ids: Tensor | None = None,
        contrast_ids: Tensor | None = None,
    ) -> Tensor:
        widths = (self.embed_student.in_features, self.embed_teacher.in_features)
        rows = len(student)
        if mask is not None or (*student.shape, *teacher.shape) != (rows, widths[0], rows, widths[1]):
            given = "" if mask is None else f" and a mask {tuple(mask.shape)}"
            raise KdzooError(
                f"{self.label} compares (B, {widths[0]}) with (B, {widths[1]}), without a mask; got student "
                f"{tuple(student.shape)} and teacher {tuple(teacher.shape)}{given}"
            )
        ours, theirs = (
            unit_vectors(affine(self.embed_student, student)),
            unit_vectors(affine(self.embed_teacher, teacher)),
        )
        if self.bank == "batch":
            if contrast_ids is not None:
                raise KdzooError(f'{self.label}: bank="batch" takes the batch\'s rows, not contrast_ids')
            return masked_mean(self._within_batch(ours, theirs))
        value = self._contrast(ours, theirs, sample_ids, self._ids(rows, sample_ids, contrast_ids))
        if self.training:
            self._remember(ours, theirs, sample_ids)
        return value

    def _ids(self, rows: int, sample_ids: Tensor | None, contrast_ids: Tensor | None) -> Tensor:
        """The negatives' rows in the banks (B, K); with the positives' checked."""
        size = len(self.student_bank)
        if self.bank == "dataset":
            self._check_sample_ids(rows, sample_ids)
        drawn = self.num_negatives
        if contrast_ids is None:
            return torch.randint(size, (rows, drawn), device=self.student_bank.device)
        columns = (drawn, drawn + 1) if self.bank == "dataset" else (drawn,)
        if contrast_ids.dim() != 2 or len(contrast_ids) != rows or contrast_ids.shape[1] not in columns:
            raise KdzooError(
                f"{self.label}: contrast_ids {tuple(contrast_ids.shape)} must be ({rows}, {drawn}), or with each "
                f'row itself first ({rows}, {drawn + 1}) (bank="dataset" only)'
            )
        self._check_ids("contrast_ids", contrast_ids, size)
        if contrast_ids.shape[1] > drawn and sample_ids is not None and _at_hand(contrast_ids):
            other = (contrast_ids[:, 0] != sample_ids).nonzero()
            if len(other):
                row = int(other[0])
                raise KdzooError(
                    f"{self.label}: contrast_ids has {int(contrast_ids[row, 0])} first in row {row}, which is "
                    f"sample_ids {int(sample_ids[row])}: {drawn + 1} columns are the row itself and {drawn} negatives"
                )
        return contrast_ids[:, -drawn:].long()

    def _check_sample_ids(self, rows: int, sample_ids: Tensor | None) -> None:
        if sample_ids is None or sample_ids.shape != (rows,):
            given = None if sample_ids is None else tuple(sample_ids.shape)
            raise KdzooError(f"{self.label}: sample_ids {given} must be ({rows},), one for each row")
        self._check_ids("sample_ids", sample_ids, len(self.student_bank))

    def _check_ids(self, name: str, ids: Tensor, size: int) -> None:
        if ids.is_floating_point():
            raise KdzooError(f"{self.label}: {name} are integers, got {ids.dtype}")
        if _at_hand(ids):
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= size:
                raise KdzooError(
                    f"{self.label}: {name} has {low if low < 0 else high}; with num_samples={size} it is 0 to "
                    f"{size - 1}"
                )

    def _contrast(self, ours: Tensor, theirs: Tensor, sample_ids: Tensor | None, ids: Tensor) -> Tensor:
        """Both sides' mean over the rows of all processes, against the banks."""
        positives = None if self.bank == "queue" or sample_ids is None else sample_ids.long()
        banks = self.student_bank.to(ours.dtype), self.teacher_bank.to(theirs.dtype)
        options: dict[str, Any] = {
            "sample_ids": positives,
            "temperature": self.temperature,
            "backend": self.backend,
        }
        known = torch.cat([self.z_student, self.z_teacher]).to(ours.dtype)
        sums = crd_nce_sums(ours, theirs, *banks, ids, known, **options)
        normaliser = self._normaliser(sums, ids.numel() + len(ids), len(banks[0]))
        count = mean_over_processes(torch.full((), float(len(ours)), device=ours.device))
        return crd_nce(ours, theirs, *banks, ids, normaliser, count=count, **options)

    def _normaliser(self, sums: Tensor, scores: int, size: int) -> Tensor:
        """Z of both sides (2,): as kept or, from the sums of the first batch's exponentials, their mean · n."""
        known = torch.cat([self.z_student, self.z_teacher]).to(sums.dtype)
        counted = mean_over_processes(torch.full((), float(scores), device=sums.device))
        normaliser = torch.where(known > 0, known, (mean_over_processes(sums) / counted).to(sums.dtype) * size)
        if self.training:
            self.z_student.copy_(normaliser[:1])
            self.z_teacher.copy_(normaliser[1:])
        return normaliser

    def _within_batch(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Losses (B,), the negatives being the other rows of the batch."""
        (student_bank, start), (teacher_bank, _) = gather_rows(ours), gather_rows(theirs)
        size = len(student_bank)
        sides = (ours @ teacher_bank.T / self.temperature, theirs @ student_bank.T / self.temperature)
        normaliser = self._normaliser(torch.stack([side.exp().sum() for side in sides]), sides[0].numel(), size)
        noise = (size - 1) / size
        losses = ours.new_zeros(len(ours))
        for scores, z in zip(sides, normaliser, strict=True):
            # With u = log p - log(K/n + ε), log p / (p + K/n + ε) is logsigmoid(u), and the noise's is logsigmoid(-u)
            # less log(1 + ε n / K).
            odds = scores - z.log() - math.log(noise + EPSILON)
            own = odds.diagonal(start)
            others = torch.ones_like(odds, dtype=torch.bool).diagonal_scatter(torch.zeros_like(own).bool(), start)
            losses = losses - F.logsigmoid(own) - torch.where(others, F.logsigmoid(-odds), 0.0).sum(1)
            if size > 1:
                losses = losses + (size - 1) * math.log1p(EPSILON / noise)
        return losses

    @torch.no_grad()
    def _remember(self, ours: Tensor, theirs: Tensor, sample_ids: Tensor | None) -> None:
        """Take the embeddings of all processes into the banks."""
        (ours, _), (theirs, _) = gather_rows(ours), gather_rows(theirs)
        order = torch.arange(len(ours), device=ours.device)
        if self.bank == "queue":
            ids = (self.position + order) % len(self.student_bank)
            self.position.copy_((self.position + len(ours)) % len(self.student_bank))
        else:
            assert sample_ids is not None
            ids, _ = gather_rows(sample_ids.long())
        dtype, momentum = self.student_bank.dtype, 0.0 if self.bank == "queue" else self.momentum
        banks = self.student_bank, self.teacher_bank
        crd_nce_update(*banks, ours.to(dtype), theirs.to(dtype), ids, momentum=momentum, backend=self.backend)


def _free_memory() -> int | None:
    """Free bytes of the accelerator, or of the machine without one; None where the system does not say."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    try:
        # The system's own estimate: free pages alone would leave out the file cache, which makes room when asked.
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


WEIGHT = 0.05
MEASURED = (
    " Measured on three synthetic tasks (kdzoo compare, one epoch, two seeds; average): 52.0 at 0.8, 65.0 "
    "at 0.2, 67.0 at "
    "0.05, 63.9 at 0.0125, 63.8 without it."
)


def _at_hand(ids: Tensor) -> bool:
    """Whether a look at the values is cheap; on an accelerator it would stop the host at every step."""
    return ids.device.type == "cpu" and not torch.compiler.is_compiling() and ids.numel() > 0


@register_recipe("crd")
def crd() -> Recipe:
    """Labels and contrast, on the last layer's CLS state, the contrast as heavy as the labels."""
    return _recipe("crd", "labels and contrast with a bank of the data set, on the last CLS state")


@register_recipe("crd_published")
def crd_published() -> Recipe:
    """The same with the weight that was found for images."""
    title = "crd with its published weight, at which the contrast drowns the labels of a text task"
    return _recipe("crd_published", title, published=True)


@register_recipe("crd_kd")
def crd_kd() -> Recipe:
    """The same with softened classes, as the paper's CRD+KD."""
    from kdzoo.objectives.recipe import TermSpec

    kd = TermSpec(loss="kd", temperature=4.0)
    return _recipe("crd_kd", "labels, softened classes and contrast with a bank of the data set", kd)


def _recipe(name: str, title: str, *more: TermSpec, published: bool = False) -> Recipe:
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, TermSpec

    script = "RepDistiller's run_cifar_distill.sh and train_student.py"
    kept = (f"{term.loss}.{key}" for term in more for key in ("weight", "temperature"))
    weight = (
        Source(origin="authors", where="RepDistiller's run_cifar_distill.sh", of=("crd.weight",))
        if published
        else Source(origin="ours", where="measured: see the notes", of=("crd.weight",))
    )
    measured = (
        f" Its value is some fifteen times the cross-entropy's, so that the published weight of 0.8, found on images, "
        f"leaves the labels next to nothing. Here it is {WEIGHT}, which brings both to one size; crd_published has 0.8."
    )
    return Recipe(
        name=name,
        title=title,
        citation=Citation(
            authors="Tian, Y., Krishnan, D., Isola, P.",
            title="Contrastive Representation Distillation",
            venue="ICLR",
            year=2020,
            url="https://arxiv.org/abs/1910.10699",
        ),
        stages=(Stage(terms=(TermSpec(loss="ce"), *more, TermSpec(loss="crd", weight=0.8 if published else WEIGHT))),),
        notes="K = 16384 negatives, or as many as the other rows of a smaller training set."
        + ("" if published else measured + MEASURED),
        sources=(
            Source(origin="authors", where=script, of=("ce.weight", *kept, "crd.temperature")),
            Source(
                origin="authors",
                where="RepDistiller's train_student.py; no more negatives than other rows",
                of=("crd.feature_dim", "crd.num_negatives", "crd.momentum"),
            ),
            weight,
            Source(
                origin="ours", where="the vector before the head; the paper has the last of images", of=("crd.layers",)
            ),
        ),
    )
