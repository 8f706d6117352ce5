"""The conformance battery: what every loss must do, checked on inputs made from what its class declares.

It needs no test framework; under pytest one test a check reads best:

    import pytest
    from kdzoo.testing import CHECKS, check_loss

    @pytest.mark.parametrize("check", CHECKS)
    def test_my_loss(check):
        check_loss("my_loss", reference, checks=[check])

A reference is the loss in explicit loops over NumPy arrays, written from the paper:

    def reference(student, teacher, *, mask, labels, sample_ids, state, **options_and_extras) -> float

The student comes projected to the teacher's width where the loss learns a projection; the mask is boolean or None;
``state`` is the loss's state before the call, by name. It is passed as a function, or as a module or any object that
has it as ``reference`` and may have besides

- ``SETTINGS``: a list of option dictionaries, each of which is tried;
- ``draw_options(rng, student_width, teacher_width, rows)``: further options at random;
- ``fit_options(student, teacher)``: further options that the tensors' shapes fix;
- ``draw_extras(rng, student, teacher, options)``: extra arguments at random; tensors whose first axis has the batch's
  length go with its rows;
- ``move_extras(extras, by)``: the extra arguments when all positions move so far, where they hold positions;
- ``LAYOUTS``: which of the shapes that the class's features allow the loss takes, where it takes fewer, as pairs of
  the axes' letters and whether there is a mask: ``[("BSD", False), ("BSD", True)]``;
- ``DEEPER_TEACHER``: True where the teacher's layers may not be fewer than the student's;
- ``FEWEST_CLASSES``: the fewest classes the loss takes, where it refuses two;
- ``AT_EQUAL``: the value, of zero gradient, that the loss has where student and teacher agree;
- ``HOLDS``: True where the gradient is taken with a part held fixed that depends on the student. The formula then
  takes ``held`` as well, the student to compute that part of, which is the student itself when not given.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from typing import Any

import torch

from kdzoo.errors import unknown
from kdzoo.testing.cases import Subject
from kdzoo.testing.checks import CHECKS
from kdzoo.testing.processes import agrees_with_two_processes, in_two_processes

__all__ = ["CHECKS", "Subject", "agrees_with_two_processes", "check_loss", "fresh_seed", "in_two_processes"]


def check_loss(name: str, reference: Any, *, checks: Collection[str] | None = None, seed: int | None = None) -> None:
    """Check a registered loss on inputs drawn at random.

    Args:
        name: of the loss, as it is registered.
        reference: the formula in NumPy, as the module's docstring says.
        checks: names out of ``CHECKS``; all of them when not given, which takes from seconds to a minute, most of it
            for ``compiles_as_one_graph`` and for ``is_the_mean_of_two_processes``, which starts two processes.
        seed: draws everything. When not given, inputs are fresh at every call, and a failure names the seed;
            the environment variable ``KDZOO_SEED`` fixes it from outside.

    Raises:
        AssertionError: for the first check that fails: which, on what input, and the seed that makes it again.
        KdzooError: for a loss or a check that is not known, or a reference that is no function and has none.
    """
    subject = Subject(name, reference)
    seed = fresh_seed() if seed is None else seed
    chosen = CHECKS if checks is None else checks
    for check in chosen:
        if check not in CHECKS:
            raise unknown("check", check, CHECKS)
    for check in chosen:
        try:
            with torch.random.fork_rng(devices=[]):
                CHECKS[check](subject, seed)
        except Exception as error:
            what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            raise AssertionError(f"{name} fails {check}, with KDZOO_SEED={seed}: {what}") from error


def fresh_seed() -> int:
    """``KDZOO_SEED`` from the environment, or another number at every call."""
    return int(os.environ.get("KDZOO_SEED") or secrets.randbelow(2**31))
