"""What the kernels share: which backend runs and in what precision, the sizes of blocks, the checks of their inputs."""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

BACKENDS = ("auto", "torch", "triton")
VARIABLE = "KDZOO_BACKEND"
EPSILON = 1e-12
DEVICE_BLOCK = 1 << 25  # elements of a block elsewhere than on a CPU: few launches, and memory that is soon free

# Elements of the student from which a kernel's Triton form is the faster one on CUDA. A kernel that is not here has
# not been measured, and takes Triton at every size.
CROSSOVERS: dict[str, int] = {}

# Elements of the student under which, on a CPU, plain PyTorch with autograd is faster than a kernel's operator, whose
# call costs more than such work.
PLAIN: dict[str, int] = {
    "info_nce": 65536,
    "gram_distance": 8192,
    "gram_sp": 16384,
    "relation": 131072,
    "relation_masked": 12288,
}

# The kernels whose plain form a compiler makes one loop of, together with what stands around it: inside torch.compile
# an operator of ours would only be in its way. The others' plain forms hold matrices that the operators do not; of
# info_nce's, those of up to 256 rows are small.
FUSED_BY_COMPILERS = ("cos_nce", "cosine", "divergence", "hidden_mse", "info_nce", "normalized_mse")

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
            Triton on CUDA from the kernel's measured crossover on, on GPUs of compute capability 8.0 or more, and
            torch everywhere else.
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
    why_not = obstacle(tensor) or unfit
    if backend == "triton" and why_not:
        raise KernelError(f"{kernel}: {asked} cannot run here: {why_not}; use 'torch' or 'auto'")
    if backend != "auto":
        return Decision(backend, f"asked for by {asked}")
    why_not = why_not or _too_old(tensor)
    if why_not:
        return Decision("torch", why_not)
    if tensor.device.type != "cuda":
        return Decision("torch", "Triton's interpreter is for tests and has to be asked for")
    least = CROSSOVERS.get(kernel)
    if least is None:
        return Decision("triton", f"on {tensor.device.type}; no crossover has been measured")
    compared = f"{tensor.numel()} elements, the measured crossover is at {least}"
    return Decision("triton" if tensor.numel() >= least else "torch", compared)


def why_not_positive(value: Any) -> str | None:
    """What is wrong with an option that must be a positive, finite number; None where nothing is."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            return f"a tensor {tuple(value.shape)}; it must be one positive number"
        if value.requires_grad:
            return "a tensor that a gradient is taken at, and it is not learned; give a number, such as its item()"
    elif isinstance(value, bool) or not (isinstance(value, (int, float)) or hasattr(type(value), "__float__")):
        return f"{value!r}; it must be a positive number"
    return None if 0 < value < math.inf else f"{value}; it must be a positive number"


def plain(kernel: str, tensor: Tensor, backend: str = "auto") -> bool:
    """Whether a kernel leaves a tensor on a CPU to plain PyTorch, when no backend is asked for: a small one, or any
    inside torch.compile where the compiler fuses it, and then inside torch.func, too."""
    left = tensor.numel() < PLAIN.get(kernel, 0) or (kernel in FUSED_BY_COMPILERS and _followed())
    return left and backend == "auto" and tensor.device.type == "cpu" and not os.environ.get(VARIABLE)


def _followed() -> bool:
    """Whether a compiler or a transform of torch.func goes through what is done."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def direct(tensor: Tensor, backend: str = "auto") -> bool:
    """Whether plain PyTorch runs on a CPU with nobody watching: then nothing need be registered, and a look at a value
    costs nothing. Asked first, in as few steps as there are: the rest of a small batch takes no longer."""
    if not tensor.is_cpu or (backend != "torch" and (backend != "auto" or VARIABLE in os.environ)):
        return False
    return unwatched(tensor)


def fits_triton(tensor: Tensor) -> bool:
    """Whether Triton can serve a tensor where it lies, and well."""
    return obstacle(tensor) is None and _too_old(tensor) is None


def obstacle(tensor: Tensor) -> str | None:
    """Why Triton cannot serve a tensor where it lies; None where it can."""
    if not has_triton():
        return "triton is not installed"
    if tensor.device.type != "cuda" and not (tensor.device.type == "cpu" and interpreting()):
        return f"the tensors are on {tensor.device.type}, and Triton runs on cuda"
    if tensor.dtype not in TRITON_DTYPES:
        return f"the tensors are {text(tensor.dtype)}, and the kernels accumulate in float32"
    return None


def _too_old(tensor: Tensor) -> str | None:
    """Why the kernels would run on a GPU, but slowly: on older ones they spill registers by the kilobyte."""
    if tensor.device.type != "cuda" or torch.version.hip:
        return None
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return None if major >= 8 else f"its compute capability is {major}.{minor}, and the kernels are made for 8.0 on"


@cache
def architecture() -> str:
    """The GPU's, ``"sm_90"`` or ``"gfx942"``, for a kernel that is tuned to each; empty without one."""
    if not torch.cuda.is_available():
        return ""
    properties = torch.cuda.get_device_properties()
    return properties.gcnArchName.split(":")[0] if torch.version.hip else f"sm_{properties.major}{properties.minor}"


@cache
def cache_bytes() -> int:
    """The GPU's L2 cache; an H100's, without a GPU."""
    if not torch.cuda.is_available():
        return 50 * 2**20
    return int(getattr(torch.cuda.get_device_properties(), "L2_cache_size", 0))


# Bytes of shared memory that a program may have; on others of NVIDIA's as much as on those with the least.
_SHARED = {"sm_80": 163, "sm_87": 163, "sm_90": 227, "sm_100": 227, "sm_103": 227, "gfx942": 64}


def shared_bytes() -> int:
    """The shared memory that a program may have on this GPU."""
    return _SHARED.get(architecture(), 64 if architecture().startswith("gfx") else 99) * 1024


# Precision and sizes


def allows_tf32() -> bool:
    """Whether torch is told that it may multiply float32 matrices on CUDA in TF32."""
    if torch.version.hip:
        return False
    # From torch 2.9 on; the older getter raises where the newer setting has been used.
    precision = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    return torch.backends.cuda.matmul.allow_tf32 if precision is None else precision == "tf32"


def dot_precision() -> str:
    """The ``input_precision`` of every ``tl.dot``: full float32, or TF32 where torch multiplies in it, too."""
    return "tf32" if allows_tf32() else "ieee"


def in_tf32(tensor: Tensor) -> bool:
    """Whether torch multiplies a matrix in TF32."""
    return tensor.is_cuda and tensor.dtype == torch.float32 and allows_tf32()


def exact_product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` of what will be subtracted from something almost as large, and therefore never in TF32."""
    if in_tf32(left):
        return (left.double() @ right.double()).float()
    return left @ right


def block_elements(device: torch.device, of_a_thread: int) -> int:
    """Elements of a block of plain PyTorch: on a CPU those that stay in the cache, elsewhere enough for the device."""
    return of_a_thread * torch.get_num_threads() if on_host(device) else DEVICE_BLOCK


def on_host(device: torch.device) -> bool:
    """Whether plain PyTorch runs where small blocks stay in a cache, and a look at a value costs nothing."""
    return device.type == "cpu"


def power_of_2(number: int) -> int:
    """The smallest power of two that is not below a number; 1 for zero."""
    return 1 << max(number - 1, 0).bit_length()


# Checks


def text(dtype: torch.dtype) -> str:
    """``float32`` for torch.float32."""
    return str(dtype).removeprefix("torch.")


def check_kind(kernel: str, **tensors: Tensor | None) -> None:
    """Refuse tensors that are not floating-point, or differ from the first in type or device.

    Raises:
        KernelError: naming the two that do not go together.
    """
    name, first = next(iter(tensors.items()))
    assert first is not None
    dtype, device = first.dtype, first.device
    for other, tensor in tensors.items():
        if tensor is None or (tensor.dtype == dtype and tensor.device == device and dtype.is_floating_point):
            continue
        if not tensor.is_floating_point():
            raise KernelError(f"{kernel}: {other} is {text(tensor.dtype)}; it takes floating-point tensors")
        if tensor.dtype != first.dtype:
            own, its, what = text(first.dtype), text(tensor.dtype), "type"
        else:
            own, its, what = str(first.device), str(tensor.device), "device"
        raise KernelError(f"{kernel}: {name} is {own} and {other} is {its}; they must share one {what}")


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


def values_at_hand(tensor: Tensor) -> bool:
    """Whether plain code may look at values, which on a CPU tells quickly that there is nothing to take care of."""
    return on_host(tensor.device) and unwatched(tensor)


def unwatched(tensor: Tensor) -> bool:
    """Whether no compiler, mode, transform or subclass of tensors follows what is done."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._are_functorch_transforms_active()
    )


def unit_vectors(vectors: Tensor) -> Tensor:
    """Vectors of length one on the last axis; a vector of length zero, or of infinite length, becomes zero."""
    norm = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    if norm.numel() and values_at_hand(vectors):
        least, most = (end.item() for end in norm.detach().aminmax())
        if least >= EPSILON and most < math.inf:
            return vectors / norm
    norm = norm.detach()
    none = (norm == 0) | (norm == torch.inf)
    # Filled before the norm that has a gradient, so that neither value nor gradient meets 0 / 0 or inf / inf.
    vectors = vectors.masked_fill(none, 0.0)
    norm = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norm.masked_fill(none, 1.0).clamp_min(EPSILON)


def safe_norms(vectors: Tensor) -> Tensor | None:
    """The norms (N, 1) of vectors (N, D) on a CPU; None where one is zero, infinite, or below the clamp."""
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    least, most = torch.aminmax(norms)
    return norms if least.item() > EPSILON and most.item() < math.inf else None


def unit_gradient(upstream: Tensor, vectors: Tensor, norms: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Of vectors v (N, D): the gradient of their unit vectors times a factor (N, 1), and upstream · v / ‖v‖, (N, 1).

    PyTorch has it in one pass, since it is the backward pass of weight normalisation.
    """
    sides = upstream.contiguous(), vectors.contiguous()
    gradient, along = torch.ops.aten._weight_norm_interface_backward.default(*sides, factor, norms, 0)
    return gradient, along
