"""The conformance suite: what every registered loss must do, checked on inputs made from what its class declares.

``test_conformance.py`` runs it over the registry. A package that registers losses of its own can run it over them:

    from conformance import Subject, check_loss

    check_loss(Subject("my_loss", reference_module), seed=0)

A reference is a module (or any object) with

- ``reference(student, teacher, *, mask, labels, sample_ids, state, **options_and_extras) -> float``: the loss in
  explicit loops over NumPy arrays, written from the paper. The student comes projected to the teacher's width where
  the loss learns a projection; ``state`` is the loss's state before the call, by name;
- optionally ``SETTINGS``: a list of option dictionaries, each of which is tried;
- optionally ``draw_options(rng, student_width, teacher_width, rows)``: further options at random;
- optionally ``fit_options(student, teacher)``: further options that the tensors' shapes fix;
- optionally ``draw_extras(rng, student, teacher, options)``: extra arguments at random; tensors whose first axis has
  the batch's length go with its rows;
- optionally ``LAYOUTS``: which of the shapes that the class's features allow the loss takes, where it takes fewer, as
  pairs of the axes' letters and whether there is a mask: ``[("BSD", False), ("BSD", True)]``;
- optionally ``DEEPER_TEACHER``: True where the teacher's layers may not be fewer than the student's;
- optionally ``FEWEST_CLASSES``: the fewest classes the loss takes, where it refuses two;
- optionally ``AT_EQUAL``: the value, of zero gradient, that the loss has where student and teacher agree.
"""

from __future__ import annotations

import copy
import dataclasses
import datetime
import importlib
import inspect
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import gradcheck

import kdzoo
from kdzoo import QKV, KdzooError
from kdzoo.losses.registry import loss_class, options_of

CHECKS: dict[str, Callable[[Subject, int], None]] = {}


def check(function: Callable[[Subject, int], None]) -> Callable[[Subject, int], None]:
    """Add a function to the suite."""
    CHECKS[function.__name__] = function
    return function


def check_loss(subject: Subject, seed: int) -> None:
    """Run the whole suite, but for the one check that needs two processes, over one loss."""
    for one in CHECKS.values():
        one(subject, seed)


# Inputs


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
        shapes = [tuple(tensor.shape) for tensor in (*leaves(self.student), *leaves(self.teacher))]
        extras = {n: tuple(e.shape) if isinstance(e, Tensor) else e for n, e in self.extras.items()}
        masked = "a mask" if self.mask is not None else "no mask"
        return f"{self.name} {self.options} on {shapes}, {masked}, {extras}, seed {self.seed}"

    @property
    def rows(self) -> int:
        return len(leaves(self.student)[0])

    @property
    def counts_padding(self) -> bool:
        return self.options.get("variant", "paper") in loss_class(self.name).counts_padding

    def make(self, dtype: torch.dtype = torch.float64) -> kdzoo.DistillationLoss:
        """The loss, always with the same parameters."""
        torch.manual_seed(self.seed)
        return kdzoo.create(self.name, **self.options).to(dtype)

    def settled(self, dtype: torch.dtype = torch.float64) -> kdzoo.DistillationLoss:
        """The loss after what it learns from a first batch, in evaluation mode: the same value at every call."""
        loss = self.make(dtype)
        self.value(loss)
        return loss.eval()

    def value(self, loss: kdzoo.DistillationLoss, student: Any = None) -> Tensor:
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

    def expected(self, subject: Subject, loss: kdzoo.DistillationLoss) -> float:
        """The reference's value."""
        student = mapped(self.student, array)
        if loss.projection is not None:
            student = student @ array(loss.projection.weight).T
            if loss.projection.bias is not None:
                student = student + array(loss.projection.bias)
        state = {name: array(tensor).copy() for name, tensor in loss.state_dict().items()}
        given = {name: array(e) if isinstance(e, Tensor) else e for name, e in self.extras.items()}
        return float(
            subject.reference.reference(
                student,
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

        has_labels = self.labels is not None and self.labels.dim() == 2
        return self.changed(
            student=mapped(self.student, state),
            teacher=mapped(self.teacher, state),
            mask=change(self.mask, [1]),
            labels=change(self.labels, [1]) if has_labels else self.labels,
            extras={name: extra(tensor) for name, tensor in self.extras.items()},
        )


class Subject:
    """A loss under test: its name and its reference."""

    def __init__(self, name: str, reference: Any) -> None:
        self.name = name
        self.reference = reference
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

        def tensor(letters: str, **sizes: int) -> Tensor:
            values = rng.normal(size=[{**size, **sizes}[letter] for letter in letters])
            return torch.from_numpy(np.asarray(scale * values))

        if layout == "QKV":
            axes = "BMASD" if self.loss.stacked or self.loss.many_to_many else "BASD"
            student = QKV(*(tensor(axes, D=size["D_s"]) for _ in range(3)))
            teacher: Any = QKV(*(tensor(axes.replace("M", "N") if self.loss.many_to_many else axes) for _ in range(3)))
        elif layout == "BASS":
            student, teacher = tensor("BASS"), tensor("BASS")
        else:
            of_teacher = layout.replace("M", "N") if self.loss.many_to_many else layout
            student, teacher = tensor(layout, D=size["D_s"]), tensor(of_teacher)
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


def same(a: Any, b: Any, case: Case, what: str, tolerance: float = 1e-9) -> None:
    """Assert that numbers, tensors or lists and dictionaries of them agree."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), f"{what} of {case}"
        a, b = list(a.values()), list(b.values())
    if not isinstance(a, (list, tuple)):
        a, b = [a], [b]
    for left, right in zip(a, b, strict=True):
        left, right = (torch.as_tensor(side, dtype=torch.float64) for side in (left, right))
        message = f"{what} of {case}: {left.flatten()[:8].tolist()} and {right.flatten()[:8].tolist()}"
        assert torch.allclose(left, right, rtol=tolerance, atol=tolerance), message


def finite(case: Case, dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """The value and gradients of a fresh loss, all of which must be finite."""
    value, of_student, of_parameters = case.gradients(case.make(dtype))
    assert value.shape == (), f"a loss is a scalar, not {tuple(value.shape)}: {case}"
    for what, tensor in [("value", value), *(("gradient", g) for g in (*of_student, *of_parameters.values()))]:
        assert tensor.isfinite().all(), f"the {what} is not finite: {case}"
    return value, of_student, of_parameters


# Checks


@check
def matches_reference(subject: Subject, seed: int) -> None:
    for scale in (1.0, 40.0):
        for case in subject.cases(seed, scale=scale):
            loss = case.make()
            expected = case.expected(subject, loss)
            value = case.value(loss).item()
            assert abs(value - expected) <= 1e-9 * abs(expected) + 1e-11, f"{value}, not {expected}: {case}"


@check
def has_the_gradient_of_its_value(subject: Subject, seed: int) -> None:
    for case in subject.cases(seed):
        loss = case.settled()
        inputs = [tensor.clone().requires_grad_() for tensor in leaves(case.student)]
        parameters = list(loss.parameters())

        def value(*tensors: Tensor, case: Case = case, loss: Any = loss, count: int = len(inputs)) -> Tensor:
            student = QKV(*tensors[:count]) if isinstance(case.student, QKV) else tensors[0]
            return case.value(loss, student)

        # A kink within the first step is hardly ever within the second too; a wrong gradient is wrong with both.
        given = (*inputs, *parameters)
        right = gradcheck(value, given, fast_mode=True, raise_exception=False)
        assert right or gradcheck(value, given, fast_mode=True, eps=1e-7), str(case)


@check
def is_right_where_student_and_teacher_agree(subject: Subject, seed: int) -> None:
    for case in subject.cases(seed, equal=True):
        case = case.changed(student=case.teacher)
        loss = case.make()
        expected = case.expected(subject, loss)
        value, of_student, _ = finite(case)
        same(value, expected, case, "value at equal sides")
        at_equal = getattr(subject.reference, "AT_EQUAL", None)
        if at_equal is not None:
            same(value, at_equal, case, "value at equal sides", 1e-12)
            same(of_student, [torch.zeros_like(g) for g in of_student], case, "gradient at equal sides")


@check
def ignores_padding(subject: Subject, seed: int) -> None:
    """Neither what lies in padding nor how much of it there is changes a value or a gradient."""
    for number, case in enumerate(subject.cases(seed)):
        if case.mask is None or case.counts_padding:
            continue
        value, of_student, of_parameters = finite(case)
        garbage = (float("nan"), float("inf"), -1e30)[number % 3]

        def spoil(tensor: Tensor, axes: list[int], case: Case = case, garbage: float = garbage) -> Tensor:
            if tensor is case.mask:
                return tensor
            padding = case.mask == 0
            if tensor is case.labels:
                return tensor.masked_fill(padding, -100)
            for axis in axes:
                shape = [1] * tensor.dim()
                shape[0], shape[axis] = padding.shape
                tensor = tensor.masked_fill(padding.view(shape), garbage)
            return tensor

        def lengthen(tensor: Tensor, axes: list[int], case: Case = case) -> Tensor:
            for axis in axes:
                tensor = torch.cat([tensor, torch.zeros_like(tensor.narrow(axis, 0, 2))], dim=axis)
            return tensor

        def shorten(gradient: Tensor, like: Tensor) -> Tensor:
            return gradient[tuple(slice(length) for length in like.shape)]

        for what, other in (("spoilt", case.with_positions(spoil)), ("longer", case.with_positions(lengthen))):
            value_2, of_student_2, of_parameters_2 = finite(other)
            of_student_2 = [shorten(g, like) for g, like in zip(of_student_2, of_student, strict=True)]
            same(value_2, value, case, f"value with {what} padding")
            same(of_student_2, of_student, case, f"gradient with {what} padding")
            same(of_parameters_2, of_parameters, case, f"parameters' gradient with {what} padding")


@check
def does_not_depend_on_the_order_of_rows(subject: Subject, seed: int) -> None:
    for case in subject.cases(seed):
        order = torch.from_numpy(np.random.default_rng(case.seed).permutation(case.rows))
        value, of_student, of_parameters = finite(case)
        value_2, of_student_2, of_parameters_2 = finite(case.with_rows(order))
        same(value_2, value, case, "value of permuted rows")
        same(of_student_2, [gradient[order] for gradient in of_student], case, "gradient of permuted rows")
        same(of_parameters_2, of_parameters, case, "parameters' gradient of permuted rows")


@check
def is_accurate_under_autocast(subject: Subject, seed: int) -> None:
    """Half-precision inputs are exact numbers: the loss of them is what float32 makes of the same numbers."""
    for dtype in (torch.float16, torch.bfloat16):
        for case in subject.cases(seed, scale=10.0):
            halves = case.changed(**_converted(case, dtype))
            same_numbers = case.changed(**_converted(halves, torch.float32))
            with torch.autocast("cpu", dtype=dtype):
                value, _, _ = finite(halves, torch.float32)
            assert value.dtype == torch.float32, f"{value.dtype} out of autocast: {case}"
            same(value, finite(same_numbers, torch.float32)[0], case, f"value under autocast to {dtype}", 1e-5)


def _converted(case: Case, dtype: torch.dtype) -> dict[str, Any]:
    def convert(tensor: Any) -> Any:
        return tensor.to(dtype) if isinstance(tensor, Tensor) and tensor.is_floating_point() else tensor

    extras = {name: convert(extra) for name, extra in case.extras.items()}
    return {"student": mapped(case.student, convert), "teacher": mapped(case.teacher, convert), "extras": extras}


@check
def takes_a_teacher_from_inference_mode(subject: Subject, seed: int) -> None:
    """Such tensors cannot be saved for a backward pass as they are."""
    if not subject.loss.needs_teacher:
        return
    for case in subject.cases(seed):
        with torch.inference_mode():
            frozen = case.changed(teacher=mapped(case.teacher, torch.clone))
        assert leaves(frozen.teacher)[0].is_inference()
        for one, other in zip(frozen.gradients(frozen.make()), case.gradients(case.make()), strict=True):
            same(one, other, case, "value or gradient with a teacher from inference mode")


@check
def takes_strided_input(subject: Subject, seed: int) -> None:
    def stride(tensor: Tensor) -> Tensor:
        spread = torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1).transpose(0, -2).contiguous()
        return spread.transpose(0, -2)[..., 0]

    for case in subject.cases(seed):
        strided = case.changed(student=mapped(case.student, stride), teacher=mapped(case.teacher, stride))
        assert not leaves(strided.teacher)[0].is_contiguous()
        same(case.value(case.make(), strided.student), case.value(case.make()), case, "value of a strided student")
        same(strided.value(strided.make()), case.value(case.make()), case, "value of strided input")


@check
def is_finite_for_zero_vectors(subject: Subject, seed: int) -> None:
    def none(tensor: Tensor) -> Tensor:
        return torch.zeros_like(tensor)

    def some(tensor: Tensor) -> Tensor:
        return tensor.index_fill(0, torch.tensor([0]), 0.0).index_fill(-2, torch.tensor([0]), 0.0)

    for case in subject.cases(seed):
        for zeros in (none, some):
            for sides in (("student",), ("teacher",), ("student", "teacher")):
                changed = case.changed(**{side: mapped(getattr(case, side), zeros) for side in sides})
                expected = changed.expected(subject, changed.make())
                same(finite(changed)[0], expected, changed, f"value with zero vectors in {sides}")
            finite(changed.changed(**_converted(changed, torch.float32)), torch.float32)


@check
def takes_a_single_row(subject: Subject, seed: int) -> None:
    for case in subject.cases(seed, rows=1):
        expected = case.expected(subject, case.make())
        same(finite(case)[0], expected, case, "value of one row")


@check
def leaves_out_a_fully_masked_row(subject: Subject, seed: int) -> None:
    for case in subject.cases(seed):
        if case.mask is None or case.counts_padding:
            continue
        nothing = case.changed(mask=torch.zeros_like(case.mask))
        value, of_student, _ = finite(nothing)
        same(value, 0.0, nothing, "value of a batch that is all padding")
        mask = case.mask.clone()
        mask[-1] = 0
        masked = case.changed(mask=mask)
        value, of_student, of_parameters = finite(masked)
        without = masked.with_rows(torch.arange(case.rows - 1))
        value_2, of_student_2, of_parameters_2 = finite(without)
        same(value, value_2, case, "value with a fully masked row")
        same([g[:-1] for g in of_student], of_student_2, case, "gradient with a fully masked row")
        same([g[-1] for g in of_student], [0 * g[-1] for g in of_student], case, "gradient of a masked row")
        same(of_parameters, of_parameters_2, case, "parameters' gradient with a fully masked row")


@check
def handles_or_refuses_few_classes(subject: Subject, seed: int) -> None:
    if "logits" not in subject.loss.features:
        return
    for classes in (1, 2):
        for case in subject.cases(seed, classes=classes):
            try:
                value = finite(case)[0]
            except KdzooError:
                continue
            same(value, case.expected(subject, case.make()), case, f"value on {classes} classes")


@check
def projects_unequal_widths_or_refuses_them(subject: Subject, seed: int) -> None:
    learns: list[bool] = []
    for case in subject.cases(seed, equal=False):
        widths = leaves(case.student)[0].shape[-1], leaves(case.teacher)[0].shape[-1]
        if widths[0] == widths[1] or "student_dim" not in case.options:
            continue
        loss = case.make()
        value, _, of_parameters = finite(case)
        same(value, case.expected(subject, loss), case, "value at unequal widths")
        learns.append(any(bool(gradient.any()) for gradient in of_parameters.values()))
        bare = {k: v for k, v in case.options.items() if k not in ("student_dim", "teacher_dim")}
        refuses(lambda case=case, bare=bare: case.changed(options=bare).value(kdzoo.create(case.name, **bare)), case)
        for one in ("student_dim", "teacher_dim"):
            refuses(lambda case=case, bare=bare, one=one: kdzoo.create(case.name, **bare, **{one: 4}), case)
    # One row alone may have nothing to learn, such as a softmax over its single key.
    assert any(learns) or not learns, f"{subject.name} gives its projection no gradient, seed {seed}"


@check
def compiles_as_one_graph(subject: Subject, seed: int) -> None:
    """With the last layout of each setting, which has a mask where the loss takes one."""
    count = len(subject.layouts())
    cases = list(subject.cases(seed))[count - 1 :: count]
    again = cases[seed % len(cases)]  # of one setting alone, for it takes seconds; other seeds take others
    for case in cases:
        torch._dynamo.reset()
        loss = case.make()
        eager = copy.deepcopy(loss)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        # A second call, with fewer rows, makes it compile for any number of them.
        for part in (case, case.with_rows(torch.arange(case.rows - 1)))[: 2 if case is again else 1]:
            expected = part.gradients(eager)
            value, of_student, of_parameters = part.gradients(compiled)
            same(value, expected[0], part, "compiled value")
            same(of_student, expected[1], part, "compiled gradient")
            same(list(of_parameters.values()), list(expected[2].values()), part, "compiled parameters' gradient")
            same(loss.state_dict(), eager.state_dict(), part, "state after a compiled call")


@check
def survives_a_checkpoint(subject: Subject, seed: int) -> None:
    for case in subject.cases(seed):
        loss = case.make()
        case.gradients(loss)
        file = io.BytesIO()
        torch.save(loss.state_dict(), file)
        file.seek(0)
        restored = case.changed(seed=case.seed + 1).make()
        restored.load_state_dict(torch.load(file, weights_only=True))
        first, second = case.gradients(loss), case.gradients(restored)
        same(first[0], second[0], case, "value after a checkpoint", 0)
        same(loss.state_dict(), restored.state_dict(), case, "state after a checkpoint", 0)


@check
def ignores_labels_and_ids_it_does_not_need(subject: Subject, seed: int) -> None:
    for case in subject.cases(seed):
        given = {
            need: torch.arange(case.rows)
            for need in ("labels", "sample_ids")
            if getattr(case, need) is None and need not in case.make().needs
        }
        same(case.changed(**given).value(case.make()), case.value(case.make()), case, "value", 0)


@check
def asks_for_what_it_needs(subject: Subject, seed: int) -> None:
    for case in subject.cases(seed):
        for need in case.make().needs:
            refuses(lambda case=case, need=need: case.changed(**{need: None}).value(case.make()), case, need)
        if subject.loss.needs_teacher:
            refuses(lambda case=case: case.changed(teacher=None).value(case.make()), case, "teacher")


@check
def refuses_a_mask_that_means_nothing(subject: Subject, seed: int) -> None:
    for case in subject.cases(seed):
        if case.mask is None:
            lengths = {tensor.shape[-2] for tensor in leaves(case.student)}
            mask = torch.ones(case.rows, max(lengths) + 1)
        else:
            mask = torch.ones(case.rows, case.mask.shape[1] + 1)
        refuses(lambda case=case, mask=mask: case.changed(mask=mask).value(case.make()), case, "mask")


@check
def gives_the_teacher_no_gradient(subject: Subject, seed: int) -> None:
    for case in subject.cases(seed):
        if not subject.loss.needs_teacher:
            continue
        case = case.changed(
            teacher=mapped(case.teacher, lambda tensor: tensor.clone().requires_grad_()),
            extras={
                n: e.clone().requires_grad_() if isinstance(e, Tensor) and e.is_floating_point() else e
                for n, e in case.extras.items()
            },
        )
        case.gradients(case.make())
        for tensor in (*leaves(case.teacher), *(e for e in case.extras.values() if isinstance(e, Tensor))):
            assert tensor.grad is None, f"the teacher's side has a gradient: {case}"


@check
def names_both_shapes_when_they_do_not_fit(subject: Subject, seed: int) -> None:
    for case in subject.cases(seed):
        if not subject.loss.needs_teacher:
            continue
        shorter = case.changed(teacher=mapped(case.teacher, lambda tensor: tensor[1:]))
        shapes = [tuple(leaves(side)[0].shape) for side in (shorter.student, shorter.teacher)]
        if isinstance(case.student, QKV):
            shapes = [(*shape[:-1], shape[-2]) for shape in shapes]
        refuses(lambda case=shorter: case.value(case.make()), case, *map(str, shapes))


def refuses(call: Callable[[], Any], case: Case, *words: str) -> None:
    """Assert a one-line KdzooError that holds the words."""
    try:
        call()
    except KdzooError as error:
        message = str(error)
        assert "\n" not in message, f"a message of several lines: {message!r}"
        for word in words:
            assert word in message, f"{word!r} is not in {message!r}: {case}"
        return
    raise AssertionError(f"it was not refused: {case}")


@check
def is_documented(subject: Subject, seed: int) -> None:
    text = inspect.getdoc(subject.loss) or ""
    assert subject.loss.__doc__, f"{subject.name} has no docstring"
    for part in ("Shapes:", "Examples:"):
        assert part in text, f"the docstring of {subject.name} has no {part}"
    assert text.split("\n", 1)[0].endswith("."), f"the docstring of {subject.name} starts with no one-line summary"
    description = kdzoo.describe(subject.name)
    for option in description.options:
        assert f"{option}:" in text, f"the docstring of {subject.name} does not name its option {option}"


# Two processes


def in_two_processes(subjects: Iterable[Subject], seed: int, folder: Path) -> list[dict[str, list[Any]]]:
    """What each of two gloo processes makes of its rows of every case, by loss: value, gradients, state."""
    named = [(subject.name, subject.reference.__name__) for subject in subjects]
    torch.multiprocessing.spawn(_process, args=(named, seed, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _process(rank: int, named: list[tuple[str, str]], seed: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(minutes=5),
    )
    results: dict[str, list[Any]] = {}
    for name, reference in named:
        results[name] = []
        for case in Subject(name, importlib.import_module(reference)).cases(seed):
            loss = case.make()
            value, of_student, of_parameters = _part(case, rank).gradients(loss)
            results[name].append((value, of_student, of_parameters, loss.state_dict()))
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


def _part(case: Case, rank: int) -> Case:
    """One process's rows, unequally many, with the positions cut that are padding in all of them."""
    split = case.rows // 2
    case = case.with_rows(torch.arange(split) if rank == 0 else torch.arange(split, case.rows))
    if case.mask is None or case.counts_padding:
        return case
    length = int((case.mask != 0).any(0).nonzero().max()) + 1

    def cut(tensor: Tensor, axes: list[int]) -> Tensor:
        for axis in axes:
            tensor = tensor.narrow(axis, 0, length)
        return tensor

    return case.with_positions(cut)


def agrees_with_two_processes(subject: Subject, seed: int, results: list[dict[str, list[Any]]]) -> None:
    """One process's value, gradient and state are the means, the rows and the state of the two."""
    for number, case in enumerate(subject.cases(seed)):
        loss = case.make()
        value, of_student, of_parameters = case.gradients(loss)
        first, second = (result[case.name][number] for result in results)
        same((first[0] + second[0]) / 2, value, case, "mean value of two processes")
        for whole, *parts in zip(of_student, first[1], second[1], strict=True):
            padded = []
            for part, rows in zip(parts, (case.rows // 2, case.rows - case.rows // 2), strict=True):
                full = torch.zeros_like(whole[:rows])
                full[tuple(slice(length) for length in part.shape)] = part / 2
                padded.append(full)
            same(torch.cat(padded), whole, case, "gradient of two processes")
        for name, whole in of_parameters.items():
            same((first[2][name] + second[2][name]) / 2, whole, case, f"gradient of {name} of two processes")
        for state in (first[3], second[3]):
            same(state, dict(loss.state_dict()), case, "state after two processes")
