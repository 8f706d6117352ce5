"""Wrappers around the student are seen through: PEFT, torch.compile, DistributedDataParallel, DataParallel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_trainer import state, student, teacher, trainer
from tiny_data import rows
from tiny_models import batch
from torch import nn

from kdzoo.errors import KdzooError
from kdzoo.models.activations import Needs, capture
from kdzoo.models.heads import savable, unwrap


def lora(model: Any) -> Any:
    peft = pytest.importorskip("peft")
    adapters = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return peft.get_peft_model(model, adapters)


def compiled(model: Any) -> Any:
    return torch.compile(model, backend="eager")


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def losses(made: Any) -> list[dict[str, float]]:
    made.train()
    return [{k: v for k, v in e.items() if k.startswith("loss")} for e in made.state.log_history if "loss" in e]


WRAPPERS: dict[str, Callable[[Any], Any]] = {"compile": compiled, "data_parallel": nn.DataParallel}


@pytest.mark.parametrize(
    ("recipe", "wrapper"),
    [
        *product(["kd", "tinybert"], ["data_parallel", "ddp"]),
        ("kd", "compile"),
        pytest.param("tinybert", "compile", marks=pytest.mark.slow),  # to compile it takes a while
    ],
)
def test_the_losses_are_those_of_the_plain_student(
    wrapper: str, recipe: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    plain = losses(trainer(tmp_path / "plain", recipe, max_steps=3))
    if wrapper == "ddp":
        request.getfixturevalue("one_process")
        WRAPPERS["ddp"] = nn.parallel.DistributedDataParallel
    model = WRAPPERS[wrapper](student())
    made = trainer(tmp_path / "wrapped", recipe, model=model, max_steps=3, save_strategy="steps", save_steps=2)
    for found, expected in zip(losses(made), plain, strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    kept = load_file(tmp_path / "wrapped" / "checkpoint-2" / "model.safetensors")
    assert kept.keys() == student().state_dict().keys()
    resumed = trainer(tmp_path / "wrapped", recipe, model=student(seed=9), max_steps=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "wrapped" / "checkpoint-2"))
    for name, value in savable(made.model.student).state_dict().items():
        torch.testing.assert_close(resumed.student.state_dict()[name], value)


def test_fresh_adapters_change_nothing(tmp_path: Path) -> None:
    """LoRA's second factor starts at zero, so that the first loss is the plain student's, token types included."""
    plain = losses(trainer(tmp_path, "tinybert", max_steps=1))
    found = losses(trainer(tmp_path, "tinybert", model=lora(student()), max_steps=1))
    assert found[0] == pytest.approx(plain[0], rel=1e-5)


def test_adapters_are_trained_saved_and_resumed(tmp_path: Path) -> None:
    from peft import PeftModel

    saving = {"save_strategy": "steps", "save_steps": 2}
    straight = trainer(tmp_path / "a", "pkd", model=lora(student()), max_steps=4, **saving)
    base = {name: value.clone() for name, value in student().state_dict().items()}
    straight.train()
    files = {path.name for path in (tmp_path / "a" / "checkpoint-2").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "objective.safetensors"} <= files
    assert "model.safetensors" not in files
    second = trainer(tmp_path / "b", "pkd", model=lora(student()), max_steps=4)
    for name, parameter in second.model.named_parameters():
        if "lora" in name:
            parameter.data.add_(1.0)
    second.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    for name, value in state(straight).items():
        torch.testing.assert_close(state(second)[name], value, msg=name)

    straight.save_model(str(tmp_path / "model"))
    loaded = PeftModel.from_pretrained(student(), str(tmp_path / "model")).eval()
    inputs = batch()
    with torch.no_grad():
        expected = straight.student.eval()(**inputs).logits
        torch.testing.assert_close(loaded(**inputs).logits, expected)
        assert not torch.allclose(student().eval()(**inputs).logits, expected)
    assert "PEFT adapter" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    frozen = unwrap(straight.model.student).state_dict()
    name = "bert.encoder.layer.0.attention.self.query"
    assert torch.equal(frozen[f"{name}.base_layer.weight"], base[f"{name}.weight"])


def test_the_best_adapters_are_loaded_in_the_end(tmp_path: Path) -> None:
    worst_is_last = iter([1.0, 2.0, 3.0])
    made = trainer(
        tmp_path, "kd", model=lora(student()), max_steps=3, save_strategy="steps", save_steps=1, eval_strategy="steps",
        eval_steps=1, load_best_model_at_end=True, metric_for_best_model="made_up", greater_is_better=False,
        also={"eval_dataset": rows(8, seed=1), "compute_metrics": lambda _: {"made_up": next(worst_is_last)}},
    )  # fmt: skip
    made.train()
    kept = load_file(tmp_path / "checkpoint-1" / "adapter_model.safetensors")
    own = {
        name.replace(".modules_to_save", "").replace(".default", ""): value
        for name, value in made.student.state_dict().items()
    }
    assert kept and all(torch.equal(value, own[name]) for name, value in kept.items())


def test_a_checkpoint_of_a_plain_student_is_none_of_adapters(tmp_path: Path) -> None:
    trainer(tmp_path, "kd", max_steps=2, save_strategy="steps", save_steps=2).train()
    with pytest.raises(KdzooError, match=r"cannot be resumed: adapter_model.safetensors"):
        trainer(tmp_path, "kd", model=lora(student())).train(resume_from_checkpoint=True)


def test_prompt_tuning_is_refused(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    prompts = peft.get_peft_model(student(), peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3))
    with pytest.raises(KdzooError, match=r"prompt methods put tokens of their own before the text.*such as LoRA"):
        trainer(tmp_path, "kd", model=prompts)


@pytest.mark.parametrize("wrap", [lora, compiled, nn.DataParallel], ids=["lora", "compile", "data_parallel"])
def test_capture_sees_through(wrap: Callable[[Any], Any]) -> None:
    needs = Needs(cls=frozenset({0, 2}), hidden=frozenset({1}), qkv=frozenset({0, 1}), pooled=frozenset({2}))
    inputs = batch()
    found = []
    for model in (student().eval(), wrap(student().eval())):
        with torch.no_grad(), capture(model, needs) as recorder:
            found.append(recorder.activations(model(**inputs), mask=inputs["attention_mask"]))
    plain, wrapped = found
    torch.testing.assert_close(wrapped.logits, plain.logits)
    for layer in (0, 1):
        for own, other in zip(wrapped.qkv[layer], plain.qkv[layer], strict=True):
            torch.testing.assert_close(own, other)
    torch.testing.assert_close(wrapped.pooled[2], plain.pooled[2])


def test_several_devices_in_one_process_are_refused() -> None:
    model = nn.DataParallel(student())
    model.device_ids = [0, 1]
    with pytest.raises(KdzooError, match="cannot be captured under DataParallel"):
        unwrap(model)


# --- the caller's models ----------------------------------------------------------------------------------------------


def test_the_teacher_is_left_as_it_was(tmp_path: Path) -> None:
    guide = teacher(hidden_dropout_prob=0.5).train()
    guide.classifier.weight.requires_grad_(False)
    before = {name: p.requires_grad for name, p in guide.named_parameters()}
    trainer(tmp_path, "srrl", model=student(), guide=guide, max_steps=2).train()
    assert {name: p.requires_grad for name, p in guide.named_parameters()} == before
    assert all(module.training for module in guide.modules())
    assert all(p.grad is None for p in guide.parameters())


def test_modules_that_both_hold(tmp_path: Path) -> None:
    """Trained ones are refused; frozen ones are supported, and train or evaluate as each model does."""
    guide = teacher(hidden_dropout_prob=0.5)
    model = student(hidden_size=32, num_attention_heads=4)
    model.bert.embeddings = guide.bert.embeddings
    with pytest.raises(
        KdzooError, match=r"share bert.embeddings.word_embeddings.weight \(and 4 others\), and training"
    ):
        trainer(tmp_path, "kd", model=model, guide=guide)
    assert all(p.requires_grad for p in guide.parameters())
    model.bert.embeddings.requires_grad_(False)
    made = trainer(tmp_path, "kd", model=model, guide=guide, max_steps=2)
    seen: list[torch.Tensor] = []
    guide.register_forward_hook(lambda _, args, given, out: seen.append(given and out.logits), with_kwargs=True)
    inputs: list[dict[str, Any]] = []
    run = made._run_teacher
    made._run_teacher = lambda taken: (inputs.append(taken), run(taken))[1]
    made.train()
    quiet = guide.eval()(
        **{k: v for k, v in inputs[1].items() if k in ("input_ids", "attention_mask", "token_type_ids")}
    )
    torch.testing.assert_close(seen[1], quiet.logits)  # the shared dropout was off for the teacher


def test_memory_that_both_hold_is_refused_though_the_parameters_are_two(tmp_path: Path) -> None:
    guide, model = teacher(), student(hidden_size=32, num_attention_heads=4)
    model.classifier.load_state_dict(guide.classifier.state_dict(), assign=True)
    with pytest.raises(KdzooError, match=r"share classifier.weight \(and 1 others\)"):
        trainer(tmp_path, "kd", model=model, guide=guide)
    model.classifier.requires_grad_(False)
    trainer(tmp_path, "kd", model=model, guide=guide)


def test_compiled_adapters_are_resumed(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    straight = trainer(tmp_path, "kd", model=compiled(lora(student())), **saving)
    straight.train()
    again = trainer(tmp_path / "again", "kd", model=compiled(lora(student())), max_steps=4)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, value in state(straight).items():
        torch.testing.assert_close(state(again)[name], value, msg=name)


def test_a_model_that_hands_all_on_gets_its_inputs(tmp_path: Path) -> None:
    plain = losses(trainer(tmp_path / "plain", "kd", max_steps=2))
    model = student()

    class Handing(type(model)):  # type: ignore[misc]
        def forward(self, *args: Any, **named: Any) -> Any:
            return super().forward(*args, **named)

    model.__class__ = Handing
    assert losses(trainer(tmp_path / "handing", "kd", model=model, max_steps=2)) == plain


@pytest.mark.parametrize("wrap", [lambda model: model, compiled], ids=["itself", "compiled"])
def test_a_teacher_that_is_the_student(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    model = student()
    with pytest.raises(KdzooError, match="the teacher is the student itself"):
        trainer(tmp_path, "kd", model=wrap(model), guide=model)
    assert all(p.requires_grad for p in model.parameters())
