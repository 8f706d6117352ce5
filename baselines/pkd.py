"""Patient knowledge distillation (Sun et al. 2019): normalised CLS states of several layers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.kernels.normalized_mse import normalized_mse
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_backend
from kdzoo.losses.reduction import mean_count
from kdzoo.losses.registry import register
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe


MANY_LAYERS = 6  # more than the students that the method is for have; without layers= they may be tokens


@register("pkd")
class PKD(DistillationLoss):
    """Squared distance between normalised CLS states of several layers ("patience").

        1/(B·M) · Σ_im ‖hs_im / ‖hs_im‖ - ht_im / ‖ht_im‖‖²

    Args:
        student_dim: width of the student's states.
        teacher_dim: width of the teacher's. Where the two differ a projection is learned (the paper's
            students have the teacher's width).
        bias: give that projection a bias.
        variant: ``"paper"``, the mean over layers and rows of the sum over the width; ``"released"``, the
            mean over the width too, D times smaller, which is what the published weights β of 10 to 1000
            belong to.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student, teacher: (B, M, D) for M layers, or (B, D) for one. No mask: a CLS state has no positions.
        ``layers=M`` says how many there are, and is checked; without it more than six are warned of once, for they
        may be the tokens of one layer.

    Raises:
        KdzooError: for shapes or widths that do not fit, or a mask.

    References:
        Sun et al.: Patient Knowledge Distillation for BERT Model Compression, equation 7.
        https://arxiv.org/abs/1908.09355

    See also:
        ``cosine``: half of this one's value.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(4, 5, 16, requires_grad=True)
        >>> kdzoo.create("pkd")(student, torch.randn(4, 5, 16)).backward()
    """

    features = ("cls",)
    extras = frozenset({"layers"})
    stacked = True
    fused = True
    formula = r"\frac{1}{B M} \sum_{i,m} \| h^s_{im} / \|h^s_{im}\| - h^t_{im} / \|h^t_{im}\| \|^2"
    complexity = "O(B·M·D)"
    related = ("cosine", "hidden_mse")
    variants = ("paper", "released")
    paper = "Sun et al. 2019, Patient Knowledge Distillation for BERT Model Compression"
    year = 2019
    url = "https://arxiv.org/abs/1908.09355"

    def __init__(
        self,
        *,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        bias: bool = False,
        variant: str = "paper",
        backend: str = "auto",
    ) -> None:
        super().__init__(student_dim=student_dim, teacher_dim=teacher_dim, bias=bias, variant=variant)
        self.backend = check_backend(self.label, backend)
        self._asked = False  # whether the layers are tokens

    def _check_layers(self, student: Tensor, layers: int | None) -> None:
        """Tokens of one layer, (B, S, D), look like layers: more than a student has are told of once."""
        found = student.shape[1] if student.dim() == 3 else 1
        if layers is not None and layers != found:
            raise KdzooError(f"{self.label}: layers={layers}, and student {tuple(student.shape)} has {found}")
        if layers is None and found > MANY_LAYERS and not self._asked and not torch.compiler.is_compiling():
            self._asked = True
            warnings.warn(
                f"{self.label} takes student {tuple(student.shape)} for the CLS states of {found} layers; where these "
                f"are tokens, give it one state a row, hidden[:, 0]; where they are layers, say layers={found}",
                KdzooWarning,
                stacklevel=5,
            )

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        if mask is not None or student.dim() > 3:
            given = "" if mask is None else f" and a mask {tuple(mask.shape)}"
            raise KdzooError(
                f"{self.label} compares CLS states (B, M, D) or (B, D), without a mask; got student "
                f"{tuple(student.shape)}, teacher {tuple(teacher.shape)}{given}"
            )
        self._check_layers(student, context.get("layers"))
        student, teacher, _ = self.vectors(student, teacher, None)
        count = mean_count(student)
        value = normalized_mse(student, teacher.to(student.dtype), count=count, backend=self.backend)
        return value / student.shape[-1] if self.variant == "released" else value


@register_recipe("pkd")
def recipe() -> Recipe:
    """PKD-skip with the values that the authors took for SST-2 and MNLI, the middle of their grid."""
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, TermSpec, Training

    return Recipe(
        name="pkd",
        title="softened classes and labels, and the normalised CLS states of every k-th layer",
        citation=Citation(
            authors="Sun, S., Cheng, Y., Gan, Z., Liu, J.",
            title="Patient Knowledge Distillation for BERT Model Compression",
            venue="EMNLP",
            year=2019,
            url="https://arxiv.org/abs/1908.09355",
        ),
        stages=(
            Stage(
                terms=(
                    TermSpec(loss="ce", weight=0.5),
                    TermSpec(loss="kd", temperature=10.0, reduction="mean", weight=0.5),
                    TermSpec(loss="pkd", layers="skip", variant="released", weight=100.0),
                )
            ),
        ),
        student="teacher:0,1,2,3,4,5",
        tunable={"kd.weight": (0.125, 1.167), "kd.temperature": (5.0, 20.0), "pkd.weight": (10.0, 1000.0)},
        training=Training(
            learning_rate=5e-5, batch_size=32, epochs=4, warmup_ratio=0.1, weight_decay=0.01, max_length=128
        ),
        notes="The paper searches α in 0.2, 0.5, 0.7, T in 5, 10, 20 and β in 10, 100, 500, 1000 for each task, and a "
        "tuning between the ends of these: kd.weight from 0.125 to 1.167 beside the labels' 0.5 is their proportion of "
        "0.2 to 0.8 up to 0.7 to 0.3. The "
        "authors' result files name what six layers were reported with: α 0.5, T 10, β 100 and rate 5e-5 on SST-2 and "
        "MNLI, which this takes; 0.5, 20, 100, 5e-5 on QNLI; 0.7, 20, 100, 5e-5 on QQP; 0.7, 10, 500, 1e-5 on RTE; "
        "0.7, 20, 8, 2e-5 on MRPC. By the same names MNLI, QNLI and QQP were trained on states that were not "
        "normalised, which is not the paper's loss and not this one's. "
        "PKD-last is pkd.layers=last[:-1]. α and β belong to the authors' means, which go over classes and "
        "over the width "
        "as well: kd.reduction=mean and pkd.variant=released.",
        sources=(
            Source(
                origin="authors",
                where="result/glue/result_summary/pkd_6layer_all.csv: SST-2 and MNLI",
                of=("ce.weight", "kd.weight", "kd.temperature", "pkd.weight", "training.learning_rate"),
            ),
            Source(origin="authors", where="src/KD_loss.py", of=("kd.reduction", "pkd.variant")),
            Source(origin="paper", where="section 3.2: PKD-skip", of=("pkd.layers",)),
            Source(origin="paper", where="its initialisation: the first layers", of=("student",)),
            Source(
                origin="paper",
                where="its training details",
                of=("training.batch_size", "training.epochs", "training.max_length"),
            ),
            Source(origin="authors", where="src/argument_parser.py", of=("training.warmup_ratio",)),
            Source(origin="authors", where="NLI_KD_training.py", of=("training.weight_decay",)),
        ),
    )
