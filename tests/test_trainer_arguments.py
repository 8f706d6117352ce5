"""What transformers' Trainer takes: each argument is honoured, or refused by its name before anything runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import student, teacher, trainer
from tiny_data import rows

import kdzoo
from kdzoo.bench.runs.budget import Budget, total_steps, training_arguments
from kdzoo.errors import KdzooError
from kdzoo.objectives.objective import Objective
from kdzoo.objectives.term import Term
from kdzoo.training.arguments import REFUSED, REFUSED_ARGUMENTS

# Fields of TrainingArguments that reach their goal through what the DistillationTrainer inherits or passes on.
HONOURED = """
accelerator_config activation_checkpointing activation_checkpointing_kwargs adam_beta1 adam_beta2 adam_epsilon
average_tokens_across_devices batch_eval_metrics bf16 bf16_full_eval data_seed dataloader_drop_last
dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers dataloader_persistent_workers
dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
ddp_find_unused_parameters ddp_static_graph ddp_timeout debug disable_tqdm do_eval do_predict do_train
enable_jit_checkpoint eval_accumulation_steps eval_delay eval_do_concat_batches eval_on_start eval_steps eval_strategy
eval_use_gather_object fp16 fp16_full_eval fsdp_config full_determinism gradient_accumulation_steps
gradient_checkpointing gradient_checkpointing_kwargs greater_is_better group_by_length hub_always_push hub_model_id
hub_private_repo hub_revision hub_strategy hub_token ignore_data_skip include_for_metrics
include_num_input_tokens_seen jit_mode_eval label_names learning_rate length_column_name liger_kernel_config
load_best_model_at_end local_rank log_level log_level_replica log_on_each_node logging_dir logging_first_step
logging_nan_inf_filter logging_steps logging_strategy lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_steps
metric_for_best_model neftune_noise_alpha num_train_epochs optim optim_args optim_target_modules output_dir
per_device_eval_batch_size per_device_train_batch_size prediction_loss_only project remove_unused_columns report_to
restore_callback_states_from_checkpoint resume_from_checkpoint run_name save_on_each_node save_only_model save_steps
save_strategy save_total_limit seed skip_memory_metrics tf32 torch_compile torch_compile_backend torch_compile_mode
torch_empty_cache_steps trackio_bucket_id trackio_space_id trackio_static_space_id train_sampling_strategy use_cache
use_cpu use_mps_device warmup_ratio warmup_steps weight_decay
"""


def test_every_field_is_known() -> None:
    """One that a new transformers adds is looked at, and put on one of the two lists."""
    from transformers import TrainingArguments

    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert fields - {*HONOURED.split(), *REFUSED} == set()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label_smoothing_factor", 0.3),
        ("use_liger_kernel", True),
        ("auto_find_batch_size", True),
        ("push_to_hub", True),
        ("deepspeed", {"zero_optimization": {"stage": 2}}),
        ("fsdp", "full_shard"),
        ("parallelism_config", object()),
    ],
)
def test_what_cannot_be_honoured_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    args = trainer(tmp_path, "kd").args
    setattr(args, name, value)  # what some of them need is not installed, which transformers says first
    with pytest.raises(KdzooError, match=f"^{name}=.* cannot be honoured: ") as error:
        kdzoo.DistillationTrainer(student(), teacher(), recipe="kd", args=args)
    assert "\n" not in str(error.value)


def test_means_over_one_process_of_several_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import TrainingArguments

    trainer(tmp_path, "kd", average_tokens_across_devices=False)  # one process has no others
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with pytest.raises(KdzooError, match=r"^average_tokens_across_devices=False cannot be honoured: means are over"):
        trainer(tmp_path, "kd", average_tokens_across_devices=False)


@pytest.mark.parametrize("name", sorted(REFUSED_ARGUMENTS))
def test_arguments_of_the_trainer_itself(name: str, tmp_path: Path) -> None:
    with pytest.raises(KdzooError, match=f"^{name}= cannot be honoured: "):
        trainer(tmp_path, "kd", also={name: lambda *_, **__: None})


def test_neftune_noise_is_put_on_the_students_embeddings(tmp_path: Path) -> None:
    logged = []
    for alpha in (None, 5.0, 5.0):
        model = student()
        made = trainer(tmp_path, "kd", model=model, neftune_noise_alpha=alpha, max_steps=1)
        made.train()
        logged.append(made.state.log_history[0]["loss"])
        assert not model.get_input_embeddings()._forward_hooks, "taken off again"
    assert logged[0] != pytest.approx(logged[1]) and logged[1] == logged[2]


def test_an_optimizer_that_leaves_out_the_projections(tmp_path: Path) -> None:
    model = student()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(KdzooError, match=r"leaves out what the objective learns \(losses.embedding_mse.0.projection"):
        trainer(tmp_path, "tinybert", model=model, also={"optimizers": (optimizer, None)})
    made = trainer(tmp_path, "kd", model=model, also={"optimizers": (optimizer, None)}, max_steps=1)
    made.train()
    assert made.optimizer.optimizer is optimizer


def test_the_checkpoint_that_the_arguments_name(tmp_path: Path) -> None:
    trainer(tmp_path, "kd", max_steps=2, save_strategy="steps", save_steps=2).train()
    made = trainer(tmp_path / "other", "kd", max_steps=3, resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    steps = made.train().global_step
    assert steps == 3 and len([entry for entry in made.state.log_history if "loss" in entry]) == 3


def test_torch_compile_gives_the_same_loss(tmp_path: Path) -> None:
    logged = []
    for compiled in (False, True):
        objective = Objective([Term("kd"), Term("hidden_mse"), Term("ce")])
        options = {"torch_compile": True, "torch_compile_backend": "eager"} if compiled else {}
        made = trainer(tmp_path, objective=objective, max_steps=2, **options)
        made.train()
        logged.append([entry["loss"] for entry in made.state.log_history if "loss" in entry])
    assert logged[1] == pytest.approx(logged[0], rel=1e-5)


class Counted(torch.nn.Module):
    """As little as a Trainer trains."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.weight * labels.float().mean()}


@pytest.mark.parametrize(
    ("count", "batch", "accumulation", "epochs"),
    [
        (320, 16, 3, 1.5),
        (200, 16, 1, 0.1),
        (64, 16, 1, 0.5),
        (33, 8, 2, 1),
        (30, 8, 4, 0.01),
        (10, 16, 2, 2.1),
        (70, 7, 1, 1.1),
    ],
)
def test_the_steps_that_are_told_are_those_that_the_trainer_takes(
    count: int, batch: int, accumulation: int, epochs: float, tmp_path: Path
) -> None:
    from transformers import Trainer

    budget = Budget(epochs=epochs, batch_size=batch, gradient_accumulation=accumulation)
    total = total_steps(budget, count)
    data = rows(count).select_columns(["labels", "length"])
    arguments = training_arguments(budget, total, 0, tmp_path, remove_unused_columns=False, save_strategy="no")
    made = Trainer(
        Counted(),
        arguments,
        train_dataset=data,
        data_collator=lambda of: {"labels": torch.tensor([r["labels"] for r in of])},
    )
    made.train()
    assert made.state.global_step == made.state.max_steps == total
