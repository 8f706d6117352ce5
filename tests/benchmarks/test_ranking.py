"""Exact ranking of a graph of UMLS's size: a bi-encoder student against the cross-encoder that taught it.

    pytest tests/benchmarks/test_ranking.py -s

The target is a ranking at least 50 times as fast, from encoded rows to ranks. The cross-encoder is timed on a part of
the candidates, each once and sorted by length, and its time is that of all in proportion; the bi-encoder ranks all.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import TrainingArguments

from kdzoo.bench.runs.evaluate import predict
from kdzoo.models.spec import ModelSpec
from kdzoo.models.vocabulary import learned_tokenizer
from kdzoo.tasks import LinkPrediction, load
from kdzoo.tasks.triples import Graph, Triple
from kdzoo.training.trainer import DistillationTrainer

ENTITIES, RELATIONS, TRAIN, TEST = 135, 46, 5216, 661  # UMLS's
TEACHER, STUDENTS = "6x384,heads=12", ("bi:6x384,heads=12", "bi:3x384,heads=12", "bi:4x312,heads=12")
PART = 1500  # candidates that the cross-encoder is timed on
TARGET = 50


@pytest.fixture(scope="module")
def ranked() -> tuple[Any, Any, Any]:
    """The task, its test rows and a tokenizer: a graph drawn at random, with texts of one to four words."""
    rng = random.Random(0)
    words = [f"word{number}" for number in range(150)]
    entities = {f"e{n}": " ".join(rng.choices(words, k=rng.choice((1, 2, 2, 3, 4)))) for n in range(ENTITIES)}
    relations = {f"r{n}": " ".join(rng.choices(words, k=rng.choice((1, 1, 2)))) for n in range(RELATIONS)}
    drawn: dict[Triple, None] = {}
    while len(drawn) < TRAIN + 2 * TEST:
        # Few relations hold most triples, as in UMLS.
        relation = f"r{min(int(rng.expovariate(0.12)), RELATIONS - 1)}"
        drawn[Triple(rng.choice([*entities]), relation, rng.choice([*entities]))] = None
    triples = [*drawn]
    graph = Graph(entities, relations, triples[: -2 * TEST], triples[-2 * TEST : -TEST], triples[-TEST:])
    task = LinkPrediction("mine", graph=graph, own=True, test_split="test")
    data = load(task, "own")
    tokenizer = learned_tokenizer(task.texts(data["train"]))
    return task, task.encode(data["test"], tokenizer, 32), tokenizer


def trainer(size: str, ranked: tuple[Any, Any, Any], folder: Path) -> DistillationTrainer:
    task, _, tokenizer = ranked
    model = ModelSpec.parse(size).build(task, tokenizer=tokenizer)
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_eval_batch_size=64, report_to="none", disable_tqdm=True, use_cpu=True
    )
    return DistillationTrainer(
        model=model, objective="ce", args=arguments, data_collator=task.collator(tokenizer), processing_class=tokenizer
    )


def test_a_bi_encoder_ranks_faster(ranked: tuple[Any, Any, Any], tmp_path: Path) -> None:
    task, rows, _ = ranked
    part = rows.select(np.random.default_rng(0).choice(len(rows), PART, replace=False))
    cross = trainer(TEACHER, ranked, tmp_path)
    predict(cross, part.select(range(64)))
    start = time.perf_counter()
    predict(cross, part)
    whole = (time.perf_counter() - start) * len(rows) / PART
    print(f"\n{TEST} triples, {len(rows)} candidate rows; {TEACHER}: {whole:.0f} s ({len(rows) / whole:.0f} rows/s)")
    faster = {}
    for size in STUDENTS:
        student = trainer(size, ranked, tmp_path)
        start = time.perf_counter()
        outputs = predict(student, rows)
        read = time.perf_counter() - start
        ranks = task.predictions(outputs, rows)
        taken = time.perf_counter() - start
        assert ranks.shape == (TEST, 2)
        faster[size] = (whole + taken - read) / taken
        parts = len({*rows["query_part"][:]}) + len({*rows["tail_part"][:]})
        print(f"{size}: {taken:.1f} s, {parts} parts read; {faster[size]:.0f} times as fast")
    assert max(faster.values()) >= TARGET
