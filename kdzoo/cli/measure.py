"""What things cost, measured: ``kdzoo cost``, ``profile`` and ``bench throughput``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdzoo.bench.files import check_file
from kdzoo.bench.runs.budget import MOST_BATCH, MOST_LENGTH, MOST_REPEATS, Budget, validated
from kdzoo.cli.options import METHODS, Fields, Given, Methods, Set, Student, console, listed


def cost(
    losses: Annotated[str, typer.Argument(help="Losses, separated by commas; all by default.")] = "",
    student: Annotated[str, typer.Option(help="The student's size.")] = "4x312,heads=12,ffn=1200",
    teacher: Annotated[str, typer.Option(help="The teacher's size.")] = "6x384,heads=12",
    batch_size: Annotated[int, typer.Option(min=1, max=MOST_BATCH, help="Rows.")] = 32,
    length: Annotated[int, typer.Option(min=2, max=MOST_LENGTH, help="Tokens a row, a quarter of them padding.")] = 128,
    repeats: Annotated[int, typer.Option(min=1, max=MOST_REPEATS, help="Calls to take the median of.")] = 5,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the figures.")] = None,
) -> None:
    """What each loss costs in time and memory, against the student's own backward pass."""
    from kdzoo.bench.measure.cost import cost_columns, measure_costs, write_costs
    from kdzoo.bench.progress import progress
    from kdzoo.losses.registry import loss_class
    from kdzoo.objectives.registry import available

    if out is not None:
        check_file(out)
    names = listed(losses) or tuple(available())
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


def profile(
    kernel: Annotated[str, typer.Argument(help="A kernel, such as cos_nce; without one, the kernels are listed.")] = "",
    shapes: Annotated[
        str, typer.Option(help="Shapes such as 4096x768, or 256:4096x768 (doubled), separated by commas.")
    ] = "",
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    providers: Annotated[
        str, typer.Option(help="naive, reference, compile, torch, triton, and other libraries; all by default.")
    ] = "",
    provider: Annotated[
        list[str] | None, typer.Option(help="One of your own, package.module:function; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda; cuda by default where there is one.")] = "",
    seconds: Annotated[float, typer.Option(min=0, max=3600, help="How long each time is taken for.")] = 1.0,
    budget: Annotated[
        float | None, typer.Option(min=1, help="Seconds in which to be done; cheap and important first.")
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Write a trace of each provider at each shape, too.")] = False,
    against: Annotated[Path | None, typer.Option(help="An older record to compare with.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the JSON record and the plots.")] = Path("runs/profile"),
    explain: Annotated[bool, typer.Option("--explain", help="Only show which backend is chosen, and why.")] = False,
) -> None:
    """Time, traffic, memory and distance from the hardware's floor of a fused kernel and of other providers."""
    from kdzoo.bench.measure import kernels as bench
    from kdzoo.bench.measure.kernels.running import Options, profiled
    from kdzoo.bench.progress import progress

    if not kernel:
        typer.echo("\n".join(bench.listing()))
        return
    request = bench.Request.of(
        kernel,
        shapes=listed(shapes),
        dtype=dtype,
        providers=listed(providers),
        own=tuple(provider or ()),
        device=device,
    )
    if explain:
        for shape, decision in bench.explain(request):
            typer.echo(f"{kernel} {shape} {dtype} on {request.device}: {decision.backend} ({decision.reason})")
        return
    options = Options(out, seconds, budget, trace, against)
    with progress(console, "measuring", len(request.asked()), "results") as progressed:
        done = profiled(request, options, lambda _, number, total: progressed(number))
    console.print(done.columns.terminal())
    for line in done.said:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def throughput(
    budget: Annotated[Given, Fields(Budget, "precision")],
    methods: Methods = METHODS,
    teacher: Annotated[str, typer.Option(help="A size such as 6x384,heads=12, a folder or a hub name.")] = "6x384",
    student: Student = "4x312",
    batch_sizes: Annotated[str, typer.Option(help="Rows a step, separated by commas.")] = "32",
    lengths: Annotated[str, typer.Option(help="Tokens a row, separated by commas.")] = "128",
    steps: Annotated[int, typer.Option(min=1, max=MOST_REPEATS, help="Steps a repeat.")] = 5,
    warmup: Annotated[int, typer.Option(min=1, max=MOST_REPEATS, help="Steps before the first repeat.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, max=MOST_REPEATS, help="Repeats to take medians of.")] = 3,
    out: Annotated[Path, typer.Option(help="A JSON file for the figures.")] = Path("runs/throughput.json"),
    set_: Set = None,
) -> None:
    """Training and inference throughput of methods, without training to convergence."""
    from kdzoo.bench.measure import throughput as bench
    from kdzoo.bench.progress import progress

    check_file(out)
    request = bench.Request.of(
        methods,
        tuple(set_ or ()),
        teacher=teacher,
        student=student,
        batch_sizes=listed(batch_sizes),
        lengths=listed(lengths),
        steps=steps,
        warmup=warmup,
        repeats=repeats,
        precision=validated(Budget, **budget).precision,
    )
    results: list[Any] = []
    with progress(console, "measuring", request.total, "results") as progressed:
        setting, measured = bench.measure_methods(request)
        for result in measured:
            results.append(result)
            bench.write_throughput(out, setting, results)
            progressed(len(results))
    for columns in bench.throughput_columns(setting, results):
        console.print(columns.terminal())
    console.print(f"record: {out}", highlight=False, soft_wrap=True)
