"""A tokenizer of two parts: sources are read in one vocabulary, and targets written in another."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdzoo import hashing
from kdzoo.errors import KdzooError

FOLDER = "target_tokenizer"  # the targets' part, within the folder that holds the sources'
FILE = "vocabularies.json"  # beside the sources' part: a hash of each part's vocabulary


def _of_target(name: str) -> property:
    return property(lambda tokenizer: getattr(tokenizer.target, name))


@dataclass(frozen=True)
class SourceTargetTokenizer:
    """Called as a tokenizer of transformers is: a text is a source, and ``text_target`` a target.

    Its special tokens, its length and what it decodes are the targets'; what it pads are sources.

    Attributes:
        source: transformers' tokenizer of what is read.
        target: that of what is written.
    """

    source: Any
    target: Any

    def __call__(self, text: Any = None, *, text_target: Any = None, **options: Any) -> Any:
        """A source's tokens, or a target's."""
        if text_target is not None:
            return self.target(text_target=text_target, **options)
        return self.source(text, **options)

    def __len__(self) -> int:
        return len(self.target)

    def pad(self, rows: Any, **options: Any) -> Any:
        """Pad encoded sources."""
        return self.source.pad(rows, **options)

    def batch_decode(self, ids: Any, **options: Any) -> list[str]:
        """The texts of targets' token ids."""
        texts: list[str] = self.target.batch_decode(ids, **options)
        return texts

    @property
    def model_input_names(self) -> list[str]:
        """What is made of a source."""
        return list(self.source.model_input_names)

    @property
    def model_max_length(self) -> int:
        """The most tokens of a source."""
        return int(self.source.model_max_length)

    pad_token_id = _of_target("pad_token_id")
    bos_token_id = _of_target("bos_token_id")
    eos_token_id = _of_target("eos_token_id")
    cls_token_id = _of_target("cls_token_id")
    sep_token_id = _of_target("sep_token_id")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the sources' part into a folder, the targets' within, and last what tells that both belong together."""
        self.source.save_pretrained(folder)
        self.target.save_pretrained(Path(folder) / FOLDER)
        with hashing.renamed(Path(folder) / FILE) as scratch:
            scratch.write_text(json.dumps(self._hashes(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, name: str, load: Callable[[str, str], Any]) -> SourceTargetTokenizer:
        """What `save_pretrained` has written.

        Args:
            name: a folder or a hub name.
            load: gives the tokenizer of a name and a folder within.

        Raises:
            KdzooError: a part is missing, or is another than the one that was saved.
        """
        from transformers.utils.hub import cached_file

        advice = f"copy the model's folder whole, with {FOLDER} and {FILE}"
        missing = [part for part in (FOLDER, FILE) if os.path.isdir(name) and not (Path(name) / part).exists()]
        if missing:
            raise KdzooError(f"{name!r} has no {missing[0]}, and its model writes other tokens than it reads; {advice}")
        try:
            said = json.loads(Path(str(cached_file(name, FILE))).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise KdzooError(f"the {FILE} of {name!r} cannot be read ({error}); {advice}") from None
        found = cls(load(name, ""), load(name, FOLDER))
        for part, own in found._hashes().items():
            if not isinstance(said, dict) or said.get(part) != own:
                raise KdzooError(
                    f"the tokenizer of {part}s at {name!r} is another than the one that was saved with its model; "
                    f"{advice}"
                )
        return found

    def _hashes(self) -> dict[str, str]:
        parts = {"source": self.source, "target": self.target}
        return {name: hashing.of_values(part.get_vocab()) for name, part in parts.items()}


def source_part(tokenizer: Any) -> Any:
    """The tokenizer of what is read; one that is of one part is it itself."""
    return tokenizer.source if isinstance(tokenizer, SourceTargetTokenizer) else tokenizer


def target_part(tokenizer: Any) -> Any:
    """The tokenizer of what is written; one that is of one part is it itself."""
    return tokenizer.target if isinstance(tokenizer, SourceTargetTokenizer) else tokenizer


def same_words(one: Any, other: Any) -> bool:
    """Whether two tokenizers read the same vocabulary, and write the same."""
    return one is other or all(part(one).get_vocab() == part(other).get_vocab() for part in (source_part, target_part))


def vocabularies(tokenizer: Any) -> list[list[tuple[str, int]]]:
    """The tokens with their ids, in order: of each part, once where there is one."""
    both = isinstance(tokenizer, SourceTargetTokenizer)
    parts = (tokenizer.source, tokenizer.target) if both else (tokenizer,)
    return [sorted(part.get_vocab().items()) for part in parts]
