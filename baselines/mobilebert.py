"""MobileBERT (Sun et al. 2020): feature map and attention transfer, layer after layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from kdzoo.errors import KdzooError
from kdzoo.kernels.backend import accumulator
from kdzoo.losses.attention import attention_difference, check_heads
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_backend
from kdzoo.losses.reduction import EPSILON, masked_mean, slot_mask
from kdzoo.losses.registry import register
from kdzoo.models.activations import QKV
from kdzoo.models.features import feature_of
from kdzoo.models.shape import ModelShape
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe

WEIGHTS = {"paper": (1.0, 1.0, 1.0, 1.0), "released": (100.0, 5000.0, 5.0, 1.0)}


@register("mobilebert")
class MobileBERT(DistillationLoss):
    """Mean squared difference of hidden states, divergence of attention, or both of one layer.

        hidden states: 1/(N·D) · Σ_n ‖W hs_n - ht_n‖²
        attention:     1/(A·N) · Σ_aq KL(At_aq ‖ As_aq),   A = softmax(QKᵀ / √d)

    over the N valid positions of the whole batch and the A heads, added up when both are given. For stable
    training the paper takes the first one apart into the difference of the layer-normed states (LN) and those of
    their mean μ and variance σ² over the width (``decomposed``), the latter two as in the authors' code:

        1/N · Σ_n [w_h/D · ‖LN(W hs_n) - LN(ht_n)‖² + w_μ · (μs_n - μt_n)² + w_σ · |σs²_n - σt²_n|]

    Args:
        decomposed: take the hidden states apart; None takes the variant's choice.
        hidden_weight: of the squared difference, 1, or 100 in the authors' command.
        mean_weight: of the means, w_μ: 1, or 5000 in the authors' command. It has no effect on states that are not
            taken apart.
        variance_weight: of the variances, w_σ: 1, or 5 in the authors' command; likewise.
        attention_weight: of the attention, 1.
        student_dim: width of the student's states.
        teacher_dim: width of the teacher's. Where the two differ W is learned (the paper gives its student
            and its teacher one width); where they are equal there is none.
        bias: give W a bias.
        variant: ``"released"`` is the authors' code: decomposed, with the weights of their published command,
            cross-entropy in place of the divergence (the same gradient), and means over all positions and
            queries, those of padding included. (Their code takes the teacher's mean over all of its layers
            by mistake, which their later one corrects, as here; and it divides the sum over layers by their number.)
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes the attention of a ``QKV``.

    Shapes:
        student, teacher: hidden states (B, D) or (B, S, D), with a mask (B, S) where there are positions; or a
            ``QKV`` of (B, A, S, d) tensors or attention scores (B, A, S, S), with a mask (B, S) or (B, S, S).
            Hidden states of several layers are (B, M, S, D), where S and D differ; four axes of which the last two
            are equal are attention scores, unless the widths of W are given.
        student_attention, teacher_attention: beside hidden states, the attention of the same layer.

    Raises:
        KdzooError: for unequal head counts, shapes that do not fit, or the attention of one side alone.

    References:
        Sun et al.: MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited Devices, section 3.4.
        https://arxiv.org/abs/2004.02984

    See also:
        ``hidden_mse`` and ``attention_kl``, the two parts.

    Examples:
        >>> import kdzoo, torch
        >>> loss = kdzoo.create("mobilebert", decomposed=True)
        >>> student, attention = torch.randn(2, 7, 16, requires_grad=True), torch.randn(2, 4, 7, 7, requires_grad=True)
        >>> loss(student, torch.randn(2, 7, 16), mask=torch.ones(2, 7), student_attention=attention,
        ...      teacher_attention=torch.randn(2, 4, 7, 7)).backward()
    """

    features = ("hidden", "qkv")
    fused = True
    extras = frozenset({"student_attention", "teacher_attention"})
    variants = ("paper", "released")
    counts_padding = ("released",)
    formula = (
        r"\frac{1}{N D} \sum_n \| W h^s_n - h^t_n \|^2 + "
        r"\frac{1}{A N} \sum_{a,q} D_{\mathrm{KL}}(A^t_{aq} \| A^s_{aq})"
    )
    complexity = "O(B·S·D) on hidden states; O(B·A·S²·d) on attention"
    related = ("hidden_mse", "attention_kl", "attention_ce")
    paper = "Sun et al. 2020, MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited Devices"
    year = 2020
    url = "https://arxiv.org/abs/2004.02984"

    def __init__(
        self,
        *,
        decomposed: bool | None = None,
        hidden_weight: float | None = None,
        mean_weight: float | None = None,
        variance_weight: float | None = None,
        attention_weight: float | None = None,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        bias: bool = False,
        variant: str = "paper",
        backend: str = "auto",
    ) -> None:
        super().__init__(student_dim=student_dim, teacher_dim=teacher_dim, bias=bias, variant=variant)
        self.backend = check_backend(self.label, backend)
        self.decomposed = variant == "released" if decomposed is None else decomposed
        given = (hidden_weight, mean_weight, variance_weight, attention_weight)
        chosen = [own if weight is None else weight for weight, own in zip(given, WEIGHTS[variant], strict=True)]
        self.hidden_weight, self.mean_weight, self.variance_weight, self.attention_weight = chosen

    @classmethod
    def fit(
        cls, options: dict[str, Any], *, feature: str, student: ModelShape, teacher: ModelShape, **context: Any
    ) -> dict[str, Any]:
        if feature_of(feature).attention:
            check_heads(cls.name, student.num_heads, teacher.num_heads)
        return super().fit(options, feature=feature, student=student, teacher=teacher, **context)

    def compute(
        self,
        student: Any,
        teacher: Any,
        *,
        mask: Tensor | None,
        student_attention: Any = None,
        teacher_attention: Any = None,
        **context: Any,
    ) -> Tensor:
        attention = [isinstance(side, QKV) or self._is_scores(side) for side in (student, teacher)]
        beside = [side is not None for side in (student_attention, teacher_attention)]
        if attention[0] != attention[1] or beside[0] != beside[1] or (attention[0] and beside[0]):
            raise KdzooError(
                f"{self.label} takes hidden states (B, S, D) of both sides, attention (a QKV, or scores (B, A, S, S)) "
                "of both, or hidden states with both student_attention and teacher_attention"
            )
        if attention[0]:
            return self._attention(student, teacher, mask)
        value = self._hidden(student, teacher, mask)
        # Through forward, which detaches the teacher's side and sees to the types.
        return value + self.forward(student_attention, teacher_attention, mask=mask) if beside[0] else value

    def _is_scores(self, side: Tensor) -> bool:
        return self.projection is None and side.dim() == 4 and side.shape[-1] == side.shape[-2]

    def _attention(self, student: Any, teacher: Any, mask: Tensor | None) -> Tensor:
        released = self.variant == "released"
        options: dict[str, Any] = {"padded_queries": released, "backend": self.backend}
        kind = "ce" if released else "kl"
        return self.attention_weight * attention_difference(self.label, student, teacher, mask, kind, **options)

    def _hidden(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        if self.variant == "released":
            slot_mask(self.label, student, mask)  # a mask that does not fit is a mistake here as well
            mask = None
        student, teacher, slots = self.vectors(student, teacher, mask)
        student, teacher = (side.to(accumulator(side.dtype)) for side in (student, teacher))
        if slots is not None:
            student, teacher = (side.masked_fill(~slots.unsqueeze(-1), 0.0) for side in (student, teacher))
        if not self.decomposed:
            return self.hidden_weight * masked_mean(((student - teacher) ** 2).mean(-1), slots)
        normed = [F.layer_norm(side, side.shape[-1:], eps=EPSILON) for side in (student, teacher)]
        losses = self.hidden_weight * ((normed[0] - normed[1]) ** 2).mean(-1)
        losses = losses + self.mean_weight * (student.mean(-1) - teacher.mean(-1)) ** 2
        variances = [side.var(-1, correction=0) for side in (student, teacher)]
        return masked_mean(losses + self.variance_weight * (variances[0] - variances[1]).abs(), slots)


@register_recipe("mobilebert")
def recipe() -> Recipe:
    """Progressive knowledge transfer, then the teacher's classes and the labels."""
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, TermSpec, Training

    published = {"decomposed": True, "hidden_weight": 100.0, "mean_weight": 5000.0, "variance_weight": 5.0}
    hidden = {"loss": "mobilebert", "layers": "uniform", **published}
    attention = {"loss": "mobilebert", "feature": "qkv", "layers": "uniform"}
    transfer = (
        TermSpec(**hidden, name="hidden", layer_schedule="progressive", weight=0.9),
        TermSpec(**attention, name="attention", layer_schedule="progressive", weight=0.9),
        TermSpec(**hidden, name="hidden_so_far", layer_schedule="stacked", weight=0.1),
        TermSpec(**attention, name="attention_so_far", layer_schedule="stacked", weight=0.1),
    )
    return Recipe(
        name="mobilebert",
        title="hidden states and attention of one layer after the other, then the teacher's classes and the labels",
        citation=Citation(
            authors="Sun, Z., Yu, H., Song, X., Liu, R., Yang, Y., Zhou, D.",
            title="MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited Devices",
            venue="ACL",
            year=2020,
            url="https://arxiv.org/abs/2004.02984",
        ),
        stages=(
            Stage(fraction=0.32, terms=transfer, lr_scheduler="constant"),
            Stage(
                fraction=0.68,
                terms=(TermSpec(loss="kd", temperature=1.0, weight=0.5), TermSpec(loss="ce", weight=0.5)),
                lr_scheduler="linear",
            ),
        ),
        student="4x312,heads=12,ffn=1200",
        training=Training(learning_rate=5e-5, batch_size=32, epochs=10, max_length=128),
        notes="Published for pre-training text, with 240 thousand steps of transfer and 500 thousand of distillation "
        "at equal weights of teacher and truth; here both run on the task in that proportion. The layer in turn weighs "
        "1 and those below it 0.1 (0.9 progressive and 0.1 stacked); the paper lowers the learning rate of the lower "
        "layers to a tenth instead. The weights 100, 5000 and 5 are the authors' command's. MobileBERT's bottlenecks "
        "give the student the teacher's width; where widths differ, each of the hidden terms learns a projection of "
        "its own.",
        sources=(
            Source(
                origin="authors",
                where="their readme's command for distillation",
                of=(
                    *(f"{name}.{key}" for name in ("hidden", "hidden_so_far") for key in published),
                    "stages.0.fraction",
                    "stages.1.fraction",
                    "kd.weight",
                    "kd.temperature",
                    "ce.weight",
                ),
            ),
            Source(
                origin="paper",
                where="progressive knowledge transfer, of every layer",
                of=(
                    *(f"{term.name}.{key}" for term in transfer for key in ("layers", "layer_schedule")),
                    "attention.feature",
                    "attention_so_far.feature",
                ),
            ),
            Source(
                origin="ours",
                where="a tenth for what is done, of the loss; the paper has it of the learning rate",
                of=tuple(f"{term.name}.weight" for term in transfer),
            ),
            Source(
                origin="ours", where="as TinyBERT's two stages", of=("stages.0.lr_scheduler", "stages.1.lr_scheduler")
            ),
            Source(origin="ours", where="TinyBERT's; MobileBERT's own has bottlenecks", of=("student",)),
            Source(
                origin="ours",
                where="within BERT's grid for fine-tuning but for the epochs: not published on a task",
                of=("training.learning_rate", "training.batch_size", "training.epochs", "training.max_length"),
            ),
        ),
    )
