"""Checks a kernel's backends on a device: value and gradient against float64, repeatability, unwritten outputs.

What the tests do on a CPU and through Triton's interpreter with many random inputs, done here with few and with torch
alone, for a GPU that is at hand for minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from kdzoo.bench.measure.kernels.request import DTYPES
from kdzoo.bench.measure.workloads import Inputs, Workload, total
from kdzoo.errors import out_of_memory

# Relative errors of a value, which is summed in float32, and of a gradient, which is rounded to its type; of the latter
# the norm of the difference over the norm.
VALUE = 1e-4
GRADIENT = {"fp32": 2e-4, "bf16": 1e-2, "fp16": 1e-2}

Result = dict[str, Any]


def check(
    work: Workload,
    shape: str,
    options: Mapping[str, Any],
    dtype: str,
    backend: str,
    device: torch.device,
    *,
    whole: bool = True,
    seed: int = 0,
) -> Result:
    """One check of a backend.

    Args:
        work: the kernel.
        shape: as text.
        options: of the kernel and its reference; those that are functions are called with the inputs.
        dtype: fp32, bf16 or fp16.
        backend: ``"triton"`` or ``"torch"``.
        device: where it runs.
        whole: whether to hold it to the plain formula in float64. At shapes too large for that, False, it is held to
            the path without Triton in float64, which goes block by block.
        seed: of the inputs.

    Returns:
        ``value_error``, ``gradient_error``, ``repeats`` (whether a second run gave the same bits, which is
        promised of Triton alone), ``written`` (whether it is the same with poisoned outputs), and ``wrong``, a list of
        what is not as it must be. ``failed`` in place of all where memory did not suffice.
    """
    result: Result = {"shape": shape, "options": _told(options), "dtype": dtype, "backend": backend}
    wrong: list[str] = []
    try:
        torch.manual_seed(seed)
        inputs = work.inputs(work.sizes(shape), DTYPES[dtype], device)
        inputs |= {name: value(inputs) if callable(value) else value for name, value in options.items()}
        found = outcome(work, lambda **given: work.kernel(**given, backend=backend), inputs)
        again = outcome(work, lambda **given: work.kernel(**given, backend=backend), inputs)
        with poisoned():
            filled = outcome(work, lambda **given: work.kernel(**given, backend=backend), inputs)
        reference = work.reference if whole else lambda **given: work.kernel(**given, backend="torch")
        wide = {name: _widened(value) for name, value in inputs.items()}
        right = outcome(work, reference, wide)
    except Exception as error:
        if out_of_memory(error):  # float64 of so many is not for every device
            return result | {"failed": "out of memory", "wrong": []}
        return result | {"wrong": [" ".join(f"{type(error).__name__}: {error}".split())[:300]]}
    errors = [relative(one, other) for one, other in zip(found, right, strict=True)]
    result |= {"value_error": errors[0], "gradient_error": _worst(errors[1:])}
    result |= {"repeats": _same(found, again)}
    # What is poisoned is no number; another algorithm, which torch may choose with it, is no error.
    result["written"] = all(relative(one, two) <= GRADIENT[dtype] for one, two in zip(filled, found, strict=True))
    for what, off, most in (("value", errors[0], VALUE), ("gradient", _worst(errors[1:]), GRADIENT[dtype])):
        if not off <= most:  # not a number is wrong, too
            wrong.append(f"its {what} is {off:.1e} off, more than {most:.0e}")
    if not result["repeats"] and backend == "triton":
        wrong.append("a second run gives other bits")
    if not result["written"]:
        wrong.append("it reads memory that nothing wrote, or leaves some of its output unwritten")
    return result | {"wrong": wrong}


def odd_checks(
    work: Workload, dtypes: Sequence[str], device: torch.device, seed: int = 0, most: int | None = None
) -> Iterator[Result]:
    """Both backends at the kernel's odd shapes, or at the first so many."""
    for dtype in dtypes:
        for shape, options in work.odd[:most]:
            for backend in ("triton", "torch"):
                yield check(work, shape, options, dtype, backend, device, seed=seed)


def target_checks(
    work: Workload, dtypes: Sequence[str], device: torch.device, shapes: Sequence[str], seed: int = 0
) -> Iterator[Result]:
    """The Triton path at the shapes that are measured."""
    for dtype in dtypes:
        for shape in shapes:
            yield check(work, shape, {}, dtype, "triton", device, whole=False, seed=seed)
            if device.type == "cuda":
                torch.cuda.empty_cache()


def outcome(work: Workload, function: Callable[..., Any], inputs: Inputs) -> list[Tensor]:
    """A function's value, and the gradients of three times it."""
    leaves = {name: inputs[name].detach().requires_grad_() for name in work.gradient}
    value = total(function(**{**inputs, **leaves}))
    gradients = torch.autograd.grad(3 * value, list(leaves.values()))
    return [value.detach(), *gradients]


def relative(found: Tensor, right: Tensor) -> float:
    """The norm of the difference over the norm, in float64; not a number where anything is none."""
    right = right.double()
    size, error = torch.linalg.vector_norm(right), torch.linalg.vector_norm(found.double() - right)
    return float(error / size) if size else float(error)


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that is handed out holds NaN, or the largest integers, until it is written."""
    asked = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    setting: Any = torch.utils.deterministic
    filled = setting.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    setting.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(asked[0], warn_only=asked[1])
        setting.fill_uninitialized_memory = filled


def _worst(errors: Sequence[float]) -> float:
    """The largest, or what is not a number, which ``max`` may pass over."""
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def _widened(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _same(first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether all bits are the same, those of what is not a number included."""
    return all(
        torch.equal(one, two) or torch.equal(_bits(one), _bits(two)) for one, two in zip(first, second, strict=True)
    )


def _bits(values: Tensor) -> Tensor:
    return values.contiguous().reshape(-1).view(torch.uint8)


def _told(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: "random" if callable(value) else value for name, value in options.items()}
