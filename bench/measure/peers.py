"""kdzoo, TextBrewer and torchdistill: the same student, teacher, loss and batches, in one run.

    python -m kdzoo.bench.peers --out peers.json

needs the extra ``peers``. All three train with the cross-entropy of the student to the teacher's soft labels at
temperature 1, where the three libraries' conventions agree in the gradient, with the same AdamW and clipping. They take
turns, and of each the shortest of several runs counts, from the first batch to the last. kdzoo runs twice a turn: with
the live teacher, and with a warm cache.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from datasets import Dataset
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from kdzoo.bench.columns import Columns
from kdzoo.bench.files import write_atomically
from kdzoo.bench.measure.throughput import stacked
from kdzoo.bench.progress import Progressed, progress
from kdzoo.bench.runs.budget import silent_arguments
from kdzoo.bench.runs.train import quiet
from kdzoo.bench.timing import device_name, versions
from kdzoo.errors import KdzooError
from kdzoo.models.students import make_student
from kdzoo.models.teachers import model_of_size
from kdzoo.objectives.objective import Objective
from kdzoo.objectives.term import Term
from kdzoo.training.cache import TeacherCache
from kdzoo.training.trainer import DistillationTrainer

PEERS = ("textbrewer", "torchdistill")
RATE, NORM = 5e-5, 1.0
LABELS = 2


class Setting:
    """What all libraries are given.

    Attributes:
        teacher: the same object for all.
        rows: a data set of token ids of one length.
        batch_size: rows a step; the batches come in the rows' order.
        student: makes the student, with the same weights each time.
    """

    def __init__(self, teacher: str, student: str, rows: int, batch_size: int, length: int) -> None:
        torch.manual_seed(0)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.teacher = model_of_size(teacher, positions=length, num_labels=LABELS).to(self.device)
        # The student takes these over: without dropout all libraries arrive at the same weights.
        self.teacher.config.hidden_dropout_prob = self.teacher.config.attention_probs_dropout_prob = 0.0
        ids = torch.randint(5, self.teacher.config.vocab_size, (rows, length))
        columns = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % LABELS}
        self.rows = Dataset.from_dict(
            {name: values.tolist() for name, values in columns.items()}
            | {"sample_ids": list(range(rows)), "length": [length] * rows}
        )
        self.batch_size = batch_size
        self.student: Callable[[], PreTrainedModel] = lambda: make_student(student, self.teacher).to(self.device)

    def batches(self) -> DataLoader[Any]:
        """For a library that has no data loader of its own."""
        inputs = self.rows.select_columns(["input_ids", "attention_mask"])
        return DataLoader(inputs, batch_size=self.batch_size, collate_fn=stacked)


def with_kdzoo(setting: Setting, folder: Path, cache: TeacherCache | None = None) -> tuple[float, Tensor]:
    """Seconds of an epoch, and a weight of the student after it."""
    arguments = silent_arguments(
        folder,
        setting.batch_size,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=NORM,
        save_strategy="no",
        logging_strategy="no",
    )
    student = setting.student()
    trainer = DistillationTrainer(
        model=student,
        teacher=setting.teacher,
        objective=Objective([Term("soft_ce", temperature=1.0)]),
        cache=cache,
        args=arguments,
        train_dataset=setting.rows,
        data_collator=stacked,
        optimizers=(_optimizer(student), None),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock := _Clock())
    _, weights = _timed(setting, trainer.train, student)
    return clock.seconds, weights


def with_textbrewer(setting: Setting, folder: Path) -> tuple[float, Tensor]:
    """The same with TextBrewer's GeneralDistiller."""
    import textbrewer

    def adaptor(batch: Any, output: Any) -> dict[str, Any]:
        return {"logits": output.logits}

    student = setting.student().train()
    distiller = textbrewer.GeneralDistiller(
        train_config=textbrewer.TrainingConfig(
            output_dir=str(folder), log_dir=None, ckpt_frequency=0, device=str(setting.device)
        ),
        distill_config=textbrewer.DistillationConfig(
            temperature=1.0, kd_loss_type="ce", kd_loss_weight=1.0, hard_label_weight=0.0
        ),
        model_T=setting.teacher,
        model_S=student,
        adaptor_T=adaptor,
        adaptor_S=adaptor,
    )
    distiller.save_and_callback = lambda *_, **__: None  # no checkpoint in the others either
    optimizer, batches = _optimizer(student), setting.batches()

    def train() -> None:
        with distiller:
            distiller.train(optimizer, batches, num_epochs=1, max_grad_norm=NORM)

    return _timed(setting, train, student)


def with_torchdistill(setting: Setting, folder: Path) -> tuple[float, Tensor]:
    """The same with torchdistill's distillation box."""
    from torchdistill.core.distillation import get_distillation_box

    hook = {"forward_hook": {"input": [], "output": ["classifier"]}, "forward_proc": "forward_batch_only_as_kwargs"}
    paths = {"student_module_path": "classifier", "teacher_module_path": "classifier"}
    io = {"student_module_io": "output", "teacher_module_io": "output"}
    soft = {"key": "KDLoss", "kwargs": {**paths, **io, "temperature": 1.0, "alpha": None, "beta": 1.0}}
    config = {
        "num_epochs": 1,
        "teacher": {**hook, "requires_grad": False},
        "student": hook,
        "optimizer": {
            "key": "AdamW",
            "kwargs": {"lr": RATE, "weight_decay": 0.0, "fused": True},
            "max_grad_norm": NORM,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": soft, "weight": 1.0}}},
            "func2extract_model_loss": "extract_model_loss_dict",
        },
    }
    student = setting.student().train()
    box = get_distillation_box(setting.teacher, student, {}, config, setting.device, None, False, 1.0)
    batches = setting.batches()

    def train() -> None:
        for batch in batches:
            given = {name: value.to(setting.device) for name, value in batch.items()}
            box.pre_forward_process()
            box.post_forward_process(loss=box.forward_process(given, targets=None, supp_dict=None))

    found = _timed(setting, train, student)
    box.clean_modules()
    return found


def check_installed() -> None:
    """Refuse to begin without the other libraries.

    Raises:
        KdzooError: names those that are missing.
    """
    if missing := [name for name in PEERS if find_spec(name) is None]:
        raise KdzooError(f"{' and '.join(missing)} must be installed to compare with: pip install 'kdzoo[peers]'")


def measure_peers(setting: Setting, rounds: int, progressed: Progressed) -> dict[str, Any]:
    """Seconds of an epoch of each, and how far the students' weights lie apart after it.

    Args:
        setting: what all are given.
        rounds: runs of each.
        progressed: told how many runs are done.

    Returns:
        ``seconds`` by library, all runs; ``apart``, the largest difference of a weight to kdzoo's.
    """
    quiet()
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(scratch)
        cache = TeacherCache(folder / "cache")
        with_kdzoo(setting, folder, cache)  # warms it
        ways: dict[str, Callable[[], tuple[float, Tensor]]] = {
            "kdzoo": lambda: with_kdzoo(setting, folder),
            "kdzoo, warm cache": lambda: with_kdzoo(setting, folder, cache),
            "textbrewer": lambda: with_textbrewer(setting, folder),
            "torchdistill": lambda: with_torchdistill(setting, folder),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        weights: dict[str, Tensor] = {}
        for _ in range(rounds):
            for name, way in ways.items():
                taken, weights[name] = way()
                seconds[name].append(taken)
                progressed(sum(map(len, seconds.values())), rounds * len(ways))
    apart = {name: float((weight - weights["kdzoo"]).abs().max()) for name, weight in weights.items()}
    return {"seconds": seconds, "apart": apart}


def peers_columns(record: dict[str, Any]) -> Columns:
    """The table of a record: each library at its fastest."""
    rows = record["setting"]["rows"]
    best = {name: min(values) for name, values in record["seconds"].items()}
    body = [[name, f"{rows / taken:.1f}", f"{taken / best['kdzoo']:.2f}"] for name, taken in best.items()]
    return Columns(("library", "rows/s", "its time over kdzoo's"), body)


class _Clock(TrainerCallback):
    """The time of a Trainer's loop; once before it, some tenths of a second, accelerate collects garbage."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._start = time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._start


def _optimizer(student: PreTrainedModel) -> torch.optim.Optimizer:
    return torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.0, fused=True)


def _timed(setting: Setting, train: Callable[[], Any], student: PreTrainedModel) -> tuple[float, Tensor]:
    before = time.perf_counter()
    train()
    if setting.device.type == "cuda":
        torch.cuda.synchronize()
    taken = time.perf_counter() - before
    return taken, next(p for name, p in student.named_parameters() if name.endswith("classifier.weight")).detach().cpu()


def main(
    out: Annotated[Path, typer.Option(help="A JSON file for the figures.")] = Path("runs/peers.json"),
    teacher: Annotated[str, typer.Option(help="The teacher's size.")] = "6x384,heads=12",
    student: Annotated[str, typer.Option(help="The student's size, or teacher:1,3,5.")] = "4x312,heads=12,ffn=1200",
    rows: Annotated[int, typer.Option(min=1, help="Training rows.")] = 128,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a step.")] = 32,
    length: Annotated[int, typer.Option(min=2, help="Tokens a row.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each library.")] = 4,
) -> None:
    """Measure the three libraries on the same training."""
    check_installed()
    sizes = {"teacher": teacher, "student": student, "rows": rows, "batch_size": batch_size, "length": length}
    with progress(Console(stderr=True), "measuring", unit="runs") as progressed:
        measured = measure_peers(Setting(**sizes), rounds, progressed)  # type: ignore[arg-type]
    about = {"rounds": rounds, "device": device_name(), "versions": versions(*PEERS)}
    record = {"setting": {**sizes, **about}, **measured}
    write_atomically(out, json.dumps(record, indent=1) + "\n")
    typer.echo(peers_columns(record).markdown())
    typer.echo(f"largest difference of a weight to kdzoo's: {record['apart']}\nrecord: {out}")


def command() -> None:
    """The command line; a `KdzooError` is one line and exit status 2."""
    try:
        typer.run(main)
    except KdzooError as error:
        print(f"kdzoo: {error}", file=sys.stderr)
        sys.exit(2)
