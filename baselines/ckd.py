"""Contextual knowledge distillation (Park et al. 2021): relations between words, and of a word between layers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from kdzoo.distributed import mean_over_processes
from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.reduction import EPSILON, reciprocal_norm
from kdzoo.losses.registry import register
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.models.layers import Pairs
    from kdzoo.objectives.recipe import Recipe

PAPER = "Park et al. 2021, Distilling Linguistic Context for Language Model Compression"
URL = "https://arxiv.org/abs/2109.08359"


@register("ckd")
class CKD(DistillationLoss):
    """Word relations within each layer and layer transforming relations of each word, pair-wise and triple-wise.

        a · KL(words) + b · MSE(angles between words) + c · KL(layers) + d · MSE(angles between layers)

    The pair-wise relation of a state x_i is the softmax, over the others, of its cosines with them; student and
    teacher are compared by KL(teacher ‖ student), summed and divided by the number of all ordered pairs, (i, i)
    included, as the authors do. The triple-wise relation is the cosine of the angle at x_i between x_j - x_i and
    x_k - x_i, compared by its squared difference, averaged over all triples; coinciding states make an angle of
    cosine 0. Words relate to words of the same row and layer, for triples to those at most (window - 1) / 2
    positions from x_i (locality); layers to the mapped layers at the same position. Only valid positions take part.
    Nothing is projected: the two sides may differ in width.

    Args:
        word_pair: a.
        word_angle: b.
        layer_pair: c.
        layer_angle: d.
        window: how many positions around a word, itself included, make angles with it; odd.
        variant: ``"released"`` is the authors' code: at a row's ends the window repeats the last position instead of
            ending, and padding in it counts, wherever its centre is a real token.

    Shapes:
        student: (B, M, S, D_s), with an optional mask (B, S).
        teacher: (B, M, S, D_t).

    Raises:
        KdzooError: for shapes that do not fit, or an even window.

    References:
        Park, Kim, Yang: Distilling Linguistic Context for Language Model Compression, section 3.
        https://arxiv.org/abs/2109.08359

    See also:
        ``mgskd``, relations of tokens, spans and samples; ``rkd_distance`` and ``rkd_angle``, relations of samples.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(2, 3, 7, 16, requires_grad=True)
        >>> kdzoo.create("ckd")(student, torch.randn(2, 3, 7, 24), mask=torch.ones(2, 7)).backward()
    """

    features = ("hidden",)
    stacked = True
    variants = ("paper", "released")
    counts_padding = ("released",)
    formula = (
        r"a \sum_{ij} D_{\mathrm{KL}}(\phi^t_{ij} \| \phi^s_{ij}) + b \sum_{ijk} (\psi^t_{ijk} - \psi^s_{ijk})^2"
        r" \text{ over words} + c, d \text{ likewise over layers}, \quad \phi = \operatorname{softmax} \cos(x_i, x_j),"
        r" \; \psi = \cos \angle(x_j, x_i, x_k)"
    )
    complexity = "O(B·M·S²·D) time, O(B·M·S·(S + W²)) memory for windows of W"
    related = ("mgskd", "rkd_distance", "rkd_angle")
    paper, year, url = PAPER, 2021, URL

    def __init__(
        self,
        word_pair: float = 1.0,
        word_angle: float = 1.0,
        layer_pair: float = 1.0,
        layer_angle: float = 1.0,
        *,
        window: int = 21,
        variant: str = "paper",
    ) -> None:
        super().__init__(variant=variant)
        if window < 1 or window % 2 == 0:
            raise KdzooError(f"{self.label}: window is {window}; it must be odd, so that a word is in its middle")
        self.word_pair, self.word_angle = word_pair, word_angle
        self.layer_pair, self.layer_angle = layer_pair, layer_angle
        self.window = window

    @classmethod
    def fit(cls, options: dict[str, Any], *, layers: Pairs, **context: Any) -> dict[str, Any]:
        if len(layers) < 3 and (options.get("layer_pair", 1.0) or options.get("layer_angle", 1.0)):
            warnings.warn(
                f"{cls.name}: {len(layers)} mapped layers have next to no relations among them (the pair-wise one is "
                "constant); give layers='uniform0' to take in the embeddings, or layer_pair=0 and layer_angle=0",
                KdzooWarning,
                stacklevel=2,
            )
        return options

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        if student.dim() != 4:
            raise self._mismatch(student, teacher, "must be hidden states of several layers, (B, M, S, D)")
        paired = self.paired(student, teacher, mask)
        ours, theirs = paired[:2] if self.variant == "paper" else (student, teacher)
        if mask is None:
            mask = torch.ones(student.shape[0], student.shape[2], dtype=torch.bool, device=student.device)
        total = ours.new_zeros(())
        if self.word_pair or self.word_angle:
            kept = mask[:, None] if self.variant == "paper" else None
            sides = _Products.of(ours, kept), _Products.of(theirs, kept)
            total = total + self.word_pair * _pairs(*sides, mask[:, None], mask[:, None])
            total = total + self.word_angle * self._word_angles(*sides, mask)
        if self.layer_pair or self.layer_angle:
            # (B, S, M, D): what was layers is what positions were.
            sides = _Products.of(ours.transpose(1, 2), None), _Products.of(theirs.transpose(1, 2), None)
            total = total + self.layer_pair * _pairs(*sides, None, mask[..., None])
            squares = (sides[0].angles() - sides[1].angles()).square().sum((2, 3, 4))
            squares = torch.where(mask, squares, 0.0).sum()
            total = total + self.layer_angle * _ratio(squares, mask.sum() * student.shape[1] ** 3)
        return total

    def _word_angles(self, student: _Products, teacher: _Products, mask: Tensor) -> Tensor:
        """Over the window's pairs with j ≤ k, j < k twice; with x_i itself the cosines are 0 on both sides."""
        layers, length = student.norms.shape[1:]
        reach = self.window // 2
        offsets = torch.cat(
            [torch.arange(-reach, 0, device=mask.device), torch.arange(1, reach + 1, device=mask.device)]
        )
        near = torch.arange(length, device=mask.device)[:, None] + offsets
        around = ((near >= 0) & (near < length))[..., None]
        near = near.clamp(0, length - 1)
        around = torch.ones_like(around) if self.variant == "released" else around & mask.T[near]  # (S, W - 1, B)
        first, second = torch.triu_indices(2 * reach, 2 * reach, device=mask.device)
        ours, theirs = (side.window_angles(near, first, second) for side in (student, teacher))
        squares = (ours - theirs).square().sum(-1) * (1 + (first < second).to(ours.dtype))[:, None]  # (S, P, B)
        valid = mask.T[:, None] & around[:, first] & around[:, second]
        counts = ((around.sum(1) + 1).square() * mask.T).sum() * layers
        return _ratio(torch.where(valid, squares, 0.0).sum(), counts)


class _Products(NamedTuple):
    """What all relations of vectors (..., n, D) are made of, so that their products are taken once.

    Attributes:
        gram: (..., n, n) dot products of the vectors less their mean, which loses fewer digits of the differences.
        norms: (..., n) its diagonal.
        cosines: (..., n, n) of the vectors themselves.
    """

    gram: Tensor
    norms: Tensor
    cosines: Tensor

    @classmethod
    def of(cls, vectors: Tensor, mask: Tensor | None) -> _Products:
        """Of vectors that are zero where the mask (of a shape that spreads to (..., n)) is."""
        vectors = vectors.contiguous()
        if mask is None:
            mean = vectors.mean(-2, keepdim=True)
        else:
            mean = vectors.sum(-2, keepdim=True) / mask.sum(-1).clamp_min(1).to(vectors.dtype)[..., None, None]
        centred = vectors - mean
        gram = centred @ centred.mT
        # x·y = (x - m)·(y - m) + m·x + m·y - m·m
        shift = (vectors @ mean.mT) - mean.square().sum(-1, keepdim=True) / 2
        inverse = reciprocal_norm(vectors)
        return cls(gram, gram.diagonal(dim1=-2, dim2=-1), (gram + shift + shift.mT) * inverse * inverse.mT)

    def angles(self) -> Tensor:
        """Cosines (..., i, j, k) of the angles at x_i between x_j and x_k."""
        own = self.norms[..., :, None]
        inverse = _inverse_distance(own, self.norms[..., None, :], self.gram)
        beside = self.gram - own / 2
        products = self.gram[..., None, :, :] - beside[..., :, None] - beside[..., None, :]
        return products * inverse[..., :, None] * inverse[..., None, :]

    def window_angles(self, near: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Cosines (S, P, B, M) of the angles at each position between P pairs of its neighbours ``near`` (S, W)."""
        length = len(near)
        # Pairs of positions come first: one line holds all rows and layers, and lines are quick to pick and to add to.
        gram, norms = self.gram.permute(2, 3, 0, 1).flatten(0, 1), self.norms.permute(2, 0, 1)
        centres = torch.arange(length, device=near.device)[:, None]
        beside = gram[(centres * length + near).flatten()].unflatten(0, near.shape)  # (S, W, B, M)
        across = gram[(near[:, first] * length + near[:, second]).flatten()].unflatten(0, (length, len(first)))
        own = norms[:, None]
        inverse = _inverse_distance(own, norms[near], beside)
        beside = beside - own / 2
        return (across - beside[:, first] - beside[:, second]) * (inverse[:, first] * inverse[:, second])


def _pairs(student: _Products, teacher: _Products, keys: Tensor | None, queries: Tensor) -> Tensor:
    """KL of the softmax of cosines over the other vectors, divided by the number of valid ordered pairs.

    Args:
        student: of (..., n, D_s).
        teacher: of (..., n, D_t).
        keys: which vectors count as the others, of a shape that spreads to (..., n); None for all.
        queries: likewise, as the one.
    """
    size = student.gram.shape[-1]
    allowed = ~torch.eye(size, dtype=torch.bool, device=queries.device)
    if keys is not None:
        allowed = allowed & keys.unsqueeze(-2)
    lowest = torch.finfo(student.gram.dtype).min / 2
    ours, theirs = (side.cosines.masked_fill(~allowed, lowest).log_softmax(-1) for side in (student, teacher))
    # Where no other is left all logarithms are equal, and the sum is zero.
    divergence = (theirs.exp() * (theirs - ours)).sum(-1)
    others = torch.full((), size, device=queries.device) if keys is None else keys.sum(-1, keepdim=True)
    counts = (queries * others).expand_as(divergence).sum()
    return _ratio(torch.where(queries, divergence, 0.0).sum(), counts)


def _inverse_distance(ours: Tensor, theirs: Tensor, product: Tensor) -> Tensor:
    """1 / ‖x - y‖ from the squared norms and the dot product; 0 where the two coincide to rounding."""
    scale = ours + theirs
    squared = scale - 2 * product
    apart = squared > 16 * torch.finfo(squared.dtype).eps * scale
    return torch.where(apart, torch.where(apart, squared, 1.0).rsqrt(), 0.0)


def _ratio(total: Tensor, count: Tensor) -> Tensor:
    return total / mean_over_processes(count).clamp_min(EPSILON).to(total.dtype)


@register_recipe("ckd")
def recipe() -> Recipe:
    """Labels, softened classes and the four relations, with the weights of CoLA and RTE."""
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, TermSpec, Training

    return Recipe(
        name="ckd",
        title="labels, softened classes, and relations between words and between layers",
        citation=Citation(
            authors="Park, G., Kim, G., Yang, E.",
            title="Distilling Linguistic Context for Language Model Compression",
            venue="EMNLP",
            year=2021,
            url=URL,
        ),
        stages=(
            Stage(
                terms=(
                    TermSpec(loss="ce", weight=0.1),
                    TermSpec(loss="soft_ce", temperature=3.0, weight=0.9),
                    TermSpec(
                        loss="ckd",
                        layers="uniform0",
                        word_pair=1.0,
                        word_angle=10.0,
                        layer_pair=1.0,
                        layer_angle=10.0,
                        window=21,
                    ),
                )
            ),
        ),
        student="6x512,heads=8,ffn=2048",
        training=Training(
            learning_rate=5e-5, batch_size=32, epochs=4, warmup_ratio=0.0, weight_decay=0.0, max_length=128
        ),
        notes="The weights are a task's own: α 0.7 or 0.9, T 1 to 4, and from 0.1 to 1000 for the relations "
        "(10 each at "
        "T 2 for QQP; 10 for the pairs and 1 for the angles for QNLI). In the released code the layers' relations stay "
        "at 1 whatever the task's file says, for it sets them by another name; and its term of the softened classes "
        "takes the place of the labels', or with its readme's command, which misnames it, is left out.",
        sources=(
            Source(
                origin="authors",
                where="distil_config.py, RTE; GLMKD's readme has the same",
                of=(
                    "ce.weight",
                    "soft_ce.weight",
                    "soft_ce.temperature",
                    "ckd.word_pair",
                    "ckd.word_angle",
                    "ckd.layer_pair",
                    "ckd.layer_angle",
                    "training.learning_rate",
                ),
            ),
            Source(origin="ours", where="the relations have weights of their own", of=("ckd.weight",)),
            Source(
                origin="authors",
                where="their readme's command",
                of=("ckd.layers", "ckd.window", "training.batch_size"),
            ),
            Source(origin="authors", where="distil_config.py: all tasks but RTE (6)", of=("training.epochs",)),
            Source(
                origin="authors",
                where="main_glue_distill.py's defaults",
                of=("training.warmup_ratio", "training.weight_decay", "training.max_length"),
            ),
            Source(origin="authors", where="distil_config.py: pre-trained, 6 layers of 512", of=("student",)),
        ),
    )
