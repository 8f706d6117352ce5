"""KG-BERT's three tasks: whether a triple is true, which relation holds, and which entity completes a triple."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdzoo.errors import KdzooError
from kdzoo.tasks.base import Head
from kdzoo.tasks.candidates import ASKED, TAIL_START, candidate_rows, first_asked, ranks, sample_of
from kdzoo.tasks.graph_tasks import GraphTask, dataset_of
from kdzoo.tasks.ranking import rank
from kdzoo.tasks.registry import built_in
from kdzoo.tasks.triples import Graph, Triple

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

EXACT = 500  # entities that a ranking takes all of, unless another number of candidates is asked for
SAMPLE = 100  # candidates where there are more
GLIMPSE = 16  # triples that are ranked while a model trains
TRUTH = ("false", "true")
SIDES = (("head", 0), ("tail", 2))  # with their places in a triple


@dataclass(frozen=True)
class TripleClassification(GraphTask):
    """Whether a triple is true: two classes, by the greater one (a threshold of one half, none by relation).

    Training triples are true; ``negatives`` false ones of each are drawn for each epoch. Where the files have no false
    triples in dev and test, one of each is drawn once, none of which is true in any split.
    """

    negatives: int = 1
    kind: str = "classification"
    ranks: ClassVar[bool] = False
    usual: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "matthews_correlation")
    parts: ClassVar[bool] = True

    def split_columns(self, split: str) -> dict[str, list[Any]]:
        columns = super().split_columns(split)
        return columns if split == "train" or 0 in columns["label"] else self._with_false(columns, split)

    def _with_false(self, columns: Mapping[str, list[Any]], split: str) -> dict[str, list[Any]]:
        triples = [Triple(*names) for names in zip(*(columns[part] for part in self.columns), strict=True)]
        drawn = self.false_triples(triples, 1, self.knowledge.true()).epoch(0)
        both = [triple for true, false in zip(triples, drawn, strict=True) for triple in (true, *false)]
        return self.columns_of(both, [True, False] * len(triples), split)

    def held_out(self, rows: Dataset, seed: int) -> tuple[Dataset, Dataset]:
        """See `Task.held_out`; of each triple that is taken a false one is drawn."""
        from kdzoo.tasks.sources.rows import checked

        kept, taken = super().held_out(rows, seed)
        columns = self._with_false({part: taken[part][:] for part in self.columns}, "validation")
        return kept, checked(self, f"{self.name}, held out", columns)

    def head(self) -> Head:
        names = dict(enumerate(TRUTH))
        by_name = {label: index for index, label in names.items()}
        config = {"num_labels": 2, "id2label": names, "label2id": by_name}
        return Head("AutoModelForSequenceClassification", config | {"problem_type": "single_label_classification"})

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """See `Task.encode`; the false triples of the training rows have a column ``epoch``."""
        triples, split = self.triples_of(rows)
        encoded = self.row_of(tokenizer, max_length)
        if split == "train":
            return dataset_of(self.training_rows(triples, encoded), tokenizer)
        found = [encoded(triple) for triple in triples]
        columns: dict[str, list[Any]] = {
            "input_ids": [row.input_ids for row in found],
            "token_type_ids": [row.token_type_ids for row in found],
            TAIL_START: [row.tail_start for row in found],
            "labels": list(map(int, rows["label"][:])),
        }
        return dataset_of(columns, tokenizer)

    def predictions(self, outputs: np.ndarray, rows: Dataset | None = None) -> np.ndarray:
        """Class ids (N,), from logits (N, 2)."""
        return np.asarray(_logits(self, outputs, 2).argmax(1))

    def references(self, rows: Dataset) -> np.ndarray:
        return np.asarray(rows["labels"][:])

    def constant(self, train: Dataset, references: Any) -> np.ndarray:
        """That every triple is true, or that none is, by which there are more of in training."""
        return np.full(len(references), int(np.mean(train["labels"][:]) >= 0.5))

    def one_class(self, predictions: Any) -> bool:
        return super(GraphTask, self).one_class(predictions)

    def what(self) -> str:
        return f"whether a triple is true, {self.negatives} false a true one in training"


@dataclass(frozen=True)
class RelationPrediction(GraphTask):
    """Which relation holds between two entities: as many classes as relations, no negatives; the true one's rank.

    Filtered: other relations that hold between the two do not count.
    """

    kind: str = "ranking"
    usual: ClassVar[tuple[str, ...]] = ("hits@1", "mrr", "mr", "hits@3", "hits@10")
    pairs: ClassVar[bool] = True

    def head(self) -> Head:
        names = dict(enumerate(self.knowledge.relations))
        if len(names) < 2:
            raise KdzooError(f"{self.name}: the graph has one relation, so there is none to predict")
        by_name = {label: index for index, label in names.items()}
        config = {"num_labels": len(names), "id2label": names, "label2id": by_name}
        return Head("AutoModelForSequenceClassification", config | {"problem_type": "single_label_classification"})

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """See `Task.encode`; ``known`` are the other relations that hold."""
        triples, _ = self.triples_of(rows)
        encoded = self.row_of(tokenizer, max_length)
        found = [encoded(triple) for triple in triples]
        known = self.knowledge.known
        numbers = [self.numbers_of(triple) for triple in triples]
        columns: dict[str, list[Any]] = {
            "input_ids": [row.input_ids for row in found],
            "token_type_ids": [row.token_type_ids for row in found],
            "labels": [relation for _, relation, _ in numbers],
            "known": [known.known(triple, "relation") for triple in triples],
            ASKED: numbers,
        }
        return dataset_of(columns, tokenizer)

    def predictions(self, outputs: np.ndarray, rows: Dataset | None = None) -> np.ndarray:
        """The filtered rank of each true relation (N,), from logits (N, R)."""
        logits = _logits(self, outputs, len(self.knowledge.relations), rows)
        assert rows is not None
        columns = zip(logits, rows["labels"][:], rows["known"][:], strict=True)
        return np.array([rank(scores, target, known) for scores, target, known in columns])

    def references(self, rows: Dataset) -> list[list[int]]:
        """The numbers of head, relation and tail."""
        return [list(triple) for triple in rows[ASKED][:]]

    def constant(self, train: Dataset, references: Any) -> np.ndarray:
        """The ranks of relations that are ordered by how often they stand in training."""
        times = np.bincount(train["labels"][:], minlength=len(self.knowledge.relations))
        triples = _named(self.knowledge, references)
        known = self.knowledge.known
        return np.array([rank(times, t[1], known.known(triple, "relation")) for t, triple in triples])

    def what(self) -> str:
        return "which relation holds between two entities"


@dataclass(frozen=True)
class LinkPrediction(GraphTask):
    """Which entity is a triple's head, and which its tail: the rank of the true one among all, scored one by one.

    A triple's score is the log-probability of its being true. Filtered: candidates that make a triple of any split do
    not count. Equal scores count half. Of a graph with many entities the ranking is among a sample of them, the same
    for every triple, and its metrics are called ``sampled_...``: they are not comparable with others' figures.

    Attributes:
        candidates: how many entities are ranked; by default all of at most 500, and 100 where there are more.
        lists: whether losses on logits compare a true triple and its false ones as one list, and not each by itself.
    """

    negatives: int = 5
    kind: str = "ranking"
    candidates: int | None = None
    lists: bool = False
    usual: ClassVar[tuple[str, ...]] = ("mrr", "mr", "hits@1", "hits@3", "hits@10")
    parts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.candidates is not None and self.candidates < 2:
            raise KdzooError(f"{self.name}: candidates must be 2 or more, got {self.candidates}")
        if self.lists and self.negatives < 1:
            raise KdzooError(f"{self.name}: lists are of false triples, too; negatives must be 1 or more")
        sampled = self._sample() is not None
        object.__setattr__(self, "kind", "sampled_ranking" if sampled else "ranking")
        for name in ("metrics", "headline"):  # of a graph that is ranked otherwise
            bare = [metric.removeprefix("sampled_") for metric in getattr(self, name)]
            object.__setattr__(self, name, tuple(f"sampled_{m}" if sampled and ":" not in m else m for m in bare))
        if not self.metrics and sampled:
            object.__setattr__(self, "metrics", tuple(f"sampled_{metric}" for metric in self.usual))
            object.__setattr__(self, "headline", self.headline or self.metrics[:1])
        super().__post_init__()

    def _sample(self) -> int | None:
        """How many entities are drawn as candidates; None for all."""
        entities = 0 if self.graph is None else len(self.graph.entities)
        wanted = self.candidates or (SAMPLE if entities > EXACT else None)
        return None if wanted is None or (entities and wanted >= entities) else wanted

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "candidates": self._sample()} | ({"lists": True} if self.lists else {})

    @property
    def rows_together(self) -> int:
        return 1 + self.negatives if self.lists else 1

    def head(self) -> Head:
        return TripleClassification.head(self)  # type: ignore[arg-type]

    def candidate_names(self) -> list[str]:
        """The entities that are ranked, by name."""
        return sample_of(list(self.knowledge.entities), self._sample(), self.seed)

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """See `Task.encode`; rows to be scored are all candidates, those that are asked for first."""
        graph = self.knowledge
        triples, split = self.triples_of(rows)
        encoded = self.row_of(tokenizer, max_length)
        if split == "train":
            return dataset_of(self.training_rows(triples, encoded), tokenizer)

        def texts(triple: Triple) -> tuple[str, ...]:
            return graph.entities[triple.head], graph.relations[triple.relation], graph.entities[triple.tail]

        columns = candidate_rows(triples, self.candidate_names(), graph.known, texts, encoded)
        others = len(columns["input_ids"]) - len(triples)
        columns["labels"] = [1] * len(triples) + [0] * others
        columns[ASKED] = [*map(self.numbers_of, triples), *[[]] * others]
        return dataset_of(columns, tokenizer)

    def glimpse(self, rows: Dataset) -> Dataset:
        """The first triples with their candidates."""
        return first_asked(rows, GLIMPSE)

    def predictions(self, outputs: np.ndarray, rows: Dataset | None = None) -> np.ndarray:
        """The filtered ranks of each triple's head and tail (N, 2), from logits (M, 2) of all candidates."""
        logits = _logits(self, outputs, 2, rows).astype(float)
        assert rows is not None
        return ranks(-np.logaddexp(0.0, logits[:, 0] - logits[:, 1]), rows)

    def references(self, rows: Dataset) -> list[list[int]]:
        """The numbers of head, relation and tail."""
        return [list(triple) for triple in rows[ASKED][:] if triple]

    def constant(self, train: Dataset, references: Any) -> np.ndarray:
        """The ranks of entities that are ordered by how often they are a true triple's head, or tail, in training."""
        graph, known = self.knowledge, self.knowledge.known
        true = [t for t, label in zip(train[ASKED][:], train["labels"][:], strict=True) if label]
        times = {side: Counter(triple[part] for triple in true) for side, part in SIDES}
        ranked = {known.index["head"][name] for name in self.candidate_names()}
        found = []
        for numbers, triple in _named(graph, references):
            pair = []
            for side, part in SIDES:
                pool = sorted((ranked | {numbers[part]}) - {*known.known(triple, side)})
                pair.append(rank([times[side][at] for at in pool], pool.index(numbers[part])))
            found.append(pair)
        return np.array(found)

    def what(self) -> str:
        size, all_of = self._sample(), len(self.knowledge.entities)
        among = "ranked among all" if size is None else f"sampled ranking, among a fixed {size} of {all_of}"
        lists = f", trained in lists of {self.rows_together}" if self.lists else ""
        return f"which head and which tail makes a triple true, {among}{lists}"


def _logits(task: GraphTask, outputs: Any, width: int, rows: Dataset | None = None) -> np.ndarray:
    """A model's logits, checked."""
    logits = np.asarray(outputs)
    if logits.ndim != 2 or logits.shape[1] != width or (rows is not None and len(rows) != len(logits)):
        raise KdzooError(f"{task.name} needs its rows and logits (N, {width}), got {logits.shape}")
    return logits


def _named(graph: Graph, references: Any) -> list[tuple[list[int], Triple]]:
    """Triples by number, with their names."""
    entities, relations = list(graph.entities), list(graph.relations)
    return [
        ([*map(int, t)], Triple(entities[int(t[0])], relations[int(t[1])], entities[int(t[2])])) for t in references
    ]


UMLS = built_in(LinkPrediction("umls"))
WN18RR = built_in(RelationPrediction("wn18rr"))
WN11 = built_in(TripleClassification("wn11"))
