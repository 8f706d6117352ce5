"""`python -m kdzoo.bench.measure.kernels`: `kdzoo profile` where there are torch, triton and numpy alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kdzoo.bench.measure import kernels as bench
from kdzoo.bench.measure.kernels.running import Options, profiled
from kdzoo.errors import DistillationFailure, KdzooError


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and write record and plots; 2 for what was asked wrongly, 1 for what failed."""
    given = _parser().parse_args(arguments)
    try:
        return _run(given)
    except (KdzooError, DistillationFailure) as error:
        print(f"kdzoo: {error}", file=sys.stderr)
        return 2 if isinstance(error, KdzooError) else 1


def _run(given: argparse.Namespace) -> int:
    if not given.kernel:
        print("\n".join(bench.listing()))
        return 0
    request = bench.Request.of(
        given.kernel,
        shapes=_listed(given.shapes),
        dtype=given.dtype,
        providers=_listed(given.providers),
        own=given.provider,
        device=given.device,
    )
    if given.explain:
        for shape, decision in bench.explain(request):
            print(f"{given.kernel} {shape} {given.dtype} on {request.device}: {decision.backend} ({decision.reason})")
        return 0
    options = Options(given.out, given.seconds, given.budget, given.trace, given.against)
    done = profiled(request, options, lambda result, *_: print(_line(result), file=sys.stderr))
    print(done.columns.text(), *done.said, sep="\n")
    return 0


def _line(result: dict[str, object]) -> str:
    both = result.get("both")
    took = f"{1e3 * both['seconds']:.4g} ms" if isinstance(both, dict) else str(result.get("failed"))
    return f"{result['shape']} {result['provider']}: {took}"


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from None


def _positive(text: str) -> float:
    number = _number(text)
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return number


def _seconds(text: str) -> float:
    number = _number(text)
    if not 0 <= number <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 to 3600")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m kdzoo.bench.measure.kernels", description=__doc__)
    add = parser.add_argument
    add("kernel", nargs="?", default="", help="a kernel, such as cos_nce; without one, the kernels are listed")
    add("--shapes", default="", help="shapes such as 4096x768 or 256:4096x768 (doubled), separated by commas")
    add("--dtype", default="fp32", help="fp32, bf16 or fp16")
    add("--providers", default="", help="naive, reference, compile, torch, triton and libraries; all by default")
    add("--provider", action="append", default=[], help="one of your own, package.module:function; repeatable")
    add("--device", default="", help="cpu or cuda; cuda by default where there is one")
    add("--seconds", type=_seconds, default=1.0, help="how long each time is taken for")
    add("--budget", type=_positive, default=None, help="seconds in which to be done; cheap and important first")
    add("--trace", action="store_true", help="write a trace of each provider at each shape, too")
    add("--against", type=Path, default=None, help="an older record to compare with")
    add("--out", type=Path, default=Path("runs/profile"), help="folder for the JSON record and the plots")
    add("--explain", action="store_true", help="only show which backend is chosen, and why")
    return parser


if __name__ == "__main__":
    sys.exit(main())
