"""Data of one's own from Python, and tasks of one's own: `kdzoo.compare`, `kdzoo.register_task`, entry points."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import STUDENT, TEACHER, Commands, record_files, records
from datasets import Dataset, DatasetDict
from own_data import TOPICS, folder, made, write

import kdzoo
from kdzoo.errors import KdzooError
from kdzoo.tasks import Classification, load, registry

SIZES: dict[str, Any] = {"teacher": TEACHER, "student": STUDENT, "epochs": 1, "learning_rate": 0.01, "evaluations": 0}


@pytest.fixture(autouse=True)
def tasks() -> Iterator[None]:
    """What is registered here is gone after."""
    before, loaded = dict(registry._tasks), registry._loaded
    yield
    registry._tasks.clear()
    registry._tasks.update(before)
    registry._loaded = loaded


def test_a_comparison_from_python(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame(made(60))
    options = {
        **SIZES,
        "text": "text",
        "label": "topic",
        "methods": ["none", "kd"],
        "seeds": 2,
        "out": tmp_path / "out",
    }
    results = kdzoo.compare(data=table, name="news", **options)
    assert "news: text to topic, 4 classes" in capsys.readouterr().out
    assert results.notes[1].startswith("news: no validation rows: 6 of 60")
    assert [record["method"] for record in results.records] == ["teacher", "none", "kd", "none", "kd"]
    scores: dict[str, list[float]] = {record["method"]: [] for record in results.records}
    for record in results.records:
        scores[record["method"]].append(record["score"])
    found = results.table()
    assert isinstance(found, pd.DataFrame) and [*found.columns] == ["news", "average"]
    for method in ("teacher", "none", "kd"):
        assert found.loc[method, "news"] == pytest.approx(np.mean(scores[method]))
    report = results.report()
    assert report == tmp_path / "out/report.html" and "news" in report.read_text()
    kept = {path: path.stat().st_mtime_ns for path in record_files(tmp_path / "out")}
    again = kdzoo.compare(data=table, name="news", quiet=True, **options)
    assert capsys.readouterr().out == ""
    assert {path: path.stat().st_mtime_ns for path in kept} == kept and again.records == results.records
    with pytest.raises(KdzooError, match="other contents of the rows of news"):
        kdzoo.compare(data=table.iloc[1:], name="news", quiet=True, **options)


def test_data_sets_and_names_with_commas(tmp_path: Path) -> None:
    names = {topic: f"{topic}, really" for topic in TOPICS}
    splits = {"train": made(40), "validation": made(16, 1)}
    renamed = {s: [{"my, text": r["text"], "topic": names[r["topic"]]} for r in rows] for s, rows in splits.items()}
    data = DatasetDict({split: Dataset.from_list(rows) for split, rows in renamed.items()})
    results = kdzoo.compare(
        data=data,
        text=["my, text"],
        label="topic",
        labels=[names[topic] for topic in reversed(TOPICS)],
        metric=["macro_f1", "accuracy"],
        methods="none",
        out=tmp_path,
        quiet=True,
        **SIZES,
    )
    assert [*results.table().columns] == ["data", "average"]
    assert results.records[0]["headline"] == ["macro_f1", "accuracy"]
    config = kdzoo.get_task("data").head().config
    assert list(config["id2label"].values()) == [f"{topic}, really" for topic in reversed(TOPICS)]


def test_what_compare_refuses(tmp_path: Path) -> None:
    table = pd.DataFrame(made(20))
    with pytest.raises(KdzooError, match="unknown setting 'budget'"):
        kdzoo.compare(budget={"epochs": 1}, out=tmp_path)
    with pytest.raises(KdzooError, match="unknown setting 'epoch'; did you mean 'epochs'"):
        kdzoo.compare(data=table, text="text", label="topic", epoch=1, out=tmp_path)
    with pytest.raises(KdzooError, match="the task data needs a --teacher"):
        kdzoo.compare(data=table, text="text", label="topic", out=tmp_path)
    with pytest.raises(KdzooError, match="say which columns to take"):
        kdzoo.compare(data=table, out=tmp_path, **SIZES)
    with pytest.raises(KdzooError, match="unknown kind 'topics'"):
        kdzoo.compare(data=table, text="text", label="topic", kind="topics", out=tmp_path, **SIZES)


def test_a_task_goes_to_another_process_without_its_rows() -> None:
    from kdzoo.tasks.own import from_data

    task = from_data(pd.DataFrame(made(20)), text="text", label="topic").task
    copy = pickle.loads(pickle.dumps(task))
    assert copy == task and copy.head() == task.head()


# --- tasks of one's own -----------------------------------------------------------------------------------------------


class Shouted(Classification):
    """One that reads its own rows, and capital letters as small ones."""

    def parse(self, row: Mapping[str, Any]) -> dict[str, Any]:
        parsed = super().parse(row)
        return {**parsed, "text": parsed["text"].lower()}


def shouted(name: str = "shouted") -> Shouted:
    return Shouted(name, ("text",), tuple(TOPICS), label_columns=("topic",))


def test_a_subclass_is_compared_by_its_name(tmp_path: Path, commands: Commands) -> None:
    task = kdzoo.register_task(shouted())
    assert kdzoo.get_task("shouted") is task
    root = folder(tmp_path / "data/shouted")
    for split in ("train", "validation"):
        rows = made(64 if split == "train" else 32, int(split != "train"))
        write(root / f"{split}.jsonl", [{**row, "text": row["text"].upper()} for row in rows])
    results = kdzoo.compare("shouted", tmp_path / "data", methods="none,kd", out=tmp_path / "o", **SIZES)
    assert [*results.table().columns] == ["shouted", "average"]
    assert records(tmp_path / "o").keys() == {"shouted-teacher", "shouted-none-0", "shouted-kd-0"}
    assert "shouted" in commands.works("list", "--tasks")
    rows = load(task, tmp_path / "data")
    assert all(text == text.lower() for text in rows["train"]["text"])


def test_a_name_is_replaced_but_not_glues() -> None:
    first, second = shouted("mine"), shouted("mine")
    kdzoo.register_task(first)
    assert kdzoo.register_task(second) is kdzoo.get_task("mine") is second
    with pytest.raises(KdzooError, match="'rte' is one of kdzoo's own"):
        kdzoo.register_task(shouted("rte"))
    with pytest.raises(KdzooError, match="register_task takes an instance of a Task"):
        kdzoo.register_task(Shouted)  # type: ignore[arg-type]


PLUG_IN = """
from kdzoo.tasks import Classification

INSTANCE = Classification("plugged", ("text",), ("no", "yes"))


class Mine(Classification):
    pass


def function():
    return Mine("made", ("a", "b"))


def broken():
    raise RuntimeError("no such file")


def number():
    return 3
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The metadata of a package on the path whose module has tasks, not loaded yet."""
    (tmp_path / "a_task_plug_in.py").write_text(PLUG_IN)
    metadata = tmp_path / "a_task_plug_in-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: a-task-plug-in\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._loaded = False
    return metadata / "entry_points.txt"


def test_entry_points_name_instances_and_functions(installed: Path, commands: Commands) -> None:
    installed.write_text("[kdzoo.tasks]\none = a_task_plug_in:INSTANCE\ntwo = a_task_plug_in:function\n")
    printed = commands.works("list", "--tasks")
    assert "plugged" in printed and "made" in printed
    assert kdzoo.get_task("made").columns == ("a", "b") and kdzoo.get_task("made").kind == "regression"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("broken", r"the plug-in 'bad' gives no task: no such file"),
        ("number", r"the plug-in 'bad' gives no task: register_task takes an instance"),
        ("gone", r"the plug-in 'bad' \(a_task_plug_in:gone\) could not be loaded"),
    ],
)
def test_a_broken_entry_point_is_named(name: str, says: str, installed: Path) -> None:
    installed.write_text(f"[kdzoo.tasks]\nbad = a_task_plug_in:{name}\n")
    for _ in range(2):
        with pytest.raises(KdzooError, match=says):
            kdzoo.get_task("whichever")
