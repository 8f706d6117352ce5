"""Weights over the course of a training."""

from __future__ import annotations

from dataclasses import dataclass

from kdzoo.errors import KdzooError


@dataclass(frozen=True)
class Schedule:
    """A weight over the fraction of training done.

    Attributes:
        points: (fraction, weight) in rising order; from each fraction on its weight holds, 0 before the first.
        interpolate: go in a straight line from one point to the next instead.
    """

    points: tuple[tuple[float, float], ...]
    interpolate: bool = False

    def __post_init__(self) -> None:
        fractions = [fraction for fraction, _ in self.points]
        if not fractions or fractions != sorted(fractions) or not 0 <= fractions[0] <= fractions[-1] <= 1:
            raise KdzooError(f"a schedule's fractions rise within 0 to 1, got {fractions}")

    @property
    def span(self) -> tuple[float, float]:
        """From where on and up to where there is a weight: (0.0, 0.0) for one that is zero throughout."""
        ends = [*(fraction for fraction, _ in self.points[1:]), 1.0]
        # Between two points the line is above zero where either of them is.
        following = [*(weight for _, weight in self.points[1:]), self.points[-1][1]]
        weighted = [
            (fraction, end)
            for (fraction, weight), end, then in zip(self.points, ends, following, strict=True)
            if weight or (self.interpolate and then)
        ]
        return (weighted[0][0], weighted[-1][1]) if weighted else (0.0, 0.0)

    def __call__(self, progress: float) -> float:
        """The weight when ``progress`` (0 to 1) of the training is done."""
        before = [point for point in self.points if point[0] <= progress]
        if not before:
            return self.points[0][1] if self.interpolate else 0.0
        (start, low), after = before[-1], self.points[len(before) :]
        if not self.interpolate or not after:
            return low
        end, high = after[0]
        return low + (high - low) * (progress - start) / (end - start)


def after(fraction: float, weight: float) -> Schedule:
    """``weight`` once ``fraction`` of the training is done, 0 before."""
    return Schedule(((fraction, float(weight)),))


def before(fraction: float, weight: float) -> Schedule:
    """``weight`` until ``fraction`` of the training is done, 0 from there on."""
    return Schedule(((0.0, float(weight)), (fraction, 0.0)))


def linear(first: float, last: float) -> Schedule:
    """From ``first`` at the start to ``last`` at the end, in a straight line."""
    return Schedule(((0.0, float(first)), (1.0, float(last))), interpolate=True)


Weight = float | Schedule


def fractions_of(weight: Weight) -> list[float]:
    return [fraction for fraction, _ in weight.points] if isinstance(weight, Schedule) else []
