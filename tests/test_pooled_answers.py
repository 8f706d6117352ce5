"""Answers that are pooled over a question's abstracts, and BioASQ's measures of them."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Commands, records
from tasks_by_unit import made

from kdzoo.tasks import QuestionAnswering
from kdzoo.tasks.metrics import resampled_values
from kdzoo.tasks.own import from_data
from kdzoo.tasks.resampling import counts

LENGTH = 40
SMALL = (
    *("--teacher", "2x32,heads=2", "--student", "1x16,heads=2", "--kind", "spans"),
    *("--epochs", "1", "--max-length", "48", "--seeds", "1"),
)


def abstracts(path: Path, questions: int = 6, *, silent: tuple[int, ...] = (), **broken: Any) -> Path:
    """A file in BioASQ's form: each question with three abstracts, of which the second says nothing, in mixed order."""
    found = []
    for number in range(3):
        for question in range(questions):
            gene = f"Gene{question}{'b' * (number == 2)}"
            context = f"Study {number} of disease {question} : the cause is {gene} ."
            entry = {"id": f"q_{question}_{number:03}", "question": f"what causes disease {question} ?"}
            entry |= {"answers": [{"text": gene, "answer_start": context.index(gene)}]}
            if number == 1 or question in silent:
                entry |= {"is_impossible": True, "answers": []}
            found.append({"context": context, "qas": [entry]})
    found[0]["qas"][0] |= broken
    path.write_text(json.dumps({"data": [{"paragraphs": found}]}))
    return path


def test_answers_pooled_over_abstracts(commands: Commands, tmp_path: Path) -> None:
    file = abstracts(tmp_path / "train.json", 12)
    own = from_data({"train": file, "validation": abstracts(tmp_path / "dev.json")}, kind="spans", metric="mrr").task
    assert own.headline == ("mrr",) and own.metrics == ("mrr", "strict_accuracy", "lenient_accuracy")
    assert own.name in own.describe() and "pooled" in own.describe()
    tokenizer = made("squad", length=LENGTH)[3]
    rows = own.encode(own.rows()["validation"], tokenizer, LENGTH)
    assert own.references(rows) == [[f"Gene{question}", f"Gene{question}b"] for question in range(6)]

    rng = np.random.default_rng(secrets.randbits(32))
    outputs = rng.normal(size=(len(rows), LENGTH)), rng.normal(size=(len(rows), LENGTH))
    # What each abstract's n best say, and who asked, counted by hand.
    shares: dict[str, dict[str, float]] = {}
    one_by_one = QuestionAnswering("mine").answers(*outputs, rows, nullable=True)
    for asked, answer in zip(own.rows()["validation"]["id"], one_by_one, strict=True):
        of = shares.setdefault(asked[:-4], {})
        for candidate in answer.candidates:
            if candidate.text:
                of[candidate.text.lower()] = of.get(candidate.text.lower(), 0.0) + candidate.probability
    ranked = [sorted(of, key=lambda text: -of[text])[:5] for of in shares.values()]
    found = own.predictions(outputs, rows)
    assert [[text.lower() for text in answers] for answers in found] == ranked
    scores = own.evaluate(found, own.references(rows))
    right = [[text in (f"gene{at}", f"gene{at}b") for text in answers] for at, answers in enumerate(ranked)]
    assert scores["strict_accuracy"] == pytest.approx(np.mean([answers[0] for answers in right]))
    assert scores["lenient_accuracy"] == pytest.approx(np.mean([any(answers) for answers in right]))
    assert scores["mrr"] == pytest.approx(np.mean([1 / (1 + of.index(True)) if any(of) else 0 for of in right]))
    drawn = counts(rng.integers(6, size=(4, 6)), 6)
    again = resampled_values("mrr", "spans", [found], own.references(rows), drawn)
    each = np.array([1 / (1 + of.index(True)) if any(of) else 0 for of in right])
    assert again[0] == pytest.approx(drawn @ each / 6)

    held = from_data(file, kind="spans", metric="strict_accuracy")
    split = held.task.rows()
    assert not {one[:-4] for one in split["train"]["id"]} & {one[:-4] for one in split["validation"]["id"]}
    assert "by question" in held.notes[1]
    given = ("--data", file, *SMALL)
    said = commands.works("compare", *given, "--metric", "mrr", "--methods", "kd", "--out", tmp_path / "out")
    assert "lenient_accuracy" in said
    record = records(tmp_path / "out")["train-kd-0"]
    assert all(isinstance(answers, list) and len(answers) <= 5 for answers in record["predictions"]["validation"])
    commands.works("report", tmp_path / "out")


def test_questions_with_fewer_answers_than_five(tmp_path: Path) -> None:
    """Of a short abstract there are fewer spans than five, so that questions have lists of other lengths."""
    entry = {"question": "which ?", "answers": [{"text": "the", "answer_start": 0}]}
    contexts = ["the", "the", "the gene and the disease ."]
    told = [{"context": text, "qas": [entry | {"id": f"q{n}_0"}]} for n, text in enumerate(contexts)]
    (tmp_path / "mine.json").write_text(json.dumps({"data": [{"paragraphs": told}]}))
    files = dict.fromkeys(("train", "validation"), tmp_path / "mine.json")
    task = from_data(files, kind="spans", metric="mrr").task
    rows = task.encode(task.rows()["validation"], made("squad", length=LENGTH)[3], LENGTH)
    rng = np.random.default_rng(secrets.randbits(32))
    found = task.predictions((rng.normal(size=(3, LENGTH)), rng.normal(size=(3, LENGTH))), rows)
    assert len(found[0]) < len(found[2])
    assert not task.one_class(found) and task.one_class([found[0]] * 2) and not task.one_class([found[0]])
    assert 0 < task.evaluate(found, task.references(rows))["mrr"] <= 1


@pytest.mark.parametrize(
    ("more", "broken", "says"),
    [
        (("--metric", "mrr,f1"), {}, "f1 is of single answers, and mrr of answers pooled"),
        (("--metric", "mrr"), {"id": "q17"}, "'q17' is no id of a question and its number"),
        (("--metric", "mrr"), {"silent": tuple(range(6))}, "has no answer in any paragraph; leave it out"),
    ],
)
def test_abstracts_that_cannot_be_pooled(
    commands: Commands, tmp_path: Path, more: tuple[str, ...], broken: dict[str, Any], says: str
) -> None:
    file = abstracts(tmp_path / "mine.json", **broken)
    given = ("--data", file, *SMALL, "--out", tmp_path / "out")
    commands.fails("compare", *given, *more, says=("mine", says))
