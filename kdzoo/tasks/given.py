"""GivenRows: a task that may be given its rows, and metrics of its own choice; what tasks of several kinds share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdzoo.tasks.base import Task

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Brought:
    """Rows by split that somebody's data had under other columns' names: what a task may have as its ``read``."""

    rows: Mapping[str, Dataset]
    text_columns: tuple[str, ...]

    def __call__(self) -> dict[str, Dataset]:
        return dict(self.rows)


class GivenRows(Task):
    """A task whose rows are those that `read` gives by split, where it is not None; a frozen dataclass.

    A copy for another process is without `read`: whoever gets it is given the rows with it.
    """

    read: Callable[[], Mapping[str, Dataset]] | None

    @property
    def brings_rows(self) -> bool:
        return self.read is not None

    @property
    def text_columns(self) -> tuple[str, ...]:
        return self.read.text_columns if isinstance(self.read, Brought) else ()

    def rows(self) -> Mapping[str, Dataset] | None:
        return None if self.read is None else self.read()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"read": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _choose_metrics(self, usual: tuple[str, ...]) -> None:
        """Take the kind's metrics where none are named, and the first of them for the score.

        Args:
            usual: the kind's.

        Raises:
            KdzooError: the kind has no such metric.
        """
        from kdzoo.tasks.metrics import get_metric

        metrics = tuple(dict.fromkeys((*self.metrics, *self.headline))) or usual
        headline = self.headline or self.metrics or usual[:1]
        for metric in metrics:
            get_metric(metric, self.kind)
        object.__setattr__(self, "metrics", metrics)
        object.__setattr__(self, "headline", headline)
