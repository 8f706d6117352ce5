"""Data of one's own is a task: its kind, labels, metrics and splits are found, said, and can be set."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import STUDENT, TEACHER, Commands, record_files, records
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Sequence as Several
from own_data import TOPICS, folder, made, write
from transformers import BertConfig, BertForSequenceClassification

from kdzoo.errors import KdzooError
from kdzoo.tasks.own import Own, from_data
from kdzoo.tasks.own_file import from_yaml

MODELS = ("--teacher", TEACHER, "--student", STUDENT)
FAST = (*MODELS, "--epochs", "1", "--learning-rate", "0.01", "--evaluations", "1")
OWN = ("--text", "text", "--label", "topic")
METHODS = "none,kd,cos_nce@cls+ce"


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(capsys)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where something is trained."""
    for name in ("grid.cells", "runs.single"):
        monkeypatch.setattr(f"kdzoo.bench.{name}.train", lambda *_, **__: pytest.fail("trained"))


def rows_of(own: Own) -> dict[str, list[dict[str, Any]]]:
    rows = own.task.rows()
    assert rows is not None
    return {split: part.to_list() for split, part in rows.items()}


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

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_form_gives_the_same_rows(suffix: str, zipped: bool, tmp_path: Path) -> None:
    expected = rows_of(from_data(pd.DataFrame(made(40)), text="text", label="topic"))
    path = tmp_path / f"news{suffix}"
    if suffix == ".parquet":
        pd.DataFrame(made(40)).to_parquet(path)
    else:
        write(path, made(40))
    if zipped:
        path = tmp_path / f"news{suffix}.gz"
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    own = from_data(path, text="text", label="topic")
    assert own.task.name == "news" and rows_of(own) == expected


def test_objects_and_saved_folders(tmp_path: Path) -> None:
    splits = {"train": made(40), "validation": made(20, 1)}
    tables = {split: pd.DataFrame(rows) for split, rows in splits.items()}
    expected = rows_of(from_data(tables, text="text", label="tags"))
    features = Features(
        {
            **{name: Value("string") for name in ("text", "second")},
            "topic": ClassLabel(names=[*reversed(TOPICS)]),
            "tags": Several(ClassLabel(names=[*reversed(TOPICS)])),
        }
    )
    short = {split: [{name: row[name] for name in features} for row in rows] for split, rows in splits.items()}
    dataset = DatasetDict({split: Dataset.from_list(rows, features=features) for split, rows in short.items()})
    dataset.save_to_disk(str(tmp_path / "saved"))
    for split, part in dataset.items():
        part.save_to_disk(str(tmp_path / "apart" / split))
    for data in (dataset, {**dataset}, tmp_path / "saved", tmp_path / "apart"):
        assert rows_of(from_data(data, text="text", label="tags")) == expected
    by_name = from_data(dataset, text="text", label="topic").task
    assert by_name.labels == tuple(TOPICS)
    assert rows_of(from_data(dataset["train"], text="text", label="topic"))["train"]
    shutil.copytree(tmp_path / "apart/train", tmp_path / "alone")
    assert from_data(tmp_path / "alone", text="text", label="topic").task.name == "alone"


def test_a_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, configuration: str | None) -> DatasetDict:
        asked.append(name)
        if name != "someone/news":
            raise ConnectionError("offline")
        return DatasetDict({split: Dataset.from_list(made(20, seed)) for seed, split in enumerate(("train", "test"))})

    monkeypatch.setattr("datasets.load_dataset", load)
    own = from_data("someone/news", text="text", label="topic")
    assert own.task.name == "news" and {s: len(rows) for s, rows in rows_of(own).items()} == {
        "train": 18,
        "validation": 2,
        "test": 20,
    }
    with pytest.raises(KdzooError, match="there is no file or folder someone/gone; could not load") as caught:
        from_data("someone/gone", text="text", label="topic")
    assert "synthetic" not in str(caught.value) and asked == ["someone/news", "someone/gone"]


def test_configurations_of_hub_data_sets_of_each_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Read by `datasets` itself, from folders that are laid out as on the hub."""
    words = [{"tokens": ["Rain", "in", "Bonn"], "tags": ["O", "O", "B-LOC"]}, {"tokens": ["no"], "tags": ["O"]}]
    answers = {"text": ["Bonn"], "answer_start": [12]}
    questions = [
        {"id": name, "title": "", "context": f"It rains in Bonn {name}.", "question": "Where?", "answers": answers}
        for name in "abcdefgh"
    ]
    pairs = [{"translation": {"en": f"word {n}", "de": f"Wort {n}"}} for n in range(12)]
    kinds = {"words": words * 6, "questions": questions, "pairs": pairs}
    folder = tmp_path / "someone" / "several"
    listed = "".join(f"- config_name: {kind}\n  data_files: {kind}.jsonl\n" for kind in kinds)
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"---\nconfigs:\n{listed}---\n", encoding="utf-8")
    for kind, table in kinds.items():
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    import datasets

    load = datasets.load_dataset
    monkeypatch.setattr(
        "datasets.load_dataset", lambda name, of: load(str(tmp_path / name), of, cache_dir=str(tmp_path / "cache"))
    )
    tagged = from_data("someone/several:words", kind="tokens", text="tokens", label="tags")
    assert tagged.task.name == "several_words" and tagged.task.labels == ("O", "B-LOC", "I-LOC")
    answered = from_data("someone/several:questions", kind="spans")
    assert sum(len(rows) for rows in rows_of(answered).values()) == 8
    written = from_data("someone/several:pairs", kind="seq2seq", text="translation.en", label="translation.de")
    assert rows_of(written)["train"][0]["target"][0].startswith("Wort")
    with pytest.raises(
        KdzooError, match=r"\['words', 'questions', 'pairs'\]\); name one of them: someone/several:CONFIG"
    ):
        from_data("someone/several", text="a", label="b")
    with pytest.raises(KdzooError, match=r"'other' not found.*name one of them: someone/several:CONFIGURATION"):
        from_data("someone/several:other", kind="tokens")
    for missing in ("someone/several:", "news.json"):
        with pytest.raises(KdzooError, match=f"there is no (file )?{missing}"):
            from_data(missing, kind="spans")


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


# --- bad input --------------------------------------------------------------------------------------------------------

HEAD = "text,label\n"
GOOD = "".join(f"word {row},{'ab'[row % 2]}\n" for row in range(20))
NUMBERS = "".join(f"word {row},{row / 2}\n" for row in range(30))

BAD: dict[str, tuple[dict[str, str | bytes], dict[str, Any], tuple[str, ...]]] = {
    "a missing text column": ({"d.csv": "tekst,label\n" + GOOD}, {}, ("d.csv: no column 'text'; it has tekst, label",)),
    "a missing label column": ({"d.jsonl": '{"text": "a", "l": 1}\n'}, {}, ("d.jsonl, row 1: no column 'label'",)),
    "no columns named": ({"d.csv": HEAD + GOOD}, {"text": None, "label": None}, ("--text and --label", "text, label")),
    "a class that training lacks": (
        {"d/train.csv": HEAD + GOOD, "d/validation.csv": HEAD + "x,a\ny,c\n"},
        {},
        ("d/validation.csv, row 2, column 'label': no training row has the label 'c'; training has a, b",),
    ),
    "a class that training lacks, though it is named": (
        {"d/train.csv": HEAD + GOOD, "d/test.csv": HEAD + "x,a\ny,c\n"},
        {"labels": "a,b,c"},
        ("d/test.csv, row 2, column 'label': no training row has the label 'c'",),
    ),
    "an empty split": ({"d/train.csv": HEAD + GOOD, "d/dev.csv": HEAD}, {}, ("d/dev.csv: the split has no row",)),
    "a split of one row": (
        {"d/train.csv": HEAD + GOOD, "d/dev.csv": HEAD + "x,a\n"},
        {},
        ("d/dev.csv: the split has one row; it needs two or more",),
    ),
    "an empty file": ({"d.csv": ""}, {}, ("d.csv: no column 'text'; it has no header",)),
    "too few rows": ({"d.csv": HEAD + "x,a\ny,b\nz,a\n"}, {}, ("d: 3 rows are too few",)),
    "labels that are half numbers": (
        {"d.csv": HEAD + "".join(f"w,{row if row % 2 else 'x'}\n" for row in range(20))},
        {},
        ("d.csv, row 2, column 'label': '1' stands among texts (10 of 20 labels are numbers)", "--kind classification"),
    ),
    "a number that is none": (
        {"d.csv": HEAD + NUMBERS + "x,n/a\n"},
        {},
        ("d.csv, row 31, column 'label': 'n/a' stands among numbers",),
    ),
    "a target that is no number": (
        {"d.csv": "text,x,y\n" + "a,1,2\n" * 9 + "b,1,bad\n"},
        {"label": "x,y", "kind": "regression"},
        ("d.csv, row 10, column 'y': label 'bad' is not a number",),
    ),
    "a row with no label": (
        {"d.csv": HEAD + GOOD + "x,\n"},
        {},
        ("d.csv, row 21, column 'label': the row has no label",),
    ),
    "a row with a blank label": (
        {"d.csv": HEAD + GOOD + "x,  \n"},
        {},
        ("row 21, column 'label': the row has no label",),
    ),
    "a validation row with no label": (
        {"d/train.csv": HEAD + GOOD, "d/val.csv": HEAD + "x,a\ny,\n"},
        {},
        ("d/val.csv, row 2, column 'label': the row has no label",),
    ),
    "a null label": ({"d.jsonl": '{"text": "a", "label": "b"}\n{"text": "a", "label": null}\n'}, {}, ("row 2",)),
    "no label of several": (
        {"d.csv": HEAD + "a,x|y\nb,\nc,x\nd,y\n"},
        {},
        ("d.csv, row 2", "no label", "say --kind multilabel"),
    ),
    "a text that is none": (
        {"d.jsonl": '{"text": "a", "label": "b"}\n{"text": 3, "label": "c"}\n' + '{"text": "d", "label": "b"}\n' * 9},
        {},
        ("d.jsonl, row 2, column 'text': expected text, got 3",),
    ),
    "no UTF-8": ({"d.csv": (HEAD + GOOD + "café,a\n").encode("latin-1")}, {}, ("d.csv, line 22: not UTF-8", "0xe9")),
    "several label columns": (
        {"d.csv": "text,x,y\n" + "a,1,2\n" * 9},
        {"label": "x,y"},
        ("the label columns x, y may be", "--kind regression", "--kind multilabel"),
    ),
    "label columns that are not 0 or 1": (
        {"d.csv": "text,x,y\n" + "a,1,0\n" * 9 + "a,1,2\n"},
        {"label": "x,y", "kind": "multilabel"},
        ("d.csv, row 10, column 'y': expected 0 or 1, got '2'",),
    ),
    "a column twice": ({"d.csv": "text,label,label\n" + "a,b,c\n" * 9}, {}, ("the column 'label' stands 2 times",)),
    "a field twice": ({"d.jsonl": '{"text": "a", "label": 1, "label": 2}\n'}, {}, ("row 1", "'label' stands twice")),
    "a column named twice": ({"d.csv": HEAD + GOOD}, {"label": "text"}, ("the column 'text' is named twice",)),
    "three texts": ({"d.csv": "a,b,c,label\n" + "1,2,3,x\n1,2,3,y\n" * 9}, {"text": "a,b,c"}, ("one or two",)),
    "one class": ({"d.csv": HEAD + "w,a\n" * 9}, {}, ("d has one class, 'a'",)),
    "a class a row": ({"d.csv": HEAD + "".join(f"w,l{r}\n" for r in range(9))}, {}, ("a label of its own",)),
    "a row cut short": ({"d.csv": HEAD + GOOD + "x\n"}, {}, ("d.csv, row 21: 1 fields where the header has 2",)),
    "a broken line": ({"d.jsonl": '{"text": "a", "label": 1}\n{"text"\n'}, {}, ("d.jsonl, row 2: malformed JSON",)),
    "another form": ({"d.xlsx": b"PK"}, {}, ("data is in .tsv", "convert it")),
    "a split twice": ({"d/train.csv": HEAD + GOOD, "d/train.tsv": "x"}, {}, ("d has train more than once",)),
    "two names for a split": (
        {"d/train.csv": HEAD + GOOD, "d/dev.csv": HEAD + GOOD, "d/val.csv": HEAD + GOOD},
        {},
        ("d has val and dev; keep one",),
    ),
    "no training rows": ({"d/test.csv": HEAD + GOOD}, {}, ("d has no train split; it has test",)),
    "a kind that is none": ({"d.csv": HEAD + GOOD}, {"kind": "multilable"}, ("did you mean 'multilabel'?",)),
    "labels of numbers": ({"d.csv": HEAD + NUMBERS}, {"labels": "a,b"}, ("numbers have no labels",)),
    "a label that is not named": (
        {"d.csv": HEAD + GOOD},
        {"labels": "a,c"},
        ("row 2", "label 'b' is none of d's: 0 (a), 1 (c)"),
    ),
    "half a letter": (
        {"d.jsonl": "".join(json.dumps({"text": f"a {row}\ud800", "label": row % 2}) + "\n" for row in range(20))},
        {},
        ("d.jsonl, row 1, column 'text': half of a letter",),
    ),
    "half a letter in a label": (
        {
            "d.jsonl": "".join(
                json.dumps({"text": f"a {row}", "label": "x\ud800"[: row % 2 + 1]}) + "\n" for row in range(20)
            )
        },
        {},
        ("d.jsonl", "half of a letter"),
    ),
    "a number among lists of labels": (
        {
            "d.jsonl": "".join(
                json.dumps({"text": f"a {row}", "label": 3 if row == 5 else ["x", "y"][: row % 3]}) + "\n"
                for row in range(20)
            )
        },
        {},
        ("d.jsonl, row 6, column 'label': labels 3 are neither a list nor a text separated by '|'",),
    ),
    "a separator of labels that are none": (
        {"d.csv": HEAD + GOOD},
        {"label-separator": ";"},
        ("d: --label-separator",),
    ),
    "GLUE's name": ({"rte.csv": HEAD + GOOD}, {}, ("'rte' is one of kdzoo's own", "rename the file")),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.usefixtures("untrained")
def test_bad_rows(case: str, commands: Commands, tmp_path: Path) -> None:
    files, options, says = BAD[case]
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    data = tmp_path / next(iter(files)).split("/")[0]
    told = {"text": "text", "label": "label"} | options
    given = [part for option, value in told.items() if value is not None for part in (f"--{option}", value)]
    commands.fails("compare", "--data", data, *given, *MODELS, "--out", tmp_path / "out", says=says)
    assert not [*tmp_path.glob("out/**/*.json")]


@pytest.mark.usefixtures("untrained")
def test_a_missing_shard(commands: Commands, tmp_path: Path) -> None:
    for shard in (0, 2):
        pd.DataFrame(made(20, shard)).to_parquet(tmp_path / f"train-0000{shard}-of-00003.parquet")
    command = ("compare", *OWN, *MODELS, "--out", tmp_path / "out", "--data")
    commands.fails(*command, tmp_path, says=("train-00001-of-00003.parquet is missing, of the 3 files",))
    alone = tmp_path / "train-00002-of-00003.parquet"
    commands.fails(*command, alone, says=("is one of 3 files; name their folder",))
    pd.DataFrame(made(20, 1)).to_parquet(tmp_path / "train-00001-of-00003.parquet")
    assert sum(map(len, rows_of(from_data(tmp_path, text="text", label="topic")).values())) == 60


@pytest.mark.usefixtures("untrained")
def test_what_does_not_go_together(commands: Commands, tmp_path: Path) -> None:
    data = write(tmp_path / "news.csv", made(20))
    commands.fails("compare", "--data", data, *OWN, "--out", tmp_path / "out", says=("news needs a --teacher",))
    commands.fails("compare", "--tasks", "rte", "--data", data, *OWN, *MODELS, says=("so rte has no source", "YAML"))
    commands.fails("compare", "--tasks", "rte", "--text", "text", says=("--text is for data of your own",))
    commands.fails("compare", "--data", data, *MODELS, says=("--text and --label", "it has text, second, topic"))
    commands.fails("compare", "--data", tmp_path / "gone.csv", *OWN, *MODELS, says=("there is no", "gone.csv"))
    commands.fails(
        "finetune", "--data", data, "--model", TEACHER, "--out", tmp_path / "o", says=("--text and --label",)
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([1, 2], "data is list; give a path"),
        ({"train": pd.DataFrame(made(9)), "vaildation": pd.DataFrame(made(9))}, "did you mean 'validation'?"),
        ({"train": [1]}, "a split is list; give a file"),
        (pd.concat([pd.DataFrame(made(9))] * 2, axis=1), "has the column 'text' twice"),
        (pd.DataFrame(made(9)).assign(topic=["a", None, *"abababa"]), "the DataFrame, row 2, column 'topic'"),
    ],
)
def test_objects_that_are_no_rows(data: Any, says: str) -> None:
    with pytest.raises(KdzooError, match=says):
        from_data(data, text="text", label="topic")
