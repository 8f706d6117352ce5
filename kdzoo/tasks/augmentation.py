"""Data augmentation by word replacement (TinyBERT, algorithm 1): copies of a task's rows with some words exchanged."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kdzoo.errors import KdzooError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBABILITY = 0.4  # p_t
CANDIDATES = 15  # K
GLOVE_WORDS = 100_000  # read of a GloVe file, whose words come by frequency
ROWS = 128  # whose candidates are looked for at a time
BATCH = 64  # masked sentences given to the model at a time
WORD = re.compile(r"[^\W\d_]+")
MARKERS = ("Ġ", "▁")  # what the tokens of byte-pair and unigram vocabularies begin with after a space

Span = tuple[int, int]


class Neighbours:
    """Words near a word in an embedding, by cosine.

    Args:
        words: those to choose from.
        vectors: (W, E) of them.
        vector_of: the vector (E,) of any word, None of one that has none; by default that of a word among ``words``.
    """

    def __init__(
        self,
        words: Sequence[str],
        vectors: np.ndarray[Any, Any],
        vector_of: Callable[[str], np.ndarray[Any, Any] | None] | None = None,
    ) -> None:
        self._words = list(words)
        self._places = {word: place for place, word in enumerate(self._words)}
        self._units = _unit(vectors.astype(np.float32))
        self._vector_of = vector_of or (lambda word: self._units[self._places[word]] if word in self._places else None)
        self.nearest = cache(self._nearest)

    @classmethod
    def of_glove(cls, path: str | Path) -> Neighbours:
        """Those of a GloVe file: a word and its vector on each line; the first 100,000 are read.

        Raises:
            KdzooError: for a file that is none; the line is named.
        """
        words: list[str] = []
        vectors: list[np.ndarray[Any, Any]] = []
        try:
            with open(path, encoding="utf-8") as file:
                for line in islice(file, GLOVE_WORDS):
                    word, *numbers = line.rstrip().split(" ")
                    vector = np.array(numbers, dtype=np.float32)
                    if not numbers or len(vector) != len(vectors[0] if vectors else vector):
                        raise ValueError(f"{len(vector)} numbers, {len(vectors[0]) if vectors else 'some'} expected")
                    words.append(word)
                    vectors.append(vector)
        except OSError as error:
            raise KdzooError(f"the GloVe file {path} cannot be read: {error.strerror or error}") from None
        except ValueError as error:  # of a number, or of the text's encoding
            raise KdzooError(f"{path}, line {len(words) + 1}: not a word and its vector ({error})") from None
        if not words:
            raise KdzooError(f"the GloVe file {path} is empty")
        return cls(words, np.stack(vectors))

    @classmethod
    def of_model(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Neighbours:
        """Those of a model's word embeddings: whole words of the vocabulary; any word is the mean of its pieces."""
        embeddings: Any = model.get_input_embeddings()
        table = embeddings.weight.detach().float().cpu().numpy()
        by_word = {word: number for number, word in _words(tokenizer).items()}

        def vector_of(word: str) -> np.ndarray[Any, Any]:
            return table[tokenizer(word, add_special_tokens=False)["input_ids"]].mean(0)

        return cls(list(by_word), table[list(by_word.values())], vector_of)

    def _nearest(self, word: str) -> tuple[str, ...]:
        """The `CANDIDATES` nearest words, the nearest first, without the word itself."""
        vector = self._vector_of(word)
        vector = self._vector_of(word.lower()) if vector is None else vector
        if vector is None:
            return ()
        closeness = self._units @ _unit(vector[None].astype(np.float32))[0]
        for same in {word, word.lower()} & self._places.keys():
            closeness[self._places[same]] = -np.inf
        most = min(CANDIDATES, len(closeness) - 1)
        return tuple(self._words[place] for place in np.argsort(-closeness, kind="stable")[:most])


class WordReplacement:
    """Exchanges each word of a text with probability 0.4, for one of 15 candidates (TinyBERT, algorithm 1).

    The candidates of a word that is one piece are the most probable words in its place when it is masked; those of a
    word of several pieces, and of all words where there is no masked language model, its neighbours in an embedding.
    Stop words and what is not made of letters alone stay, as in the authors' code, which shows the model the unmasked
    sentence as well; here, as in the paper, it does not see it.

    Args:
        tokenizer: the model's.
        model: with a masked-language-model head, on the device it is to run on; None for neighbours alone.
        neighbours: of the words.

    Raises:
        KdzooError: for a tokenizer without character offsets or a mask token.

    References:
        Jiao et al. 2020, algorithm 1 in appendix A. https://arxiv.org/abs/1909.10351
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None, neighbours: Neighbours
    ) -> None:
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        if model is not None and not (tokenizer.is_fast and tokenizer.mask_token):
            raise KdzooError(
                f"{type(tokenizer).__name__} lacks character offsets or a mask token, which exchanging words needs; "
                "take a model with a fast tokenizer (tokenizer.json) and a mask token"
            )
        self.tokenizer, self.model, self.neighbours = tokenizer, model, neighbours
        self._stop_words = ENGLISH_STOP_WORDS
        if model is not None:
            self._words = _words(tokenizer)
            size = model.config.vocab_size
            tokens = tokenizer.convert_ids_to_tokens([*self._words])
            # By whether a token follows a space: which ones may not stand in a word's place.
            self._barred = torch.ones(2, size, dtype=torch.bool, device=model.device)
            for number, token in zip(self._words, tokens, strict=True):
                self._barred[int(token.startswith(MARKERS)), number] = False

    def candidates(self, texts: Sequence[str]) -> list[dict[Span, tuple[str, ...]]]:
        """By text and by the place of a word in it, what the word may be exchanged for."""
        found: list[dict[Span, tuple[str, ...]]] = [{} for _ in texts]
        masked: list[tuple[int, Span, list[int], int]] = []
        for index, text in enumerate(texts):
            spans = [word.span() for word in WORD.finditer(text) if word[0].lower() not in self._stop_words]
            pieces = self._pieces(text, spans) if self.model is not None else ([], {})
            for span in spans:
                if len(places := pieces[1].get(span, [])) == 1:
                    masked.append((index, span, pieces[0], places[0]))
                else:
                    found[index][span] = self.neighbours.nearest(text[slice(*span)])
        for (index, span, _, _), words in zip(masked, self._predicted(masked), strict=True):
            found[index][span] = words
        return found

    def _pieces(self, text: str, spans: Sequence[Span]) -> tuple[list[int], dict[Span, list[int]]]:
        """A text's token ids, and which of them make up each word."""
        assert self.model is not None
        most = min(self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", 512) - 2)
        encoded = self.tokenizer(text, truncation=True, max_length=most, return_offsets_mapping=True)
        offsets = [(start, end) for start, end in encoded["offset_mapping"]]
        of_word = {
            span: [place for place, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
            for span in spans
        }
        return list(encoded["input_ids"]), of_word

    @torch.no_grad()
    def _predicted(self, masked: Sequence[tuple[int, Span, list[int], int]]) -> list[tuple[str, ...]]:
        """The most probable words in each masked place."""
        found: list[tuple[str, ...]] = [()] * len(masked)
        order = sorted(range(len(masked)), key=lambda at: len(masked[at][2]))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            rows = [masked[at] for at in chosen]
            ids = [[*ids[:place], self.tokenizer.mask_token_id, *ids[place + 1 :]] for _, _, ids, place in rows]
            assert self.model is not None
            device = self.model.device
            batch = self.tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(device)
            places = torch.tensor([place for *_, place in rows], device=device)
            logits = _logits_at(self.model, batch, places)
            originals = self.tokenizer.convert_ids_to_tokens([ids[place] for _, _, ids, place in rows])
            spaced = torch.tensor([int(token.startswith(MARKERS)) for token in originals], device=device)
            best = logits.masked_fill(self._barred[spaced], float("-inf")).topk(CANDIDATES).indices.tolist()
            for at, tokens in zip(chosen, best, strict=True):
                found[at] = tuple(self._words[token] for token in tokens if token in self._words)
        return found

    def copies(self, texts: Sequence[str], count: int, draw: Sequence[random.Random]) -> Iterator[list[str]]:
        """Of each text, copies with words exchanged.

        Args:
            texts: the originals.
            count: copies of each.
            draw: of each text, what its copies are drawn with.
        """
        for text, candidates, rng in zip(texts, self.candidates(texts), draw, strict=True):
            yield [_exchanged(text, candidates, rng) for _ in range(count)]


def augmented(
    dataset: Dataset,
    columns: Sequence[str],
    replacement: WordReplacement,
    copies: int,
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Dataset:
    """A task's rows and after them their copies with words exchanged, each with its original's label.

    Args:
        dataset: the rows.
        columns: of text; the words of all of them are exchanged.
        replacement: what exchanges them.
        copies: of each row.
        seed: a row's copies depend on it and on the row's number.
        progress: told how many rows are done.

    Returns:
        ``1 + copies`` times as many rows: all originals, the first copies of all, the second copies, ...
    """
    from datasets import Dataset, concatenate_datasets

    made: list[dict[str, list[str]]] = [{column: [] for column in columns} for _ in range(copies)]
    for start in range(0, len(dataset), ROWS):
        rows = dataset[start : start + ROWS]
        count = len(rows[columns[0]])
        draw = [random.Random(f"{seed} {start + row}") for row in range(count)]
        for column in columns:
            for texts in replacement.copies(rows[column], copies, draw):
                for number, text in enumerate(texts):
                    made[number][column].append(text)
        if progress is not None:
            progress(start + count)
    return concatenate_datasets(
        [dataset, *(Dataset.from_dict({**dataset[:], **texts}, features=dataset.features) for texts in made)]
    )


def _exchanged(text: str, candidates: dict[Span, tuple[str, ...]], rng: random.Random) -> str:
    parts, end = [], 0
    for (start, stop), words in sorted(candidates.items()):
        if words and rng.random() < PROBABILITY:
            word = rng.choice(words)
            parts += [text[end:start], word.capitalize() if text[start:stop].istitle() else word]
            end = stop
    return "".join([*parts, text[end:]])


def _words(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The tokens that are whole words of letters."""
    texts = ((number, str(tokenizer.decode([number])).strip()) for number in range(len(tokenizer)))
    return {number: text for number, text in texts if WORD.fullmatch(text)}


def _logits_at(model: PreTrainedModel, batch: Any, places: torch.Tensor) -> torch.Tensor:
    """The masked-language-model logits (B, V) at one place of each row; at the others they are not computed."""

    def keep(module: Any, arguments: Any, output: Any) -> Any:
        states = output.last_hidden_state
        output.last_hidden_state = states[torch.arange(len(states), device=states.device), places].unsqueeze(1)
        return output

    handle = model.base_model.register_forward_hook(keep)
    try:
        return model(**batch).logits[:, 0].float()
    finally:
        handle.remove()


def _unit(vectors: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
