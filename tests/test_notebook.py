"""What a notebook shows and takes: representations, completion, expressions, functions as losses, hints."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import LAYERS, WIDTH, batch, tiny
from torch import nn

import kdzoo
from kdzoo.losses import registry


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    before = set(kdzoo.available())
    yield
    for name in set(registry._losses) - before:
        del registry._losses[name]


def test_a_loss_shows_its_options() -> None:
    assert repr(kdzoo.create("kd", temperature=2.0)) == "KD(temperature=2.0)"
    assert repr(kdzoo.create("kd", reduction="mean")) == "KD(temperature=1.0, reduction='mean')"
    shown = repr(kdzoo.create("hidden_mse", student_dim=3, teacher_dim=5))
    assert "Linear(in_features=3, out_features=5, bias=False)" in shown


def test_a_term_shows_its_parts_and_is_read_back() -> None:
    terms = [
        kdzoo.Term("kd", weight=0.5, temperature=2.0),
        kdzoo.Term("cosine", feature="pooled", layers="last", layer_reduction="mean", name="other"),
        kdzoo.Term("ce", weight=kdzoo.after(0.8, 3.0)),
    ]
    assert repr(terms[0]) == "Term('kd', weight=0.5, temperature=2.0)"
    names = {"Term": kdzoo.Term, "Schedule": kdzoo.Schedule}
    for term in terms:
        again = eval(repr(term), names)
        assert vars(again) == vars(term) and repr(again) == repr(term)
    assert repr(kdzoo.Term(kdzoo.create("kd", temperature=3.0))) == "Term(KD(temperature=3.0))"


def test_an_objective_shows_its_terms_and_once_bound_its_losses() -> None:
    objective = kdzoo.Objective("kd(temperature=2)*0.5 + hidden_mse[last] + ce")
    assert repr(objective).splitlines() == [
        "Objective([",
        "  Term('kd', weight=0.5, temperature=2),",
        "  Term('hidden_mse', layers='last'),",
        "  Term('ce'),",
        "])",
    ]
    objective.bind(tiny("bert"), tiny("bert"))
    assert "KD(temperature=2" in repr(objective) and "Term('hidden_mse', layers='last')" in repr(objective)


def test_activations_show_shapes_and_no_numbers() -> None:
    model, inputs = tiny("bert"), batch()
    needs = kdzoo.Needs(cls=frozenset({0, 3}), qkv=frozenset({1}))
    with kdzoo.capture(model, needs) as recorder:
        taken = recorder.activations(model(**inputs), mask=inputs["attention_mask"])
    assert repr(taken) == (
        "Activations(logits=(4, 3), cls={0: (4, 32), 3: (4, 32)}, qkv={1: QKV(query=(4, 4, 13, 8), "
        "key=(4, 4, 13, 8), value=(4, 4, 13, 8))}, mask=(4, 13))"
    )


def test_completion_offers_the_public_names_alone() -> None:
    assert set(dir(kdzoo)) == {*kdzoo.__all__, "__version__"}
    assert all(hasattr(kdzoo, name) for name in dir(kdzoo))


def test_an_expression_is_an_objective() -> None:
    written = kdzoo.Objective("mine = cos_nce@cls[uniform] + kd(temperature=2)*0.5 + ce")
    made = kdzoo.Objective(
        [
            kdzoo.Term("cos_nce", feature="cls", layers="uniform"),
            kdzoo.Term("kd", temperature=2, weight=0.5),
            kdzoo.Term("ce"),
        ]
    )
    assert repr(written) == repr(made)
    with pytest.raises(kdzoo.KdzooError, match="expected another term"):
        kdzoo.Objective("kd +")
    with pytest.raises(kdzoo.KdzooError, match="is a recipe"):
        kdzoo.Objective("tinybert")


def test_an_expression_needs_torch_alone() -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(('yaml', 'pydantic', 'transformers')))"
    code = f"{blocked}; import kdzoo; print(kdzoo.Objective('kd*0.5 + ce'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Term('kd', weight=0.5)" in done.stdout, done.stderr


def test_the_trainer_takes_an_expression(tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import TrainingArguments

    inputs = batch()
    rows = Dataset.from_dict({**{k: v.tolist() for k, v in inputs.items()}, "labels": [0, 1, 2, 0]})
    trainer = kdzoo.DistillationTrainer(
        model=tiny("bert", seed=1),
        teacher=tiny("bert"),
        objective="kd(temperature=2)*0.5 + ce",
        args=TrainingArguments(
            output_dir=str(tmp_path), max_steps=1, report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="no"
        ),
        train_dataset=rows,
    )
    trainer.train()
    assert [term.name for term in trainer.model.objective.terms] == ["kd", "ce"]


def test_a_function_is_a_loss() -> None:
    @kdzoo.register("power", feature="hidden")
    def power(student: torch.Tensor, teacher: torch.Tensor, mask: Any = None, exponent: float = 2.0) -> torch.Tensor:
        """A power of the distance."""
        keep = torch.ones(student.shape[:2]) if mask is None else mask
        return ((student - teacher).abs().pow(exponent).mean(-1) * keep).sum() / keep.sum()

    assert kdzoo.describe("power").summary == "A power of the distance." and callable(power)
    loss = kdzoo.create("power", exponent=3.0)
    assert repr(loss) == "power(exponent=3.0)"
    student, teacher = torch.randn(2, 5, 4, requires_grad=True), torch.randn(2, 5, 4, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    value = loss(student, teacher, mask=mask)
    torch.testing.assert_close(value, power(student, teacher, mask, 3.0))
    value.backward()
    assert student.grad is not None and teacher.grad is None
    objective = kdzoo.Objective("power(exponent=1.5)[last] + ce").bind(tiny("bert"), tiny("bert"))
    assert objective.losses["power"][0].exponent == 1.5
    with pytest.raises(kdzoo.KdzooError, match="unknown option of power"):
        kdzoo.create("power", exponnet=2.0)
    with pytest.raises(kdzoo.KdzooError, match="exponent"):
        kdzoo.Recipe.load("power(exponent=much) + ce")


def test_a_function_without_a_mask_refuses_one_and_a_cell_run_twice_replaces_it() -> None:
    def gap(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (student - teacher).mean() + labels.sum()

    for _ in range(2):
        kdzoo.register("gap")(gap)
    loss = kdzoo.create("gap")
    labels = torch.tensor([1, 2])
    assert math.isclose(loss(torch.zeros(2, 3), torch.zeros(2, 3), labels=labels).item(), 3.0)
    with pytest.raises(kdzoo.KdzooError, match="gap takes no mask; give its function a parameter mask"):
        loss(torch.zeros(2, 3), torch.zeros(2, 3), labels=labels, mask=torch.ones(2, 3))
    with pytest.raises(kdzoo.KdzooError, match="gap needs labels="):
        loss(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(kdzoo.KdzooError, match="a loss is a function of"):
        kdzoo.register("bad")(lambda student: student)
    with pytest.raises(kdzoo.KdzooError, match="must return a scalar tensor"):
        kdzoo.register("rows")(lambda student, teacher: student - teacher)
        kdzoo.create("rows")(torch.zeros(2, 3), torch.zeros(2, 3))


def told(run: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(warning.message) for warning in caught if issubclass(warning.category, kdzoo.KdzooWarning)]


def test_pkd_says_that_it_takes_tokens_for_layers() -> None:
    tokens = torch.randn(8, 20, 12)
    loss = kdzoo.create("pkd")
    said = told(lambda: [loss(tokens, tokens) for _ in range(3)])
    assert len(said) == 1 and "(8, 20, 12) for the CLS states of 20 layers" in said[0] and "hidden[:, 0]" in said[0]
    assert not told(lambda: kdzoo.create("pkd")(tokens, tokens, layers=20))
    assert not told(lambda: kdzoo.create("pkd")(tokens[:, :5], tokens[:, :5]))
    with pytest.raises(kdzoo.KdzooError, match=r"layers=3, and student .* has 20"):
        loss(tokens, tokens, layers=3)


def test_pkd_in_an_objective_knows_its_layers() -> None:
    objective = kdzoo.Objective("pkd")
    shape = kdzoo.ModelShape(num_layers=12, hidden_size=8, num_heads=2, num_labels=2)
    objective.bind(shape, shape)
    states = kdzoo.Activations(cls={layer: torch.randn(4, 8) for layer in range(13)})
    assert not told(lambda: objective(states, states))


def test_minilm_names_the_qkv() -> None:
    parts = tuple(torch.randn(2, 4, 7, 3) for _ in range(3))
    with pytest.raises(kdzoo.KdzooError, match=r"kdzoo\.QKV\(query, key, value\)"):
        kdzoo.create("minilm")(parts, parts)


def test_make_student_says_which_argument_is_which() -> None:
    teacher = tiny("bert")
    with pytest.raises(kdzoo.KdzooError, match=r"make_student\('4x312', teacher\); got BertFor.* and str"):
        kdzoo.make_student(teacher, "2x16")  # type: ignore[arg-type]


def steps(parameters: list[list[nn.Parameter]], loss: nn.Module, student: nn.Module, count: int = 4) -> None:
    optimizers = [torch.optim.SGD(group, lr=0.1) for group in parameters]
    for _ in range(count):
        loss(student(torch.randn(4, 3)), torch.randn(4, 7)).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def test_a_projection_that_no_optimizer_holds_is_told_of_once() -> None:
    student, loss = nn.Linear(3, 5), kdzoo.create("hidden_mse", student_dim=5, teacher_dim=7)
    said = told(lambda: steps([[*student.parameters()]], loss, student))
    assert len(said) == 1 and said[0].startswith("hidden_mse has parameters of its own"), said
    assert not told(lambda: steps([[*student.parameters()]], loss, student)), "once"


@pytest.mark.parametrize("apart", [False, True])
def test_a_projection_in_an_optimizer_is_not_told_of(apart: bool) -> None:
    student, loss = nn.Linear(3, 5), kdzoo.create("hidden_mse", student_dim=5, teacher_dim=7)
    groups = [[*student.parameters()], [*loss.parameters()]]
    assert not told(lambda: steps(groups if apart else [groups[0] + groups[1]], loss, student))


def test_a_model_of_another_library_is_refused_with_the_way_by_hand(tmp_path: Path) -> None:
    from transformers import TrainingArguments

    other = nn.Linear(3, 2)
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    for run in (
        lambda: kdzoo.Objective("kd + ce").bind(other, other),
        lambda: kdzoo.capture(other, kdzoo.Needs()).__enter__(),
        lambda: kdzoo.make_student("1x8", other),
        lambda: kdzoo.DistillationTrainer(model=other, teacher=other, objective="kd", args=arguments),
    ):
        with pytest.raises(kdzoo.KdzooError, match=r"Linear is no model of transformers.*kdzoo\.Activations"):
            run()


def test_a_loss_that_runs_the_teachers_head_needs_the_model() -> None:
    shape = kdzoo.ModelShape(num_layers=2, hidden_size=8, num_heads=2, num_labels=2)
    with pytest.raises(kdzoo.KdzooError, match=r"a model is a torch\.nn\.Module, got ModelShape"):
        kdzoo.Objective("srrl").bind(shape, shape)


def test_activations_by_hand_are_what_capture_takes() -> None:
    """The documented way for other models gives the value that a transformers model gives."""
    teacher, student, inputs = tiny("bert", seed=0), tiny("bert", seed=1), batch()
    text = "kd(temperature=2) + hidden_mse[last] + pkd"
    bound = kdzoo.Objective(text).bind(student, teacher)
    taken = []
    for model, needs in zip((student, teacher), bound.needs(0.0), strict=True):
        with kdzoo.capture(model, needs) as recorder:
            taken.append(recorder.activations(model(**inputs), mask=inputs["attention_mask"]))
    by_hand = []
    for model in (student, teacher):
        states = dict(enumerate(model(**inputs, output_hidden_states=True).hidden_states))
        by_hand.append(
            kdzoo.Activations(
                logits=model(**inputs).logits,
                hidden=states,
                cls={layer: state[:, 0] for layer, state in states.items()},
                mask=inputs["attention_mask"].bool(),
            )
        )
    shape = kdzoo.ModelShape(num_layers=LAYERS, hidden_size=WIDTH, num_heads=4, num_labels=3)
    other = kdzoo.Objective(text).bind(shape, shape)
    torch.testing.assert_close(bound(*taken).total, other(*by_hand).total)
