"""GLUE: the tasks (`tasks`), where their rows come from (`sources`, `synthetic`), how they are scored (`metrics`)."""

from kdzoo.glue.sources import load
from kdzoo.glue.tasks import TASKS, Task, get_task

__all__ = ["TASKS", "Task", "get_task", "load"]
