"""A teacher's tokens brought to those of a student that reads fewer of them: states, scores and relations, gathered."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.errors import KdzooError


def gathered(values: Tensor, index: Tensor, axis: int = 1) -> Tensor:
    """What stands at the teacher's places of a student's tokens; zero where a token has none.

    Args:
        values: (B, ..., T, ...), T tokens on ``axis``.
        index: (B, S), of each of the student's tokens its place among the T, -1 for none.
        axis: the axis of tokens.

    Returns:
        (B, ..., S, ...).
    """
    shape = [1] * values.dim()
    shape[0], shape[axis] = index.shape
    places = index.clamp_min(0).view(shape)
    sizes = [*values.shape]
    sizes[axis] = index.shape[1]
    found = values.gather(axis, places.expand(sizes))
    return found.masked_fill((index < 0).view(shape), 0)


def all_seen(visible: Tensor, mask: Tensor) -> bool:
    """Whether each real token sees each other one.

    Args:
        visible: (B, S, S), True where a query sees a key.
        mask: (B, S), True where a token is real.
    """
    return bool((visible | ~(mask.unsqueeze(1) & mask.unsqueeze(2))).all())


def check_index(index: Tensor, mask: Tensor) -> None:
    """Refuse an index that leads outside of the teacher's row, or to no real token of it.

    Args:
        index: (B, S), see `gathered`.
        mask: (B, T), True where the teacher's token is real.

    Raises:
        KdzooError: names row and token. On an accelerator nothing is looked at, which would stop the host.
    """
    if index.device.type != "cpu" or torch.compiler.is_compiling():
        return
    length = mask.shape[1]
    wrong = (index >= length) | ((index >= 0) & ~mask.gather(1, index.clamp(0, length - 1)))
    if wrong.any():
        row, token = wrong.nonzero()[0].tolist()
        raise KdzooError(
            f"row {row}, token {token}: the teacher has no real token {index[row, token].item()} in its {length}; the "
            "index says where each of the student's tokens stands among the teacher's, and -1 for none"
        )
