"""Tasks whose answer is a span of a paragraph (SQuAD): windows over it, a start and an end, scored by question."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.tasks import spans
from kdzoo.tasks.answers import Answer, asked, decode, pool
from kdzoo.tasks.base import Columns, Head
from kdzoo.tasks.given import GivenRows
from kdzoo.tasks.metrics import FACTOID
from kdzoo.tasks.padding import RightPadded
from kdzoo.tasks.pieces import IGNORED, Pieces, text_pieces, token_ids, tokenizer_pieces
from kdzoo.tasks.reading import find_file, read_text

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

METRICS = ("f1", "exact_match")
ANSWERS, NULLABLE = "answers", "spans, or none where that scores more"  # of `scored_by`
FILES = {  # what a split's file may be called
    "train": ("train", "training", "train-v1.1", "train-v2.0"),
    "validation": ("validation", "valid", "val", "dev", "dev-v1.1", "dev-v2.0", "eval"),
    "test": ("test",),
}


@dataclass(frozen=True)
class QuestionAnswering(GivenRows):
    """A task of questions about paragraphs, each answered by a span of its own, or by nothing (SQuAD 2.0).

    A row of `encode` is a window over the paragraph. The answer's first and last token are labels; both are the first
    token's where a window does not hold all of it, or there is none, and -100 where the answer's text does not stand
    at its place, so that such a question trains nothing on the logits. What is compared and predicted are starts and
    ends among the places that `counted` names: the paragraph's tokens, and the first token for "not here".

    With BioASQ's metrics (`kdzoo.tasks.metrics.FACTOID`) a row is a question with one of its abstracts, its id the
    question's, ``_`` and a number; what is predicted is one list of up to five answers a question, best first, pooled
    over its abstracts (`kdzoo.tasks.answers.pool`), and right are the answers of all of them.

    Attributes:
        name: see `Task`.
        metrics, headline: see `Task`; by default SQuAD's F1 and exact match.
        validation_splits, test_split: see `Task`.
        stride: how many pieces the next window begins later.
        max_question: the most pieces of a question.
        null_threshold: by how much the null answer has to win where some question has none.
        read: gives the rows by split, for a task that brings its own.
    """

    name: str
    metrics: tuple[str, ...] = ()
    headline: tuple[str, ...] = ()
    validation_splits: tuple[str, ...] = ("validation",)
    test_split: str | None = None
    stride: int = spans.STRIDE
    max_question: int = spans.MAX_QUESTION
    null_threshold: float = 0.0
    columns: tuple[str, ...] = ("question", "context")
    kind: str = "spans"
    read: Callable[[], Mapping[str, Dataset]] | None = field(default=None, repr=False, compare=False)
    label_names: ClassVar[tuple[str, ...]] = ("start_positions", "end_positions")
    unit: ClassVar[str] = "question"
    settings: ClassVar[tuple[str, ...]] = ("stride", "max_question", "null_threshold")
    fixed_words: ClassVar[str] = "labels at its words, and exchanged words shift them"

    def __post_init__(self) -> None:
        for setting, number in (("stride", self.stride), ("max_question", self.max_question)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise KdzooError(f"{self.name}: {setting} is a whole number of 1 or more, got {number!r}")
        threshold: Any = self.null_threshold
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not math.isfinite(threshold):
            raise KdzooError(f"{self.name}: null_threshold is a number, got {threshold!r}")
        named = (*self.metrics, *self.headline)
        self._choose_metrics(tuple(FACTOID) if self.pooled else METRICS)
        if self.pooled:
            if plain := [metric for metric in self.metrics if metric in METRICS]:
                first = next(metric for metric in self.metrics if metric in FACTOID)
                raise KdzooError(
                    f"{self.name}: {plain[0]} is of single answers, and {first} of answers pooled over a question's "
                    "abstracts; name one of the two"
                )
            object.__setattr__(self, "metrics", tuple(dict.fromkeys((*named, *FACTOID))))

    @property
    def pooled(self) -> bool:
        """Whether the answers to a question are pooled over several abstracts (BioASQ)."""
        return any(metric in FACTOID for metric in (*self.metrics, *self.headline))

    @property
    def fields(self) -> tuple[str, ...]:
        return ("id", "question", "context", "answers", "starts")

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), **{name: getattr(self, name) for name in self.settings}}

    def texts(self, rows: Dataset) -> Iterator[str]:
        yield from rows["question"][:]
        yield from dict.fromkeys(rows["context"][:])

    def synthetic(self, split: str, rows: int | None, seed: int) -> Mapping[str, Sequence[Any]]:
        from kdzoo.tasks.synthetic import passages

        if self.name != passages.NAME:
            return super().synthetic(split, rows, seed)
        return passages.generate(split, rows, seed)

    # --- rows ---

    def parse(self, row: Mapping[str, Any]) -> dict[str, Any]:
        for name in ("id", "question", "context"):
            if not isinstance(row[name], str) or not row[name].strip():
                raise KdzooError(f"column {name!r}: expected text, got {row[name]!r}")
        answers, starts = list(row["answers"]), list(row["starts"])
        if len(answers) != len(starts):
            raise KdzooError(f"question {row['id']!r}: {len(answers)} answers and {len(starts)} places")
        for text, start in zip(answers, starts, strict=True):
            spans.check_answer(row["context"], text, start, f"question {row['id']!r}")
        if self.pooled:
            asked(row["id"])  # which refuses an id without a number
        return {**{name: row[name] for name in ("id", "question", "context")}, "answers": answers, "starts": starts}

    def check_answered(self, rows: Dataset, origin: str) -> None:
        """Refuse a pooled question that no answer is right for, before anything is trained; rows are as loaded.

        Raises:
            KdzooError: names the split's file and the question.
        """
        golds: dict[str, int] = {}
        for name, answers in zip(rows["id"][:], rows["answers"][:], strict=True):
            golds[asked(name)] = golds.get(asked(name), 0) + len(answers)
        if without := [question for question, number in golds.items() if not number]:
            raise KdzooError(f"{origin}: question {without[0]!r} has no answer in any paragraph; leave it out")

    def features(self) -> Any:
        from datasets import Features, Sequence, Value

        texts = {name: Value("string") for name in ("id", "question", "context")}
        return Features({**texts, "answers": Sequence(Value("string")), "starts": Sequence(Value("int64"))})

    def files(self, folder: Path, split: str) -> Columns | None:
        """A split's questions from a file in SQuAD's form (`kdzoo.tasks.spans.read_squad`)."""
        path = find_file(folder, *FILES.get(split, (split,)), suffixes=(".json",))
        return None if path is None else Columns(str(path), partial(questions, path))

    def held_out(self, rows: Dataset, seed: int) -> tuple[Dataset, Dataset]:
        """See `Task.held_out`; a paragraph's questions stay together, as one tells of another, or a question's rows."""
        from kdzoo.tasks.splitting import held_out_groups

        groups = [asked(one) for one in rows["id"][:]] if self.pooled else rows["context"][:]
        return held_out_groups(rows, groups, self.name, seed)

    def check_rows(self, split: str, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
        """See `Task.check_rows`; training questions whose answer is not at its place are counted; all are refused."""
        if split != "train":
            return
        by_word = lru_cache(maxsize=16)(lambda context: spans.split(context, _itself))
        lost: list[str] = []
        asked_for = 0
        for row in rows.select_columns(["id", "context", "answers", "starts"]):
            if row["answers"]:
                asked_for += 1
                answer, start = row["answers"][0], row["starts"][0]
                if spans.answer_pieces(by_word(row["context"]), answer, start, _itself) is None:
                    lost.append(row["id"])
        if not lost:
            return
        said = f"{self.name}: the answer of question {lost[0]!r} is not at its answer_start"
        if len(lost) == asked_for:
            raise KdzooError(f"{said}, nor that of any other; give the character at which the text begins, from 0")
        warnings.warn(
            f"{said}; {len(lost)} of {asked_for} training questions with an answer teach neither start nor end",
            KdzooWarning,
            stacklevel=2,
        )

    # --- models ---

    def head(self) -> Head:
        return Head("AutoModelForQuestionAnswering", {"num_labels": 2})

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """See `Task.encode`; a question is one window or several, whose ``unit_ids`` are its number."""
        from datasets import Features, Sequence, Value

        pieces = tokenizer_pieces(tokenizer)
        split = lru_cache(maxsize=16)(lambda context: spans.split(context, pieces))  # of several questions in a row
        types = [name for name in ("token_type_ids",) if name in tokenizer.model_input_names]

        def encoded(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[Any]]:
            made: dict[str, list[Any]] = {name: [] for name in features}
            for at, number in enumerate(numbers):
                paragraph = split(batch["context"][at])
                texts, starts = batch["answers"][at], batch["starts"][at]
                answer = spans.answer_pieces(paragraph, texts[0], starts[0], pieces) if texts else None
                self._check_room(batch["id"][at], batch["question"][at], pieces, max_length)
                found = spans.windows(
                    batch["question"][at], paragraph, pieces, max_length, answer,
                    stride=self.stride, max_question=self.max_question,
                )  # fmt: skip
                for place, window in enumerate(found):
                    lost = bool(texts) and answer is None
                    size = len(window.tokens)
                    ids = token_ids(window.tokens, tokenizer)
                    own = {
                        "input_ids": ids,
                        "attention_mask": [1] * size,
                        "token_type_ids": window.token_type_ids,
                        "counted": [int(word >= 0 or token == 0) for token, word in enumerate(window.words)],
                        "start_positions": IGNORED if lost else window.start,
                        "end_positions": IGNORED if lost else window.end,
                        "unit_ids": number,
                        "length": size,
                        "words": window.words,
                        "max_context": window.max_context,
                        "tokens": window.tokens,
                        # Of a question the first row alone has these.
                        "asked": asked(batch["id"][at]) if self.pooled and not place else "",
                        "context": "" if place else batch["context"][at],
                        "pieces": [] if place else paragraph.pieces,
                        "piece_word": [] if place else paragraph.piece_word,
                        "answers": [] if place else texts,
                    }
                    for name in made:
                        made[name].append(own[name])
            return made

        lists, numbers = Sequence(Value("int32")), Value("int64")
        by_token = ("input_ids", "attention_mask", *types, "counted", "words", "piece_word")
        features = dict.fromkeys(by_token, lists) | {"max_context": Sequence(Value("bool"))}
        features |= dict.fromkeys((*self.label_names, "unit_ids", "length"), numbers)
        features |= {name: Sequence(Value("string")) for name in ("tokens", "pieces", "answers")}
        features |= dict.fromkeys(("context", *["asked"] * self.pooled), Value("string"))
        made = rows.map(
            encoded,
            batched=True,
            with_indices=True,
            remove_columns=rows.column_names,
            features=Features(features),
            desc=f"tokenize {self.name}",
        )
        return made.add_column("sample_ids", np.arange(len(made)))

    def _check_room(self, name: str, question: str, pieces: Pieces, max_length: int) -> None:
        """Refuse a question beside which a row has no room for its paragraph.

        Raises:
            KdzooError: names the question.
        """
        size = min(len(text_pieces(question, pieces)), self.max_question)
        if max_length < size + 4:
            raise KdzooError(
                f"{self.name}, question {name!r}: {size} pieces of it are read, which leave no room for its paragraph "
                f"at --max-length {max_length}; give {size + 4} or more"
            )

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """See `Task.collator`; ``counted`` is (B, S), the labels are (B,) each."""
        return RightPadded(tokenizer, {"counted": 0}, (*self.label_names, "sample_ids"))

    def logits(self, outputs: Any) -> Tensor:
        """Those of starts and ends, (B, S, 2)."""
        import torch

        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)

    def counted(self, batch: Mapping[str, Any]) -> Tensor | None:
        found: Tensor = batch["counted"] != 0
        return found

    # --- scores ---

    def predictions(self, outputs: Any, rows: Dataset | None = None) -> list[Any]:
        """The answer to each question, from start and end logits, (N, S) each; if pooled, up to five, best first."""
        if rows is None or not isinstance(outputs, tuple) or len(outputs) < 2 or len(outputs[0]) != len(rows):
            raise KdzooError(f"{self.name} needs its rows, and start and end logits (N, S) of each")
        golds = rows["answers"][:]
        nullable = any(not golds[first] for first, _ in _units(rows))
        starts, ends = outputs[:2]
        found = self.answers(starts, ends, rows, nullable=nullable)
        if not self.pooled:
            return [answer.text for answer in found]
        return [pool(answer.candidates for answer in of) for of in self._by_question(found, rows).values()]

    def answers(self, starts: Any, ends: Any, rows: Dataset, *, nullable: bool) -> list[Answer]:
        """What is answered to each question, with the n best.

        Args:
            starts, ends: logits (N, S).
            rows: encoded.
            nullable: whether a question may have no answer.
        """
        threshold = self.null_threshold if nullable else None
        found = []
        for first, last in _units(rows):
            own = rows[first:last]
            windows, paragraph = _rebuilt(own)
            places = [np.asarray(kept) > 0 for kept in own["counted"]]
            start, end = (
                [np.where(at, values[: len(at)], -np.inf) for at, values in zip(places, side[first:last], strict=True)]
                for side in (starts, ends)
            )
            found.append(decode(windows, start, end, paragraph, null_threshold=threshold))
        return found

    def references(self, rows: Dataset) -> list[list[str]]:
        """The gold texts of each question, none where it has no answer."""
        answers = rows["answers"][:]
        golds = [list(answers[first]) for first, _ in _units(rows)]
        if not self.pooled:
            return golds
        by_question = self._by_question(golds, rows).values()
        return [list(dict.fromkeys(text for texts in of for text in texts)) for of in by_question]

    @staticmethod
    def _by_question(values: Sequence[Any], rows: Dataset) -> dict[str, list[Any]]:
        """What each pooled question's rows have, in the order in which questions come first."""
        names = rows["asked"][:]
        found: dict[str, list[Any]] = {}
        for (first, _), value in zip(_units(rows), values, strict=True):
            found.setdefault(names[first], []).append(value)
        return found

    def scored_by(self, references: Mapping[str, Any]) -> dict[str, str]:
        """Whether a question may have no answer, where some has none."""
        return {ANSWERS: NULLABLE} if any(not gold for of in references.values() for gold in of) else {}

    def constant(self, train: Dataset, references: Any) -> list[str] | None:
        """No answer to any question, where some have none."""
        return None if all(references) else [""] * len(references)

    def describe(self) -> str:
        others = [name for name in self.metrics if name not in self.headline]
        measured = f"scored by {' and '.join(self.headline)}" + (f"; also {', '.join(others)}" if others else "")
        pooled = ", the answers of a question's paragraphs pooled" if self.pooled else ""
        return f"{self.name}: questions answered by a span of their paragraph{pooled}; {measured}"


def questions(path: Path) -> dict[str, list[Any]]:
    """A file's questions by column: ``id``, ``question``, ``context``, ``answers`` and ``starts``."""
    try:
        found = spans.read_squad(path)
    except KdzooError:
        _check_texts(path)
        raise
    if often := sum(one.occurrences > 1 for one in found):
        warnings.warn(
            f"{path}: {often} of {len(found)} questions say that their answer occurs more than once in its paragraph "
            "(occurrences), so that answer_start may be another one's place; they are kept",
            KdzooWarning,
            stacklevel=2,
        )
    columns = {name: [getattr(one, name) for one in found] for name in ("id", "question", "context")}
    return {**columns, "answers": [[*one.answers] for one in found], "starts": [[*one.starts] for one in found]}


def _check_texts(path: Path) -> None:
    """Name the paragraph or the question of a refused file that is no text, if that is what is wrong with it.

    Raises:
        KdzooError: names the question.
    """
    found: list[str] = []
    with suppress(ValueError, RecursionError, KeyError, TypeError, AttributeError):  # of a file of another form
        for article in json.loads(read_text(path))["data"]:
            for paragraph in article["paragraphs"]:
                for entry in paragraph["qas"]:
                    for key, value in (("context", paragraph["context"]), ("question", entry["question"])):
                        if not isinstance(value, str):
                            found.append(f"{path}, question {entry['id']!r}: {key} is {json.dumps(value)}; give a text")
    if found:
        raise KdzooError(found[0]) from None


def _itself(word: str) -> list[str]:
    """A word as its own only piece, where words are all that is looked at."""
    return [word]


def _units(rows: Dataset) -> list[tuple[int, int]]:
    """Each question's first row and the one after its last."""
    numbers = np.asarray(rows["unit_ids"][:])
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    return list(zip(starts.tolist(), [*starts[1:].tolist(), len(numbers)], strict=True))


def _rebuilt(own: Mapping[str, list[Any]]) -> tuple[list[spans.Window], spans.Paragraph]:
    """A question's windows and its paragraph, from its rows."""
    words = spans.split(own["context"][0], _itself).words
    piece_word = own["piece_word"][0]
    first_piece = np.searchsorted(piece_word, np.arange(len(words) + 1)).tolist()
    columns = zip(own["tokens"], own["words"], own["max_context"], strict=True)
    windows = [spans.Window(tokens, [], number, most, 0, 0) for tokens, number, most in columns]
    return windows, spans.Paragraph(words, [], own["pieces"][0], piece_word, first_piece)
