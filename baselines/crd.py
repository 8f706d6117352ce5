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
from kdzoo.loss import DistillationLoss, ModelShape, affine, check_positive, masked_mean, unit
from kdzoo.registry import register, register_recipe

if TYPE_CHECKING:
    from kdzoo.recipe import Recipe, TermSpec

EPSILON = 1e-7
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
    complexity = "O(B·n·F) for banks of n ≤ B·K rows of width F, with B·n memory; O(B·K·F) in both beyond"
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
    ) -> None:
        super().__init__(variant=variant)
        if bank not in BANKS:
            raise unknown(f"bank of {self.label}", bank, BANKS)
        if student_dim is None or teacher_dim is None:
            raise KdzooError(f"{self.label} embeds both sides, so it needs student_dim= and teacher_dim=")
        if bank != "batch" and num_samples is None:
            raise KdzooError(f"{self.label} needs num_samples=, the rows of the data set or the queue's length")
        check_positive(
            self.label,
            temperature=temperature,
            feature_dim=feature_dim,
            num_negatives=num_negatives,
            student_dim=student_dim,
            teacher_dim=teacher_dim,
            num_samples=1 if num_samples is None else num_samples,
        )
        if not 0 <= momentum <= 1:
            raise KdzooError(f"{self.label}: momentum is {momentum}; it must lie in 0 to 1")
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
        ours, theirs = unit(affine(self.embed_student, student)), unit(affine(self.embed_teacher, teacher))
        student_bank, teacher_bank, positives, ids = self._candidates(ours, theirs, sample_ids, contrast_ids)
        losses = self._contrast(ours, teacher_bank, positives[1], ids, self.z_student)
        losses = losses + self._contrast(theirs, student_bank, positives[0], ids, self.z_teacher)
        if self.training and self.bank != "batch":
            self._remember(ours, theirs, sample_ids)
        return masked_mean(losses)

    def _candidates(
        self, ours: Tensor, theirs: Tensor, sample_ids: Tensor | None, contrast_ids: Tensor | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
        """Both banks, both sides' positives (B, F), and the negatives' rows in the banks (B, K)."""
        rows, device = len(ours), ours.device
        if self.bank == "batch":
            if contrast_ids is not None:
                raise KdzooError(f'{self.label}: bank="batch" takes the batch\'s rows, not contrast_ids')
            (student_bank, own), (teacher_bank, _) = gather_rows(ours), gather_rows(theirs)
            everyone = len(student_bank)
            ids = torch.arange(rows, device=device).unsqueeze(1) + own + torch.arange(1, everyone, device=device)
            return student_bank, teacher_bank, (ours, theirs), ids % everyone
        banks = self.student_bank.to(ours.dtype), self.teacher_bank.to(theirs.dtype)
        size = len(banks[0])
        if contrast_ids is None:
            ids = torch.randint(size, (rows, self.num_negatives), device=device)
        else:
            drawn = self.num_negatives
            columns = (drawn, drawn + 1) if self.bank == "dataset" else (drawn,)
            if contrast_ids.dim() != 2 or len(contrast_ids) != rows or contrast_ids.shape[1] not in columns:
                raise KdzooError(
                    f"{self.label}: contrast_ids {tuple(contrast_ids.shape)} must be ({rows}, {drawn}), or with each "
                    f'row itself first ({rows}, {drawn + 1}) (bank="dataset" only)'
                )
            self._check_ids("contrast_ids", contrast_ids, size)
            ids = contrast_ids[:, -drawn:].long()
        if self.bank == "queue":
            return *banks, (ours, theirs), ids
        if sample_ids is None or sample_ids.shape != (rows,):
            given = None if sample_ids is None else tuple(sample_ids.shape)
            raise KdzooError(f"{self.label}: sample_ids {given} must be ({rows},), one for each row")
        self._check_ids("sample_ids", sample_ids, size)
        return *banks, (bank_rows(banks[0], sample_ids), bank_rows(banks[1], sample_ids)), ids

    def _check_ids(self, name: str, ids: Tensor, size: int) -> None:
        if ids.is_floating_point():
            raise KdzooError(f"{self.label}: {name} are integers, got {ids.dtype}")
        # On an accelerator this look at the values would stop the host at every step.
        if ids.device.type == "cpu" and not torch.compiler.is_compiling() and ids.numel():
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high >= size:
                raise KdzooError(
                    f"{self.label}: {name} has {low if low < 0 else high}; with num_samples={size} it is 0 to "
                    f"{size - 1}"
                )

    def _contrast(self, anchors: Tensor, bank: Tensor, positives: Tensor, ids: Tensor, z: Tensor) -> Tensor:
        """One side's losses (B,).

        Args:
            anchors: (B, F) the side's embeddings.
            bank: (n, F) the other side's.
            positives: (B, F) the rows' own in it.
            ids: (B, K) the negatives' rows in the bank.
            z: the buffer that holds the side's Z, 0 until it is known.
        """
        size, drawn = len(bank), ids.shape[1]
        # A kept bank is updated in place after scoring, before autograd would look at it.
        kept = self.bank != "batch"
        against = anchors.detach() if kept else anchors
        # Few rows, drawn often: all products once are cheaper than copying B·K rows of the bank.
        whole = size <= ids.numel()
        if whole:
            negatives = (against @ bank.T).gather(1, ids)
        else:
            chosen = bank_rows(bank, ids) if kept else bank[ids]
            negatives = torch.einsum("bf,bkf->bk", against, chosen)
        scores = torch.cat([(anchors * positives).sum(-1, keepdim=True), negatives], dim=1) / self.temperature
        counted = mean_over_processes(torch.full((), float(scores.numel()), device=scores.device))
        first = (mean_over_processes(scores.exp().sum()) / counted).to(scores.dtype) * size
        normaliser = torch.where(z > 0, z.to(scores.dtype), first)
        if self.training:
            z.copy_(normaliser)
        noise = drawn / size
        # With u = log p - log(K/n + ε), log p / (p + K/n + ε) is logsigmoid(u), and the noise's is logsigmoid(-u)
        # less log(1 + ε n / K).
        odds = scores - normaliser.log() - math.log(noise + EPSILON)
        losses = -F.logsigmoid(odds[:, 0]) - F.logsigmoid(-odds[:, 1:]).sum(1)
        if drawn:
            losses = losses + drawn * math.log1p(EPSILON / noise)
        if kept:
            # So the negatives' gradient is taken now; to copy the bank instead costs as much as to score it.
            pull = odds[:, 1:].detach().sigmoid() / self.temperature
            if whole:
                gradient = pull.new_zeros(len(pull), size).scatter_add_(1, ids, pull) @ bank
            else:
                gradient = torch.einsum("bk,bkf->bf", pull, chosen)
            losses = losses + ((anchors - against) * gradient).sum(-1)
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
        # Where an id comes twice, both write what its last row says: on a GPU either might come last.
        last = torch.where(ids.unsqueeze(1) == ids, order, -1).amax(1)
        for bank, new in ((self.student_bank, ours), (self.teacher_bank, theirs)):
            new = new[last].to(bank.dtype)
            bank[ids] = new if self.bank == "queue" else unit(torch.lerp(new, bank[ids], self.momentum))


@torch.library.custom_op("kdzoo::bank_rows", mutates_args=(), schema="(Tensor bank, Tensor ids) -> Tensor")
def bank_rows(bank: Tensor, ids: Tensor) -> Tensor:
    """Rows of a bank, which a compiler would read again in the backward pass, when the bank has changed."""
    return bank[ids]


@bank_rows.register_fake
def _(bank: Tensor, ids: Tensor) -> Tensor:
    return bank.new_empty(*ids.shape, bank.shape[1])


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


@register_recipe("crd")
def crd() -> Recipe:
    """Labels and contrast, on the last layer's CLS state."""
    return _recipe("crd", "labels and contrast with a bank of the data set, on the last CLS state")


@register_recipe("crd_kd")
def crd_kd() -> Recipe:
    """The same with softened classes, as the paper's CRD+KD."""
    from kdzoo.recipe import TermSpec

    kd = TermSpec(loss="kd", temperature=4.0)
    return _recipe("crd_kd", "labels, softened classes and contrast with a bank of the data set", kd)


def _recipe(name: str, title: str, *more: TermSpec) -> Recipe:
    from kdzoo.recipe import Citation, Recipe, Stage, TermSpec

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
        stages=(Stage(terms=(TermSpec(loss="ce"), *more, TermSpec(loss="crd", weight=0.8))),),
        notes="K = 16384 negatives, or as many as the other rows of a smaller training set.",
    )
