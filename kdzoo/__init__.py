"""kdzoo: knowledge-distillation losses for transformer encoders, and the bench that compares them."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from kdzoo.errors import DistillationFailure, KdzooError, KdzooWarning
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.registry import create, describe, register
from kdzoo.models.activations import QKV, Activations, Needs, capture
from kdzoo.models.shape import ModelShape
from kdzoo.objectives.objective import Objective
from kdzoo.objectives.registry import available, register_recipe
from kdzoo.objectives.schedule import Schedule, after, before, linear
from kdzoo.objectives.term import Term
from kdzoo.tasks.registry import get_task, register_task

if TYPE_CHECKING:
    from kdzoo.baselines.lrc import CosNCE
    from kdzoo.bench.api import compare
    from kdzoo.models.students import make_student
    from kdzoo.models.teachers import make_teacher
    from kdzoo.objectives.recipe import Recipe, Stage
    from kdzoo.training.cache import TeacherCache
    from kdzoo.training.trainer import DistillationTrainer

__version__ = "0.1.0"

__all__ = [
    "QKV",
    "Activations",
    "CosNCE",
    "DistillationFailure",
    "DistillationLoss",
    "DistillationTrainer",
    "KdzooError",
    "KdzooWarning",
    "ModelShape",
    "Needs",
    "Objective",
    "Recipe",
    "Schedule",
    "Stage",
    "TeacherCache",
    "Term",
    "after",
    "available",
    "before",
    "capture",
    "compare",
    "create",
    "describe",
    "get_task",
    "linear",
    "make_student",
    "make_teacher",
    "register",
    "register_recipe",
    "register_task",
]

# What needs more than torch is imported when first asked for, so that ``import kdzoo`` stays cheap.
_NEEDED = ("pydantic", "transformers", "yaml")  # of what kdzoo[bench] installs, by all of these
_LATER = {
    "CosNCE": "kdzoo.baselines.lrc",
    "DistillationTrainer": "kdzoo.training.trainer",
    "Recipe": "kdzoo.objectives.recipe",
    "Stage": "kdzoo.objectives.recipe",
    "TeacherCache": "kdzoo.training.cache",
    "compare": "kdzoo.bench.api",
    "make_student": "kdzoo.models.students",
    "make_teacher": "kdzoo.models.teachers",
}


def __dir__() -> list[str]:
    try:
        there = all(importlib.util.find_spec(package) for package in _NEEDED)
    except (ImportError, ValueError):  # an import that was blocked
        there = False
    return sorted(["__version__", *(name for name in __all__ if there or name not in _LATER)])


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'kdzoo' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_LATER[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "kdzoo").partition(".")[0] == "kdzoo":
            raise
        said = f"kdzoo.{name} needs {error.name}; it comes with: pip install 'kdzoo[bench]'"
        raise ModuleNotFoundError(said, name=error.name) from error
