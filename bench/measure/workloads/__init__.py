"""What `kdzoo profile` measures of each kernel, one file a kernel: inputs from a shape, the floor, the providers."""

from __future__ import annotations

import importlib
import math
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kdzoo.errors import KdzooError, unknown
from kdzoo.kernels.backend import Decision
from kdzoo.models.loading import machine_memory

Inputs = dict[str, Any]


class Missing(Exception):
    """A provider that cannot run here; the message says why."""


@dataclass(frozen=True)
class Floor:
    """What no implementation can do without: bytes that cross the memory bus, and floating-point operations."""

    bytes: float
    flops: float


@dataclass(frozen=True)
class Workload:
    """One kernel as it is measured. A file of this folder holds one, named ``WORKLOAD``.

    Attributes:
        axes: the letters of the shapes it takes, such as ``("BD", "BSD")``; ``4x7x16`` is then B=4, S=7, D=16.
        shapes: those that are measured when none is given, as text, by device: ``{"cpu": [...], "cuda": [...]}``.
        inputs: the kernel's arguments, from a shape by letter, a type and a device.
        gradient: the names of the inputs that get a gradient.
        kernel: the public function, called as ``kernel(**inputs, backend=...)``; what it gives is summed up.
        naive: the same as it is usually written, in eager PyTorch; also what torch.compile is given.
        reference: the kernel file's plain formula.
        floor: of the forward pass, and of forward and backward together, from a shape by letter and the bytes of an
            element.
        decide: the backend that ``backend="auto"`` takes for inputs, and why.
        odd: shapes that no tile or vector divides, each with options of the kernel and its reference, at which a device
            is checked; an option that is a function is called with the inputs.
        candidates: sets of launch constants to try in place of ours, where these are guesses.
        peers: implementations of other libraries by the library's name; they import it when called, and raise
            `Missing` with the reason where they cannot serve an input.
    """

    axes: Sequence[str]
    shapes: Mapping[str, Sequence[str]]
    inputs: Callable[[dict[str, int], torch.dtype, torch.device], Inputs]
    gradient: Sequence[str]
    kernel: Callable[..., Any]
    naive: Callable[..., Any]
    reference: Callable[..., Any]
    floor: Callable[[dict[str, int], int], tuple[Floor, Floor]]
    decide: Callable[[Inputs], Decision]
    odd: Sequence[tuple[str, Mapping[str, Any]]]
    candidates: Sequence[Mapping[str, int]] = ()
    peers: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def provider(self, name: str) -> Callable[..., Any]:
        """A function of the inputs."""
        if name in ("torch", "triton"):
            return lambda **inputs: self.kernel(**inputs, backend=name)
        if name == "compile":
            torch._dynamo.reset()
            return torch.compile(self.naive)
        return {"naive": self.naive, "reference": self.reference, **self.peers}[name]

    @property
    def providers(self) -> list[str]:
        """The names of all of them."""
        return ["naive", "reference", "compile", "torch", "triton", *self.peers]

    def sizes(self, text: str) -> dict[str, int]:
        """A shape by letter, from text such as ``4096x768``.

        Raises:
            KdzooError: for text that is none of the kernel's shapes.
        """
        parts = text.lower().split("x")
        for letters in self.axes:
            if len(letters) == len(parts) and all(re.fullmatch("0*[1-9][0-9]{0,9}", part) for part in parts):
                sizes = dict(zip(letters, map(int, parts), strict=True))
                needed, memory = self.floor(sizes, 2)[0].bytes, machine_memory()
                if memory is not None and needed > memory:
                    raise KdzooError(f"the shape {text!r} is of {needed / 1e9:,.0f} GB, more than the machine has")
                return sizes
        forms = " or ".join("x".join(letters) for letters in self.axes)
        raise KdzooError(f"the shape {text!r} is not of the form {forms}, such as {self.shapes['cpu'][0]}")


def pair(sizes: dict[str, int], dtype: torch.dtype, device: torch.device) -> Inputs:
    """A student and a teacher of the same shape, normally distributed."""
    student, teacher = (torch.randn(tuple(sizes.values()), device=device).to(dtype) for _ in range(2))
    return {"student": student, "teacher": teacher}


def some(inputs: Inputs) -> Tensor:
    """A mask (B, S) in which about a third is padding, and the first position of each row is real."""
    vectors = next(iter(inputs.values()))
    mask = torch.rand(len(vectors), vectors.shape[-2], device=vectors.device) < 0.7
    mask[:, 0] = True
    return mask


ODD_ROWS: Sequence[tuple[str, Mapping[str, Any]]] = (
    ("5x37", {}),
    ("3x7x129", {"mask": some}),
    ("2x3x5x1000", {"mask": some}),
)


def of_rows(
    kernel: Callable[..., Any],
    reference: Callable[..., Any],
    naive: Callable[..., Any],
    decide: Callable[[Tensor], Decision],
    forward: int,
    both: int,
) -> Workload:
    """The workload of a kernel that compares vector with vector, in one pass with the gradient.

    Args:
        kernel, reference, naive: as of a `Workload`.
        decide: the backend that ``backend="auto"`` takes for a student, and why.
        forward: floating-point operations an element of the forward pass.
        both: of forward and backward together.
    """

    def floor(sizes: dict[str, int], item: int) -> tuple[Floor, Floor]:
        """Student and teacher read once; with the gradient, that written once."""
        elements = math.prod(sizes.values())
        return Floor(2 * elements * item, forward * elements), Floor(3 * elements * item, both * elements)

    return Workload(
        axes=("BD", "BSD", "BMSD"),
        shapes={
            "cpu": ("1024x768", "32x128x768", "32x4x128x384"),
            "cuda": ("65536x768", "256x128x768", "64x12x128x768"),
        },
        inputs=pair,
        gradient=("student",),
        kernel=kernel,
        naive=naive,
        reference=reference,
        floor=floor,
        decide=lambda given: decide(given["student"]),
        odd=ODD_ROWS,
    )


def names() -> list[str]:
    """The kernels that have a workload."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def title(name: str) -> str:
    """What a kernel does and is measured against, in a line."""
    text = importlib.import_module(f"{__name__}.{name}").__doc__ or ""
    return text.partition("\n\n")[0].replace("\n", " ").strip()


def workload(name: str) -> Workload:
    """A kernel's workload.

    Raises:
        KdzooError: for a name that has none; the nearest that has one is offered.
    """
    if name not in names():
        raise unknown("kernel", name, names())
    found: Workload = importlib.import_module(f"{__name__}.{name}").WORKLOAD
    return found


def total(outputs: Any) -> Tensor:
    """The sum of all that a provider gave, in float32 or float64."""
    tensors = outputs if isinstance(outputs, (tuple, list)) else [outputs]
    sums: list[Tensor] = [tensor.sum() for tensor in tensors]
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum()
