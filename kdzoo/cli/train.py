"""One model trained: ``kdzoo finetune``, ``distill`` and ``pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdzoo.bench.runs.budget import Budget, Distilled, OnText, OwnColumns, Rows, Seeded, validated
from kdzoo.cli.options import (
    BudgetOptions,
    Fields,
    Given,
    Out,
    Push,
    RecipeBudget,
    Set,
    Student,
    console,
    first_process,
    said,
    tasks_of,
)
from kdzoo.errors import KdzooError

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe

TaskName = Annotated[
    str, typer.Option(help="The task, or a YAML file that describes data of your own; none with --text and --label.")
]
SeedOption = Annotated[Given, Fields(Seeded)]


def finetune(
    columns: Annotated[Given, Fields(OwnColumns, but=("folds",))],
    model: Annotated[str, typer.Option(help="Folder or hub name of a pretrained model, or a size such as 4x128.")],
    out: Out,
    rows: Annotated[Given, Fields(Rows)],
    seeded: SeedOption,
    budget: BudgetOptions,
    task: TaskName = "",
    push_to_hub: Push = "",
) -> None:
    """Fine-tune a model on a task, as a teacher or a baseline."""
    from kdzoo.objectives.recipe import Recipe

    name, rows["data"] = _task(task, rows, columns)
    told = {"given": validated(Distilled, **rows), "seed": validated(Seeded, **seeded).seed}
    _run(name, Recipe.load("none"), budget, out, push_to_hub, teacher=model, student=None, **told)


def distill(
    columns: Annotated[Given, Fields(OwnColumns, but=("folds",))],
    method: Annotated[str, typer.Option(help="A recipe's name or YAML file, or an expression: 'kd*0.5 + ce'.")],
    teacher: Annotated[str, typer.Option(help="Folder or hub name of a teacher fine-tuned on the task.")],
    out: Out,
    rows: Annotated[Given, Fields(Distilled)],
    seeded: SeedOption,
    budget: RecipeBudget,
    task: TaskName = "",
    student: Student = "4x312",
    set_: Set = None,
    log_gradients: Annotated[
        bool, typer.Option("--log-gradients", help="Record the norms and cosines of the terms' gradients.")
    ] = False,
    push_to_hub: Push = "",
) -> None:
    """Distil a teacher into a student; the recipe's published hyper-parameters hold where no option is given."""
    from kdzoo.objectives.overrides import check_told_once
    from kdzoo.objectives.recipe import Recipe

    recipe = _changed(Recipe.load(method), set_)
    name, rows["data"] = _task(task, rows, columns)
    told = {"given": validated(Distilled, **rows), "seed": validated(Seeded, **seeded).seed}
    check_told_once(budget, set_ or (), recipe.name)
    budget = recipe.training.model_dump(exclude_none=True) | budget
    models = {"teacher": teacher, "student": student}
    told |= {"log_gradients": log_gradients, "overrides": tuple(set_ or ())}
    _run(name, recipe, budget, out, push_to_hub, **models, **told)


def _changed(recipe: Recipe, settings: list[str] | None) -> Recipe:
    from kdzoo.objectives.overrides import check_effect

    for setting in settings or []:
        check_effect(setting)
    return recipe.override(settings or [])


def _task(task: str, rows: Given, columns: Given) -> tuple[str, str]:
    """The one task that is asked for, and where its rows come from."""
    asked = tasks_of(task, rows, columns)
    if len(asked.tasks) != 1:
        raise KdzooError(
            f"one task is trained at a time, and {len(asked.tasks) or 'none'} given; name one with --task, or with "
            "--text and --label"
        )
    return asked.tasks[0], asked.data


def _run(task: str, recipe: Recipe, budget: Given, out: Path, repository: str, **told: Any) -> None:
    from kdzoo.bench.folder import undone
    from kdzoo.bench.runs.pushing import check_push, push
    from kdzoo.bench.runs.single import run_one
    from kdzoo.tasks.metric_words import in_words

    made = validated(Budget, **budget)
    if repository:
        check_push(repository)
    with undone(out):
        record = run_one(task_name=task, recipe=recipe, budget=made, folder=out, console=console, **told)
    metrics = in_words(record["metrics"], record.get("kind", ""))
    console.print(f"{task} {recipe.name}: {metrics}; the model is in {out}", highlight=False, soft_wrap=True)
    if repository and first_process:
        said(f"uploaded: {push(out, repository)}")


def pretrain(
    text: Annotated[
        list[str], typer.Option(help="A text file, a folder of .txt files, or a datasets folder; repeatable.")
    ],
    teacher: Annotated[str, typer.Option(help="Folder or hub name of a pretrained model.")],
    out: Out,
    told: Annotated[Given, Fields(OnText)],
    budget: RecipeBudget,
    method: Annotated[
        str, typer.Option(help="A recipe with a general stage, a YAML file, or an expression: 'hidden_mse + mlm'.")
    ] = "tinybert",
    student: Student = "4x312",
    set_: Set = None,
) -> None:
    """General distillation: distil a pretrained encoder on unlabelled text into a student for --student."""
    from kdzoo.bench.folder import undone
    from kdzoo.bench.runs import on_text
    from kdzoo.objectives.overrides import check_told_once
    from kdzoo.objectives.recipe import Recipe

    recipe = _changed(Recipe.load(method).on_text(), set_)
    check_told_once(budget, set_ or (), recipe.name)
    settings = validated(OnText, **told).model_dump()
    if "steps" in told and "epochs" in budget:
        raise KdzooError("--steps and --epochs both say how long to train; leave one of them out")
    if "mlm_probability" in told and "words" not in on_text.text_labels(recipe):
        raise KdzooError(
            f"--mlm-probability says how many words are predicted, and {recipe.name} predicts none; add the loss mlm"
        )
    with undone(out):
        record = on_text.pretrain(
            recipe=recipe,
            text=text,
            teacher=teacher,
            student=student,
            budget=validated(Budget, **(recipe.training.model_dump(exclude_none=True) | budget)),
            folder=out,
            console=console,
            **settings,
        )
    order = record.get("sentence_order")
    found = f"; the order of {order['accuracy']:.1%} of {order['rows']} held-out rows is right" if order else ""
    losses = ", ".join(f"{name.removeprefix('loss/')} {value:.4g}" for name, value in record["losses"].items())
    console.print(
        f"{recipe.name}: {record['steps']} steps on {record['rows']} rows of text; {losses}{found}; the encoder is in "
        f"{out}, for --student {out}",
        highlight=False,
        soft_wrap=True,
    )
