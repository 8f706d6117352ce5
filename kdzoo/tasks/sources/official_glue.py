"""The files of GLUE's official download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kdzoo.errors import KdzooError
from kdzoo.tasks.base import Task
from kdzoo.tasks.sources.files import Reader, columns_under, open_text, tsv
from kdzoo.tasks.sources.rows import checked


@dataclass(frozen=True)
class Official:
    """How the official download has a task: its folder, and the header's name (or position) of each hub field."""

    folder: str
    fields: Mapping[str, str | int]
    skip_short: bool = False


OFFICIAL = {
    "cola": Official("CoLA", {"sentence": 3, "label": 1}),
    "sst2": Official("SST-2", {"sentence": "sentence", "label": "label"}),
    "mrpc": Official("MRPC", {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"}),
    # Some questions of the official file hold line breaks, which leaves rows cut short; the hub drops them as well.
    "qqp": Official(
        "QQP", {"question1": "question1", "question2": "question2", "label": "is_duplicate"}, skip_short=True
    ),
    "stsb": Official("STS-B", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "score"}),
    "mnli": Official("MNLI", {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}),
    "qnli": Official("QNLI", {"question": "question", "sentence": "sentence", "label": "label"}),
    "rte": Official("RTE", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"}),
    "wnli": Official("WNLI", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"}),
}


def official_split(task: Task, folder: Path, split: str) -> Reader | None:
    """The reader of one split of the official download, or ``None`` where the split is not there."""
    path = folder / f"{split.replace('validation', 'dev')}.tsv"
    original = folder / "msr_paraphrase_train.txt"
    if path.is_file():
        return lambda: checked(task, str(path), _read_official(task, path))
    if task.name == "mrpc" and original.is_file():
        return lambda: checked(task, str(original), _read_mrpc_original(task, folder, split))
    return None


def _read_official(task: Task, path: Path) -> Mapping[str, list[str]]:
    official = OFFICIAL[task.name]
    with open_text(path) as file:
        rows = tsv(file)
        # CoLA alone has no header: source, label, the author's star, sentence.
        header = ["source", "label", "star", "sentence"] if task.name == "cola" else next(rows, [])
        fields = {name: header[key] if isinstance(key, int) else key for name, key in official.fields.items()}
        return columns_under(path, header, rows, fields, skip_short=official.skip_short)


def _read_mrpc_original(task: Task, folder: Path, split: str) -> Mapping[str, list[str]]:
    """MRPC as Microsoft has it: both splits in one file, the validation pairs listed in ``dev_ids.tsv``."""
    ids_path = next((p for name in ("dev_ids.tsv", "mrpc_dev_ids.tsv") if (p := folder / name).is_file()), None)
    if ids_path is None:
        raise KdzooError(
            f"{folder / 'dev_ids.tsv'} is missing: it names the validation rows of msr_paraphrase_train.txt"
        )
    with open_text(ids_path) as file:
        held_out = {tuple(row[:2]) for row in tsv(file)}
    path = folder / "msr_paraphrase_train.txt"
    with open_text(path) as file:
        rows = tsv(file)
        header = next(rows, [])
        fields = {
            "sentence1": "#1 String",
            "sentence2": "#2 String",
            "label": "Quality",
            "id1": "#1 ID",
            "id2": "#2 ID",
        }
        columns = columns_under(path, header, rows, fields)
    pairs = zip(columns["id1"], columns["id2"], strict=True)
    keep = [row for row, pair in enumerate(pairs) if (pair in held_out) == (split != "train")]
    return {name: [columns[name][row] for row in keep] for name in task.fields}
