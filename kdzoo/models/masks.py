"""What a mask means (1 or True: a token is real; of pairs: a query sees a key), and whether it fits what it masks."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.errors import KdzooError


def real_tokens(mask: Tensor | None) -> Tensor | None:
    """A model's attention mask as (B, S) booleans: of one of pairs the diagonal, since a real token sees itself."""
    if mask is None:
        return None
    return mask != 0 if mask.dim() < 3 else seen_pairs(mask).diagonal(dim1=-2, dim2=-1)


def seen_pairs(mask: Tensor) -> Tensor:
    """A mask of pairs as (B, S, S) booleans: (B, S, S), or transformers' (B, 1, S, S), which may be added to scores."""
    if mask.dim() == 3:
        return mask != 0
    return (mask >= 0 if mask.is_floating_point() else mask != 0)[:, 0]


def added_to_scores(mask: Tensor) -> Tensor:
    """A mask of pairs of ones and zeros as (B, 1, S, S) floats, as all of transformers' implementations of attention
    take it: 0 where a token sees another, the least number elsewhere. Other masks are left as they are."""
    if mask.dim() < 3 or (mask.dim() == 4 and mask.is_floating_point()):
        return mask
    hidden = mask == 0 if mask.dim() == 4 else (mask == 0).unsqueeze(1)
    least = torch.finfo(torch.float32).min
    return torch.zeros(hidden.shape, device=mask.device).masked_fill_(hidden, least)


def check_self_seen(mask: Tensor) -> None:
    """Refuse a mask of pairs in which a token that others see, or that sees others, is hidden from itself.

    Raises:
        KdzooError: names row and token. On an accelerator nothing is looked at, which would stop the host.
    """
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return
    seen = seen_pairs(mask)
    hidden = (seen.any(1) | seen.any(2)) & ~seen.diagonal(dim1=-2, dim2=-1)
    if hidden.any():
        row, token = hidden.nonzero()[0].tolist()
        raise KdzooError(
            f"the visible matrix of row {row} hides token {token} from itself; its diagonal is true where a token is "
            "real, and rows and columns of padding are false"
        )


def checked_mask(label: str, mask: Tensor, *, everywhere: bool = False) -> Tensor:
    """A mask as booleans; one that is added to scores, with 0 where a token is real, is refused.

    Args:
        label: the loss's name, for messages.
        mask: of any type.
        everywhere: look at the values of one on an accelerator too, which stops the host: not at every step.

    Raises:
        KdzooError: names the number that is neither 0 nor 1.
    """
    real = mask != 0
    at_hand = everywhere or mask.device.type == "cpu"
    if mask.dtype != torch.bool and at_hand and not torch.compiler.is_compiling():
        odd = mask[real & (mask != 1)]
        if odd.numel():
            raise KdzooError(
                f"{label}: a mask is 1 where a token is real and 0 elsewhere; this one has {odd[0].item():g}"
            )
    return real


def slot_mask(label: str, vectors: Tensor, mask: Tensor | None, *, layered: bool = False) -> Tensor | None:
    """The (B, S) mask spread over the slots of (B, S, D) or (B, M, S, D); refused where it cannot apply.

    Args:
        label: the loss's name, for messages.
        vectors: what it masks.
        mask: (B, S) booleans or None.
        layered: the vectors are those of several layers, (B, M, S, D) alone.
    """
    if mask is None:
        return None
    if vectors.dim() not in ((4,) if layered else (3, 4)) or mask.shape != (vectors.shape[0], vectors.shape[-2]):
        shapes = "(B, M, S, D)" if layered else "(B, S, D) or (B, M, S, D)"
        raise KdzooError(
            f"{label}: a mask {tuple(mask.shape)} does not fit {tuple(vectors.shape)}; it is (B, S) for {shapes}, and "
            "is left out for vectors without positions"
        )
    return mask if vectors.dim() == 3 else mask.unsqueeze(1).expand(vectors.shape[:-1])


def check_pairs(label: str, scores: tuple[int, ...], mask: Tensor | None) -> None:
    """Refuse a mask that does not fit scores (B, A, S, S), or (B, A, T, S) of a text's attention to another."""
    square = scores[2] == scores[3]
    fitting = [(scores[0], *scores[2:]), *([(scores[0], scores[2])] if square else [])]
    if mask is not None and tuple(mask.shape) not in fitting:
        form = "(B, S) or (B, S, S)" if square else "(B, T, S)"
        raise KdzooError(f"{label}: a mask {tuple(mask.shape)} does not fit scores {scores}; it is {form}")


def valid_pairs(mask: Tensor | None, *, padded_queries: bool = False) -> Tensor | None:
    """Which (query, key) pairs count, (B, 1, S, S).

    Args:
        mask: (B, S), True where a token is real, so that a pair counts when both are; or (B, S, S) (or of T queries
            and S keys (B, T, S)), True where the query may see the key; or None for all.
        padded_queries: let a query count that is not real itself.
    """
    if mask is None:
        return None
    if mask.dim() != 3:
        mask = mask.unsqueeze(1) & (mask.unsqueeze(2) | padded_queries)
    return mask.unsqueeze(1)
