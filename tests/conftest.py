"""For all tests."""

from __future__ import annotations

import gc
import os
import shutil
from typing import Any

import pytest
from command_line import Commands
from xdist.scheduler import LoadGroupScheduling

# Each in one process, so that what they share, which takes long, is made once.
TOGETHER = (
    "tests/test_distributed.py",
    "tests/test_conformance.py::test_one_process_is_the_mean_of_two",
    "tests/test_use.py",
)


class Together(LoadGroupScheduling):
    """By the tests' names: pytest 9.2 does not read where pytest-xdist 3.8 writes the groups of ``xdist_group``."""

    def _split_scope(self, nodeid: str) -> str:
        return next((start for start in TOGETHER if nodeid.startswith(start)), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadGroupScheduling | None:
    return Together(config, log) if config.getoption("dist") == "loadgroup" else None


def pytest_collection_finish() -> None:
    # transformers' Trainer collects garbage at every start. The modules imported by now are millions of objects, none
    # of them garbage, that it would look at each time.
    gc.collect()
    gc.freeze()


def program(what: str, *names: str) -> str:
    """The first of some programs that is installed. Without one the test is skipped, or fails where
    ``KDZOO_REQUIRE_WHAT=1`` says that it must run, as ``.ci/run`` does."""
    for name in names:
        if found := shutil.which(name):
            return found
    says = f"none of {', '.join(names)} is installed"
    if os.environ.get(f"KDZOO_REQUIRE_{what}", "0") not in ("", "0"):
        pytest.fail(f"{says}, and KDZOO_REQUIRE_{what} is set", pytrace=False)
    pytest.skip(says)


@pytest.fixture
def browser() -> str:
    """A Chromium or Chrome, which ``KDZOO_REQUIRE_BROWSER=1`` demands."""
    return program("BROWSER", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def pdflatex() -> str:
    """A LaTeX, which ``KDZOO_REQUIRE_LATEX=1`` demands."""
    return program("LATEX", "pdflatex")


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str]) -> Commands:
    """The command line, within the process."""
    return Commands(capsys)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """Every training of a comparison from here on, as (task, method, seed); the teacher's is called ``none``."""
    from kdzoo.bench.grid import cells
    from kdzoo.bench.runs import single, train

    calls: list[tuple[str, str, int]] = []
    done = train.train

    def counted(student: Any, teacher: Any, recipe: Any, **options: Any) -> Any:
        calls.append((options["task"].name, recipe.name, options["seed"]))
        return done(student, teacher, recipe, **options)

    monkeypatch.setattr(cells, "train", counted)
    monkeypatch.setattr(single, "train", counted)
    return calls
