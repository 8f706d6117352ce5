"""GLUE: the tasks (`tasks`), where their rows come from (`sources`, `synthetic`), how they are scored (`metrics`)."""

from kdzoo.tasks.base import TASKS, Task, get_task
from kdzoo.tasks.sources.folder import load

__all__ = ["TASKS", "Task", "get_task", "load"]
