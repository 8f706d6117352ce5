"""The house: imports run one way, files stay short, and no page names a file that is not there."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from kdzoo.plugins import METHOD_GROUPS, TASK_GROUP

ROOT = Path(__file__).parents[1]
FOLDERS = {"kdzoo": "kdzoo", **{folder: f"kdzoo.{folder}" for folder in ("kernels", "baselines", "bench")}}

# By room, the rooms that it may import from: those in its own line too, and all that they may import from.
BELOW = {
    "errors": "",
    "distributed": "errors",
    "hashing": "errors",
    "plugins": "errors",
    "yaml_files": "errors",
    "kernels": "",
    "tasks": "kernels plugins hashing distributed yaml_files",
    "models": "tasks",
    "losses": "models",
    "objectives": "losses",
    "training": "objectives",
    "baselines": "objectives",
    "testing": "losses",
    "kdzoo": "training baselines",
    "bench.": "kdzoo",  # files, record, folder and the like, at the bottom of bench
    "bench.runs": "bench.",
    "bench.grid": "bench.runs",
    "bench.measure": "bench.runs",
    "bench.report": "bench. tasks",
    "bench.api": "bench.grid bench.measure bench.report",  # a comparison from Python
    "cli": "bench.api",
    "__main__": "cli",
    "bench.peers": "bench.measure",  # the command python -m kdzoo.bench.peers
}
# A report is made of records: what bench's bottom may know of training is no business of its own.
NEVER = {("bench.report", "training"), ("bench.report", "objectives"), ("bench.report", "losses")}
# The loader of methods and plug-ins is the one arrow up.
UP = {("kdzoo.plugins", "kdzoo.baselines")}

LONGEST = 450
LONG_FILES = 4
REASON = "In one file because"  # a long file says so, within its first lines


def sources() -> dict[str, Path]:
    """The files of the four code folders by the names of their modules."""
    found = {}
    for folder, package in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = file
    return found


def run(node: ast.AST) -> Iterator[ast.AST]:
    """All that can run below a node: what is under TYPE_CHECKING cannot."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from run(other)
        else:
            yield child
            yield from run(child)


def imported(text: str, known: set[str]) -> set[str]:
    """The modules of ours that a file imports, at its top or within a function, by statement or by name."""
    found: set[str] = set()
    for node in run(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (whole & known) or {str(node.module)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return found & known


@cache
def arrows() -> dict[str, set[str]]:
    """By module, the modules it imports, but for the one arrow up."""
    files = sources()
    found = {}
    for name, file in files.items():
        targets = imported(file.read_text(encoding="utf-8"), set(files)) - {name}
        found[name] = {target for target in targets if (name, target) not in UP}
    return found


def room(module: str) -> str:
    """The room a module stands in; ``bench.`` for the files at the bottom of bench."""
    parts = module.split(".")
    if len(parts) == 1:
        return "kdzoo"
    if parts[1] != "bench":
        return parts[1]
    in_bench = f"bench.{parts[2]}" if len(parts) > 2 else "bench."
    return in_bench if in_bench in BELOW else "bench."


def reachable(start: str) -> set[str]:
    """The rooms that a room may import from."""
    found = {start}
    for below in BELOW[start].split():
        found |= reachable(below)
    return found - {other for one, other in NEVER if one == start}


def test_type_checking_is_no_arrow_and_a_function_is() -> None:
    text = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\nelse:\n    import b\n"
        "def f():\n    from c import d\n    from e import name\n    importlib.import_module('g')\n"
    )
    assert imported(text, {"a", "b", "c", "c.d", "e", "g"}) == {"b", "c.d", "e", "g"}


def test_every_room_has_its_place() -> None:
    unknown = {name for name in sources() if room(name) not in BELOW}
    assert not unknown, f"not a room of the house: {sorted(unknown)}"


def test_imports_run_one_way() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, targets in arrows().items()
        for target in sorted(targets)
        if room(target) not in reachable(room(name))
    ]
    assert not wrong, "\n".join(["arrows that point up:", *wrong])


def test_the_loader_is_the_one_arrow_up() -> None:
    files = sources()
    assert [pair for pair in UP if pair[1] in imported(files[pair[0]].read_text(encoding="utf-8"), set(files))] == [*UP]


def test_no_circle() -> None:
    # A package that gathers its modules is imported with any of them, so an arrow from them to it is none.
    graph = {name: {t for t in targets if not name.startswith(f"{t}.")} for name, targets in arrows().items()}
    circle: list[str] = []
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1]
    assert not circle, f"a circle: {' <- '.join(circle)}"


def test_files_are_short_but_for_four_with_a_reason() -> None:
    text = {file: file.read_text(encoding="utf-8").splitlines() for file in sources().values()}
    long = {str(file.relative_to(ROOT)): lines for file, lines in text.items() if len(lines) > LONGEST}
    sizes = {name: len(lines) for name, lines in long.items()}
    assert len(long) <= LONG_FILES, f"{len(long)} files are over {LONGEST} lines: {sizes}"
    silent = [name for name, lines in long.items() if REASON not in " ".join(lines[:12])]
    assert not silent, f"no reason ({REASON!r}) in the first lines of {silent}"


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    # What registers a kernel with PyTorch is called an operator there.
    allowed = {name for name in sources() if re.fullmatch(r"kdzoo\.kernels\.\w+\.operator", name)}
    assert {name for name in sources() if name.rpartition(".")[2] in sys.stdlib_module_names} == allowed


# --- what pages and comments name -------------------------------------------------------------------------------------

PAGES = [*ROOT.glob("*.md"), *(page for page in (ROOT / "docs").rglob("*.md") if "results" not in page.parts)]
CODE = [*sources().values(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "docs").rglob("*.py")]
PATH = re.compile(r"(?<![\w/.:-])((?:kdzoo|kernels|baselines|bench|tests|docs|\.ci|\.github)/[\w./-]*\w/?)(?![\w/*{<])")
ENDINGS = {".py", ".md", ".yaml", ".yml", ".toml", ".j2"}
INVENTED = re.compile(r"[A-Z]{3,}|unheard_of")  # tests/references/NAME.py


def test_every_path_exists() -> None:
    missing = []
    for file in (*PAGES, *CODE):
        text = re.sub(r"\]\(https?://[^)]*\)", "]", file.read_text(encoding="utf-8"))
        for path in {path for path in PATH.findall(text) if not INVENTED.search(path)}:
            # Without an ending it may be a hub's model or a command's argument.
            if Path(path).suffix in ENDINGS and not any((at / path).exists() for at in (ROOT, file.parent)):
                missing.append(f"{file.relative_to(ROOT)} names {path}")
    assert not missing, "\n".join(missing)


def test_every_name_of_a_page_exists() -> None:
    missing = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        names = set(re.findall(r"(?:`|\]\[|^::: )(kdzoo(?:\.\w+)+)", text, flags=re.MULTILINE))
        names -= {*METHOD_GROUPS, TASK_GROUP}  # the entry points' groups
        missing += [f"{page.relative_to(ROOT)} names {name}" for name in sorted(names) if not exists(name)]
    assert not missing, "\n".join(missing)


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False
