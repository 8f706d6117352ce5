"""What a trained student is used for: predictions on a table, and an ONNX file."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import own_data
import pandas as pd
import pytest
import torch
from command_line import Commands
from hostile import models

from kdzoo.bench.runs import exporting, student_folder
from kdzoo.bench.runs.predictions import named
from kdzoo.bench.runs.student_folder import trained_with
from kdzoo.tasks import get_task, load
from kdzoo.tasks.question_answering import ANSWERS, NULLABLE


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained for a moment on rows of one's own."""
    from kdzoo.cli.main import main

    folder = tmp_path_factory.mktemp("student")
    data = own_data.write(folder / "rows.csv", own_data.made(48))
    shape = ["--model", "1x16,heads=2", "--epochs", "1", "--batch-size", "16", "--max-length", "16"]
    with pytest.raises(SystemExit) as ended:
        main(
            ["finetune", "--data", str(data), "--text", "text", "--label", "topic", *shape, "--out", str(folder / "m")]
        )
    assert ended.value.code == 0
    return folder / "m"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file)]


def alone(folder: Path, *texts: str) -> np.ndarray:
    """The probabilities of one row by itself, as transformers gives them."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    encoded = AutoTokenizer.from_pretrained(folder)(*texts, truncation=True, max_length=16, return_tensors="pt")
    with torch.inference_mode():
        return torch.softmax(model(**encoded).logits, -1).numpy()[0]


def test_predictions_are_those_of_each_row_alone_by_name(student: Path, commands: Commands, tmp_path: Path) -> None:
    made = own_data.made(7, seed=5)
    made[3]["text"] = " ".join(["goal"] * 40)
    table = own_data.write(tmp_path / "new.jsonl", made)
    said = commands.works("predict", student, table, "--batch-size", "3", "--out", tmp_path / "out.csv")
    assert said.startswith("7 predictions of text: ") and "1 rows are longer than 16 tokens" in said
    found = rows_of(tmp_path / "out.csv")
    assert [row["text"] for row in found] == [row["text"] for row in made]
    names = sorted(own_data.TOPICS)
    for row in found:
        likely = alone(student, row["text"])
        assert row["label"] == names[likely.argmax()]
        assert float(row["probability"]) == pytest.approx(likely.max(), abs=1e-4)


def test_predictions_go_beside_the_table_and_two_columns_are_a_pair(
    student: Path, commands: Commands, tmp_path: Path
) -> None:
    made = own_data.made(3, seed=6)
    table = own_data.write(tmp_path / "new.csv", made)
    commands.works("predict", student, table, "--text", "text,second")
    found = rows_of(tmp_path / "new.csv.predictions.csv")
    assert [*found[0]] == ["text", "second", "label", "probability"]
    for row in found:
        likely = alone(student, row["text"], row["second"]).max()
        assert float(row["probability"]) == pytest.approx(likely, abs=1e-4)


def test_the_only_column_of_text_is_read_whatever_others_hold(
    student: Path, commands: Commands, tmp_path: Path
) -> None:
    table = own_data.write(tmp_path / "new.jsonl", [{"words": "a goal", "about": {"by": "x", "in": "y"}}] * 2)
    assert commands.works("predict", student, table).startswith("2 predictions of words: ")
    assert commands.works("predict", student, table, "--text", "about.by").startswith("2 predictions of about.by: ")


def test_what_cannot_be_predicted_is_refused(student: Path, commands: Commands, tmp_path: Path) -> None:
    table = tmp_path / "two.csv"
    table.write_text("a,b\nx,y\n,z\n")
    for arguments, says in (
        ((student, tmp_path / "no.csv"), ("there is no file",)),
        ((student, table), ("2 columns of text (a, b)", "--text")),
        ((student, table, "--text", "a"), ("row 2: a is ''",)),
        ((student, table, "--text", "c"), ("unknown column", "'c'")),
        ((student, table, "--text", "b", "--out", table), ("is the table",)),
        ((tmp_path, table, "--text", "b"), ("holds no model",)),
    ):
        commands.fails("predict", *arguments, says=says)
    assert table.read_text() == "a,b\nx,y\n,z\n" and not (tmp_path / "two.csv.predictions.csv").exists()


@pytest.mark.parametrize(("task", "name", "text", "says"), [
    ("ner", "a.tsv", "the O\nAnna B-PER\n\nshe O\n", '{"words": '),
    ("ner", "a.tsv", "the\tO\nAnna\tB-PER\n\nshe\tO\n", '{"words": '),
    ("ner", "a.conll", "the O\n", '{"words": '),
    ("squad", "x.json", '{"data": []}', '{"question": '),
])  # fmt: skip
def test_what_tags_and_answers_are_trained_from_is_no_table(
    task: str, name: str, text: str, says: str, trained: Models, commands: Commands, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    commands.fails("predict", trained(task)[0], tmp_path / name, says=(name, "write JSONL, in each line", says))


def test_a_model_with_another_head_is_refused(commands: Commands, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertForMaskedLM(BertConfig(**sizes, intermediate_size=8)).save_pretrained(tmp_path / "words")
    table = tmp_path / "t.csv"
    table.write_text("a\nx\n")
    commands.fails("predict", tmp_path / "words", table, says=("BertForMaskedLM", "classify rows"))


class Models:
    """Small models of tasks, trained for a moment and once each, with their records and their validation rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, task: str) -> tuple[Path, dict[str, Any], Any]:
        from kdzoo.cli.main import main

        folder, rows = self.folder / task, {"train_rows": 64, "validation_rows": 12}
        if not folder.exists():
            shape = ["--model", "1x16,heads=2", "--epochs", "1", "--max-length", "24", "--learning-rate", "1e-2"]
            given = [part for name, count in rows.items() for part in (f"--{name.replace('_', '-')}", str(count))]
            with pytest.raises(SystemExit) as ended:
                main(["finetune", "--task", task, *shape, *given, "--out", str(folder)])
            assert ended.value.code == 0
        valid = load(get_task(task), "synthetic", **rows)["validation"]
        return folder, json.loads((folder / "record.json").read_text()), valid


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize(("task", "columns", "says"), [
    ("ner", ("words",), "tags"), ("squad", ("question", "context"), "answer"), ("transduction", ("source",), "written"),
])  # fmt: skip
def test_tags_answers_and_texts_are_those_of_the_training(
    task: str, columns: tuple[str, ...], says: str, trained: Models, commands: Commands, tmp_path: Path
) -> None:
    model, record, rows = trained(task)
    table = tmp_path / "new.jsonl"
    table.write_text("".join(json.dumps({name: row[name] for name in columns}) + "\n" for row in rows))
    commands.works("predict", model, table, "--batch-size", 5)
    found = rows_of(tmp_path / "new.jsonl.predictions.csv")
    (true,) = record["predictions"].values()
    assert [row[says] for row in found] == [" ".join(one) if task == "ner" else one for one in true]
    assert len({row[says] for row in found}) > 1, "or any order would do"
    shown = rows[0][columns[0]]
    assert found[0][columns[0]] == (json.dumps(shown, ensure_ascii=False) if task == "ner" else shown)


def test_no_answer_is_given_where_its_scores_had_such_questions_and_by_its_threshold(
    trained: Models, commands: Commands, tmp_path: Path
) -> None:
    model, record, _ = trained("squad")
    shutil.copytree(model, tmp_path / "m")
    task = get_task("squad")
    assert ANSWERS not in record["scored_by"]
    assert task.scored_by({"validation": [["a"], []]}) == {ANSWERS: NULLABLE}
    table = tmp_path / "q.jsonl"
    table.write_text(json.dumps({"question": "Where is it?", "context": "It is in the old house."}))
    for said, threshold, empty in (
        ({}, -1e9, False),
        ({ANSWERS: NULLABLE}, -1e9, True),
        ({ANSWERS: NULLABLE}, 1e9, False),
    ):
        own = task.identity() | {"null_threshold": threshold}
        changed = record | {"scored_by": said, "configuration": record["configuration"] | {"own_task": own}}
        (tmp_path / "m" / "record.json").write_text(json.dumps(changed))
        commands.works("predict", tmp_path / "m", table)
        assert (rows_of(tmp_path / "q.jsonl.predictions.csv")[0]["answer"] == "") == empty


def test_words_that_leave_no_piece_have_a_tag_all_the_same(trained: Models, commands: Commands, tmp_path: Path) -> None:
    model, *_ = trained("ner")
    table = tmp_path / "t.csv"
    table.write_text("text\nThe \u200b man\n\u200b\n" + " ".join(["man"] * 60) + "\n", encoding="utf-8")
    commands.works("predict", model, table)
    found = rows_of(tmp_path / "t.csv.predictions.csv")
    assert [len(row["tags"].split()) for row in found] == [3, 1, 60]
    assert found[0]["tags"].split()[1] == found[1]["tags"] == "O"
    commands.fails("predict", model, table, "--text", "text,text", says=("text, text", "reads 1"))
    listed = tmp_path / "t.jsonl"
    rows = [{"id": "doc", "tokens": ["New York", "\xa0", "", "is"]}, {"id": "other", "tokens": ["a\rb"]}]
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    commands.works("predict", model, listed)
    told = pd.read_csv(tmp_path / "t.jsonl.predictions.csv")
    assert [*told.columns] == ["tokens", "tags"] and [len(tags.split()) for tags in told["tags"]] == [4, 1]
    assert [json.loads(words) for words in told["tokens"]] == [row["tokens"] for row in rows]


def test_a_carriage_return_ends_no_row(student: Path, commands: Commands, tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    table.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("the\rgoal", "a match")))
    commands.works("predict", student, table)
    assert len(pd.read_csv(tmp_path / "t.jsonl.predictions.csv")) == 2


def test_a_student_in_a_folder_called_like_a_size(
    trained: Models, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained("ner")[0], tmp_path / "2x64")
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("text\nThe man\n")
    commands.works("predict", "2x64", "t.csv")
    (row,) = rows_of(Path("t.csv.predictions.csv"))
    assert row["text"] == "The man" and len(row["tags"].split()) == 2


@pytest.mark.parametrize(
    ("task", "file", "content", "says"),
    [
        ("ner", "config.json", {"id2label": {"0": "O", "9": "B-X"}}, "names its"),
        ("ner", "config.json", {"id2label": {"0": "NOUN", "1": "VERB"}, "label2id": {}}, "is no BIO tag"),
        ("ner", "config.json", {"architectures": []}, "names no architectures"),
        ("squad", "record.json", {"own_task": {"null_threshold": "x"}}, "null_threshold is a number"),
        ("transduction", "record.json", {"own_task": {"decoding": ["beam"]}}, "decoding is ['beam']"),
        ("transduction", "record.json", {"own_task": {"decoding": {"max_target": 10**30}}}, "tokens at most"),
        ("transduction", "config.json", {"decoder_start_token_id": None}, "has no decoder_start_token_id"),
        ("transduction", "generation_config.json", {"eos_token_id": "x"}, "has eos_token_id='x'"),
        ("transduction", "generation_config.json", {"repetition_penalty": "x"}, "does not write"),
    ],
)
def test_a_folder_that_was_changed_is_refused_in_a_line(
    task: str, file: str, content: dict[str, Any], says: str, trained: Models, commands: Commands, tmp_path: Path
) -> None:
    shutil.copytree(trained(task)[0], tmp_path / "m", ignore=shutil.ignore_patterns("checkpoint-*"))
    path = tmp_path / "m" / file
    old = json.loads(path.read_text())
    new = {"configuration": old["configuration"] | content} if file == "record.json" else content
    path.write_text(json.dumps(old | new))
    table = tmp_path / "t.jsonl"
    table.write_text(json.dumps({"words": ["a"], "question": "What?", "context": "It is.", "source": "a"}))
    commands.fails("predict", tmp_path / "m", table, says=(says,))


@pytest.mark.parametrize(
    ("configuration", "config", "says"),
    [
        ({"task": "wn11"}, {}, "triples"),
        ({"task": "kbert", "student": None}, {}, "facts"),
        (
            {"task": "sembert"},
            {"model_type": "sembert", "architectures": ["SemBertForSequenceClassification"]},
            "roles",
        ),
    ],
)
def test_models_that_read_more_than_text_are_refused(
    configuration: dict[str, Any], config: dict[str, Any], says: str, commands: Commands, tmp_path: Path
) -> None:
    (tmp_path / "record.json").write_text(json.dumps({"configuration": configuration}))
    (tmp_path / "config.json").write_text(json.dumps(config or {"model_type": "bert"}))
    table = tmp_path / "t.csv"
    table.write_text("a\nx\n")
    commands.fails("predict", tmp_path, table, says=(says,))


@pytest.mark.parametrize(("name", "content", "says"), models.STUDENTS, ids=lambda case: ascii(case)[:40])
def test_a_folder_of_somebody_else_is_taken_as_it_says_or_refused(
    name: str, content: str | dict[str, Any], says: str, student: Path, commands: Commands, tmp_path: Path
) -> None:
    shutil.copytree(student, tmp_path / "m", ignore=shutil.ignore_patterns("checkpoint-*"))
    path = tmp_path / "m" / name
    path.write_text(content if isinstance(content, str) else json.dumps(json.loads(path.read_text()) | content))
    table = own_data.write(tmp_path / "new.csv", own_data.made(2))
    commands.fails("predict", tmp_path / "m", table, "--text", "text", says=(says,))


@pytest.mark.parametrize("fields", [{"hidden_act": "nope"}, {"num_attention_heads": 0}, {"architectures": 5}])
def test_such_a_teacher_is_refused_before_anything_runs(
    fields: dict[str, Any], student: Path, commands: Commands, tmp_path: Path
) -> None:
    shutil.copytree(student, tmp_path / "m", ignore=shutil.ignore_patterns("checkpoint-*"))
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    data = own_data.write(tmp_path / "rows.csv", own_data.made(48))
    own = ("--data", data, "--text", "text", "--label", "topic", "--student", "1x16,heads=2", "--max-length", "16")
    ran = commands(
        "compare", *own, "--methods", "kd", "--teacher", tmp_path / "m", "--out", tmp_path / "out", "--dry-run"
    )
    assert ran.code in (0, 2) and "unexpected" not in ran.err, ran
    assert ran.code == 2 or fields == {"architectures": 5}, "which says only what it was saved from"


def test_weights_that_give_no_numbers_predict_nothing(student: Path, commands: Commands, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(student, tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    save_file(weights | {"classifier.bias": torch.full_like(weights["classifier.bias"], torch.nan)},
              tmp_path / "m" / "model.safetensors", {"format": "pt"})  # fmt: skip
    table = own_data.write(tmp_path / "new.csv", own_data.made(2))
    commands.fails("predict", tmp_path / "m", table, "--text", "text", says=("gives no numbers", "NaN"))


def test_a_comparisons_student_reads_as_it_was_trained(student: Path, tmp_path: Path) -> None:
    shared = {"own_tasks": {"mine": {"columns": ["text"]}}, "budget": {"max_length": 16}}
    for configuration, trained in (
        ({"task": "mine", "shared": shared}, (("text",), 16)),
        ({"own_task": {"columns": ["text", "second"]}, "budget": {"max_length": 8}}, (("text", "second"), 8)),
        ({"own_task": {"columns": 5}, "budget": {"max_length": "x"}}, ((), None)),
        ({"own_task": [], "budget": 5}, ((), None)),
        ([], ((), None)),
    ):
        (tmp_path / "record.json").write_text(json.dumps({"configuration": configuration}))
        assert trained_with(tmp_path)[:2] == trained


def test_a_comparisons_teacher_reads_and_writes_as_it_was_trained(tmp_path: Path) -> None:
    own = {"mine": {"columns": ["source"], "decoding": {"beam": 2, "max_target": 48}}}
    (tmp_path / "config.json").write_text(json.dumps({"shared": {"own_tasks": own}}))
    shared = {"teacher_budget": {"max_length": 16}}
    record = {"configuration": {"task": "mine", "method": "teacher", "shared": shared}}
    # A record of before has its task's settings in the comparison's configuration alone.
    for folder, written in (("teachers/mine", record), ("elsewhere", record | {"own_task": own["mine"]})):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "record.json").write_text(json.dumps(written))
        found = trained_with(tmp_path / folder)
        assert (found.columns, found.max_length, found.own) == (("source",), 16, own["mine"])


@pytest.mark.parametrize(
    ("configuration", "facts"),
    [
        ({"task": "kbert", "student": None}, True),  # finetune's, to be a teacher
        ({"task": "kbert", "student": "1x16"}, False),
        ({"task": "kbert", "method": "teacher", "shared": {"student": "1x16"}}, True),
        ({"task": "kbert", "method": "kd", "shared": {"student": "1x16"}}, False),
        ({"task": "kbert-flat", "method": "teacher"}, True),
        ({"task": "kbert-flat", "method": "kd"}, False),
        ({"task": "kbert-both", "method": "kd"}, True),
        ({"task": "kbert-none", "method": "teacher"}, False),
        ({"task": "mine", "own_task": {"facts": "a1", "arm": "both"}, "student": "1x16"}, True),
        ({"task": "mine", "own_task": {"facts": "a1", "arm": ""}, "student": "1x16"}, False),
        ({"task": "rte", "student": None}, False),
        ({"task": "unheard-of"}, False),
    ],
)
def test_who_has_read_facts(configuration: dict[str, Any], facts: bool, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps({"configuration": configuration}))
    assert trained_with(tmp_path).facts == facts


def config(kind: str | None, *names: str) -> Any:
    return SimpleNamespace(id2label=dict(enumerate(names)), problem_type=kind)


def test_each_kind_of_problem_has_its_columns() -> None:
    header, rows = named(config("multi_label_classification", "=red", "blue"), np.array([[2.0, 1.0], [-3.0, 0.5]]))
    assert header == ["labels", "probability_'=red", "probability_blue"], "a spreadsheet computes nothing"
    assert rows == [["'=red|blue", "0.8808", "0.7311"], ["blue", "0.0474", "0.6225"]]
    assert named(config("regression", "LABEL_0"), np.array([[1.25]])) == (["value"], [["1.25"]])
    assert named(config(None, "LABEL_0"), np.array([[1.25]])) == (["value"], [["1.25"]])
    assert named(config("regression", "x", "y"), np.array([[1, 2.5]])) == (["value_x", "value_y"], [["1", "2.5"]])
    large = np.array([[1000.0, 999.0]])
    assert named(config(None, "a", "b"), large) == (["label", "probability"], [["a", "0.7311"]])


def test_an_onnx_file_gives_the_students_logits(student: Path, commands: Commands, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from transformers import AutoTokenizer

    said = commands.works("export", student, "--onnx", "--out", tmp_path / "new" / "student.onnx")
    assert "onnxruntime gives the student's logits" in said
    session = onnxruntime.InferenceSession(str(tmp_path / "new" / "student.onnx"), providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(student)
    for texts in (["goal match"], ["a", "the film of it was in the song and to", "b", "c", "d"]):
        encoded = tokenizer(texts, padding=True, return_tensors="np")
        (logits,) = session.run(["logits"], {name.name: encoded[name.name] for name in session.get_inputs()})
        for row, text in zip(logits, texts, strict=True):
            likely = np.exp(row) / np.exp(row).sum()
            np.testing.assert_allclose(likely, alone(student, text), atol=1e-5)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["student.onnx"]


def test_an_onnx_file_of_answers(trained: Models, commands: Commands, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    said = commands.works("export", trained("squad")[0], "--onnx", "--out", tmp_path / "m.onnx")
    assert "onnxruntime gives the student's logits" in said
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["start_logits", "end_logits"]


def test_a_model_that_writes_is_not_exported(trained: Models, commands: Commands) -> None:
    pytest.importorskip("onnxscript")
    commands.fails("export", trained("transduction")[0], "--onnx", says=("many passes",))


def test_a_writer_of_ones_own_pairs_reads_its_columns_and_has_its_settings(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = tmp_path / "mine.tsv"
    table.write_text("en\txx\n" + "the dog\tdog the\n" * 8)
    asked = ("finetune", "--data", table, "--kind", "seq2seq", "--text", "en", "--label", "xx", "--epochs", 1)
    short = ("--model", "1x16,heads=2", "--max-length", 16, "--decoding", "beam=1,max_target=16")
    commands.works(*asked, *short, "--out", tmp_path / "m")
    commands.works("predict", tmp_path / "m", table)
    assert [*rows_of(tmp_path / "mine.tsv.predictions.csv")[0]] == ["en", "written"]
    commands.fails("predict", tmp_path / "m", table, "--text", "de", says=("'de'",))
    pytest.importorskip("onnxscript")
    longest: list[int] = []
    monkeypatch.setattr(student_folder, "check_decoder", lambda model, name, target, _: longest.append(target))
    commands.fails("export", tmp_path / "m", "--onnx", says=("many passes",))
    assert longest == [16], "a longer one may be more than a model has positions"


def test_a_file_that_gives_something_else_is_not_kept(
    student: Path, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(exporting, "_apart", lambda *_: 0.5)
    commands.fails("export", student, "--onnx", "--out", tmp_path / "s.onnx", says=("0.5 from the student's",))
    assert not [*tmp_path.iterdir()]


def test_export_says_what_it_needs(student: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    commands.fails("export", student, says=("--onnx",))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    commands.fails("export", student, "--onnx", says=("pip install 'kdzoo[onnx]', or onnx onnxscript onnxruntime",))


def test_the_guides_commands_run(student: Path, commands: Commands, tmp_path: Path) -> None:
    """Of docs/command-line.md and docs/compare.md, word for word but for the folders and the sizes."""
    pytest.importorskip("onnxscript")
    docs = Path(__file__).parents[1] / "docs"
    table = own_data.write(tmp_path / "new.csv", [{"text": row["text"]} for row in own_data.made(3)])
    lines = (docs / "command-line.md").read_text(encoding="utf-8").split("## A student at work")[1].splitlines()
    typed = [line for line in lines[:6] if line.startswith("kdzoo ") and "--push-to-hub" not in line]  # no hub is here
    assert [line.split()[1] for line in typed] == ["predict", "export"]
    for line in typed:
        commands.works(*line.replace("runs/student", str(student)).replace("new.csv", str(table)).split()[1:])
    assert table.with_name("new.csv.predictions.csv").exists() and (student / "model.onnx").exists()
    lines = (docs / "compare.md").read_text(encoding="utf-8").splitlines()
    [dry] = [line for line in lines if line.startswith("kdzoo ") and line.endswith("--dry-run")]
    made = dry.replace("path/to/glue", "synthetic").replace("path/to/teacher", "1x16,heads=2").split()[1:]
    sizes = ("--train-rows", 32, "--validation-rows", 16, "--student", "1x8,heads=2")
    said = commands.works(*made, *sizes, "--out", tmp_path)
    assert "rte: 9 cells (none, kd, lrc)" in said and "mrpc: 9 cells" in said
