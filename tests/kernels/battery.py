"""What every kernel must do, checked on inputs that its case file draws.

A kernel joins with one file ``tests/kernels/cases/<name>.py``, a module with

- ``kernel(**inputs, backend=...)``: the public function, and ``reference(**inputs)``: the plain formula, which the
  battery calls in float64 and differentiates with autograd. Each gives a tensor or a tuple of tensors;
- ``GRADIENT``: the names of the inputs that get a gradient;
- ``inputs(draw, **sizes) -> dict``: the arguments at random, from a `Draw`; at small and odd sizes, with and without
  masks and options. ``sizes`` may hold ``rows`` or ``width``, to be used in place of drawn ones (0 among them);
- ``launches() -> iterator of functions``: calls of the file's plain functions (what ``custom_op`` wraps) on
  ``torch.empty(..., device="meta")``, with ``backend="triton"``, one for each way the Triton code is tuned. Every
  Triton launch in them is compiled ahead of time, and none is made;
- optionally ``BAD``: further bad inputs, (what is changed, a function from good inputs to bad, words of the message);
- optionally ``VALUE_FLOOR``: an error of values that is none, where they are differences of numbers of size one;
- optionally ``ROUNDED``: how many times the usual error a value may have, with the reason why;
- optionally ``kinks(inputs)``: where, of the gradient, the formula has no derivative as far as float32 can tell (a
  tensor of booleans that broadcasts with it); nothing is compared there;
- optionally ``heavy(*args)``: whether a launch's plain form is in many parts because each has work enough;
- optionally ``BARRIERS``: how often, at most, a loop of the compiled launches has all warps wait for each other;
- optionally ``OPERATOR``: the operators it shows to a compiler, ``("<name>",)`` by default;
- optionally ``also(place)``: what is checked of this kernel alone, wherever it runs;
- optionally ``SKIP``: names of checks that mean nothing for this kernel, each with the reason why.

``test_battery.py`` runs the checks below over all case files: on the CPU, through Triton's interpreter (in a process
of its own, or directly with ``TRITON_INTERPRET=1 pytest tests/kernels``) and on CUDA (``pytest -m cuda``).
``test_ahead_of_time.py`` compiles the launches for the targets.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies
from torch import Tensor

from kdzoo.kernels.backend import DEVICE_BLOCK, VARIABLE, KernelError, interpreting
from kdzoo.kernels.divergence import LIMIT

NAMES = sorted(path.stem for path in (Path(__file__).parent / "cases").glob("[a-z]*.py"))
SEED = int(os.environ.get("KDZOO_SEED") or secrets.randbelow(2**31))  # fresh inputs at every run
CHECKS: dict[str, Callable[[Place], None]] = {}
# A gradient in bfloat16 is rounded three times (by the kernel, times what comes from above, in a sum), by 2**-8 each.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 1.5e-2, torch.float16: 1e-2}
HALF = (torch.bfloat16, torch.float16)


def check(function: Callable[[Place], None]) -> Callable[[Place], None]:
    """Add a function to the battery."""
    CHECKS[function.__name__] = function
    return function


class Draw:
    """Sizes from ``choose(low, high)``, values from a seed; tensors are float64 until a `Place` converts them."""

    def __init__(self, choose: Callable[[int, int], int]) -> None:
        self.integer = choose
        self.generator = torch.Generator().manual_seed(choose(0, 2**31))

    def choice(self, *options: Any) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def tensor(self, *shape: int) -> Tensor:
        """Normal values, in memory in the order of the axes or strided, one time in three."""
        values = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return strided(values, self.integer(0, 1)) if self.integer(0, 2) == 0 else values

    def mask(self, *shape: int) -> Tensor:
        """Ones at random, of one of the types that masks come in; possibly all or none of them."""
        share = self.choice(0.5, 0.7, 0.0, 1.0)
        return (torch.rand(shape, generator=self.generator) < share).to(self.choice(torch.bool, torch.int64))


def strided(values: Tensor, gaps: int) -> Tensor:
    """The same values with the first and the last but one axis swapped in memory, or with NaN between columns."""
    if gaps:
        return torch.stack([values, torch.full_like(values, torch.nan)], dim=-1)[..., 0]
    return values.transpose(0, -2).contiguous().transpose(0, -2)


class Place:
    """A kernel on a backend and a device."""

    def __init__(self, name: str, backend: str, device: str) -> None:
        self.name, self.backend, self.device = name, backend, device
        self.autocast = False  # whether forward passes run inside it
        self.case: ModuleType = importlib.import_module(f"cases.{name}")

    def drawn(self, draw: Draw, dtype: torch.dtype, **sizes: int) -> dict[str, Any]:
        return self.converted(self.case.inputs(draw, **sizes), dtype)

    def some(self, dtype: torch.dtype, seed: int = 0, **sizes: int) -> dict[str, Any]:
        """Inputs without hypothesis."""
        generator = torch.Generator().manual_seed(SEED + seed)
        draw = Draw(lambda low, high: int(torch.randint(low, high + 1, (), generator=generator)))
        return self.drawn(draw, dtype, **sizes)

    def converted(self, inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
        return {name: self.moved(value, dtype) for name, value in inputs.items()}

    def moved(self, value: Any, dtype: torch.dtype) -> Any:
        if not isinstance(value, Tensor):
            return value
        # Tensor.to keeps strides where memory is dense; gaps between the values are made again.
        gaps = value.dim() > 0 and value.stride(-1) > 1
        moved = value.to(self.device, dtype if value.is_floating_point() else value.dtype)
        return strided(moved, 1) if gaps and value.is_floating_point() else moved

    def masked(self, count: int) -> Iterator[dict[str, Any]]:
        """Some inputs with a mask; none for a kernel that has no masks."""
        tries = (self.some(torch.float32, seed) for seed in range(50))
        yield from itertools.islice((one for one in tries if isinstance(one.get("mask"), Tensor)), count)

    def run(self, inputs: dict[str, Any], upstream: float = 1.0) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The kernel's outputs and gradients."""
        return self.outcome(self.case.kernel, inputs, upstream, backend=self.backend)

    def expected(self, inputs: dict[str, Any], upstream: float = 1.0) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The reference's, in float64, of the same numbers."""
        wide = {
            name: value.detach().double() if isinstance(value, Tensor) and value.is_floating_point() else value
            for name, value in inputs.items()
        }
        return self.outcome(self.case.reference, wide, upstream)

    def outcome(
        self, function: Callable[..., Any], inputs: dict[str, Any], upstream: float, **options: Any
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        leaves = {name: inputs[name].detach().requires_grad_() for name in self.case.GRADIENT}
        with torch.autocast(self.device, torch.bfloat16) if self.autocast else nullcontext():
            outputs = function(**{**inputs, **leaves}, **options)
        outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
        generator = torch.Generator().manual_seed(0)
        weights = [upstream * (1 + torch.rand(out.shape, generator=generator)).to(out) for out in outputs]
        total = sum(((out * weight).sum() for out, weight in zip(outputs, weights, strict=True)), torch.zeros(()))
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        gradients = {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
        }
        if kinks := getattr(self.case, "kinks", None):
            nowhere = kinks(inputs)
            gradients = {name: gradient.masked_fill(nowhere, 0.0) for name, gradient in gradients.items()}
        return [out.detach() for out in outputs], gradients

    def agrees(self, inputs: dict[str, Any], dtype: torch.dtype, upstream: float = 1.0, floor: float = 1e-12) -> None:
        """Assert that outputs and gradients are the reference's, gradients up to the floor, and of the right types."""
        outputs, gradients = self.run(inputs, upstream)
        expected, slopes = self.expected(inputs, upstream)
        told = {name: (tuple(v.shape), v.stride()) if isinstance(v, Tensor) else v for name, v in inputs.items()}
        assert {out.dtype for out in outputs} == {torch.float64 if dtype == torch.float64 else torch.float32}
        # A value is summed in float32 whatever the inputs are.
        tolerance = getattr(self.case, "ROUNDED", 1) * TOLERANCE[torch.float32 if dtype in HALF else dtype]
        self.right_values(outputs, expected, f"value of {told}", tolerance)
        kind = torch.finfo(dtype)
        floor = max(floor, kind.smallest_normal * kind.eps)  # the distance of the type's least numbers
        for name, found in gradients.items():
            assert found.dtype == dtype and found.shape == inputs[name].shape
            close(found, slopes[name], TOLERANCE[dtype], f"gradient of {name} of {told}", floor)

    def right_values(
        self, outputs: Iterable[Tensor], expected: Iterable[Tensor], what: str, tolerance: float = 1e-5
    ) -> None:
        """Assert that outputs are the reference's."""
        for found, right in zip(outputs, expected, strict=True):
            floor = 1e-12 if found.dtype == torch.float64 else getattr(self.case, "VALUE_FLOOR", 1e-12)
            close(found, right, tolerance, what, floor)


def close(found: Tensor, right: Tensor, tolerance: float, what: str, floor: float = 1e-12) -> None:
    """Assert an error, in the largest entry, below the tolerance, which is relative, and the floor, which is not."""
    found, right = found.double(), right.double()
    assert right.isfinite().all(), f"the reference is not finite: {what}"
    assert found.isfinite().all(), f"{what} is not finite: {found.flatten()[:8].tolist()}"
    size = right.abs().max().item() if right.numel() else 0.0
    error = (found - right).abs().max().item() if right.numel() else 0.0
    assert error <= tolerance * size + floor, f"{what}: {error / (size or 1.0):.2e} off"


def refused(call: Callable[[], Any], *words: str) -> None:
    """Assert a one-line KernelError that holds the words."""
    with pytest.raises(KernelError) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"


def dtypes(place: Place) -> tuple[torch.dtype, ...]:
    return (torch.float32, *HALF, *((torch.float64,) if place.backend == "torch" else ()))


# Checks


@check
def matches_the_reference(place: Place) -> None:
    """At shapes, strides, masks and types that hypothesis draws, with a random upstream gradient."""

    @hypothesis.seed(SEED)
    @hypothesis.settings(max_examples=8 if interpreting() else 60, deadline=None, database=None)
    @hypothesis.given(strategies.data())
    def run(data: strategies.DataObject) -> None:
        dtype = data.draw(strategies.sampled_from(dtypes(place)))
        draw = Draw(lambda low, high: data.draw(strategies.integers(low, high)))
        place.agrees(place.drawn(draw, dtype), dtype, data.draw(strategies.sampled_from([1.0, -2.5, 300.0])))

    run()


@check
def matches_at_real_widths(place: Place) -> None:
    for width in (37, 312) if interpreting() else (37, 312, 384, 768, 1000):
        for dtype in dtypes(place)[: 1 if interpreting() else None]:
            place.agrees(place.some(dtype, width=width), dtype)


@check
def does_what_is_its_own(place: Place) -> None:
    getattr(place.case, "also", lambda place: None)(place)


@check
def gives_the_same_twice(place: Place) -> None:
    """A graph that is kept can be differentiated again, with another upstream gradient."""
    inputs = place.some(torch.float32)
    leaves = {name: inputs[name].detach().requires_grad_() for name in place.case.GRADIENT}
    outputs = place.case.kernel(**{**inputs, **leaves}, backend=place.backend)
    value = (outputs[0] if isinstance(outputs, tuple) else outputs).sum()
    first = torch.autograd.grad(3 * value, list(leaves.values()), retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    second = torch.autograd.grad(6 * value, list(leaves.values()))
    for one, own, two in zip(kept, first, second, strict=True):
        close(own, one, 0.0, "first gradient after the second")
        close(two, 2 * one, 1e-6, "second gradient")


@check
def is_the_value_without_gradient(place: Place) -> None:
    inputs = place.some(torch.float32)
    expected, _ = place.expected(inputs)
    with torch.no_grad():
        outputs = place.case.kernel(**inputs, backend=place.backend)
    place.right_values(outputs if isinstance(outputs, tuple) else [outputs], expected, "value without gradient")


@check
def is_an_operator(place: Place) -> None:
    """torch.library.opcheck over the operator's call, as the public function makes it."""
    inputs = place.some(torch.float32)
    calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function.namespace == "kdzoo":
                calls.append((function, args, kwargs or {}))
            return function(*args, **(kwargs or {}))

    for name in place.case.GRADIENT:
        inputs[name] = inputs[name].requires_grad_()
    with Spy():
        place.case.kernel(**inputs, backend=place.backend)
    assert [function.name().split("::")[1] for function, _, _ in calls] == list(operators(place))
    wanted = [inputs[name] for name in place.case.GRADIENT]
    for function, args, kwargs in calls:
        # Dispatch modes are called below autograd, with tensors that have lost their requires_grad.
        given = [
            arg.detach().clone().requires_grad_()
            if isinstance(arg, Tensor) and any(arg.data_ptr() == one.data_ptr() for one in wanted)
            else arg
            for arg in args
        ]
        # The rest is the same for all backends, and takes seconds.
        quick = {"test_utils": ("test_schema", "test_faketensor")} if interpreting() else {}
        torch.library.opcheck(function, tuple(given), kwargs, **quick)


def operators(place: Place) -> tuple[str, ...]:
    return getattr(place.case, "OPERATOR", (place.name,))


@check
def compiles_as_one_operator(place: Place) -> None:
    """With fullgraph, forward and backward, for more than one number of rows."""
    if interpreting():
        return  # the graph is the same for all backends
    seen: list[str] = []

    def compiler(graph: torch.fx.GraphModule, _: Any) -> Any:
        targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        seen.extend(target.split(".")[1] for target in targets if target.startswith("kdzoo."))
        return graph

    torch._dynamo.reset()
    inputs = place.some(torch.float32, rows=5)

    def call(**tensors: Any) -> Any:
        return place.case.kernel(**tensors, backend=place.backend)

    torch.compile(call, fullgraph=True, backend=compiler)(**inputs)
    assert seen == list(operators(place)), seen
    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for rows in (5, 4):
        inputs = place.some(torch.float32, rows=rows)
        outputs, gradients = place.outcome(compiled, inputs, 2.0)
        expected, slopes = place.expected(inputs, 2.0)
        place.right_values(outputs, expected, "compiled value")
        for name, found in gradients.items():
            close(found, slopes[name], 1e-5, f"compiled gradient of {name}")


@check
def compiles_for_all_sizes_at_once(place: Place) -> None:
    """With dynamic=True numbers are symbols, too, such as a temperature or the first row of a process."""
    if interpreting():
        return  # the graph is the same for all backends
    torch._dynamo.reset()
    numbers = {name: value for name, value in place.some(torch.float32, rows=5).items() if type(value) is float}
    call = functools.partial(place.case.kernel, backend=place.backend)
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows, factor in ((5, 1.0), (4, 1.5)):
        inputs = place.some(torch.float32, rows=rows)
        # A mixture lies within 0 and 1, and is made less.
        scaled = {name: value / factor if name == "mixture" else factor * value for name, value in numbers.items()}
        inputs |= scaled
        outputs, gradients = place.outcome(compiled, inputs, 2.0)
        expected, slopes = place.expected(inputs, 2.0)
        place.right_values(outputs, expected, "compiled value")
        for name, found in gradients.items():
            close(found, slopes[name], 1e-5, f"compiled gradient of {name}")


@check
def is_the_same_inside_autocast(place: Place) -> None:
    """Forward inside, backward outside, as autocast is used: bit by bit, and the formula too."""
    if interpreting():
        return  # autocast is for torch's own operators
    inputs = place.some(torch.float32, rows=12, width=37)
    outside = [place.run(inputs), place.outcome(place.case.kernel, inputs, 1.0), place.expected(inputs)]
    place.autocast = True
    inside = [place.run(inputs), place.outcome(place.case.kernel, inputs, 1.0), place.expected(inputs)]
    for (outputs, gradients), (found, slopes) in zip(outside, inside, strict=True):
        torch.testing.assert_close(found, outputs, rtol=0, atol=0)
        torch.testing.assert_close(slopes, gradients, rtol=0, atol=0)


@check
def refuses_transforms_of_torch_func(place: Place) -> None:
    """In words, where torch would speak of autograd.Function."""
    inputs = place.some(torch.float32)
    name = place.case.GRADIENT[0]

    def value(leaf: Tensor) -> Tensor:
        outputs = place.case.kernel(**{**inputs, name: leaf}, backend=place.backend)
        return (outputs[0] if isinstance(outputs, tuple) else outputs).sum()

    refused(lambda: torch.func.grad(value)(inputs[name]), operators(place)[0], "torch.func", "_reference")


@check
def holds_no_input_for_the_backward_pass(place: Place) -> None:
    inputs = place.some(torch.float32, rows=4, width=6)
    inputs |= {name: inputs[name].clone().requires_grad_() for name in place.case.GRADIENT}
    own = {inputs[name].untyped_storage().data_ptr() for name in place.case.GRADIENT}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        place.case.kernel(**inputs, backend=place.backend)
    assert kept and not own & {tensor.untyped_storage().data_ptr() for tensor in kept}


@check
def its_plain_form_suits_a_device(place: Place) -> None:
    """Large blocks, few launches, none of which waits for a value: such code cannot be captured.

    Seen on meta tensors, which have no values; and the same code's values on the CPU.
    """
    if interpreting() or place.backend != "torch":
        return
    calls = 0

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal calls
            # Views launch nothing.
            calls += not any(one.alias_info and not one.alias_info.is_write for one in function._schema.returns)
            return function(*args, **(kwargs or {}))

    for launch in place.case.launches():
        if "triton" not in launch.args or getattr(place.case, "heavy", lambda *args: False)(*launch.args):
            continue
        calls = 0
        with Count():
            launch.func(*("torch" if arg == "triton" else arg for arg in launch.args))
        largest = max(arg.numel() for arg in launch.args if isinstance(arg, Tensor))
        assert calls < 250 + 30 * largest // DEVICE_BLOCK, f"{calls} calls for {launch}"
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("kdzoo.kernels") and hasattr(module, "on_host"):
                patch.setattr(module, "on_host", lambda device: False)
        for seed, dtype in enumerate(dtypes(place) * 3):
            place.agrees(place.some(dtype, seed), dtype)


@check
def refuses_a_second_derivative(place: Place) -> None:
    inputs = place.some(torch.float32)
    leaves = {name: inputs[name].detach().requires_grad_() for name in place.case.GRADIENT}
    outputs = place.case.kernel(**{**inputs, **leaves}, backend=place.backend)
    value = (outputs[0] if isinstance(outputs, tuple) else outputs).sum()
    gradients = torch.autograd.grad(value, list(leaves.values()), create_graph=True)
    for gradient, leaf in zip(gradients, leaves.values(), strict=True):
        words = (operators(place)[0], "second time")
        refused(lambda g=gradient, leaf=leaf: torch.autograd.grad(g.square().sum(), leaf), *words)


@check
def refuses_bad_inputs(place: Place) -> None:
    """In one line, before anything runs."""
    good = place.some(torch.float32, rows=4, width=6)

    def call(**changed: Any) -> Any:
        return place.case.kernel(**{**good, "backend": place.backend, **changed})

    names = [n for n, v in good.items() if isinstance(v, Tensor) and v.is_floating_point()]
    for name in names:
        refused(lambda name=name: call(**{name: good[name].long()}), name, "int64")
        refused(lambda name=name: call(**{name: good[name].double()}), name, "float64", "float32")
        refused(lambda name=name: call(**{name: good[name].to("meta")}), name, "meta", place.device)
    refused(lambda: call(**{names[1]: good[names[1]][1:]}), str(tuple(good[names[1]][1:].shape)))
    if isinstance(good.get("mask"), Tensor):
        mask = good["mask"]
        refused(lambda: call(mask=torch.ones(mask.shape[0], mask.shape[1] + 1, device=place.device)), "mask")
        refused(lambda: call(mask=mask.to("meta")), "mask", "meta")
    refused(lambda: call(backend="cuda"), "cuda", "auto, torch, triton")
    for what, change, words in getattr(place.case, "BAD", ()):
        refused(lambda change=change: call(**change(good)), *words), what


@check
def refuses_a_backend_that_is_not_there(place: Place) -> None:
    if place.device == "cuda" or interpreting():
        return
    good = place.some(torch.float32)
    refused(lambda: place.case.kernel(**good, backend="triton"), "triton", "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "triton")
        refused(lambda: place.case.kernel(**good), f"{VARIABLE}=triton", "cpu")
        patch.setenv(VARIABLE, "fast")
        refused(lambda: place.case.kernel(**good), f"{VARIABLE}=fast", "auto, torch, triton")
        patch.setenv(VARIABLE, "torch")
        place.case.kernel(**good)


@check
def is_defined_without_rows_or_width(place: Place) -> None:
    for sizes in ({"rows": 0}, {"width": 0}, {"rows": 1}):
        place.agrees(place.some(torch.float32, **sizes), torch.float32)


@check
def is_zero_where_everything_is_masked(place: Place) -> None:
    for inputs in place.masked(4):
        outputs, gradients = place.run({**inputs, "mask": torch.zeros_like(inputs["mask"])})
        for found in (*outputs, *gradients.values()):
            assert not found.count_nonzero() and not found.isnan().any()


@check
def never_looks_at_what_is_masked(place: Place) -> None:
    for inputs, garbage in zip(place.masked(6), (torch.nan, torch.inf, -3e38) * 2, strict=False):
        mask = inputs["mask"]
        spoilt = {}
        for name in ("student", "teacher"):
            padding = (mask == 0).view(mask.shape[0], *(1 for _ in inputs[name].shape[3:]), -1, 1)
            spoilt[name] = inputs[name].masked_fill(padding, garbage)
        found, slopes = place.run({**inputs, **spoilt})
        expected, right = place.expected(inputs)
        place.right_values(found, expected, "value with spoilt padding")
        for name in slopes:
            close(slopes[name], right[name], 1e-5, "gradient with spoilt padding")


@check
def is_defined_for_zero_vectors(place: Place) -> None:
    for seed, sides in enumerate((("student",), ("teacher",), ("student", "teacher"))):
        inputs = place.some(torch.float32, seed)
        for name in sides:
            inputs[name] = inputs[name].clone()
            inputs[name][..., ::2, :] = 0
        place.agrees(inputs, torch.float32)
        # The square of a row of unit length does not change with the row, whose gradient is then zero but for rounding.
        zeros = {name: torch.zeros_like(inputs[name]) for name in sides}
        place.agrees({**inputs, **zeros}, torch.float32, floor=1e-6)


@check
def is_defined_for_infinities_in_the_teacher(place: Place) -> None:
    for seed, value in enumerate((torch.inf, -torch.inf)):
        inputs = place.some(torch.float32, seed)
        inputs["teacher"] = inputs["teacher"].clone()
        inputs["teacher"][..., :1, :1] = value
        # Where the infinity shows in a gradient, that is a difference of terms of LIMIT's size, each of them rounded.
        shows = any(slope.numel() and slope.abs().max() > LIMIT**0.5 for slope in place.expected(inputs)[1].values())
        place.agrees(inputs, torch.float32, floor=LIMIT * torch.finfo(torch.float32).eps if shows else 1e-12)


@check
def keeps_a_nan_that_counts(place: Place) -> None:
    """A NaN in the input is not hidden."""
    inputs = {name: value for name, value in place.some(torch.float32, rows=4, width=6).items() if name != "mask"}
    inputs["student"] = inputs["student"].clone()
    inputs["student"][(0,) * inputs["student"].dim()] = torch.nan
    outputs, _ = place.run(inputs)
    assert all(out.isnan().any() for out in outputs)


def places() -> list[Any]:
    """(backend, device) of this process, as parameters."""
    if interpreting():
        return [("triton", "cpu")]
    on_cuda = [pytest.param((backend, "cuda"), marks=pytest.mark.cuda) for backend in ("torch", "triton")]
    return [("torch", "cpu"), *on_cuda]


def environment() -> dict[str, str]:
    """This process's, with Triton's interpreter on and the same inputs."""
    return {**os.environ, "TRITON_INTERPRET": "1", "KDZOO_SEED": str(SEED)}
