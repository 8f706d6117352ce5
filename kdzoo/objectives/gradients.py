"""How terms pull at a student: the norm of each one's gradient, and the angles between them."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor


def measured(values: dict[str, Tensor], parameters: list[Tensor]) -> dict[str, Tensor]:
    """The norm of each value's gradient at the parameters, and the cosines of each two of them."""
    flat: dict[str, Tensor] = {}
    for name, value in values.items():
        if not value.requires_grad:
            continue
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        flat[name] = torch.cat([gradient.flatten() for gradient in filled])
    norms = {name: torch.linalg.vector_norm(gradient) for name, gradient in flat.items()}
    cosines = {
        f"{a}~{b}": (flat[a] @ flat[b]) / (norms[a] * norms[b]).clamp_min(1e-12) for a, b in combinations(flat, 2)
    }
    return norms | cosines
