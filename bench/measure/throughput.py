"""Throughput without training to convergence: what a step of each method costs, and what inference does."""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from kdzoo.bench.columns import Columns
from kdzoo.bench.files import write_atomically
from kdzoo.bench.runs.budget import MOST_BATCH, MOST_LENGTH, Budget, Precision, check_precision, silent_arguments
from kdzoo.bench.runs.evaluate import INFERENCE
from kdzoo.bench.runs.train import quiet
from kdzoo.bench.timing import device_name, forward_flops, forward_speed, peak_memory, reset_peak_memory, versions
from kdzoo.errors import KdzooError, KdzooWarning, unknown
from kdzoo.models.decoders import check_decoder, decoder_positions
from kdzoo.models.heads import has_decoder, longest_row, stack_config, vocabulary_size
from kdzoo.models.loading import load_model
from kdzoo.models.shape import LABELS as SEVERAL
from kdzoo.models.shape import NUMBERS
from kdzoo.models.spec import ModelSpec
from kdzoo.models.students import make_student
from kdzoo.models.teachers import model_of_size
from kdzoo.objectives.expression import split_methods
from kdzoo.objectives.overrides import load_recipes
from kdzoo.objectives.recipe import Recipe
from kdzoo.tasks import Head
from kdzoo.tasks.decoding import Decoding
from kdzoo.training.cache import PRECISIONS, TeacherCache
from kdzoo.training.stopwatch import PARTS
from kdzoo.training.trainer import DistillationTrainer

LABELS = 3  # where no model has a head
EPOCH = 8  # batches of training rows; a loss that keeps a bank has a bank of these
LEAST_WRITTEN = 2  # tokens that a model which writes is given, see `Decoding`


@dataclass(frozen=True)
class Measured:
    """One method at one batch size and length; stages weigh as much as they have steps.

    Attributes:
        method: its name.
        teacher: ``"live"``, ``"cache"`` for a warm cache, or empty for a method without one.
        batch_size, length: B rows of S tokens.
        samples_per_second, tokens_per_second: of training; the median over the repeats.
        spread: highest over lowest of the repeats' step times.
        step_seconds: mean seconds of a step by part (`kdzoo.training.stopwatch.PARTS`), the median over the repeats.
        peak_memory: bytes in a training, of the device, or of the process on a CPU.
    """

    method: str
    teacher: str
    batch_size: int
    length: int
    samples_per_second: float
    tokens_per_second: float
    spread: float
    step_seconds: dict[str, float]
    peak_memory: int


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        methods: recipes.
        teacher, student: sizes, folders or hub names; a student also as ``teacher:0,2``.
        batch_sizes, lengths: every one with every other.
        steps: of a repeat; ``warmup`` come before the first.
        repeats: that medians are taken over.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
    """

    methods: Sequence[Recipe]
    teacher: ModelSpec
    student: ModelSpec
    batch_sizes: Sequence[int]
    lengths: Sequence[int]
    steps: int
    warmup: int
    repeats: int
    precision: Precision

    @classmethod
    def of(
        cls, methods: str, overrides: Sequence[str], *, batch_sizes: Sequence[str], lengths: Sequence[str], **given: Any
    ) -> Request:
        """A request from a command line's texts.

        Raises:
            KdzooError: for an unknown method, or a batch size or length that is no whole number above 0.
        """
        for name, texts, most in (("batch size", batch_sizes, MOST_BATCH), ("length", lengths, MOST_LENGTH)):
            for text in texts:
                if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= most:
                    raise KdzooError(f"the {name} {text!r} is no whole number from 1 to {most}")
        if given["precision"] not in PRECISIONS:
            raise unknown("precision", given["precision"], PRECISIONS)
        check_precision(Budget(precision=given["precision"]))
        recipes = load_recipes(split_methods(methods), overrides, training="none")
        given |= {side: ModelSpec.parse(given[side]) for side in ("teacher", "student")}
        return cls(tuple(recipes.values()), batch_sizes=_integers(batch_sizes), lengths=_integers(lengths), **given)

    @property
    def total(self) -> int:
        """How many results there are."""
        kinds = sum(2 if recipe.needs_teacher else 1 for recipe in self.methods)
        return kinds * len(self.batch_sizes) * len(self.lengths)


def _integers(texts: Sequence[str]) -> tuple[int, ...]:
    return tuple(int(text) for text in texts)


_HEAD = Head("AutoModelForSequenceClassification", {})
_WRITER = Head("AutoModelForSeq2SeqLM", {})


class _Fixed(DistillationTrainer):
    """Stays at one time of a recipe, so that a stage is measured alone."""

    at = 0.0

    @property
    def progress(self) -> float:
        return self.at


class _Repeats(TrainerCallback):
    """Reads the stopwatch after the warm-up and after each repeat."""

    def __init__(self, trainer: DistillationTrainer, request: Request) -> None:
        self._stopwatch, self._request = trainer.stopwatch, request
        self.readings: list[dict[str, float]] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        reset_peak_memory()  # a cache is warm now

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        since = state.global_step - self._request.warmup
        if since >= 0 and since % self._request.steps == 0:
            self.readings.append(self._stopwatch.seconds)
            self._stopwatch.start()


def measure_methods(request: Request) -> tuple[dict[str, Any], Iterator[Measured]]:
    """Measure each method with the live teacher, and once more from a warm cache where it needs a teacher.

    Returns:
        The setting, both models' sizes and inference among it, and the results as they come.

    Raises:
        KdzooError: where a model cannot be made, or a method does not work on it.
    """
    quiet()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = _teacher(request).to(device)
    student = make_student(request.student, teacher)
    for name, model in ((request.teacher, teacher), (request.student, student)):
        bounds = (longest_row(model), decoder_positions(model) if has_decoder(model) else None)
        positions = min((bound for bound in bounds if bound), default=max(request.lengths))
        if max(request.lengths) > positions:
            raise KdzooError(f"the length is {max(request.lengths)}; {name} takes at most {positions} tokens")
        if has_decoder(model):
            check_decoder(model, str(name), max(min(request.lengths), LEAST_WRITTEN))
    for recipe in request.methods:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore", KdzooWarning)
            recipe.objective().bind(student, teacher, num_samples=EPOCH * max(request.batch_sizes))
    setting = {
        "teacher": str(request.teacher),
        "student": str(request.student),
        "steps": request.steps,
        "warmup": request.warmup,
        "repeats": request.repeats,
        "precision": request.precision,
        "models": {
            name: {
                "parameters": sum(p.numel() for p in model.parameters()),
                "by_length": {str(length): _inference(model.to(device), length) for length in request.lengths},
            }
            for name, model in (("teacher", teacher), ("student", student))
        },
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "versions": versions("transformers"),
    }
    if has_decoder(student):
        setting["decoding"] = f"decoding of as many tokens as a row has, beam {Decoding().beam}"
    return setting, _results(request, teacher)


def _results(request: Request, teacher: PreTrainedModel) -> Iterator[Measured]:
    with tempfile.TemporaryDirectory() as folder:
        for length in request.lengths:
            for batch_size in request.batch_sizes:
                for recipe in request.methods:
                    for source in ("live", "cache") if recipe.needs_teacher else ("",):
                        yield _measured(request, recipe, teacher, batch_size, length, source, Path(folder))


def write_throughput(path: Path, setting: dict[str, Any], results: Sequence[Measured]) -> None:
    """Write a record that `read_throughput` reads."""
    record = {"setting": setting, "throughput": [asdict(result) for result in results]}
    write_atomically(path, json.dumps(record, indent=1) + "\n")


def read_throughput(record: dict[str, Any]) -> tuple[dict[str, Any], list[Measured]]:
    """The setting and the results of what `write_throughput` wrote."""
    return record["setting"], [Measured(**result) for result in record["throughput"]]


def throughput_columns(setting: dict[str, Any], results: Sequence[Measured]) -> list[Columns]:
    """Two tables: training, and the two models' size and inference."""
    return [_training_columns(setting, results), _inference_columns(setting)]


def _training_columns(setting: dict[str, Any], results: Sequence[Measured]) -> Columns:
    title = f"Training, {setting['precision']}, medians over {setting['repeats']} times {setting['steps']} steps; "
    title += f"'to none' is the time of a step over plain fine-tuning's; {setting['device']}"
    head = ["method", "teacher", "batch", "length", "rows/s", "tokens/s", "to none", *(f"{p}, ms" for p in PARTS), "MB"]
    plain = {(r.batch_size, r.length): r for r in results if r.method == "none"}
    body = []
    for r in results:
        base = plain.get((r.batch_size, r.length))
        body.append(
            [
                r.method,
                r.teacher,
                str(r.batch_size),
                str(r.length),
                f"{r.samples_per_second:.1f}",
                f"{r.tokens_per_second:.0f}",
                "" if base is None else f"{base.samples_per_second / r.samples_per_second:.2f}",
                *(f"{1e3 * r.step_seconds[part]:.1f}" for part in PARTS),
                f"{r.peak_memory / 1e6:.0f}",
            ]
        )
    return Columns(head, body, title, names=2)


def _inference_columns(setting: dict[str, Any]) -> Columns:
    columns = [f"batch {size}, {what}" for size in INFERENCE for what in ("ms", "rows/s")]
    head = ["model", "parameters", "length", "GFLOP a row", *columns]
    body = []
    for name, model in setting["models"].items():
        for length, found in model["by_length"].items():
            speeds = [found["inference"][str(size)] for size in INFERENCE]
            cells = [text for s in speeds for text in (f"{s['latency_ms']:.2f}", f"{s['rows_per_second']:.1f}")]
            size = f"{model['parameters'] / 1e6:.2f} M"
            body.append([f"{name} {setting[name]}", size, length, f"{found['flops'] / 1e9:.2f}", *cells])
    return Columns(head, body, f"Inference: {setting['decoding']}" if "decoding" in setting else "Inference")


def _teacher(request: Request) -> Any:
    teacher = request.teacher
    heads = [model.config.num_labels for model in (teacher, request.student) if model.has_head(_HEAD)]
    labels = next(iter(heads), LABELS)
    if teacher.path is None:
        return model_of_size(teacher, positions=max(request.lengths), num_labels=labels)
    if teacher.has_head(_WRITER):
        return load_model(teacher.path, head=_WRITER.auto_class)
    return load_model(teacher.path, labels)


def _labels(config: Any, ids: torch.Tensor) -> torch.Tensor:
    """Labels of the kind that the model's head is for: classes, several labels a row, or one or more numbers."""
    width = int(config.num_labels or LABELS)
    if width > 1 and config.problem_type in (SEVERAL, NUMBERS):
        return ((ids[:, :1] + torch.arange(width)) % 2).float()
    return ids[:, 0] % width if width > 1 else (ids[:, 0] % LABELS).float()


def _inference(model: Any, length: int) -> dict[str, Any]:
    found = {}
    for size, repeats in INFERENCE.items():
        ids = _ids(model, size, length)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        run = partial(model, **inputs)
        if has_decoder(model):  # a decoding is as many forward passes as tokens
            most = max(length, LEAST_WRITTEN)
            run = partial(Decoding(min_length=most - 1, max_target=most).generate, model, inputs)
            repeats = max(repeats // 3, 1)
        found[str(size)] = forward_speed(model, run, size, repeats)
    return {"flops": forward_flops(model, length), "inference": found}


def _ids(model: Any, rows: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    # Of two stacks each may read words of its own, and one that reads a pretrained model reads that model's.
    source = getattr(model.config, "source", None) or {}
    sizes = (vocabulary_size(model.config), stack_config(model.config).vocab_size, source.get("vocab_size"))
    return torch.randint(5, min(size for size in sizes if size), (rows, length), generator=generator).to(model.device)


def _measured(
    request: Request,
    recipe: Recipe,
    teacher: PreTrainedModel,
    batch_size: int,
    length: int,
    source: str,
    folder: Path,
) -> Measured:
    """One method; each of its stages is measured alone, in the middle of it."""
    seconds: list[dict[str, float]] = [dict.fromkeys(PARTS, 0.0) for _ in range(request.repeats)]
    most = 0
    teacher.cpu()  # the trainer has it on the device while it runs
    for start, end, _ in recipe.spans():
        stage, peak = _stage(request, recipe, teacher, batch_size, length, (start + end) / 2, source, folder)
        most = max(most, peak)
        for total, own in zip(seconds, stage, strict=True):
            for part in PARTS:
                total[part] += (end - start) * own[part]
    steps = [sum(parts.values()) for parts in seconds]
    middle = median(steps)
    return Measured(
        method=recipe.name,
        teacher=source,
        batch_size=batch_size,
        length=length,
        samples_per_second=batch_size / middle,
        tokens_per_second=batch_size * length / middle,
        spread=max(steps) / min(steps),
        step_seconds={part: median(parts[part] for parts in seconds) for part in PARTS},
        peak_memory=most,
    )


def _stage(
    request: Request,
    recipe: Recipe,
    teacher: PreTrainedModel,
    batch_size: int,
    length: int,
    at: float,
    source: str,
    folder: Path,
) -> tuple[list[dict[str, float]], int]:
    """The mean seconds of a step by part, a repeat each, and the most bytes held."""
    steps = request.warmup + request.steps * request.repeats
    rows = batch_size * min(steps, EPOCH)
    ids = _ids(teacher, rows, length).cpu()
    dataset = Dataset.from_dict(
        {
            "input_ids": ids.tolist(),
            "attention_mask": torch.ones_like(ids).tolist(),
            "labels": (ids if has_decoder(teacher) else _labels(teacher.config, ids)).tolist(),
            "sample_ids": list(range(rows)),
            "length": [length] * rows,
        }
    )
    arguments = silent_arguments(
        folder, batch_size, request.precision, max_steps=steps, logging_strategy="no", save_strategy="no"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", KdzooWarning)
        trainer = _Fixed(
            model=make_student(request.student, teacher),
            teacher=teacher if recipe.needs_teacher else None,
            recipe=recipe,
            cache=TeacherCache(folder / "cache") if source == "cache" else None,
            args=arguments,
            train_dataset=dataset,
            data_collator=stacked,
        )
        trainer.at = at
        trainer.pop_callback(PrinterCallback)
        laps = _Repeats(trainer, request)
        trainer.add_callback(laps)
        trainer.train()
        peak = peak_memory()
    readings = [np.array([reading[part] for part in PARTS]) for reading in laps.readings]
    return [dict(zip(PARTS, ((b - a) / request.steps).tolist(), strict=True)) for a, b in pairwise(readings)], peak


def stacked(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of rows of one length."""
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0] if name != "length"}
