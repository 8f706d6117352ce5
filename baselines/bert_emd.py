"""BERT-EMD (Li et al. 2020): earth mover's distance between the layers of the two models, with weights that adapt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.distributed import mean_over_processes
from kdzoo.errors import KdzooError
from kdzoo.losses.attention import check_heads, check_shows_qkv, relation, valid_pairs
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_count, check_positive
from kdzoo.losses.reduction import EPSILON
from kdzoo.losses.registry import register
from kdzoo.models.activations import QKV
from kdzoo.models.features import feature_of
from kdzoo.models.shape import ModelShape
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.models.layers import Pairs
    from kdzoo.objectives.recipe import Recipe

PAPER = "Li et al. 2020, BERT-EMD: Many-to-Many Layer Mapping for BERT Compression with Earth Mover's Distance"
URL = "https://arxiv.org/abs/2010.06133"


@register("bert_emd")
class BertEMD(DistillationLoss):
    """Earth mover's distance between the student's layers and the teacher's.

        min_F Σ_mn F_mn · C_mn   with F ≥ 0, Σ_n F_mn = w_m, Σ_m F_mn = v_n,   C_mn = MSE(W s_m, t_n)

    C is the mean squared difference of two layers' hidden states (over valid positions and widths) or attention
    scores before the softmax (over valid pairs and heads). The flow F is solved for exactly, and taken as given
    in the gradient. The layers' weights w and v start equal. After each training step a layer that is cheap to
    move gains weight (cost attention): with its unit cost c_m = Σ_n F_mn · C_mn / w_m,

        w = softmax_m( Σ_k c_k / c_m / τ ),   and v likewise from the teacher's side.

    Under torch.distributed the costs are those of the whole batch, so that all processes keep the same weights.
    Solving takes M·N numbers to the CPU at every step.

    Args:
        student_layers: M, to keep weights for. An objective gives it.
        teacher_layers: N, likewise. Without the two any numbers of layers go, and all of them weigh equally.
        update_weights: False keeps all layers' weights equal.
        temperature: τ, above 0.
        student_dim: width of the student's hidden states.
        teacher_dim: width of the teacher's. Where the two differ W is learned, one for all layers.
        bias: give W a bias.
        variant: ``"released"`` is the authors' later code: w_m proportional to 1 / c_m, without softmax or τ; means
            that count padding; and scores of at most -100 set to zero on each side.

    Shapes:
        student: hidden states (B, M, S, D_s), CLS states (B, M, D_s), or a ``QKV`` of (B, M, A, S, d) tensors.
        teacher: likewise with N layers; head counts must be equal. A mask (B, S) where there are positions.

    Raises:
        KdzooError: for one number of layers alone, other layers than were given, unequal head counts, or shapes that
            do not fit.

    References:
        Li, Liu, Zhao, Xu, Yang, Jin: BERT-EMD, sections 3.2 to 3.4. https://arxiv.org/abs/2010.06133

    See also:
        ``hidden_mse`` and ``attention_mse``, the same costs on a fixed layer map; ``alp``, layers mixed by attention.

    Examples:
        >>> import kdzoo, torch
        >>> loss = kdzoo.create("bert_emd", student_layers=2, teacher_layers=4)
        >>> student = torch.randn(3, 2, 7, 16, requires_grad=True)
        >>> loss(student, torch.randn(3, 4, 7, 16), mask=torch.ones(3, 7)).backward()
    """

    features = ("hidden", "qkv")
    mean_over = "rows"
    many_to_many = True
    variants = ("paper", "released")
    counts_padding = ("released",)
    formula = (
        r"\min_{F \ge 0} \sum_{mn} F_{mn} \operatorname{MSE}(W s_m, t_n), \quad "
        r"\sum_n F_{mn} = w_m, \; \sum_m F_{mn} = v_n"
    )
    complexity = "O(M·N·B·S·D), or O(M·N·B·A·S²) on attention, with O((M + N)·B·A·S²) memory"
    related = ("alp", "hidden_mse", "attention_mse")
    paper, year, url = PAPER, 2020, URL

    def __init__(
        self,
        student_layers: int | None = None,
        teacher_layers: int | None = None,
        *,
        update_weights: bool = True,
        temperature: float = 1.0,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        bias: bool = False,
        variant: str = "paper",
    ) -> None:
        super().__init__(student_dim=student_dim, teacher_dim=teacher_dim, bias=bias, variant=variant)
        check_positive(self.label, temperature=temperature)
        if (student_layers is None) != (teacher_layers is None):
            raise KdzooError(f"{self.label}: give both student_layers and teacher_layers, or neither")
        if student_layers is not None and teacher_layers is not None:
            check_count(self.label, student_layers=student_layers, teacher_layers=teacher_layers)
            self.register_buffer("student_weights", torch.full((student_layers,), 1 / student_layers))
            self.register_buffer("teacher_weights", torch.full((teacher_layers,), 1 / teacher_layers))
        self.fixed_layers = student_layers is not None
        self.update_weights = update_weights and self.fixed_layers
        self.temperature = temperature

    student_weights: Tensor
    teacher_weights: Tensor

    @classmethod
    def fit(
        cls,
        options: dict[str, Any],
        *,
        feature: str,
        student: ModelShape,
        teacher: ModelShape,
        layers: Pairs,
        num_samples: int | None,
    ) -> dict[str, Any]:
        if feature_of(feature).attention:
            check_heads(cls.name, student.num_heads, teacher.num_heads)
            check_shows_qkv(cls.name, student, teacher, instead="take it on the hidden states")
        options.setdefault("student_layers", len({own for own, _ in layers}))
        options.setdefault("teacher_layers", len({other for _, other in layers}))
        return super().fit(
            options, feature=feature, student=student, teacher=teacher, layers=layers, num_samples=num_samples
        )

    def compute(self, student: Any, teacher: Any, *, mask: Tensor | None, **context: Any) -> Tensor:
        entries = self._attention if isinstance(student, QKV) or isinstance(teacher, QKV) else self._hidden
        ours, theirs, count = entries(student, teacher, mask)
        count = mean_over_processes(count).clamp_min(EPSILON).to(ours.dtype)
        with torch.no_grad():
            # Differences themselves, not products of the two: equal layers cost exactly nothing.
            own = torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist").square() / count
            costs = mean_over_processes(own).to(own.dtype)
            if self.fixed_layers:
                weights = self.student_weights, self.teacher_weights
            else:
                weights = costs.new_ones(len(ours)), costs.new_ones(len(theirs))
            flow = transport(costs, *weights).to(own.dtype)
            value = (flow * own).sum()
            moved = flow.sum(1)
            target = (flow / moved.clamp_min(EPSILON)[:, None]) @ theirs
        # All that the gradient needs of the M·N differences is each student layer's to the mix that it is moved to.
        squares = [F.mse_loss(*pair, reduction="sum") for pair in zip(ours.unbind(), target.unbind(), strict=True)]
        distance = (moved * torch.stack(squares)).sum() / count
        if self.training and self.update_weights:
            self._reweigh(flow * costs)
        return distance + (value - distance).detach()

    def _hidden(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The layers' entries (M, E) and (N, E), zero where they do not count, and how many of them do."""
        checked = self.layered(student, teacher, mask)
        student, teacher, mask = checked if self.variant == "paper" else (student, teacher, None)
        ours = self.projected(student, teacher)
        if mask is not None:
            # A projection with a bias has filled the padding.
            ours = ours.masked_fill(~mask[:, None, :, None], 0.0)
        count = torch.full((), float(ours[:, 0].numel())) if mask is None else mask.sum() * ours.shape[-1]
        return *self._flat(ours.transpose(0, 1), teacher.transpose(0, 1)), count.to(ours.device)

    def _attention(self, student: QKV, teacher: Any, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        sizes = [self._scores_shape(side) for side in (student, teacher)]
        pairs = valid_pairs(mask, padded_queries=self.variant == "released")
        if pairs is not None and pairs.shape != (sizes[0][0], 1, *sizes[0][3:]):
            given = () if mask is None else tuple(mask.shape)
            raise KdzooError(f"{self.label}: a mask {given} does not fit scores {sizes[0]}; it is (B, S) or (B, S, S)")
        if sizes[0][:1] + sizes[0][2:] != sizes[1][:1] + sizes[1][2:]:
            raise KdzooError(
                f"{self.label}: student scores {sizes[0]} and teacher scores {sizes[1]} must agree in all but the "
                "layers, heads included"
            )
        # Layers first, so that the largest tensors need no copy below.
        scores = [relation(side.query.transpose(0, 1), side.key.transpose(0, 1), pairs) for side in (student, teacher)]
        if pairs is not None and mask is not None and mask.dim() == 3:
            # Elsewhere a score is zero already where its query or key is padding.
            scores = [side.masked_fill(~pairs, 0.0) for side in scores]
        if self.variant == "released":
            scores = [side.masked_fill(side <= -100.0, 0.0) for side in scores]
        if pairs is None or self.variant == "released":
            entries = torch.full((), float(scores[0][0].numel()))
        else:
            entries = pairs.sum() * sizes[0][2]
        return *self._flat(*scores), entries.to(scores[0].device)

    def _scores_shape(self, side: Any) -> tuple[int, ...]:
        if not isinstance(side, QKV) or side.query.dim() != 5 or side.query.shape != side.key.shape:
            shapes = [tuple(tensor.shape) for tensor in (side if isinstance(side, QKV) else (side,))]
            raise KdzooError(f"{self.label} compares QKVs of (B, M, A, S, d) tensors, or hidden states; got {shapes}")
        return (*side.query.shape[:-1], side.query.shape[-2])

    def _flat(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(M, B, ...) and (N, B, ...) as (M, E) and (N, E)."""
        if self.fixed_layers:
            wanted = len(self.student_weights), len(self.teacher_weights)
            if (len(student), len(teacher)) != wanted:
                rule = f"do not fit student_layers={wanted[0]}, teacher_layers={wanted[1]}, which it was made with"
                raise self._mismatch(student.transpose(0, 1), teacher.transpose(0, 1), rule)
        return student.flatten(1), teacher.flatten(1)

    @torch.no_grad()
    def _reweigh(self, paid: Tensor) -> None:
        """The next step's weights from what was paid for each pair of layers (M, N)."""
        for weights, spent in ((self.student_weights, paid.sum(1)), (self.teacher_weights, paid.sum(0))):
            unit_costs = spent / weights.clamp_min(EPSILON)
            ratios = unit_costs.sum() / unit_costs.clamp_min(EPSILON)
            released = self.variant == "released"
            new = ratios / ratios.sum() if released else (ratios / self.temperature).softmax(0)
            # No layer's weight may vanish: it would have no unit cost to come back by.
            weights.copy_(torch.where(spent.sum() > 0, new.clamp_min(EPSILON), weights))


@torch.library.custom_op("kdzoo::transport", mutates_args=())
def transport(costs: Tensor, supply: Tensor, demand: Tensor) -> Tensor:
    """The cheapest flow (M, N) from a supply (M,) to a demand (N,), both taken as shares of 1; without gradient.

    An operator of its own, which torch.compile leaves as it is.
    """
    arrays = (tensor.detach().cpu().double().numpy() for tensor in (costs, supply, demand))
    return torch.from_numpy(cheapest_flow(*arrays)).to(costs)


@transport.register_fake
def _(costs: Tensor, supply: Tensor, demand: Tensor) -> Tensor:
    return torch.empty_like(costs)


def cheapest_flow(costs: np.ndarray, supply: np.ndarray, demand: np.ndarray) -> np.ndarray:
    """Solve the transport problem exactly, by successive shortest paths (Ahuja, Magnanti, Orlin 1993, section 9.7).

    Args:
        costs: (M, N), finite.
        supply: (M,) of positive numbers.
        demand: (N,) of positive numbers.

    Returns:
        (M, N) with rows that sum to supply / Σ supply and columns that sum to demand / Σ demand.
    """
    supply, demand = supply / supply.sum(), demand / demand.sum()
    flow = np.zeros_like(costs)
    if not np.isfinite(costs).all():
        return np.outer(supply, demand)  # a student that has diverged: the loss will say so
    slack = 1e-13 * np.abs(costs).max()  # below it a shorter path is a rounding error
    while supply.any() and demand.any():
        # Distances over unsaturated arcs: from a source to any sink, and back along what flows already.
        to_source, sink_before = np.where(supply > 0, 0.0, np.inf), np.full(len(supply), -1)
        to_sink, source_before = np.full(len(demand), np.inf), np.full(len(demand), -1)
        while True:
            forth = to_source[:, None] + costs
            nearer = forth.min(0) < to_sink - slack
            to_sink[nearer], source_before[nearer] = forth.min(0)[nearer], forth.argmin(0)[nearer]
            back = np.where(flow > 0, to_sink - costs, np.inf)
            nearer = back.min(1) < to_source - slack
            if not nearer.any():
                break
            to_source[nearer], sink_before[nearer] = back.min(1)[nearer], back.argmin(1)[nearer]
        sink = last = int(np.where(demand > 0, to_sink, np.inf).argmin())
        forward, backward = [], []
        while True:
            source = int(source_before[sink])
            forward.append((source, sink))
            if sink_before[source] < 0:
                break
            sink = int(sink_before[source])
            backward.append((source, sink))
        amount = min([supply[source], demand[last], *(flow[arc] for arc in backward)])
        supply[source] -= amount
        demand[last] -= amount
        for arc in forward:
            flow[arc] += amount
        for arc in backward:
            flow[arc] -= amount
    return flow


@register_recipe("bert_emd")
def recipe() -> Recipe:
    """One stage, with the weights of the best four-layer students on the larger tasks."""
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, TermSpec, Training

    return Recipe(
        name="bert_emd",
        title="softened classes, embeddings, and all hidden states and attention scores by earth mover's distance",
        citation=Citation(
            authors="Li, J., Liu, X., Zhao, H., Xu, R., Yang, M., Jin, Y.",
            title="BERT-EMD: Many-to-Many Layer Mapping for BERT Compression with Earth Mover's Distance",
            venue="EMNLP",
            year=2020,
            url=URL,
        ),
        stages=(
            Stage(
                terms=(
                    TermSpec(loss="kd", temperature=3.0, reduction="mean"),
                    TermSpec(
                        loss="bert_emd",
                        feature="hidden",
                        layers="all",
                        weight=0.005,
                        temperature=1.0,
                        name="hidden_emd",
                    ),
                    TermSpec(
                        loss="bert_emd",
                        feature="qkv",
                        layers="all",
                        weight=0.005,
                        temperature=1.0,
                        name="attention_emd",
                    ),
                    TermSpec(loss="embedding_mse", weight=0.005),
                )
            ),
        ),
        student="4x312,heads=12,ffn=1200",
        training=Training(
            learning_rate=2e-5, batch_size=32, epochs=10, warmup_ratio=0.1, weight_decay=0.01, max_length=64
        ),
        notes="The authors start from TinyBERT's pre-trained student; by task β is 0.001 or 0.005, T 3 "
        "(QQP, QNLI, MNLI) "
        "or 1, T_emd 1, 5 or 10, and the rate 5e-5 on MNLI, 3e-5 on STS-B. β belongs to their mean over "
        "classes as well "
        "as rows (kd.reduction=mean). "
        "Here hidden states and attention keep layer weights of their own (their option --seperate), where the "
        "published runs average the two after each step.",
        sources=(
            Source(
                origin="authors",
                where="their readme's table, four layers, QQP and QNLI",
                of=(
                    "kd.weight",
                    "kd.temperature",
                    "hidden_emd.weight",
                    "hidden_emd.temperature",
                    "attention_emd.weight",
                    "attention_emd.temperature",
                    "embedding_mse.weight",
                    "training.learning_rate",
                ),
            ),
            Source(origin="authors", where="emd_task_distill.py: distillation_loss", of=("kd.reduction",)),
            Source(
                origin="paper",
                where="section 3.2: all layers of both",
                of=("hidden_emd.feature", "hidden_emd.layers", "attention_emd.feature", "attention_emd.layers"),
            ),
            Source(origin="authors", where="their readme: General_TinyBERT_v2(4layer-312dim)", of=("student",)),
            Source(
                origin="authors",
                where="emd_task_distill.py",
                of=(
                    "training.batch_size",
                    "training.epochs",
                    "training.warmup_ratio",
                    "training.weight_decay",
                    "training.max_length",
                ),
            ),
        ),
    )
