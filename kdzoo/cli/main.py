"""The command line: list, show, check, finetune, pretrain, distill, compare, table, report, cost, profile, bench."""

from __future__ import annotations

import _thread
import shlex
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kdzoo.distributed import launched
from kdzoo.errors import DistillationFailure, KdzooError, KdzooWarning, unknown

if TYPE_CHECKING:
    from kdzoo.bench.columns import Columns

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Knowledge-distillation losses for transformer encoders, and the bench that compares them.",
)
first_process = launched()[0] == 0  # of those that torchrun has started; the others write and say nothing
console = Console(quiet=not first_process) if sys.stdout.isatty() else Console(width=160, quiet=not first_process)

ClickError: Any = typer.BadParameter.__mro__[2]  # click.ClickException, or what typer has in its place

METHODS = "none,kd,pkd,tinybert,crd,lrc"
METHODS_HELP = "Recipes, YAML files or expressions, separated by commas; or 'all' recipes."

Data = Annotated[str, typer.Option(help="'synthetic', 'hub' (nyu-mll/glue), or a folder of GLUE files.")]
Out = Annotated[Path, typer.Option(help="Folder for the results; the same command goes on where it stopped.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Change a recipe: LOSS.OPTION=VALUE or KEY=VALUE; repeatable.")
]
Rows = Annotated[int | None, typer.Option(help="Training rows to take; all by default.")]
ValidationRows = Annotated[int | None, typer.Option(help="Validation rows to take; all by default.")]
Epochs = Annotated[float | None, typer.Option(help="Passes over the training rows.")]
Batch = Annotated[int | None, typer.Option("--batch-size", help="Rows a step.")]
Accumulation = Annotated[int | None, typer.Option("--gradient-accumulation", help="Steps an update.")]
Rate = Annotated[float | None, typer.Option("--learning-rate", help="The highest learning rate.")]
Warmup = Annotated[float | None, typer.Option("--warmup-ratio", help="Share of the steps that warm up.")]
Decay = Annotated[float | None, typer.Option("--weight-decay", help="AdamW's weight decay.")]
Length = Annotated[int | None, typer.Option("--max-length", help="Most tokens a row keeps.")]
Augment = Annotated[int, typer.Option(min=0, help="Copies of each training row with words exchanged, as TinyBERT has.")]
AugmentModel = Annotated[
    str | None, typer.Option(help="The masked language model that says for which; the teacher by default.")
]
Glove = Annotated[str | None, typer.Option(help="A GloVe file, for words that are several pieces.")]
Precision = Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")]


bench_app = typer.Typer(help="Measurements of whole trainings.", rich_markup_mode=None)
app.add_typer(bench_app, name="bench")


@app.callback()
def _root(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Takes --debug, which main() has read already."""


@app.command("list")
def list_(
    needs: Annotated[
        str, typer.Option(help="Losses that are taken on or need this alone: logits, hidden, cls, qkv, labels, ...")
    ] = "",
    no_params: Annotated[bool, typer.Option("--no-params", help="Losses that learn nothing of their own.")] = False,
    year: Annotated[str, typer.Option(help="Published in a year, or from one to another: 2019-2021.")] = "",
) -> None:
    """The losses and the recipes; with a filter, the losses it leaves."""
    from kdzoo.losses.registry import describe
    from kdzoo.objectives.recipe import Recipe
    from kdzoo.objectives.registry import available

    first, last = _years(year)
    described = [describe(name) for name in available()]
    known = {word for of in described for word in (*of.features, *of.needs)}
    if needs and needs not in known:
        raise unknown("need", needs, known)
    losses = Table(title="Losses", title_justify="left")
    for column in ("name", "compares", "needs", "learns", "year", "what it does"):
        losses.add_column(column)
    for of in described:
        fits = not needs or needs in (*of.features, *of.needs)
        if fits and first <= of.year <= last and not (no_params and of.learns == "parameters of its own"):
            year_ = str(of.year or "")
            losses.add_row(of.name, ", ".join(of.features), ", ".join(of.needs), of.learns, year_, of.summary)
    if not losses.rows:
        raise KdzooError("no loss fits; `kdzoo list` shows all of them")
    console.print(losses)
    if needs or no_params or year:
        return
    recipes = Table(title="Recipes", title_justify="left")
    for column in ("name", "year", "what it does"):
        recipes.add_column(column)
    for name in available("recipes"):
        recipe = Recipe.load(name)
        recipes.add_row(name, str(recipe.citation.year) if recipe.citation else "", recipe.title)
    console.print(recipes)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A loss, a recipe, a recipe's YAML file, or an expression.")],
    yaml: Annotated[bool, typer.Option("--yaml", help="The recipe as YAML, to edit and use as a method.")] = False,
    set_: Set = None,
) -> None:
    """What a loss or a recipe is."""
    from kdzoo.losses.registry import describe
    from kdzoo.objectives.expression import is_expression
    from kdzoo.objectives.recipe import Recipe
    from kdzoo.objectives.registry import available

    is_loss = name in available()
    is_recipe = name in available("recipes") or name.endswith((".yaml", ".yml")) or is_expression(name)
    if not is_loss and not is_recipe:
        raise unknown("loss or recipe", name, [*available(), *available("recipes")])
    if yaml and not is_recipe:
        raise KdzooError(f"{name} is a loss; only a recipe can be written as YAML ({', '.join(available('recipes'))})")
    recipe = Recipe.load(name).override(set_ or []) if is_recipe else None
    if yaml and recipe is not None:
        typer.echo(recipe.to_yaml(), nl=False)
        return
    if recipe is not None:
        typer.echo(f"recipe {recipe.name}: {recipe.title}")
        if recipe.citation is not None:
            typer.echo(f"  {recipe.citation}")
        if recipe.notes:
            typer.echo(f"  {recipe.notes}")
        typer.echo("\n" + recipe.to_yaml())
    if is_loss:
        typer.echo(f"loss {describe(name)}\n\n{describe(name).documentation}")


@app.command()
def check(
    methods: Annotated[str, typer.Argument(help=METHODS_HELP)] = METHODS,
    tasks: Annotated[str, typer.Option(help="Tasks, separated by commas.")] = "",
    data: Data = "synthetic",
    teacher: Annotated[str, typer.Option(help="Folder, hub name, or a size for synthetic data.")] = "",
    student: Annotated[str, typer.Option(help="4x312, teacher:1,3,5, a folder or a hub name.")] = "",
    train_rows: Rows = None,
    set_: Set = None,
) -> None:
    """Whether methods can work on a task, a teacher and a student; trains nothing."""
    import tempfile

    from kdzoo.bench.grid.comparison import Comparison
    from kdzoo.objectives.recipe import ALL

    options = {"train_rows": train_rows, "overrides": tuple(set_ or ())}
    settings = _settings(tasks=tasks, methods=methods, data=data, teacher=teacher, student=student, **options)
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(settings, Path(folder), console, leave_out=True)
    wide = max(map(len, comparison.recipes))
    for name, recipe in comparison.recipes.items():
        stages = "; then ".join(" + ".join(t.loss for t in stage.terms) for stage in recipe.stages)
        tasks_ = [task for task in settings.tasks if (task, name) not in comparison.impossible]
        typer.echo(f"{name:<{wide}} works on {', '.join(tasks_) or 'none of the tasks'}: {stages}")
    if comparison.impossible and ALL not in settings.methods:
        ((task, name), why), *others = comparison.impossible.items()
        raise KdzooError(f"{name} on {task}: {why}" + (f", and {len(others)} more" if others else ""))


@app.command()
def finetune(
    task: Annotated[str, typer.Option(help="The task.")],
    model: Annotated[str, typer.Option(help="Folder or hub name of a pretrained model, or a size such as 4x128.")],
    out: Out,
    data: Data = "synthetic",
    seed: Annotated[int, typer.Option(help="Of new weights, dropout and the order of the rows.")] = 0,
    train_rows: Rows = None,
    validation_rows: ValidationRows = None,
    epochs: Epochs = None,
    batch_size: Batch = None,
    gradient_accumulation: Accumulation = None,
    learning_rate: Rate = None,
    warmup_ratio: Warmup = None,
    weight_decay: Decay = None,
    max_length: Length = None,
    precision: Precision = None,
) -> None:
    """Fine-tune a model on a task, as a teacher or a baseline."""
    budget = _budget(locals())
    from kdzoo.objectives.recipe import Recipe

    _run_one(task, Recipe.load("none"), data, model, None, budget, seed, train_rows, validation_rows, out)


@app.command()
def distill(
    task: Annotated[str, typer.Option(help="The task.")],
    method: Annotated[str, typer.Option(help="A recipe's name or YAML file, or an expression: 'kd*0.5 + ce'.")],
    teacher: Annotated[str, typer.Option(help="Folder or hub name of a teacher fine-tuned on the task.")],
    out: Out,
    student: Annotated[str, typer.Option(help="4x312, teacher:1,3,5, a folder or a hub name.")] = "4x312",
    data: Data = "synthetic",
    seed: Annotated[int, typer.Option(help="Of new weights, dropout and the order of the rows.")] = 0,
    set_: Set = None,
    train_rows: Rows = None,
    validation_rows: ValidationRows = None,
    epochs: Epochs = None,
    batch_size: Batch = None,
    gradient_accumulation: Accumulation = None,
    learning_rate: Rate = None,
    warmup_ratio: Warmup = None,
    weight_decay: Decay = None,
    max_length: Length = None,
    precision: Precision = None,
    augment: Augment = 0,
    augment_model: AugmentModel = None,
    glove: Glove = None,
    log_gradients: Annotated[
        bool, typer.Option("--log-gradients", help="Record the norms and cosines of the terms' gradients.")
    ] = False,
    cache_folder: Annotated[
        str | None, typer.Option(help="Keep the teacher's activations there, so that it runs once a row.")
    ] = None,
    cache_limit: Annotated[
        float, typer.Option(min=0, help="Most gigabytes of them; over it the teacher runs live.")
    ] = 1,
    cache_precision: Annotated[str, typer.Option(help="In which they are kept: fp32, bf16 or fp16.")] = "fp32",
) -> None:
    """Distil a teacher into a student; the recipe's published hyper-parameters hold where no option is given."""
    given = _budget(locals())
    from kdzoo.objectives.recipe import Recipe

    recipe = Recipe.load(method).override(set_ or [])
    budget = recipe.training.model_dump(exclude_none=True) | given
    rows = train_rows, validation_rows
    more: dict[str, Any] = {"augment": augment, "augment_model": augment_model, "glove": glove}
    cache = None
    if cache_folder is not None:
        from kdzoo.training.cache import TeacherCache

        cache = TeacherCache(cache_folder, precision=cache_precision, limit=int(cache_limit * 1e9))
    _run_one(task, recipe, data, teacher, student, budget, seed, *rows, out, log_gradients, cache, **more)


@app.command()
def pretrain(
    text: Annotated[
        list[str], typer.Option(help="A text file, a folder of .txt files, or a datasets folder; repeatable.")
    ],
    teacher: Annotated[str, typer.Option(help="Folder or hub name of a pretrained model.")],
    out: Out,
    method: Annotated[
        str, typer.Option(help="A recipe with a general stage, a YAML file, or an expression: 'hidden_mse + mlm'.")
    ] = "tinybert",
    student: Annotated[str, typer.Option(help="4x312, teacher:1,3,5, a folder or a hub name.")] = "4x312",
    steps: Annotated[int | None, typer.Option(min=1, help="Updates, instead of epochs.")] = None,
    pack: Annotated[bool, typer.Option(help="Fill rows with several lines, or keep each line by itself.")] = True,
    text_column: Annotated[str, typer.Option(help="The text's column in a datasets folder.")] = "text",
    mlm_probability: Annotated[float, typer.Option(help="Share of tokens to predict, where mlm is a loss.")] = 0.15,
    seed: Annotated[int, typer.Option(help="Of new weights, dropout, masks and the order of the rows.")] = 0,
    set_: Set = None,
    epochs: Epochs = None,
    batch_size: Batch = None,
    gradient_accumulation: Accumulation = None,
    learning_rate: Rate = None,
    warmup_ratio: Warmup = None,
    weight_decay: Decay = None,
    max_length: Length = None,
    precision: Precision = None,
) -> None:
    """General distillation: distil a pretrained encoder on unlabelled text into a student for --student."""
    given = _budget(locals())
    from kdzoo.bench.runs.budget import Budget, validated
    from kdzoo.bench.runs.on_text import pretrain as run
    from kdzoo.objectives.recipe import Recipe

    recipe = Recipe.load(method).on_text().override(set_ or [])
    budget = validated(Budget, **(recipe.training.model_dump(exclude_none=True) | given))
    record = run(
        recipe=recipe,
        text=text,
        teacher=teacher,
        student=student,
        budget=budget,
        folder=out,
        console=console,
        steps=steps,
        pack=pack,
        text_column=text_column,
        mlm_probability=mlm_probability,
        seed=seed,
    )
    losses = ", ".join(f"{name.removeprefix('loss/')} {value:.4g}" for name, value in record["losses"].items())
    console.print(
        f"{recipe.name}: {record['steps']} steps on {record['rows']} rows of text; {losses}; the encoder is in {out}, "
        f"for --student {out}",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def compare(
    context: typer.Context,
    tasks: Annotated[str, typer.Option(help="Tasks, separated by commas.")] = "",
    methods: Annotated[str, typer.Option(help=METHODS_HELP)] = METHODS,
    seeds: Annotated[int | None, typer.Option(help="How many seeds.")] = None,
    data: Data = "synthetic",
    teacher: Annotated[str, typer.Option(help="Folder, hub name, or a size for synthetic data.")] = "",
    finetune_teacher: Annotated[bool, typer.Option(help="Fine-tune the teacher on each task first.")] = True,
    student: Annotated[str, typer.Option(help="4x312, teacher:1,3,5, a folder or a hub name.")] = "",
    out: Out = Path("runs/compare"),
    set_: Set = None,
    train_rows: Rows = None,
    validation_rows: ValidationRows = None,
    epochs: Epochs = None,
    batch_size: Batch = None,
    gradient_accumulation: Accumulation = None,
    learning_rate: Rate = None,
    warmup_ratio: Warmup = None,
    weight_decay: Decay = None,
    max_length: Length = None,
    precision: Precision = None,
    teacher_epochs: Annotated[float | None, typer.Option(help="The teacher's; as --epochs by default.")] = None,
    teacher_learning_rate: Annotated[float | None, typer.Option(help="The teacher's highest rate.")] = None,
    augment: Augment = 0,
    augment_model: AugmentModel = None,
    glove: Glove = None,
    evaluations: Annotated[
        int | None, typer.Option(min=0, help="Scores taken while each model trains, for the learning curves; 4.")
    ] = None,
    cache_limit: Annotated[
        float | None,
        typer.Option(
            min=0, help="Most gigabytes a task of the teacher's activations on disk; 1, the quickstart's 0.05; 0: none."
        ),
    ] = None,
    cache_folder: Annotated[str | None, typer.Option(help="Where they are kept; OUT/cache by default.")] = None,
    cache_precision: Annotated[str | None, typer.Option(help="In which they are kept: fp32, bf16 or fp16.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Trainings at the same time, each on its share of the processor's threads."),
    ] = None,
    launcher: Annotated[str, typer.Option(help="Where they run: 'local', or 'ray' on a Ray cluster.")] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="The cluster's, HOST:PORT or 'auto'; without it one is started here.")
    ] = None,
    cpus_per_cell: Annotated[
        float | None, typer.Option(min=0.001, help="CPUs that Ray gives each training; 1.")
    ] = None,
    gpus_per_cell: Annotated[
        float | None, typer.Option(min=0, help="GPUs that Ray gives each training; 1 where the cluster has any.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run again what failed in an earlier run.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log each training into OUT/logs.")] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log each training to Weights & Biases.")] = False,
) -> None:
    """Compare methods over tasks and seeds: same teacher, student, data order and budget for all."""
    budget = _budget(locals())
    from kdzoo.bench.grid.comparison import Comparison
    from kdzoo.bench.grid.launchers import make_launcher
    from kdzoo.bench.report.table import terminal_table

    place = make_launcher(launcher, workers=workers, address=ray_address, cpus=cpus_per_cell, gpus=gpus_per_cell)
    trackers = tuple(name for name, asked in (("tensorboard", tensorboard), ("wandb", wandb)) if asked)
    teacher_budget = budget | _given(epochs=teacher_epochs, learning_rate=teacher_learning_rate)
    settings = _settings(
        tasks=tasks,
        methods=methods,
        data=data,
        teacher=teacher,
        student=student,
        budget=budget,
        teacher_budget=teacher_budget,
        finetune_teacher=finetune_teacher,
        overrides=tuple(set_ or ()),
        **_given(augment=augment or None, augment_model=augment_model, glove=glove),
        **_given(seeds=seeds, train_rows=train_rows, validation_rows=validation_rows, evaluations=evaluations),
        **_given(cache_limit=cache_limit, cache_folder=cache_folder, cache_precision=cache_precision),
    )
    comparison = Comparison(settings, out, console, trackers)
    records = comparison.run(place, command=context.obj, retry_failed=retry_failed)
    console.print(terminal_table(records, comparison.title, failed=[*comparison.failed]))
    if records:
        written = f"report: {out}/report.html, tables: {out}/results.csv and {out}/results.tex, records: {out}/cells"
        console.print(written, highlight=False, soft_wrap=True)
    if comparison.failed:
        raise DistillationFailure(comparison.summary_of_failures())


@app.command()
def cost(
    losses: Annotated[str, typer.Argument(help="Losses, separated by commas; all by default.")] = "",
    student: Annotated[str, typer.Option(help="The student's size.")] = "4x312,heads=12,ffn=1200",
    teacher: Annotated[str, typer.Option(help="The teacher's size.")] = "6x384,heads=12",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows.")] = 32,
    length: Annotated[int, typer.Option(min=2, help="Tokens a row, a quarter of them padding.")] = 128,
    repeats: Annotated[int, typer.Option(min=1, help="Calls to take the median of.")] = 5,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
) -> None:
    """What each loss costs in time and memory, against the student's own backward pass."""
    from kdzoo.bench.measure.cost import cost_columns, measure_costs, write_costs
    from kdzoo.bench.progress import progress
    from kdzoo.losses.registry import loss_class
    from kdzoo.objectives.registry import available

    names = _names(losses) or tuple(available())
    for name in names:
        loss_class(name)
    measured = measure_costs(
        names, student=student, teacher=teacher, batch_size=batch_size, length=length, repeats=repeats
    )
    _, setting = next(measured)
    costs = []
    with progress(console, "measuring", len(names), "losses") as progressed:
        for one, _ in measured:
            if one is not None:
                costs.append(one)
                progressed(len(costs))
    console.print(cost_columns(costs, setting).terminal())
    if out is not None:
        write_costs(out, costs, setting)


@app.command()
def profile(
    kernel: Annotated[str, typer.Argument(help="A kernel, such as cos_nce.")],
    shapes: Annotated[str, typer.Option(help="Shapes such as 4096x768, separated by commas.")] = "",
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    providers: Annotated[
        str, typer.Option(help="naive, reference, compile, torch, triton, and other libraries; all by default.")
    ] = "",
    device: Annotated[str, typer.Option(help="cpu or cuda; cuda by default where there is one.")] = "",
    seconds: Annotated[float, typer.Option(min=0, help="How long each time is taken for.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Folder for the JSON record and the plot.")] = Path("runs/profile"),
    explain: Annotated[bool, typer.Option("--explain", help="Only show which backend is chosen, and why.")] = False,
) -> None:
    """Time, traffic, memory and distance from the hardware's floor of a fused kernel and of other providers."""
    from kdzoo.bench.measure import kernels as bench
    from kdzoo.bench.progress import progress

    request = bench.Request.of(kernel, shapes=_names(shapes), dtype=dtype, providers=_names(providers), device=device)
    if explain:
        for shape, decision in bench.explain(request):
            typer.echo(f"{kernel} {shape} {dtype} on {request.device}: {decision.backend} ({decision.reason})")
        return
    measured = bench.measure(request, seconds=seconds)
    results: list[dict[str, Any]] = []
    with progress(console, "measuring", len(request.shapes) * len(request.providers), "results") as progressed:
        setting = next(measured)
        for result in measured:
            results.append(result)
            progressed(len(results))
    console.print(bench.profile_columns(setting, results).terminal())
    files = bench.write_profile(out, setting, results, request.device.type)
    console.print(f"record and plot: {', '.join(map(str, files))}", highlight=False, soft_wrap=True)


@bench_app.command()
def throughput(
    methods: Annotated[str, typer.Option(help=METHODS_HELP)] = METHODS,
    teacher: Annotated[str, typer.Option(help="A size such as 6x384,heads=12, a folder or a hub name.")] = "6x384",
    student: Annotated[str, typer.Option(help="4x312, teacher:1,3,5, a folder or a hub name.")] = "4x312",
    batch_sizes: Annotated[str, typer.Option(help="Rows a step, separated by commas.")] = "32",
    lengths: Annotated[str, typer.Option(help="Tokens a row, separated by commas.")] = "128",
    steps: Annotated[int, typer.Option(min=1, help="Steps a repeat.")] = 5,
    warmup: Annotated[int, typer.Option(min=1, help="Steps before the first repeat.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats to take medians of.")] = 3,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    out: Annotated[Path, typer.Option(help="A JSON file for the figures.")] = Path("runs/throughput.json"),
    set_: Set = None,
) -> None:
    """Training and inference throughput of methods, without training to convergence."""
    from kdzoo.bench.measure import throughput as bench
    from kdzoo.bench.progress import progress

    request = bench.Request.of(
        methods,
        tuple(set_ or ()),
        teacher=teacher,
        student=student,
        batch_sizes=_names(batch_sizes),
        lengths=_names(lengths),
        steps=steps,
        warmup=warmup,
        repeats=repeats,
        precision=precision,
    )
    results: list[Any] = []
    with progress(console, "measuring", request.total, "results") as progressed:
        setting, measured = bench.measure(request)
        for result in measured:
            results.append(result)
            bench.write_throughput(out, setting, results)
            progressed(len(results))
    for columns in bench.throughput_columns(setting, results):
        console.print(columns.terminal())
    console.print(f"record: {out}", highlight=False, soft_wrap=True)


@app.command()
def table(
    folder: Annotated[Path, typer.Argument(help="The folder of a comparison, or the record of a measurement.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="In Markdown.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="In LaTeX; a comparison's alone.")] = False,
    against: Annotated[
        str | None, typer.Option(help="A method to give each other's difference to, with its interval.")
    ] = None,
) -> None:
    """The table of a comparison's records, or of what was measured."""
    from kdzoo.bench.record import jobs_of, read_failures
    from kdzoo.bench.report.table import latex_table, markdown_table, read_records, terminal_table

    if folder.is_file():
        if latex or against:
            raise KdzooError(f"--{'latex' if latex else 'against'} is for the folder of a comparison")
        for number, columns in enumerate(_measured(folder)):
            if markdown:
                typer.echo(("\n" if number else "") + columns.markdown(), nl=False)
            else:
                console.print(columns.terminal())
        return
    if latex and markdown:
        raise KdzooError("--latex is not together with --markdown")
    records = read_records(folder)
    failed = jobs_of(read_failures(folder))
    if latex:
        typer.echo(latex_table(records, against, failed), nl=False)
    elif markdown:
        typer.echo(markdown_table(records, against, failed), nl=False)
    else:
        console.print(terminal_table(records, str(folder), against, failed))


def _measured(path: Path) -> list[Columns]:
    """The tables of a record that is no comparison's."""
    from kdzoo.bench.files import read_json

    record = read_json(path)
    try:
        if "throughput" in record:
            from kdzoo.bench.measure.throughput import read_throughput, throughput_columns

            return throughput_columns(*read_throughput(record))
        if "costs" in record:
            from kdzoo.bench.measure.cost import read_costs

            return [read_costs(record)]
        if "kernel" in record:
            from kdzoo.bench.measure.kernels import profile_columns

            return [profile_columns(record, record["results"])]
        if "apart" in record:
            from kdzoo.bench.measure.peers import peers_columns

            return [peers_columns(record)]
    except (KeyError, TypeError, ValueError) as error:
        raise KdzooError(f"{path} is damaged, or of another version ({error!r}); take the figures again") from None
    raise KdzooError(
        f"{path} holds no figures; `kdzoo cost`, `kdzoo profile` and `kdzoo bench throughput` write them with --out"
    )


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a comparison.")],
    out: Annotated[Path | None, typer.Option(help="The report's file; FOLDER/report.html by default.")] = None,
    reach: Annotated[
        list[str] | None,
        typer.Option(help="TASK=SCORE that the time to reach is told of; 95% of the best by default; repeatable."),
    ] = None,
) -> None:
    """The report of a comparison's records, one HTML file; in the folder, with its tables as CSV and LaTeX."""
    from kdzoo.bench.report.page import write_results

    scores = dict(_score(text) for text in reach or [])
    with console.status("drawing the report"):
        files = write_results(folder, out, scores)
    console.print(f"written: {', '.join(map(str, files))}", highlight=False, soft_wrap=True)


def _settings(*, tasks: str, methods: str, data: str, teacher: str, student: str, **given: Any) -> Any:
    from kdzoo.bench.grid.settings import resolve
    from kdzoo.objectives.expression import split_methods

    named = {"tasks": _names(tasks), "methods": tuple(split_methods(methods))}
    return resolve(**named, data=data, teacher=teacher or None, student=student or None, **given)


def _run_one(
    task: str,
    recipe: Any,
    data: str,
    teacher: str,
    student: str | None,
    budget: dict[str, Any],
    seed: int,
    train_rows: int | None,
    validation_rows: int | None,
    out: Path,
    log_gradients: bool = False,
    cache: Any = None,
    **augmentation: Any,
) -> None:
    from kdzoo.bench.runs.budget import Budget, validated
    from kdzoo.bench.runs.single import run_one

    record = run_one(
        task_name=task,
        recipe=recipe,
        data=data,
        teacher=teacher,
        student=student,
        budget=validated(Budget, **budget),
        seed=seed,
        train_rows=train_rows,
        validation_rows=validation_rows,
        folder=out,
        console=console,
        log_gradients=log_gradients,
        cache=cache,
        **augmentation,
    )
    metrics = ", ".join(f"{name} {100 * value:.1f}" for name, value in record["metrics"].items())
    console.print(f"{task} {recipe.name}: {metrics}; the model is in {out}", highlight=False, soft_wrap=True)


def _score(text: str) -> tuple[str, float]:
    task, _, score = text.partition("=")
    try:
        return task, float(score)
    except ValueError:
        raise KdzooError(f"--reach is {text!r}; give TASK=SCORE, such as mrpc=80") from None


def _years(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not text:
        return 0, 9999
    if not first.isdigit() or (last and not last.isdigit()):
        raise KdzooError(f"--year is {text!r}; give a year such as 2020, or two such as 2019-2021")
    return int(first), int(last or first)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _budget(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of a budget among a command's options, where they were given."""
    from kdzoo.bench.runs.budget import Budget

    return _given(**{name: options[name] for name in Budget.model_fields if name in options})


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit code 0, 2 for a request that cannot work, 1 for a failure, 130 when interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    show_other, drop_other = warnings.showwarning, sys.unraisablehook

    def show_warning(message: Any, category: type[Warning], *where: Any, **options: Any) -> None:
        if issubclass(category, KdzooWarning):
            print(f"kdzoo: warning: {message}", file=sys.stderr)
        else:
            show_other(message, category, *where, **options)

    def drop(dropped: Any) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            # Ctrl-C during a finaliser, where Python drops every exception: once more, when that is over.
            threading.Timer(0.1, _thread.interrupt_main).start()
        else:
            drop_other(dropped)

    warnings.showwarning, sys.unraisablehook = show_warning, drop
    stopped = "stopped; the same command goes on from the last finished part"
    try:
        _check_empty(arguments)
        # Some versions of typer return the code of an exit, and of Ctrl-C, which others raise.
        command = shlex.join(["kdzoo", *arguments])
        code = app(arguments or ["--help"], prog_name="kdzoo", standalone_mode=False, obj=command) or 0
        if code == 130:
            code = _fail(stopped, 130, debug)
    except typer.Exit as exit_:
        code = exit_.exit_code
    except ClickError as error:
        code = _fail(error.format_message(), 2, debug)
    except KdzooError as error:
        code = _fail(str(error), 2, debug)
    except (KeyboardInterrupt, typer.Abort):
        code = _fail(stopped, 130, debug)
    except (DistillationFailure, OSError) as error:
        code = _fail(str(error), 1, debug)
    except Exception as error:
        code = _fail(f"unexpected {type(error).__name__}: {error}; --debug shows where", 1, debug)
    sys.exit(code)


def _check_empty(arguments: list[str]) -> None:
    """Refuse what a shell makes of a variable that is not set; an empty folder would be the current one."""
    for before, argument in zip(["kdzoo", *arguments], arguments, strict=False):
        if argument == "" or (argument.startswith("--") and argument.endswith("=")):
            name = argument.rstrip("=") or before
            raise KdzooError(f"what follows {name} is empty; leave it out, or see whether a shell variable is set")


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if first_process or code != 2:  # a request that cannot work is the same in all
        print(f"kdzoo: {' '.join(message.split())}", file=sys.stderr)
    return code
