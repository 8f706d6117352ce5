"""The operator of a kernel: its registration with torch, autocast off inside it, and its backward pass.

A kernel finds its gradients together with its value, so its backward pass is a product with what comes from above.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from kdzoo.kernels.backend import KernelError, accumulator, fits_triton, unwatched

Function = TypeVar("Function", bound=Callable[..., Any])
_HALF = (torch.float16, torch.bfloat16)


def without_autocast(function: Function) -> Function:
    """A function of tensors that gives the same inside autocast as outside: its own types are what it is made for."""

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        if not torch.compiler.is_compiling() and not torch._C._is_any_autocast_enabled():
            return function(*args, **named)
        kind = _device_type(*args, *named.values())
        if kind is None or not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
            return function(*args, **named)
        with torch.autocast(kind, enabled=False):
            return function(*args, **named)

    return call  # type: ignore[return-value]


def _device_type(*values: Any) -> str | None:
    """Where the first tensor lies, be it one of a pair."""
    for value in values:
        first = value[0] if isinstance(value, tuple) else value
        if isinstance(first, Tensor):
            return first.device.type
    return None


def custom_op(name: str, run: Callable[..., Any], schema: str, fake: Callable[..., Any], **options: Any) -> Any:
    """Register ``kdzoo::<name>``, in which autocast is off."""
    operator = torch.library.custom_op(
        f"kdzoo::{name}", without_autocast(run), schema=schema, **{"mutates_args": (), **options}
    )
    operator.register_fake(fake)
    return operator


def called(name: str, *inputs: Any) -> Any:
    """What ``kdzoo::<name>`` gives.

    Raises:
        KernelError: inside a transform of torch.func, which no operator of this kind passes through.
    """
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        kernel = name.removesuffix("_sums").removesuffix("_totals").removesuffix("_rows")
        raise KernelError(f"{kernel}: its operator cannot be transformed by torch.func; there, use {reference(kernel)}")
    return getattr(torch.ops.kdzoo, name)(*inputs)


def reference(kernel: str) -> str:
    """Where a kernel's plain formula is, which may be transformed and differentiated as often as one likes."""
    return f"kdzoo.kernels.{kernel}.{kernel}_reference"


class Operator:
    """``kdzoo::<kernel>``: a value, and the gradients at its first inputs, which are found with it.

    What it gives are the value, in the type that sums are taken in, and a tensor for each of the gradients, empty where
    it is not wanted. Called, it gives the value.
    """

    def __init__(
        self,
        kernel: str,
        run: Callable[..., tuple[Tensor, ...]],
        arguments: str,
        *,
        wanted: int | tuple[int, ...],
        sources: int = 1,
        kept: Callable[[torch.dtype], torch.dtype] = lambda dtype: dtype,
        count: int | None = None,
        room: float = 1.0,
    ) -> None:
        """
        Args:
            kernel: its name.
            run: what it does.
            arguments: of the schema.
            wanted: the place of the flag that says whether gradients are wanted; or a place for each of the sources.
            sources: how many of the first inputs get a gradient; None may stand for all but the first.
            kept: the type, made of the inputs', that ``run`` writes gradients in.
            count: the place of the number that the value is divided by, where a float16 gradient is not divided yet,
                since its type has no room for such quotients: the backward pass does it.
            room: what a float16 gradient is times of.
        """
        self.kernel, self.sources, self.kept, self.count = kernel, sources, kept, count
        self.wanted = (wanted,) * sources if isinstance(wanted, int) else wanted
        self.factor, self.run = room, without_autocast(run)
        schema = f"({arguments}, Tensor? handle) -> ({', '.join(['Tensor'] * (1 + sources))})"
        operator = custom_op(kernel, lambda *inputs: run(*inputs[:-1]), schema, self._fake)
        operator.register_autograd(self._backward, setup_context=self._setup)

    def __call__(self, *inputs: Any) -> Tensor:
        if unwatched(inputs[0]):
            # Torch takes a tenth of a millisecond and more to call a registered operator.
            return self.direct(*inputs)
        value: Tensor
        value, *_ = called(self.kernel, *inputs, self._handle(inputs) if self._any(inputs) else None)
        return value

    def direct(self, *inputs: Any) -> Tensor:
        """The value, with what the registered operator is to autograd, but without the registry."""
        value: Tensor
        if self._any(inputs):
            value = _Direct.apply((self, inputs, self._handle(inputs)), *inputs[: self.sources])
        else:
            value = self.run(*inputs)[0]
        return value

    def _handle(self, inputs: Sequence[Any]) -> Tensor:
        """Of no elements, from all of the sources that the backward pass holds, to refuse a second derivative by."""
        if self.sources == 1:
            return torch.slice_copy(inputs[0], 0, 0, 0)
        parts = [torch.slice_copy(s, 0, 0, 0) for s in inputs[: self.sources] if s is not None and s.requires_grad]
        return torch.cat([part.flatten() for part in parts]) if len(parts) > 1 else parts[0]

    def _any(self, inputs: Sequence[Any]) -> bool:
        """Whether a gradient is wanted."""
        return any(inputs[place] for place in self.wanted)

    def _fake(self, *inputs: Any) -> tuple[Tensor, ...]:
        first = inputs[0]
        given = [
            (first if source is None else source, inputs[place] and source is not None)
            for source, place in zip(inputs, self.wanted, strict=False)
        ]
        gradients = (gradient_room(source, here, self.kept(first.dtype)) for source, here in given)
        return first.new_empty((), dtype=accumulator(first.dtype)), *gradients

    def _setup(self, ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # or zeros as large as the gradients would be made for the gradients' own
        ctx.save_for_backward(*output[1:], inputs[-1], None if self.count is None else inputs[self.count])
        ctx.dtype = inputs[0].dtype
        ctx.given = [source is not None for source in inputs[: self.sources]]
        ctx.others = (None,) * (len(inputs) - self.sources)

    def _backward(self, ctx: Any, upstream: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if upstream is None:
            return (*(None for _ in ctx.given), *ctx.others)
        *gradients, handle, divisor = ctx.saved_tensors
        wanted = [given and needed for given, needed in zip(ctx.given, ctx.needs_input_grad, strict=False)]
        return (*self.passed(gradients, wanted, upstream, handle, divisor, ctx.dtype), *ctx.others)

    def passed(
        self,
        gradients: Sequence[Tensor],
        wanted: Sequence[bool],
        upstream: Tensor,
        handle: Tensor,
        divisor: Tensor | float | None,
        dtype: torch.dtype,
    ) -> list[Tensor | None]:
        """What the backward pass gives to the sources: the kept gradients, those that are wanted, times the upstream
        one."""
        factor = upstream
        if dtype == torch.float16 and divisor is not None:
            factor = upstream / (divisor * self.factor)
        found: list[Tensor | None] = []
        for gradient, here in zip(gradients, wanted, strict=True):
            product = scaled(gradient, factor) if here else None
            if product is not None and product.dtype != dtype:
                product = product.to(dtype)
            if product is not None and torch.is_grad_enabled():
                product = once(self.kernel, product, handle)
            found.append(product)
        return found


class _Direct(torch.autograd.Function):
    """What the registered operator is to autograd, without the registry.

    Of its inputs autograd sees the sources alone. The others come in a tuple: the operator, what it is run with, and
    the handle, through which then no backward pass goes.
    """

    @staticmethod
    def forward(ctx: Any, given: tuple[Operator, tuple[Any, ...], Tensor], *sources: Tensor | None) -> Tensor:
        operator, inputs, handle = given
        value, *gradients = operator.run(*inputs)
        ctx.save_for_backward(*gradients)
        divisor = None if operator.count is None else inputs[operator.count]
        ctx.kept = operator, handle, divisor, inputs[0].dtype
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        operator, *kept = ctx.kept
        return (None, *operator.passed(ctx.saved_tensors, ctx.needs_input_grad[1:], upstream, *kept))


def gradient_room(source: Tensor, wanted: bool, dtype: torch.dtype | None = None) -> Tensor:
    """Memory for the gradient at a source; of no rows where it is not wanted."""
    if wanted and source.is_cpu:
        return torch.empty_like(source, dtype=dtype, memory_format=torch.contiguous_format)
    return source.new_empty(source.shape if wanted else (0, *source.shape[1:]), dtype=dtype or source.dtype)


def once(kernel: str, gradient: Tensor, handle: Tensor) -> Tensor:
    """A gradient such that differentiating it a second time, by what the handle comes from, is refused."""
    once_more: Tensor = _Once.apply(gradient, handle, kernel)
    return once_more


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, handle: Tensor, kernel: str) -> Tensor:
        ctx.kernel = kernel
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        raise KernelError(
            f"{ctx.kernel}: its gradient cannot be differentiated a second time; for that, use {reference(ctx.kernel)}"
        )


def scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """A gradient that the forward pass wrote, times the upstream one; in float32 where it is of half precision.

    In place, and without touching the memory where the factor is 1, unless the graph is kept or traced.
    """
    # Tensors of a trace are subclasses; a compiler fuses the product into what comes next. A batch of factors, such as
    # jacobian(vectorize=True) gives, is no number.
    followed = type(gradient) is not Tensor or torch._C._autograd._get_current_graph_task_keep_graph()
    if followed or torch._C._functorch.is_legacy_batchedtensor(factor):
        return (gradient * factor if gradient.dtype not in _HALF else gradient.float() * factor).to(gradient.dtype)
    if gradient.is_cpu:
        if factor.item() == 1:
            return gradient  # a pass over it saved
    elif gradient.numel() == 0:
        return gradient
    elif gradient.is_cuda and fits_triton(gradient):
        return scale_in_place(gradient, factor)
    if gradient.dtype in _HALF:
        return gradient.copy_(gradient.float().mul_(factor))
    return gradient.mul_(factor)


def scale_in_place(values: Tensor, factor: Tensor) -> Tensor:
    """Contiguous values times a factor of one element, by Triton."""
    from kdzoo.kernels import tiles

    block = 4096
    with torch.cuda.device_of(values):
        tiles.scale[(-(-values.numel() // block),)](values, factor.float(), values.numel(), BLOCK_SIZE=block)
    return values
