"""Where the trainings of a comparison run: in this process, in worker processes, or as tasks on a Ray cluster."""

from __future__ import annotations

from importlib.util import find_spec

from kdzoo.bench.grid.launchers.base import Launcher
from kdzoo.bench.grid.launchers.local import InProcess, Pool
from kdzoo.bench.grid.launchers.on_ray import Ray
from kdzoo.distributed import launched
from kdzoo.errors import KdzooError, unknown

LAUNCHERS = ("local", "ray")


def make_launcher(
    name: str = "local",
    *,
    workers: int | None = None,
    address: str | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
) -> Launcher:
    """A launcher by its name.

    Args:
        name: ``"local"`` or ``"ray"``.
        workers: processes of the local one.
        address: of a Ray cluster that is there already; None starts one on this machine.
        cpus, gpus: what Ray sets aside for each training.

    Raises:
        KdzooError: for an unknown name, options of another launcher, or Ray missing.
    """
    if name not in LAUNCHERS:
        raise unknown("launcher", name, LAUNCHERS)
    if launched()[1] > 1:
        raise KdzooError(
            "kdzoo compare is one process, and starts the others with --workers or --launcher ray; torchrun and "
            "accelerate launch are for kdzoo distill and kdzoo finetune"
        )
    given = {"--ray-address": address, "--cpus-per-cell": cpus, "--gpus-per-cell": gpus}
    if name == "local":
        for option, value in given.items():
            if value is not None:
                raise KdzooError(f"{option} is for --launcher ray, and the launcher is local; leave it out")
        return InProcess() if workers in (None, 1) else Pool(workers or 1)
    if workers is not None:
        raise KdzooError("--workers is for --launcher local; Ray runs as many cells as --cpus-per-cell leaves room for")
    if find_spec("ray") is None:
        raise KdzooError("--launcher ray needs Ray; install it with: pip install 'kdzoo[ray]'")
    return Ray(address, 1.0 if cpus is None else cpus, gpus)
