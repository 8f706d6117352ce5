"""Multi-granularity structural distillation (Liu et al. 2022): how tokens, spans and samples lie to one another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.distributed import gather_rows, mean_over_processes
from kdzoo.errors import KdzooError
from kdzoo.kernels.gram import gram, squared_distances
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_count
from kdzoo.losses.reduction import EPSILON
from kdzoo.losses.registry import register
from kdzoo.losses.structure import real_pairs
from kdzoo.models.shape import ModelShape
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe

URL = "https://aclanthology.org/2022.acl-long.71"
CHUNK = 2**22  # numbers in the teacher's relations that are held at a time
FEWEST_SPANS = 3  # that a row needs for a triplet


@register("mgskd")
class MGSKD(DistillationLoss):
    """Pair-wise products and triplet-wise angles of tokens and spans in lower layers, angles of samples in upper ones.

        Σ_lower [ w_token · structure(tokens) + w_span · structure(spans) ] + Σ_upper w_sample · angles(samples)

        structure = mean_hij (s_hi·s_hj/√d - t_hi·t_hj/√d)² + mean_ijk h(cos(s_j - s_i, s_k - s_i), cos(t_j - t_i, ...))
        angles    = mean_hijk h(cos(s_hj - s_hi, s_hk - s_hi), cos(t_hj - t_hi, t_hk - t_hi))

    summed over the layers, after W where the widths differ (one for all layers). h is smooth-L1, half the square up
    to a difference of 1; the first indices are the heads that the width is split into, each d wide.

    - The pairs are all pairs of valid tokens (spans) of a row, each with itself included; the mean is over those of
      the whole batch and the heads.
    - The triplets are of the ``k1`` tokens i that receive most of the teacher's attention (the softmax of its own
      scaled products, summed over heads and queries), each with the ``k2`` that it attends to most; of three
      different valid tokens, in the whole width. The mean is over those of the whole batch.
    - A span is the mean of its valid tokens; a row with fewer than three spans is left out of the spans.
    - A sample is the mean of its valid tokens; the angles are of all ordered triplets of the rows (of all
      processes), coinciding ones included with cosine 0.

    Unlike the authors' code it leaves its inputs as they are, and has no NaN where there is no triplet. That code
    also leaves out of the count the triplets whose cosine happens to be 0 in the student.

    Args:
        relation_heads: heads that the width is split into for pairs and samples. None: the published 64, or as many
            fewer as split the teacher's width into heads of two numbers or more.
        k1: tokens (spans) of a row that are vertices of triplets.
        k2: tokens (spans) that each vertex is looked at from.
        token_layers: how many of the layers, from the first, are compared by tokens and spans; the others by
            samples. The published 2; an Objective takes half of the mapped layers when it is not given.
        sample_weight: weight of the samples' angles.
        token_weight: weight of the tokens.
        span_weight: weight of the spans.
        span_length: positions in a span where no spans are given: the text is cut from its start into pieces so long.
        student_dim: width of the student's states.
        teacher_dim: width of the teacher's. Where the two differ W is learned; where they are equal there is none.
        bias: give W a bias.
        variant: ``"paper"``, the only one.

    Shapes:
        student, teacher: (B, M, S, D), layers from the lowest up, or (B, S, D) for one; an optional mask (B, S).
        spans: (B, N, 2) integers, the first position of each span and the one after its last; (0, 0) for none. The
            authors' spans are the phrases of the text.

    Raises:
        KdzooError: for options out of range, or shapes or widths that do not fit.

    References:
        Liu, Tao, Feng, Zhao: Multi-Granularity Structural Knowledge Distillation for Language Model Compression,
        section 3. https://aclanthology.org/2022.acl-long.71

    See also:
        ``rkd_angle``, the angles of the samples in one head; ``minilmv2``, relations of queries, keys and values.

    Examples:
        >>> import kdzoo, torch
        >>> loss = kdzoo.create("mgskd", student_dim=16, teacher_dim=32)
        >>> student = torch.randn(4, 3, 7, 16, requires_grad=True)
        >>> loss(student, torch.randn(4, 3, 7, 32), mask=torch.ones(4, 7)).backward()
    """

    features = ("hidden", "embedding")
    extras = frozenset({"spans"})
    stacked = True
    contrastive = True
    formula = (
        r"\sum_{l \le M} \left[ w_\text{token} \mathcal{S}(\text{tokens}_l) + w_\text{span} "
        r"\mathcal{S}(\text{spans}_l) \right] + \sum_{l > M} w_\text{sample} \mathcal{A}(\text{samples}_l)"
    )
    complexity = "O(B·S²·D) a lower layer with B·S² memory, O(B²·D + heads·B³) an upper one with heads·B² memory"
    related = ("rkd_angle", "rkd_distance", "minilmv2")
    paper = "Liu et al. 2022, Multi-Granularity Structural Knowledge Distillation for Language Model Compression"
    year = 2022
    url = URL

    def __init__(
        self,
        relation_heads: int | None = None,
        k1: int = 20,
        k2: int = 20,
        token_layers: int = 2,
        *,
        sample_weight: float = 4.0,
        token_weight: float = 1.0,
        span_weight: float = 1.0,
        span_length: int = 3,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        bias: bool = False,
        variant: str = "paper",
    ) -> None:
        super().__init__(student_dim=student_dim, teacher_dim=teacher_dim, bias=bias, variant=variant)
        heads = 1 if relation_heads is None else relation_heads
        check_count(self.label, relation_heads=heads, k1=k1, k2=k2, span_length=span_length)
        for option, value in {
            "token_layers": token_layers,
            "sample_weight": sample_weight,
            "token_weight": token_weight,
            "span_weight": span_weight,
        }.items():
            if not 0 <= value < float("inf"):
                raise KdzooError(f"{self.label}: {option} is {value}; it must be 0 or a positive number")
        if teacher_dim is not None:
            self._heads(teacher_dim, relation_heads)
        self.relation_heads = relation_heads
        self.k1, self.k2 = k1, k2
        self.token_layers = token_layers
        self.sample_weight, self.token_weight, self.span_weight = sample_weight, token_weight, span_weight
        self.span_length = span_length

    @classmethod
    def fit(
        cls, options: dict[str, Any], *, feature: str, teacher: ModelShape, layers: Any, **context: Any
    ) -> dict[str, Any]:
        options.setdefault("token_layers", max(1, len(layers) // 2))
        cls._heads(teacher.hidden_size, options.get("relation_heads"))
        return super().fit(options, feature=feature, teacher=teacher, layers=layers, **context)

    @classmethod
    def _heads(cls, width: int, wanted: int | None) -> int:
        """Into how many heads to split a width."""
        divisors = [heads for heads in range(1, width + 1) if width % heads == 0]
        if wanted is None:
            return max(heads for heads in divisors if heads == 1 or (heads <= 64 and 2 * heads <= width))
        if wanted not in divisors:
            raise KdzooError(
                f"{cls.name}: relation_heads={wanted} do not divide the teacher's width {width}; "
                f"take one of {', '.join(map(str, divisors))}"
            )
        return wanted

    def compute(  # type: ignore[override]
        self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, spans: Tensor | None = None
    ) -> Tensor:
        if student.dim() not in (3, 4):
            raise self._mismatch(student, teacher, "must be hidden states (B, S, D) or (B, M, S, D)")
        student, teacher, slots = self.vectors(student, teacher, mask)
        if not len(student):
            return student.sum()  # of no rows, 0
        if slots is not None and self.projection is not None and self.projection.bias is not None:
            student = student.masked_fill(~slots.unsqueeze(-1), 0.0)
        if mask is None:
            real = torch.ones(len(student), student.shape[-2], dtype=torch.bool, device=student.device)
        else:
            real = mask
        if student.dim() == 3:
            student, teacher = student.unsqueeze(1), teacher.unsqueeze(1)
        heads = self._heads(teacher.shape[-1], self.relation_heads)
        lower, upper = slice(None, self.token_layers), slice(self.token_layers, None)
        total = self.sample_weight * self._samples(student[:, upper], teacher[:, upper], real, heads)
        ours, theirs = student[:, lower], teacher[:, lower]
        if self.token_weight:
            total = total + self.token_weight * self._tokens(ours, theirs, real, heads)
        members = self._members(spans, real)
        if self.span_weight:
            weights = _shares(members, ours)
            found = members.any(-1)
            found = found & (found.sum(-1, keepdim=True) >= FEWEST_SPANS)
            weights = weights * found.unsqueeze(-1)
            ours, theirs = (torch.einsum("bns,blsd->blnd", weights, side) for side in (ours, theirs))
            total = total + self.span_weight * self._tokens(ours, theirs, found, heads)
        return total

    def _members(self, spans: Tensor | None, real: Tensor) -> Tensor:
        """Which valid positions are in which span, (B, N, S) bool."""
        rows, length = real.shape
        if spans is None:
            start = real.int().argmax(-1, keepdim=True)  # of the text: there may be padding before it
            first = start + torch.arange(0, length, self.span_length, device=real.device)
            spans = torch.stack([first, first + self.span_length], dim=-1)
        elif spans.dim() != 3 or len(spans) != rows or spans.shape[-1] != 2 or spans.is_floating_point():
            raise KdzooError(
                f"{self.label}: spans {tuple(spans.shape)} of {spans.dtype} do not fit; they are integers "
                f"({rows}, N, 2), the first position of each span and the one after its last"
            )
        position = torch.arange(length, device=real.device)
        return (spans[..., :1] <= position) & (position < spans[..., 1:]) & real.unsqueeze(1)

    def _samples(self, student: Tensor, teacher: Tensor, real: Tensor, heads: int) -> Tensor:
        """The angles of the samples, summed over the layers of (B, M, S, D)."""
        rows = real.any(-1)
        if student.shape[1] == 0:
            return student.sum()
        weights = _shares(real, student)
        everyone, own = gather_rows(rows.to(torch.uint8))
        slots = student.shape[1] * heads
        pooled = (gather_rows(torch.einsum("bs,blsd->bld", weights, side))[0] for side in (student, teacher))
        ours, theirs = (side.reshape(len(side), slots, -1).transpose(0, 1) for side in pooled)
        mask = (everyone != 0).expand(slots, -1)
        total = gram(ours, theirs, "angle", mask=mask, own=slice(own, own + len(student)))
        return total / _counted(heads * rows.sum() * everyone.sum().to(student.dtype) ** 2)

    def _tokens(self, student: Tensor, teacher: Tensor, real: Tensor, heads: int) -> Tensor:
        """Pairs and triplets of the tokens (or spans) of (B, M, S, D), zero where not real, summed over the layers."""
        layers, length, width = student.shape[1:]
        ours, theirs = (side.unflatten(-1, (heads, -1)).transpose(2, 3).contiguous() for side in (student, teacher))
        pairs = real_pairs(real)
        total = _squared_gap(ours, theirs) * heads / width / _counted(heads * pairs.sum().to(student.dtype))
        if layers == 0 or length == 0:
            return total
        student, teacher, theirs = (side.flatten(0, 1) for side in (student, teacher, theirs))
        real = real.repeat_interleave(layers, dim=0)
        vertices, others = self._chosen(theirs.detach(), real)
        valid = real.gather(1, others.flatten(1)).view_as(others) & real.gather(1, vertices).unsqueeze(-1)
        valid = valid & (others != vertices.unsqueeze(-1))
        same = torch.eye(others.shape[-1], dtype=torch.bool, device=real.device)
        triplets = valid.unsqueeze(-1) & valid.unsqueeze(-2) & ~same
        ours, theirs = (_angles(side, real, vertices, others) for side in (student, teacher))
        gaps = torch.where(triplets, F.smooth_l1_loss(ours, theirs, reduction="none"), 0.0)
        return total + gaps.sum() / _counted(triplets.sum().to(student.dtype) / layers)

    def _chosen(self, teacher: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """The vertices (B, k1) and what each is looked at from (B, k1, k2), of the teacher's heads (B, A, S, d)."""
        rows, heads, length, width = teacher.shape
        # A further column that adds a number to all scores of a key leaves out those that are not real.
        added = torch.zeros_like(real, dtype=teacher.dtype).masked_fill(~real, torch.finfo(teacher.dtype).min / 2)
        added = added[:, None, :, None].expand(-1, heads, -1, -1)
        queries = torch.cat([teacher / width**0.5, torch.ones_like(added)], dim=-1)
        keys = torch.cat([teacher, added], dim=-1).mT
        step = max(1, CHUNK // max(1, heads * length**2))
        parts = [slice(first, first + step) for first in range(0, rows, step)]
        received = torch.cat([(queries[part] @ keys[part]).softmax(-1).sum(1) for part in parts])
        received = torch.where(real.unsqueeze(-1), received, 0.0)
        # Stable, so that ties do not depend on the machine; what is not real, or the token itself, comes last.
        best = received.sum(1).masked_fill(~real, -1.0).sort(dim=-1, descending=True, stable=True).indices
        vertices = best[:, : min(self.k1, length)]
        itself = torch.eye(length, dtype=torch.bool, device=real.device)
        received = received.masked_fill(itself | ~real.unsqueeze(1), -1.0)
        received = received.gather(1, vertices.unsqueeze(-1).expand(-1, -1, length))
        best = received.sort(dim=-1, descending=True, stable=True).indices
        return vertices, best[..., : min(self.k2, length)]


def _shares(members: Tensor, like: Tensor) -> Tensor:
    """Weights (..., S) of a mean over the members."""
    weights = members.to(like.dtype)
    return weights / weights.sum(-1, keepdim=True).clamp_min(1)


def _counted(count: Tensor) -> Tensor:
    return mean_over_processes(count).clamp_min(EPSILON)


def _squared_gap(ours: Tensor, theirs: Tensor) -> Tensor:
    """Σ (X Xᵀ - Y Yᵀ)² over the (S, S) products of (..., S, d).

    In heads narrower than the text is long it takes d×d products only: with E = X - Y the difference is
    E Xᵀ + Y Eᵀ, and its square ⟨EᵀE, EᵀE + 4 EᵀY + 2 YᵀY⟩ + 2 ⟨EᵀY, YᵀE⟩, small where E is.
    """
    width = ours.shape[-1]
    if width >= ours.shape[-2]:
        return ((ours @ ours.mT - theirs @ theirs.mT) ** 2).sum()
    gap = ours - theirs
    own, cross = (gap.mT @ torch.cat([gap, theirs], dim=-1)).split(width, dim=-1)
    return (own * (own + 4 * cross + 2 * (theirs.mT @ theirs))).sum() + 2 * (cross * cross.mT).sum()


def _angles(states: Tensor, real: Tensor, vertices: Tensor, others: Tensor) -> Tensor:
    """Cosines (B, k1, k2, k2) at each vertex between each two of the others; 0 where they coincide.

    Args:
        states: (B, S, D).
        real: (B, S) bool.
        vertices: (B, k1) positions.
        others: (B, k1, k2) positions.
    """
    length = states.shape[1]
    _, squares = squared_distances(states, real)
    inverse = torch.where(squares > 0, squares, torch.inf).rsqrt()
    rows = vertices.unsqueeze(-1).expand(-1, -1, length)
    own, scale = (table.gather(1, rows).gather(2, others) for table in (squares, inverse))
    between = (others.unsqueeze(-1) * length + others.unsqueeze(-2)).flatten(1)
    opposite = squares.flatten(1).gather(1, between).view(*others.shape, -1)
    products = (own.unsqueeze(-1) + own.unsqueeze(-2) - opposite) / 2
    return products * scale.unsqueeze(-1) * scale.unsqueeze(-2)


@register_recipe("mgskd")
def recipe() -> Recipe:
    """Structure first, of the embeddings and every mapped layer, then the softened classes."""
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, TermSpec, Training

    structure = (
        TermSpec(loss="mgskd", feature="embedding", name="mgskd_embedding", token_layers=1),
        TermSpec(loss="mgskd", layers="uniform", token_layers=1),
    )
    return Recipe(
        name="mgskd",
        title="structure of tokens and spans in lower layers and of samples in upper ones, then softened classes",
        citation=Citation(
            authors="Liu, C., Tao, C., Feng, J., Zhao, D.",
            title="Multi-Granularity Structural Knowledge Distillation for Language Model Compression",
            venue="ACL",
            year=2022,
            url=URL,
        ),
        stages=(
            Stage(fraction=0.77, terms=structure, lr_scheduler="constant"),
            Stage(
                fraction=0.23,
                terms=(TermSpec(loss="kd", temperature=1.0),),
                lr_scheduler="linear",
                lr_factor=0.6,
                warmup_ratio=0.1,
            ),
        ),
        student="4x312,heads=12,ffn=1200",
        training=Training(
            learning_rate=5e-5, batch_size=32, epochs=13, warmup_ratio=0.0, weight_decay=0.01, max_length=128
        ),
        notes="Two of the student's five states, the embeddings and the first layer, are compared by tokens and spans. "
        "The authors start from a student distilled in pre-training, augment the data, share one projection "
        "between all states, take the phrases of the text as spans (here pieces of three positions), and give no "
        "schedule with their code: stages and rates are TinyBERT's, on which theirs is built.",
        sources=(
            Source(
                origin="ours",
                where="the paper's own weights 4, 1, 1 are within the loss",
                of=("mgskd_embedding.weight", "mgskd.weight"),
            ),
            Source(
                origin="paper",
                where="its experiments: the two lowest of the student's five states by tokens and spans",
                of=("mgskd_embedding.feature", "mgskd_embedding.token_layers", "mgskd.token_layers"),
            ),
            Source(
                origin="authors",
                where="src/loss.py",
                of=tuple(
                    f"{term}.{number}"
                    for term in ("mgskd_embedding", "mgskd")
                    for number in ("k1", "k2", "sample_weight", "token_weight", "span_weight")
                ),
            ),
            Source(
                origin="ours",
                where="see the notes",
                of=("mgskd_embedding.span_length", "mgskd.span_length"),
            ),
            Source(origin="paper", where="its experiments: as TinyBERT's", of=("mgskd.layers",)),
            Source(origin="other", where="GLMKD's readme", of=("kd.weight", "kd.temperature")),
            Source(
                origin="authors",
                where="their readme: built on TinyBERT, whose readme and task_distill.py have it",
                of=(
                    "stages.0.fraction",
                    "stages.0.lr_scheduler",
                    "stages.1.fraction",
                    "stages.1.lr_scheduler",
                    "stages.1.lr_factor",
                    "stages.1.warmup_ratio",
                    "training.learning_rate",
                    "training.batch_size",
                    "training.epochs",
                    "training.warmup_ratio",
                    "training.weight_decay",
                    "training.max_length",
                ),
            ),
            Source(origin="authors", where="their readme: General_TinyBERT_4L_312D", of=("student",)),
        ),
    )
