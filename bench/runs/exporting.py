"""A trained student as an ONNX file, checked against the student."""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdzoo.bench.runs.student_folder import check_words_alone, load_student, trained_with
from kdzoo.errors import KdzooError
from kdzoo.training.agreement import accepted_inputs

TEXTS = ("a few words", "a row that is somewhat longer than the other one is")
TOLERANCE = 1e-3  # of the logits: float32 in another order of sums


class Exported(NamedTuple):
    """What was written.

    Attributes:
        inputs: the names of the file's inputs, each (rows, tokens).
        bytes: the file's size.
        apart: how far onnxruntime's logits lie from the student's at most; None where it is not installed.
    """

    inputs: tuple[str, ...]
    bytes: int
    apart: float | None


class _Logits(nn.Module):
    """The student from its inputs in order to its logits; to those of starts and ends where it answers questions."""

    def __init__(self, model: Any, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        made = self.model(**dict(zip(self.inputs, values, strict=True)))
        return tuple(made[name] for name in self.outputs)


def export_onnx(student: Path, out: Path) -> Exported:
    """Write a student as one ONNX file, with any number of rows and tokens.

    Args:
        student: its folder.
        out: the file.

    Raises:
        KdzooError: for a folder that holds no student, a package that is missing, a model that cannot be exported, or
            a file that gives other logits than the student.
    """
    trained = trained_with(student)
    check_words_alone(student, trained)
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise KdzooError(
            f"an ONNX file needs {' and '.join(missing)}: pip install 'kdzoo[onnx]', or onnx onnxscript onnxruntime"
        )
    model, tokenizer, task = load_student(student, trained)
    if task is not None and task.generates:
        raise KdzooError(f"{student} writes its texts in many passes, and one pass is exported; take another student")
    outputs = ("start_logits", "end_logits") if task is not None and task.kind == "spans" else ("logits",)
    encoded = tokenizer([*TEXTS], padding=True, return_tensors="pt")
    inputs = tuple(name for name in encoded if name in accepted_inputs(model))
    wrapped = _Logits(model, inputs, outputs).eval()
    values = tuple(encoded[name] for name in inputs)
    out.parent.mkdir(parents=True, exist_ok=True)
    rows, tokens = torch.export.Dim("rows"), torch.export.Dim("tokens")
    with tempfile.TemporaryDirectory(dir=out.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about itself
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        file = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                wrapped,
                values,
                str(file),
                input_names=[*inputs],
                output_names=[*outputs],
                dynamic_shapes=(tuple({0: rows, 1: tokens} for _ in values),),  # of the one *values
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # the exporter has many, none of them a kdzoo user's
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise KdzooError(f"{student} cannot be exported to ONNX: {why}") from error
        apart = _apart(file, wrapped, tokenizer, inputs)
        if apart is not None and apart > TOLERANCE:
            raise KdzooError(f"the ONNX file gives logits that are {apart:.2g} from the student's; nothing was written")
        os.replace(file, out)
    return Exported(inputs, out.stat().st_size, apart)


@torch.inference_mode()
def _apart(file: Path, wrapped: _Logits, tokenizer: Any, inputs: tuple[str, ...]) -> float | None:
    """How far onnxruntime's logits lie from the student's, on other numbers of rows and tokens than were exported."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime  # type: ignore[import-not-found, import-untyped, unused-ignore]

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    most = 0.0
    for texts in ([TEXTS[0]], [*TEXTS, " ".join(TEXTS)]):
        encoded = tokenizer(texts, padding=True, return_tensors="pt")
        wanted = wrapped(*(encoded[name] for name in inputs))
        found = session.run([*wrapped.outputs], {name: encoded[name].numpy() for name in inputs})
        for one, true in zip(found, wanted, strict=True):
            most = max(most, float((torch.from_numpy(one) - true).abs().max()))
    return most
