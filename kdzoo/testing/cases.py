"""What a loss is tried on: calls drawn at random in every shape, variant and setting that its class declares."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdzoo.errors import KdzooError
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.registry import create, loss_class, options_of
from kdzoo.models.activations import QKV


@dataclasses.dataclass
class Case:
    """One call of one loss: its options and its arguments, in float64."""

    name: str
    options: dict[str, Any]
    layout: str
    seed: int
    student: Any
    teacher: Any
    mask: Tensor | None = None
    labels: Tensor | None = None
    sample_ids: Tensor | None = None
    extras: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        sides = [side for side in (self.student, self.teacher) if side is not None]
        shapes = [tuple(tensor.shape) for side in sides for tensor in leaves(side)]
        extras = {n: tuple(e.shape) if isinstance(e, Tensor) else e for n, e in self.extras.items()}
        masked = "a mask" if self.mask is not None else "no mask"
        return f"{self.name} {self.options} on {shapes}, {masked}, {extras}, seed {self.seed}"

    @property
    def rows(self) -> int:
        return len(leaves(self.student)[0])

    @property
    def counts_padding(self) -> bool:
        return self.options.get("variant", "paper") in loss_class(self.name).counts_padding

    def make(self, dtype: torch.dtype = torch.float64) -> DistillationLoss:
        """The loss, always with the same parameters."""
        torch.manual_seed(self.seed)
        return create(self.name, **self.options).to(dtype)

    def settled(self, dtype: torch.dtype = torch.float64) -> DistillationLoss:
        """The loss after what it learns from a first batch, in evaluation mode: the same value at every call."""
        loss = self.make(dtype)
        self.value(loss)
        return loss.eval()

    def value(self, loss: DistillationLoss, student: Any = None) -> Tensor:
        return loss(
            self.student if student is None else student,
            self.teacher,
            mask=self.mask,
            labels=self.labels,
            sample_ids=self.sample_ids,
            **self.extras,
        )

    def gradients(self, loss: Any) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """The value, its gradient at the student's tensors and at the parameters; zeros where there is none."""
        student = mapped(self.student, lambda tensor: tensor.detach().clone().requires_grad_())
        loss.zero_grad()
        value = self.value(loss, student)
        value.backward()
        of_student = [torch.zeros_like(t) if t.grad is None else t.grad for t in leaves(student)]
        of_parameters = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in loss.named_parameters()
        }
        return value.detach(), of_student, of_parameters

    def expected(self, subject: Subject, loss: DistillationLoss, held: Any = None) -> float:
        """The reference's value; ``held`` is the student for what the loss holds fixed, where that is another one."""

        def projected(student: Any) -> Any:
            student = mapped(student, array)
            if loss.projection is not None:
                student = student @ array(loss.projection.weight).T
                if loss.projection.bias is not None:
                    student = student + array(loss.projection.bias)
            return student

        state = {name: array(tensor).copy() for name, tensor in loss.state_dict().items()}
        given = {name: array(e) if isinstance(e, Tensor) else e for name, e in self.extras.items()}
        if held is not None:
            given["held"] = projected(held)
        return float(
            subject.formula(
                projected(self.student),
                mapped(self.teacher, array),
                mask=None if self.mask is None else array(self.mask) != 0,
                labels=None if self.labels is None else array(self.labels),
                sample_ids=None if self.sample_ids is None else array(self.sample_ids),
                state=state,
                **{name: value for name, value in self.options.items() if name not in given},
                **given,
            )
        )

    def changed(self, **changes: Any) -> Case:
        return dataclasses.replace(self, **changes)

    def with_rows(self, index: Tensor) -> Case:
        """The same call on some of the rows, in the order of ``index``."""

        def pick(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[index]

        return self.changed(
            student=mapped(self.student, pick),
            teacher=mapped(self.teacher, pick),
            mask=pick(self.mask),
            labels=pick(self.labels),
            sample_ids=pick(self.sample_ids),
            extras={n: pick(e) if isinstance(e, Tensor) and len(e) == self.rows else e for n, e in self.extras.items()},
        )

    def with_positions(self, change: Callable[[Tensor, list[int]], Tensor]) -> Case:
        """The same call with ``change(tensor, position_axes)`` made to all that has positions."""

        def state(tensor: Tensor) -> Tensor:
            return change(tensor, [2, 3] if self.layout == "BASS" else [tensor.dim() - 2])

        def extra(tensor: Any) -> Any:
            if not isinstance(tensor, Tensor):
                return tensor
            # (B, K, ..., D): several vectors for each of the teacher's.
            each = tensor.dim() > 3 and tensor.shape[2:] == leaves(self.teacher)[0].shape[1:]
            return state(tensor) if each else tensor

        return self.changed(
            student=mapped(self.student, state),
            teacher=mapped(self.teacher, state),
            mask=None if self.mask is None else change(self.mask, [1]),
            labels=change(self.labels, [1]) if self.labels is not None and self.labels.dim() == 2 else self.labels,
            extras={name: extra(tensor) for name, tensor in self.extras.items()},
        )


class Subject:
    """A loss under test: its name and its reference, as `kdzoo.testing` takes them."""

    def __init__(self, name: str, reference: Any) -> None:
        self.name = name
        self.reference = reference
        self.formula: Callable[..., Any] = getattr(reference, "reference", reference)
        if not callable(self.formula):
            raise KdzooError(
                f"the reference of {name} must be a function, or have one called 'reference'; got {reference!r}"
            )
        self.loss = loss_class(name)

    @property
    def knows_widths(self) -> bool:
        return "student_dim" in options_of(self.loss)

    def settings(self) -> Iterator[dict[str, Any]]:
        """Every variant with every setting."""
        for variant in self.loss.variants:
            for setting in getattr(self.reference, "SETTINGS", [{}]):
                yield {**setting, **({} if variant == "paper" else {"variant": variant})}

    def cases(self, seed: int, *, scale: float = 1.0, rows: int | None = None, **shape: Any) -> Iterator[Case]:
        """Calls in every shape, variant and setting, with and without a mask.

        Args:
            seed: draws everything.
            scale: of the values.
            rows: of the batch; drawn when not given.
            shape: ``classes``, and ``equal`` for student and teacher of one width and depth; drawn when not given.
        """
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        for setting in self.settings():
            for layout in self.layouts():
                masked = layout[-1] == "masked"
                yield self.draw(rng, setting, layout[0], masked, scale, rows or int(rng.integers(3, 7)), **shape)

    def layouts(self) -> list[tuple[str, ...]]:
        """The shapes the loss takes by its features, each by the letters of its axes."""
        if hasattr(self.reference, "LAYOUTS"):
            return [(letters, "masked") if masked else (letters,) for letters, masked in self.reference.LAYOUTS]
        features = set(self.loss.features)
        layouts: list[tuple[str, ...]] = []
        if "logits" in features:
            layouts += [("BC",), ("BSC",), ("BSC", "masked")]
        if "order" in features:
            layouts += [("BC",)]
        if features & {"hidden", "cls"}:
            layouts += [("BD",)]
        if "hidden" in features or self.loss.stacked or self.loss.many_to_many:
            layouts += [("BMD",)]
        if features & {"hidden", "embedding"}:
            layouts += [("BSD",), ("BSD", "masked")]
        if "hidden" in features:
            layouts += [("BMSD",), ("BMSD", "masked")]
        if "qkv" in features:
            layouts += [("QKV",), ("QKV", "masked"), ("BASS",), ("BASS", "masked")]
        return layouts

    def draw(
        self,
        rng: np.random.Generator,
        setting: dict[str, Any],
        layout: str,
        masked: bool,
        scale: float,
        rows: int,
        classes: int | None = None,
        equal: bool | None = None,
    ) -> Case:
        size = {letter: int(rng.integers(2, 5)) for letter in "SMANC"} | {"B": rows}
        size["C"] = classes or int(rng.integers(2, 5)) + getattr(self.reference, "FEWEST_CLASSES", 2) - 2
        size["S"] += 1
        if equal:
            size["N"] = size["M"]
        elif getattr(self.reference, "DEEPER_TEACHER", False):
            size["N"] = max(size["N"], size["M"])
        if equal is None:
            equal = bool(rng.integers(2))
        size["D"] = own = int(rng.integers(4, 8))
        size["D_s"] = own if equal or not (self.knows_widths or layout == "QKV") else own - 1

        their_classes = int(rng.integers(2, 6)) if self.loss.own_classes and not equal else size["C"]

        def tensor(letters: str, **sizes: int) -> Tensor:
            values = rng.normal(size=[{**size, **sizes}[letter] for letter in letters])
            return torch.from_numpy(np.asarray(scale * values))

        student: Any
        teacher: Any
        if layout == "QKV":
            axes = "BMASD" if self.loss.stacked or self.loss.many_to_many else "BASD"
            student = QKV(*(tensor(axes, D=size["D_s"]) for _ in range(3)))
            teacher = QKV(*(tensor(axes.replace("M", "N") if self.loss.many_to_many else axes) for _ in range(3)))
        elif layout == "BASS":
            student, teacher = tensor("BASS"), tensor("BASS")
        else:
            of_teacher = layout.replace("M", "N") if self.loss.many_to_many else layout
            student, teacher = tensor(layout, D=size["D_s"]), tensor(of_teacher, C=their_classes)
        options = dict(setting)
        if self.knows_widths and "D" in layout and size["D_s"] != size["D"]:
            options |= {"student_dim": size["D_s"], "teacher_dim": size["D"]}
        if hasattr(self.reference, "draw_options"):
            options |= self.reference.draw_options(rng, size["D_s"], size["D"], rows)
        if hasattr(self.reference, "fit_options"):
            options |= self.reference.fit_options(student, teacher)
        case = Case(self.name, options, layout, int(rng.integers(2**31)), student, teacher)
        if masked:
            case.mask = draw_mask(rng, rows, size["S"])
        if "labels" in self.loss.needs:
            shape = (rows, size["S"]) if layout == "BSC" else (rows,)
            numbers = rng.normal(size=shape) if size["C"] == 1 else rng.integers(size["C"], size=shape)
            case.labels = torch.from_numpy(np.asarray(numbers))
        if "sample_ids" in self.loss.needs:
            case.sample_ids = torch.from_numpy(rng.permutation(options.get("num_samples", 100))[:rows])
        if hasattr(self.reference, "draw_extras"):
            case.extras = self.reference.draw_extras(rng, student, teacher, options)
        return case


def draw_mask(rng: np.random.Generator, rows: int, positions: int) -> Tensor:
    """A mask (rows, positions) with a real token in each row, of one of the types that masks come in."""
    mask = rng.random((rows, positions)) < 0.6
    mask[np.arange(rows), rng.integers(positions, size=rows)] = True
    mask[rng.integers(rows)] = np.arange(positions) == 0
    return torch.from_numpy(mask).to([torch.bool, torch.int64, torch.float32][rng.integers(3)])


def leaves(value: Any) -> list[Tensor]:
    return list(value) if isinstance(value, QKV) else [value]


def mapped(value: Any, function: Callable[[Tensor], Any]) -> Any:
    return QKV(*map(function, value)) if isinstance(value, QKV) else function(value)


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
