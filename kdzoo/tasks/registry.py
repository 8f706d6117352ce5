"""The names of tasks: GLUE's register here, and a user's own and those of plug-ins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdzoo import plugins
from kdzoo.errors import KdzooError, unknown

if TYPE_CHECKING:
    from kdzoo.tasks.base import Task

_tasks: dict[str, Task] = {}
_loaded = False


def register_task(task: Task) -> Task:
    """Make a task known by its name; the same name registered again, as in a notebook's cell run twice, replaces it.

    Args:
        task: an instance of a `kdzoo.tasks.base.Task`.

    Returns:
        The task.

    Raises:
        KdzooError: it is no task, or its name is one of GLUE's.
    """
    from kdzoo.tasks.base import Task
    from kdzoo.tasks.glue import TASKS

    if not isinstance(task, Task):
        raise KdzooError(f"register_task takes an instance of a Task, such as kdzoo.tasks.Classification; got {task!r}")
    if task.name in TASKS and TASKS[task.name] is not task:
        raise KdzooError(f"a task named {task.name!r} is GLUE's; choose another name")
    _tasks[task.name] = task
    return task


def task_names() -> list[str]:
    """The names of the registered tasks, sorted."""
    _load()
    return sorted(_tasks)


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        KdzooError: there is no such task; the message offers the nearest name.
    """
    if name not in _tasks:
        _load()
    if name not in _tasks:
        raise unknown("task", name, _tasks)
    return _tasks[name]


def _load() -> None:
    """Register GLUE's tasks and those of installed plug-ins, once."""
    global _loaded
    if _loaded:
        return
    _loaded = True
    from kdzoo.tasks.base import Task
    from kdzoo.tasks.glue import TASKS

    for task in TASKS.values():
        register_task(task)
    for found in plugins.entries(plugins.TASK_GROUP):
        register_task(found if isinstance(found, Task) or not callable(found) else found())
