"""Tasks answered by a span of a paragraph: what is encoded, trained on and scored, from files of one's own too."""

from __future__ import annotations

import gzip
import json
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import ROWS, Commands, records
from hostile import models
from tasks_by_unit import compared, losses, made, model, trainer

import kdzoo
from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.tasks import QuestionAnswering, get_task, load
from kdzoo.tasks.metrics import get_metric, resampled_values, squad_scores
from kdzoo.tasks.own import from_data
from kdzoo.tasks.own_file import from_yaml
from kdzoo.tasks.resampling import counts
from kdzoo.tasks.synthetic import passages
from kdzoo.training.cache import TeacherCache
from kdzoo.training.labels import Labels

SMALL = ("--teacher", "2x32,heads=2", "--student", "1x16,heads=2", *ROWS, "--max-length", "48")
LENGTH = 40


def squad_file(path: Path, paragraphs: int = 6, *, impossible: bool = False, **broken: Any) -> Path:
    """A file in SQuAD's form with two questions a paragraph."""
    found = []
    for number in range(paragraphs):
        context = f"Town {number} has a mill , which Anna{number} built in 18{number:02} ."
        qas: list[dict[str, Any]] = []
        for at, (question, text) in enumerate((("who built it ?", f"Anna{number}"), ("when ?", f"18{number:02}"))):
            answers = [{"text": text, "answer_start": context.index(text)}]
            qas.append({"id": f"{number}-{at}", "question": question, "answers": answers})
            if impossible and at:
                qas[-1] |= {"is_impossible": True, "answers": []}
        found.append({"context": context, "qas": qas})
    if broken:
        found[1]["qas"][0] |= broken
    text = json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": found}]}).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def logits_of(rows: Any, width: int, high: float = 9.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model that knows the labels."""
    start, end = np.zeros((len(rows), width)), np.zeros((len(rows), width))
    for number, row in enumerate(rows):
        for side, name in ((start, "start_positions"), (end, "end_positions")):
            side[number, max(row[name], 0)] = high
    return start, end


def test_kd_counts_the_paragraph_s_places() -> None:
    task, _, rows, tokenizer = made("squad", length=LENGTH)
    batch = task.collator(tokenizer)([rows[at] for at in range(6)])
    student, teacher = model(task, tokenizer, "1x16,heads=2", seed=1), model(task, tokenizer)
    objective = kdzoo.Objective([kdzoo.Term("kd", temperature=2.0), kdzoo.Term("ce")])
    found = compared(objective, student, teacher, batch)

    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        outputs = student(**inputs), teacher(**inputs)
    kd, ce = [], []
    for row in range(6):
        # The paragraph stands in segment 1, but for the last [SEP]; the first token stands for "not here".
        places = np.flatnonzero(batch["token_type_ids"][row].numpy())[:-1]
        places = np.concatenate([[0], places])
        assert np.array_equal(places, np.flatnonzero(task.counted(batch)[row].numpy()))
        for side in ("start", "end"):
            zs, zt = (getattr(o, f"{side}_logits")[row].numpy().astype(float)[places] for o in outputs)
            p, q = (z / 2 - np.log(np.exp(z / 2).sum()) for z in (zt, zs))
            kd.append(4 * (np.exp(p) * (p - q)).sum())
            label = int(batch[f"{side}_positions"][row])
            ce.append(np.log(np.exp(zs).sum()) - zs[places == label][0])
    assert found["kd"] == pytest.approx(np.mean(kd), rel=1e-4)
    assert found["ce"] == pytest.approx(np.mean(ce), rel=1e-4)


def test_without_places_the_loss_is_transformers_own() -> None:
    """A batch of a user's own, without ``counted``: starts and ends over all real tokens, half of each."""
    task, _, rows, tokenizer = made("squad", length=LENGTH)
    row = rows[3]
    batch = task.collator(tokenizer)([row, row])
    del batch["counted"]
    student = model(task, tokenizer)
    found = compared(kdzoo.Objective([kdzoo.Term("ce")]), student, None, batch)
    names = ("input_ids", "attention_mask", "token_type_ids", "start_positions", "end_positions")
    with torch.no_grad():
        assert found["ce"] == pytest.approx(student(**{name: batch[name] for name in names}).loss.item(), rel=1e-5)
    del batch["end_positions"]
    with pytest.raises(KdzooError, match="no end_positions"):
        Labels.of(student, batch)


def test_a_question_whose_answer_is_not_at_its_place_trains_nothing() -> None:
    task, data, _, tokenizer = made("squad", length=LENGTH)
    lost = data.to_dict()
    # The text is there, but not where it is said to be.
    lost["starts"][0] = [0 if lost["starts"][0][0] else 5]
    from datasets import Dataset

    rows = task.encode(Dataset.from_dict(lost, features=data.features), tokenizer, LENGTH)
    first = [row for row in rows if row["unit_ids"] == 0]
    assert {row["start_positions"] for row in first} == {-100}
    student, teacher = model(task, tokenizer, "1x16,heads=2", seed=1), model(task, tokenizer)

    def values(which: list[Any]) -> dict[str, float]:
        objective = kdzoo.Objective([kdzoo.Term("kd"), kdzoo.Term("ce")])
        return compared(objective, student, teacher, task.collator(tokenizer)(which))

    others = [row for row in rows if row["unit_ids"] in (1, 2)]
    assert values([*first, *others]) == pytest.approx(values(others), rel=1e-5)


def test_cached_starts_and_ends_are_the_teacher_s(tmp_path: Path) -> None:
    task, _, rows, tokenizer = made("squad", length=LENGTH)

    def run(cache: TeacherCache | None, batch: int = 8, pieces: int = 1) -> list[float]:
        objective = kdzoo.Objective([kdzoo.Term("kd"), kdzoo.Term("ce")])
        one = trainer(task, tokenizer, rows, tmp_path / "o", objective, cache=cache, batch=batch, pieces=pieces)
        one.train()
        assert (one.teacher_rows is not None) == (cache is not None)
        return losses(one)

    whole = run(None)
    assert run(TeacherCache(tmp_path / "cache")) == pytest.approx(whole, rel=1e-4)
    assert run(None, 4, 2) == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        *((name, {}) for name in ("logit_mse", "dkd", "nkd", "logit_std", "annealing", "dist", "mlkd")),
        ("ce", {"label_smoothing": 0.1}),
    ],
)
def test_losses_on_all_classes_are_refused(loss: str, options: dict[str, float]) -> None:
    task, _, _, tokenizer = made("squad", train=4)
    with pytest.raises(KdzooError, match="compares all classes"):
        kdzoo.Objective([kdzoo.Term(loss, **options)]).bind(model(task, tokenizer), model(task, tokenizer))


def test_windows_of_a_question_are_answered_together() -> None:
    task, data, rows, tokenizer = made("squad", length=24)
    task = QuestionAnswering("squad", stride=4)
    rows = task.encode(data, tokenizer, 24)
    assert len(rows) > 2 * len(data) and max(rows["length"]) <= 24
    assert rows["sample_ids"][:] == [*range(len(rows))]
    assert sorted(set(rows["unit_ids"])) == [*range(len(data))] and rows["unit_ids"][:] == sorted(rows["unit_ids"])
    assert task.references(rows) == data["answers"][:]
    start, end = logits_of(rows, 30)
    start[:, 0] = end[:, 0] = 0.0
    start[:, 1:3] = end[:, 1:3] = 99.0  # the question's own tokens never win
    answers = task.predictions((start, end), rows)
    # An answer begins in the window where its first token has its most context, which may be too short for all of it.
    whole = {row["unit_ids"] for row in rows if row["start_positions"] and row["max_context"][row["start_positions"]]}
    assert len(whole) > 0.8 * len(data)
    assert [answers[at] for at in sorted(whole)] == [data["answers"][at][0] for at in sorted(whole)]
    assert task.evaluate(answers, task.references(rows))["f1"] >= len(whole) / len(data)
    with pytest.raises(KdzooError, match="start and end logits"):
        task.predictions(start, rows)


def test_questions_without_an_answer(tmp_path: Path) -> None:
    own = from_data(squad_file(tmp_path / "train.json", impossible=True), kind="spans")
    data = own.task.rows()["train"]
    _, _, _, tokenizer = made("squad")
    rows = own.task.encode(data, tokenizer, LENGTH)
    gold = own.task.references(rows)
    assert [] in gold
    assert own.task.predictions(logits_of(rows, LENGTH), rows) == [(texts or [""])[0] for texts in gold]
    sure = QuestionAnswering("mine", null_threshold=1e9).predictions(logits_of(rows, LENGTH), rows)
    assert "" not in sure
    assert own.task.constant(rows, gold) == [""] * len(gold) and own.task.constant(rows, [["a"]]) is None
    assert own.task.evaluate([""] * len(gold), gold)["f1"] == pytest.approx(sum(not g for g in gold) / len(gold))


def test_metrics_and_their_resamples_are_squad_s() -> None:
    seed = secrets.randbits(32)
    print("seed", seed)
    rng = np.random.default_rng(seed)
    words = ["the", "red", "mill", "a", "boat", "!", "1804"]

    def text(least: int = 0) -> str:
        return " ".join(rng.choice(words, size=rng.integers(least, 4)))

    for least in (0, 1):  # with questions that have no answer, and without
        golds = [[text() for _ in range(rng.integers(least, 3))] for _ in range(30)]
        cells = [[text() for _ in golds] for _ in range(2)]
        index = rng.integers(30, size=(3, 30))
        drawn = counts(index, 30)
        version = "1.1" if least else "2.0"
        for name in ("exact_match", "f1"):

            def official(cell: list[str], rows: Any, name: str = name, golds: Any = golds, of: str = version) -> float:
                ids = [str(at) for at in range(len(rows))]
                guesses = dict(zip(ids, (cell[at] for at in rows), strict=True))
                return squad_scores(guesses, dict(zip(ids, (golds[at] for at in rows), strict=True)), version=of)[name]

            if all(golds) == (version == "1.1"):
                found = resampled_values(name, "spans", cells, golds, drawn)
                for row, cell in enumerate(cells):
                    assert 100 * get_metric(name, "spans").compute(cell, golds) == pytest.approx(
                        official(cell, range(30))
                    )
                    for column, rows in enumerate(index):
                        assert 100 * found[row, column] == pytest.approx(official(cell, rows))


def test_synthetic_rows_are_their_own() -> None:
    whole = passages.generate("train", 30, seed=3)
    for context, answers, starts in zip(whole["context"], whole["answers"], whole["starts"], strict=True):
        assert context[starts[0] : starts[0] + len(answers[0])] == answers[0]
    assert passages.generate("train", 10, seed=3) == {name: values[:10] for name, values in whole.items()}
    assert not {*passages.generate("train", 600)["context"]} & {*passages.generate("validation", 300)["context"]}
    with pytest.raises(KdzooError, match="no synthetic split 'test'"):
        passages.generate("test")


def test_a_comparison_whole(commands: Commands, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ("compare", "--tasks", "squad,ner", *SMALL, "--methods", "kd,tinybert", "--out", out)
    assert "exact_match" in commands.works(*asked)
    found = records(out)
    assert len(found) == 6
    teacher = found["squad-teacher"]
    references = teacher["references"]["validation"]
    assert teacher["kind"] == "spans" and len(references) == 32
    for name, record in found.items():
        if name.startswith("squad"):
            predicted = dict(enumerate(record["predictions"]["validation"]))
            official = squad_scores(predicted, dict(enumerate(references)))
            assert {k: 100 * v for k, v in record["metrics"].items()} == pytest.approx(official)
            assert record["score"] == pytest.approx(official["f1"])
    assert found["squad-kd-0"]["cached"]
    from kdzoo.bench.report.uncertainty import Bootstrap

    estimate = Bootstrap([*found.values()], resamples=50).score("kd", "squad")
    assert estimate is not None and estimate.low <= estimate.value <= estimate.high
    (out / "cells" / "squad-kd-0.json").unlink()
    commands.works(*asked)  # which makes that cell again
    assert records(out)["squad-kd-0"]["predictions"] == found["squad-kd-0"]["predictions"]


def test_a_model_trained_here_is_a_teacher(commands: Commands, tmp_path: Path) -> None:
    data = ("--task", "squad", *ROWS, "--max-length", "48")
    commands.works("finetune", *data, "--model", "2x32,heads=2", "--out", tmp_path / "teacher")
    given = ("--teacher", tmp_path / "teacher", "--student", "1x16,heads=2")
    commands.works("distill", *data, *given, "--method", "lrc", "--out", tmp_path / "student")
    other = ("distill", "--task", "ner", *ROWS, *given, "--method", "kd", "--out", tmp_path / "other")
    commands.fails(*other, says=("token-classification",))


@pytest.mark.parametrize("name", ["train-v1.1.json.gz", "train.json"])
def test_a_folder_of_squad_s_files(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "squad"
    folder.mkdir()
    squad_file(folder / name, 5)
    squad_file(folder / "dev-v1.1.json", 3)
    found = load(get_task("squad"), tmp_path)
    assert {split: len(rows) for split, rows in found.items()} == {"train": 10, "validation": 6}
    assert len(load(get_task("squad"), tmp_path, train_rows=4)["train"]) == 4
    squad_file(folder / "dev.json", 3)
    with pytest.raises(KdzooError, match="more than once"):
        load(get_task("squad"), tmp_path)


def test_data_of_one_s_own(commands: Commands, tmp_path: Path) -> None:
    file = squad_file(tmp_path / "mine.json", 20)
    own = from_data(file, kind="spans", metric="exact_match")
    rows = own.task.rows()
    assert own.task.name == "mine" and own.task.headline == ("exact_match",)
    assert (len(rows["train"]), len(rows["validation"])) == (36, 4)
    assert not {*rows["train"]["context"]} & {*rows["validation"]["context"]}, "a paragraph's questions stay together"
    assert "by paragraph" in own.notes[1]
    small = (*SMALL, "--methods", "none", "--out", tmp_path / "out")
    commands.works("compare", "--data", file, "--kind", "spans", *small)
    assert "mine-none-0" in records(tmp_path / "out")
    described = tmp_path / "named.yaml"
    described.write_text("kind: spans\nfiles: {train: mine.json, validation: mine.json}\n")
    said = commands.works("check", "none", "--tasks", described, "--teacher", "2x32,heads=2")
    assert "40 of 40 validation questions on a paragraph that training has" in said


def test_answers_that_occur_more_than_once_are_said(tmp_path: Path) -> None:
    file = squad_file(tmp_path / "mine.json", occurrences=2)
    with pytest.warns(KdzooWarning, match="1 of 12 questions say that their answer occurs more than once"):
        rows = from_data(file, kind="spans").task.rows()
    assert sum(map(len, rows.values())) == 12, "they are kept"


def test_answers_that_are_not_at_their_place_are_counted(commands: Commands, tmp_path: Path) -> None:
    """Of some it is said that they teach nothing; where none is at its place nothing would be learned at all."""
    data = json.loads(squad_file(tmp_path / "mine.json", 20).read_text())
    entries = [(one["context"], qa) for one in data["data"][0]["paragraphs"] for qa in one["qas"]]
    given = ("compare", "--data", tmp_path / "mine.json", "--kind", "spans", *SMALL, "--methods", "none")
    for wrong in (3, len(entries)):
        for context, entry in entries[:wrong]:
            answer = entry["answers"][0]
            answer["answer_start"] = 2 if context.index(answer["text"]) > 8 else 12
        (tmp_path / "mine.json").write_text(json.dumps(data))
        if wrong == 3:
            ran = commands(*given, "--out", tmp_path / "out")
            assert ran.code == 0 and "with an answer teach neither start nor end" in ran.out + ran.err
        else:
            commands.fails(*given, "--out", tmp_path / "all", says=("is not at its answer_start, nor that of any",))


def test_settings_of_questions_in_a_file(tmp_path: Path) -> None:
    squad_file(tmp_path / "mine.json", 20)
    described = tmp_path / "task.yaml"
    text = "kind: spans\nfiles: mine.json\n"
    described.write_text(text + "questions: {stride: 12, max_question: 5, null_threshold: 0.5}\n")
    task: Any = from_yaml(described).task
    assert (task.stride, task.max_question, task.null_threshold) == (12, 5, 0.5)
    plain = from_data(tmp_path / "mine.json", kind="spans", name="task").task
    assert task.identity() != plain.identity(), "the settings are part of what a comparison is"
    for wrong, says in (
        ("{strid: 12}", "did you mean 'stride'"),
        ("{stride: 0}", "stride"),
        ("{null_threshold: much}", "questions.null_threshold: expected a number, got 'much'$"),
        ("{stride: 1.5}", "stride"),
    ):
        described.write_text(f"{text}questions: {wrong}\n")
        with pytest.raises(KdzooError, match=says):
            from_yaml(described)
    described.write_text("kind: tokens\nfiles: mine.json\nquestions: {stride: 12}\n")
    with pytest.raises(KdzooError, match="stride are for questions; set kind to spans"):
        from_yaml(described)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"answers": [{"text": "nobody", "answer_start": 3}]}, "the answer 'nobody' is not in its paragraph"),
        ({"answers": []}, '"is_impossible": true'),
        ({"answers": [{"text": "Anna1", "answer_start": 900}]}, "answer_start 900 is no place"),
        ({"question": " "}, "the question is empty"),
        ({"id": "0-0"}, "two questions have the id '0-0'"),
        *models.SQUAD.values(),
    ],
)
def test_files_that_are_none(commands: Commands, tmp_path: Path, broken: dict[str, Any], says: str) -> None:
    file = squad_file(tmp_path / "mine.json", **broken)
    given = ("--data", file, "--kind", "spans", *SMALL, "--out", tmp_path / "out")
    commands.fails("compare", *given, says=("mine.json", says))


def test_a_paragraph_that_is_no_text_is_named_by_its_question(tmp_path: Path) -> None:
    file = squad_file(tmp_path / "mine.json")
    said = json.loads(file.read_text())
    said["data"][0]["paragraphs"][2]["context"] = None
    file.write_text(json.dumps(said))
    with pytest.raises(KdzooError, match=r"mine\.json, question '2-0': context is null; give a text$"):
        from_data(file, kind="spans")


@pytest.mark.parametrize("answers", [{"text": ["b"]}, {"text": "b", "answer_start": [2]}, [], None, 5, {}])
def test_answers_in_another_form(answers: Any, tmp_path: Path) -> None:
    good = {"question": "q?", "context": "a b c", "answers": {"text": ["b"], "answer_start": [2]}}
    rows = [good | {"id": str(row)} for row in range(12)]
    rows[3]["answers"] = answers
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(KdzooError, match="row 4, column 'answers': expected lists text and answer_start"):
        from_data(tmp_path / "rows.jsonl", kind="spans")


def test_what_else_is_refused(commands: Commands, tmp_path: Path) -> None:
    file = squad_file(tmp_path / "mine.json")
    own = ("compare", "--data", file, "--kind", "spans", *SMALL, "--out", tmp_path / "out")
    commands.fails(*own, "--text", "context", says=("questions have no --text",))
    squad_file(tmp_path / "long.json", question="who " * 30 + "?")
    long = ("compare", "--data", tmp_path / "long.json", *own[3:], "--methods", "none", "--max-length", "32")
    says = ("long, question '1-0': 31 pieces of it are read", "at --max-length 32; give 35 or more")
    commands.fails(*long, says=says)
    commands.fails(*own, "--metric", "accuracy", says=("for spans there are exact_match, f1",))
    other = ("compare", "--data", file, "--kind", "span", *SMALL, "--out", tmp_path / "out")
    commands.fails(*other, says=("'span'", "did you mean"))
    squad = ("compare", "--tasks", "squad", "--data", "hub", *SMALL, "--out", tmp_path / "out")
    commands.fails(*squad, says=("squad is none of GLUE's tasks",))
    with pytest.raises(KdzooError, match="1 answers and 0 places"):
        get_task("squad").parse({"id": "a", "question": "b", "context": "c", "answers": ["c"], "starts": []})
