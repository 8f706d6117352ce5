"""The checks: each takes a loss under test and a seed, and raises an ``AssertionError`` that says what was wrong."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import gradcheck

from kdzoo.errors import KdzooError
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.registry import describe, options_of
from kdzoo.models.activations import QKV
from kdzoo.testing.cases import Case, Subject, leaves, mapped

MORE = 3  # positions of further padding; odd, so that what counts in twos is seen

CHECKS: dict[str, Callable[[Subject, int], None]] = {}


def check(function: Callable[[Subject, int], None]) -> Callable[[Subject, int], None]:
    """Add a function to the battery."""
    CHECKS[function.__name__] = function
    return function


def require(condition: object, message: str) -> None:
    """An assertion that ``python -O`` keeps."""
    if not condition:
        raise AssertionError(message)


def same(a: Any, b: Any, case: Case, what: str, tolerance: float = 1e-9) -> None:
    """Assert that numbers, tensors or lists and dictionaries of them agree."""
    if isinstance(a, dict):
        require(a.keys() == b.keys(), f"{what} of {case}")
        a, b = list(a.values()), list(b.values())
    if not isinstance(a, (list, tuple)):
        a, b = [a], [b]
    require(len(a) == len(b), f"{what} of {case}: {len(a)} and {len(b)} of them")
    for left, right in zip(a, b, strict=True):
        left, right = (torch.as_tensor(side, dtype=torch.float64) for side in (left, right))
        message = f"{what} of {case}: {left.flatten()[:8].tolist()} and {right.flatten()[:8].tolist()}"
        require(torch.allclose(left, right, rtol=tolerance, atol=tolerance), message)


def finite(case: Case, dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """The value and gradients of a fresh loss, all of which must be finite."""
    value, of_student, of_parameters = case.gradients(case.make(dtype))
    require(value.shape == (), f"a loss is a scalar, not {tuple(value.shape)}: {case}")
    for what, tensor in [("value", value), *(("gradient", g) for g in (*of_student, *of_parameters.values()))]:
        require(tensor.isfinite().all(), f"the {what} is not finite: {case}")
    return value, of_student, of_parameters


@check
def matches_reference(subject: Subject, seed: int) -> None:
    for scale in (1.0, 40.0):
        for case in subject.cases(seed, scale=scale):
            loss = case.make()
            expected = case.expected(subject, loss)
            value = case.value(loss).item()
            require(abs(value - expected) <= 1e-9 * abs(expected) + 1e-11, f"{value}, not {expected}: {case}")


@check
def has_the_gradient_of_its_value(subject: Subject, seed: int) -> None:
    for case in subject.cases(seed):
        loss = case.settled()
        if getattr(subject.reference, "HOLDS", False):
            has_the_gradient_of_its_reference(subject, case, loss)
            continue
        inputs = [tensor.clone().requires_grad_() for tensor in leaves(case.student)]
        parameters = list(loss.parameters())

        def value(*tensors: Tensor, case: Case = case, loss: Any = loss, count: int = len(inputs)) -> Tensor:
            student = QKV(*tensors[:count]) if isinstance(case.student, QKV) else tensors[0]
            return case.value(loss, student)

        # A kink within the first step is hardly ever within the second too; a wrong gradient is wrong with both.
        given = (*inputs, *parameters)
        right = gradcheck(value, given, fast_mode=True, raise_exception=False)
        require(right or gradcheck(value, given, fast_mode=True, eps=1e-7), str(case))


def has_the_gradient_of_its_reference(subject: Subject, case: Case, loss: DistillationLoss) -> None:
    """Along a direction at random, with what the loss holds fixed as it is; that at parameters is not looked at."""
    rng = np.random.default_rng(case.seed)
    directions = [torch.from_numpy(rng.normal(size=tuple(tensor.shape))) for tensor in leaves(case.student)]
    step = 1e-5

    def moved(size: float) -> float:
        along = iter(directions)
        student = mapped(case.student, lambda tensor: tensor + size * next(along))
        return case.changed(student=student).expected(subject, loss, held=case.student)

    _, of_student, _ = case.gradients(loss)
    slope = sum((gradient * direction).sum() for gradient, direction in zip(of_student, directions, strict=True))
    same(slope, (moved(step) - moved(-step)) / (2 * step), case, "gradient with a part held fixed", 1e-6)


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
    """Neither what lies in padding nor how much there is, on the right or the left, changes a value or a gradient."""
    for number, case in enumerate(subject.cases(seed)):
        if case.mask is None or case.counts_padding:
            continue
        padding = case.mask == 0
        value, of_student, of_parameters = finite(case)
        garbage = (float("nan"), float("inf"), -1e30)[number % 3]

        def spoil(
            tensor: Tensor, axes: list[int], case: Case = case, padding: Tensor = padding, garbage: float = garbage
        ) -> Tensor:
            if tensor is case.mask:
                return tensor
            if tensor is case.labels:
                return tensor.masked_fill(padding, -100)
            for axis in axes:
                shape = [1] * tensor.dim()
                shape[0], shape[axis] = padding.shape
                tensor = tensor.masked_fill(padding.view(shape), garbage)
            return tensor

        def lengthen(tensor: Tensor, axes: list[int]) -> Tensor:
            for axis in axes:
                tensor = torch.cat([tensor, torch.zeros_like(tensor.narrow(axis, 0, MORE))], dim=axis)
            return tensor

        def lead(tensor: Tensor, axes: list[int]) -> Tensor:
            for axis in axes:
                tensor = torch.cat([torch.zeros_like(tensor.narrow(axis, 0, MORE)), tensor], dim=axis)
            return tensor

        def ours(gradient: Tensor, like: Tensor, what: str) -> Tensor:
            return gradient[tuple(slice(-n, None) if what == "leading" else slice(n) for n in like.shape)]

        for what, change in (("spoilt", spoil), ("longer", lengthen), ("leading", lead)):
            other = case.with_positions(change)
            if what == "leading" and hasattr(subject.reference, "move_extras"):
                other = other.changed(extras=subject.reference.move_extras(other.extras, MORE))
            value_2, of_student_2, of_parameters_2 = finite(other)
            of_student_2 = [ours(g, like, what) for g, like in zip(of_student_2, of_student, strict=True)]
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
            require(value.dtype == torch.float32, f"{value.dtype} out of autocast: {case}")
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
        require(leaves(frozen.teacher)[0].is_inference(), "the check itself is wrong")
        for one, other in zip(frozen.gradients(frozen.make()), case.gradients(case.make()), strict=True):
            same(one, other, case, "value or gradient with a teacher from inference mode")


@check
def takes_strided_input(subject: Subject, seed: int) -> None:
    def stride(tensor: Tensor) -> Tensor:
        spread = torch.stack([tensor, torch.full_like(tensor, torch.nan)], dim=-1).transpose(0, -2).contiguous()
        return spread.transpose(0, -2)[..., 0]

    for case in subject.cases(seed):
        strided = case.changed(student=mapped(case.student, stride), teacher=mapped(case.teacher, stride))
        require(not leaves(strided.teacher)[0].is_contiguous(), "the check itself is wrong")
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
        refuses(case.changed(options=bare))
        for one in ("student_dim", "teacher_dim"):
            refuses(case.changed(options={**bare, one: 4}))
    # One row alone may have nothing to learn, such as a softmax over its single key.
    require(any(learns) or not learns, f"{subject.name} gives its projection no gradient, seed {seed}")


@check
def compiles_as_one_graph(subject: Subject, seed: int) -> None:
    """With the last layout of each setting, which has a mask where the loss takes one."""
    count = len(subject.layouts())
    cases = list(subject.cases(seed))[count - 1 :: count]
    # Of one setting down to the backward pass's own graph, and of two others alone, for it takes seconds; other seeds
    # take others.
    first = seed % len(cases)
    again, *others = [*cases[first:], *cases[:first]][:3]
    for case in (again, *others):
        torch._dynamo.reset()
        loss = case.make()
        eager = copy.deepcopy(loss)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager" if case is again else "eager")
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
            refuses(case.changed(**{need: None}), need)
        if subject.loss.needs_teacher:
            refuses(case.changed(teacher=None), "teacher")


@check
def refuses_a_mask_that_means_nothing(subject: Subject, seed: int) -> None:
    for case in subject.cases(seed):
        if case.mask is None:
            lengths = {tensor.shape[-2] for tensor in leaves(case.student)}
            mask = torch.ones(case.rows, max(lengths) + 1)
        else:
            mask = torch.ones(case.rows, case.mask.shape[1] + 1)
        refuses(case.changed(mask=mask), "mask")


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
            require(tensor.grad is None, f"the teacher's side has a gradient: {case}")


@check
def names_both_shapes_when_they_do_not_fit(subject: Subject, seed: int) -> None:
    for case in subject.cases(seed):
        if not subject.loss.needs_teacher:
            continue
        shorter = case.changed(teacher=mapped(case.teacher, lambda tensor: tensor[1:]))
        shapes = [tuple(leaves(side)[0].shape) for side in (shorter.student, shorter.teacher)]
        if isinstance(case.student, QKV):
            shapes = [(*shape[:-1], shape[-2]) for shape in shapes]
        refuses(shorter, *map(str, shapes))


def refuses(case: Case, *words: str) -> None:
    """Assert that making the loss and calling it gives a one-line KdzooError that holds the words."""
    try:
        case.value(case.make())
    except KdzooError as error:
        message = str(error)
        require("\n" not in message, f"a message of several lines: {message!r}")
        for word in words:
            require(word in message, f"{word!r} is not in {message!r}: {case}")
        return
    raise AssertionError(f"it was not refused: {case}")


@check
def is_documented(subject: Subject, seed: int) -> None:
    """A summary of one line, and by its name each option that not every loss has."""
    description = describe(subject.name)
    summary = description.summary if subject.loss.__doc__ else ""
    require(summary.endswith("."), f"the docstring of {subject.name} starts with no one-line summary")
    for option in description.options.keys() - options_of(DistillationLoss).keys():
        named = f"{option}:" in description.documentation
        require(named, f"the docstring of {subject.name} does not name its option {option}")
