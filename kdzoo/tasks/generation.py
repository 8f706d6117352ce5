"""Tasks whose answer is a text (translation, summaries): teacher forcing in training, beam search when scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdzoo.errors import KdzooError
from kdzoo.tasks import generation_scores
from kdzoo.tasks.base import Head
from kdzoo.tasks.cutting import cut_rows
from kdzoo.tasks.decoding import Decoding
from kdzoo.tasks.given import GivenRows
from kdzoo.tasks.padding import SourceAndTarget
from kdzoo.tasks.pieces import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

QUOTED = 40  # letters of a target in a message
METRICS = ("bleu", "chrf2")
# A language is learned from scratch, and texts are decoded: smaller models and fewer rows than for classification.
QUICKSTART: dict[str, Any] = {
    "teacher": "2x64,heads=4",
    "student": "1x48,heads=4",
    "seeds": 2,
    "train_rows": 2000,
    "validation_rows": 200,
    "budget": {"epochs": 3, "batch_size": 16, "learning_rate": 4e-3, "max_length": 64},
    "teacher_budget": {"epochs": 5, "batch_size": 16, "learning_rate": 4e-3, "max_length": 64},
}


@dataclass(frozen=True)
class SequenceToSequence(GivenRows):
    """A task of a source and the target that is to be written for it.

    A source that is too long is cut at its end; a target that is too long is refused, for a cut one would teach to
    stop in the midst of a sentence. A row may have several references: the first is trained on, all are scored.

    Attributes:
        name: see `Task`.
        metrics, headline: see `Task`; by default BLEU and chrF2 with BLEU as the headline.
        validation_splits, test_split: see `Task`.
        decoding: how texts are written when they are scored.
        read: gives the rows by split, for a task that brings its own.
    """

    name: str
    metrics: tuple[str, ...] = ()
    headline: tuple[str, ...] = ()
    validation_splits: tuple[str, ...] = ("validation",)
    test_split: str | None = None
    decoding: Decoding = field(default_factory=Decoding)
    columns: tuple[str, ...] = ("source",)
    kind: str = "seq2seq"
    read: Callable[[], Mapping[str, Dataset]] | None = field(default=None, repr=False, compare=False)
    generates: ClassVar[bool] = True
    fixed_words: ClassVar[str] = "targets that say what its words say"
    quickstart: ClassVar[Mapping[str, Any]] = QUICKSTART

    def __post_init__(self) -> None:
        self._choose_metrics(METRICS)

    @property
    def fields(self) -> tuple[str, ...]:
        return ("source", "target")

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "decoding": asdict(self.decoding)}

    def texts(self, rows: Dataset) -> Iterator[str]:
        yield from rows["source"][:]
        for references in rows["target"][:]:
            yield from references

    def synthetic(self, split: str, rows: int | None, seed: int) -> Mapping[str, Sequence[Any]]:
        from kdzoo.tasks.synthetic import transduction

        if self.name != transduction.NAME:
            return super().synthetic(split, rows, seed)
        return transduction.generate(split, rows, seed)

    # --- rows ---

    def parse(self, row: Mapping[str, Any]) -> dict[str, Any]:
        source, target = row["source"], row["target"]
        if not isinstance(source, str) or not source.strip():
            raise KdzooError(f"column 'source': expected text, got {source!r}")
        references = [target] if isinstance(target, str) else target
        if not isinstance(references, (list, tuple, np.ndarray)) or not len(references):
            raise KdzooError(f"column 'target': expected a text or a list of texts, got {target!r}")
        for text in references:
            if not isinstance(text, str) or not text.strip():
                raise KdzooError(f"column 'target': the target is empty; expected text, got {text!r}")
        return {"source": source, "target": [str(text) for text in references]}

    def features(self) -> Any:
        from datasets import Features, Sequence, Value

        return Features({"source": Value("string"), "target": Sequence(Value("string"))})

    # --- models ---

    def head(self) -> Head:
        return Head("AutoModelForSeq2SeqLM", {})

    @property
    def longest_target(self) -> int:
        """See `Task.longest_target`."""
        return self.decoding.max_target

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """See `Task.encode`; ``labels`` are the first reference's tokens; ``source`` and ``references`` are texts.

        Raises:
            KdzooError: a target is longer than ``decoding.max_target``; `check_rows` says so before.
        """
        from datasets import Features, Sequence, Value

        names = [name for name in ("attention_mask", "token_type_ids") if name in tokenizer.model_input_names]

        def encoded(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, Any]:
            made = tokenizer(batch["source"], truncation=True, max_length=max_length)
            targets = self._targets(batch["target"], tokenizer, self.name)
            sizes = [len(ids) + len(target) for ids, target in zip(made["input_ids"], targets, strict=True)]
            return {
                **{name: made[name] for name in ("input_ids", *names)},
                "labels": targets,
                "source": batch["source"],
                "references": batch["target"],
                "sample_ids": numbers,
                "length": sizes,
            }

        tokens = dict.fromkeys(("input_ids", *names, "labels"), Sequence(Value("int32")))
        numbers, text = dict.fromkeys(("sample_ids", "length"), Value("int64")), Value("string")
        return rows.map(
            encoded,
            batched=True,
            with_indices=True,
            remove_columns=rows.column_names,
            features=Features({**tokens, "source": text, "references": Sequence(text), **numbers}),
            desc=f"tokenize {self.name}",
        )

    def _targets(
        self, references: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase, where: str
    ) -> list[list[int]]:
        """The tokens of the first reference of each row.

        Args:
            references: by row.
            tokenizer: whose tokens.
            where: what messages name beside the target; not its row, as others of its file may have been held out.

        Raises:
            KdzooError: there are more than ``max_target``, or the tokenizer does not end a target with the token that
                ends texts, or has that token elsewhere in it.
        """
        found: list[list[int]] = tokenizer(text_target=[of[0] for of in references], verbose=False)["input_ids"]
        most = self.decoding.max_target
        ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
        for of, target in zip(references, found, strict=True):
            start = " ".join(of[0].split())
            quoted = repr(start if len(start) <= QUOTED else f"{start[:QUOTED]}...")
            if ends.isdisjoint(target[-2:]):  # of which the last may name the language
                raise KdzooError(
                    f"{where}, target {quoted}: the tokenizer puts no eos_token behind it, so that no end of a text "
                    "would be learnt; give it a post-processor that does"
                )
            if target[0] in ends and len(target) > 1:
                raise KdzooError(
                    f"{where}, target {quoted}: the tokenizer begins it with the token that ends texts, which a model "
                    "would write first and stop; give it a post-processor that does not"
                )
            if not ends.isdisjoint(target[: -1 if target[-1] in ends else -2]):
                raise KdzooError(
                    f"{where}, target {quoted}: the tokenizer takes a part of it for the end of a text, so that "
                    "nothing behind it would be written; take that out of the row"
                )
            if len(target) > most:
                raise KdzooError(
                    f"{where}, target {quoted}: it has {len(target)} tokens, and max_target is {most}; take a "
                    "larger max_target, as far as the decoder has positions, or shorten the row"
                )
        return found

    def about_length(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
        from kdzoo.tasks.source_target import source_part

        return cut_rows(rows, ["source"], source_part(tokenizer), max_length, "sources")

    def check_rows(self, split: str, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
        """See `Task.check_rows`; a target may be too long, or a metric's library missing."""
        generation_scores.check_libraries(self.metrics)
        for start in range(0, len(rows), 1000):
            self._targets(rows[start : start + 1000]["target"], tokenizer, f"{self.name}, {split} rows")

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """See `Task.collator`; ``labels`` are (B, T), -100 in padding; the decoder's input is made by the model."""
        return SourceAndTarget(tokenizer)

    def counted(self, batch: Mapping[str, Any]) -> Tensor | None:
        found: Tensor = batch["labels"] != IGNORED
        return found

    def outputs(self, model: Any, batch: Mapping[str, Any]) -> Any:
        """The token ids (B, T) that a model writes for the batch's sources."""
        return self.decoding.generate(model, batch)

    # --- scores ---

    def decoded(self, outputs: Any, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """The texts of token ids (N, T), in which -100 is padding."""
        ids = np.asarray(outputs)
        pad = tokenizer.pad_token_id
        assert pad is not None
        found = tokenizer.batch_decode(np.where(ids == IGNORED, pad, ids), skip_special_tokens=True)
        return [text.strip() for text in found]

    def predictions(self, outputs: Any, rows: Dataset | None = None) -> list[str]:
        """The written texts, as `decoded` gave them."""
        if not isinstance(outputs, list) or not all(isinstance(text, str) for text in outputs):
            raise KdzooError(f"{self.name} is scored on texts; give decoded(outputs, tokenizer)")
        return outputs

    def references(self, rows: Dataset) -> list[list[str]]:
        return [list(texts) for texts in rows["references"][:]]

    def scored_by(self, references: Mapping[str, Any]) -> dict[str, str]:
        """The decoding, sacrebleu's signature of each of its metrics, and rouge-score's version."""
        from importlib.metadata import version

        found = {"decoding": str(self.decoding)}
        true = next(iter(references.values()))
        for name in self.metrics:
            if name in generation_scores.SACRE:
                found[name] = generation_scores.signature(name, true)
            elif name in generation_scores.ROUGES:
                found[name] = f"F, best reference, stemmed, sentences by line, rouge-score {version('rouge-score')}"
        return found

    def constant(self, train: Dataset, references: Any) -> list[str]:
        """The training target that occurs most often (of equally frequent ones the first), for every source."""
        from collections import Counter

        usual = Counter(texts[0] for texts in train["references"][:]).most_common(1)[0][0]
        return [usual] * len(references)

    def one_class(self, predictions: Any) -> bool:
        return len(predictions) > 1 and len(set(predictions)) == 1

    def examples(self, rows: Dataset) -> list[str]:
        """The sources, for a reader of what was written."""
        return list(rows["source"][:])

    def describe(self) -> str:
        others = [name for name in self.metrics if name not in self.headline]
        measured = f"scored by {' and '.join(self.headline)}" + (f"; also {', '.join(others)}" if others else "")
        return f"{self.name}: a text written for each source; {measured}; decoding: {self.decoding}"
