"""kdzoo trusts nobody: messages hold no code, nothing of a hub is run or unpickled, and a bare installation works."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile import configurations, names

import kdzoo
from kdzoo.errors import KdzooError, printable


def test_a_message_is_a_screen_long_and_printable() -> None:
    error = KdzooError("\x1b[31m" + "x" * 10**6 + "\ud800\u202e")
    assert len(str(error)) < 2100 and str(error).isprintable() and str(error).startswith("\\x1b[31m")
    assert str(error).endswith("\\ud800\\u202e")
    assert printable("ümläut σ × ŝ") == "ümläut σ × ŝ"


def test_help_in_a_bare_installation() -> None:
    code = """
import pydoc, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pydantic", "transformers", "yaml", "typer", "rich", "datasets", "accelerate"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
import kdzoo
text = pydoc.plain(pydoc.render_doc(kdzoo))
assert "class DistillationLoss" in text and "Recipe" not in dir(kdzoo)
try:
    from kdzoo import Recipe
except ModuleNotFoundError as error:
    assert "kdzoo.Recipe needs" in str(error) and "pip install 'kdzoo[bench]'" in str(error), error
else:
    raise SystemExit("Recipe was there")
import io, contextlib
from kdzoo.cli.main import main
said = io.StringIO()
with contextlib.redirect_stderr(said):
    try:
        main(["list"])
    except SystemExit as ended:
        assert ended.code == 2, ended.code
assert said.getvalue().strip() == "kdzoo: the command line needs typer; it comes with: pip install 'kdzoo[bench]'", said
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# --- trust ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changed", "says"), configurations.MODELS, ids=names.shown)
def test_a_configuration_that_would_run_code(
    changed: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    from kdzoo.models.loading import load_model
    from kdzoo.models.spec import ModelSpec

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForSequenceClassification(BertConfig(vocab_size=30, **sizes)).save_pretrained(tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (tmp_path / "tokenizer.json").write_text("{}")
    for part in ("config", "tokenizer"):  # which is not blamed for it
        with pytest.raises(KdzooError, match=says):
            getattr(ModelSpec.parse(str(tmp_path)), part)
    with pytest.raises(KdzooError):
        load_model(tmp_path)
    assert not ran.exists()


def test_no_code_of_a_hub_is_asked_for() -> None:
    """Every call that could run a repository's code says that it must not."""
    root = Path(kdzoo.__file__).resolve().parents[1]
    sources = [path for folder in ("kdzoo", "bench", "baselines") for path in (root / folder).rglob("*.py")]
    calls = []
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("from_pretrained", "from_config"):
                told = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                calls.append(path)
                assert told.get("trust_remote_code") == "False", f"{path.name}, line {node.lineno}"
    assert len(calls) >= 5
