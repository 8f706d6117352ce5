"""The wheel: what it contains, and that everything in it can be imported from where it is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import kdzoo

ROOT = Path(__file__).parents[1]
FOLDERS = {"kdzoo": "kdzoo", **{folder: f"kdzoo/{folder}" for folder in ("kernels", "baselines", "bench")}}

# The dependencies come last on the path and without their .pth files, so that neither an editable kdzoo nor
# the checkout can stand in for the installed one.
IMPORT_ALL = """
import importlib, json, pkgutil, sys
sys.path += sys.argv[1:]
import kdzoo
found = {"kdzoo": kdzoo.__file__}
for module in pkgutil.walk_packages(kdzoo.__path__, "kdzoo."):
    if not module.name.endswith(".__main__"):
        found[module.name] = importlib.import_module(module.name).__file__
print(json.dumps(found))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """What a command printed; its own messages are the failure's, where it fails."""
    words = [str(part) for part in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[:4]} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def sources() -> set[str]:
    """The code folders' files under the paths they are installed at."""
    return {
        f"{target}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the checkout and without a network."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tree / "dist", tree, cwd=tree)
    (built,) = (tree / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    installed = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    pip = (sys.executable, "-m", "pip", "--python", installed)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    return installed


def test_wheel_holds_the_sources_under_one_name(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"kdzoo"}
    assert names == sources()
    assert "kdzoo/py.typed" in names


def test_wheel_names_its_licence_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = {name.split("/", 1)[1]: name for name in archive.namelist() if ".dist-info/" in name}
        assert "License-Expression: Apache-2.0" in archive.read(info["METADATA"]).decode()
        assert archive.read(info["licenses/LICENSE"]) == (ROOT / "LICENSE").read_bytes()
        assert "kdzoo = kdzoo.cli.main:main" in archive.read(info["entry_points.txt"]).decode()


def test_every_module_imports_from_the_installed_wheel(python: Path, tmp_path: Path) -> None:
    dependencies = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    found = json.loads(run(python, "-I", "-c", IMPORT_ALL, *dependencies, cwd=tmp_path).splitlines()[-1])
    home = python.parents[1].resolve()
    elsewhere = {name: path for name, path in found.items() if home not in Path(path).resolve().parents}
    assert not elsewhere, f"not imported from the installed wheel: {elsewhere}"
    expected = {
        source.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for source in sources()
        if source.endswith(".py") and not source.endswith("/__main__.py")
    }
    assert set(found) == expected


def test_every_file_names_the_same_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == kdzoo.__version__ and citation["license"] == "Apache-2.0"
    assert kdzoo.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
