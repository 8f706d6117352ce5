"""The board: one table of all methods over all studies, from the committed records; board.js filters and sorts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdzoo.bench.escape import markdown
from kdzoo.bench.packed import SUFFIX, Study, read_study
from kdzoo.bench.record import TEACHER
from kdzoo.bench.report.guess import one_answer, one_answer_note
from kdzoo.bench.report.rows import Row, average_std, averages_of, mean_std, rows_of

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "docs/results"
# By the records' file: the student in a few words, the study's name and page; of others it is said as it was typed.
STUDIES = {
    "albert-equal-compute": ("3 of 6 layers", "ALBERT", "albert.md"),
    "albert-equal-parameters": ("9×132", "ALBERT", "albert.md"),
    "albert-shared": ("ALBERT, 3×384", "ALBERT", "albert.md"),
    "bc5cdr-disease": ("3 of 6 layers", "other tasks", "results/other-tasks.md"),
    "glue-all-methods": ("3 of 6 layers", "every recipe", "results/every-recipe.md"),
    "glue-minilm-l6-full": ("3 of 6 layers", "three layers", "results/three-layers.md"),
    "glue-minilm-l6-subset": ("3 of 6 layers", "2,000 rows", "results/two-thousand-rows.md"),
    "glue-minilm-l6-to-4x312": ("4×312, distilled", "four layers", "results/four-layers.md"),
    "glue-minilm-l6-to-4x312-again": ("4×312, distilled again", "four layers", "results/four-layers.md"),
    "glue-minilm-l6-to-4x312-again-subset": ("4×312, distilled again", "2,000 rows", "results/two-thousand-rows.md"),
    "glue-minilm-l6-to-4x312-subset": ("4×312, distilled", "2,000 rows", "results/two-thousand-rows.md"),
    "lrc-mrpc-cola": ("3 of 6 layers", "LRC-BERT", "lrc-bert.md"),
    "lrc-stsb-2000": ("3 of 6 layers", "LRC-BERT", "lrc-bert.md"),
    "lrc-stsb-4x312": ("4×312, distilled", "LRC-BERT", "lrc-bert.md"),
    "lrc-stsb-ablations": ("3 of 6 layers", "LRC-BERT", "lrc-bert.md"),
    "lrc-stsb-sample": ("3 of 6 layers", "LRC-BERT", "lrc-bert.md"),
    "lrc-stsb-whole": ("3 of 6 layers", "LRC-BERT", "lrc-bert.md"),
    "mpnet-4x312": ("4×312, distilled", "base-size teacher", "results/base-size-teacher.md"),
    "mpnet-cola": ("3 MiniLM layers", "base-size teacher", "results/base-size-teacher.md"),
    "mpnet-mrpc": ("3 MiniLM layers", "base-size teacher", "results/base-size-teacher.md"),
    "mpnet-rte": ("3 MiniLM layers", "base-size teacher", "results/base-size-teacher.md"),
    "mpnet-stsb": ("3 MiniLM layers", "base-size teacher", "results/base-size-teacher.md"),
    "mrpc-roles": ("3 of 6 layers", "other tasks", "results/other-tasks.md"),
    "multi30k-2000-decoder": ("3+3 layers, frozen GPT-2 in the decoder", "translation", "results/translation.md"),
    "multi30k-2000-frozen": ("3+3 layers, frozen MiniLM", "translation", "results/translation.md"),
    "multi30k-2000-scratch": ("3+3 layers", "translation", "results/translation.md"),
    "multi30k-2000-tuned": ("3+3 layers, tuned MiniLM", "translation", "results/translation.md"),
    "multi30k-6000-scratch": ("3+3 layers", "translation", "results/translation.md"),
    "multi30k-6000-students": ("3+1 layers, frozen MiniLM", "translation", "results/translation.md"),
    "multi30k-all-lrc": ("3+1 layers, teacher of all pairs", "translation", "results/translation.md"),
    "multi30k-all-scratch": ("3+3 layers", "translation", "results/translation.md"),
    "multi30k-all-teacher": ("3+1 layers, teacher of all pairs", "translation", "results/translation.md"),
    "multi30k-all-teacher-again": ("3+1 layers, teacher of all pairs", "translation", "results/translation.md"),
    "ncbi-disease": ("3 of 6 layers", "other tasks", "results/other-tasks.md"),
    "ncbi-facts": ("3 of 6 layers", "other tasks", "results/other-tasks.md"),
    "semeval8": ("3 of 6 layers", "other tasks", "results/other-tasks.md"),
    "squad": ("3 of 6 layers", "other tasks", "results/other-tasks.md"),
    "umls": ("3 of 6 layers", "other tasks", "results/other-tasks.md"),
    "umls-bi": ("bi-encoder, 3 of 6 layers", "other tasks", "results/other-tasks.md"),
    "umls-bi-again": ("bi-encoder, 3 of 6 layers", "other tasks", "results/other-tasks.md"),
    "umls-bi-lists": ("bi-encoder, 3 of 6 layers", "other tasks", "results/other-tasks.md"),
    "wn11": ("3 of 6 layers", "other tasks", "results/other-tasks.md"),
    "wn18rr": ("3 of 6 layers", "other tasks", "results/other-tasks.md"),
}
EARLIER = "gradient"  # as a recipe's perturbation: LRC-BERT by the norm over each token
TASKS = ("sst2", "mrpc", "stsb", "qnli", "cola", "rte")  # first; others after them


def board() -> str:
    """The table in Markdown, below the mark that docs/board.js looks for."""
    studies = {path.name.removesuffix(SUFFIX): read_study(path) for path in sorted(RECORDS.glob(f"*{SUFFIX}"))}
    found = {record["task"]: None for study in studies.values() for record in study.records}
    tasks = [*(task for task in TASKS if task in found), *(task for task in found if task not in TASKS)]
    body = [line for name, study in studies.items() for line in _lines(name, study, tasks)]
    body.sort(key=lambda line: (line[0] != TEACHER, line[0] != "none", line[0]))  # a method's rows stand together
    head = ["method", "student", "budget of students", "seeds", *tasks, "average", "retention", "study"]
    rule = ["---"] * 3 + ["---:"] * (len(tasks) + 3) + ["---"]
    return '<div id="board"></div>\n\n' + "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rule, *body))


def _lines(name: str, study: Study, tasks: list[str]) -> list[list[str]]:
    """A study's rows."""
    shared = study.config.get("shared", {})
    student, title, page = STUDIES.get(name, (str(shared.get("student") or ""), name, ""))
    rows, own = rows_of(study.records), list(dict.fromkeys(record["task"] for record in study.records))
    teacher = next((row for row in rows if row.method == TEACHER), None)
    link = f"[{title}]({page})" if page else markdown(title)
    told = [[_named(row, study), student, budget_of(shared), *_scores(row, study, teacher, tasks, own)] for row in rows]
    return [[*map(markdown, cells), link] for cells in told]


def _named(row: Row, study: Study) -> str:
    recipes = [record["configuration"].get("recipe", {}) for record in study.records if record["method"] == row.method]
    earlier = any(recipe.get("perturbation") == EARLIER for recipe in recipes)
    return f"{row.method}, earlier reading" if earlier else row.method


def budget_of(shared: dict[str, Any]) -> str:
    """How long a study's students are trained: rows and epochs."""
    rows, epochs = shared.get("train_rows"), shared.get("budget", {}).get("epochs", 0)
    return f"{f'{rows:,}' if rows else 'all'} rows, {epochs:g} epoch{'' if epochs == 1 else 's'}"


def _scores(row: Row, study: Study, teacher: Row | None, tasks: list[str], own: list[str]) -> list[str]:
    """Seeds, a score a task, the average and the retention."""
    records = [record for record in study.records if record["method"] == row.method]
    told = []
    for task in tasks:
        of = [record for record in records if record["task"] == task]
        score = mean_std([record["score"] for record in of], constant=bool(of) and all(map(one_answer, of)))
        told.append(", ".join(filter(None, (score, one_answer_note(of)))))
    seeds = str(len({record["seed"] for record in records}))
    if not all(task in row.scores for task in own):
        return [seeds, *told, "", ""]
    average = average_std(row.average, averages_of(records, row.method, own), constant=all(map(one_answer, records)))
    kept = f"{row.average / teacher.average:.1%}" if teacher is not None and teacher.average > 0 else ""
    return [seeds, *told, average, kept]
