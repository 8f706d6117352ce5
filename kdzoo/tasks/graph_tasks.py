"""What tasks on the triples of a knowledge graph share: the graph, its rows, false triples and their encoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from kdzoo.errors import KdzooError
from kdzoo.tasks.base import Columns, Task
from kdzoo.tasks.candidates import ASKED, LIST, TAIL_START, Row
from kdzoo.tasks.cutting import in_words, looked_at
from kdzoo.tasks.epochs import EPOCH, EVERY
from kdzoo.tasks.padding import RightPadded
from kdzoo.tasks.pieces import CLS, SEP, text_pieces, token_ids, tokenizer_pieces
from kdzoo.tasks.triples import Graph, Negatives, Triple, encode, read_graph

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

CHUNK = 50_000  # rows that are lists of Python's at a time
SPLITS = {"train": "train", "validation": "dev", "test": "test"}  # as KG-BERT calls them
LISTS = {"input_ids": "int32", "token_type_ids": "int8", "attention_mask": "int8"}


@dataclass(frozen=True)
class GraphTask(Task):
    """A task on triples: head, relation and tail by name, whose texts the graph has.

    Attributes:
        name: see `Task`.
        graph: the knowledge graph; registered tasks are made for any (`adapted`), and have a synthetic one else.
        metrics, headline: see `Task`; by default those of the kind.
        validation_splits, test_split: see `Task`.
        entity_texts: the file of the entities' texts in a folder, such as ``"entity2textlong"``.
        negatives: false triples that are drawn for each training triple, anew for each epoch.
        seed: of what is drawn; with it all methods and seeds of a comparison have the same rows.
        epochs: for how many `encode` draws; see `Task.for_epochs`.
        own: whether the graph is of the task alone, which then brings its rows.
        origin: the folder that the graph was read from.
    """

    name: str
    graph: Graph | None = field(default=None, repr=False, compare=False)
    metrics: tuple[str, ...] = ()
    headline: tuple[str, ...] = ()
    validation_splits: tuple[str, ...] = ("validation",)
    test_split: str | None = None
    entity_texts: str = "entity2text"
    negatives: int = 0
    seed: int = 0
    epochs: int = field(default=1, compare=False)
    own: bool = False
    origin: str = ""
    columns: tuple[str, ...] = ("head", "relation", "tail")
    kind: str = ""
    unit: ClassVar[str] = "triple"
    fixed_words: ClassVar[str] = "rows that are names in a graph, and exchanged words would be other entities"
    usual: ClassVar[tuple[str, ...]] = ()  # the metrics by default, the headline first
    ranks: ClassVar[bool] = True  # what is true, so that false triples are no rows
    pairs: ClassVar[bool] = False  # rows are head and tail alone: the relation is what is asked for

    def __post_init__(self) -> None:
        from kdzoo.tasks.metrics import get_metric

        if self.negatives < 0:
            raise KdzooError(f"{self.name}: negatives must be 0 or more, got {self.negatives}")
        metrics = tuple(dict.fromkeys((*self.metrics, *self.headline))) or self.usual
        better = [name for name in self.metrics or self.usual[:1] if get_metric(name, self.kind).greater_is_better]
        headline = self.headline or tuple(better[:1])
        worse = [name for name in headline if not get_metric(name, self.kind).greater_is_better]
        if worse or not headline:
            raise KdzooError(
                f"{self.name}: less is better of {', '.join(worse or metrics)}; name another metric for the score"
            )
        for metric in metrics:
            get_metric(metric, self.kind)
        object.__setattr__(self, "metrics", metrics)
        object.__setattr__(self, "headline", headline)

    @property
    def knowledge(self) -> Graph:
        """The graph, or the synthetic one.

        Raises:
            KdzooError: there is neither.
        """
        from kdzoo.tasks.synthetic import graph

        if self.graph is not None:
            return self.graph
        if self.name not in graph.NAMES:
            raise KdzooError(f"{self.name} has no graph; give one: graph=kdzoo.tasks.triples.read_graph(FOLDER)")
        return graph.graph()

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.columns, "label", "split")

    @property
    def brings_rows(self) -> bool:
        return self.own

    def identity(self) -> dict[str, Any]:
        names = ("negatives", "seed", "entity_texts")
        return {**super().identity(), **{name: getattr(self, name) for name in names}, "graph": self._about_graph()}

    def _about_graph(self) -> dict[str, int]:
        graph = self.knowledge
        sizes = {"entities": graph.entities, "relations": graph.relations}
        return {name: len(of) for name, of in (sizes | {s: getattr(graph, s) for s in SPLITS.values()}).items()}

    def rows(self) -> Mapping[str, Dataset] | None:
        from kdzoo.tasks.sources.rows import checked

        if not self.own:
            return None
        return {split: checked(self, f"{self.origin} {split}", self.split_columns(split)) for split in self.splits}

    def adapted(self, source: str) -> Task:
        """With the graph of the data's folder and its test split; registered tasks are made for any.

        Raises:
            KdzooError: a file cannot be read.
        """
        if self.own:
            return self
        folder = Path(source) / self.name
        if source == "synthetic" or not folder.is_dir():
            return self.of_graph(None)
        return self.of_graph(read_graph(folder, self.entity_texts), str(folder))

    def of_graph(self, graph: Graph | None, origin: str = "") -> GraphTask:
        """The same for another graph; None for the synthetic one."""
        return replace(self, graph=graph, origin=origin, test_split=None if graph is None else "test")

    def files(self, folder: Path, split: str) -> Columns | None:
        """A split's triples from a folder of KG-BERT's form (`kdzoo.tasks.triples.read_graph`).

        Raises:
            KdzooError: the task is for another graph.
        """
        if self.graph is None or self.origin != str(folder):
            raise KdzooError(
                f"{self.name} is for {self.origin or 'its synthetic graph'}; take it for this folder with "
                f"kdzoo.tasks.registry.adapt_task({self.name!r}, {str(folder.parent)!r})"
            )
        return Columns(f"{folder} {SPLITS.get(split, split)}", partial(self.split_columns, split))

    def split_columns(self, split: str) -> dict[str, list[Any]]:
        """A split's triples of the graph, as columns."""
        graph = self.knowledge
        triples: list[Triple] = getattr(graph, SPLITS[split])
        labels = None if split == "train" else getattr(graph, f"{SPLITS[split]}_labels")
        labels = [True] * len(triples) if labels is None else labels
        if self.ranks:
            triples = [triple for triple, label in zip(triples, labels, strict=True) if label]
            labels = [True] * len(triples)
        return self.columns_of(triples, labels, split)

    def columns_of(self, triples: Sequence[Triple], labels: Sequence[bool], split: str) -> dict[str, list[Any]]:
        """Triples as columns."""
        by_part = {part: [getattr(triple, part) for triple in triples] for part in self.columns}
        return {**by_part, "label": [int(label) for label in labels], "split": [split] * len(triples)}

    def synthetic(self, split: str, rows: int | None, seed: int) -> Mapping[str, Sequence[Any]]:
        from kdzoo.tasks.synthetic import graph

        if self.graph is not None or self.name not in graph.NAMES:
            return super().synthetic(split, rows, seed)
        return graph.take(self.split_columns(split), rows, seed)

    def parse(self, row: Mapping[str, Any]) -> dict[str, Any]:
        graph = self.knowledge
        for part, known in (("head", graph.entities), ("relation", graph.relations), ("tail", graph.entities)):
            if row[part] not in known:
                what = "relation" if part == "relation" else "entity"
                raise KdzooError(f"column {part!r}: {row[part]!r} is no {what} of the graph")
        if row["label"] not in (0, 1):
            raise KdzooError(f"column 'label': {row['label']!r} is neither 0 (false) nor 1 (true)")
        if self.ranks and not row["label"]:
            raise KdzooError("column 'label': the triple is false, and only true ones have a rank")
        return {**{name: row[name] for name in self.fields}, "label": int(row["label"]), "graph": graph.fingerprint}

    def features(self) -> Any:
        from datasets import Features, Value

        texts = dict.fromkeys((*self.columns, "split", "graph"), Value("string"))
        return Features({**texts, "label": Value("int8")})

    def texts(self, rows: Dataset) -> Iterator[str]:
        """Those of the rows' entities and relations, and of all others of the graph once."""
        graph = self.knowledge
        named = [(graph.entities, rows["head"][:]), (graph.relations, rows["relation"][:])]
        named += [(graph.entities, rows["tail"][:]), (graph.entities, [*graph.entities])]
        return (texts[name] for texts, names in named for name in names)

    @property
    def vocabulary_key(self) -> str:
        return self.knowledge.fingerprint

    def held_out(self, rows: Dataset, seed: int) -> tuple[Dataset, Dataset]:
        """See `Task.held_out`; what is taken is validation."""
        kept, taken = super().held_out(rows, seed)
        return kept, taken.map(lambda batch: {"split": ["validation"] * len(batch["split"])}, batched=True)

    # --- rows for models ---

    def for_epochs(self, epochs: float) -> GraphTask:
        return replace(self, epochs=int(np.ceil(epochs))) if self.negatives else self

    def rows_an_epoch(self, rows: int) -> int:
        return rows * (1 + self.negatives)

    def triples_of(self, rows: Dataset) -> tuple[list[Triple], str]:
        """The triples of rows, and the split that these are of.

        Raises:
            KdzooError: they are of another graph, or of several splits.
        """
        split, graph = {*rows["split"][:]}, {*rows["graph"][:]}
        if graph != {self.knowledge.fingerprint}:
            raise KdzooError(f"{self.name}: the rows are of another graph than the task's; load them with this task")
        if len(split) > 1:
            raise KdzooError(f"{self.name}: encode the rows of {' and of '.join(sorted(split))} separately")
        found = zip(*(rows[part][:] for part in self.columns), strict=True)
        return [Triple(*names) for names in found], split.pop()

    def about_length(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
        graph, pieces, taken = self.knowledge, tokenizer_pieces(tokenizer), looked_at(rows)
        parts = {"head": graph.entities, "relation": graph.relations, "tail": graph.entities}
        if self.pairs:
            del parts["relation"]
        texts = [[known[name] for name in taken[part][:]] for part, known in parts.items()]
        sizes = {text: len(text_pieces(text, pieces)) for text in chain.from_iterable(texts)}
        lengths = [len(row) + 1 + sum(sizes[text] for text in row) for row in zip(*texts, strict=True)]
        return in_words(lengths, len(rows), max_length)

    def row_of(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Callable[[Triple], Row]:
        """What makes a triple's row, ``[CLS] head [SEP] relation [SEP] tail [SEP]``, or without relation where `pairs`.

        Args:
            tokenizer: the model's.
            max_length: of a row.
        """
        graph, pieces = self.knowledge, tokenizer_pieces(tokenizer)
        known: dict[str, list[int]] = {}
        own = dict(zip((CLS, SEP), token_ids((CLS, SEP), tokenizer), strict=True))

        def ids(text: str, what: str, name: str) -> list[int]:
            if text not in known:
                known[text] = token_ids(text_pieces(text, pieces), tokenizer)
                if not known[text]:
                    raise KdzooError(
                        f"{self.name}: the tokenizer leaves nothing of {text!r}, the text of {what} {name!r}"
                    )
            return known[text]

        def made(triple: Triple) -> Row:
            head = ids(graph.entities[triple.head], "entity", triple.head)
            relation = None if self.pairs else ids(graph.relations[triple.relation], "relation", triple.relation)
            tail = ids(graph.entities[triple.tail], "entity", triple.tail)
            # The rule of truncation does not look into pieces, so that it takes their numbers too.
            row = encode(*cast("tuple[Any, Any, Any]", (head, relation, tail)), max_length)
            starts = [at + 1 for at, token in enumerate(row.tokens) if token == SEP]
            tokens = [own.get(cast(Any, token), token) for token in row.tokens]
            return Row(cast("list[int]", tokens), row.token_type_ids, starts[-2])

        return made

    def numbers_of(self, triple: Triple) -> list[int]:
        """The numbers of head, relation and tail in the graph."""
        index = self.knowledge.known.index
        return [index[part][getattr(triple, part)] for part in self.columns]

    def false_triples(self, triples: Sequence[Triple], number: int, known: Sequence[Triple]) -> Negatives:
        """What draws false triples for these."""
        return Negatives(triples, list(self.knowledge.entities), number, self.seed, known)

    def training_rows(self, triples: Sequence[Triple], encoded: Callable[[Triple], Row]) -> dict[str, list[Any]]:
        """The columns of training triples and, epoch by epoch, of the false ones drawn for them."""
        drawn: list[Triple] = []
        if self.negatives:
            # False is what is no training triple, as in the paper; dev and test may hold it.
            negatives = self.false_triples(triples, self.negatives, self.knowledge.train)
            drawn = [t for epoch in range(self.epochs) for t in chain.from_iterable(negatives.epoch(epoch))]
        every = [*triples, *drawn]
        rows = [encoded(triple) for triple in every]
        an_epoch = len(triples) * self.negatives
        columns: dict[str, list[Any]] = {
            "input_ids": [row.input_ids for row in rows],
            "token_type_ids": [row.token_type_ids for row in rows],
            TAIL_START: [row.tail_start for row in rows],
            "labels": [1] * len(triples) + [0] * len(drawn),
            ASKED: [self.numbers_of(triple) for triple in every],
        }
        if self.rows_together > 1:
            columns[LIST] = [*range(len(triples)), *((at % an_epoch) // self.negatives for at in range(len(drawn)))]
        if self.negatives:
            columns[EPOCH] = [EVERY] * len(triples) + [at // an_epoch for at in range(len(drawn))]
        return columns

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """See `Task.collator`; ``labels`` are (B,), and so is where the tail begins."""
        return RightPadded(tokenizer, {}, ("labels", "sample_ids", LIST, *((TAIL_START,) if self.parts else ())))

    def one_class(self, predictions: Any) -> bool:
        return False  # ranks say nothing of classes

    def describe(self) -> str:
        about = self._about_graph()
        sizes = f"{about['entities']} entities, {about['relations']} relations, {about['train']} training triples"
        others = [name for name in self.metrics if name not in self.headline]
        measured = f"scored by {' and '.join(self.headline)}" + (f"; also {', '.join(others)}" if others else "")
        return f"{self.name}: {self.what()}, {sizes}; {measured}"

    def what(self) -> str:
        """What is asked of a triple, in words."""
        return self.kind


def dataset_of(columns: Mapping[str, list[Any]], tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Encoded rows from their columns, with ``attention_mask``, ``length`` and ``sample_ids``."""
    from datasets import Dataset, Features, Sequence, Value, concatenate_datasets

    total = len(columns["input_ids"])
    left_out = {"token_type_ids"} - {*tokenizer.model_input_names}
    first = {name: values[0] for name, values in columns.items() if name not in left_out}
    features = {
        name: Sequence(Value(LISTS.get(name, "int32"))) if isinstance(value, list) else Value("int64")
        for name, value in first.items()
    }
    features |= {"attention_mask": Sequence(Value("int8")), "length": Value("int64"), "sample_ids": Value("int64")}
    parts = []
    for start in range(0, total, CHUNK):
        part = {name: columns[name][start : start + CHUNK] for name in first}
        sizes = [len(ids) for ids in part["input_ids"]]
        part["attention_mask"] = [[1] * size for size in sizes]
        part |= {"length": sizes, "sample_ids": [*range(start, start + len(sizes))]}
        parts.append(Dataset.from_dict(part, features=Features(features)))
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0]
