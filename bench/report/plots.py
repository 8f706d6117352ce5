"""The plots of a comparison's report, as SVG to stand within a page: text stays text, and takes the page's colours."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import count
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kdzoo.bench.escape import PLOT, printable
from kdzoo.bench.report.labels import FONT, LINE, at_line_ends, at_points, room
from kdzoo.bench.report.ranking import Ranking
from kdzoo.bench.report.uncertainty import Estimate

# Seen on white and on black alike (a contrast of 3 or more), and told apart without red and green.
COLOURS = ("#1f7ab8", "#d9650b", "#1b9e77", "#c2459b", "#7a6fc0", "#a6761d", "#e0425e", "#5f8f1f")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
WIDE = 5.3  # inches of a plot, which a phone shows whole at the letters' own size
INK, PALE = "#010203", "#040506"  # stand for the page's text colour, and for a paler one of it
STYLE: dict[Any, Any] = {
    **PLOT,
    "svg.fonttype": "none",
    "font.size": FONT,
    "axes.titlesize": FONT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": PALE,
    "grid.linewidth": 0.4,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "figure.dpi": 72,  # so that a pixel is a point
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
_number = count()  # of a figure, so that no two on a page share a name


@dataclass(frozen=True)
class Point:
    """One method in a plane of cost and score."""

    name: str
    x: float
    y: float
    interval: Estimate | None = None
    deviation: float = 0.0  # of x


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other point equals or exceeds in both and exceeds in one, from the slowest to the fastest."""
    found: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.x, -point.y)):
        if not found or point.y > found[-1].y:
            found.append(point)
    return found[::-1]


def frontier(points: Sequence[Point], label: str, title: str, text: str, *, named: int) -> str:
    """Score against throughput with the Pareto front drawn.

    Args:
        points: the methods.
        label: of the throughput.
        title: the plot's name.
        text: what it shows, for those who cannot see it.
        named: how many points get a name: those of the front, then the best.
    """
    best = front(points)
    others = sorted((point for point in points if point not in best), key=lambda point: -point.y)
    with rc_context(STYLE):
        figure, (axes,) = _figure(WIDE, 4.4, left=0.8, right=0.35)
        for point in points:
            if point.interval is not None:
                axes.plot([point.x] * 2, [point.interval.low, point.interval.high], color=PALE, lw=0.7, zorder=1)
        for x, deviation in {(point.x, point.deviation) for point in points if point.deviation}:
            axes.axvspan(x - deviation, x + deviation, color=PALE, alpha=0.25, lw=0, zorder=0)
        axes.plot([p.x for p in best], [p.y for p in best], color=COLOURS[1], lw=1.2, drawstyle="steps-post", zorder=2)
        for group, colour in ((others, COLOURS[0]), (best, COLOURS[1])):
            axes.plot([p.x for p in group], [p.y for p in group], "o", ms=5, color=colour, zorder=3)
        axes.set_xlabel(label)
        axes.set_ylabel("average score")
        axes.margins(0.06)
        ordered = [(point.name, point.x, point.y) for point in [*best, *others]]
        at_points(axes, ordered, max(len(best), named), len(best), PALE)
        return _svg(figure, title, text)


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]], shown: Sequence[str], axis: str, title: str, text: str
) -> str:
    """Score over the course of training, a line a method.

    Args:
        lines: by method.
        shown: the methods that get a colour and their name, the same one in every plot; the others are grey.
        axis: what the course is measured in.
        title, text: as for `frontier`.
    """
    with rc_context(STYLE):
        figure, (axes,) = _figure(WIDE, 3.2, left=0.8, right=room(shown))
        for name, line in lines.items():
            if name not in shown:
                axes.plot(*zip(*line, strict=True), color=PALE, lw=0.8)
        _named_lines(axes, {name: lines[name] for name in shown if name in lines}, shown)
        axes.set_xlabel(axis)
        axes.set_ylabel("score")
        return _svg(figure, title, text)


def losses(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], title: str, text: str) -> str:
    """The loss and each of its terms over the steps, a panel a task.

    Args:
        panels: by task and term.
        title, text: as for `frontier`.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    across = min(len(panels), 3)
    down = math.ceil(len(panels) / across)
    with rc_context(STYLE):
        beside = room(names) + 0.45
        deep = max(1.2, len(names) * LINE / 72) + 0.7  # so that each name has its line
        figure, found = _figure(0.2 + (1.8 + beside) * across, 0.1 + deep * down, across, down, left=0.62,
                                right=beside - 0.4, bottom=0.3, top=0.25, between=(beside, 0.45))  # fmt: skip
        for axes, (task, lines) in zip(found, panels.items(), strict=False):
            values = [value for line in lines.values() for _, value in line]
            if min(values) > 0 and max(values) > 20 * min(values):
                axes.set_yscale("log")
                axes.minorticks_off()
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            _named_lines(axes, lines, names)
            axes.text(0, 1.04, printable(task), transform=axes.transAxes, weight="bold")
        for axes in found[len(panels) :]:
            axes.set_visible(False)
        return _svg(figure, title, text)


def steps(parts: Mapping[str, Mapping[str, float]], title: str, text: str) -> str:
    """Where the time of a training step goes, a bar a method.

    Args:
        parts: seconds by method and part of the step.
        title, text: as for `frontier`.
    """
    names = list(dict.fromkeys(part for of in parts.values() for part in of))
    with rc_context(STYLE):
        top = 0.12 + 0.2 * math.ceil(len(names) / 3)  # the legend's lines
        figure, (axes,) = _figure(WIDE, top + 0.46 + 0.2 * len(parts), left=room([*parts]), right=0.25, top=top)
        methods = [printable(method) for method in parts]
        left = [0.0] * len(parts)
        for number, name in enumerate(names):
            widths = [1000 * of.get(name, 0.0) for of in parts.values()]
            axes.barh(methods, widths, left=left, height=0.72, color=COLOURS[number % len(COLOURS)], label=name)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.margins(y=0.01)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("milliseconds a step")
        axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(-0.01, 1.0), frameon=False, handlelength=1)
        return _svg(figure, title, text)


def critical_difference(found: Ranking, title: str, text: str) -> str:
    """Mean ranks on a line; a bar joins methods that the Nemenyi test cannot tell apart (Demšar 2006, Figure 1).

    Args:
        found: the ranks.
        title, text: as for `frontier`.
    """
    k = len(found.ranks)
    half = math.ceil(k / 2)
    bars = 0.09 * max(len(found.groups), 1)
    depth = bars + 0.16 * (half + 0.5)  # inches below the line, where y counts them
    with rc_context({**STYLE, "axes.grid": False}):
        beside = room([f"{name}  0.00" for name in found.ranks])
        width = max(WIDE, 2 * beside + 2.4)
        figure, (axes,) = _figure(width, depth + 0.62, left=beside, right=beside, bottom=0.02, top=0.6)
        axes.set(xlim=(1, k), ylim=(depth, 0))
        axes.yaxis.set_visible(False)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.spines["top"].set_visible(True)
        axes.xaxis.tick_top()
        axes.xaxis.set_major_locator(MaxNLocator(min(k - 1, 12), integer=True))
        for number, (name, rank) in enumerate(found.ranks.items()):
            left = number < half
            y = bars + 0.16 * (0.5 + (number if left else k - 1 - number))
            axes.plot([rank, rank, 1 if left else k], [0, y, y], color=INK, lw=0.6, clip_on=False)
            told = printable(name)
            words, side = (f"{told}  {rank:.2f}", "right") if left else (f"{rank:.2f}  {told}", "left")
            axes.annotate(words, (1 if left else k, y), (-4 if left else 4, 0), textcoords="offset points", ha=side,
                          va="center", annotation_clip=False)  # fmt: skip
        ranks = list(found.ranks.values())
        for number, (first, last) in enumerate(found.groups):
            axes.plot([ranks[first], ranks[last]], [0.06 + 0.09 * number] * 2, color=COLOURS[1], lw=2.5)
        end = min(1 + found.critical, k)
        axes.plot(
            [1, 1, 1, end, end, end], [-0.31, -0.39, -0.35, -0.35, -0.31, -0.39], color=INK, lw=0.9, clip_on=False
        )
        more = "" if 1 + found.critical <= k else ", longer than the line"
        axes.text(1, -0.43, f"critical difference {found.critical:.2f}{more}")
        return _svg(figure, title, text)


def _figure(
    width: float,
    height: float,
    across: int = 1,
    down: int = 1,
    *,
    left: float = 0.52,
    right: float = 0.1,
    bottom: float = 0.42,
    top: float = 0.1,
    between: tuple[float, float] = (0.0, 0.0),
) -> tuple[Figure, list[Axes]]:
    """A figure with its margins; all lengths in inches."""
    figure = Figure(figsize=(width, height))
    panels = figure.subplots(down, across, squeeze=False).ravel().tolist()
    inner = (width - left - right - between[0] * (across - 1)) / across
    deep = (height - bottom - top - between[1] * (down - 1)) / down
    for number, axes in enumerate(panels):
        x = left + number % across * (inner + between[0])
        y = bottom + (down - 1 - number // across) * (deep + between[1])
        axes.set_position([x / width, y / height, inner / width, deep / height])
    return figure, panels


def _named_lines(axes: Axes, lines: Mapping[str, Sequence[tuple[float, float]]], names: Sequence[str]) -> None:
    """Lines with their names at their ends, apart from one another; colours by the place in ``names``."""
    ends = {}
    for name, line in lines.items():
        number = list(names).index(name)
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
        marker = "o" if len(line) == 1 else None
        axes.plot(*zip(*line, strict=True), color=colour, ls=dash, lw=1.5, marker=marker, ms=3)
        ends[name] = line[-1], colour
    at_line_ends(axes, ends)


def _svg(figure: Figure, title: str, text: str) -> str:
    """The figure as an element of a page, named and described for those who cannot see it."""
    name = f"plot{next(_number)}"
    written = io.StringIO()
    with rc_context({"svg.hashsalt": name}):  # or the clip paths of two figures would share a name
        figure.savefig(written, format="svg", metadata={"Date": None})
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1system-ui, sans-serif", svg)
    svg = svg.replace(INK, "currentColor").replace(PALE, "var(--pale)")
    box = re.findall(r'viewBox="[^"]*"', svg)[0]
    width = 72 * figure.get_figwidth()
    least = 0 if figure.get_figwidth() <= WIDE else 0.8 * width  # a wider one is scrolled through
    return (
        f'<svg class="plot" role="img" aria-labelledby="{name}t {name}d" {box} '
        f'style="min-width: {least:.0f}px; max-width: {1.7 * width:.0f}px">'
        f'<title id="{name}t">{escape(printable(title))}</title><desc id="{name}d">{escape(printable(text))}</desc>'
        + svg[svg.index(">") + 1 :]
    )
