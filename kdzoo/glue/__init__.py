"""GLUE: the tasks (`kdzoo.glue.tasks`), where their rows come from (`sources`, `synthetic`) and how they are scored (`metrics`)."""

from kdzoo.glue.sources import load
from kdzoo.glue.tasks import TASKS, Task, get_task

__all__ = ["TASKS", "Task", "get_task", "load"]
