"""What a user's own data may also hold: lists of labels as text, other schemes of tags, splits that are not there."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from own_data import made, write

from kdzoo.errors import KdzooError
from kdzoo.tasks import get_task, load
from kdzoo.tasks.own import Own, from_data
from kdzoo.tasks.own_file import from_yaml

CONLL = "Anna B-PER\nsleeps O\n\n" * 20


def rows_of(own: Own) -> Mapping[str, Dataset]:
    rows = own.task.rows()
    assert rows is not None
    return rows


def together(own: Own) -> list[dict[str, Any]]:
    """All rows, whichever split they are in."""
    return [row for part in rows_of(own).values() for row in part]


def jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# --- tagged sentences: columns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "text", "kind"), [
    ("mine.tsv", CONLL, "tokens"),
    ("mine.tsv", CONLL.replace(" ", "\t"), "tokens"),
    ("mine.jsonl", '{"words": ["a"], "tags": ["O"]}\n' * 3, "tokens"),
    ("mine.jsonl", '{"id": "a", "question": "b", "context": "c", "answers": {}}\n' * 3, "spans"),
])  # fmt: skip
def test_a_kind_that_is_seen_from_the_columns_is_offered(name: str, text: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(KdzooError, match=f"say --kind {kind}"):
        from_data(tmp_path / name)


def test_a_folder_of_a_graph_without_its_kind(tmp_path: Path) -> None:
    (tmp_path / "relation2text.tsv").write_text("r\tis\n")
    with pytest.raises(KdzooError, match=r"looked for .*; for the triples of a graph of your own say --kind triples"):
        load(get_task("sst2"), tmp_path)


@pytest.mark.parametrize("others", [("tags", "words"), ("words", "tags")])
def test_the_columns_that_are_asked_for_are_taken(others: tuple[str, str], tmp_path: Path) -> None:
    row = {"tokens": ["a", "b"], "ner_tags": ["B-PER", "O"], others[0]: ["B-LOC", "O"], others[1]: ["B-LOC", "O"]}
    file = jsonl(tmp_path / "rows.jsonl", [row] * 20)
    own = from_data(file, kind="tokens", text="tokens", label="ner_tags")
    assert own.task.labels == ("O", "B-PER", "I-PER")
    assert together(own)[0] == {"words": ["a", "b"], "tags": ["B-PER", "O"]}
    with pytest.raises(KdzooError, match=r"rows.jsonl: no column 'token' of words; it has tokens, ner_tags, "):
        from_data(file, kind="tokens", text="token", label="ner_tags")
    with pytest.raises(KdzooError, match="'tokens' is both words"):
        from_data(file, kind="tokens", text="tokens", label="tokens")


@pytest.mark.parametrize("given", [{"text": "token"}, {"label": "pos"}, {"text": "text_a", "label": "fine"}])
def test_conll_has_no_columns_to_name(given: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine.conll").write_text(CONLL)
    (tmp_path / "lines.tsv").write_text("text_a\tlabel\tfine\n" + "a b\tB-PER O\tB-X O\n" * 20)
    for name in ("mine.conll", "lines.tsv"):
        with pytest.raises(KdzooError, match=rf"{name}: a CoNLL file has no named columns.*leave --\w+.* out"):
            from_data(tmp_path / name, kind="tokens", **given)
        assert from_data(tmp_path / name, kind="tokens").task.labels == ("O", "B-PER", "I-PER")


# --- tagged sentences: tags -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "a.csv",
            "Word,Tag\na,O\n",
            "a.csv: tagged sentences are read from CoNLL .*, JSONL or Parquet, and CSV is none",
        ),
        ("a.csv.gz", "Word,Tag\na,O\n", "a.csv.gz: tagged sentences are read from CoNLL"),
        ("a.conll", "a B-PER\nb S-PER\n", "row 2, .*'S-PER' is no BIO tag.*; write tags of IOBES or BILOU as BIO"),
        ("a.conll", "a B-PER\nb L-PER\n", "row 2, .*'L-PER' is no BIO tag.*: B- for S- and U-, I- for E- and L-"),
        ("a.tsv", "word\ttag\nUlm\tB-LOC\n", "row 1, .*'tag' is no BIO tag.*; a CoNLL file has no header"),
        ("a.tsv", "a\tB-PER\tNNP\nb\tO\tDT\n", "'NNP' is no BIO tag; expected O, B, I, B-TYPE or I-TYPE$"),
        ("a.tsv", "text_a\tlabel\na b\tO\n", "row 2: 1 tags and 2 words; every word needs one$"),
    ],
)
def test_files_of_another_form_are_refused_with_what_to_do(name: str, text: str, says: str, tmp_path: Path) -> None:
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(KdzooError, match=says):
        from_data(tmp_path / name, kind="tokens")


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ([1, 0], "row 2, column 'ner', word 1: 1 is no BIO tag.*; tags are names such as B-PER"),
        (["U-PER", "O"], "row 2, column 'ner', word 1: 'U-PER' is no BIO tag.*; write tags of IOBES or BILOU as BIO"),
        (["B", "O"], "row 2, column 'ner': 'B' among rows that have tags with a type and tags without"),
        ("B-PER O", "row 2, column 'ner': expected a list of texts, got 'B-PER O'"),
    ],
)
def test_tags_of_another_scheme_in_rows(tags: Any, says: str, tmp_path: Path) -> None:
    good = {"words": ["a", "b"], "ner": ["B-PER", "O"]}
    jsonl(tmp_path / "train.jsonl", [good] * 20)
    broken = jsonl(tmp_path / "dev.jsonl", [good, good | {"ner": tags}])
    for data in (broken, tmp_path):  # training rows, and those of another split
        with pytest.raises(KdzooError, match=f"dev.jsonl, {says}"):
            from_data(data, kind="tokens", label="ner")
    bare = jsonl(tmp_path / "bare.jsonl", [good | {"ner": ["B", "I"]}, good | {"ner": ["O", "O"]}] * 9)
    assert from_data(bare, kind="tokens", label="ner").task.labels == ("O", "B", "I")


# --- splits -----------------------------------------------------------------------------------------------------------

SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": f"{n} Anna sleeps.",
                    "qas": [{"id": f"{n}", "question": "Who?", "answers": [{"text": "Anna", "answer_start": 2}]}],
                }
                for n in range(20)
            ]
        }
    ]
}
PAIRS = "source\ttarget\n" + "".join(f"word {n}\tWort {n}\n" for n in range(20))
TEXTS = "text\tlabel\n" + "".join(f"word {n}\t{'ab'[n % 2]}\n" for n in range(20))
KINDS: dict[str | None, tuple[str, str, dict[str, str]]] = {
    "tokens": (".txt", CONLL, {}),
    "spans": (".json", json.dumps(SQUAD), {}),
    "seq2seq": (".tsv", PAIRS, {}),
    None: (".tsv", TEXTS, {"text": "text", "label": "label"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_splits_that_are_not_there_are_refused(kind: str | None, tmp_path: Path) -> None:
    suffix, text, columns = KINDS[kind]
    files = {name: tmp_path / "mine" / f"{name}{suffix}" for name in ("train", "held", "dev")}
    files["train"].parent.mkdir()
    for file in files.values():
        file.write_text(text)

    def refuses(data: Any, splits: dict[str, str] | None, says: str) -> None:
        with pytest.raises(KdzooError, match=says):
            from_data(data, kind=kind, splits=splits, **columns)

    refuses(tmp_path / "mine", {"validation": "nope"}, "mine: no split 'nope'; it has .*train")
    refuses(tmp_path / "mine", {"validaton": "held"}, "unknown split 'validaton'; did you mean 'validation'")
    refuses(
        files["train"], {"validation": "held"}, rf"train{suffix} is one table.*\(validation: held\); leave splits out"
    )
    train, held = files["train"], files["held"]
    refuses({"train": train, "validation": held, "dev": held}, None, "the data has validation and dev; keep one")
    refuses({"train": train, "vali": held}, None, "unknown split 'vali'; did you mean 'validation'")
    own = from_data(tmp_path / "mine", kind=kind, splits={"validation": "held"}, **columns)
    assert {split: len(rows) for split, rows in rows_of(own).items()} == {"train": 20, "validation": 20}
    assert "mine: the split dev is not used" in own.notes
    named = from_data({"train": train, "mine": held}, kind=kind, splits={"validation": "mine"}, **columns)
    assert rows_of(named).keys() == {"train", "validation"}


def test_splits_of_objects() -> None:
    table = pd.DataFrame(made(20))
    for data in (table, Dataset.from_list(made(20))):
        with pytest.raises(KdzooError, match="is one table of training rows"):
            from_data(data, text="text", label="topic", splits={"train": "train"})
    tagged = Dataset.from_dict({"words": [["a", "b"]] * 20, "tags": [["B", "O"]] * 20})
    with pytest.raises(KdzooError, match="the Dataset is one table of training rows"):
        from_data(tagged, kind="tokens", splits={"train": "train"})
    own = from_data(DatasetDict({"train": tagged, "dev": tagged}), kind="tokens")
    assert rows_of(own).keys() == {"train", "validation"}


# --- lists of labels as text ------------------------------------------------------------------------------------------


def test_lists_as_pandas_writes_them_are_refused(tmp_path: Path) -> None:
    lists = [["a", "b"], ["a"], []]
    table = pd.DataFrame({"text": [f"row {n}" for n in range(30)], "tags": [lists[n % 3] for n in range(30)]})
    table.to_csv(tmp_path / "rows.csv", index=False)
    for kind in (None, "multilabel"):
        with pytest.raises(
            KdzooError, match=r"rows.csv, row 1, column 'tags': .*as Python shows it.*write JSON .* a\|b"
        ):
            from_data(tmp_path / "rows.csv", text="text", label="tags", kind=kind)
    plain = table.assign(tags=[json.dumps(tags) for tags in table["tags"]])
    own = from_data({"train": plain, "dev": plain}, text="text", label="tags")
    assert own.task.kind == "multilabel" and own.task.labels == ("a", "b")
    with pytest.raises(KdzooError, match=r"row 1, column 'tags'.*as Python shows it"):
        from_data({"train": plain, "dev": tmp_path / "rows.csv"}, text="text", label="tags")
    names = table.assign(tags=["[UNK]" if n % 2 else "[CLS]" for n in range(30)])
    with pytest.raises(KdzooError, match="or say --kind classification to take each for a name"):
        from_data(names, text="text", label="tags")
    assert from_data(names, text="text", label="tags", kind="classification").task.labels == ("[CLS]", "[UNK]")


@pytest.mark.parametrize("kind", [None, "multilabel"])
def test_lists_as_json_in_a_table_of_text(kind: str | None, tmp_path: Path) -> None:
    lists = [["a", "b"], ["a"], [], ["b|c"]]
    rows = [{"text": f"row {n}", "tags": json.dumps(lists[n % 4])} for n in range(40)]
    own = from_data(write(tmp_path / "rows.csv", rows), text="text", label="tags", kind=kind)
    assert own.task.kind == "multilabel" and own.task.labels == ("a", "b", "b|c")
    for row in together(own):
        expected = lists[int(row["text"].split()[1]) % 4]
        assert [name for name, mark in zip(own.task.labels, row["tags"], strict=True) if mark] == expected


def test_a_frame_of_lists_is_read_as_its_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pd.DataFrame(made(40)).to_parquet(file)
    frame = pd.read_parquet(file)
    assert isinstance(frame["tags"][0], np.ndarray)
    own, expected = (from_data(data, text="text", label="tags", name="rows") for data in (frame, file))
    assert together(own) == together(expected) and own.task.identity() == expected.task.identity()
    tagged = pd.DataFrame({"words": [["a", "b"]] * 20, "tags": [["B-X", "O"]] * 20})
    tagged.to_parquet(tmp_path / "tagged.parquet")
    again = from_data(pd.read_parquet(tmp_path / "tagged.parquet"), kind="tokens")
    assert together(again)[0] == {"words": ["a", "b"], "tags": ["B-X", "O"]}


# --- graphs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """A folder of KG-BERT's form whose dev and test have false triples."""
    folder = tmp_path / "graph"
    folder.mkdir()
    names = [f"e{n}" for n in range(8)]
    (folder / "entity2text.txt").write_text("".join(f"{name}\tthing {name}\n" for name in names))
    (folder / "relation2text.txt").write_text("r0\tlikes\nr1\thates\n")
    (folder / "train.tsv").write_text("".join(f"e{n}\tr{n % 2}\te{(n + 1) % 8}\n" for n in range(8)))
    for split, step, marks in (("dev", 2, "1 -1 1 -1 -1"), ("test", 3, "1 1 1 1 -1")):
        lines = [f"e{n}\tr0\te{(n + step) % 8}\t{mark}\n" for n, mark in enumerate(marks.split())]
        (folder / f"{split}.tsv").write_text("".join(lines))
    return folder


@pytest.mark.parametrize("kind", ["links", "relations", "triples"])
def test_false_triples_that_are_not_ranked_are_said(kind: str, graph: Path) -> None:
    own = from_data(graph, kind=kind)
    said = [
        f"graph-{kind}: 3 of 5 triples of dev are false (-1), and are not ranked",
        f"graph-{kind}: 1 of 5 triples of test are false (-1), and are not ranked",
    ]
    assert [note for note in own.notes if "false (-1)" in note] == ([] if kind == "triples" else said)
    assert len(rows_of(own)["validation"]) == (5 if kind == "triples" else 2)


def test_the_seed_of_a_graph(graph: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for kind in ("links", "triples"):
        for more, seed in (("seed: 7", 7), ("seed: 7\ngraph: {seed: 3}", 3), ("graph: {seed: 3}", 3), ("seed: 0", 0)):
            file.write_text(f"kind: {kind}\nfiles: {graph.name}\n{more}\n")
            assert vars(from_yaml(file).task)["seed"] == seed
    file.write_text(f"kind: relations\nfiles: {graph.name}\nseed: 7\n")
    with pytest.raises(KdzooError, match="mine: nothing is drawn for relations, so there is no seed 7 to set"):
        from_yaml(file)


@pytest.mark.parametrize("kind", ["links", "triples"])
@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"negatives": 0}, 1),
        ({"negatives": -1}, 1),
        ({"negatives": True}, 1),
        ({"seed": -1}, 0),
        ({"candidates": 0}, 2),
    ],
)
def test_numbers_of_a_graph_that_mean_nothing(settings: dict[str, int], least: int, kind: str, graph: Path) -> None:
    says = f"it must be a whole number of {least} or more"
    if kind == "triples" and "candidates" in settings:
        says = "unknown setting of triples 'candidates'"
    with pytest.raises(KdzooError, match=says):
        from_data(graph, kind=kind, graph=settings)


# --- questions --------------------------------------------------------------------------------------------------------


def questions(**changed: Any) -> list[dict[str, Any]]:
    """Rows as the hub has them, of which the fourth is changed."""
    answers = {"text": ["b"], "answer_start": [2]}
    rows = [{"id": f"q{n}", "question": "q?", "context": f"a b c {n}", "answers": answers} for n in range(20)]
    if "is_impossible" in changed:
        rows = [row | {"is_impossible": False} for row in rows]
    rows[3] |= changed
    return rows


def forms(rows: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    frame = pd.DataFrame(rows)
    frame.to_parquet(folder / "rows.parquet")
    return {"jsonl": jsonl(folder / "rows.jsonl", rows), "parquet": folder / "rows.parquet", "frame": frame}


@pytest.mark.parametrize("form", ["jsonl", "parquet", "frame"])
def test_a_question_that_is_impossible_has_no_answer(form: str, tmp_path: Path) -> None:
    own = from_data(forms(questions(is_impossible=True), tmp_path)[form], kind="spans")
    found = {row["id"]: (row["answers"], row["starts"]) for row in together(own)}
    assert found.pop("q3") == ([], []) and set(map(str, found.values())) == {"(['b'], [2])"}


def test_what_is_refused_of_questions_in_rows(tmp_path: Path) -> None:
    for changed, says in (
        ({"id": "q1"}, "row 4: the id 'q1' stands in row 2 too"),
        ({"is_impossible": "no"}, "row 4, column 'is_impossible': expected true or false, got 'no'"),
        ({"is_impossible": False, "answers": {"text": [], "answer_start": []}}, "row 4: no answer"),
        ({"answers": ["b"]}, "row 4, column 'answers': expected lists text and answer_start"),
    ):
        file = jsonl(tmp_path / "rows.jsonl", questions(**changed))
        with pytest.raises(KdzooError, match=f"rows.jsonl, {says}"):
            from_data(file, kind="spans")
    apart = [{**row, "answers": ["b"], "starts": [2]} for row in questions()]
    apart[3]["starts"] = None
    with pytest.raises(KdzooError, match="row 4, column 'starts': expected a list, got None"):
        from_data(jsonl(tmp_path / "rows.jsonl", apart), kind="spans")


@pytest.mark.parametrize("form", ["jsonl", "parquet", "frame"])
def test_answers_as_a_list(form: str, tmp_path: Path) -> None:
    rows = [row | {"answers": [{"text": "b", "answer_start": 2}]} for row in questions()]
    rows[0]["answers"] = []
    own = from_data(forms(rows, tmp_path)[form], kind="spans")
    found = {row["id"]: (row["answers"], row["starts"]) for row in together(own)}
    assert found.pop("q0") == ([], []) and set(map(str, found.values())) == {"(['b'], [2])"}
    rows[3]["answers"] = [{"text": "b"}]
    with pytest.raises(KdzooError, match="row 4, column 'answers': expected lists text and answer_start"):
        from_data(jsonl(tmp_path / "rows.jsonl", rows), kind="spans")


# --- notes and files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "shift", "said"), [(1, 0, False), (1000, 0, True), (1, 200, True), (1e-4, 0, True), (5, -3, False)]
)
def test_numbers_on_another_scale_are_said(scale: float, shift: float, said: bool) -> None:
    numbers = np.random.default_rng(3).normal(size=60) * scale + shift
    table = pd.DataFrame({"text": [f"row {n}" for n in range(60)], "price": numbers, "share": numbers / scale - shift})
    notes = from_data(table, text="text", label="price").notes
    line = f"data: price has numbers of mean {numbers.mean():.4g} and standard deviation {numbers.std():.4g}, "
    found = [note for note in notes if note.startswith("data: price has numbers")]
    assert len(found) == said and all(note.startswith(line) and "scale the column" in note for note in found)


@pytest.mark.parametrize(
    ("labels", "told", "metric", "said"),
    [
        ("yn", None, "f1,accuracy", ["data: f1 is of the label 'y', the second; --labels orders them"]),
        ("yn", "y,n", "f1,recall", ["data: f1, recall are of the label 'n', the second; --labels orders them"]),
        ("yn", None, "macro_f1", []),
        ("01", None, "f1", []),
    ],
)
def test_the_label_that_f1_is_of_is_said(labels: str, told: str | None, metric: str, said: list[str]) -> None:
    table = pd.DataFrame({"text": [f"row {n}" for n in range(40)], "label": [labels[n % 2] for n in range(40)]})
    own = from_data(table, text="text", label="label", labels=told, metric=metric)
    assert [note for note in own.notes if "the second" in note] == said


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs")])
@pytest.mark.parametrize("zipped", [False, True])
def test_tables_that_are_separated_by_something_else(mark: str, name: str, zipped: bool, tmp_path: Path) -> None:
    text = "".join(f"{a}{mark}{b}\n" for a, b in [("text", "topic"), *((f"row, {n}", "ab"[n % 2]) for n in range(20))])
    file = tmp_path / f"rows.csv{'.gz' * zipped}"
    file.write_bytes(gzip.compress(text.encode()) if zipped else text.encode("utf-8-sig"))
    for columns in ({"text": "text", "label": "topic"}, {}):
        with pytest.raises(
            KdzooError, match=f"seems to be separated by {name} .text{mark}topic., .*convert it"
        ) as caught:
            from_data(file, **columns)
    assert f"pandas.read_csv(FILE, sep={mark!r}).to_csv(OTHER, index=False)" in str(caught.value)
    pd.read_csv(file, sep=mark).to_csv(tmp_path / "other.csv", index=False)
    assert len(together(from_data(tmp_path / "other.csv", text="text", label="topic"))) == 20


def test_a_file_that_is_called_nearly_as_a_split_is_said_not_to_be_used(tmp_path: Path) -> None:
    """As Multi30k's test2016, which nobody would miss in a table that has no test scores."""
    rows = [{"text": f"a {at}", "topic": "xy"[at % 2]} for at in range(20)]
    for stem in ("train", "dev", "test2016", "train.tsv.predictions", "notes"):
        jsonl(tmp_path / f"{stem}.jsonl", rows)
    own = from_data(tmp_path, text="text", label="topic", name="mine")
    assert [note for note in own.notes if "not used" in note] == ["mine: the split test2016 is not used"]
    own = from_data(tmp_path, text="text", label="topic", name="mine", splits={"test": "test2016"})
    assert set(rows_of(own)) == {"train", "validation", "test"}
    assert not [note for note in own.notes if "not used" in note]


def test_a_split_may_call_its_targets_otherwise(tmp_path: Path) -> None:
    """As DialogSum has several summaries in its test split, under another name."""
    train = [{"dialogue": f"a b {at}", "summary": f"a {at}"} for at in range(6)]
    test = [{"dialogue": f"c d {at}", "summaries": [f"c {at}", f"d {at}"]} for at in range(4)]
    for split, rows in {"train": train, "validation": train, "test": test}.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = from_data(tmp_path, kind="seq2seq", text="dialogue", label="summary,summaries").task.rows()
    assert found["test"]["target"][:] == [row["summaries"] for row in test]
    assert found["train"]["target"][:] == [[row["summary"]] for row in train]
    with pytest.raises(
        KdzooError, match=r"test\.jsonl: no column 'summary' or 'sum' \(--label\); it has dialogue, summa"
    ):
        from_data(tmp_path, kind="seq2seq", text="dialogue", label="summary,sum")
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row | {"summary": "c"}) + "\n" for row in test))
    with pytest.raises(KdzooError, match=r"test\.jsonl has summary and summaries, and --label takes one of a split"):
        from_data(tmp_path, kind="seq2seq", text="dialogue", label="summary,summaries")
