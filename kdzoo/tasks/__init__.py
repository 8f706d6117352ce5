"""Tasks: what they are, where their rows come from (`sources`, `own`, `synthetic`), how they are scored (`metrics`)."""

from kdzoo.tasks.base import Head, Task
from kdzoo.tasks.classification import Classification
from kdzoo.tasks.glue import TASKS
from kdzoo.tasks.registry import get_task, register_task, task_names
from kdzoo.tasks.sources import load

__all__ = ["TASKS", "Classification", "Head", "Task", "get_task", "load", "register_task", "task_names"]
