"""--push-to-hub: what huggingface_hub sends to a hub on this machine, and what is refused before a training."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from command_line import SIZES, Commands
from huggingface_hub import constants
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdzoo.bench.runs import pushing
from kdzoo.errors import KdzooError

MODEL = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


class Hub:
    """What a hub was sent: repositories by name, each file by its path; or it refuses everything."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.tokens: set[str | None] = set()
        self.refuses = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub.tokens.add(self.headers.get("Authorization"))
                answer = {"error": "You are not allowed to do this"} if hub.refuses else hub.answer(self.path, body)
                sent = json.dumps(answer).encode()
                self.send_response(403 if hub.refuses else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.files.setdefault(name, {})
            return {"url": f"{self.url}/{name}"}
        if path == "/api/validate-yaml":
            return {"warnings": [], "errors": []}
        name = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            files = [{"path": of["path"], "uploadMode": "regular", "shouldIgnore": False} for of in
                     json.loads(body)["files"]]  # fmt: skip
            return {"files": files}
        assert "/commit/" in path, path
        for line in map(json.loads, body.decode().splitlines()):
            if line["key"] == "file":
                self.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return {"commitUrl": f"{self.url}/{name}/commit/abc", "commitOid": "abc", "hookOutput": "", "success": True}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()
    threading.Thread(target=made.server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_what_is_trained_is_uploaded_and_loads(
    hub: Hub, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "teacher"
    shape = ("--model", "1x16,heads=2", *SIZES[4:])
    out = commands.works("finetune", "--task", "sst2", *shape, "--out", folder, "--push-to-hub", "me/teacher")
    assert out.splitlines()[-1] == f"uploaded: {hub.url}/me/teacher"
    sent = hub.files["me/teacher"]
    assert {*sent} >= MODEL and not {"record.json", "run.json"} & {*sent}
    assert not [name for name in sent if "/" in name or name == "objective.safetensors"], "no checkpoint"
    assert hub.tokens == {"Bearer hf_of_nobody"}
    assert not [name for name, content in sent.items() if str(tmp_path).encode() in content], "no path of this machine"
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in sent.items():
        (copy / name).write_bytes(content)
    assert AutoModelForSequenceClassification.from_pretrained(copy).num_labels == 2
    assert AutoTokenizer.from_pretrained(copy)("words")["input_ids"]

    given = ("--task", "sst2", "--method", "kd", "--teacher", folder, "--student", "1x8,heads=2", *SIZES[4:])
    student = tmp_path / "student"
    commands.works("distill", *given, "--out", student, "--push-to-hub", "me/student")
    assert hub.files["me/student"]["model.safetensors"] == (student / "model.safetensors").read_bytes()
    # An export goes with the model, from wherever it was written.
    written = tmp_path / "elsewhere" / "student.onnx"

    def exported(_: Path, out: Path) -> Any:
        out.parent.mkdir()
        out.write_bytes(b"onnx")
        from kdzoo.bench.runs.exporting import Exported

        return Exported(("input_ids",), 4, None)

    monkeypatch.setattr("kdzoo.bench.runs.exporting.export_onnx", exported)
    monkeypatch.setattr("kdzoo.cli.use.check_file", lambda _: None)
    commands.works("export", student, "--onnx", "--out", written, "--push-to-hub", "me/exported")
    assert {*hub.files["me/exported"]} == {*hub.files["me/student"], "student.onnx"}
    # What the hub refuses is a failure that says where the model is, and what tries again.
    hub.refuses = True
    commands.fails("export", student, "--push-to-hub", "me/no", code=1, says=(
        f"the model is in {student}", "not allowed", f"kdzoo export {student} --push-to-hub me/no"))  # fmt: skip


def test_the_tokenizer_of_targets_goes_with_its_model(hub: Hub, tmp_path: Path) -> None:
    sent = {"config.json", "tokenizer.json", "vocabularies.json", "target_tokenizer/tokenizer.json"}
    for name in (*sent, "checkpoint-4/tokenizer.json", "checkpoint-4/target_tokenizer/tokenizer.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    pushing.push(tmp_path, "me/two")
    assert {*hub.files["me/two"]} == sent


def test_nobody_there(commands: Commands, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    commands.fails("export", tmp_path, "--push-to-hub", "me/x", code=1, says=("was not uploaded to me/x",))


def test_what_cannot_be_uploaded_is_refused_before_it_is_trained(
    commands: Commands, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("finetune", "--task", "sst2", "--model", "1x16,heads=2", "--out", tmp_path / "m", "--push-to-hub")
    commands.fails(*given, "a name/of mine", says=("--push-to-hub is 'a name/of mine'", "give USER/NAME"))
    commands.fails(*given, "student", says=("USER/student",))
    commands.fails("export", tmp_path, "--push-to-hub", "me/x", says=("holds no model to upload",))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    commands.fails(*given, "me/x", says=("needs a token", "hf auth login"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commands.fails(*given, "me/x", says=("HF_HUB_OFFLINE is set",))
    with pytest.raises(KdzooError, match="HF_HUB_OFFLINE"):
        pushing.push(tmp_path, "me/x")
    assert not (tmp_path / "m").exists() and hub.files == {}
