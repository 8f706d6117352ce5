"""Every registered loss goes through the conformance suite, and so does every one that is registered later."""

from __future__ import annotations

import doctest
import importlib
import os
import secrets
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import CHECKS, Subject, agrees_with_two_processes, in_two_processes

import kdzoo
from kdzoo.losses.registry import loss_class

NAMES = kdzoo.available()


def subject(name: str) -> Subject:
    try:
        return Subject(name, importlib.import_module(f"references.{name}"))
    except ModuleNotFoundError as error:
        raise AssertionError(
            f"the loss {name!r} has no reference: add tests/references/{name}.py with reference(student, teacher, *, "
            "mask, labels, sample_ids, ...), the formula in explicit loops over NumPy arrays (tests/conformance.py "
            "says what else may be in it)"
        ) from error


@pytest.fixture(scope="module")
def seed() -> int:
    """Fresh inputs at every run; a failure shows the seed that makes them again."""
    return int(os.environ.get("KDZOO_SEED") or secrets.randbelow(2**31))


@pytest.fixture(autouse=True)
def show_seed(seed: int) -> None:
    print(f"to repeat these inputs: KDZOO_SEED={seed}")
    torch.set_num_threads(1)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_loss(name: str, check: str, seed: int) -> None:
    CHECKS[check](subject(name), seed)


@pytest.fixture(scope="module")
def two_processes(seed: int, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[Any]]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    return in_two_processes(map(subject, NAMES), seed, folder)


@pytest.mark.xdist_group("two_processes")  # which all of these share
@pytest.mark.parametrize("name", NAMES)
def test_one_process_is_the_mean_of_two(name: str, seed: int, two_processes: list[dict[str, list[Any]]]) -> None:
    agrees_with_two_processes(subject(name), seed, two_processes)


@pytest.mark.parametrize("name", NAMES)
def test_the_example_in_the_docstring_runs(name: str) -> None:
    finder = doctest.DocTestFinder(recurse=False)
    results = [doctest.DocTestRunner().run(test) for test in finder.find(loss_class(name), name)]
    assert sum(result.attempted for result in results) and not any(result.failed for result in results)


def test_a_loss_without_a_reference_is_told_what_to_add() -> None:
    with pytest.raises(AssertionError, match=r"add tests/references/unheard_of\.py"):
        subject("unheard_of")
