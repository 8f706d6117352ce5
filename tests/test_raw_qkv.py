"""Queries, keys and values of models that hide them or add a bias to their scores, and relations of these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_cache import opened
from test_families import FAMILIES, SIZES, made, padded_left, taken
from tiny_models import VOCABULARY, batch, tiny
from torch import Tensor

import kdzoo
from kdzoo.errors import KdzooError
from kdzoo.losses import registry
from kdzoo.models.activations import Needs, capture
from kdzoo.objectives.objective import Objective
from kdzoo.objectives.term import Term
from kdzoo.training.cache import TeacherCache
from kdzoo.training.kept import why_not_kept

RAW = Needs(raw_qkv=frozenset({1}))
WHERE = {
    "MPNet": ("mpnet.encoder.layer.1.attention.attn", "qkv"),
    "DebertaV2": ("deberta.encoder.layer.1.attention.self", ("query_proj", "key_proj", "value_proj")),
    "XLM": ("transformer.attentions.1", ("q_lin", "k_lin", "v_lin")),
    "Flaubert": ("transformer.attentions.1", ("q_lin", "k_lin", "v_lin")),
}


def of_family(family: str, seed: int = 0) -> Any:
    return made(family, FAMILIES[family][0] | ({"initializer_range": 0.3} if family == "MPNet" else {}), seed)


def expected_of(model: Any, family: str, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Queries, keys and values of the second layer, (B, S, D), from the states below it."""
    path, names = WHERE[family]
    layer = model.get_submodule(path)
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states[1]
        return [getattr(layer, name)(states) for name in names]


def relations(student: list[Any], teacher: list[Any], mask: Any, heads: int) -> float:
    """MiniLMv2's equations in NumPy, over real tokens."""
    total = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        divergences = []
        for row, real in enumerate(mask):
            sides = []
            for values in (ours[row][real], theirs[row][real]):
                width = values.shape[-1] // heads
                split = values.reshape(len(values), heads, width).transpose(1, 0, 2)
                scores = split @ split.transpose(0, 2, 1) / np.sqrt(width)
                scores = scores - scores.max(-1, keepdims=True)
                sides.append(scores - np.log(np.exp(scores).sum(-1, keepdims=True)))
            divergences.append((np.exp(sides[1]) * (sides[1] - sides[0])).sum(-1).ravel())
        total += np.concatenate(divergences).mean()
    return float(total)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("family", WHERE)
def test_what_is_taken_is_what_the_linear_layers_give(family: str, left: bool) -> None:
    models = [of_family(family, seed).double() for seed in (0, 1)]
    inputs = padded_left(batch()) if left else batch()
    sides = [[part.numpy() for part in expected_of(model, family, inputs)] for model in models]
    for model, side in zip(models, sides, strict=True):
        found = taken(model, inputs, Needs(qkv=frozenset({1}), raw_qkv=frozenset({1})))
        assert found.raw_qkv.keys() == {1}, "what is asked for, and no more"
        for part, values in zip(found.raw_qkv[1], side, strict=True):
            np.testing.assert_allclose(part.transpose(1, 2).flatten(2).numpy(), values, atol=1e-10)
        assert isinstance(found.qkv[1], Tensor), "the scores beside them"
    objective = Objective([Term("minilmv2", relation_heads=8)]).bind(*models)
    needs = objective.needs(0.0)
    assert needs[0] == needs[1] == Needs(logits=False, raw_qkv=frozenset({1}))
    value = objective(*(taken(model, inputs, needs[0]) for model in models)).total.item()
    assert value == pytest.approx(relations(*sides, inputs["attention_mask"].bool().numpy(), 8), rel=1e-9)


def test_a_student_that_shows_them_is_compared_with_a_teacher_that_hides_them() -> None:
    teacher, student, inputs = of_family("DebertaV2").double(), made("Bert", SIZES, 1).double(), batch()
    objective = Objective("minilmv2(relation_heads=4)[(0, 1)]").bind(student, teacher)
    ours, theirs = objective.needs(0.0)
    assert ours == Needs(logits=False, qkv=frozenset({0})) and theirs == Needs(logits=False, raw_qkv=frozenset({1}))
    with capture(student, ours) as recorder:
        seen = recorder.activations(student(**inputs), mask=inputs["attention_mask"])
    objective(seen, taken(teacher, inputs, theirs)).total.backward()
    layer = student.bert.encoder.layer[0].attention.self
    value = objective(seen, taken(teacher, inputs, theirs)).total.item()
    with torch.no_grad():
        states = student(**inputs, output_hidden_states=True).hidden_states[0]
        own = [getattr(layer, name)(states).numpy() for name in ("query", "key", "value")]
    other = [part.numpy() for part in expected_of(teacher, "DebertaV2", inputs)]
    assert value == pytest.approx(relations(own, other, inputs["attention_mask"].bool().numpy(), 4), rel=1e-9)
    assert layer.query.weight.grad.abs().sum() > 0


def test_a_loss_of_ones_own_is_taken_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    kdzoo.available()  # so that the registry is full before it is copied
    monkeypatch.setattr(registry, "_losses", dict(registry._losses))

    @kdzoo.register("of_queries", feature="raw_qkv")
    def of_queries(student: kdzoo.QKV, teacher: kdzoo.QKV, mask: Any = None) -> Tensor:
        return (student.query - teacher.query).square().mean()

    models, inputs = [of_family("DebertaV2", seed) for seed in (0, 1)], batch()
    objective = Objective("of_queries[(1, 1)]").bind(*models)
    assert objective.needs(0.0) == (Needs(logits=False, raw_qkv=frozenset({1})),) * 2
    ours, theirs = (taken(model, inputs, RAW) for model in models)
    want = (ours.raw_qkv[1].query - theirs.raw_qkv[1].query).square().mean()
    torch.testing.assert_close(objective(ours, theirs).total, want)


def test_of_t5_they_are_without_its_bias() -> None:
    import transformers

    sizes = {"vocab_size": VOCABULARY, "d_model": 24, "d_kv": 8, "num_heads": 4, "d_ff": 32, "num_layers": 2}
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = transformers.T5Config(**sizes, num_decoder_layers=1, decoder_start_token_id=0, initializer_factor=3.0)
        models.append(transformers.T5ForConditionalGeneration(config).eval().double())
    inputs = {name: value for name, value in batch().items() if name != "token_type_ids"}
    inputs["labels"] = inputs["input_ids"][:, :4].contiguous()
    sides = []
    for model in models:
        layer = model.encoder.block[1].layer[0]
        with torch.no_grad():
            states = model(**inputs, output_hidden_states=True).encoder_hidden_states[1]
            read = layer.layer_norm(states)
            attention = layer.SelfAttention
            sides.append([of(read).numpy() for of in (attention.q, attention.k, attention.v)])
        found = taken(model, inputs, RAW)
        for part, values in zip(found.raw_qkv[1], sides[-1], strict=True):
            np.testing.assert_allclose(part.transpose(1, 2).flatten(2).numpy(), values, atol=1e-10)
        assert why_not_kept(model, RAW) is None and why_not_kept(model, Needs(qkv=frozenset({1})))
    objective = Objective([Term("minilmv2", layers=[(1, 1)], relation_heads=2)]).bind(*models)
    value = objective(*(taken(model, inputs, need) for model, need in zip(models, objective.needs(0.0), strict=True)))
    expected = relations(*sides, inputs["attention_mask"].bool().numpy(), 2)
    assert value.total.item() == pytest.approx(expected, rel=1e-9)


def test_their_gradient_is_exact_and_the_same_under_checkpointing() -> None:
    inputs, gradients = batch(), []
    for options in (None, {"use_reentrant": False}):
        model = of_family("DebertaV2").train()
        if options:
            model.gradient_checkpointing_enable(options)
        with capture(model, RAW) as recorder:
            found = recorder.activations(model(**inputs), mask=inputs["attention_mask"])
            sum(part.square().sum() for part in found.raw_qkv[1]).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    model = of_family("DebertaV2").train()
    states = model(**inputs, output_hidden_states=True).hidden_states[1]
    layer = model.deberta.encoder.layer[1].attention.self
    sum(getattr(layer, name)(states).square().sum() for name in WHERE["DebertaV2"][1]).backward()
    gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) > 10
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], gradients[2])
    model = of_family("DebertaV2").train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with capture(model, RAW), pytest.raises(KdzooError, match="reentrant gradient checkpointing"):
        model(**inputs)


@pytest.mark.parametrize("wrap", ["compile", "lora"])
def test_they_are_seen_through_wrappers(wrap: str) -> None:
    model, inputs = of_family("MPNet"), batch()
    if wrap == "compile":
        wrapped = torch.compile(model, backend="eager")
    else:
        peft = pytest.importorskip("peft")
        adapters = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q", "v"], init_lora_weights=False)
        wrapped = peft.get_peft_model(model, adapters).eval()
    expected = expected_of(model, "MPNet", inputs)
    for _ in range(2):
        found = taken(wrapped, inputs, RAW).raw_qkv[1]
        for part, values in zip(found, expected, strict=True):
            torch.testing.assert_close(part.transpose(1, 2).flatten(2), values)
    if wrap == "lora":
        with wrapped.disable_adapter():
            plain = taken(wrapped, inputs, RAW).raw_qkv[1]
        assert not torch.allclose(plain.query, found.query), "the adapters' share is in them"


@pytest.mark.parametrize("family", ["DebertaV2", "MPNet"])
def test_they_are_kept(family: str, tmp_path: Path) -> None:
    from tiny_data import collate, rows

    from kdzoo.training.agreement import accepted_inputs

    guide, ids = of_family(family), [3, 20, 1]
    kept = opened(TeacherCache(tmp_path), guide, needs=RAW)
    data = rows()
    given = {name: value for name, value in collate([data[i] for i in ids]).items() if name in accepted_inputs(guide)}
    live = taken(guide, given, RAW)
    found = kept.activations(torch.tensor(ids), live.mask, RAW)
    for own, other in zip(found.raw_qkv[1], live.raw_qkv[1], strict=True):
        torch.testing.assert_close(own.transpose(1, 2)[live.mask], other.transpose(1, 2)[live.mask])


@pytest.mark.parametrize("family", ["XLNet", "SqueezeBert", "Deberta"])
def test_families_that_do_not_tell_them_apart_are_refused(family: str) -> None:
    model = of_family(family)
    with pytest.raises(KdzooError, match="hides its queries, keys and values, which are compared; take attention_kl"):
        Objective("minilmv2").bind(model, model)
    with pytest.raises(KdzooError, match="minilm compares queries, keys and values, and the student shows"):
        Objective("minilm").bind(model, model)


@pytest.mark.parametrize("family", ["deberta", "bert"])
def test_the_recipe_trains(family: str, tmp_path: Path) -> None:
    from test_trainer import trainer

    of = trainer(tmp_path, "minilmv2", model=tiny(family, 1), guide=tiny("deberta"), max_steps=2, logging_steps=1)
    of.train()
    logged = [entry["loss/minilmv2"] for entry in of.state.log_history if "loss/minilmv2" in entry]
    assert logged and all(0 < value < 100 for value in logged)
    assert kdzoo.describe("minilmv2").features == ("qkv",)
