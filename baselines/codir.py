"""CoDIR (Sun et al. 2020): contrast of pooled, concatenated layers with rows of other classes from a bank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdzoo.baselines.crd import CRD
from kdzoo.distributed import gather_rows
from kdzoo.errors import KdzooError, unknown
from kdzoo.losses.options import check_count
from kdzoo.losses.reduction import affine, masked_mean, unit_vectors
from kdzoo.losses.registry import register
from kdzoo.models.shape import ModelShape
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.models.layers import Pairs
    from kdzoo.objectives.recipe import Recipe

PAPER = "Sun et al. 2020, Contrastive Distillation on Intermediate Representations for Language Model Compression"
URL = "https://arxiv.org/abs/2009.14167"
ANCHORS = ("teacher", "student")


@register("codir")
class CoDIR(CRD):
    """InfoNCE between the two models' summaries of a row, against stored summaries of rows of other classes.

        -1/B · Σ_i log exp(e_t · e_s / τ) / (exp(e_t · e_s / τ) + Σ_k exp(e_t · bank_s,k / τ))

    A summary is the mean over valid positions of each mapped layer (or its CLS state), all layers in one vector,
    embedded by a linear map with bias at length one: e_s and e_t of row i. The teacher's is the anchor; the K
    negatives are the student's stored summaries of rows drawn uniformly, with replacement, from those not known to
    be of row i's class; a row's class is known from when it was first seen. After scoring, in training mode, the
    banks' rows of this batch become normalise(m · old + (1 - m) · new). Under torch.distributed every process makes
    the updates of all; give them the same seed, so that their banks start alike.

    Args:
        num_samples: n, rows of the data set, which ``sample_ids`` number from 0. Must be given.
        feature_dim: width of the embeddings.
        num_negatives: K.
        temperature: τ, above 0.
        momentum: m, 0 to 1.
        num_layers: M, how many layers a summary is made of.
        anchor: ``"teacher"``, or ``"student"`` to contrast e_s with the teacher's stored summaries instead.
        student_dim: width of the student's states. Must be given.
        teacher_dim: width of the teacher's. Must be given.
        variant: ``"released"`` is the authors' code: CRD's noise contrast (see ``crd``) of these summaries with these
            negatives, its two sides averaged; the positive comes from the bank, and means count padding. (They draw
            without replacement where there are more than K rows to draw from.)
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes the noise contrast, and updates the banks.

    Shapes:
        student: (B, M, S, student_dim) with an optional mask (B, S), or CLS states (B, M, student_dim).
        teacher: likewise with teacher_dim.
        labels: (B,) classes, as integers.
        sample_ids: (B,) integers.
        contrast_ids: (B, K) rows of the bank to take as negatives instead of drawing them, or (B, K + 1) with the row
            itself first.

    Raises:
        KdzooError: for options out of range, shapes that do not fit, missing ids or labels, labels that are no
            classes, or (on a CPU) ids out of range.

    References:
        Sun, Gan, Cheng, Fang, Wang, Liu: Contrastive Distillation on Intermediate Representations for Language Model
        Compression, section 3. https://arxiv.org/abs/2009.14167

    See also:
        ``crd``, on one layer, with negatives of any class; ``info_nce``, against the batch.

    Examples:
        >>> import kdzoo, torch
        >>> loss = kdzoo.create("codir", num_samples=100, num_layers=2, student_dim=16, teacher_dim=24)
        >>> student, ids = torch.randn(8, 2, 7, 16, requires_grad=True), torch.arange(8)
        >>> loss(student, torch.randn(8, 2, 7, 24), labels=ids % 2, sample_ids=ids).backward()
    """

    features = ("hidden", "cls")
    needs = frozenset({"labels", "sample_ids"})
    top_only = False
    stacked = True
    variants = ("paper", "released")
    counts_padding = ("released",)
    formula = (
        r"-\frac{1}{B} \sum_i \log \frac{\exp(e^t_i \cdot e^s_i / \tau)}{\exp(e^t_i \cdot e^s_i / \tau) + "
        r"\sum_{k : y_k \ne y_i} \exp(e^t_i \cdot b^s_k / \tau)}"
    )
    complexity = "O(B·M·(S + F)·D + B·K·F + n log n)"
    related = ("crd", "info_nce")
    paper, year, url = PAPER, 2020, URL

    def __init__(
        self,
        num_samples: int,
        feature_dim: int = 128,
        num_negatives: int = 100,
        temperature: float = 0.07,
        momentum: float = 0.5,
        *,
        num_layers: int = 1,
        anchor: str = "teacher",
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        variant: str = "paper",
        backend: str = "auto",
    ) -> None:
        if student_dim is None or teacher_dim is None:
            raise KdzooError(f"{self.label} embeds both sides, so it needs student_dim= and teacher_dim=")
        check_count(self.label, num_layers=num_layers, student_dim=student_dim, teacher_dim=teacher_dim)
        if variant not in self.variants:
            raise unknown(f"variant of {self.label}", variant, self.variants)
        if anchor not in ANCHORS:
            raise unknown(f"anchor of {self.label}", anchor, ANCHORS)
        super().__init__(
            num_samples,
            feature_dim,
            num_negatives,
            temperature,
            momentum,
            student_dim=num_layers * student_dim,
            teacher_dim=num_layers * teacher_dim,
            backend=backend,
        )
        self.variant = variant
        self.num_layers = num_layers
        self.anchor = anchor
        self.register_buffer("label_bank", torch.full((num_samples,), -1))

    label_bank: Tensor

    @classmethod
    def fit(
        cls,
        options: dict[str, Any],
        *,
        feature: str,
        student: ModelShape,
        teacher: ModelShape,
        num_samples: int | None,
        layers: Pairs = (),
        **context: Any,
    ) -> dict[str, Any]:
        if student.num_labels == 1:
            raise KdzooError(
                f"{cls.name} draws its negatives from other classes, and a one-logit task has none; use crd or info_nce"
            )
        options.setdefault("num_layers", len(layers))
        options.setdefault("num_negatives", 100)
        return super().fit(
            options, feature=feature, student=student, teacher=teacher, num_samples=num_samples, **context
        )

    def compute(  # type: ignore[override]
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        mask: Tensor | None,
        labels: Tensor,
        sample_ids: Tensor,
        contrast_ids: Tensor | None = None,
    ) -> Tensor:
        released = self.variant == "released"
        checked = self.layered(student, teacher, mask)
        student, teacher, mask = checked if not released else (student, teacher, None)
        widths = [layer.in_features // self.num_layers for layer in (self.embed_student, self.embed_teacher)]
        shapes = [(self.num_layers, width) for width in widths]
        if [(side.shape[1], side.shape[-1]) for side in (student, teacher)] != shapes:
            rule = f"do not fit num_layers={self.num_layers}, student_dim={widths[0]}, teacher_dim={widths[1]}"
            raise self._mismatch(student, teacher, f"{rule}, which it was made with")
        if labels.is_floating_point() or labels.shape != (len(student),):
            raise KdzooError(
                f"{self.label}: labels {tuple(labels.shape)} of {labels.dtype} must be ({len(student)},) classes, as "
                "integers; a regression task has no other classes to draw negatives from"
            )
        ours = unit_vectors(affine(self.embed_student, _summary(student, mask)))
        theirs = unit_vectors(affine(self.embed_teacher, _summary(teacher, mask)))
        self._check_sample_ids(len(ours), sample_ids)
        if self.training:
            self._learn_labels(labels, sample_ids)
        if contrast_ids is None:
            contrast_ids = self._draw(labels)
        ids = self._ids(len(ours), sample_ids, contrast_ids)
        if released:
            value = self._contrast(ours, theirs, sample_ids, ids) / 2
        else:
            sides = (theirs, self.student_bank) if self.anchor == "teacher" else (ours, self.teacher_bank)
            anchors, bank = sides[0], sides[1].to(ours.dtype)
            positive = (ours * theirs).sum(-1, keepdim=True)
            negatives = torch.einsum("bf,bkf->bk", anchors, bank_rows(bank, ids))
            scores = torch.cat([positive, negatives], dim=1) / self.temperature
            value = masked_mean(scores.logsumexp(-1) - scores[:, 0], None if mask is None else mask.any(1))
        if self.training:
            self._remember(ours, theirs, sample_ids)
        return value

    @torch.no_grad()
    def _learn_labels(self, labels: Tensor, sample_ids: Tensor) -> None:
        self.label_bank[gather_rows(sample_ids.long())[0]] = gather_rows(labels.long())[0]

    def _draw(self, labels: Tensor) -> Tensor:
        """Rows (B, K) of the bank that are not known to be of the labels' class."""
        known, order = self.label_bank.sort()
        ends = [torch.searchsorted(known, labels.long(), right=right).unsqueeze(1) for right in (False, True)]
        own = ends[1] - ends[0]
        # Where every row is of the one class there is no other to draw.
        others = torch.where(own < len(known), len(known) - own, len(known))
        place = torch.randint(2**62, (len(labels), self.num_negatives), device=labels.device) % others
        return order[(place + torch.where(place < ends[0], 0, own)) % len(known)]


@torch.library.custom_op("kdzoo::bank_rows", mutates_args=(), schema="(Tensor bank, Tensor ids) -> Tensor")
def bank_rows(bank: Tensor, ids: Tensor) -> Tensor:
    """Rows of a bank, which a compiler would read again in the backward pass, when the bank has changed."""
    return bank[ids]


@bank_rows.register_fake
def _(bank: Tensor, ids: Tensor) -> Tensor:
    return bank.new_empty(*ids.shape, bank.shape[1])


def _summary(states: Tensor, mask: Tensor | None) -> Tensor:
    """(B, M·D) from states (B, M, S, D), zero where masked, averaged over valid positions, or CLS states (B, M, D)."""
    if states.dim() == 4:
        count = states.shape[2] if mask is None else mask.sum(1).clamp_min(1).to(states.dtype)[:, None, None]
        states = states.sum(2) / count
    return states.flatten(1)


@register_recipe("codir")
def recipe() -> Recipe:
    """Labels, softened classes and contrast, as published for fine-tuning."""
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, TermSpec, Training

    return Recipe(
        name="codir",
        title="labels, softened classes, and contrast of all layers with a bank of rows of other classes",
        citation=Citation(
            authors="Sun, S., Gan, Z., Cheng, Y., Fang, Y., Wang, S., Liu, J.",
            title="Contrastive Distillation on Intermediate Representations for Language Model Compression",
            venue="EMNLP",
            year=2020,
            url=URL,
        ),
        stages=(
            Stage(
                terms=(
                    TermSpec(loss="ce", weight=0.5),
                    TermSpec(loss="kd", temperature=2.0, weight=0.5),
                    TermSpec(loss="codir", layers="uniform", num_negatives=100, temperature=0.07, weight=0.1),
                )
            ),
        ),
        student="teacher:0,2,4,6,8,10",
        training=Training(
            learning_rate=2e-5, batch_size=32, epochs=10, warmup_ratio=0.06, weight_decay=0.1, max_length=128
        ),
        notes="The authors search α, T, the rate and the weight of the contrast for each task; α and T are "
        "their script's "
        "defaults, and the weight has none. They add the other two terms up over the batch, average the contrast, and "
        "divide it all by the batch size B: a weight w of theirs is w / B here, and the 0.1 is 3.2 of "
        "theirs at a batch "
        "of 32. Regression has no classes to draw negatives from and is refused. Their code takes teacher layers "
        "1, 3, 5, ... (codir.layers=[[1, 1], [2, 3], ...]) and CLS states (codir.feature=cls).",
        sources=(
            Source(
                origin="authors",
                where="run_glue_script.py's defaults",
                of=("ce.weight", "kd.weight", "kd.temperature", "codir.num_negatives"),
            ),
            Source(
                origin="authors",
                where="fairseq/criterions/sentence_prediction_crd.py",
                of=("codir.temperature", "codir.momentum"),
            ),
            Source(origin="other", where="CRD's, on which theirs is built", of=("codir.feature_dim",)),
            Source(
                origin="ours",
                where="unknown: the authors' launcher searches it and names no value; their parser's is 0, off",
                of=("codir.weight",),
            ),
            Source(origin="ours", where="the top on the top; the authors' code: see the notes", of=("codir.layers",)),
            Source(origin="ours", where="the layers that the authors' code maps onto", of=("student",)),
            Source(
                origin="authors",
                where="run_glue_script.py; warm-up 0.06 but on QQP",
                of=("training.epochs", "training.warmup_ratio", "training.weight_decay"),
            ),
            Source(
                origin="ours",
                where="within BERT's grid for fine-tuning; the authors' are read from files that they did not "
                "release, and their rows have up to 512 tokens",
                of=("training.learning_rate", "training.batch_size", "training.max_length"),
            ),
        ),
    )
