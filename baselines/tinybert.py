"""TinyBERT (Jiao et al. 2020): embeddings, hidden states, attention scores, and soft cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from kdzoo.kernels.hidden_mse import hidden_mse
from kdzoo.losses.attention import attention_difference, check_heads
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.divergence import Divergence, check_problem_type
from kdzoo.losses.options import check_backend
from kdzoo.losses.reduction import mean_count, slot_mask
from kdzoo.losses.registry import register
from kdzoo.models.shape import CLASSES, LABELS, NUMBERS, ModelShape
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe

PAPER = "Jiao et al. 2020, TinyBERT: Distilling BERT for Natural Language Understanding"
URL = "https://arxiv.org/abs/1909.10351"


@register("soft_ce")
class SoftCrossEntropy(Divergence):
    """Cross-entropy of the student's softened classes with the teacher's.

        -1/B · Σ_i Σ_c softmax(zt_i / T)_c · log softmax(zs_i / T)_c

    It has no T². A softmax over one logit is constant, so a one-logit task takes the mean squared difference
    of the logits, as ``kd`` does, and so do several numbers; several labels a row are binary
    cross-entropies, each label by itself, mean over rows and labels.

    Args:
        temperature: T, above 0.
        problem_type: what the logits are, as transformers' configurations call it; an objective sets it.
        variant: ``"released"`` is the authors' code: the mean over all B·C entries, C times smaller. (On a
            regression task their code fits the gold label instead: use ``ce`` for that.)
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S).

    Raises:
        KdzooError: for a temperature that is not positive, or unequal shapes.

    References:
        Jiao et al. 2020, equation 10. https://arxiv.org/abs/1909.10351

    See also:
        ``kd``: less the teacher's entropy, and scaled by T².

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 3, requires_grad=True)
        >>> kdzoo.create("soft_ce")(student, torch.randn(8, 3)).backward()
    """

    problem_types = (CLASSES, LABELS, NUMBERS)
    kind = "cross_entropy"
    of_classes = ("temperature", "variant")
    variants = ("paper", "released")
    formula = r"- \frac{1}{B} \sum_{ic} \mathrm{softmax}(z^t_i / T)_c \log \mathrm{softmax}(z^s_i / T)_c"
    complexity = "O(B·C)"
    related = ("kd", "ce")
    paper, year, url = PAPER, 2020, URL

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        problem_type: str | None = None,
        variant: str = "paper",
        backend: str = "auto",
    ) -> None:
        super().__init__(temperature, variant=variant, backend=backend)
        self.problem_type = check_problem_type(self.label, problem_type)

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        value = super().compute(student, teacher, mask=mask, **context)
        over_classes = self.variant == "released" and self.problem_type in (None, CLASSES)
        return value / student.shape[-1] if over_classes else value


@register("hidden_mse")
class HiddenMSE(DistillationLoss):
    """Mean squared difference of hidden states, the student's projected to the teacher's width.

        1/(N·D) · Σ_n ‖W hs_n - ht_n‖²

    over the N valid positions. Without a mask and with a regressor for W this is FitNets' hint.

    Args:
        student_dim: width of the student's states.
        teacher_dim: width of the teacher's. Where the two differ W is learned; where they are equal there is
            none.
        bias: give W a bias; None takes the variant's choice.
        variant: ``"paper"``: no bias, padding left out. ``"released"`` is the authors' code: W has a bias,
            and the mean is taken over all positions, padding included, whatever the mask.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student, teacher: (B, D), (B, S, D), (B, M, D) or (B, M, S, D); a mask (B, S) where there are
            positions.

    Raises:
        KdzooError: for shapes or widths that do not fit.

    References:
        Jiao et al. 2020, equation 8. https://arxiv.org/abs/1909.10351
        Romero et al. 2015, FitNets, equation 3. https://arxiv.org/abs/1412.6550

    See also:
        ``embedding_mse``, the same on the embedding output; ``cosine``, which leaves lengths free.

    Examples:
        >>> import kdzoo, torch
        >>> loss = kdzoo.create("hidden_mse", student_dim=16, teacher_dim=32)
        >>> student = torch.randn(4, 7, 16, requires_grad=True)
        >>> loss(student, torch.randn(4, 7, 32), mask=torch.ones(4, 7)).backward()
    """

    features: ClassVar[tuple[str, ...]] = ("hidden", "cls")
    variants = ("paper", "released")
    counts_padding = ("released",)
    fused = True
    formula: ClassVar[str] = r"\frac{1}{ND} \sum_n \left\lVert W h^s_n - h^t_n \right\rVert^2"
    complexity = "O(B·S·D²) with a projection, O(B·S·D) without"
    related: ClassVar[tuple[str, ...]] = ("embedding_mse", "hint", "squarehead", "cosine")
    paper, year, url = PAPER, 2020, URL

    def __init__(
        self,
        *,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        bias: bool | None = None,
        variant: str = "paper",
        backend: str = "auto",
    ) -> None:
        bias = variant == "released" if bias is None else bias
        super().__init__(student_dim=student_dim, teacher_dim=teacher_dim, bias=bias, variant=variant)
        self.backend = check_backend(self.label, backend)

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        if self.variant == "released":
            slot_mask(self.label, student, mask)  # a mask that does not fit is a mistake here as well
            mask = None
        student, teacher, slots = self.vectors(student, teacher, mask)
        count = mean_count(student, slots)
        return hidden_mse(student, teacher.to(student.dtype), mask=mask, count=count, backend=self.backend)


@register("embedding_mse")
class EmbeddingMSE(HiddenMSE):
    """Mean squared difference of the embedding outputs: ``hidden_mse`` on hidden state 0.

        1/(N·D) · Σ_n ‖W es_n - et_n‖²

    Args:
        student_dim: width of the student's embeddings.
        teacher_dim: width of the teacher's. Where the two differ W is learned; where they are equal there is
            none.
        bias: give W a bias; None takes the variant's choice.
        variant: ``"paper"``, or ``"released"``: a biased W (the authors share one with all layers; here each
            loss has its own) and a mean over all positions, padding included, whatever the mask.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student, teacher: (B, S, D) with an optional mask (B, S).

    Raises:
        KdzooError: for shapes or widths that do not fit.

    References:
        Jiao et al. 2020, equation 9. https://arxiv.org/abs/1909.10351

    See also:
        ``hidden_mse``.

    Examples:
        >>> import kdzoo, torch
        >>> loss = kdzoo.create("embedding_mse")
        >>> loss(torch.zeros(4, 7, 16), torch.ones(4, 7, 16), mask=torch.ones(4, 7)).item()
        1.0
    """

    features = ("embedding",)
    formula = r"\frac{1}{ND} \sum_n \left\lVert W e^s_n - e^t_n \right\rVert^2"
    related = ("hidden_mse",)


@register("attention_mse")
class AttentionMSE(DistillationLoss):
    """Mean squared difference of the attention scores before the softmax.

        1/(A·P) · Σ_a Σ_qk (Qs Ksᵀ / √ds - Qt Ktᵀ / √dt)²

    over the A heads and the P (query, key) pairs of which both are real, of the whole batch.

    Args:
        variant: ``"released"`` is the authors' code: keys of padding get -10000, scores of -100 or less are
            set to zero on either side, and the mean is over all B·A·S·S entries, those zeros and the queries
            of padding included.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it of a ``QKV``.

    Shapes:
        student, teacher: a ``QKV`` of (B, A, S, d) tensors, or scores (B, A, S, S); mask (B, S), or (B, S,
            S). Of a text's attention to another they are (B, A, T, S) and the mask (B, T, S).

    Raises:
        KdzooError: for unequal head counts, or shapes that do not fit.

    References:
        Jiao et al. 2020, equation 7. https://arxiv.org/abs/1909.10351

    See also:
        ``attention_kl``, which compares what the softmax makes of the scores.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(2, 4, 7, 7, requires_grad=True)
        >>> kdzoo.create("attention_mse")(student, torch.randn(2, 4, 7, 7), mask=torch.ones(2, 7)).backward()
    """

    features = ("qkv",)
    cross_attention = True
    mean_over = "pairs"
    fused = True
    formula = r"\frac{1}{A P} \sum_{a,q,k} (Q^s K^{s\top} / \sqrt{d_s} - Q^t K^{t\top} / \sqrt{d_t})_{aqk}^2"
    complexity = "O(B·A·S²·d)"
    related = ("attention_kl", "attention_ce")
    variants = ("paper", "released")
    counts_padding = ("released",)
    paper, year, url = PAPER, 2020, URL

    def __init__(self, *, variant: str = "paper", backend: str = "auto") -> None:
        super().__init__(variant=variant)
        self.backend = check_backend(self.label, backend)

    @classmethod
    def fit(
        cls, options: dict[str, Any], *, student: ModelShape, teacher: ModelShape, **context: Any
    ) -> dict[str, Any]:
        check_heads(cls.name, student.num_heads, teacher.num_heads)
        return options

    def compute(self, student: Any, teacher: Any, *, mask: Tensor | None, **context: Any) -> Tensor:
        options: dict[str, Any] = {"backend": self.backend, "cross": True}
        if self.variant == "released":
            # Their -10000 of a padded key becomes zero on both sides, as what does not count is here.
            options |= {"padded_queries": True, "floor": -100.0, "every": True}
        return attention_difference(self.label, student, teacher, mask, "mse", **options)


@register_recipe("tinybert")
def recipe() -> Recipe:
    """Layers first, at a constant rate, then the soft labels; the paper's data augmentation is --augment."""
    from kdzoo.objectives.recipe import Citation, General, Recipe, Source, Stage, TermSpec, Training

    layers = (
        TermSpec(loss="embedding_mse"),
        TermSpec(loss="hidden_mse", layers="uniform", shared=True),
        TermSpec(loss="attention_mse", layers="uniform"),
    )
    return Recipe(
        name="tinybert",
        title="embeddings, hidden states and attention scores of every mapped layer, then soft labels",
        citation=Citation(
            authors="Jiao, X., Yin, Y., Shang, L., Jiang, X., Chen, X., Li, L., Wang, F., Liu, Q.",
            title="TinyBERT: Distilling BERT for Natural Language Understanding",
            venue="Findings of EMNLP",
            year=2020,
            url="https://arxiv.org/abs/1909.10351",
        ),
        stages=(
            Stage(fraction=0.77, terms=layers, lr_scheduler="constant"),
            Stage(
                fraction=0.23,
                terms=(TermSpec(loss="soft_ce"),),
                lr_scheduler="linear",
                lr_factor=0.6,
                warmup_ratio=0.1,
            ),
        ),
        general=General(
            terms=layers,
            training=Training(
                learning_rate=5e-5, batch_size=256, epochs=3, warmup_ratio=0.1, weight_decay=0.01, max_length=128
            ),
        ),
        student="4x312,heads=12,ffn=1200",
        training=Training(
            learning_rate=5e-5, batch_size=32, epochs=13, warmup_ratio=0.0, weight_decay=0.01, max_length=128
        ),
        notes="Ten epochs on the layers and three on the predictions, as published for the larger tasks (twenty and "
        "three for the smaller). The general stage takes the layers alone, as published. "
        "The map takes hidden state i to i·k and attention layer i to i·k + k - 1. The authors average the "
        "soft labels' "
        "term over the classes as well (soft_ce.variant=released); alone in its stage it trains the same.",
        sources=(
            Source(
                origin="paper",
                where="equations 7 to 11: all weights 1",
                of=("embedding_mse.weight", "hidden_mse.weight", "attention_mse.weight", "soft_ce.weight"),
            ),
            Source(origin="paper", where="its experiments: t = 1", of=("soft_ce.temperature",)),
            Source(origin="paper", where="section 3.1", of=("hidden_mse.layers", "attention_mse.layers")),
            Source(origin="authors", where="transformer/modeling.py: one fit_dense", of=("hidden_mse.shared",)),
            Source(
                origin="authors",
                where="their readme's commands: 10 epochs, then 3 at 3e-5",
                of=(
                    "stages.0.fraction",
                    "stages.1.fraction",
                    "stages.1.lr_factor",
                    "training.epochs",
                    "training.batch_size",
                    "training.max_length",
                ),
            ),
            Source(
                origin="authors",
                where="task_distill.py: constant on the layers; linear with warm-up on the predictions",
                of=(
                    "stages.0.lr_scheduler",
                    "stages.1.lr_scheduler",
                    "stages.1.warmup_ratio",
                    "training.learning_rate",
                    "training.warmup_ratio",
                    "training.weight_decay",
                ),
            ),
            Source(origin="authors", where="their readme's command", of=("general.training.batch_size",)),
            Source(
                origin="authors",
                where="general_distill.py's defaults; the paper has BERT's own, so 1e-4",
                of=(
                    "general.training.learning_rate",
                    "general.training.epochs",
                    "general.training.warmup_ratio",
                    "general.training.weight_decay",
                ),
            ),
            Source(origin="paper", where="its experiments", of=("general.training.max_length", "student")),
        ),
    )
