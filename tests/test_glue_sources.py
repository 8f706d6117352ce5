"""Every form of GLUE folder reads back equal, the hub path works, and every kind of bad data is named."""

from __future__ import annotations

import csv
import gzip
import json
import os

import datasets
import pytest

from kdzoo.errors import KdzooError
from kdzoo.tasks import TASKS, get_task, load
from kdzoo.tasks.sources import hub, subset_of
from kdzoo.tasks.sources.files import SUFFIXES

# Words and marks that a careless reader changes: missing-value words, lone quotes, blanks at the end, odd characters.
TEXTS = ["None", 'a "lone quote', "NA ", "null", "it's\x85 one\u2028row, é", "1.0", "a\rb", "  two  spaces "]


def _rows(task, split):
    shift = len(split)
    labels = [0.0, 2.5, 5.0, 3.75] if task.regression else list(range(task.num_labels)) * 2
    rows = []
    for number, label in enumerate(labels):
        row = {c: f"{TEXTS[(number + 2 * place + shift) % len(TEXTS)]}{split}" for place, c in enumerate(task.columns)}
        rows.append(row | {"label": label, "idx": number})
    return rows


def _splits(task):
    return ("train", *task.validation_splits)


def _write(path, rows):
    names = list(rows[0])
    kind = path.name.removesuffix(".gz").rsplit(".")[-1]
    if kind == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(path.read_bytes()))
        return
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        if kind == "jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        elif kind == "csv":
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.write("\t".join(names) + "\n")
            file.writelines("\t".join(str(value) for value in row.values()) + "\n" for row in rows)


def _expected(task, split):
    return [{name: row[name] for name in (*task.columns, "label")} for row in _rows(task, split)]


def _check(task, root, splits=None):
    loaded = load(task, root)
    assert tuple(loaded) == (splits or _splits(task))
    for split, data in loaded.items():
        assert data.to_list() == _expected(task, split)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", TASKS)
def test_files_with_the_hubs_field_names(tmp_path, name, suffix):
    task = TASKS[name]
    (tmp_path / name).mkdir()
    for split in _splits(task):
        _write(tmp_path / name / f"{split}{suffix}", _rows(task, split))
    _check(task, tmp_path)


def test_parquet_shards_as_the_hub_names_them(tmp_path):
    task = get_task("stsb")
    (tmp_path / "stsb").mkdir()
    for split in _splits(task):
        rows = _rows(task, split)
        _write(tmp_path / "stsb" / f"{split}-00000-of-00002.parquet", rows[:1])
        _write(tmp_path / "stsb" / f"{split}-00001-of-00002.parquet", rows[1:])
    _check(task, str(tmp_path))


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", ["rte", "stsb", "mnli"])
def test_folders_saved_by_datasets(tmp_path, name, whole):
    task = TASKS[name]
    saved = {split: datasets.Dataset.from_list(_rows(task, split)) for split in _splits(task)}
    if not task.regression:
        saved = {s: d.cast_column("label", datasets.ClassLabel(names=list(task.labels))) for s, d in saved.items()}
    if whole:
        datasets.DatasetDict(saved).save_to_disk(tmp_path / name)
    else:
        for split, data in saved.items():
            data.save_to_disk(tmp_path / name / split)
    _check(task, tmp_path)


def test_class_names_in_another_order_keep_their_meaning(tmp_path):
    task = get_task("rte")
    turned = datasets.ClassLabel(names=["not_entailment", "entailment"])
    for split in _splits(task):
        rows = [row | {"label": 1 - row["label"]} for row in _rows(task, split)]
        datasets.Dataset.from_list(rows).cast_column("label", turned).save_to_disk(tmp_path / "rte" / split)
    _check(task, tmp_path)


# The official download: header (CoLA has none) and how a row of ours is laid out under it.
OFFICIAL = {
    "cola": ("CoLA", None, lambda r, y: ("gj04", y, "*", r["sentence"])),
    "sst2": ("SST-2", "sentence label", lambda r, y: (r["sentence"], y)),
    "mrpc": (
        "MRPC",
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        lambda r, y: (y, 2 * r["idx"], 2 * r["idx"] + 1, r["sentence1"], r["sentence2"]),
    ),
    "qqp": (
        "QQP",
        "id qid1 qid2 question1 question2 is_duplicate",
        lambda r, y: (1, 2, 3, r["question1"], r["question2"], y),
    ),
    "stsb": (
        "STS-B",
        "index genre filename year old_index source1 source2 sentence1 sentence2 score",
        lambda r, y: (r["idx"], "g", "f", 2012, 1, "s", "s", r["sentence1"], r["sentence2"], y),
    ),
    "mnli": (
        "MNLI",
        "index pairID sentence1 sentence2 label1 gold_label",
        lambda r, y: (r["idx"], "p", r["premise"], r["hypothesis"], "neutral", y),
    ),
    "qnli": ("QNLI", "index question sentence label", lambda r, y: (r["idx"], r["question"], r["sentence"], y)),
    "rte": ("RTE", "index sentence1 sentence2 label", lambda r, y: (r["idx"], r["sentence1"], r["sentence2"], y)),
    "wnli": ("WNLI", "index sentence1 sentence2 label", lambda r, y: (r["idx"], r["sentence1"], r["sentence2"], y)),
}


def _official(task, rows):
    _, header, layout = OFFICIAL[task.name]
    textual = task.name in ("mnli", "qnli", "rte")
    lines = [layout(row, task.labels[row["label"]] if textual else row["label"]) for row in rows]
    lines = ["\t".join(map(str, line)) for line in lines]
    return "\n".join([header.replace(" ", "\t") if "\t" not in header else header, *lines] if header else lines) + "\n"


def _write_official(task, root):
    folder = root / OFFICIAL[task.name][0]
    folder.mkdir()
    for split in _splits(task):
        name = split.replace("validation", "dev")
        (folder / f"{name}.tsv").write_text(_official(task, _rows(task, split)), encoding="utf-8", newline="")
    (folder / "test.tsv").write_text("index\tsentence\n")
    return folder


@pytest.mark.parametrize("name", TASKS)
def test_the_official_download(tmp_path, name):
    if name == "mrpc":  # its header has blanks inside the names
        assert "#1 String" in OFFICIAL["mrpc"][1]
    _write_official(TASKS[name], tmp_path)
    _check(TASKS[name], tmp_path)


def test_mrpc_as_microsoft_has_it(tmp_path):
    task = get_task("mrpc")
    train, held_out = _rows(task, "train"), [row | {"idx": row["idx"] + 50} for row in _rows(task, "validation")]
    folder = tmp_path / "MRPC"
    folder.mkdir()
    text = _official(task, [train[0], held_out[0], *train[1:], *held_out[1:]])
    (folder / "msr_paraphrase_train.txt").write_text("\ufeff" + text, encoding="utf-8", newline="")
    with pytest.raises(KdzooError, match=r"dev_ids\.tsv is missing"):
        load(task, tmp_path)
    ids = "".join(f"{2 * row['idx']}\t{2 * row['idx'] + 1}\n" for row in held_out)
    (folder / "dev_ids.tsv").write_text("#1 ID\t#2 ID\n" + ids)
    _check(task, tmp_path)


def test_official_qqp_rows_cut_by_a_line_break_are_left_out_as_on_the_hub(tmp_path):
    folder = _write_official(get_task("qqp"), tmp_path)
    with (folder / "train.tsv").open("a") as file:
        file.write("9\t1\t2\tWhat is\n")
    _check(get_task("qqp"), tmp_path)


def test_a_folder_may_lack_mismatched_and_other_tasks(tmp_path):
    task = get_task("mnli")
    (tmp_path / "mnli").mkdir()
    for split in ("train", "validation_matched"):
        _write(tmp_path / "mnli" / f"{split}.tsv", _rows(task, split))
    _check(task, tmp_path, ("train", "validation_matched"))
    with pytest.raises(KdzooError, match=r"no data for rte: looked for \S+rte and \S+RTE"):
        load(get_task("rte"), tmp_path)


# --- the hub ---


def test_the_hub(tmp_path, monkeypatch):
    """`datasets.load_dataset` reads a local folder laid out as the hub's repository, with its test split."""
    task = get_task("mrpc")
    (tmp_path / "hub" / "mrpc").mkdir(parents=True)
    for split in (*_splits(task), "test"):
        _write(tmp_path / "hub" / "mrpc" / f"{split}-00000-of-00001.parquet", _rows(task, split))
    files = "".join(f"  - split: {s}\n    path: mrpc/{s}-*\n" for s in (*_splits(task), "test"))
    (tmp_path / "hub" / "README.md").write_text(f"---\nconfigs:\n- config_name: mrpc\n  data_files:\n{files}---\n")
    assert hub.HUB_ID == "nyu-mll/glue"
    monkeypatch.setattr(hub, "HUB_ID", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    _check(task, "hub")


def test_the_hub_out_of_reach(monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'nyu-mll/glue' on the Hub (OfflineModeIsEnabled)\nmore")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(KdzooError, match=r"could not load rte of nyu-mll/glue.*take 'synthetic' or a folder") as caught:
        load(get_task("rte"), "hub")
    assert "\n" not in str(caught.value)


# --- subsets ---


def test_subsets_are_nested_fair_and_the_same_every_time():
    rte = get_task("rte")
    rows = [{"sentence1": str(i), "sentence2": "x", "label": i % 2} for i in range(200)]
    made = datasets.Dataset.from_list(rows)
    ten, fifty = (subset_of(made, n, 3)["sentence1"][:] for n in (10, 50))
    assert fifty[:10] == ten and len(set(fifty)) == 50
    assert 60 < sum(map(int, fifty)) / 50 < 140  # not the file's head
    assert subset_of(made, 10, 4)["sentence1"][:] != ten
    assert subset_of(made, 500, 3) is made
    with pytest.raises(KdzooError, match="train_rows must be 1 or more, got 0"):
        load(rte, "synthetic", train_rows=0)


def test_rows_asked_for(tmp_path):
    task = get_task("mnli")
    _write_official(task, tmp_path)
    loaded = load(task, tmp_path, train_rows=2, validation_rows=3)
    assert {split: len(data) for split, data in loaded.items()} == {
        "train": 2,
        "validation_matched": 3,
        "validation_mismatched": 3,
    }


# --- bad data ---

HEADER = "sentence1\tsentence2\tlabel\n"
GOOD = HEADER + "a\tb\t0\nc\td\t1\n"

BAD = {
    "empty split": ("train.tsv", HEADER, r"train\.tsv: the split is empty"),
    "empty file": ("train.tsv", "", r"train\.tsv: no column 'sentence1'; it has no header"),
    "no column": (
        "train.tsv",
        "sentence1\tlabel\na\t0\n",
        r"train\.tsv: no column 'sentence2'; it has sentence1, label",
    ),
    "too short": ("train.tsv", GOOD + "e\tf\n", r"train\.tsv, row 3: 2 fields .* 3; column 'label' is missing"),
    "too long": ("train.tsv", GOOD + "e\tf\t1\tg\n", r"train\.tsv, row 3: 4 fields .* 3; more follows 'label'"),
    "label": ("train.tsv", GOOD + "e\tf\t7\n", r"train\.tsv, row 3, column 'label': label '7'.*0 \(entail.*1 \(not_"),
    "no label": ("train.tsv", GOOD + "e\tf\t\n", r"train\.tsv, row 3, column 'label': the row has no label"),
    "csv quote": ("train.csv", 'sentence1,sentence2,label\n"a,b,0\n', r"train\.csv, line 2: malformed CSV"),
    "csv short": ("train.csv", "sentence1,sentence2,label\na,b\n", r"train\.csv, row 1: 2 fields"),
    "json": ("train.jsonl", '{"sentence1": "a",\n', r"train\.jsonl, row 1: malformed JSON"),
    "json list": ("train.jsonl", "[1]\n", r"train\.jsonl, row 1: expected an object with sentence1"),
    "json column": ("train.jsonl", '{"sentence1": "a", "label": 0}\n', r"row 1: no column 'sentence2'; it has sent"),
    "json text": (
        "train.jsonl",
        '{"sentence1": "a", "sentence2": null, "label": 0}\n',
        r"train\.jsonl, row 1, column 'sentence2': expected text, got None",
    ),
    "json empty": ("train.jsonl", "", r"train\.jsonl: the split is empty"),
    "not utf-8": (
        "train.tsv",
        b"sentence1\tsentence2\tlabel\n\xff\xfe\t\x80\t0\n",
        r"train\.tsv, line 2: not UTF-8 \(invalid start byte 0xff\)",
    ),
    "cut gzip": ("train.tsv.gz", gzip.compress(GOOD.encode())[:-9], r"train\.tsv\.gz: not readable as gzip text"),
    "no gzip": ("train.tsv.gz", GOOD, r"train\.tsv\.gz: not readable as gzip text"),
    "no parquet": ("train.parquet", GOOD, r"train\.parquet: not readable as Parquet"),
}


def _folder(tmp_path, name, content):
    folder = tmp_path / "rte"
    folder.mkdir()
    (folder / "validation.tsv").write_text(GOOD)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


@pytest.mark.parametrize("case", BAD)
def test_bad_file_names_file_row_and_column(tmp_path, case):
    name, content, message = BAD[case]
    _folder(tmp_path, name, content)
    with pytest.raises(KdzooError, match=message) as caught:
        load(get_task("rte"), tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_file_says_where_it_looked_and_what_would_do(tmp_path):
    folder = _folder(tmp_path, "train.tsv", GOOD)
    (folder / "validation.tsv").unlink()
    with pytest.raises(KdzooError, match=r"no validation split for rte in \S+rte: .*\.tsv\.gz.*\.parquet.*dev\.tsv"):
        load(get_task("rte"), tmp_path)


def test_a_split_that_is_there_twice(tmp_path):
    folder = _folder(tmp_path, "train.tsv", GOOD)
    (folder / "train.csv").write_text(GOOD)
    with pytest.raises(KdzooError, match=r"train more than once \(train\.tsv, train\.csv\)"):
        load(get_task("rte"), tmp_path)


def test_a_damaged_saved_folder(tmp_path):
    task = get_task("rte")
    datasets.DatasetDict(
        {split: datasets.Dataset.from_list(_rows(task, split)) for split in _splits(task)}
    ).save_to_disk(tmp_path / "rte")
    (tmp_path / "rte" / "train" / "state.json").write_text("{")
    with pytest.raises(KdzooError, match="not readable as a folder saved by datasets"):
        load(task, tmp_path)


def test_a_saved_folder_without_a_column(tmp_path):
    for split in ("train", "validation"):
        datasets.Dataset.from_list([{"sentence1": "a", "label": 0}]).save_to_disk(tmp_path / "rte" / split)
    with pytest.raises(KdzooError, match=r"train: no column 'sentence2'"):
        load(get_task("rte"), tmp_path)


def test_no_such_source(tmp_path):
    with pytest.raises(KdzooError, match="did you mean 'synthetic'"):
        load(get_task("rte"), "syntetic")
    with pytest.raises(
        KdzooError, match=r"^'nofolder' is not a folder; data comes from 'hub', 'synthetic' or a folder"
    ):
        load(get_task("rte"), "nofolder")
    with pytest.raises(KdzooError, match="is not a folder"):
        load(get_task("rte"), os.path.join(tmp_path, "nowhere"))
