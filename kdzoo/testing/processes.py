"""One process against two: what each of two gloo processes makes of its rows, beside one that has them all."""

from __future__ import annotations

import datetime
import pickle
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from kdzoo.testing.cases import Case, Subject
from kdzoo.testing.checks import check, require, same

#: By loss, for each of its cases: the value, the student's gradient, the parameters' gradient and the state.
Results = dict[str, list[tuple[Tensor, list[Tensor], dict[str, Tensor], dict[str, Tensor]]]]


@check
def is_the_mean_of_two_processes(subject: Subject, seed: int) -> None:
    """The processes import the loss's module, so it must be one that can be imported: no cell of a notebook."""
    with tempfile.TemporaryDirectory() as folder:
        agrees_with_two_processes(subject, seed, in_two_processes([subject], seed, Path(folder)))


def in_two_processes(subjects: Iterable[Subject], seed: int, folder: Path) -> list[Results]:
    """What each of two processes makes of its rows of every case; they meet and answer in an empty ``folder``."""
    require(dist.is_available(), "this build of PyTorch has no torch.distributed to start two processes with")
    # As bytes: a tensor among the arguments would cost an open file each.
    given = [(subject.loss, pickle.dumps(list(subject.cases(seed)))) for subject in subjects]
    spawn(_process, args=(given, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _process(rank: int, given: list[tuple[type, bytes]], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(minutes=5),
    )
    results: Results = {}
    for _, cases in given:
        for case in pickle.loads(cases):
            loss = case.make()
            value, of_student, of_parameters = _part(case, rank).gradients(loss)
            state = dict(loss.state_dict())
            results.setdefault(case.name, []).append((value, of_student, of_parameters, state))
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


def _part(case: Case, rank: int) -> Case:
    """One process's rows, unequally many, with the positions cut that are padding in all of them."""
    split = case.rows // 2
    case = case.with_rows(torch.arange(split) if rank == 0 else torch.arange(split, case.rows))
    if case.mask is None or case.counts_padding:
        return case
    length = int((case.mask != 0).any(0).nonzero().max()) + 1

    def cut(tensor: Tensor, axes: list[int]) -> Tensor:
        for axis in axes:
            tensor = tensor.narrow(axis, 0, length)
        return tensor

    return case.with_positions(cut)


def agrees_with_two_processes(subject: Subject, seed: int, results: list[Results]) -> None:
    """One process's value, gradient and state are the means, the rows and the state of the two."""
    for number, case in enumerate(subject.cases(seed)):
        loss = case.make()
        value, of_student, of_parameters = case.gradients(loss)
        first, second = (result[case.name][number] for result in results)
        same((first[0] + second[0]) / 2, value, case, "mean value of two processes")
        for whole, *parts in zip(of_student, first[1], second[1], strict=True):
            padded = []
            for part, rows in zip(parts, (case.rows // 2, case.rows - case.rows // 2), strict=True):
                full = torch.zeros_like(whole[:rows])
                full[tuple(slice(length) for length in part.shape)] = part / 2
                padded.append(full)
            same(torch.cat(padded), whole, case, "gradient of two processes")
        for name, whole in of_parameters.items():
            same((first[2][name] + second[2][name]) / 2, whole, case, f"gradient of {name} of two processes")
        for state in (first[3], second[3]):
            same(state, dict(loss.state_dict()), case, "state after two processes")
