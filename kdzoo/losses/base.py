"""DistillationLoss, the base class of every loss: detaching, checking, masking, projection and reduction."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdzoo.errors import KdzooError, unknown
from kdzoo.kernels.backend import KernelError
from kdzoo.kernels.operators import without_autocast
from kdzoo.losses.optimized import watch
from kdzoo.losses.options import check_count
from kdzoo.losses.reduction import affine
from kdzoo.models.activations import QKV
from kdzoo.models.features import LOGITS, feature_of
from kdzoo.models.layers import Pairs
from kdzoo.models.masks import checked_mask, slot_mask
from kdzoo.models.shape import CLASSES, LABELS, NUMBERS, ModelShape

HALF = (torch.float16, torch.bfloat16)
TAKEN = (torch.float32, *HALF, torch.float64)


class DistillationLoss(nn.Module):
    """A loss between what a student and a teacher expose of the same batch.

    A subclass sets the class attributes below and implements `compute`; it never runs a model.
    Register it with `kdzoo.register` and it takes part in objectives, the command line and the
    conformance tests.

    Attributes:
        features: what the loss compares, its default first: ``"logits"`` (B, C), ``"hidden"`` (B, S, D),
            ``"cls"`` (B, D), ``"embedding"`` (B, S, D), ``"qkv"`` or ``"order"`` (B, 2) (`kdzoo.models.features`). A
            loss on CLS states may be taken on ``"pooled"`` ones (B, D) too.
        needs: what else the loss must be given: ``"labels"``, ``"sample_ids"``; an instance may need less.
        extras: further keyword arguments that `compute` may be given, such as ``"negatives"``. An objective hands
            over two of them by itself: ``"progress"``, the fraction (0 to 1) done of the time that the term has a
            weight, and ``"teacher_head"``, the teacher's classification head as a function of CLS states of its
            last layer, (B, D) to (B, C).
        needs_teacher: False for a loss on the labels alone.
        text_labels: what its labels are, where text has them and a task has not: the ``"words"`` that were masked,
            (B, S), or the ``"order"`` of two segments, (B,); -100 where there is none.
        top_only: the loss is meant for the last layer unless a layer map is given.
        stacked: an objective hands over all mapped layers at once, as (B, M, ...), instead of one by one.
        many_to_many: a stacked loss that pairs the layers itself: it is given (B, M, ...) of the student and
            (B, N, ...) of the teacher, by default all layers of both.
        contrastive: other rows of the batch (of all processes) enter the value.
        too_few: how many logits are too few for it, and each time why and what to take, as the end of a sentence.
        own_classes: a loss on logits that does not match classes, so that either side may have its own, of any number.
        every_class: it looks at the logits of all classes as they are, or at one class in several rows, so that none
            may be left out at -inf.
        cross_attention: a loss on attention that takes that of one text to another, scores (B, A, T, S) with a mask of
            pairs (B, T, S).
        raw_qkv: a loss on attention that compares queries, keys and values among themselves, so that it takes a model
            that hides them, or adds a bias to their scores, as well (``"raw_qkv"``).
        mean_over: what the value on hidden states or attention is a mean over, ``"rows"``, ``"tokens"`` or ``"pairs"``
            of tokens, by which micro-batches are weighed; None for tokens. Where the value is no such mean (relations
            of rows, released variants that count padding), micro-batches are what it sees.
        variants: the formulas it knows; ``"paper"`` is the default.
        counts_padding: those of the variants that average over padding, as the authors' code does.
        fused: a kernel computes it, which takes float16 and bfloat16 as they are, summing in float32, and passes over
            what is masked.
        formula: in LaTeX, for the catalogue.
        complexity: time, and memory beyond the inputs where it is of a higher order.
        related: registry names of the losses next to it.
        paper, year, url: where it was published.
    """

    features: ClassVar[tuple[str, ...]] = ("logits",)
    needs: frozenset[str] = frozenset()
    extras: ClassVar[frozenset[str]] = frozenset()
    needs_teacher: ClassVar[bool] = True
    text_labels: ClassVar[str | None] = None
    top_only: ClassVar[bool] = False
    stacked: ClassVar[bool] = False
    many_to_many: ClassVar[bool] = False
    contrastive: ClassVar[bool] = False
    too_few: ClassVar[Mapping[int, str]] = MappingProxyType({})
    own_classes: ClassVar[bool] = False
    every_class: ClassVar[bool] = False
    cross_attention: ClassVar[bool] = False
    raw_qkv: ClassVar[bool] = False
    mean_over: ClassVar[str | None] = None
    problem_types: ClassVar[tuple[str, ...]] = (CLASSES,)
    variants: ClassVar[tuple[str, ...]] = ("paper",)
    counts_padding: ClassVar[tuple[str, ...]] = ()
    fused: ClassVar[bool] = False
    name: ClassVar[str] = ""
    formula: ClassVar[str] = ""
    complexity: ClassVar[str] = ""
    related: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str] = ""
    year: ClassVar[int] = 0
    url: ClassVar[str] = ""
    _masked = False  # whether it was given a mask before; the first is looked at wherever it is

    def __init__(
        self,
        *,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        bias: bool = False,
        variant: str = "paper",
    ) -> None:
        """
        Args:
            student_dim: width of the student's vectors.
            teacher_dim: width of the teacher's. Where both are given and differ, a linear projection
                (student_dim to teacher_dim) is learned with the student.
            bias: give that projection a bias.
            variant: ``"paper"``, or ``"released"`` where the authors' code differs from the paper.

        Raises:
            KdzooError: for an unknown variant, or when one of the two widths is missing.
        """
        super().__init__()
        if variant not in self.variants:
            raise unknown(f"variant of {self.label}", variant, self.variants)
        if (student_dim is None) != (teacher_dim is None):
            raise KdzooError(f"{self.label}: give both student_dim and teacher_dim, or neither")
        for side, width in (("student_dim", student_dim), ("teacher_dim", teacher_dim)):
            if width is not None:
                check_count(self.label, **{side: width})
        self.variant = variant
        self.projection: nn.Linear | None = None
        if student_dim is not None and teacher_dim is not None and student_dim != teacher_dim:
            self.projection = nn.Linear(student_dim, teacher_dim, bias=bias)
        watch(self)

    def extra_repr(self) -> str:
        """Its options: the numbers, and of the others those that were chosen."""
        shown = []
        for option, parameter in inspect.signature(type(self).__init__).parameters.items():
            value, default = getattr(self, option, None), parameter.default
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if number or (value != default and isinstance(value, (bool, str, tuple, list))):
                shown.append(f"{option}={value!r}")
        return ", ".join(shown)

    @property
    def label(self) -> str:
        """The name that error messages use."""
        return self.name or type(self).__name__

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
        """The options completed for two models; an objective calls it before it makes the loss.

        Args:
            options: what the user chose.
            feature: what the loss will be taken on.
            student: the student's shape.
            teacher: the teacher's shape.
            layers: the (student, teacher) layers it will be taken on; empty for the logits.
            num_samples: rows of the training set, where known.

        Returns:
            Options for the constructor. Here: a projection where the widths differ.

        Raises:
            KdzooError: where the loss cannot work on these models.
        """
        if feature == LOGITS:
            for side in (student, teacher) if cls.own_classes else (student,):
                cls._check_logits(side.num_labels)
        if feature_of(feature).vectors and student.hidden_size != teacher.hidden_size:
            if "student_dim" not in inspect.signature(cls.__init__).parameters:
                raise KdzooError(
                    f"{cls.name} has no projection, so it needs equal widths; the student has "
                    f"{student.hidden_size} and the teacher {teacher.hidden_size}"
                )
            options.setdefault("student_dim", student.hidden_size)
            options.setdefault("teacher_dim", teacher.hidden_size)
        return options

    @classmethod
    def check_problem(cls, student: ModelShape, options: dict[str, Any]) -> None:
        """Refuse logits that are neither classes nor one number where the loss has no form for them, or set that form.

        Args:
            student: the student's shape.
            options: the loss's, of which ``problem_type`` is set.

        Raises:
            KdzooError: names the losses that work.
        """
        problem = student.problem_type
        if problem is None or problem == CLASSES or (problem == NUMBERS and student.num_labels == 1):
            return
        if problem not in cls.problem_types:
            what = "several labels a row" if problem == LABELS else f"{student.num_labels} numbers a row"
            raise KdzooError(
                f"{cls.name} is for classes, and this task has {what}; kd, soft_ce, logit_mse and ce work there"
            )
        if "problem_type" in inspect.signature(cls.__init__).parameters:
            options.setdefault("problem_type", problem)

    def idle(self, student: ModelShape) -> dict[str, str]:
        """Options that change nothing of this loss on a student, whatever their values are, and why.

        A subclass adds its own to these.

        Args:
            student: its shape.

        Returns:
            Here: the bias of a projection, where there is none.
        """
        biased = self.projection is None and "bias" in inspect.signature(type(self).__init__).parameters
        return {"bias": "nothing is projected"} if biased else {}

    def forward(
        self,
        student: Any,
        teacher: Any = None,
        *,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
        sample_ids: Tensor | None = None,
        **extras: Any,
    ) -> Tensor:
        """The loss of one batch, a scalar.

        Args:
            student: the student's tensor or `QKV`.
            teacher: the teacher's; never given a gradient.
            mask: (B, S), 1 or True where a token is real.
            labels: (B,) the rows' labels.
            sample_ids: (B,) the rows' indices in the training set.
            extras: what the particular loss also takes (its `extras`).

        Raises:
            KdzooError: for shapes that do not fit, a mask that the loss cannot honour, or a missing input.
            TypeError: for an extra argument that the loss does not take.
        """
        for extra in extras:
            if extra not in self.extras:
                known = ", ".join(["mask", "labels", "sample_ids", *sorted(self.extras)])
                raise TypeError(f"{self.label} does not take {extra!r}; it takes {known}")
        # Plain steps, since a step takes as long as a small batch: no loop where there is nothing to go through.
        for name, value in (("mask", mask), ("labels", labels), ("sample_ids", sample_ids)):
            if value is not None and not isinstance(value, Tensor):
                raise KdzooError(f"{self.label}: {name} must be a tensor, got {type(value).__name__}")
        wanted = {}
        if self.needs:
            # Over the names and not over the set: torch 2.8 compiles no loop over one.
            given = {"labels": labels, "sample_ids": sample_ids}
            wanted = {name: value for name, value in given.items() if name in self.needs}
            for need, value in wanted.items():
                if value is None:
                    raise KdzooError(f"{self.label} needs {need}= (B,)")
        if teacher is None and self.needs_teacher:
            raise KdzooError(f"{self.label} needs the teacher's {self.features[0]}, got None")
        student = self._prepared(student)
        teacher = None if teacher is None or not self.needs_teacher else _detached(self._prepared(teacher))
        if teacher is not None and not _of_one_type(student, teacher):
            dtype = torch.promote_types(_first(student).dtype, _first(teacher).dtype)
            student, teacher = _to(student, dtype), _to(teacher, dtype)
        if mask is not None:
            mask = checked_mask(self.label, mask, everywhere=not self._masked)
            if not self._masked and not torch.compiler.is_compiling():
                self._masked = True
        try:
            return self._computed(student, teacher, mask=mask, **wanted, **extras)
        except KernelError as error:
            kernel, _, rest = str(error).partition(": ")  # which the caller knows by the loss's name
            raise KdzooError(f"{self.label}: {rest}" if rest and kernel.isidentifier() else str(error)) from error

    @without_autocast  # which would take its sums back to half precision
    def _computed(self, student: Any, teacher: Any, **named: Any) -> Tensor:
        return self.compute(student, teacher, **named)

    def _prepared(self, value: Any) -> Any:
        """A side's floating-point tensors, out of half precision unless `fused`."""
        if isinstance(value, Tensor) and value.dtype in TAKEN and value.dim() and _is_dense(value):
            return value.float() if value.dtype in HALF and not self.fused else value
        attention = any(feature_of(feature).attention for feature in self.features)
        if isinstance(value, QKV):
            if not attention:
                raise KdzooError(f"{self.label} takes {' or '.join(self.features)}, and not a QKV")
            return QKV(*map(self._prepared, value))
        if not isinstance(value, Tensor):
            taken, instead = "tensors or a QKV" if attention else "tensors", ""
            if attention and isinstance(value, (tuple, list)) and len(value) == 3:
                instead = "; name them: kdzoo.QKV(query, key, value)"
            raise KdzooError(f"{self.label} takes {taken}, got {type(value).__name__}{instead}")
        if value.dtype in TAKEN and not _is_dense(value):
            kind = "a nested tensor" if value.is_nested else f"a tensor of layout {value.layout}"
            raise KdzooError(f"{self.label} takes dense tensors, with a mask where rows are padded, got {kind}")
        instead = "; make it bfloat16" if value.dtype.itemsize == 1 and value.is_floating_point() else ""
        shape = tuple(value.shape)
        raise KdzooError(
            f"{self.label} takes floating-point tensors of rows, got {value.dtype} of shape {shape}{instead}"
        )

    def compute(self, student: Any, teacher: Any, *, mask: Tensor | None, **context: Any) -> Tensor:
        """The formula, on float32 or float64 tensors (any where `fused`); ``context`` holds the needs and extras."""
        raise TypeError(f"{type(self).__name__} must implement compute()")

    def _mismatch(self, student: Tensor, teacher: Tensor, rule: str) -> KdzooError:
        return KdzooError(f"{self.label}: student {tuple(student.shape)} and teacher {tuple(teacher.shape)} {rule}")

    def paired(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Checked vectors, each of its own width, zero where masked (unless `fused`), and the mask over their slots.

        Args:
            student: (B, ..., D_s).
            teacher: (B, ..., D_t).
            mask: (B, S) or None.

        Returns:
            student, teacher, and the mask with the vectors' leading shape (B, ...), or None.
        """
        if student.dim() < 2 or student.shape[:-1] != teacher.shape[:-1]:
            rule = "must agree in all but the last axis, as (B, D), (B, S, D), (B, M, D) or (B, M, S, D)"
            raise self._mismatch(student, teacher, rule)
        slots = slot_mask(self.label, student, mask)
        if slots is not None and (self.projection is not None or not self.fused):
            # Filled before anything else, so that what lies in padding cannot reach a value or a gradient.
            student = student.masked_fill(~slots.unsqueeze(-1), 0.0)
            teacher = teacher.masked_fill(~slots.unsqueeze(-1), 0.0)
        return student, teacher, slots

    def projected(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The student's vectors at the teacher's width, projected where the loss has a projection; checked."""
        if self.projection is not None:
            wanted = (self.projection.in_features, self.projection.out_features)
            if (student.shape[-1], teacher.shape[-1]) != wanted:
                rule = f"do not fit student_dim={wanted[0]}, teacher_dim={wanted[1]}, which it was made with"
                raise self._mismatch(student, teacher, rule)
            return affine(self.projection, student)
        if student.shape[-1] != teacher.shape[-1]:
            widths = f"student_dim={student.shape[-1]}, teacher_dim={teacher.shape[-1]}"
            raise self._mismatch(student, teacher, f"differ in width; give {widths} to learn a projection")
        return student

    def vectors(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The vectors of `paired` at one width, (B, ..., D): the student's `projected`."""
        student, teacher, slots = self.paired(student, teacher, mask)
        return self.projected(student, teacher), teacher, slots

    def layered(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Checked vectors of several layers, of which either side has its own number; zero where masked.

        Args:
            student: (B, M, D_s), or (B, M, S, D_s) with an optional mask.
            teacher: (B, N, D_t), or (B, N, S, D_t).
            mask: (B, S) or None.

        Returns:
            student, teacher and mask; the widths are not compared.
        """
        shapes = [(side.shape[0], *side.shape[2:-1]) for side in (student, teacher)]
        if student.dim() not in (3, 4) or shapes[0] != shapes[1]:
            rule = "must be layers of the same rows and positions, (B, M, D) and (B, N, D), or with S before the D"
            raise self._mismatch(student, teacher, rule)
        if slot_mask(self.label, student, mask, layered=True) is not None:
            assert mask is not None
            padding = ~mask[:, None, :, None]
            student, teacher = student.masked_fill(padding, 0.0), teacher.masked_fill(padding, 0.0)
        return student, teacher, mask

    @classmethod
    def _check_logits(cls, count: int) -> None:
        if count in cls.too_few:
            raise KdzooError(f"{cls.name or cls.__name__} {cls.too_few[count]}")

    def logits(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Checked logits (B, C), or (B, S, C) with an optional mask (B, S); zero where masked (unless `fused`)."""
        ours, theirs = (side.shape[:-1] if self.own_classes else side.shape for side in (student, teacher))
        if ours != theirs or student.dim() not in (2, 3):
            same = "rows and positions" if self.own_classes else "shape"
            raise self._mismatch(student, teacher, f"must be logits of the same {same}, (B, C) or (B, S, C)")
        for side in (student, teacher):
            self._check_logits(side.shape[-1])
        slots = slot_mask(self.label, student, mask)
        if slots is not None and not self.fused:
            student = student.masked_fill(~slots.unsqueeze(-1), 0.0)
            teacher = teacher.masked_fill(~slots.unsqueeze(-1), 0.0)
        return student, teacher, slots


def _detached(value: Any) -> Any:
    if isinstance(value, QKV):
        return QKV(*map(_detached, value))
    # What a teacher gave in inference_mode cannot be saved for a backward pass; a copy of it can.
    return value.clone() if not torch.compiler.is_compiling() and value.is_inference() else value.detach()


def _is_dense(value: Tensor) -> bool:
    return value.layout is torch.strided and not value.is_nested


def _of_one_type(student: Any, teacher: Any) -> bool:
    if isinstance(student, Tensor) and isinstance(teacher, Tensor):
        return student.dtype == teacher.dtype
    return len({tensor.dtype for side in (student, teacher) for tensor in _tensors(side)}) == 1


def _tensors(value: Any) -> tuple[Tensor, ...]:
    return tuple(value) if isinstance(value, QKV) else (value,)


def _to(value: Any, dtype: torch.dtype) -> Any:
    return QKV(*(tensor.to(dtype) for tensor in value)) if isinstance(value, QKV) else value.to(dtype)


def _first(value: Any) -> Tensor:
    return value[0] if isinstance(value, QKV) else value
