"""The names of tasks: GLUE's register here, and a user's own and those of plug-ins."""

from __future__ import annotations

from kdzoo import plugins
from kdzoo.errors import KdzooError, check_name, unknown
from kdzoo.tasks.base import Task

_tasks: dict[str, Task] = {}
_built_in: set[str] = set()
_loaded = False


def built_in(task: Task) -> Task:
    """Make a task of kdzoo's own known, whose name then is taken for good."""
    _tasks[task.name] = task
    _built_in.add(task.name)
    return task


def register_task(task: Task) -> Task:
    """Make a task known by its name; the same name registered again, as in a notebook's cell run twice, replaces it.

    Args:
        task: an instance of a `kdzoo.tasks.base.Task`.

    Returns:
        The task.

    Raises:
        KdzooError: it is no task, or its name is that of one of kdzoo's own, as GLUE's are, or none
            (`kdzoo.errors.check_name`).
    """
    if not isinstance(task, Task):
        raise KdzooError(f"register_task takes an instance of a Task, such as kdzoo.tasks.Classification; got {task!r}")
    check_name("task", task.name)
    if task.name in _built_in and _tasks[task.name] is not task:
        raise KdzooError(
            f"a task named {task.name!r} is one of kdzoo's own, such as GLUE's; choose another name, "
            "or rename the file that it comes from"
        )
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


def adapt_task(name: str, source: str) -> Task:
    """The task of that name as a source has it (`Task.adapted`), known by its name from here on.

    Raises:
        KdzooError: there is no such task, or the source's rows cannot be read.
    """
    _tasks[name] = get_task(name).adapted(source)
    return _tasks[name]


def _load() -> None:
    """Register the tasks of installed plug-ins, once; kdzoo's own are there when this package is imported.

    Raises:
        KdzooError: one cannot be imported, fails, or gives no task; it is named.
    """
    global _loaded
    with plugins.LOADING:
        if _loaded:
            return
        for name, found in plugins.named_entries(plugins.TASK_GROUP):
            try:
                register_task(found if isinstance(found, Task) or not callable(found) else found())
            except Exception as error:
                raise KdzooError(f"the plug-in {name!r} gives no task: {error}") from error
        _loaded = True
