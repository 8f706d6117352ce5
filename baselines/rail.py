"""RAIL-KD (Haidar et al. 2022): the student's layers learn from as many teacher layers, drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdzoo.distributed import mean_over_processes, processes
from kdzoo.errors import KdzooError
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_count
from kdzoo.losses.reduction import affine, masked_mean, unit_vectors
from kdzoo.losses.registry import register
from kdzoo.models.shape import ModelShape
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.models.layers import Pairs
    from kdzoo.objectives.recipe import Recipe, TermSpec

PAPER = "Haidar et al. 2022, RAIL-KD: RAndom Intermediate Layer Mapping for Knowledge Distillation"
URL = "https://arxiv.org/abs/2109.10164"


@register("rail")
class RAIL(DistillationLoss):
    """Squared distance of projected, normalised layers to as many teacher layers, drawn at random.

        1/B · Σ_i Σ_m ‖ e(W_s s̄_im + b_s) - e(W_t t̄_i,r(m) + b_t) ‖²,   e(v) = v / ‖v‖

    r(1) < ... < r(M) are drawn without replacement from the teacher's N layers, so that the order of the layers is
    kept; with M = N there is nothing to draw. s̄ and t̄ are means over the valid positions, or CLS states as they
    are. Both linear maps are learned. With ``concatenated`` the M layers stand side by side in one vector, which is
    projected and compared as one.

    With ``epoch``, which the trainer gives, the layers are drawn once for each epoch, as published, from a seed that is
    kept with the loss. Without it they are drawn anew at every call, from torch's global generator. A resumed run
    repeats either; processes draw together.

    Args:
        feature_dim: width of what is compared.
        concatenated: compare the concatenated layers (RAIL-KD_c) instead of one by one (RAIL-KD_l).
        student_layers: M, for ``concatenated`` alone, whose maps have the width of M layers.
        student_dim: width of the student's states. Must be given.
        teacher_dim: width of the teacher's. Must be given.
        variant: ``"released"`` adds up over rows, layers and width, and its means count padding.

    Shapes:
        student: (B, M, S, student_dim) with an optional mask (B, S), or CLS states (B, M, student_dim).
        teacher: (B, N, S, teacher_dim), or (B, N, teacher_dim), N at least M.
        epoch: which pass over the rows this is, from 0.
        drawn: M indices from 0 to N - 1 to compare with, instead of drawing them.

    Raises:
        KdzooError: for missing or unequal widths, a teacher with fewer layers, or wrong ``drawn``.

    References:
        Haidar, Anchuri, Rezagholizadeh, Ghaddar, Langlais, Poupart: RAIL-KD. https://arxiv.org/abs/2109.10164

    See also:
        ``pkd``, with a fixed map and no projection; ``alp``, a mix of all teacher layers.

    Examples:
        >>> import kdzoo, torch
        >>> loss = kdzoo.create("rail", student_dim=16, teacher_dim=24)
        >>> student = torch.randn(4, 2, 7, 16, requires_grad=True)
        >>> loss(student, torch.randn(4, 5, 7, 24), mask=torch.ones(4, 7)).backward()
    """

    features = ("hidden", "cls")
    extras = frozenset({"drawn", "epoch"})
    many_to_many = True
    variants = ("paper", "released")
    counts_padding = ("released",)
    formula = (
        r"\frac{1}{B} \sum_i \sum_m \Big\| \frac{W_s \bar s_{im}}{\|W_s \bar s_{im}\|} - "
        r"\frac{W_t \bar t_{i\,r(m)}}{\|W_t \bar t_{i\,r(m)}\|} \Big\|^2, \quad r \text{ random, increasing}"
    )
    complexity = "O(B·N·S·D)"
    related = ("pkd", "alp", "bert_emd")
    paper, year, url = PAPER, 2022, URL

    def __init__(
        self,
        feature_dim: int = 128,
        *,
        concatenated: bool = False,
        student_layers: int | None = None,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        variant: str = "paper",
    ) -> None:
        super().__init__(variant=variant)
        if student_dim is None or teacher_dim is None:
            raise KdzooError(f"{self.label} projects both sides, so it needs student_dim= and teacher_dim=")
        if concatenated and student_layers is None:
            raise KdzooError(f"{self.label}: concatenated=True needs student_layers=, the layers to stand side by side")
        self.layers = student_layers if concatenated and student_layers is not None else 1
        check_count(
            self.label,
            feature_dim=feature_dim,
            student_layers=self.layers,
            student_dim=student_dim,
            teacher_dim=teacher_dim,
        )
        self.concatenated = concatenated
        self.embed_student = nn.Linear(self.layers * student_dim, feature_dim)
        self.embed_teacher = nn.Linear(self.layers * teacher_dim, feature_dim)
        self.register_buffer("seed", torch.randint(2**20, ()))
        self._order: tuple[int, int, Tensor] | None = None  # of an epoch, and how many layers it is of

    seed: Tensor

    @classmethod
    def fit(
        cls, options: dict[str, Any], *, student: ModelShape, teacher: ModelShape, layers: Pairs, **context: Any
    ) -> dict[str, Any]:
        own, other = (len({pair[side] for pair in layers}) for side in (0, 1))
        if own > other:
            raise KdzooError(
                f"{cls.name} draws a teacher layer for each student layer, of which there are {own} to the teacher's "
                f"{other}; give layers= with fewer student layers"
            )
        options.setdefault("student_dim", student.hidden_size)
        options.setdefault("teacher_dim", teacher.hidden_size)
        return options | ({"student_layers": own} if options.get("concatenated") else {})

    def compute(  # type: ignore[override]
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        mask: Tensor | None,
        epoch: int | None = None,
        drawn: Sequence[int] | None = None,
    ) -> Tensor:
        released = self.variant == "released"
        checked = self.layered(student, teacher, mask)
        student, teacher, mask = checked if not released else (student, teacher, None)
        own, other = student.shape[1], teacher.shape[1]
        for side, vectors, layer in (
            ("student", student, self.embed_student),
            ("teacher", teacher, self.embed_teacher),
        ):
            if vectors.shape[-1] * self.layers != layer.in_features:
                rule = f"do not fit {side}_dim={layer.in_features // self.layers}, which it was made with"
                raise self._mismatch(student, teacher, rule)
        if own > other or (self.concatenated and own != self.layers):
            wanted = f"M = {self.layers}" if self.concatenated else "M"
            raise self._mismatch(student, teacher, f"do not fit; it compares {wanted} student layers with N ≥ M")
        if drawn is None:
            teacher = teacher[:, self._draw(own, other, teacher.device, epoch)]
        else:
            teacher = teacher[:, self._given(drawn, own, other)]
        student, teacher = _pooled(student, mask), _pooled(teacher, mask)
        if self.concatenated:
            student, teacher = student.flatten(1).unsqueeze(1), teacher.flatten(1).unsqueeze(1)
        ours, theirs = (
            unit_vectors(affine(self.embed_student, student)),
            unit_vectors(affine(self.embed_teacher, teacher)),
        )
        distances = (ours - theirs).square().sum((1, 2))
        if released:
            # A sum over the batch of all processes, whose gradients are averaged.
            return distances.sum() * processes()
        return masked_mean(distances, None if mask is None else mask.any(1))

    def _draw(self, own: int, other: int, device: torch.device, epoch: int | None) -> Tensor:
        if epoch is None:
            # The same in all processes: the mean of their random numbers is a random number that all of them know.
            return mean_over_processes(torch.rand(other, device=device)).argsort()[:own].sort().values
        if self._order is None or self._order[:2] != (epoch, other):
            seed = int(mean_over_processes(self.seed)) + epoch
            drawn = torch.randperm(other, generator=torch.Generator().manual_seed(seed))
            self._order = epoch, other, drawn[:own].sort().values.to(device)
        return self._order[2]

    def _given(self, drawn: Sequence[int], own: int, other: int) -> list[int]:
        if len(drawn) != own or not all(0 <= index < other for index in drawn):
            raise KdzooError(
                f"{self.label}: drawn is {tuple(drawn)}; it holds one index from 0 to {other - 1} for each of {own} "
                "student layers"
            )
        return list(drawn)


def _pooled(states: Tensor, mask: Tensor | None) -> Tensor:
    """States (B, M, S, D), zero where masked, averaged over the valid positions; CLS states (B, M, D) as they are."""
    if states.dim() == 3:
        return states
    if mask is None:
        return states.mean(2)
    return states.sum(2) / mask.sum(1).clamp_min(1).to(states.dtype)[:, None, None]


@register_recipe("rail")
def rail() -> Recipe:
    """RAIL-KD_l: layer by layer."""
    from kdzoo.objectives.recipe import TermSpec

    return _recipe("rail", "layer by layer", TermSpec(loss="rail", layers="all[:-1]", weight=1 / 3))


@register_recipe("rail_c")
def rail_c() -> Recipe:
    """RAIL-KD_c: the layers side by side."""
    from kdzoo.objectives.recipe import TermSpec

    return _recipe("rail_c", "concatenated", TermSpec(loss="rail", layers="all[:-1]", concatenated=True, weight=1 / 3))


def _recipe(name: str, how: str, term: TermSpec) -> Recipe:
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, TermSpec, Training

    return Recipe(
        name=name,
        title=f"labels, softened classes, and mean-pooled layers against teacher layers drawn at random, {how}",
        citation=Citation(
            authors="Haidar, M. A., Anchuri, N., Rezagholizadeh, M., Ghaddar, A., Langlais, P., Poupart, P.",
            title="RAIL-KD: RAndom Intermediate Layer Mapping for Knowledge Distillation",
            venue="Findings of NAACL",
            year=2022,
            url=URL,
        ),
        stages=(
            Stage(terms=(TermSpec(loss="ce", weight=1 / 3), TermSpec(loss="kd", temperature=10.0, weight=1 / 3), term)),
        ),
        student="distilbert/distilbert-base-uncased",
        training=Training(learning_rate=2e-5, batch_size=32, max_length=128),
        notes="The three weights λ are equal and sum to 1. The teacher's layers are drawn once an epoch, "
        "from all but the "
        "top one. GLMKD, whose temperature this is, takes the cross-entropy of the softened classes without T².",
        sources=(
            Source(
                origin="paper",
                where="the λ are equal, as GLMKD's",
                of=("ce.weight", "kd.weight", "rail.weight"),
            ),
            Source(origin="other", where="GLMKD's readme", of=("kd.temperature",)),
            Source(origin="ours", where="CRD's: no source that was read names theirs", of=("rail.feature_dim",)),
            Source(
                origin="paper",
                where="intermediate layers: the top layers are left to the other terms",
                of=("rail.layers",),
            ),
            *(
                (Source(origin="paper", where="RAIL-KD_c", of=("rail.concatenated",)),)
                if "concatenated" in term.options
                else ()
            ),
            Source(origin="other", where="GLMKD's readme: from DistilBERT", of=("student",)),
            Source(
                origin="ours",
                where="within BERT's grid for fine-tuning",
                of=("training.learning_rate", "training.batch_size", "training.max_length"),
            ),
        ),
    )
