"""Two processes on gloo give the gradients of one: whole objectives through the trainer and accelerate's DDP."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

TESTS = Path(__file__).parent
ROWS, STEPS, PER_PROCESS = 16, 2, 4
CASES: dict[str, dict[str, Any]] = {
    "none": {"recipe": "none"},
    "kd": {"recipe": "kd"},
    "pkd": {"recipe": "pkd"},
    "tinybert": {"recipe": "tinybert"},
    "crd": {"recipe": "crd"},
    "crd_batch": {"terms": ["ce", {"loss": "crd", "bank": "batch", "weight": 0.8}]},
    "crd_queue": {"terms": ["ce", {"loss": "crd", "bank": "queue", "num_samples": 12, "num_negatives": 5}]},
    "lrc": {"recipe": "lrc"},
    "info_nce_cls": {"terms": ["ce", {"loss": "info_nce", "symmetric": True}]},
    "info_nce_tokens": {"terms": [{"loss": "info_nce", "feature": "hidden", "temperature": 0.5}]},
} | {
    f"info_nce_{norm}": {
        "terms": [{"loss": "info_nce", "symmetric": True, "temperature": 0.5}],
        "perturbation": {"norm": norm},
    }
    for norm in ("tensor", "sample", "token")
}
PERTURBED = {"lrc": "tensor"} | {f"info_nce_{norm}": norm for norm in ("tensor", "sample", "token")}


def run(case: dict[str, Any], folder: Path, batch_size: int) -> dict[str, Any]:
    """What two steps of a case give: gradients by step and parameter, perturbations, ids, logs and the end state."""
    from test_trainer import arguments, callback, student, teacher
    from tiny_data import collate, rows

    import kdzoo
    import kdzoo.training.distiller
    from kdzoo.objectives.recipe import Recipe

    if "recipe" in case:
        recipe = Recipe.load(case["recipe"])
    else:
        terms = [{"loss": term} if isinstance(term, str) else term for term in case["terms"]]
        recipe = Recipe.parse({"name": "case", "stages": [{"terms": terms}], "perturbation": case.get("perturbation")})
    found: dict[str, Any] = {"gradients": [], "perturbations": [], "ids": []}

    def keep(args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        found["gradients"].append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    perturb = kdzoo.training.distiller.gradient_perturbation

    def watched(*arguments: Any, **options: Any) -> Any:
        found["perturbations"].append(perturb(*arguments, **options))
        return found["perturbations"][-1]

    class Fixed(kdzoo.DistillationTrainer):  # type: ignore[misc, valid-type]
        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            found["ids"].append(inputs["sample_ids"].clone())
            return super().compute_loss(model, inputs, *rest, **more)

    def drawn(high: int, shape: tuple[int, int], device: Any = None) -> torch.Tensor:
        """CRD's negatives: other ones for each row, the same ones however the rows are spread over processes."""
        row = torch.arange(shape[0]) + shape[0] * int(os.environ.get("RANK", 0))
        return (3 * row[:, None] + torch.arange(shape[1])) % high

    made = Fixed(
        model=student(),
        teacher=teacher(),
        recipe=recipe,
        args=arguments(
            folder,
            max_steps=STEPS,
            per_device_train_batch_size=batch_size,
            train_sampling_strategy="sequential",
            max_grad_norm=0.0,
            learning_rate=1e-3,
            optim="sgd",
            **({"ddp_backend": "gloo"} if "RANK" in os.environ else {}),
        ),
        train_dataset=rows(ROWS),
        data_collator=collate,
        callbacks=[callback(on_pre_optimizer_step=keep)],
    )
    randint, torch.randint = torch.randint, drawn  # type: ignore[assignment]
    kdzoo.training.distiller.gradient_perturbation = watched
    try:
        made.train()
    finally:
        kdzoo.training.distiller.gradient_perturbation = perturb
        torch.randint = randint
    found["wrapped"] = type(made.model_wrapped).__name__
    found["logs"] = [{k: v for k, v in log.items() if k.startswith("loss")} for log in made.state.log_history[:STEPS]]
    found["end"] = {name: value.clone() for name, value in made.model.state_dict().items()}
    return found


def skipped() -> dict[str, Any]:
    """What each norm makes of a gradient that is no number in the last process alone; by norm."""
    from kdzoo.distributed import launched
    from kdzoo.training.perturbation import NORMS, gradient_perturbation

    rank, processes = launched()
    found = {}
    for norm in NORMS:
        embedding = torch.ones(2, 3, 4, requires_grad=True)
        factor = float("inf") if rank == processes - 1 else 1.0
        found[norm] = gradient_perturbation(embedding.sum() * factor, embedding, norm=norm)
    return found


def run_all(folder: Path, batch_size: int) -> dict[str, dict[str, Any]]:
    torch.set_num_threads(1)
    return {name: run(case, folder / name, batch_size) for name, case in CASES.items()} | {"skipped": skipped()}


def _free_port() -> int:
    """One below those that systems give to whoever asks for any, so that nobody takes it before it is used."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All cases in one process on whole batches, and in two processes on halves, started by torchrun."""
    folder = tmp_path_factory.mktemp("distributed")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "true"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, __file__, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    two = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    return run_all(folder / "one", 2 * PER_PROCESS), two


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_gradients_of_one(name: str, outcomes: Any) -> None:
    one, (first, second) = outcomes[0][name], (rank[name] for rank in outcomes[1])
    assert (one["wrapped"], first["wrapped"]) == ("Distiller", "DistributedDataParallel")
    for step in range(STEPS):
        halves = first["ids"][step].tolist(), second["ids"][step].tolist()
        assert len(halves[0]) == len(halves[1]) == PER_PROCESS and [*halves[0], *halves[1]] == one["ids"][step].tolist()
        whole = one["gradients"][step]
        for half in (first, second):
            missing = whole.keys() - half["gradients"][step].keys()
            assert not any(whole[n].abs().sum() > 0 for n in missing)
            for parameter, gradient in half["gradients"][step].items():
                expected = whole.get(parameter, torch.zeros_like(gradient))
                torch.testing.assert_close(gradient, expected, rtol=2e-4, atol=1e-6, msg=lambda m, p=parameter: p + m)
        assert first["logs"][step] == pytest.approx(one["logs"][step], rel=1e-4, abs=1e-6)
    assert any(gradient.abs().max() > 0 for gradient in whole.values())
    for half in (first, second):
        for entry, value in half["end"].items():
            torch.testing.assert_close(value, one["end"][entry], rtol=2e-4, atol=2e-6, msg=lambda m, e=entry: e + m)


@pytest.mark.parametrize("name", PERTURBED)
def test_the_perturbation_is_that_of_one_process(name: str, outcomes: Any) -> None:
    """Each process takes the gradient of its own loss: the whole one's times the number of processes, which the
    normalisation takes out again; what other processes do with a row comes back through the gathering."""
    one, halves = outcomes[0][name], [rank[name] for rank in outcomes[1]]
    over = {"tensor": (0, 1, 2), "sample": (1, 2), "token": 2}[PERTURBED[name]]
    for step, whole in enumerate(one["perturbations"]):
        assert torch.linalg.vector_norm(whole, dim=over).max() == pytest.approx(1, abs=1e-5)
        for rank, half in enumerate(halves):
            part = half["perturbations"][step]
            own = whole[rank * PER_PROCESS : (rank + 1) * PER_PROCESS]
            torch.testing.assert_close(part, own[:, : part.shape[1]], rtol=1e-3, atol=1e-5)
            assert not own[:, part.shape[1] :].any(), "only padding is cut off"
            assert part.any()


def test_a_gradient_that_is_no_number_in_one_process_perturbs_none(outcomes: Any) -> None:
    for rank in outcomes[1]:
        assert rank["skipped"].keys() == {"tensor", "sample", "token"}
        for norm, perturbation in rank["skipped"].items():
            assert perturbation.shape == (2, 3, 4) and not perturbation.any(), norm


def test_the_halves_are_padded_to_different_lengths(outcomes: Any) -> None:
    """Without this the tests above would not see what padding does between processes."""
    first, second = (rank["lrc"]["perturbations"] for rank in outcomes[1])
    assert any(a.shape[1] != b.shape[1] for a, b in zip(first, second, strict=True))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_line_in_two_processes(tmp_path: Path) -> None:
    import json

    from command_line import ROWS, TEACHER
    from transformers import AutoModelForSequenceClassification

    from kdzoo.tasks import get_task, load
    from kdzoo.tasks.synthetic.tokenizer import synthetic_tokenizer

    launchers = {
        None: [],
        "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"],
        "accelerate": [
            "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
            "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(_free_port()), "-m",
        ],
    }  # fmt: skip

    def started(*arguments: str, by: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        command = [sys.executable, "-m", *launchers[by], "kdzoo", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)

    rows = (*ROWS[:2], "--validation-rows", "33", *ROWS[4:])  # an odd number, which the processes cannot share evenly
    assert started("finetune", "--task", "stsb", "--model", TEACHER, *rows, "--out", "teacher").returncode == 0
    distill = ("distill", "--task", "stsb", "--teacher", "teacher", *rows, "--batch-size", "8", "--out", "student")
    refused = started(*distill, "--method", "kdd", by="torchrun")
    assert refused.returncode and refused.stderr.count("kdzoo: unknown recipe 'kdd'") == 1

    ran = started(*distill, "--method", "kd", "--student", "1x16,heads=2", by="accelerate")
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.splitlines()) == 1 and "the model is in student" in ran.stdout, ran.stdout
    record = json.loads((tmp_path / "student" / "record.json").read_text())
    assert record["steps"] == 4, "eight rows a step and process"
    # The predictions are those of the model that was written, in the rows' order.
    task, tokenizer = get_task("stsb"), synthetic_tokenizer()
    validation = task.encode(load(task, "synthetic", train_rows=64, validation_rows=33)["validation"], tokenizer, 64)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student").eval()
    batch = task.collator(tokenizer)([validation[index] for index in range(33)])
    taken = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
    with torch.no_grad():
        logits = model(**taken).logits
    assert record["predictions"]["validation"] == pytest.approx(task.predictions(logits.numpy()).tolist(), abs=1e-4)
    assert len(set(record["predictions"]["validation"])) > 30, "the order can be seen"
    assert started(*distill, "--method", "kd", "--student", "1x16,heads=2").stdout == ran.stdout, "it is done"


if __name__ == "__main__":
    sys.path.insert(0, str(TESTS))
    target = Path(sys.argv[1])
    torch.save(run_all(target / "two", PER_PROCESS), target / f"rank{os.environ['RANK']}.pt")
