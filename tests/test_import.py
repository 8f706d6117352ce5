"""What ``import kdzoo`` loads: torch, and nothing heavier."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest

from kdzoo import plugins

HEAVY = {
    "accelerate",
    "datasets",
    "evaluate",
    "matplotlib",
    "pandas",
    "pyarrow",
    "pydantic",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "tokenizers",
    "transformers",
    "triton",
    "typer",
    "yaml",
}


def loaded(code: str) -> set[str]:
    """The top-level modules that a new interpreter holds after running some code."""
    code += "\nimport json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_loads_torch_and_nothing_else() -> None:
    extra = loaded("import kdzoo") - loaded("import torch") - set(sys.stdlib_module_names)
    assert extra == {"kdzoo"}


def test_listing_and_creating_losses_stays_cheap() -> None:
    code = "import kdzoo as k; k.available(); k.describe('kd'); k.create('kd'); k.create('cos_nce')"
    assert not (loaded(code) - loaded("import torch")) & HEAVY


def test_a_notebook_sees_every_name_and_readable_descriptions() -> None:
    import kdzoo

    assert {*kdzoo.__all__} <= {*dir(kdzoo)}
    assert repr(kdzoo.describe("kd")) == str(kdzoo.describe("kd")) and repr(kdzoo.describe("kd")).startswith("kd: ")


def test_the_first_loss_may_be_asked_for_by_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_loaded", False)
    begun, go_on, order = threading.Event(), threading.Event(), []

    def imported(name: str) -> None:
        begun.set()
        plugins.load_methods()  # what is imported may ask for a loss itself
        assert go_on.wait(60)
        order.append("imported")

    def second() -> None:
        plugins.load_methods()
        order.append("second")

    monkeypatch.setattr(plugins.importlib, "import_module", imported)
    threads = [threading.Thread(target=each) for each in (plugins.load_methods, second)]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    threads[1].join(0.05)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert order == ["imported", "second"]
