"""The command line: its commands, its errors, and `main`, which the installed ``kdzoo`` calls."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import kdzoo
from kdzoo.distributed import launched
from kdzoo.errors import DistillationFailure, KdzooError, KdzooWarning, brief, out_of_memory, printable

if TYPE_CHECKING:
    import typer

STOPPED = "stopped; the same command goes on from the last finished part"


def make_app() -> typer.Typer:
    """The commands, which need what kdzoo[bench] installs."""
    import typer

    from kdzoo.cli import compare, measure, prepare, report, train, use, zoo
    from kdzoo.cli.options import Grouped, command

    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help="Knowledge-distillation losses for transformer encoders, and the bench that compares them.",
    )

    @app.callback()
    def root(
        debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
        version: bool = typer.Option(
            False, "--version", help="Show the version and exit.", is_eager=True, callback=_version
        ),
    ) -> None:
        """Takes --debug, which main() has read already, and --version, which is done by now."""

    commands: list[Callable[..., None]] = [zoo.show, zoo.check, train.finetune, train.distill, train.pretrain]
    commands += [compare.compare, measure.cost, measure.profile, report.table, report.report, report.pack]
    commands += [use.predict, use.export, prepare.tag]
    app.command("list", cls=Grouped)(zoo.list_)
    for function in commands:
        app.command(cls=Grouped)(command(function))
    bench = typer.Typer(help="Measurements of whole trainings.", rich_markup_mode=None)
    bench.command(cls=Grouped)(command(measure.throughput))
    app.add_typer(bench, name="bench")
    return app


def _version(asked: bool) -> None:
    import typer

    if asked:
        typer.echo(f"kdzoo {kdzoo.__version__}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit code 0, 2 for a request that cannot work, 1 for a failure, 130 when interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    show_other = warnings.showwarning

    def show_warning(message: Any, category: type[Warning], *where: Any, **options: Any) -> None:
        if issubclass(category, KdzooWarning):
            print(f"kdzoo: warning: {printable(message)}", file=sys.stderr)
        else:
            show_other(message, category, *where, **options)

    warnings.showwarning = show_warning
    _hush_the_compiler()
    try:
        code, message = _run(arguments), STOPPED
        if code != 130:
            sys.exit(code)
    except (Exception, KeyboardInterrupt) as error:
        code, message = _told(error)
        if debug:
            traceback.print_exc()
    if launched()[0] == 0 or code != 2:  # a request that cannot work is the same in all processes
        print(f"kdzoo: {printable(' '.join(brief(message).split()))}", file=sys.stderr)
    sys.exit(code)


def _hush_the_compiler() -> None:
    """What Inductor says of its own choices is not about what was asked for; TORCH_LOGS shows it all the same."""
    if not os.environ.get("TORCH_LOGS"):
        logging.getLogger("torch._inductor").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=r"torch\._inductor\b")


def _run(arguments: list[str]) -> int:
    """The exit code of a command that ended by itself, and 130 where typer has caught Ctrl-C."""
    for argument in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise KdzooError(f"{argument!r} is not UTF-8, and cannot be written into a record; rename it")
    for before, argument in zip(["kdzoo", *arguments], arguments, strict=False):
        # What a shell makes of a variable that is not set; an empty folder would be the current one.
        if argument == "" or (argument.startswith("--") and argument.endswith("=")):
            name = argument.rstrip("=") or before
            raise KdzooError(f"what follows {name} is empty; leave it out, or see whether a shell variable is set")
    app = make_app()
    import typer

    usage: Any = typer.BadParameter.__mro__[2]  # click.ClickException, or what typer has in its place
    try:
        # Some versions of typer return the code of an exit, and of Ctrl-C, which others raise.
        line = shlex.join(["kdzoo", *arguments])
        return app(arguments or ["--help"], prog_name="kdzoo", standalone_mode=False, obj=line) or 0
    except typer.Exit as exit_:
        return exit_.exit_code
    except typer.Abort:
        return 130
    except usage as error:
        raise KdzooError(error.format_message()) from error


def _told(error: BaseException) -> tuple[int, str]:
    """The exit code of an error, and its one line."""
    if isinstance(error, KdzooError):
        return 2, str(error)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] != "kdzoo":
        return 2, f"the command line needs {error.name}; it comes with: pip install 'kdzoo[bench]'"
    if isinstance(error, KeyboardInterrupt):
        return 130, STOPPED
    if full := out_of_memory(error):
        return 1, full
    if isinstance(error, (DistillationFailure, OSError)):
        too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
        return 2 if too_long else 1, str(error)
    return 1, f"unexpected {type(error).__name__}: {error}; --debug shows where"
