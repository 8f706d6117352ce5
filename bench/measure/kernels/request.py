"""What to measure of a kernel: shapes, type, providers and device, checked before any work."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch

from kdzoo.bench.measure.workloads import Floor, Inputs, Workload, names, title, workload
from kdzoo.errors import KdzooError, unknown
from kdzoo.kernels.backend import Decision, KernelError, obstacle

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEVICES = ("cpu", "cuda")
PACKAGES = {"liger-kernel": "liger_kernel", "inf-cl": "inf_cl"}  # peers, by what they are imported as
LATE = {"compile": 2, "reference": 3}  # what is measured after the rest; a compiler takes its time


@dataclass(frozen=True)
class Request:
    """What to measure, checked: nothing of it can turn out impossible later."""

    kernel: str
    workload: Workload
    shapes: tuple[str, ...]
    dtype: str
    providers: tuple[str, ...]
    device: torch.device
    own: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        kernel: str,
        *,
        shapes: Sequence[str] = (),
        dtype: str = "fp32",
        providers: Sequence[str] = (),
        own: Sequence[str] = (),
        device: str,
    ) -> Request:
        """A request from text.

        Args:
            kernel: its name.
            shapes: texts such as ``4096x768``, or ``256:4096x768`` for 256, 512 and so on up to 4096; the workload's
                own for the device by default.
            dtype: fp32, bf16 or fp16.
            providers: all that can run here by default.
            own: further providers, each ``package.module:function``, called as the workload's ``naive`` is.
            device: cpu or cuda; empty for cuda where there is one.

        Raises:
            KdzooError: for a name, shape, type or device that is not there.
        """
        work = workload(kernel)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        for kind, name, valid in (("dtype", dtype, DTYPES), ("device", device, DEVICES)):
            if name not in valid:
                raise unknown(kind, name, valid)
        if device == "cuda" and not torch.cuda.is_available():
            raise KdzooError("--device cuda: there is no CUDA device here; use --device cpu")
        # As a record has them, whatever the spelling: 4X5 and 04x5 are 4x5.
        every = ["x".join(map(str, work.sizes(shape).values())) for text in shapes for shape in _swept(text)]
        place = torch.device(device)
        for name in providers:
            if name not in work.providers:
                raise KdzooError(f"{kernel} has no provider {name!r}; it has {', '.join(work.providers)}")
            if why_not := _why_not(name, place, DTYPES[dtype]):
                raise KdzooError(f"the provider {name} cannot run here: {why_not}")
        chosen = [name for name in work.providers if not _why_not(name, place, DTYPES[dtype])]
        functions = {text: _imported(text) for text in own}
        wanted = tuple(dict.fromkeys((*(providers or chosen), *functions)))
        return cls(kernel, work, tuple(dict.fromkeys(every or work.shapes[device])), dtype, wanted, place, functions)

    def inputs(self, shape: str) -> Inputs:
        """The arguments at a shape, the same at every call."""
        torch.manual_seed(0)
        return self.workload.inputs(self.workload.sizes(shape), DTYPES[self.dtype], self.device)

    def floors(self, shape: str) -> tuple[Floor, Floor]:
        """The least bytes and operations of the forward pass, and of forward and backward together."""
        return self.workload.floor(self.workload.sizes(shape), DTYPES[self.dtype].itemsize)

    def provider(self, name: str) -> Callable[..., Any]:
        """A function of the inputs."""
        return self.own[name] if name in self.own else self.workload.provider(name)

    def asked(self) -> list[tuple[str, str]]:
        """The shapes and providers, in the order they were asked for."""
        return [(shape, provider) for shape in self.shapes for provider in self.providers]

    def jobs(self) -> list[tuple[str, str]]:
        """The same with the cheap and important first: ours and what it is held against before what a compiler and
        the whole formula take, and small shapes before large ones."""

        def order(job: tuple[str, str]) -> tuple[int, float]:
            shape, provider = job
            both = self.floors(shape)[1]
            # A byte and a hundred operations take a device about the same time.
            return LATE.get(provider, int(provider in PACKAGES)), both.bytes + both.flops / 100

        return sorted(self.asked(), key=order)


def _swept(text: str) -> Iterator[str]:
    """The shapes of a text in which one axis may be ``low:high``."""
    parts = text.split("x")
    ranges = [place for place, part in enumerate(parts) if ":" in part]
    if not ranges:
        yield text
        return
    low, _, high = parts[ranges[0]].partition(":")
    if len(ranges) > 1 or not (low.isdecimal() and high.isdecimal() and 0 < int(low) <= int(high) < 10**10):
        raise KdzooError(f"the shape {text!r} is no sweep; one of its numbers may be LOW:HIGH, such as 256:4096x768")
    size = int(low)
    while size <= int(high):
        yield "x".join([*parts[: ranges[0]], str(size), *parts[ranges[0] + 1 :]])
        size *= 2


def _imported(text: str) -> Callable[..., Any]:
    """A provider of one's own, from ``package.module:function``."""
    module, _, attribute = text.partition(":")
    form = f"the provider {text!r} cannot be imported"
    if not module or not attribute.isidentifier():
        raise KdzooError(f"{form}; give package.module:function")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a module of one's own raises
        raise KdzooError(f"{form}: {type(error).__name__}: {error}; give package.module:function") from error
    if not callable(function):
        raise KdzooError(f"{form}: it is a {type(function).__name__}; give package.module:function")
    found: Callable[..., Any] = function
    return found


def _why_not(provider: str, device: torch.device, dtype: torch.dtype) -> str | None:
    package = PACKAGES.get(provider)
    if package is not None:
        if find_spec(package) is None:
            return f"{provider} is not installed; it comes with kdzoo[peers]"
        return None if device.type == "cuda" else f"{provider} needs a CUDA device"
    if provider == "triton":
        return obstacle(torch.empty(0, dtype=dtype, device=device))
    return None


def explain(request: Request) -> Iterator[tuple[str, Decision]]:
    """The backend that ``backend="auto"`` takes at each shape, and why; nothing is run.

    Raises:
        KdzooError: where KDZOO_BACKEND asks for a backend that is not there.
    """
    for shape in request.shapes:
        try:
            yield shape, request.workload.decide(request.inputs(shape))
        except KernelError as error:
            raise KdzooError(str(error)) from error


def listing() -> list[str]:
    """A line a kernel: its name, and what is measured of it."""
    width = max(map(len, names()))
    return [f"{name:{width}}  {title(name)}" for name in names()]
