"""What the kernels share: which backend runs, the checks of their inputs, lazy Triton functions, the backward pass."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import triton.language as tl

BACKENDS = ("auto", "torch", "triton")
VARIABLE = "KDZOO_BACKEND"
EPSILON = 1e-12

# Elements of the student from which a kernel's Triton form is the faster one on CUDA. A kernel that is not here has
# not been measured, and takes Triton at every size.
CROSSOVERS: dict[str, int] = {}

# Elements of the student under which, on a CPU, plain PyTorch with autograd is faster than a kernel's operator, whose
# call costs more than such work.
PLAIN: dict[str, int] = {
    "cos_nce": 49152,
    "divergence": 65536,
    "hidden_mse": 524288,
    "cosine": 49152,
    "normalized_mse": 49152,
    "gram_distance": 8192,
    "gram_sp": 16384,
    "relation": 102400,
    "relation_masked": 12288,
}

TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class KernelError(ValueError):
    """A call that a kernel cannot serve; the message is one line and comes before any launch."""


# Which backend runs


@dataclass(frozen=True)
class Decision:
    """The backend that runs, ``"torch"`` or ``"triton"``, and why."""

    backend: str
    reason: str

    @property
    def triton(self) -> bool:
        return self.backend == "triton"


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def interpreting() -> bool:
    """Whether Triton's interpreter is on, which runs kernels on the CPU, slowly, for tests."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def choose(kernel: str, tensor: Tensor, backend: str = "auto", unfit: str | None = None) -> Decision:
    """Which backend a kernel takes for a tensor.

    Args:
        kernel: its name.
        tensor: its first input, which has the device, the type and the size.
        backend: ``"torch"``, ``"triton"``, or ``"auto"``: what the environment variable KDZOO_BACKEND says, or else
            Triton on CUDA from the kernel's measured crossover on, and torch everywhere else.
        unfit: why the Triton kernel cannot take this input, if it cannot.

    Raises:
        KernelError: for a backend that is not known or, asked for by name, cannot run here.
    """
    asked = f"backend={backend!r}"
    if backend == "auto" and os.environ.get(VARIABLE):
        backend = os.environ[VARIABLE]
        asked = f"{VARIABLE}={backend}"
    if backend not in BACKENDS:
        raise KernelError(f"{kernel}: {asked} is not known; it is one of {', '.join(BACKENDS)}")
    obstacle = _obstacle(tensor) or unfit
    if backend == "triton" and obstacle:
        raise KernelError(f"{kernel}: {asked} cannot run here: {obstacle}; use 'torch' or 'auto'")
    if backend != "auto":
        return Decision(backend, f"asked for by {asked}")
    if obstacle:
        return Decision("torch", obstacle)
    if tensor.device.type != "cuda":
        return Decision("torch", "Triton's interpreter is for tests and has to be asked for")
    least = CROSSOVERS.get(kernel)
    if least is None:
        return Decision("triton", f"on {tensor.device.type}; no crossover has been measured")
    compared = f"{tensor.numel()} elements, the measured crossover is at {least}"
    return Decision("triton" if tensor.numel() >= least else "torch", compared)


def plain(kernel: str, tensor: Tensor, backend: str = "auto") -> bool:
    """Whether a kernel leaves a small tensor on a CPU to plain PyTorch, when no backend is asked for."""
    if backend != "auto" or os.environ.get(VARIABLE):
        return False
    return tensor.device.type == "cpu" and tensor.numel() < PLAIN.get(kernel, 0)


def _obstacle(tensor: Tensor) -> str | None:
    if not has_triton():
        return "triton is not installed"
    if tensor.device.type != "cuda" and not (tensor.device.type == "cpu" and interpreting()):
        return f"the tensors are on {tensor.device.type}, and Triton runs on cuda"
    if tensor.dtype not in TRITON_DTYPES:
        return f"the tensors are {text(tensor.dtype)}, and the kernels accumulate in float32"
    return None


@cache
def architecture() -> str:
    """The GPU's, ``"sm_90"`` or ``"gfx942"``, for a kernel that is tuned to each; empty without one."""
    if not torch.cuda.is_available():
        return ""
    properties = torch.cuda.get_device_properties()
    return properties.gcnArchName.split(":")[0] if torch.version.hip else f"sm_{properties.major}{properties.minor}"


# Checks


def text(dtype: torch.dtype) -> str:
    """``float32`` for torch.float32."""
    return str(dtype).removeprefix("torch.")


def check_kind(kernel: str, **tensors: Tensor | None) -> None:
    """Refuse tensors that are not floating-point, or differ from the first in type or device.

    Raises:
        KernelError: naming the two that do not go together.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    first, *_ = given
    for name, tensor in given.items():
        if not tensor.is_floating_point():
            raise KernelError(f"{kernel}: {name} is {text(tensor.dtype)}; it takes floating-point tensors")
        for what, own, its in (
            ("type", text(given[first].dtype), text(tensor.dtype)),
            ("device", str(given[first].device), str(tensor.device)),
        ):
            if own != its:
                raise KernelError(f"{kernel}: {first} is {own} and {name} is {its}; they must share one {what}")


def check_mask(kernel: str, mask: Tensor | None, vectors: Tensor) -> Tensor | None:
    """A mask (B, S) for vectors (B, S, D) or (B, M, S, D), as booleans; refused where it does not fit."""
    if mask is None:
        return None
    if vectors.dim() not in (3, 4) or mask.shape != (vectors.shape[0], vectors.shape[-2]):
        raise KernelError(
            f"{kernel}: a mask {tuple(mask.shape)} does not fit {tuple(vectors.shape)}; it is (B, S) for (B, S, D) or "
            "(B, M, S, D)"
        )
    if mask.device != vectors.device:
        raise KernelError(f"{kernel}: the mask is on {mask.device} and the vectors are on {vectors.device}")
    return mask != 0


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type that sums over this one are taken in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def unit(vectors: Tensor) -> Tensor:
    """Vectors of length one on the last axis; a vector of length zero, or of infinite length, becomes zero."""
    norm = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    none = (norm == 0) | (norm == torch.inf)
    # Filled before the division, so that neither value nor gradient meets 0 / 0 or inf / inf.
    return vectors.masked_fill(none, 0.0) / norm.masked_fill(none, 1.0).clamp_min(EPSILON)


# Triton functions


class Lazy:
    """A function that becomes a Triton kernel with `load`."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        raise TypeError(f"{self.function.__name__} must be loaded before it is launched")


def jit(function: Callable[..., Any]) -> Any:
    """``triton.jit``, put off until the first launch: importing a kernel's file loads torch alone."""
    return Lazy(function)


def load(module: dict[str, Any]) -> None:
    """Turn the `jit` functions of a module, given as its ``globals()``, into Triton kernels."""
    if "tl" in module:
        return
    import triton
    import triton.language

    module["tl"] = triton.language
    for name, value in list(module.items()):
        if isinstance(value, Lazy):
            module[name] = triton.jit(value.function)


def power_of_2(number: int) -> int:
    """The smallest power of two that is not below a number; 1 for zero."""
    return 1 << max(number - 1, 0).bit_length()


# Backward


def register_value_and_gradient(operator: Any, kernel: str, *, count: int, wanted: int, room: float = 1.0) -> None:
    """Register the fake and the backward pass of an operator that gives a value and its gradient at its first input.

    Args:
        operator: a ``torch.library.CustomOpDef`` that gives both; the gradient is empty where it is not wanted.
        kernel: its name, for messages.
        count: the place, among its inputs, of the number that the value is divided by. A float16 gradient is not
            divided yet, since its type has no room for such quotients: the backward pass does it.
        wanted: the place of the flag that says whether the gradient is wanted.
        room: what a float16 gradient is times of.
    """

    def fake(*inputs: Any) -> tuple[Tensor, Tensor]:
        student = inputs[0]
        gradient = student.new_empty(student.shape if inputs[wanted] else (0, *student.shape[1:]))
        return student.new_empty((), dtype=accumulator(student.dtype)), gradient

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)  # or zeros as large as the gradient would be made for the gradient's own
        ctx.save_for_backward(inputs[0], output[1], inputs[count])
        ctx.others = (None,) * (len(inputs) - 1)

    def backward(ctx: Any, upstream: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if upstream is None:
            return (None, *ctx.others)
        student, gradient, divisor = ctx.saved_tensors
        factor = upstream / (divisor * room) if student.dtype == torch.float16 else upstream
        return (once(kernel, scaled(gradient, factor), student), *ctx.others)

    operator.register_fake(fake)
    operator.register_autograd(backward, setup_context=setup)


def once(kernel: str, gradient: Tensor, source: Tensor) -> Tensor:
    """The gradient of ``source``, such that differentiating it a second time is refused."""
    return _Once.apply(gradient, source, kernel) if torch.is_grad_enabled() else gradient


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, source: Tensor, kernel: str) -> Tensor:
        ctx.kernel = kernel
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        raise KernelError(
            f"{ctx.kernel}: its gradient cannot be differentiated a second time; for that, use {ctx.kernel}_reference"
        )


def scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """A gradient that the forward pass wrote, times the upstream one; in float32 where it is of half precision.

    In place, and on CUDA without touching the memory where the factor is 1, unless the graph is kept or traced.
    """
    # Tensors of a trace are subclasses; a compiler fuses the product into what comes next.
    if type(gradient) is not Tensor or torch._C._autograd._get_current_graph_task_keep_graph():
        return (gradient * factor if gradient.dtype not in _HALF else gradient.float() * factor).to(gradient.dtype)
    if gradient.numel() == 0:
        return gradient
    if gradient.is_cuda and _obstacle(gradient) is None:
        return scale_in_place(gradient, factor)
    if gradient.dtype in _HALF:
        return gradient.copy_(gradient.float().mul_(factor))
    return gradient.mul_(factor)


def scale_in_place(values: Tensor, factor: Tensor) -> Tensor:
    """Contiguous values times a factor of one element, by Triton."""
    load(globals())
    block = 4096
    with torch.cuda.device_of(values):
        _scale[(-(-values.numel() // block),)](values, factor.float(), values.numel(), BLOCK=block)
    return values


_HALF = (torch.float16, torch.bfloat16)


@jit
def _scale(values, factor, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    by = tl.load(factor)
    if by != 1.0:
        index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        held = tl.load(values + index, mask=index < count, other=0.0)
        tl.store(values + index, (held.to(tl.float32) * by).to(values.dtype.element_ty), mask=index < count)
