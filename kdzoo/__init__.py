"""kdzoo: knowledge-distillation losses for transformer encoders, and the bench that compares them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kdzoo.activations import QKV, Activations, Needs, capture
from kdzoo.errors import DistillationFailure, KdzooError, KdzooWarning
from kdzoo.loss import DistillationLoss
from kdzoo.objective import Objective, Schedule, Term, after, before, linear
from kdzoo.registry import available, create, describe, register, register_recipe

if TYPE_CHECKING:
    from kdzoo.lrc import CosNCE
    from kdzoo.recipe import Recipe, Stage
    from kdzoo.students import make_student
    from kdzoo.trainer import DistillationTrainer

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
    "Needs",
    "Objective",
    "Recipe",
    "Schedule",
    "Stage",
    "Term",
    "after",
    "available",
    "before",
    "capture",
    "create",
    "describe",
    "linear",
    "make_student",
    "register",
    "register_recipe",
]

# What needs more than torch is imported when first asked for, so that ``import kdzoo`` stays cheap.
_LATER = {
    "CosNCE": "kdzoo.lrc",
    "DistillationTrainer": "kdzoo.trainer",
    "Recipe": "kdzoo.recipe",
    "Stage": "kdzoo.recipe",
    "make_student": "kdzoo.students",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'kdzoo' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)
