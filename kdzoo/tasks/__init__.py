"""GLUE: the tasks (`tasks`), where their rows come from (`sources`, `synthetic`), how they are scored (`metrics`)."""

from kdzoo.tasks.base import Task
from kdzoo.tasks.glue import TASKS
from kdzoo.tasks.registry import get_task
from kdzoo.tasks.sources import load

__all__ = ["TASKS", "Task", "get_task", "load"]
