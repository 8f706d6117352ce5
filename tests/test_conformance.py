"""Every registered loss goes through the conformance suite, and so does every one that is registered later."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import kdzoo
from kdzoo.errors import KdzooError
from kdzoo.losses.registry import loss_class, options_of
from kdzoo.testing import CHECKS, Subject, agrees_with_two_processes, check_loss, fresh_seed, in_two_processes

ROOT = Path(__file__).parents[1]
NAMES = kdzoo.available()
ALONE = [check for check in CHECKS if check != "is_the_mean_of_two_processes"]


def reference(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"references.{name}")
    except ModuleNotFoundError as error:
        raise AssertionError(
            f"the loss {name!r} has no reference: add tests/references/{name}.py with reference(student, teacher, *, "
            "mask, labels, sample_ids, ...), the formula in explicit loops over NumPy arrays (kdzoo/testing says what "
            "else may be in it)"
        ) from error


@pytest.fixture(scope="module")
def seed() -> int:
    """Fresh inputs at every run; a failure shows the seed that makes them again."""
    return fresh_seed()


@pytest.fixture(autouse=True)
def one_thread(seed: int) -> None:
    print(f"to repeat these inputs: KDZOO_SEED={seed}")
    torch.set_num_threads(1)


@pytest.mark.parametrize("check", ALONE)
@pytest.mark.parametrize("name", NAMES)
def test_loss(name: str, check: str, seed: int) -> None:
    check_loss(name, reference(name), checks=[check], seed=seed)


@pytest.fixture(scope="module")
def two_processes(seed: int, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[Any]]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    return in_two_processes([Subject(name, reference(name)) for name in NAMES], seed, folder)


# The check of that name, with one pair of processes for all losses.
@pytest.mark.parametrize("name", NAMES)
def test_one_process_is_the_mean_of_two(name: str, seed: int, two_processes: list[dict[str, list[Any]]]) -> None:
    agrees_with_two_processes(Subject(name, reference(name)), seed, two_processes)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_has_shapes_examples_and_every_option(name: str) -> None:
    text = inspect.getdoc(loss_class(name)) or ""
    parts = ["Shapes", "Examples", *options_of(loss_class(name))]
    assert [part for part in parts if f"{part}:" not in text] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_example_in_the_docstring_runs(name: str) -> None:
    finder = doctest.DocTestFinder(recurse=False)
    results = [doctest.DocTestRunner().run(test) for test in finder.find(loss_class(name), name)]
    assert sum(result.attempted for result in results) and not any(result.failed for result in results)


def test_a_loss_without_a_reference_is_told_what_to_add() -> None:
    with pytest.raises(AssertionError, match=r"add tests/references/unheard_of\.py"):
        reference("unheard_of")


def formula(student: Any, teacher: Any, **_: Any) -> float:
    return float(((student - teacher) ** 2).sum(-1).mean())


def test_what_check_loss_refuses() -> None:
    with pytest.raises(KdzooError, match="unknown loss 'unheard_of'"):
        check_loss("unheard_of", formula)
    with pytest.raises(KdzooError, match=r"unknown check 'ignores_paddin'.*ignores_padding"):
        check_loss("kd", formula, checks=["ignores_paddin"])
    with pytest.raises(KdzooError, match="the reference of kd must be a function"):
        check_loss("kd", 3)
    with pytest.raises(AssertionError, match=r"kd fails matches_reference, with KDZOO_SEED=5: .* not .*seed \d+"):
        check_loss("kd", formula, seed=5)


def test_a_plug_in_is_checked_as_the_page_shows(tmp_path: Path) -> None:
    """By the page's own files, with nothing of these tests and, in the first place, without pytest."""
    page = (ROOT / "docs" / "new-loss.md").read_text(encoding="utf-8")
    losses, tests = re.findall(r"```python title=.*?\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "losses.py").write_text(losses)
    (tmp_path / "test_losses.py").write_text(tests)
    layout = tmp_path / "layout" / "kdzoo"
    layout.mkdir(parents=True)
    for part in (*(ROOT / "kdzoo").iterdir(), *(ROOT / name for name in ("kernels", "baselines", "bench"))):
        (layout / part.name).symlink_to(part)
    environment = os.environ | {"PYTHONPATH": str(layout.parent), "OMP_NUM_THREADS": "1"}
    bare = "import sys; sys.modules['pytest'] = None; from my_package import losses; from kdzoo.testing import *; "
    bare += "check_loss('hidden_l1', lambda student, teacher, **_: 0.0, checks=['is_documented', 'ignores_padding'])"
    for command in (("-c", bare), ("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_losses.py")):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(CHECKS)} passed" in done.stdout
