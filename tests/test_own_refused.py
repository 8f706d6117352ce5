"""Data of one's own that makes no task is refused in one line, with file and row, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import STUDENT, TEACHER, Commands
from own_data import made, rows_of, write

from kdzoo.errors import KdzooError
from kdzoo.tasks.own import from_data

MODELS = ("--teacher", TEACHER, "--student", STUDENT)
FAST = (*MODELS, "--epochs", "1", "--learning-rate", "0.01", "--evaluations", "1")
OWN = ("--text", "text", "--label", "topic")


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where something is trained."""
    for name in ("grid.cells", "runs.single"):
        monkeypatch.setattr(f"kdzoo.bench.{name}.train", lambda *_, **__: pytest.fail("trained"))


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
