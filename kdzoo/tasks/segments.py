"""Two consecutive segments of a document, in their order or exchanged: ALBERT's sentence order, on packed text."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from kdzoo.tasks.pieces import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ORDER_LABELS = "order_labels"  # 0: in order, 1: exchanged
PIECES = "pieces"  # the column of how many tokens each of a row's lines has


class Segments:
    """Makes rows of two segments: a row's lines are cut in two at a line's end, and exchanged in half of the rows.

    Where a row is cut and whether it is exchanged depends on the seed, the epoch and the row alone, so that a resumed
    run does the same. A row of one line has one segment, and the label -100.

    Args:
        tokenizer: says which tokens stand around and between segments, and of which type they are.
        seed: of the draws.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> None:
        self.seed = seed
        bare = tokenizer("a", add_special_tokens=False)["input_ids"]
        pair = tokenizer("a", "a")
        ids, types = pair["input_ids"], pair.get("token_type_ids")
        first, second = _places(ids, bare)
        around = (slice(0, first), slice(first + len(bare), second), slice(second + len(bare), None))
        self._special = [ids[at] for at in around]  # before, between and after the segments
        self._types = None if types is None else (types[first], types[second])
        self._special_types = None if types is None else [types[at] for at in around]

    @property
    def special(self) -> int:
        """How many tokens stand around and between two segments."""
        return sum(map(len, self._special))

    def __call__(self, ids: Sequence[int], pieces: Sequence[int], row: int, epoch: int = 0) -> dict[str, Any]:
        """``input_ids``, ``token_type_ids`` where the tokenizer has some, and the label of the order.

        Args:
            ids: the tokens of a row's lines, without special tokens.
            pieces: how many each line has.
            row: its number.
            epoch: from 0.
        """
        if len(pieces) < 2:
            return self._joined([[*ids]], IGNORED)
        place = f"order {self.seed} {epoch} {row}".encode()
        draw = random.Random(int.from_bytes(hashlib.sha256(place).digest()[:8], "little"))
        cut = sum(pieces[: draw.randint(1, len(pieces) - 1)])
        exchanged = draw.random() < 0.5
        parts = [[*ids[:cut]], [*ids[cut:]]]
        return self._joined(parts[::-1] if exchanged else parts, int(exchanged))

    def _joined(self, parts: list[list[int]], label: int) -> dict[str, Any]:
        before, between, after = self._special
        middle = [between, parts[1]] if len(parts) > 1 else []
        row: dict[str, Any] = {"input_ids": [*chain(before, parts[0], *middle, after)], ORDER_LABELS: label}
        if self._types is not None and self._special_types is not None:
            kinds = [[kind] * len(part) for kind, part in zip(self._types, parts, strict=False)]
            before, between, after = self._special_types
            # Alone, a segment ends with tokens of its own type.
            ends = [between, kinds[1], after] if len(parts) > 1 else [[self._types[0]] * len(after)]
            row["token_type_ids"] = [*chain(before, kinds[0], *ends)]
        return row


def _places(ids: list[int], bare: list[int]) -> tuple[int, int]:
    """Where the two texts begin in a pair of the same."""
    size = len(bare)
    found = [at for at in range(len(ids) - size + 1) if ids[at : at + size] == bare]
    return found[0], found[-1]
