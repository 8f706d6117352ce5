"""Names in plots, placed so that none is cut off and none lies on another, by the size that they are drawn at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from scipy.optimize import isotonic_regression

from kdzoo.bench.escape import printable

FONT = 9
LINE = 1.25 * FONT  # points from one name to the next
DOT = 3  # points from a dot's middle to its edge
RISES = (0, 12, -12, 24, -24, 36, -36, 48, -48)  # points above a dot where a name may stand
STROKE = 9  # points from a dot to its name beyond which a stroke leads there


def room(names: Sequence[str]) -> float:
    """Inches that the longest name takes beside a plot; a browser's letters are seldom wider than these."""
    return 0.25 + 0.62 * FONT / 72 * max(map(len, names), default=0)


def spread(wishes: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Places in the wishes' order, at least so far apart, between two limits, and otherwise as near as can be.

    The squares of the distances to the wishes are the smallest: an isotonic regression. Where the limits leave too
    little room, the last ones are beyond the upper.
    """
    order = np.argsort(wishes, kind="stable")
    steps = apart * np.arange(len(order))
    found = isotonic_regression(np.asarray(wishes, dtype=float)[order] - steps).x
    places = np.empty(len(order))
    places[order] = np.maximum(np.minimum(found, high - steps[-1:].sum()), low) + steps
    return places.tolist()


def at_line_ends(axes: Axes, ends: Mapping[str, tuple[tuple[float, float], str]]) -> None:
    """The names of lines to the right of the axes, each with a stroke from its line's end.

    Args:
        axes: whose limits are final afterwards.
        ends: by name, the line's last point and its colour.
    """
    axes.autoscale_view()
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    if not ends:
        return
    (_, lowest), (right, highest) = axes.transAxes.transform([(0, 0), (1, 1)])
    points = axes.transData.transform([point for point, _ in ends.values()])
    half = LINE / 2
    places = spread(points[:, 1].tolist(), LINE, lowest + half, highest - half)
    for (name, (_, colour)), (x, y), place in zip(ends.items(), points, places, strict=True):
        # Pixels are points here, so what is placed by them stays in its place.
        axes.plot([x + 2, right + 5], [y, place], color=colour, lw=0.5, transform=None, clip_on=False)
        axes.text(right + 7, place, printable(name), color=colour, va="center", transform=None)


def at_points(axes: Axes, points: Sequence[tuple[str, float, float]], named: int, strong: int, pale: str) -> None:
    """Each point's name near it; a name that finds no free place, if it is not a strong one, is left out.

    Args:
        axes: whose limits are final afterwards.
        points: name, x and y, the important ones first.
        named: how many of them get a name.
        strong: how many of these are in bold, and keep theirs in any case.
        pale: the colour of the strokes that lead to names further off.
    """
    axes.autoscale_view()
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    texts = [
        axes.text(x, y, printable(name), ha="center", va="center", zorder=4, weight=("normal", "bold")[place < strong])
        for place, (name, x, y) in enumerate(points[:named])
    ]
    x, y = ([point[axis] for point in points] for axis in (1, 2))
    state = np.random.get_state()  # adjustText shifts what lies on one spot at random
    np.random.seed(0)
    adjust_text(texts, x=x, y=y, ax=axes, iter_lim=300, expand=(1.2, 1.8), force_text=(0.2, 0.4))
    np.random.set_state(state)
    dots = axes.transData.transform([*zip(x, y, strict=True)])
    _settle(axes, texts, dots, strong)
    for text, dot in zip(texts, dots, strict=False):
        box = text.get_window_extent()
        near = np.clip(dot, (box.x0, box.y0), (box.x1, box.y1))
        if text.get_visible() and np.hypot(*(near - dot)) > STROKE:
            axes.plot(*zip(dot, near, strict=True), color=pale, lw=0.6, transform=None, zorder=2)


def _settle(axes: Axes, texts: Sequence[Text], dots: np.ndarray, strong: int) -> None:
    """What adjustText leaves on a dot, on a more important name or beyond the axes goes elsewhere, or out."""
    inside = axes.get_window_extent()
    taken = [Bbox.from_bounds(x - DOT, y - DOT, 2 * DOT, 2 * DOT) for x, y in dots]
    for place, (text, (x, y)) in enumerate(zip(texts, dots, strict=False)):
        box = text.get_window_extent()
        beside = [(side * (DOT + 3 + box.width / 2), rise) for rise in RISES for side in (1, -1)]
        above = [(0.0, rise) for rise in RISES[1:]]
        tries = [box, *(_centred(box, x + right, y + up) for right, up in [*above, *beside])]
        free = (at for at in tries if _within(at, inside) and not any(at.overlaps(other) for other in taken))
        found = next(free, None)
        if found is None and place >= strong:
            text.set_visible(False)
            continue
        found = found or box
        taken.append(found)
        middle = ((found.x0 + found.x1) / 2, (found.y0 + found.y1) / 2)
        text.set_position(tuple(axes.transData.inverted().transform(middle)))


def _centred(box: Bbox, x: float, y: float) -> Bbox:
    return Bbox.from_bounds(x - box.width / 2, y - box.height / 2, box.width, box.height)


def _within(box: Bbox, outer: Bbox) -> bool:
    return box.x0 >= outer.x0 and box.x1 <= outer.x1 and box.y0 >= outer.y0 and box.y1 <= outer.y1


def overlapping(texts: Sequence[Any]) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes overlap."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text() and text.get_visible()]
    return [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]
