"""MkDocs hook: the catalogue of losses and recipes from the registry, the kernels' figures from records."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

import kdzoo
from kdzoo.recipe import Recipe
from kdzoo.registry import loss_class

# What a reader looks for first: the feature that a loss compares.
GROUPS = {
    "logits": "Predictions",
    "hidden": "Hidden states of tokens",
    "embedding": "Embeddings",
    "cls": "Sentence vectors (CLS)",
    "qkv": "Attention and relations",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {"catalogue/losses.md": _index(), "catalogue/recipes.md": _recipes()}
    pages |= {f"catalogue/{name}.md": _loss(name) for name in kdzoo.available()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_config(config: Any) -> Any:
    """Put the losses' pages into the navigation, where mkdocs.yml says ``catalogue/losses.md``."""
    for entry in config.nav:
        for section, children in entry.items():
            if section == "Catalogue":
                losses = [{name: f"catalogue/{name}.md"} for name in kdzoo.available()]
                children.append({"Losses one by one": losses})
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Put the figures of a record of `kdzoo profile` where a page of a kernel says ``<!-- record: NAME -->``."""
    return re.sub(r"<!-- record: (\S+) -->", lambda found: _record(found[1]), markdown)


def _record(name: str) -> str:
    record = json.loads((Path(__file__).parent / f"results/profile/{name}.json").read_text(encoding="utf-8"))
    copy, products = record["copy_bytes_per_second"] / 1e9, record["matmul_flops_per_second"] / 1e9
    lines = [
        f"{record['dtype']}, {record['device']}, {record['threads']} thread(s), torch {record['versions']['torch']}. "
        f"In the same run a copy moved {copy:.3g} GB/s and a matrix product did {products:.3g} GFLOP/s. The provider "
        "`torch` is kdzoo's kernel without Triton; the share of the floor is of forward and backward.\n",
        "| shape | provider | forward, ms | forward and backward, ms | of the floor | peak memory, MB |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for result in record["results"]:
        if "failed" in result:
            cells = [result["failed"], "", "", ""]
        else:
            times = [_short(1e3 * result[part]["seconds"]) for part in ("forward", "both")]
            cells = [*times, f"{result['both']['of_floor']:.2g}", _short(result["peak_bytes"] / 1e6)]
        lines.append(f"| {' | '.join([result['shape'], result['provider'], *cells])} |")
    lines.append(f"\n![time and share of the floor by shape](../results/profile/{name}.png)")
    return "\n".join(lines)


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def _index() -> str:
    described = [kdzoo.describe(name) for name in kdzoo.available()]
    lines = [
        "# The losses\n",
        "Made from the registry; `kdzoo list` shows the same on the terminal. A loss stands where its default feature "
        "puts it; B rows, S positions, D width, C classes, A heads, M layers.\n",
    ]
    for feature, title in GROUPS.items():
        head = ["loss", "what it does", "needs", "learns", "cost", "year"]
        lines += [f"\n## {title}\n", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for of in described:
            if of.features[0] == feature:
                cells = (of.summary, ", ".join(of.needs), of.learns, of.complexity, str(of.year or ""))
                lines.append(f"| [`{of.name}`]({of.name}.md) | " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines) + "\n"


def _loss(name: str) -> str:
    of, kind = kdzoo.describe(name), loss_class(name)
    formula = convert(of.formula, display="block") if of.formula else ""
    rows = of.rows() | {"related": ", ".join(f"[`{other}`]({other}.md)" for other in of.related)}
    if of.url:
        rows["source"] = f"[{of.paper}]({of.url})"
    users = [f"[`{recipe}`](recipes.md#{recipe})" for recipe in _recipes_with(name)]
    rows["recipes"] = ", ".join(users)
    rows.pop("formula", None)
    table = "\n".join(f"| {row} | {_cell(text)} |" for row, text in rows.items() if text)
    where = f"{inspect.getmodule(kind).__name__}.{kind.__qualname__}"  # type: ignore[union-attr]
    return f"# {name}\n\n{formula}\n\n| | |\n|---|---|\n{table}\n\n::: {where}\n"


def _recipes() -> str:
    parts = [
        "# The recipes\n\nMade from the registry. `kdzoo show NAME --yaml > mine.yaml` writes one out, and every "
        "command that takes a name takes such a file.\n"
    ]
    for name in kdzoo.available("recipes"):
        recipe = Recipe.load(name)
        citation = f"{recipe.citation}\n\n" if recipe.citation else ""
        notes = f"{recipe.notes}\n\n" if recipe.notes else ""
        parts.append(f"## {name}\n\n{recipe.title}\n\n{citation}{notes}```yaml\n{recipe.to_yaml()}```\n")
    return "\n".join(parts)


def _recipes_with(name: str) -> list[str]:
    return [recipe for recipe in kdzoo.available("recipes") if name in Recipe.load(recipe).losses]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
