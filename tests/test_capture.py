"""Capture takes exactly what is needed, agrees with eager attention, and leaves the model as it was."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
import transformers
from tiny_models import ATTENTION_INTERFACE, FAMILIES, HEADS, LAYERS, SEQUENCE, VOCABULARY, WIDTH, batch, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.models import outputs
from kdzoo.models.activations import QKV, Activations, Needs, capture
from kdzoo.models.embedding import embedding_output
from kdzoo.models.heads import embeddings_module, hidden_size, num_heads, num_layers, pooled, unwrap

ALL_LAYERS = frozenset(range(LAYERS))


def taken(model: Any, needs: Needs, inputs: dict[str, torch.Tensor]) -> Activations:
    with capture(model, needs) as recorder:
        outputs = model(**inputs)
    return recorder.activations(outputs, mask=inputs["attention_mask"])


def scores_of(qkv: QKV) -> torch.Tensor:
    return qkv.query @ qkv.key.mT / math.sqrt(qkv.query.shape[-1])


def valid_pairs(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    mask = inputs["attention_mask"].bool()
    return mask[:, None, :, None] & mask[:, None, None, :]


class SquareTensors(TorchDispatchMode):
    """Counts the floating-point (..., S, S) tensors that operators return."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.found += tuple(tensor.shape[-2:]) == (SEQUENCE, SEQUENCE)
        return out


@pytest.mark.parametrize("family", FAMILIES)
def test_captures_what_a_plain_forward_gives(family: str) -> None:
    model, inputs = tiny(family), batch()
    with torch.no_grad():
        plain = model(**inputs, output_hidden_states=True)
        found = taken(model, Needs(hidden=frozenset({0, 2}), cls=frozenset({1, 3}), qkv=frozenset({1})), inputs)
    torch.testing.assert_close(found.logits, plain.logits)
    assert found.hidden.keys() == {0, 2} and found.cls.keys() == {1, 3}
    for i in (0, 2):
        torch.testing.assert_close(found.hidden[i], plain.hidden_states[i])
    for i in (1, 3):
        torch.testing.assert_close(found.cls[i], plain.hidden_states[i][:, 0])
    assert found.qkv.keys() == {1}
    assert found.mask is not None and found.mask.dtype == torch.bool


@pytest.mark.parametrize(("installed", "asked"), [("5.10.4", True), ("5.22.2", True), ("5.23.0", [0, 2, 3])])
def test_older_transformers_is_asked_for_all_hidden_states(
    installed: str, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 5.23 it reads indices otherwise, or not at all."""
    monkeypatch.setattr(outputs, "version", {"transformers": installed}.__getitem__)
    outputs.states_by_index.cache_clear()
    model, inputs, seen = tiny("bert"), batch(), []
    forward = model.forward
    model.forward = lambda **given: (
        seen.append(given["output_hidden_states"]) or forward(**given | {"output_hidden_states": True})
    )
    found = taken(model, Needs(hidden=frozenset({0, 2}), cls=frozenset({3})), inputs)
    outputs.states_by_index.cache_clear()
    states = forward(**inputs, output_hidden_states=True).hidden_states
    assert seen == [asked] and found.hidden.keys() == {0, 2} and found.cls.keys() == {3}
    torch.testing.assert_close(found.hidden[2], states[2])


@pytest.mark.parametrize("family", ATTENTION_INTERFACE)
@pytest.mark.parametrize("padded", [True, False])
def test_scores_equal_those_of_eager_attention(family: str, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, tolerance = tiny(family).double(), batch(padded=padded), 1e-9
    if family in ("modernbert", "eurobert"):  # their eager attention takes its softmax in float32
        model, tolerance = model.float(), 1e-5
    with torch.no_grad():
        found = taken(model, Needs(qkv=ALL_LAYERS), inputs)
        before_softmax, softmax = [], torch.nn.functional.softmax

        def record(scores: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            before_softmax.append(scores)
            return softmax(scores, *args, **kwargs)

        model.set_attn_implementation("eager")
        monkeypatch.setattr(torch.nn.functional, "softmax", record)
        eager = model(**inputs, output_attentions=True)
    assert len(before_softmax) == len(eager.attentions) == LAYERS
    valid = valid_pairs(inputs)
    for layer in range(LAYERS):
        scores = scores_of(found.qkv[layer])
        seen = valid.expand_as(scores)
        if layer in found.visible:
            seen = seen & found.visible[layer][:, None]
        # eager adds 0 to the score of a pair that is seen
        torch.testing.assert_close(scores[seen], before_softmax[layer][seen], rtol=tolerance, atol=tolerance)
        probabilities = scores.masked_fill(~seen, -math.inf).softmax(-1)
        queries = inputs["attention_mask"].bool()[:, None, :].expand(scores.shape[:3])
        torch.testing.assert_close(
            probabilities[queries], eager.attentions[layer][queries], rtol=tolerance, atol=tolerance
        )


def test_local_layers_say_what_they_see() -> None:
    model, inputs = tiny("modernbert"), batch()
    visible = taken(model, Needs(qkv=ALL_LAYERS), inputs).visible
    assert visible.keys() == {1, 2}
    distance = (torch.arange(SEQUENCE)[:, None] - torch.arange(SEQUENCE)).abs()
    expected = (distance <= 2) & inputs["attention_mask"].bool()[:, None, :]
    rows = inputs["attention_mask"].bool()
    assert torch.equal(visible[1][rows], expected[rows])


def test_deberta_shows_its_scores() -> None:
    model, inputs = tiny("deberta"), batch()
    with torch.no_grad():
        found = taken(model, Needs(qkv=frozenset({0, 2})), inputs)
        plain = model(**inputs, output_attentions=True)
    assert found.qkv.keys() == {0, 2} and found.get("qkv", 2) is found.qkv[2]
    for i in (0, 2):
        assert isinstance(found.qkv[i], torch.Tensor)
        torch.testing.assert_close(found.qkv[i].softmax(-1), plain.attentions[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("needs", [Needs(cls=frozenset({0, LAYERS})), Needs(qkv=ALL_LAYERS)], ids=["cls", "qkv"])
@pytest.mark.parametrize("family", ["bert", "albert", "distilbert", "modernbert"])
def test_keeps_the_fast_attention(family: str, needs: Needs, monkeypatch: pytest.MonkeyPatch) -> None:
    # a window longer than the sequence: the mask of a shorter one is an (S, S) tensor of the model's own
    window = {"local_attention": 4 * SEQUENCE} if family == "modernbert" else {}
    model, inputs = tiny(family, **window), batch(padded=False)
    calls, sdpa = 0, torch.nn.functional.scaled_dot_product_attention

    def count(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return sdpa(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", count)
    with SquareTensors() as squares:
        taken(model, needs, inputs)
    assert (calls, squares.found) == (LAYERS, 0)
    model.set_attn_implementation("eager")
    with SquareTensors() as squares:
        model(**inputs)
    assert squares.found >= LAYERS  # the counter sees what eager attention makes


def test_only_the_logits_ask_for_nothing_else() -> None:
    model, inputs = tiny("bert"), batch()
    with capture(model, Needs()) as recorder:
        outputs = model(**inputs)
        assert model.config._attn_implementation == "sdpa"
    assert outputs.hidden_states is None and outputs.attentions is None
    found = recorder.activations(outputs)
    assert found.mask is None and not (found.hidden or found.cls or found.qkv)


@pytest.mark.parametrize("family", ATTENTION_INTERFACE)
def test_gradients_flow_through_queries_keys_and_values(family: str) -> None:
    model = tiny(family).train()
    found = taken(model, Needs(qkv=frozenset({LAYERS - 1})), batch())
    for tensor in found.qkv[LAYERS - 1]:
        embeddings = model.get_input_embeddings().weight
        (gradient,) = torch.autograd.grad(tensor.square().sum(), embeddings, retain_graph=True)
        assert gradient.abs().sum() > 0
        assert tensor.shape == (4, HEADS, SEQUENCE, WIDTH // HEADS)


def test_dropout_is_the_models_own() -> None:
    model, inputs = tiny("bert").train(), batch()
    torch.manual_seed(3)
    plain = model(**inputs).logits
    torch.manual_seed(3)
    torch.testing.assert_close(taken(model, Needs(qkv=ALL_LAYERS), inputs).logits, plain)


def test_pooled_states_keep_float64() -> None:
    states, mask = torch.randn(2, 3, 4, dtype=torch.float64), torch.tensor([[True, True, False], [True, False, False]])
    want = torch.stack([states[0, :2].mean(0), states[1, 0]])
    torch.testing.assert_close(pooled(tiny("bert"), states, mask), want, rtol=1e-14, atol=1e-15)


def test_a_teacher_that_drops_out_is_told_of_once() -> None:
    model, inputs = tiny("bert", hidden_dropout_prob=0.1), batch()

    def warned() -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            taken(model, Needs(), inputs)
        return [str(one.message) for one in found if issubclass(one.category, KdzooWarning)]

    with torch.no_grad():
        assert not warned(), "it is in evaluation mode"
    model.train()
    assert not warned(), "a student"
    with torch.no_grad():
        (said,) = warned()
        assert "BertForSequenceClassification ran without gradient" in said and "call eval() on it" in said
        assert not warned()
        model = tiny("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
        assert not warned(), "nothing is dropped"
        sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": VOCABULARY}
        for rate in (0.0, 0.1):  # of which no layer is one of dropout
            rates = {"dropout": rate, "attention_dropout": 0.0}
            heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
            model = transformers.BartForSequenceClassification(transformers.BartConfig(**sizes, **heads, **rates))
            ids = torch.tensor([[5, 6, 2], [7, 8, 2]])
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            assert len(warned()) == (rate > 0)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_restores_the_model(implementation: str) -> None:
    model, inputs = tiny("bert"), batch()
    model.set_attn_implementation(implementation)
    before = model.config.to_dict()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in (model, model.bert.embeddings)]

    def assert_restored() -> None:
        assert model.config._attn_implementation == implementation
        assert model.config.to_dict() == before
        assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in (model, model.bert.embeddings)]
        assert model(**inputs).hidden_states is None

    needs = Needs(hidden=frozenset({1}), qkv=ALL_LAYERS)
    taken(model, needs, inputs)
    assert_restored()
    with pytest.raises(RuntimeError, match="of the caller"), capture(model, needs):
        raise RuntimeError("of the caller")
    assert_restored()
    broken = model.bert.encoder.layer[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        taken(model, needs, inputs)
    broken.remove()
    assert_restored()
    torch.testing.assert_close(taken(model, needs, inputs).qkv[0], taken(model, needs, inputs).qkv[0])


@pytest.mark.parametrize("no_grad", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("one_config", [False, True])
def test_teacher_inside_student(no_grad: Any, one_config: bool) -> None:
    student, teacher, inputs = tiny("bert", seed=1), tiny("bert", seed=2), batch()
    if one_config:  # two models built from one configuration object
        teacher = type(teacher)(student.config).eval()
    alone = (
        taken(student, Needs(qkv=frozenset({0})), inputs),
        taken(teacher, Needs(qkv=frozenset({2})), inputs),
    )
    with capture(student, Needs(qkv=frozenset({0}))) as of_student:
        with capture(teacher, Needs(qkv=frozenset({2}))) as of_teacher, no_grad():
            teacher_outputs = teacher(**inputs)
        student_outputs = student(**inputs)
    found = of_student.activations(student_outputs), of_teacher.activations(teacher_outputs)
    assert found[0].qkv.keys() == {0} and found[1].qkv.keys() == {2}
    torch.testing.assert_close(found[0].qkv[0].query, alone[0].qkv[0].query)
    torch.testing.assert_close(found[1].qkv[2].query, alone[1].qkv[2].query.detach())
    assert found[0].qkv[0].query.requires_grad and not found[1].qkv[2].query.requires_grad
    found[0].qkv[0].query.sum().backward()
    assert student.config._attn_implementation == teacher.config._attn_implementation == "sdpa"


def test_a_second_forward_replaces_the_first() -> None:
    model, inputs = tiny("albert"), batch()
    expected = taken(model, Needs(qkv=ALL_LAYERS), inputs)
    with capture(model, Needs(qkv=ALL_LAYERS)) as recorder:
        model(**batch(rows=2))
        outputs = model(**inputs)
    found = recorder.activations(outputs)
    assert found.qkv.keys() == ALL_LAYERS
    torch.testing.assert_close(found.qkv[2], expected.qkv[2])


def test_gradient_checkpointing() -> None:
    inputs, needs = batch(), Needs(hidden=frozenset({2}), qkv=frozenset({0, 2}))
    gradients = []
    for options in (None, {"use_reentrant": False}):
        model = tiny("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
        if options:
            model.gradient_checkpointing_enable(options)
        with capture(model, needs) as recorder:
            found = recorder.activations(model(**inputs))
            loss = found.logits.sum() + scores_of(found.qkv[2]).square().sum() + found.hidden[2].square().sum()
            loss.backward()  # inside the block: layers run again, and are not recorded again
        assert found.qkv.keys() == {0, 2}
        gradients.append([p.grad for p in model.bert.encoder.parameters()])
    torch.testing.assert_close(*gradients)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(KdzooError, match="use_reentrant"):
        taken(model, needs, inputs)


@pytest.mark.slow
def test_a_compiled_model() -> None:
    model, inputs, needs = tiny("bert"), batch(), Needs(hidden=frozenset({1}), qkv=frozenset({1}))
    expected = taken(model, needs, inputs)
    compiled = torch.compile(model, backend="eager")
    compiled(**inputs)  # traced before anything was captured
    for _ in range(2):
        found = taken(compiled, needs, inputs)
        torch.testing.assert_close(found.qkv[1], expected.qkv[1])
        torch.testing.assert_close(found.hidden[1], expected.hidden[1])
    assert unwrap(compiled) is model


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (Needs(hidden=frozenset({4})), "3 layers: hidden state 4 is not in 0 to 3"),
        (Needs(cls=frozenset({-1})), "3 layers: hidden state -1 is not in 0 to 3"),
        (Needs(qkv=frozenset({0, 3})), "3 layers: attention layer 3 is not in 0 to 2"),
    ],
)
def test_indices_out_of_range(needs: Needs, message: str) -> None:
    with pytest.raises(KdzooError, match=message), capture(tiny("distilbert"), needs):
        pass


def test_misuse_is_named() -> None:
    model, inputs = tiny("bert"), batch()
    with capture(model, Needs()) as recorder, pytest.raises(KdzooError, match="run the model inside"):
        recorder.activations(None)
    with capture(model, Needs(cls=frozenset({0}))) as recorder:
        outputs = model(**inputs, return_dict=False)
    with pytest.raises(KdzooError, match="no logits"):
        recorder.activations(outputs)
    found = taken(model, Needs(logits=False, cls=frozenset({0})), inputs)
    with pytest.raises(KdzooError, match="did you mean 'hidden'"):
        found.get("hiden", 0)
    with pytest.raises(KdzooError, match=r"cls of layer 1 was not captured; captured: \[0\]"):
        found.get("cls", 1)
    with pytest.raises(KdzooError, match="logits were not captured"):
        found.get("logits")
    assert found.get("cls", 0) is found.cls[0]


def test_needs_add_up() -> None:
    both = Needs(logits=False, cls=frozenset({1})) | Needs(cls=frozenset({2}), qkv=frozenset({0}))
    assert both == Needs(logits=True, cls=frozenset({1, 2}), qkv=frozenset({0}))


@pytest.mark.parametrize("family", FAMILIES)
def test_model_facts(family: str) -> None:
    config = tiny(family).config
    assert (num_layers(config), hidden_size(config), num_heads(config)) == (LAYERS, WIDTH, HEADS)


@pytest.mark.parametrize("family", FAMILIES)
def test_embedding_output_is_recorded_and_perturbed(family: str) -> None:
    model, inputs = tiny(family), batch()
    with embedding_output(model) as embedded:
        loss = model(**inputs).logits.square().sum()
    (gradient,) = torch.autograd.grad(loss, embedded.value)
    assert gradient.shape[:2] == inputs["input_ids"].shape and gradient.abs().sum() > 0
    with torch.no_grad():
        with embedding_output(model, 1e-4 * gradient / gradient.norm()) as again:
            moved = model(**inputs).logits.square().sum()
        with embedding_output(model, torch.zeros_like(gradient)):
            unmoved = model(**inputs).logits.square().sum()
    torch.testing.assert_close(again.value, embedded.value.detach())  # recorded before the perturbation
    torch.testing.assert_close(unmoved, loss.detach())
    torch.testing.assert_close((moved - loss) / 1e-4, gradient.norm(), rtol=0.05, atol=0.05)
    with pytest.raises(KdzooError, match="perturbation is"), embedding_output(model, gradient[:, :1]):
        model(**inputs)
    assert not embeddings_module(model)._forward_hooks


def test_frozen_embeddings_still_give_a_gradient() -> None:
    model, inputs = tiny("bert"), batch()
    model.bert.embeddings.requires_grad_(False)
    with embedding_output(model) as embedded:
        loss = model(**inputs).logits.sum()
    assert torch.autograd.grad(loss, embedded.value)[0].abs().sum() > 0


def test_needs_of_none_are_named():
    with pytest.raises(KdzooError, match="the needs are None, so this model need not run"), capture(tiny("bert"), None):
        pass
