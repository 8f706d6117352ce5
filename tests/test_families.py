"""Capture of models that are not simply bidirectional: what is taken is what it is taken for, whatever the family."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import SEQUENCE, VOCABULARY, batch, tiny
from torch import Tensor

import kdzoo
from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.models.activations import Activations, Needs, capture
from kdzoo.models.heads import batch_dependence, shows_qkv
from kdzoo.models.spec import ModelSpec
from kdzoo.models.students import make_student
from kdzoo.objectives.objective import Objective
from kdzoo.objectives.term import Term
from kdzoo.training.kept import why_not_kept

SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 2,
    "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3,
}  # fmt: skip
_HEADS = {"num_labels": 2, "vocab_size": VOCABULARY, "pad_token_id": 0}
_XLM = _HEADS | {
    "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64, "pad_index": 0, "dropout": 0.0,
    "embed_init_std": 1.0, "init_std": 0.3,
}  # fmt: skip
_XLNET = _HEADS | {
    "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "initializer_range": 0.3, "summary_last_dropout": 0.0
}  # fmt: skip
_GROUPS = {f"{part}_groups": 1 for part in ("q", "k", "v", "post_attention", "intermediate", "output")}
_LLAMA = SIZES | {"num_key_value_heads": 2, "attention_dropout": 0.0}
FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    "XLNet": (
        _XLNET,
        "",  # its one rate is that of the states too
    ),
    "XLM": (_XLM, "attention_dropout"),
    "Flaubert": (_XLM, "attention_dropout"),
    "SqueezeBert": (
        SIZES | _GROUPS | {"embedding_size": 32},
        "attention_probs_dropout_prob",
    ),
    "MPNet": (SIZES, "attention_probs_dropout_prob"),
    "DebertaV2": (SIZES | {"relative_attention": True, "pos_att_type": ["c2p"]}, "attention_probs_dropout_prob"),
    "Deberta": (SIZES | {"relative_attention": True, "pos_att_type": ["c2p"]}, "attention_probs_dropout_prob"),
    "BigBird": (SIZES | {"attention_type": "original_full"}, "attention_probs_dropout_prob"),
}  # fmt: skip


def made(family: str, sizes: dict[str, Any], seed: int = 0, **options: Any) -> Any:
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = getattr(transformers, f"{family}Config")(**sizes, **options)
        return getattr(transformers, f"{family}ForSequenceClassification")(config).eval()


def taken(model: Any, inputs: dict[str, Tensor], needs: Needs) -> Activations:
    with torch.no_grad(), capture(model, needs) as recorder:
        return recorder.activations(model(**inputs), mask=inputs["attention_mask"])


def padded_left(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    rolls = [int((row == 0).sum()) for row in inputs["attention_mask"]]
    return {k: torch.stack([row.roll(n) for row, n in zip(v, rolls, strict=True)]) for k, v in inputs.items()}


# --- attention that is not shown through the interface ----------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_what_the_softmax_is_taken_of(family: str) -> None:
    sizes, rate = FAMILIES[family]
    inputs, needs = batch(), Needs(qkv=frozenset({0, 1}))
    model = made(family, sizes)
    quiet = taken(model, inputs, needs).qkv
    real = inputs["attention_mask"].bool()
    assert all(torch.isfinite(quiet[layer]).all() for layer in (0, 1))
    shown = model(**inputs, output_attentions=True).attentions[1]
    if family == "SqueezeBert":  # which returns scores by that name
        shown = shown.softmax(-1)
    torch.testing.assert_close(quiet[1].softmax(-1).transpose(1, 2)[real], shown.transpose(1, 2)[real])
    if rate:
        dropping = made(family, sizes | {rate: 0.5}).train()
        dropping.load_state_dict(model.state_dict())
        found = taken(dropping, inputs, needs).qkv
        # The first layer is given the same states; what it shows is not what dropout leaves of it.
        torch.testing.assert_close(found[0].transpose(1, 2)[real], quiet[0].transpose(1, 2)[real])


def test_scores_of_mpnet_are_those_of_its_queries_and_keys_and_its_bias() -> None:
    models, inputs = [made("MPNet", SIZES | {"initializer_range": 0.3}, seed).double() for seed in (0, 1)], batch()
    real = inputs["attention_mask"].bool()
    pairs = (real[:, None, :] & real[:, :, None])[:, None].expand(-1, 4, -1, -1)
    expected = []
    for model in models:
        encoder = model.mpnet.encoder
        with torch.no_grad():
            states = model(**inputs, output_hidden_states=True).hidden_states[1]
            attention = encoder.layer[1].attention.attn
            query, key = (of(states).unflatten(-1, (4, 8)).transpose(1, 2) for of in (attention.q, attention.k))
            expected.append(query @ key.mT / math.sqrt(8) + encoder.compute_position_bias(states))
        found = taken(model, inputs, Needs(qkv=frozenset({1}))).qkv[1]
        torch.testing.assert_close(found[pairs], expected[-1][pairs])
    objective = Objective([Term("attention_mse", layers=[(1, 1)])]).bind(*models)
    sides = [taken(model, inputs, Needs(qkv=frozenset({1}))) for model in models]
    value = objective(*sides).total.item()
    assert value == pytest.approx(float(((expected[0] - expected[1])[pairs] ** 2).mean()))


def test_their_gradient_is_exact() -> None:
    model = made("MPNet", FAMILIES["MPNet"][0]).train()
    inputs = batch()
    with capture(model, Needs(qkv=frozenset({1}))) as recorder:
        found = recorder.activations(model(**inputs), mask=inputs["attention_mask"])
    weight = model.mpnet.encoder.layer[0].attention.attn.q.weight
    (slope,) = torch.autograd.grad(found.qkv[1].softmax(-1)[..., 0].sum(), weight)
    shown = model(**inputs, output_attentions=True).attentions[1]
    (expected,) = torch.autograd.grad(shown[..., 0].sum(), weight)
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("left", [False, True])
def test_a_query_in_padding_sees_the_real_keys_alike(left: bool) -> None:
    """Where DeBERTa hides all keys from it, and a loss counts it."""
    inputs = padded_left(batch()) if left else batch()
    teacher, student = made("DebertaV2", FAMILIES["DebertaV2"][0]), made("Bert", SIZES, 1)
    real = inputs["attention_mask"].bool()
    total, count = 0.0, 0
    student.set_attn_implementation("eager")
    shown = [model(**inputs, output_attentions=True).attentions[1].double() for model in (student, teacher)]
    student.set_attn_implementation("sdpa")
    for row, keys in enumerate(real):
        for query in range(SEQUENCE):
            ours, theirs = (side[row, :, query, keys] for side in shown)
            theirs = theirs if real[row, query] else torch.full_like(theirs, 1 / int(keys.sum()))
            total -= float((theirs * ours.log()).sum().detach())
            count += 4
    found = kl(student, teacher, inputs, "mobilebert", feature="qkv", variant="released", layers=[(1, 1)])
    assert found == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize("family", ["Bloom", "GPTJ", "GPTNeo", "Mpt", "OpenAIGPT"])
def test_scores_of_causal_models_are_compared_where_they_are_seen(family: str) -> None:
    sizes: dict[str, Any] = {
        "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
        "GPTJ": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 64},
        "GPTNeo": {
            "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 3, "max_position_embeddings": 64,
            "attention_types": [[["global", "local"], 1]],
        },
        "Mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
        "OpenAIGPT": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    }[family]  # fmt: skip
    known = {"initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2}
    models, inputs = [made(family, _HEADS | known | sizes, seed) for seed in (0, 1)], batch()
    real, places = inputs["attention_mask"].bool(), torch.arange(SEQUENCE)
    seen = (places[:, None] >= places) & real[:, None, :] & real[:, :, None]
    if family == "GPTNeo":
        seen = seen & (places[:, None] - places < 3)
    needs = Needs(cls=frozenset({2}), qkv=frozenset({1}))
    sides = [taken(model, inputs, needs) for model in models]
    differences = (sides[0].qkv[1] - sides[1].qkv[1]).transpose(0, 1)[:, seen] ** 2
    assert kl(*models, inputs, "attention_mse", layers=[(1, 1)]) == pytest.approx(float(differences.mean()), rel=1e-4)
    bert = made("Bert", SIZES, 2)
    assert 0 < kl(bert, models[0], inputs, "attention_mse", layers=[(1, 1)]) < 1e4
    last = real.sum(1) - 1
    states = models[0](**inputs, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(sides[0].cls[2], states[torch.arange(len(last)), last])


def test_their_gradient_under_checkpointing() -> None:
    inputs, needs, gradients = batch(), Needs(qkv=frozenset({0, 1})), []
    for options in (None, {"use_reentrant": False}):
        model = made("DebertaV2", FAMILIES["DebertaV2"][0]).train()
        if options:
            model.gradient_checkpointing_enable(options)
        with capture(model, needs) as recorder:
            found = recorder.activations(model(**inputs), mask=inputs["attention_mask"])
            sum(found.qkv[layer].softmax(-1)[..., 0].sum() for layer in (0, 1)).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) > 10
    torch.testing.assert_close(*gradients)


@pytest.mark.slow
def test_their_scores_in_a_compiled_model() -> None:
    model, inputs, needs = made("MPNet", SIZES), batch(), Needs(qkv=frozenset({0, 1}))
    expected = taken(model, inputs, needs)
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        found = taken(compiled, inputs, needs)
        torch.testing.assert_close({**found.qkv}, {**expected.qkv})


def big_bird(seed: int = 0) -> Any:
    return made("BigBird", SIZES | {"attention_type": "block_sparse", "block_size": 2, "num_random_blocks": 1}, seed)


def test_a_model_without_such_a_softmax_is_refused() -> None:
    inputs = {k: torch.ones(2, 32, dtype=torch.long) for k in ("input_ids", "attention_mask")}
    with pytest.raises(KdzooError, match="BigBirdForSequenceClassification shows no attention that can be captured"):
        taken(big_bird(), inputs, Needs(qkv=frozenset({1})))
    taken(big_bird(), inputs, Needs(hidden=frozenset({1})))


def test_a_short_batch_leaves_a_bigbird_sparse(tmp_path: Any) -> None:
    """transformers goes over to full attention for short rows and stays there, so that order would decide."""
    from test_trainer import trainer
    from tiny_data import rows

    from kdzoo.training.cache import TeacherCache

    short, generator = batch(), torch.Generator().manual_seed(2)
    ids = torch.randint(5, VOCABULARY, (2, 32), generator=generator)
    long, needs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, Needs(hidden=frozenset({2}))
    torch.manual_seed(0)  # its blocks are drawn
    alone = taken(big_bird(), long, needs)
    model = big_bird()
    taken(model, short, needs)
    torch.manual_seed(0)
    torch.testing.assert_close(taken(model, long, needs).hidden[2], alone.hidden[2])
    full = made("BigBird", SIZES | {"attention_type": "original_full"})
    inputs = short | {"input_ids": short["input_ids"][:, :6], "attention_mask": short["attention_mask"][:, :6]}
    torch.testing.assert_close(taken(model, inputs, needs).hidden[2], taken(full, inputs, needs).hidden[2])

    cache, objective = TeacherCache(tmp_path / "cache"), Objective([Term("kd")])
    trained = trainer(
        tmp_path, objective=objective, model=big_bird(1), guide=model, max_steps=2, data=rows(8, length=6),
        also={"cache": cache, "eval_dataset": rows(4, length=6).map(lambda row: {"labels": 0})},
    )  # fmt: skip
    with pytest.warns(KdzooWarning, match="its attention is sparse or full, by the longest row of the batch"):
        trained.train()
    trained.evaluate()
    assert model.bert.attention_type == trained.student.bert.attention_type == "block_sparse"


# --- which keys a query sees ------------------------------------------------------------------------------------------


def reference(student: Any, teacher: Any, inputs: dict[str, Tensor], seen: Tensor) -> float:
    """attention_kl of layer 1 from the probabilities that eager attention returns, over the pairs that are seen."""
    probabilities = []
    for model in (student, teacher):
        model.set_attn_implementation("eager")
        probabilities.append(model(**inputs, output_attentions=True).attentions[1].double())
        model.set_attn_implementation("sdpa")
    ours, theirs = probabilities
    total, count = 0.0, 0
    for row in range(len(seen)):
        for query in range(seen.shape[1]):
            keys = seen[row, query].nonzero().flatten()
            if len(keys):
                s, t = ours[row, :, query, keys], theirs[row, :, query, keys]
                s, t = s / s.sum(-1, keepdim=True), t / t.sum(-1, keepdim=True)
                total += float((t * (t / s).log()).sum().detach())
                count += 4
    return total / count


def kl(student: Any, teacher: Any, inputs: dict[str, Tensor], loss: str = "attention_kl", **options: Any) -> float:
    objective = Objective([Term(loss, **options)]).bind(student, teacher)
    needs = objective.needs(0.0)
    assert needs[1] is not None
    sides = [taken(model, inputs, need) for model, need in zip((student, teacher), needs, strict=True)]
    return float(objective(*sides)[0])


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(("family", "window"), [("Llama", None), ("Mistral", None), ("Mistral", 3), ("GPT2", None)])
def test_causal_attention_is_compared_where_it_is(family: str, window: int | None, padded: bool) -> None:
    sizes = _LLAMA | ({"sliding_window": window} if family == "Mistral" else {})
    if family == "GPT2":
        sizes = _HEADS | {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "initializer_range": 0.3,
            "attn_pdrop": 0.0,
        }
    models = [made(family, sizes, seed).eval() for seed in (1, 2)]
    inputs = batch(padded=padded)
    real = inputs["attention_mask"].bool()
    places = torch.arange(SEQUENCE)
    seen = (places[:, None] >= places) & real[:, None, :] & real[:, :, None]
    if window:
        seen = seen & (places[:, None] - places < window)
    expected = reference(*models, inputs, seen)
    found = kl(*models, inputs, layers=[(1, 1)])
    assert found == pytest.approx(expected, rel=1e-4)
    assert kl(*models, inputs, "attention_ce", layers=[(1, 1)]) > found  # and the entropy
    everything = reference(*models, inputs, real[:, None, :] & real[:, :, None]) if padded else math.nan
    assert found != pytest.approx(everything, rel=1e-3)


def test_a_mask_of_pairs_is_the_models_own() -> None:
    """A prefix mask (B, 1, S, S): the first tokens see each other, the others what stands before them."""
    models = [made("Bert", SIZES, seed) for seed in (1, 2)]
    inputs = batch()
    real, places = inputs["attention_mask"].bool(), torch.arange(SEQUENCE)
    seen = ((places[:, None] >= places) | (places < 4)) & real[:, None, :] & real[:, :, None]
    added = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min).unsqueeze(1)
    expected = reference(*models, inputs | {"attention_mask": added}, seen)
    for mask in (seen.unsqueeze(1), added):
        assert kl(*models, inputs | {"attention_mask": mask}, layers=[(1, 1)]) == pytest.approx(expected, rel=1e-4)


def test_causal_xlm_is_compared_where_it_is() -> None:
    models = [made("XLM", _XLM | {"causal": True}, seed) for seed in (1, 2)]
    inputs = batch()
    real, places = inputs["attention_mask"].bool(), torch.arange(SEQUENCE)
    seen = (places[:, None] >= places) & real[:, None, :] & real[:, :, None]
    found = kl(*models, inputs, layers=[(1, 1)])
    shown = [model(**inputs, output_attentions=True).attentions[1].double() for model in models]
    terms = (shown[1] * (shown[1].clamp_min(1e-300).log() - shown[0].clamp_min(1e-300).log())).masked_fill(
        ~seen[:, None], 0
    )
    assert found == pytest.approx(float(terms.sum(-1).transpose(1, 2)[real].mean()), rel=1e-4)


def test_causal_attention_is_known_not_to_be_kept() -> None:
    """Before any row is read, where it was said to be kept; a window may be as wide as the rows are long."""
    llama, bert = made("Llama", _LLAMA), made("Bert", SIZES)
    assert why_not_kept(llama, Needs(qkv=frozenset({1}))) == "its attention is causal"
    assert why_not_kept(llama, Needs(hidden=frozenset({1}))) is None is why_not_kept(bert, Needs(qkv=frozenset({1})))


def test_causal_attention_that_others_need_is_in_nobodys_way(tmp_path: Path) -> None:
    from test_cache import agree, live, opened

    from kdzoo.training.cache import TeacherCache

    llama, needs = made("Llama", _LLAMA), Needs(hidden=frozenset({1}))
    kept = opened(TeacherCache(tmp_path, ahead=Needs(qkv=frozenset({1}), hidden=frozenset({2}))), llama, needs=needs)
    found = live(llama, [1, 5], needs)
    agree(kept.activations(torch.tensor([1, 5]), found.mask, needs), found, needs)
    assert [*tmp_path.rglob("hidden-2*")] and not [*tmp_path.rglob("qkv*")]


def test_all_layers_at_once_see_the_same_or_are_refused() -> None:
    models = [made("Llama", _LLAMA, seed) for seed in (1, 2)]
    inputs = batch()
    assert math.isfinite(kl(*models, inputs, "bert_emd", feature="qkv"))
    mixed = [made("Llama", _LLAMA, 1), made("Bert", SIZES, 2)]
    assert math.isfinite(kl(*mixed, inputs, "bert_emd", feature="qkv"))
    windows = made(
        "ModernBert",
        SIZES | {"local_attention": 4, "bos_token_id": 1, "eos_token_id": 2, "global_attn_every_n_layers": 2},
    )
    with pytest.raises(
        KdzooError, match="'bert_emd' takes all layers at once, and these do not all see the same tokens"
    ):
        kl(windows, made("Bert", SIZES, 2), inputs, "bert_emd", feature="qkv")


# --- the state that the head reads ------------------------------------------------------------------------------------


def test_cls_is_the_first_real_token() -> None:
    model, inputs = made("Bert", SIZES), padded_left(batch())
    found = taken(model, inputs, Needs(cls=frozenset({2})))
    states = model(**inputs, output_hidden_states=True).hidden_states[2]
    first = inputs["attention_mask"].argmax(1)
    assert (first > 0).any()
    for row, place in enumerate(first):
        assert torch.equal(found.cls[2][row], states[row, place])


@pytest.mark.parametrize("left", [True, False])
def test_cls_of_xlnet_is_what_its_head_reads(left: bool) -> None:
    model = made("XLNet", FAMILIES["XLNet"][0])
    inputs = padded_left(batch()) if left else batch()
    with torch.no_grad(), capture(model, Needs(cls=frozenset({2}))) as recorder:
        outputs = model(**inputs)
        cls = recorder.activations(outputs, mask=inputs["attention_mask"]).cls[2]
    torch.testing.assert_close(model.logits_proj(torch.tanh(model.sequence_summary.summary(cls))), outputs.logits)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_cls_of_causal_models_is_the_last_real_token(family: str, left: bool) -> None:
    sizes = _LLAMA if family == "Llama" else _HEADS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    model, inputs = made(family, sizes), padded_left(batch()) if left else batch()
    with torch.no_grad(), capture(model, Needs(cls=frozenset({2}))) as recorder:
        outputs = model(**inputs)
        cls = recorder.activations(outputs, mask=inputs["attention_mask"]).cls[2]
    torch.testing.assert_close(model.score(cls), outputs.logits)


def test_pooled_is_the_mean_over_real_tokens_or_the_models_own() -> None:
    model, inputs = made("Bert", SIZES), batch()
    needs = Needs(pooled=frozenset({1}), hidden=frozenset({1}))
    found = taken(model, inputs, needs)
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        torch.testing.assert_close(found.pooled[1][row], found.hidden[1][row, mask].mean(0))
    model.pooled = lambda states, mask: states.amax(1)
    assert torch.equal(taken(model, inputs, needs).pooled[1], found.hidden[1].amax(1))


# --- models that are none of these ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, 1.5, None, "12", True])
def test_a_broken_configuration_is_refused(value: Any) -> None:
    from transformers import BertConfig

    from kdzoo.models.heads import hidden_size, num_heads, num_layers

    for read, name in (
        (hidden_size, "hidden_size"),
        (num_heads, "num_attention_heads"),
        (num_layers, "num_hidden_layers"),
    ):
        config = BertConfig()
        object.__setattr__(config, name, value)
        with pytest.raises(
            KdzooError, match=f"the configuration of 'bert' has {name}={value!r}; it must be a whole number"
        ):
            read(config)


_FUNNEL = {"block_sizes": [2, 2], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48} | _HEADS
_CANINE = {name: value for name, value in SIZES.items() if name not in ("vocab_size", "initializer_range")} | {
    "bos_token_id": 1, "eos_token_id": 2
}  # fmt: skip
_FNET = {name: value for name, value in SIZES.items() if "attention" not in name}


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("term", ["hidden_mse", "cosine@pooled", "attention_kl", "embedding_mse"])
def test_pooled_tokens_are_refused_before_the_first_batch(term: str, side: str) -> None:
    models = {"student": made("Bert", SIZES | {"num_hidden_layers": 4}), "teacher": made("Funnel", _FUNNEL)}
    if side == "student":
        models = {"student": models["teacher"], "teacher": models["student"]}
    loss, _, feature = term.partition("@")
    objective = Objective([Term(loss, feature=feature or None)])
    if term == "embedding_mse":  # before anything is pooled
        objective.bind(models["student"], models["teacher"])
        return
    with pytest.raises(KdzooError, match="FunnelForSequenceClassification pools tokens: after hidden state 2"):
        objective.bind(models["student"], models["teacher"])
    with pytest.raises(KdzooError, match="pools tokens"), capture(models[side], Needs(pooled=frozenset({3}))):
        pass
    Objective([Term("hidden_mse", layers=[(1, 1), (2, 2)])]).bind(models["student"], models["teacher"])


def test_hidden_states_that_are_not_one_a_layer_are_refused() -> None:
    several = _FUNNEL | {"block_repeats": [1, 2]}
    for model in (made("Funnel", several), made("Canine", _CANINE | {"downsampling_rate": 4})):
        with pytest.raises(KdzooError, match="does not show one hidden state a layer; take a loss on logits"):
            Objective([Term("pkd")]).bind(model, model)
        Objective([Term("kd")]).bind(model, model)


def test_no_student_is_made_in_the_form_of_blocks_that_pool() -> None:
    for size in ("1x32", "teacher:0,1"):
        with pytest.raises(KdzooError, match="a funnel has its layers in blocks that pool tokens"):
            make_student(size, made("Funnel", _FUNNEL))


def test_hidden_states_of_a_family_nobody_knows_are_counted_and_measured() -> None:
    model, inputs = made("Bert", SIZES), batch()
    mask = inputs["attention_mask"]
    for change, needs, said in (
        (lambda states: [*states, states[-1]], Needs(cls=frozenset({1})), "has 2 layers and shows 4 hidden states"),
        (lambda states: [s[:, ::2] for s in states], Needs(hidden=frozenset({1})), "7 places for 13 tokens"),
        (lambda states: [s[:, ::2] for s in states], Needs(pooled=frozenset({1})), "7 places for 13 tokens"),
    ):  # fmt: skip
        with torch.no_grad(), capture(model, needs) as recorder:
            outputs = model(**inputs)
            outputs.hidden_states = change(model.bert(**inputs, output_hidden_states=True).hidden_states)
            with pytest.raises(KdzooError, match=said):
                recorder.activations(outputs, mask=mask)
    model = made("Funnel", _FUNNEL)
    assert taken(model, inputs, Needs(cls=frozenset({4}))).cls[4].shape == (4, 32)
    with pytest.raises(KdzooError, match="hidden state 4 of FunnelForSequenceClassification has 7 places for 13"):
        taken(model, padded_left(inputs), Needs(cls=frozenset({4})))


def test_only_attention_needs_heads() -> None:
    model, bert = made("FNet", _FNET), made("Bert", SIZES)
    model.config.num_attention_heads = None  # as in a config.json that says so
    for loss in ("kd", "pkd", "hidden_mse"):
        for pair in ((bert, model), (model, bert)):
            Objective([Term(loss)]).bind(*pair)
    for loss in ("attention_kl", "minilmv2"):
        with pytest.raises(KdzooError, match="FNetForSequenceClassification has no attention heads to compare"):
            Objective([Term(loss)]).bind(bert, model)
    student = ModelSpec.parse("2x16").student_of(model)
    assert student.config.hidden_size == 16 and student.config.num_attention_heads is None
    with pytest.raises(KdzooError, match=r"the teacher \(fnet\) has no heads; leave heads= out"):
        ModelSpec.parse("2x16,heads=2").student_of(model)
    assert batch_dependence(model) == "it takes no attention mask, so that a row's padding changes it"
    assert batch_dependence(bert) is None


def test_heads_without_logits_say_what_there_is() -> None:
    from transformers import BertConfig, BertModel

    sizes = {name: value for name, value in SIZES.items() if name != "num_labels"}
    model = BertModel(BertConfig(**sizes)).eval()
    with pytest.raises(
        KdzooError, match=r"BaseModelOutput\w+ has no logits, which the objective compares; it has last_hidden_state"
    ):
        taken(model, batch(), Needs())
    taken(model, batch(), Needs(logits=False, cls=frozenset({2})))


# --- what the guide says ----------------------------------------------------------------------------------------------


def test_the_guide_says_which_families_give_queries_and_keys() -> None:
    """The table of docs/own-loop.md: by row, whether queries, keys and values come out, and the losses that work."""
    page = (Path(__file__).parents[1] / "docs" / "own-loop.md").read_text(encoding="utf-8")
    shown, hidden = (line for line in page.splitlines() if "`activations." in line and line.startswith("| "))
    plain = {name.casefold(): name for name in ("BERT", "RoBERTa", "DistilBERT", "ALBERT", "ELECTRA", "ModernBERT")}
    for family in (*plain, "eurobert"):
        assert plain.get(family, "EuroBERT") in shown and shows_qkv(tiny(family)), family
    for family, (sizes, _) in FAMILIES.items():
        if family not in ("BigBird",):
            assert not shows_qkv(made(family, sizes))
            assert family.removesuffix("V2").casefold() in hidden.casefold(), family
    model = tiny("deberta")
    for loss in kdzoo.available():
        if kdzoo.describe(loss).features[0] == "qkv":
            try:
                Objective([Term(loss)]).bind(model, model)
                works = True
            except KdzooError:
                works = False
            assert works == (f"`{loss}`" in hidden), loss
