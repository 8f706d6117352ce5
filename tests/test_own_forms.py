"""The forms that data of one's own may have: files, folders, what datasets saved, objects, the hub."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Sequence as Several
from own_data import TOPICS, made, rows_of, write

from kdzoo.errors import KdzooError
from kdzoo.tasks.own import from_data

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
