"""Data of one's own is a task: its kind, labels, metrics and splits are found, said, and can be set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import STUDENT, TEACHER, Commands, record_files, records
from datasets import Dataset, DatasetDict
from own_data import TOPICS, folder, made, rows_of, write
from transformers import BertConfig, BertForSequenceClassification

from kdzoo.tasks.own import from_data
from kdzoo.tasks.own_file import from_yaml

MODELS = ("--teacher", TEACHER, "--student", STUDENT)
FAST = (*MODELS, "--epochs", "1", "--learning-rate", "0.01", "--evaluations", "1")
OWN = ("--text", "text", "--label", "topic")
METHODS = "none,kd,cos_nce@cls+ce"


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where something is trained."""
    for name in ("grid.cells", "runs.single"):
        monkeypatch.setattr(f"kdzoo.bench.{name}.train", lambda *_, **__: pytest.fail("trained"))


# --- a comparison -----------------------------------------------------------------------------------------------------

KINDS = {
    "topics.csv": (OWN, "classification", "4 classes (art, food, sport, tech)", "accuracy"),
    "tags.jsonl": (("--text", "text,second", "--label", "tags"), "multilabel", "4 labels, several a row", "micro_f1"),
    "targets.tsv": (
        ("--text", "text", "--label", "sport_share,food_share", "--kind", "regression"),
        "regression",
        "2 numbers a row",
        "pearson",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_comparison_its_report_and_its_resumption(name: str, commands: Commands, tmp_path: Path) -> None:
    columns, kind, what, metric = KINDS[name]
    stem, out = name.split(".")[0], tmp_path / "out"
    data = write(tmp_path / name, made(80))
    command = ("compare", "--data", data, *columns, "--methods", METHODS, *FAST, "--out", out)
    printed = commands.works(*command)
    first = printed.splitlines()
    assert first[0].startswith(f"{stem}: ") and what in first[0]
    assert first[1] == f"{stem}: no validation rows: 8 of 80 training rows are taken, stratified, with seed 0"
    found = records(out)
    assert found.keys() == {f"{stem}-teacher", *(f"{stem}-{m}-0" for m in ("none", "kd", "cos_nce-cls-ce"))}
    for record in found.values():
        assert record["kind"] == kind and metric in record["metrics"] and np.isfinite(record["score"])
        assert record["rows"] == {"train": 72, "validation": 8}
    assert stem in (out / "report.html").read_text() and stem in (out / "results.csv").read_text()
    lost = out / f"cells/{stem}-kd-0.json"
    kept = {path: path.stat().st_mtime_ns for path in record_files(out) if path != lost}
    score = found[f"{stem}-kd-0"]["score"]
    lost.unlink()
    commands.works(*command)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert records(out)[f"{stem}-kd-0"]["score"] == score
    write(data, made(79))
    commands.fails(*command, says=(f"other contents of the rows of {stem}",))


def test_a_folder_with_a_test_split(commands: Commands, tmp_path: Path) -> None:
    data = folder(tmp_path / "topics", test=24)
    asked = ("compare", "--data", data, *OWN, "--methods", "none", *FAST, "--out", tmp_path / "out", "--test-rows")
    printed = commands.works(*asked, "10")
    assert "no validation rows" not in printed
    found = records(tmp_path / "out")["topics-none-0"]
    assert found["test"]["rows"] == 10 and 0 <= found["test"]["score"] <= 100
    assert len(found["predictions"]["validation"]) == 32 and "test" not in found["predictions"]
    commands.fails(*asked, "0", says=("test_rows",))  # other results need another folder


def test_one_model(commands: Commands, tmp_path: Path) -> None:
    data = folder(tmp_path / "topics")
    fast = ("--epochs", "1", "--learning-rate", "0.01")
    task = ("--data", data, *OWN)
    commands.works("finetune", *task, "--model", TEACHER, *fast, "--out", tmp_path / "teacher")
    options = ("--teacher", tmp_path / "teacher", "--student", STUDENT, "--cache-folder", tmp_path / "cache")
    command = ("distill", *task, "--method", "kd + cos_nce@cls + ce", *options, *fast, "--out", tmp_path / "student")
    commands.works(*command)
    config = json.loads((tmp_path / "student/config.json").read_text())
    assert list(config["id2label"].values()) == [*TOPICS]
    assert json.loads((tmp_path / "student/record.json").read_text())["cached"]
    commands.works(*command)
    commands.fails(*command, "--metric", "macro_f1", says=("another configuration", "macro_f1"))
    write(data / "train.jsonl", made(60))
    commands.fails(*command, says=("other contents of the rows of topics",))


def test_a_learned_vocabulary_is_seeded_and_kept(commands: Commands, tmp_path: Path) -> None:
    data = folder(tmp_path / "topics")
    for out in ("one", "two"):
        commands.works("compare", "--data", data, *OWN, "--methods", "none", *FAST, "--out", tmp_path / out)
    files = [[*(tmp_path / out).glob("tokenizer/*/tokenizer.json")] for out in ("one", "two")]
    assert len(files[0]) == 1 and files[0][0].read_bytes() == files[1][0].read_bytes()
    assert files[0][0].parent.name == files[1][0].parent.name
    assert "goal" in json.loads(files[0][0].read_text())["model"]["vocab"]
    one, two = (records(tmp_path / out)["topics-none-0"] for out in ("one", "two"))
    assert one["predictions"] == two["predictions"]


@pytest.mark.usefixtures("untrained")
def test_a_dry_run(commands: Commands, tmp_path: Path) -> None:
    data = folder(tmp_path / "topics", test=10)
    command = (
        "compare",
        "--data",
        data,
        *OWN,
        "--methods",
        METHODS,
        "--seeds",
        "2",
        *MODELS,
        "--out",
        tmp_path / "out",
    )
    printed = commands.works(*command, "--batch-size", "16", "--epochs", "2", "--dry-run")
    assert "topics: 6 cells (none, kd, cos_nce-cls-ce), 64 train, 32 validation, 10 test rows" in printed
    assert "M parameters; 8 steps a cell; about 0:00:" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("label", ["tags", "sport_share,food_share"])
def test_check_says_on_which_kinds_a_method_works(label: str, commands: Commands, tmp_path: Path) -> None:
    data = folder(tmp_path / "rows")
    kind = ("--kind", "regression") if "," in label else ()
    ran = commands("check", "kd,dkd,codir", "--data", data, "--text", "text", "--label", label, *kind, *MODELS)
    assert ran.code == 2 and "kd    works on rows" in ran.out
    what = "2 numbers a row" if kind else "several labels a row"
    for name in ("dkd", "codir"):
        assert f"{name:<5} works on none of the tasks" in ran.out
        assert f"{name} is for classes, and this task has {what}; kd, soft_ce, logit_mse and ce work there" in ran.out


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_the_throughput_of_other_kinds(problem: str, commands: Commands, tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=50, num_labels=3, problem_type=problem, **sizes)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "teacher")
    short = ("--batch-sizes", "4", "--lengths", "8", "--steps", "1", "--warmup", "1", "--repeats", "1")
    out = ("--student", "1x16,heads=2", "--methods", "none,kd", "--out", tmp_path / "out.json")
    commands.works("bench", "throughput", "--teacher", tmp_path / "teacher", *short, *out)
    found = json.loads((tmp_path / "out.json").read_text())["throughput"]
    assert {result["method"] for result in found} == {"none", "kd"}


# --- what is found ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "options", "kind", "labels"),
    [
        (["b", "a"], {}, "classification", ("a", "b")),
        ([3, 1, 2], {}, "classification", ("1", "2", "3")),
        (["10", "9", "-1"], {}, "classification", ("-1", "9", "10")),
        ([2.0, 1.0], {}, "classification", ("1", "2")),
        ([12345678, 12345679], {}, "classification", ("12345678", "12345679")),
        (["1_1", "1_2"], {}, "classification", ("1_1", "1_2")),
        ([True, False], {}, "classification", ("False", "True")),
        ([*range(20)], {}, "classification", tuple(map(str, range(20)))),
        ([*range(21)], {}, "regression", ()),
        ([0.5, 1.0, 2.0], {}, "regression", ()),
        ([1, 2, 3], {"kind": "regression"}, "regression", ()),
        (["a|b", "a", "b"], {}, "multilabel", ("a", "b")),
        ([["a"], [], ["b", "a"]], {}, "multilabel", ("a", "b")),
        (["a;b", "a", ""], {"separator": ";", "kind": "multilabel"}, "multilabel", ("a", "b")),
        ([" a", "a ", "b"], {}, "classification", ("a", "b")),
        (["b", "a"], {"labels": ["b", "a", "c"]}, "classification", ("b", "a", "c")),
        ([0, 1], {"labels": ["bad", "good"]}, "classification", ("bad", "good")),
    ],
)
def test_the_kind_and_the_labels(
    values: Sequence[Any], options: dict[str, Any], kind: str, labels: tuple[str, ...]
) -> None:
    repeated = [*values] * 6
    data = Dataset.from_dict({"text": [f"row {row}" for row in range(len(repeated))], "label": repeated})
    own = from_data(data, text="text", label="label", **options)
    assert (own.task.kind, own.task.labels) == (kind, labels)
    whole = [row for part in rows_of(own).values() for row in part]
    assert len(whole) == len(repeated)
    for row in whole:
        value = repeated[int(row["text"].split()[1])]
        if kind == "classification":
            name = labels[row["label"]]
            assert name == str(value).strip() or float(name) == float(value) if not options else True
        elif kind == "regression":
            assert row["label"] == pytest.approx(value)
        else:
            names = value.replace(";", "|").split("|") if isinstance(value, str) else value
            assert [label for label, mark in zip(labels, row["label"], strict=True) if mark] == sorted(
                filter(None, names)
            )


def test_columns_of_zero_and_one_are_labels() -> None:
    columns = [f"is_{topic}" for topic in TOPICS]
    own = from_data(pd.DataFrame(made(40)), text="text", label=columns, kind="multilabel", labels=[*TOPICS])
    lists = from_data(pd.DataFrame(made(40)), text="text", label="tags")
    assert own.task.labels == lists.task.labels == tuple(TOPICS)
    marks = [[row["labels"] for row in rows_of(own)[split]] for split in ("train", "validation")]
    assert marks == [[row["tags"] for row in rows_of(lists)[split]] for split in ("train", "validation")]


@pytest.mark.parametrize("name", ["labels", "length", "input_ids", "sample_ids"])
def test_a_column_may_be_called_as_a_models_input(name: str) -> None:
    from kdzoo.models.vocabulary import learned_tokenizer

    table = pd.DataFrame(made(40)).rename(columns={"tags": name})
    task = from_data(table, text="text", label=name).task
    rows = task.rows()
    assert rows is not None
    tokenizer = learned_tokenizer(rows["train"]["text"][:])
    encoded = task.encode(rows["train"], tokenizer, 16)
    assert encoded[3]["labels"] == [float(mark) for mark in rows["train"][3][name]]
    assert str(task.collator(tokenizer)([encoded[0], encoded[1]])["labels"].dtype) == "torch.float32"
    assert encoded["sample_ids"][:] == [*range(len(rows["train"]))]


def test_validation_rows_are_seeded_stratified_and_leave_each_label_in_training() -> None:
    table = pd.DataFrame(
        {"text": [f"row {row}" for row in range(203)], "label": ["a"] * 120 + ["b"] * 60 + ["c"] * 22 + ["rare"]}
    )
    parts = [rows_of(from_data(table, text="text", label="label")) for _ in range(2)]
    assert parts[0] == parts[1]
    taken = [row["label"] for row in parts[0]["validation"]]
    assert [taken.count(label) for label in range(4)] == [12, 6, 2, 0]
    other = rows_of(from_data(table, text="text", label="label", seed=1))
    assert other["validation"] != parts[0]["validation"]
    # No two rows have the same labels, and no label is in one row alone.
    names = [f"l{i}" for i in range(10)]
    several = [[names[i], names[j]] for i in range(10) for j in range(i)]
    own = from_data(pd.DataFrame({"text": [f"r {i}" for i in range(45)], "label": several}), text="text", label="label")
    rows = rows_of(own)
    assert len(rows["validation"]) == 4
    assert np.sum([row["label"] for row in rows["train"]], axis=0).min() >= 1


def test_rows_that_stand_in_two_splits_are_counted_and_said() -> None:
    tables = {"train": pd.DataFrame(made(20)), "validation": pd.DataFrame(made(20)[:5] + made(7, 1))}
    notes = from_data(tables, text="text", label="topic").notes
    assert notes[-1] == "data: 5 of 12 validation rows are in training too, by their text"


def test_a_split_that_is_not_used_is_said(tmp_path: Path) -> None:
    splits = {"train": made(30), "validation": made(10, 1), "unsupervised": made(10, 2)}
    DatasetDict({split: Dataset.from_list(rows) for split, rows in splits.items()}).save_to_disk(str(tmp_path / "news"))
    own = from_data(tmp_path / "news", text="text", label="topic")
    assert "news: the split unsupervised is not used" in own.notes


# --- metrics ----------------------------------------------------------------------------------------------------------


def logits(task: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(30, task.num_labels))


NAMED = {
    "topic": ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "matthews_correlation", "roc_auc"),
    "tags": ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "roc_auc"),
    "sport_share": ("pearson", "spearmanr", "r2", "mse", "mae"),
}


@pytest.mark.parametrize(("label", "metric"), [(label, name) for label, names in NAMED.items() for name in names])
def test_each_metric_is_scored_against_a_constant_guess(label: str, metric: str) -> None:
    tables = {"train": pd.DataFrame(made(40)), "validation": pd.DataFrame(made(30, 1))}
    error = metric in ("mse", "mae")
    task = from_data(tables, text="text", label=label, metric=[metric, "r2"] if error else metric).task
    assert task.headline == (("r2",) if error else (metric,))
    rows = task.rows()
    assert rows is not None
    encoded = {split: Dataset.from_dict({"labels": task.labels_of(part[:])}) for split, part in rows.items()}
    true = task.references(encoded["validation"])
    assert np.isfinite(task.evaluate(task.predictions(logits(task)), true)[metric])
    perfect = task.predictions(
        40.0 * (np.eye(4)[true] if label == "topic" else true - 0.5)
        if task.labels
        else np.asarray(true).reshape(len(true), -1)
    )
    assert task.evaluate(perfect, true)[metric] == pytest.approx(0.0 if error else 1.0)
    guess = task.evaluate(task.constant(encoded["train"], true), true)
    assert guess[metric] < 1 or error
    if metric == "roc_auc":
        assert guess[metric] == pytest.approx(0.5)


def test_a_function_of_ones_own(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_scores.py").write_text(
        "import numpy as np\n\n"
        "def close(predicted, true):\n    return 1 - np.abs(np.subtract(predicted, true)).mean()\n\n"
        "def nothing(predicted, true):\n    return None\n\n"
        "def broken(predicted, true):\n    return predicted.nope\n"
    )
    monkeypatch.chdir(tmp_path)  # where it is found, though the command lies elsewhere
    data = write(tmp_path / "shares.jsonl", made(60))
    command = ("compare", "--data", data, "--text", "text", "--label", "sport_share", *FAST)
    commands.works(*command, "--methods", "none", "--metric", "my_scores:close", "--out", tmp_path / "out")
    found = records(tmp_path / "out")["shares-none-0"]
    off = np.subtract(
        found["predictions"]["validation"], records(tmp_path / "out")["shares-teacher"]["references"]["validation"]
    )
    assert found["metrics"] == {"my_scores:close": pytest.approx(1 - np.abs(off).mean())}
    for metric, says in {
        "my_scores:nothing": "gave None; it must return one number",
        "my_scores:broken": "fails: AttributeError",
        "my_scores:missing": "cannot be imported: AttributeError",
        "no_such_module:score": "cannot be imported: ModuleNotFoundError",
        "mse": "mse is an error, and less is better; name a metric for the score too",
        "accuracy": "'accuracy' is for classification and multilabel; for regression there are pearson",
        "pearsonr": "did you mean 'pearson'?",
    }.items():
        commands.fails(*command, "--metric", metric, "--out", tmp_path / "no", says=(says,))


# --- YAML -------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untrained")
def test_yaml_files_beside_glues_tasks(commands: Commands, tmp_path: Path) -> None:
    folder(tmp_path / "rows")
    (tmp_path / "news.yaml").write_text(
        "columns: {text: [text, second], label: topic}\nfiles: rows\nmetrics: [macro_f1, accuracy]\n"
    )
    (tmp_path / "other.yaml").write_text(
        "name: tagging\ncolumns: {text: text, label: tags}\nkind: multilabel\nlabels: [tech, art, food, sport]\n"
        "files: {train: rows/validation.jsonl, validation: rows/train.jsonl}\n"
    )
    names = f"{tmp_path / 'news.yaml'},{tmp_path / 'other.yaml'},rte"
    options = ("--data", "synthetic", "--train-rows", "40", "--validation-rows", "20", "--methods", "none", *MODELS)
    printed = commands.works("compare", "--tasks", names, *options, "--out", tmp_path / "out", "--dry-run")
    for line in (
        "news: text and second to topic, 4 classes (art, food, sport, tech); scored by macro_f1 and accuracy",
        "tagging: text to tags, 4 labels, several a row (tech, art, food, sport); scored by micro_f1",
        "news: 1 cell (none), 40 train, 20 validation rows",
        "tagging: 1 cell (none), 32 train, 20 validation rows",
        "rte: 1 cell (none), 40 train, 20 validation rows",
    ):
        assert line in printed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a, b]", "it is no mapping of keys; it begins as in columns: {text: [title, body], label: topic}"),
        ("columns: {text: text}\nfiles: rows", "columns.label: Field required"),
        ("colums: {text: text, label: topic}\nfiles: rows", "unknown key 'colums'; did you mean 'columns'?"),
        ("columns: {text: text, label: topic}", "files: Field required"),
        ("columns: {text: text, label: topic}\nfiles: gone.csv", "there is no gone.csv"),
        ("columns: {text: text, label: topic}\nfiles: {train: gone.csv}", "there is no file gone.csv"),
        ("columns: {text: text, label: topic}\nfiles: rows\nsplits: {dev: x}", "unknown split 'dev'"),
        ("columns: {text: text, label: topic}\nfiles: rows\nsplits: {test: x}", "no split 'x'; it has"),
        ("columns: {text: text, label: topic}\nfiles: rows\nseed: -1", "seed: Input should be greater than"),
        ("columns: {text: text, label: topic}\nfiles: rows\nname: sst2", "one of kdzoo's own"),
        ("columns: {text: text, label: topic\nfiles: rows", "is not YAML"),
    ],
)
@pytest.mark.usefixtures("untrained")
def test_bad_yaml(text: str, says: str, commands: Commands, tmp_path: Path) -> None:
    folder(tmp_path / "rows", train=20, validation=8)
    (tmp_path / "mine.yaml").write_text(text)
    command = ("compare", "--tasks", tmp_path / "mine.yaml", "--methods", "none", *MODELS, "--out", tmp_path / "out")
    commands.fails(*command, says=(says,))


def test_splits_of_a_yaml_file_are_renamed(tmp_path: Path) -> None:
    for split, rows in {"a": made(30), "b": made(12, 1)}.items():
        write(tmp_path / "rows" / f"{split}.csv", rows)
    (tmp_path / "mine.yaml").write_text(
        "columns: {text: text, label: topic}\nfiles: rows\nsplits: {train: a, validation: b}\n"
    )
    own = from_yaml(tmp_path / "mine.yaml")
    assert own.task.name == "mine" and {s: len(rows) for s, rows in rows_of(own).items()} == {
        "train": 30,
        "validation": 12,
    }
