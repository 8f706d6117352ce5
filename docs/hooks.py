"""MkDocs hook: the catalogue of losses and recipes from the registry, and the tutorial from its notebook."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

import kdzoo
from kdzoo.losses.registry import loss_class
from kdzoo.objectives.recipe import Recipe
from kdzoo.objectives.sources import table

# What a reader looks for first: the feature that a loss compares.
GROUPS = {
    "logits": "Predictions",
    "hidden": "Hidden states of tokens",
    "embedding": "Embeddings",
    "cls": "Sentence vectors (CLS)",
    "order": "Order of two segments",
    "qkv": "Attention and relations",
}


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {"catalogue/losses.md": _index(), "catalogue/recipes.md": _recipes()}
    pages |= {f"catalogue/{name}.md": _loss(name) for name in kdzoo.available()}
    pages["tutorial.md"] = _tutorial()
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
    return f"# {name}\n\n{formula}\n\n| property | value |\n|---|---|\n{table}\n\n::: {where}\n"


def _tutorial() -> str:
    """The notebook as a page."""
    cells = json.loads((Path(__file__).parent / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    shown = [text if kind == "markdown" else f"```python\n{text}\n```" for text, kind in texts]
    shown.insert(1, "This page is a notebook: [tutorial.ipynb](tutorial.ipynb).")
    return "\n\n".join(shown) + "\n"


def _recipes() -> str:
    parts = [
        "# The recipes\n\nMade from the registry. `kdzoo show NAME --yaml > mine.yaml` writes one out, and every "
        "command that takes a name takes such a file.\n"
    ]
    for name in kdzoo.available("recipes"):
        recipe = Recipe.load(name)
        citation = f"{recipe.citation}\n\n" if recipe.citation else ""
        notes = f"{recipe.notes}\n\n" if recipe.notes else ""
        text = recipe.model_copy(update={"sources": ()}).to_yaml()
        parts.append(f"## {name}\n\n{recipe.title}\n\n{citation}{notes}```yaml\n{text}```\n\n{_sources(recipe)}\n")
    return "\n".join(parts)


def _sources(recipe: Recipe) -> str:
    rows = [f"| `{key}` | " + " | ".join(map(_cell, cells)) + " |" for key, *cells in table(recipe)]
    return "\n".join(["| hyper-parameter | value | from | where |", "|---|---|---|---|", *rows])


def _recipes_with(name: str) -> list[str]:
    return [recipe for recipe in kdzoo.available("recipes") if name in Recipe.load(recipe).losses]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
