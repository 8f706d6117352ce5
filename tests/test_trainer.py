"""DistillationTrainer: what is optimised, in which order, and what the teacher does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_data import collate, rows
from tiny_models import tiny
from torch import Tensor

import kdzoo
from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.objectives.objective import Objective
from kdzoo.objectives.recipe import Recipe
from kdzoo.objectives.term import Term

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")

STEPS = 12  # two epochs of 24 rows, 4 a step


def student(seed: int = 1, dropout: float = 0.0, family: str = "bert", **options: Any) -> Any:
    sizes = {"num_hidden_layers": 2, "hidden_size": 16} | options
    rates = ("dropout", "attention_dropout") if family == "distilbert" else ()
    names = rates or ("hidden_dropout_prob", "attention_probs_dropout_prob")
    return tiny(family, seed, **sizes, **dict.fromkeys(names, dropout)).train()


def teacher(**options: Any) -> Any:
    return tiny("bert", seed=7, num_hidden_layers=4, **options)


def arguments(folder: Path, **settings: Any) -> Any:
    from transformers import TrainingArguments

    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 5e-3,
        "train_sampling_strategy": "group_by_length",
        "length_column_name": "length",
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**defaults | settings)


def trainer(
    folder: Path,
    recipe: Any = None,
    *,
    objective: Objective | None = None,
    model: Any = None,
    guide: Any = None,
    data: Any = None,
    callbacks: Any = (),
    kind: Any = None,
    also: Any = None,
    **settings: Any,
) -> Any:
    made = (kind or kdzoo.DistillationTrainer)(
        model=student() if model is None else model,
        teacher=teacher() if guide is None else guide,
        recipe=recipe,
        objective=objective,
        args=arguments(folder, **settings),
        train_dataset=rows() if data is None else data,
        data_collator=collate,
        callbacks=list(callbacks),
        **(also or {}),
    )
    from transformers.trainer_callback import PrinterCallback

    made.pop_callback(PrinterCallback)
    return made


def seeing(made: Any) -> list[list[int]]:
    """The sample ids of each batch from now on."""
    seen: list[list[int]] = []
    compute = made.compute_loss

    def watched(model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        seen.append(inputs["sample_ids"].tolist())
        return compute(model, inputs, *rest, **more)

    made.compute_loss = watched
    return seen


def state(made: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in made.model.state_dict().items()}


def callback(**events: Any) -> Any:
    """A TrainerCallback out of functions."""
    from transformers import TrainerCallback

    return type("Callback", (TrainerCallback,), {name: staticmethod(event) for name, event in events.items()})()


# --- what is optimised ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["tinybert", "crd", "lrc", "pkd"])
def test_objective_parameters_are_trained(recipe: str, tmp_path: Path) -> None:
    made = trainer(tmp_path, recipe, max_steps=2)
    before = state(made)
    own = {f"objective.{name}" for name, _ in made.model.objective.named_parameters()}
    assert own, "a teacher of another width needs projections or embeddings"
    made.train()
    optimised = {id(p) for group in made.optimizer.param_groups for p in group["params"]}
    assert all(id(p) in optimised for p in made.model.parameters())
    after = state(made)
    still = {name for name in own if torch.equal(before[name], after[name])}
    assert not still
    assert not torch.equal(before["student.bert.encoder.layer.0.output.dense.weight"],
                           after["student.bert.encoder.layer.0.output.dense.weight"])  # fmt: skip


def test_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    made = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        made.append(state(trainer(tmp_path, "crd", seed=5)))
    other = state(trainer(tmp_path, "crd", seed=6))
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert not torch.equal(made[0]["objective.losses.crd.0.student_bank"], other["objective.losses.crd.0.student_bank"])


@pytest.mark.parametrize("terms", ["rows", "tokens"])
def test_gradient_accumulation(terms: str, tmp_path: Path) -> None:
    """One step on 8 rows, two without a label, at once and as 4 times 2, has one gradient and one logged loss."""
    by_rows = [Term("ce"), Term("kd", temperature=2.0), Term("pkd", weight=3.0)]
    by_tokens = [Term("hidden_mse"), Term("attention_mse"), Term("embedding_mse"), Term("attention_kl"), Term("minilm")]
    data = [row | {"labels": -100} if at in (1, 4) else row for at, row in enumerate(rows(8))]
    found = []
    for pieces in (1, 4):
        gradients: dict[str, Tensor] = {}

        def keep(args: Any, state: Any, control: Any, model: Any = None, kept: Any = gradients, **_: Any) -> None:
            kept |= {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

        made = trainer(
            tmp_path,
            objective=Objective(by_rows if terms == "rows" else by_tokens),
            data=data,
            per_device_train_batch_size=8 // pieces,
            gradient_accumulation_steps=pieces,
            train_sampling_strategy="sequential",
            max_steps=1,
            max_grad_norm=0.0,
            callbacks=[callback(on_pre_optimizer_step=keep)],
        )
        made.train()
        found.append((gradients, {k: v for k, v in made.state.log_history[0].items() if k.startswith("loss")}))
    (whole, logged), (pieced, logged_in_pieces) = found
    assert whole.keys() == pieced.keys() and len(logged) == (4 if terms == "rows" else 6)
    for name in whole:
        torch.testing.assert_close(pieced[name], whole[name], rtol=1e-4, atol=1e-6, msg=name)
    assert logged_in_pieces == pytest.approx(logged, rel=1e-5)


def test_labels_that_count_are_those_of_the_whole_step(tmp_path: Path) -> None:
    """Token classification with -100: means are over the labelled tokens of a step, which nothing else enters."""
    from transformers import BertForTokenClassification

    def model(seed: int) -> Any:
        torch.manual_seed(seed)
        return BertForTokenClassification(student().config)

    def labelled(row: dict[str, Any]) -> dict[str, Any]:
        size = len(row["input_ids"])
        return {"labels": [-100 if place % (2 + row["sample_ids"] % 3) else place % 3 for place in range(size)]}

    def collator(batch: list[dict[str, Any]]) -> dict[str, Any]:
        labels = [torch.tensor(row["labels"]) for row in batch]
        made = collate([{k: v for k, v in row.items() if k != "labels"} for row in batch])
        return made | {"labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)}

    found = []
    for pieces in (1, 4):
        made = trainer(
            tmp_path, objective=Objective([Term("ce"), Term("kd")]), model=model(1), guide=model(2),
            data=rows(8).map(labelled), per_device_train_batch_size=8 // pieces, gradient_accumulation_steps=pieces,
            train_sampling_strategy="sequential", max_steps=1,
        )  # fmt: skip
        made.data_collator = collator
        made.train()
        found.append({k: v for k, v in made.state.log_history[0].items() if k.startswith("loss")})
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    inputs = collator([rows(8).map(labelled)[i] for i in range(8)])
    taken = {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    counted = inputs["labels"] != -100
    with torch.no_grad():
        own, other = (model(seed).eval()(**taken).logits[counted] for seed in (1, 2))
    temperature = kdzoo.create("kd").temperature
    own, other = ((side / temperature).log_softmax(-1) for side in (own, other))
    kl = (other.exp() * (other - own)).sum(-1).mean() * temperature**2
    assert found[0]["loss/kd"] == pytest.approx(float(kl), rel=1e-4)


def test_rows_that_are_related_are_those_of_a_micro_batch(tmp_path: Path) -> None:
    said = "cos_nce relates rows to each other and sees the 4 of a micro-batch, not the 8 of a step"
    with pytest.warns(KdzooWarning, match=said):
        trainer(tmp_path, "lrc", gradient_accumulation_steps=2, per_device_train_batch_size=4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", KdzooWarning)
        trainer(tmp_path, "lrc")
        trainer(tmp_path, "tinybert", gradient_accumulation_steps=2)
    assert not [one for one in caught if "micro-batch" in str(one.message)]


def test_gradient_checkpointing(tmp_path: Path) -> None:
    from transformers import TrainingArguments

    ends = []
    name = "activation_checkpointing"  # as it is called since transformers 5.23
    if name not in TrainingArguments.__dataclass_fields__:
        name = "gradient_checkpointing"
    for on in (False, True):
        settings = {f"{name}_kwargs": {"use_reentrant": False}} if on else {}
        made = trainer(tmp_path, "lrc", max_steps=2, **{name: on}, **settings)
        made.train()
        assert getattr(made.student, f"is_{name}") == on
        ends.append(state(made))
    assert all(torch.allclose(ends[0][name], ends[1][name], atol=1e-5) for name in ends[0])


# --- order, columns, the teacher --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["random", "group_by_length"])
def test_the_order_of_rows_is_the_same_for_every_method(sampling: str, tmp_path: Path) -> None:
    orders = {}
    for method, noise, seed in (("none", 0, 3), ("crd", 1, 3), ("lrc", 2, 3), ("none", 3, 4)):
        torch.manual_seed(noise)  # what ran before must not matter
        made = trainer(tmp_path, method, train_sampling_strategy=sampling, seed=seed, model=student(dropout=0.1))
        orders[method, seed] = seeing(made)
        made.train()
    first = orders["none", 3]
    assert len(first) == STEPS and sorted(row for ids in first[:6] for row in ids) == [*range(24)]
    assert first[:6] != first[6:]
    assert orders["crd", 3] == orders["lrc", 3] == first
    assert orders["none", 4] != first


def test_rows_of_like_length_share_a_batch(tmp_path: Path) -> None:
    data = rows(64)

    def padding(sampling: str) -> int:
        made = trainer(tmp_path, "none", data=data, train_sampling_strategy=sampling, num_train_epochs=1, max_steps=-1)
        seen = seeing(made)
        made.train()
        lengths = data["length"]
        return sum(max(lengths[i] for i in ids) * len(ids) - sum(lengths[i] for i in ids) for ids in seen)

    assert padding("group_by_length") < padding("random") / 2


def test_columns_of_the_teacher_alone_are_kept(tmp_path: Path) -> None:
    """DistilBERT takes no token types; its teacher does. What neither takes is left out, as Trainer does."""
    guide = teacher()
    model = student(family="distilbert")
    data = rows().add_column("sentence", ["text that no tensor can be made of"] * 24)
    made = trainer(tmp_path, "kd", model=model, guide=guide, data=data, max_steps=1)
    given: dict[str, set[str]] = {}
    for name, module in (("teacher", guide), ("student", model)):
        module.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: given.update({name: {k for k, v in kwargs.items() if v is not None}}),
            with_kwargs=True,
        )
    made.train()
    assert given["teacher"] >= {"input_ids", "attention_mask", "token_type_ids"}
    assert "token_type_ids" not in given["student"] and "sentence" not in given["teacher"] | given["student"]


def test_the_teacher_only_watches(tmp_path: Path) -> None:
    guide = teacher(hidden_dropout_prob=0.5).train()
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    made = trainer(tmp_path, "tinybert", guide=guide, max_steps=3)
    modes: list[tuple[bool, bool]] = []
    guide.register_forward_pre_hook(lambda module, _: modes.append((module.training, torch.is_grad_enabled())))
    made.train()
    assert modes == [(False, False)] * 3
    assert all(p.grad is None for p in guide.parameters())
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items())
    assert not any(name.startswith("teacher") for name in made.model.state_dict())


def test_without_need_no_teacher_runs(tmp_path: Path) -> None:
    guide = teacher()
    guide.register_forward_pre_hook(lambda *_: pytest.fail("fine-tuning ran the teacher"))
    made = trainer(tmp_path, "none", guide=guide, max_steps=1)
    assert made.teacher is None
    made.train()


def test_cls_methods_leave_attention_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kdzoo.training.distiller
    import kdzoo.training.trainer

    asked: list[Any] = []
    implementations: set[str] = set()
    original = kdzoo.training.trainer.capture

    def counting(model: Any, needs: Any) -> Any:
        asked.append(needs)
        return original(model, needs)

    for module in (kdzoo.training.trainer, kdzoo.training.distiller):
        monkeypatch.setattr(module, "capture", counting)
    model, guide = student(), teacher()
    for module in (model, guide):
        module.register_forward_pre_hook(lambda m, _: implementations.add(m.config._attn_implementation))
    made = trainer(tmp_path, "pkd", model=model, guide=guide, max_steps=1)
    made.train()
    by_teacher, by_student = asked
    assert implementations == {"sdpa"}
    assert (by_student.cls, by_teacher.cls) == ({1}, {2})
    assert not by_student.hidden | by_teacher.hidden | by_student.qkv | by_teacher.qkv

    implementations.clear()
    trainer(tmp_path, "tinybert", model=model, guide=guide, max_steps=1).train()
    assert implementations == {"kdzoo_capture"}, "the probe must see a switch where there is one"
    assert model.config._attn_implementation == guide.config._attn_implementation == "sdpa"


# --- stages -----------------------------------------------------------------------------------------------------------


def test_lrc_adds_its_other_terms_after_80_percent(tmp_path: Path) -> None:
    made = trainer(tmp_path, "lrc", max_steps=10)
    made.train()
    logged = [{k.removeprefix("loss/") for k in entry if k.startswith("loss/")} for entry in made.state.log_history]
    assert logged[:10] == [{"cos_nce"}] * 8 + [{"cos_nce", "kd", "ce"}] * 2
    for entry in made.state.log_history[:10]:
        total = entry["loss/cos_nce"] + entry.get("loss/kd", 0) + 3 * entry.get("loss/ce", 0)
        assert entry["loss"] == pytest.approx(total, rel=1e-4)


def test_tinybert_learning_rate(tmp_path: Path) -> None:
    """Constant on the layers; then 0.6 of the rate, up within a tenth and linearly to zero; warm-up where asked for."""
    rate = 1e-3
    for warmup in (0, 4):
        made = trainer(tmp_path, "tinybert", max_steps=100, learning_rate=rate, warmup_steps=warmup)
        made.create_optimizer_and_scheduler(100)
        rates = []
        for _ in range(100):
            rates.append(made.optimizer.param_groups[0]["lr"])
            made.optimizer.step()
            made.lr_scheduler.step()
        np.testing.assert_allclose(rates[:warmup], rate * np.arange(warmup) / max(warmup, 1))
        np.testing.assert_allclose(rates[warmup:77], rate)
        done = np.arange(23) / 23
        np.testing.assert_allclose(rates[77:], 0.6 * rate * np.minimum(done / 0.1, (1 - done) / 0.9))
        assert made.optimizer.param_groups[0]["lr"] == 0


def test_a_stage_without_a_course_follows_the_arguments(tmp_path: Path) -> None:
    stage = {"fraction": 0.5, "terms": [{"loss": "ce"}]}
    recipe = Recipe.parse({"name": "mine", "stages": [stage | {"lr_scheduler": "constant"}, stage]})
    made = trainer(tmp_path, recipe, max_steps=10, learning_rate=1.0, lr_scheduler_type="cosine")
    made.create_optimizer_and_scheduler(10)
    rates = []
    for _ in range(10):
        rates.append(made.optimizer.param_groups[0]["lr"])
        made.optimizer.step()
        made.lr_scheduler.step()
    np.testing.assert_allclose(rates[:5], 1)
    np.testing.assert_allclose(rates[5:], (1 + np.cos(np.pi * np.arange(5, 10) / 10)) / 2)


def test_a_stage_without_a_course_has_its_own_height_and_warmup(tmp_path: Path) -> None:
    stage = {"fraction": 0.5, "terms": [{"loss": "ce"}]}
    recipe = Recipe.parse({"name": "mine", "stages": [stage, stage | {"lr_factor": 0.5, "warmup_ratio": 0.4}]})
    made = trainer(tmp_path, recipe, max_steps=10, learning_rate=1.0, lr_scheduler_type="constant")
    made.create_optimizer_and_scheduler(10)
    rates = []
    for _ in range(10):
        rates.append(made.optimizer.param_groups[0]["lr"])
        made.optimizer.step()
        made.lr_scheduler.step()
    np.testing.assert_allclose(rates, [1, 1, 1, 1, 1, 0, 0.25, 0.5, 0.5, 0.5])


def test_losses_are_told_the_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    kind = kdzoo.losses.registry.loss_class("rail")
    draw = kind._draw
    monkeypatch.setattr(kind, "_draw", lambda self, *sizes: told.append(sizes[-1]) or draw(self, *sizes))
    recipe = Recipe.load("rail").override(["rail.layers=all"])
    trainer(tmp_path, recipe, num_train_epochs=3, max_steps=-1).train()
    assert told == sorted(told) and {*told} == {0, 1, 2} and len(told) % 3 == 0


# --- bad input --------------------------------------------------------------------------------------------------------


def named(model: Any, *names: str) -> Any:
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    return model


@pytest.mark.parametrize("cached", [False, True])
def test_labels_are_matched_by_name(cached: bool, tmp_path: Path) -> None:
    from kdzoo.training.cache import TeacherCache

    order, names, losses = [2, 0, 1], ("yes", "no", "not given"), []
    exchanged = named(teacher(), *(names[index].upper().replace(" ", "-") for index in order))
    with torch.no_grad():
        for parameter in exchanged.classifier.parameters():
            parameter.copy_(parameter[order].clone())
    for place, guide in enumerate((named(teacher(), *names), exchanged)):
        also = {"cache": TeacherCache(tmp_path / "cache")} if cached else {}
        objective = Objective([Term("kd"), Term("ce")])
        made = trainer(
            tmp_path / str(place), objective=objective, model=named(student(), *names), guide=guide, also=also
        )
        made.train()
        losses.append([entry["loss"] for entry in made.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and len(losses[0]) > 1
    other = named(teacher(), "good", "bad", "fine")
    with pytest.raises(KdzooError, match="labels good, bad, fine and the student has yes, no, not given"):
        trainer(tmp_path, objective=Objective([Term("kd")]), model=named(student(), *names), guide=other)
    trainer(tmp_path, objective=Objective([Term("hidden_mse")]), model=named(student(), *names), guide=other)
    trainer(tmp_path, objective=Objective([Term("kd")]), guide=other)


def test_models_and_data_that_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(KdzooError, match="the student's vocabulary has 50 entries and the teacher's 99"):
        trainer(tmp_path, "kd", model=student(vocab_size=50))
    with pytest.raises(KdzooError, match="the student has 2 classes and the teacher 3"):
        trainer(tmp_path, "kd", model=student(num_labels=2))
    with pytest.raises(KdzooError, match="'crd' needs the column 'sample_ids'; the training set has input_ids"):
        trainer(tmp_path, "crd", data=rows().remove_columns("sample_ids"))
    with pytest.raises(KdzooError, match="heads"):
        trainer(tmp_path, "tinybert", model=student(num_attention_heads=2))
    from transformers import BertForMultipleChoice, BertForQuestionAnswering, BertForTokenClassification, BertModel

    for other, words in (
        (BertForTokenClassification, "those of single tokens and the teacher's of whole rows"),
        (BertModel, "the student is a BertModel, which has no head"),
        (BertForMultipleChoice, "does not distil multiple-choice models"),
    ):
        with pytest.raises(KdzooError, match=words):
            trainer(tmp_path, "kd", model=other(student().config))
    with pytest.raises(KdzooError, match="student's are those of whole rows and the teacher's of starts and ends"):
        trainer(
            tmp_path, "kd", guide=BertForQuestionAnswering(teacher(num_labels=2).config), model=student(num_labels=2)
        )
    answers = BertForQuestionAnswering(student().config)
    with pytest.raises(KdzooError, match="learnt from start_positions and end_positions, and the training set has no"):
        trainer(tmp_path, objective=Objective([Term("hidden_mse")]), model=answers)
    with pytest.raises(KdzooError, match="either a recipe or an objective"):
        trainer(tmp_path)
    with pytest.raises(KdzooError, match="'kd' needs a teacher"):
        kdzoo.DistillationTrainer(model=student(), recipe="kd", args=arguments(tmp_path))
    with pytest.raises(KdzooError, match="unknown recipe 'tinybrt'; did you mean 'tinybert'"):
        trainer(tmp_path, "tinybrt")
    with pytest.raises(KdzooError, match="stages set the learning rate"):
        plateau = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps"}
        trainer(tmp_path, "tinybert", max_steps=1, also={"eval_dataset": rows(4)}, **plateau).train()


def test_one_process_takes_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import TrainingArguments

    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    with pytest.raises(KdzooError, match="cannot distil on 2 GPUs; start one process a GPU with torchrun"):
        trainer(tmp_path, "kd")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"objective": [Term("kd")]}, "objective= is a kdzoo Objective, got list"),
        ({"recipe": "kd", "teacher": "bert-base-uncased"}, "teacher= is a model, got str"),
        ({"recipe": "kd", "cache": "folder"}, "cache= is a kdzoo TeacherCache, got str"),
    ],
)
def test_what_is_of_another_kind_is_named(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    from transformers import TrainingArguments

    with pytest.raises(KdzooError, match=words):
        kdzoo.DistillationTrainer(tiny("bert"), **given, args=TrainingArguments(str(tmp_path), use_cpu=True))
