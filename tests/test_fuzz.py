"""Recipes, expressions, settings and records of any kind are read or refused: no exception but `KdzooError` comes out.

A short run is one of the fast tests; ``KDZOO_FUZZ_MINUTES=10 pytest tests/test_fuzz.py`` takes that long for all.
"""

from __future__ import annotations

import copy
import json
import os
import string
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import files, names
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kdzoo
from kdzoo.bench.packed import Study
from kdzoo.bench.record import read_config, read_failure, read_record
from kdzoo.bench.report.table import csv_table, latex_table, markdown_table
from kdzoo.errors import KdzooError
from kdzoo.objectives.expression import split_methods
from kdzoo.objectives.overrides import load_recipes
from kdzoo.objectives.recipe import Recipe, Stage, TermSpec, Training

MINUTES = float(os.environ.get("KDZOO_FUZZ_MINUTES", "0"))
PARTS = 5  # tests below, which share the time
EXAMPLES = 500 if MINUTES else 25

pytestmark = pytest.mark.timeout(300 + 60 * MINUTES)


def for_a_while(test: Callable[[], None]) -> None:
    """Run a test of hypothesis once, or again and again for its share of the minutes."""
    end = time.monotonic() + 60 * MINUTES / PARTS
    test()
    while time.monotonic() < end:
        test()


fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

LOSSES = kdzoo.available()
NAMES = [*LOSSES, *kdzoo.available("recipes"), *names.REFUSED, *names.FINE]
WORDS = [*NAMES, "hidden", "cls", "logits", "skip", "uniform[-1]", "last", "all", "together", "mean", "linear",
         "tensor", "teacher:1,3", "4x312", "1e5", ".inf", "null"]  # fmt: skip
NUMBERS = [0, 1, -1, 2, 0.5, 1e-300, 1e300, -0.0, 10**400, 2**63, float("inf"), float("nan")]
KEYS = sorted({*Recipe.model_fields, *Stage.model_fields, *TermSpec.model_fields, *Training.model_fields, "temperature",
               "beta", "norm", "epsilon", "points", "variant", "", "../x", "model_config", "__class__"})  # fmt: skip

words = st.one_of(st.sampled_from(WORDS), st.text(max_size=12))
leaves = st.one_of(words, st.sampled_from(NUMBERS), st.integers(), st.floats(), st.booleans(), st.none())
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(st.sampled_from(KEYS), words), inner, max_size=4)
    ),
    max_leaves=12,
)


def places(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value within some data."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [at, *(place for key, part in inner for place in places(part, (*at, key)))]


def changed(data: Any, place: tuple[Any, ...], how: str, value: Any) -> Any:
    """A copy with the value at a place replaced, removed, doubled, or with one more beside it."""
    if not place:
        return value
    data = copy.deepcopy(data)
    inside = data
    for key in place[:-1]:
        inside = inside[key]
    if how == "removed":
        del inside[place[-1]]
    elif how == "doubled" and isinstance(inside, list):
        inside.append(copy.deepcopy(inside[place[-1]]))
    elif how == "added" and isinstance(inside, dict):
        inside[str(value)[:10]] = value
    else:
        inside[place[-1]] = value
    return data


@st.composite
def mutated(draw: st.DrawFn, originals: list[Any]) -> Any:
    """Data that was good, changed in up to four places."""
    data = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.sampled_from(places(data)[-300:] or [()]))
        data = changed(data, place, draw(st.sampled_from(["replaced", "removed", "doubled", "added"])), draw(values))
    return data


def refused_or(read: Callable[[], Any]) -> Any:
    """What is read; None for what is refused, in a line that any terminal can show."""
    try:
        return read()
    except KdzooError as error:
        said = str(error)
        assert said and len(said) < 2100 and said.replace("\n", " ").replace("\t", " ").isprintable()
        return None


def recipes() -> list[dict[str, Any]]:
    return [Recipe.load(name).model_dump(mode="json", exclude_defaults=True) for name in kdzoo.available("recipes")]


def test_recipes(tmp_path: Path) -> None:
    originals = recipes()

    @fuzzed
    @given(st.one_of(mutated(originals), values))
    def run(data: Any) -> None:
        recipe = refused_or(lambda: Recipe.parse(data))
        if recipe is not None:
            path = tmp_path / "recipe.yaml"
            path.write_text(recipe.to_yaml(), encoding="utf-8")
            again = Recipe.load(path)
            assert again.objective().terms and again.name == recipe.name
            refused_or(recipe.on_text)

    for_a_while(run)


def test_files_of_recipes(tmp_path: Path) -> None:
    texts = [yaml.safe_dump(data, sort_keys=False).encode() for data in recipes()]
    texts += [content for _, content, _ in files.RECIPES if len(content) < 10_000]
    path = tmp_path / "recipe.yaml"

    @fuzzed
    @given(st.sampled_from(texts), st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=6)), max_size=5))
    def run(text: bytes, cuts: list[tuple[int, bytes]]) -> None:
        for at, piece in cuts:
            at %= len(text) + 1
            text = text[:at] + piece + text[at + len(piece) // 2 :]
        path.write_bytes(text)
        refused_or(lambda: Recipe.load(path))

    for_a_while(run)


def test_expressions_and_settings() -> None:
    piece = st.one_of(
        st.sampled_from(LOSSES),
        st.sampled_from(
            [*"+*@()[]=,:-.'\"{}", " + ", "*0.5", "@cls", "[skip]", "(temperature=2)", "mine = ", "**", "lambda:"]
        ),
        words,
        st.sampled_from(NUMBERS).map(str),
        st.text(string.printable, max_size=4),
    )
    expressions = st.lists(piece, min_size=1, max_size=10).map("".join)
    keys = st.lists(st.one_of(st.sampled_from([*KEYS, *LOSSES, "kd:", "0", "99"]), words), min_size=1, max_size=4)
    written = st.one_of(leaves.map(str), values.map(str), st.text(max_size=10))
    options = st.tuples(keys.map(".".join), st.sampled_from(["=", "", "=="]), written).map("".join)

    @fuzzed
    @given(st.one_of(expressions, st.text(max_size=30)), st.lists(options, max_size=2))
    def run(text: str, overrides: list[str]) -> None:
        def read() -> None:
            methods = split_methods(text)
            for name, recipe in load_recipes([*methods, "kd = kd + ce"], overrides, training="own").items():
                assert recipe.name == name and recipe.objective().terms

        refused_or(read)
        refused_or(lambda: Recipe.load("tinybert").override(overrides))
        if "all" not in text:
            refused_or(lambda: Recipe.load(text))

    for_a_while(run)


def record(task: str, method: str, seed: int) -> dict[str, Any]:
    """A record as a comparison writes it, small."""
    answers = [0.0, 1.0, 1.0, 0.0]
    return {
        "format": 1, "task": task, "method": method, "seed": seed, "score": 75.0, "samples_per_second": 100.0,
        "parameters": 1000, "tokens_per_second": 900.0, "train_seconds": 1.0, "steps": 4, "peak_memory": 2**20,
        "kind": "classification", "headline": ["accuracy"], "metrics": {"accuracy": 0.75}, "one_class": False,
        "predictions": {"validation": answers}, "configuration": {"task": task, "shared": {"data": "synthetic"}},
        "curve": [{"step": 2, "seconds": 0.5, "score": 60.0}, {"step": 4, "seconds": 1.0, "score": 75.0}],
        "history": [{"loss": 1.0, "loss/kd": 0.5, "step": 1}, {"train_runtime": 1.0, "step": 4}],
        "inference": {"1": {"latency_ms": 1.0, "rows_per_second": 1e3}}, "step_seconds": {"forward": 0.1},
        "rows": {"train": 8, "validation": 4}, "versions": {"torch": "2"}, "started": "2025-01-01T00:00:00+00:00",
        **({"references": {"validation": answers[::-1]}} if method == "teacher" else {}),
    }  # fmt: skip


def test_records(tmp_path: Path) -> None:
    good = [record("sst2", "teacher", 0), record("sst2", "none", 0), record("sst2", "kd", 0)]
    path = tmp_path / "sst2-kd-0.json"

    @fuzzed
    @given(mutated([good[2]]))
    def run(data: Any) -> None:
        path.write_text(json.dumps(data))
        read = refused_or(lambda: read_record(path))
        refused_or(lambda: read_failure(path))
        refused_or(lambda: read_config(path))
        if read is not None:
            for table in (csv_table, markdown_table, latex_table):
                refused_or(lambda table=table: table([*good[:2], read]))

    for_a_while(run)


def test_reports_of_records(tmp_path: Path) -> None:
    from kdzoo.bench.report.findings import Findings
    from kdzoo.bench.report.page import html

    good = [record("sst2", "teacher", 0), record("sst2", "none", 0), record("sst2", "kd", 0)]
    path = tmp_path / "sst2-kd-0.json"

    @settings(fuzzed, max_examples=max(EXAMPLES // 25, 2))
    @given(mutated([good[2]]))
    def run(data: Any) -> None:
        path.write_text(json.dumps(data))
        read = refused_or(lambda: read_record(path))
        if read is not None:
            refused_or(lambda: html(Findings(Study({}, [*good[:2], read], [])), "", ""))

    for_a_while(run)
