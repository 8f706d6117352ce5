"""What a student is for, once it is trained: ``kdzoo predict`` and ``kdzoo export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdzoo.bench.files import check_file
from kdzoo.bench.runs.budget import MOST_BATCH, MOST_LENGTH
from kdzoo.cli.options import Push, listed, said
from kdzoo.errors import KdzooError

Model = Annotated[Path, typer.Argument(help="The student's folder, as distill, compare or finetune wrote it.")]


def predict(
    student: Model,
    file: Annotated[Path, typer.Argument(help="A table with the text: CSV, TSV, JSONL or Parquet.")],
    text: Annotated[str, typer.Option(help="The text column, or two: a,b; those it was trained on by default.")] = "",
    out: Annotated[
        Path | None, typer.Option(help="The CSV file of the predictions; FILE.predictions.csv by default.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=MOST_BATCH, help="Rows at a time.")] = 32,
    max_length: Annotated[
        int | None, typer.Option(min=2, max=MOST_LENGTH, help="Most tokens a row keeps; what it was trained with.")
    ] = None,
) -> None:
    """Write what a student says of each row of a table: a label, numbers, tags, an answer or a text."""
    from kdzoo.bench.runs.predict_table import predict_file

    out = out or file.with_name(f"{file.name}.predictions.csv")
    check_file(out)
    if out.resolve() == file.resolve():
        raise KdzooError(f"--out is the table {file} itself; name another file")
    written = predict_file(student, file, out, columns=listed(text), batch_size=batch_size, max_length=max_length)
    said(f"{written.rows} predictions of {', '.join(written.columns)}: {out}")
    if written.cut:
        said(f"{written.cut} rows are longer than {written.max_length} tokens, of which the first were read")
    if written.cut_otherwise:
        said(
            "trained on the words of the roles' labeller; here the tokenizer cuts the text by itself, and what it cuts "
            "otherwise may be predicted otherwise than it was scored"
        )


def export(
    student: Model,
    onnx: Annotated[bool, typer.Option("--onnx", help="As an ONNX file, with its inputs of any size.")] = False,
    out: Annotated[Path | None, typer.Option(help="The file; STUDENT/model.onnx by default.")] = None,
    push_to_hub: Push = "",
) -> None:
    """Write a student in a form that runs without PyTorch, checked to give the same; or upload it to the hub."""
    if not onnx and (out is not None or not push_to_hub):
        raise KdzooError("say how to write the student; --onnx is the only form there is")
    from kdzoo.bench.runs.pushing import check_push, push

    if push_to_hub:
        check_push(push_to_hub)
    files = [_onnx(student, out or student / "model.onnx")] if onnx else []
    if push_to_hub:
        said(f"uploaded: {push(student, push_to_hub, *files)}")


def _onnx(student: Path, out: Path) -> Path:
    """Write the ONNX file, and say so."""
    from kdzoo.bench.runs.exporting import export_onnx

    check_file(out)
    exported = export_onnx(student, out)
    size = f"{out} ({exported.bytes / 1e6:.1f} MB; inputs {', '.join(exported.inputs)})"
    checked = (
        f"onnxruntime gives the student's logits, {exported.apart:.1e} apart at most"
        if exported.apart is not None
        else "not run: pip install onnxruntime and export again to have it compared"
    )
    said(f"written: {size}; {checked}")
    return out
