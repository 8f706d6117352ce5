"""Attention of decoders, to their own tokens and to the source: captured, compared, weighed, refused."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generation_models import family, inputs, made, model
from references import cos_nce as cos_nce_reference
from tasks_by_unit import compared, losses, trainer

import kdzoo
from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.models.activations import Needs, capture
from kdzoo.training.accumulation import shares
from kdzoo.training.cache import TeacherCache

LAYERS = {"student": 1, "teacher": 2}  # of the decoders; the maps below are 0 to 1, the top on the top


def pair(name: str, tokenizer: Any) -> tuple[Any, Any]:
    """A student with one layer in each stack and a teacher with three and two, with attention far from even."""
    teacher = family(name, len(tokenizer))
    config = teacher.config.to_dict()
    depths = {"encoder_layers": 1, "decoder_layers": 1, "num_layers": 1, "num_decoder_layers": 1}
    small = type(teacher.config).from_dict(config | {key: value for key, value in depths.items() if key in config})
    models = type(teacher)(small).eval(), teacher
    with torch.no_grad():
        for one in models:
            for key, parameter in one.named_parameters():
                if parameter.dim() > 1:
                    wide = "relative" in key or key.split(".")[-2] in ("q_proj", "k_proj", "q", "k")
                    parameter.normal_(std=1.5 if wide else 0.3)
    return models


def projected(one: Any, taken: dict[str, Any], cross: bool) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Of each decoder layer the queries and keys (B, A, T, d), scaled, and the bias, off its own projections."""
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []
    seen: dict[str, torch.Tensor] = {}
    hooks, names, biases = [], [], None
    for key, part in one.get_decoder().named_modules():
        kind = "encoder_attn" if cross else "self_attn"
        if "T5" in type(one).__name__:
            kind = "EncDecAttention" if cross else "SelfAttention"
            if key.endswith(f"{kind}.relative_attention_bias"):
                biases = part
        if key.rsplit(".", 2)[-2:-1] == [kind] and key.rsplit(".", 1)[-1] in ("q_proj", "k_proj", "q", "k"):
            names.append(key)
            hooks.append(part.register_forward_hook(lambda _, __, out, key=key: seen.__setitem__(key, out)))
    with torch.no_grad():
        one(**taken)
    for hook in hooks:
        hook.remove()
    for query, key in zip((n for n in names if ".q" in n[-7:]), (n for n in names if ".k" in n[-7:]), strict=True):
        parts = [
            seen[name].double().numpy().reshape(*seen[name].shape[:2], 2, 8).swapaxes(1, 2) for name in (query, key)
        ]
        bias = None
        if "T5" in type(one).__name__ and not cross:
            attention = one.get_decoder().block[0].layer[0].SelfAttention
            assert biases is attention.relative_attention_bias
            length = parts[0].shape[2]
            bias = attention.compute_bias(length, length)[0].detach().double().numpy()
        scale = 1.0 if "T5" in type(one).__name__ else 8**-0.5
        found.append((parts[0] * scale, parts[1], bias))
    return found


def log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.parametrize("name", ["Bart", "T5"])
@pytest.mark.parametrize("feature", ["cross_qkv", "decoder_qkv"])
def test_values_are_those_of_single_rows_without_padding(name: str, feature: str) -> None:
    torch.manual_seed(secrets.randbits(32))
    task, _, rows, tokenizer = made()
    order = np.argsort(rows["length"])
    batch = task.collator(tokenizer)([rows[int(at)] for at in (order[0], order[7], order[-1])])
    # In float64, since attention so far from even makes much of a forward pass's rounding.
    student, teacher = (one.double() for one in pair(name, tokenizer))
    taken = inputs(batch, student)
    objective = kdzoo.Objective(f"attention_mse@{feature} + attention_kl@{feature} + attention_ce@{feature}")
    found = compared(objective, student, teacher, batch | taken)

    sides = [projected(one, taken, feature == "cross_qkv")[-1] for one in (student, teacher)]
    sums, pairs, queries = dict.fromkeys(("mse", "kl", "ce"), 0.0), 0, 0
    for row in range(3):
        sources, targets = (int(of[row]) for of in (batch["attention_mask"].sum(1), (batch["labels"] != -100).sum(1)))
        for head in range(2):
            for place in range(targets):
                length = sources if feature == "cross_qkv" else place + 1  # no token of a target sees those behind it
                ours, theirs = (
                    key[row, head, :length] @ query[row, head, place]
                    + (0 if bias is None else bias[head, place, :length])
                    for query, key, bias in sides
                )
                sums["mse"] += ((ours - theirs) ** 2).sum()
                ours, theirs = log_softmax(ours), log_softmax(theirs)
                sums["kl"] += (np.exp(theirs) * (theirs - ours)).sum()
                sums["ce"] -= (np.exp(theirs) * ours).sum()
                pairs, queries = pairs + length, queries + 1
    assert found["attention_mse"] == pytest.approx(sums["mse"] / pairs, rel=1e-9)
    assert found["attention_kl"] == pytest.approx(sums["kl"] / queries, rel=1e-9)
    assert found["attention_ce"] == pytest.approx(sums["ce"] / queries, rel=1e-9)
    assert found["attention_kl"] > 0.01


@pytest.mark.parametrize("name", ["Bart", "T5", "Marian", "EncoderDecoder"])
def test_captured_attention_is_the_model_s(name: str) -> None:
    task, _, rows, tokenizer = made()
    batch = task.collator(tokenizer)([rows[at] for at in range(3)])
    teacher = family(name, len(tokenizer))
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.normal_(std=0.4) if parameter.dim() > 1 else None
    taken = inputs(batch, teacher)
    needs = Needs(qkv=frozenset({1}), decoder_qkv=frozenset({0, 1}), cross_qkv=frozenset({0, 1}))
    with torch.no_grad(), capture(teacher, needs) as recorder:
        outputs = teacher(**taken)
        found = recorder.activations(outputs, mask=taken["attention_mask"])
    teacher.set_attn_implementation("eager")
    with torch.no_grad():
        whole = teacher(**taken, output_attentions=True)
    torch.testing.assert_close(outputs.logits, whole.logits, atol=1e-4, rtol=1e-4)
    real, target = found.mask, found.target_mask
    kinds = {"qkv": whole.encoder_attentions, "cross_qkv": whole.cross_attentions}
    for feature, probabilities in (kinds | {"decoder_qkv": whole.decoder_attentions}).items():
        for layer, qkv in getattr(found, feature).items():
            scores = qkv if isinstance(qkv, torch.Tensor) else qkv.query @ qkv.key.mT / qkv.query.shape[-1] ** 0.5
            seen = found.decoder_visible[layer][:, None] if feature == "decoder_qkv" else real[:, None, None]
            own = scores.masked_fill(~seen, -1e30).softmax(-1)
            rows_of = (real if feature == "qkv" else target)[:, None, :, None]
            torch.testing.assert_close(own * rows_of, probabilities[layer] * rows_of, atol=1e-5, rtol=1e-4)
            assert own.std() > 0.01
    assert [len(getattr(found, feature)) for feature in ("qkv", "decoder_qkv", "cross_qkv")] == [1, 2, 2]


def test_cos_nce_of_decoders_is_its_formula() -> None:
    torch.manual_seed(secrets.randbits(32))
    task, _, rows, tokenizer = made()
    batch = task.collator(tokenizer)([rows[at] for at in range(4)])
    student, teacher = pair("Bart", tokenizer)
    taken = inputs(batch, student)
    found = compared(kdzoo.Objective("cos_nce@decoder"), student, teacher, batch | taken)
    with torch.no_grad():
        states = [one(**taken, output_hidden_states=True).decoder_hidden_states[-1] for one in (student, teacher)]
    own, other = (of.double().numpy() for of in states)
    value = cos_nce_reference.reference(own, other, mask=(batch["labels"] != -100).numpy())
    assert found["cos_nce"] == pytest.approx(float(value), rel=1e-4)


def test_gradients_reach_the_decoder_and_padding_does_not_count() -> None:
    task, _, rows, tokenizer = made()
    student, teacher = pair("Bart", tokenizer)
    order = np.argsort(rows["length"])
    short = [rows[int(at)] for at in order[:3]]
    objective = kdzoo.Objective("attention_mse@cross_qkv + attention_kl@decoder_qkv").bind(student, teacher)
    gradients = []
    for more in ([], [rows[int(order[-1])]]):
        batch = {name: value[:3] for name, value in task.collator(tokenizer)([*short, *more]).items()}
        taken, sides = inputs(batch, student), []
        for one, needs in zip((student, teacher), objective.needs(0.0), strict=True):
            with capture(one, needs) as recorder:
                sides.append(recorder.activations(one(**taken), mask=taken["attention_mask"]))
        student.zero_grad()
        objective(*sides, labels=batch["labels"]).total.backward()
        learnt = [p.grad.flatten() for p in student.get_decoder().layers.parameters() if p.grad is not None]
        assert len(learnt) > 8
        gradients.append(torch.cat(learnt))
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[0].norm()


def test_relations_and_the_attention_of_decoders() -> None:
    task, _, rows, tokenizer = made()
    batch = task.collator(tokenizer)([rows[at] for at in range(3)])
    student, teacher = model(task, tokenizer, "1x16,heads=2", seed=1), model(task, tokenizer)
    taken = inputs(batch, student)
    terms = "minilm@decoder_qkv + minilmv2@decoder_qkv + bert_emd@decoder_qkv + mobilebert@decoder_qkv"
    found = compared(kdzoo.Objective(terms), student, teacher, batch | taken)
    assert all(value > 0 for value in found.values())
    with torch.no_grad(), capture(student, Needs(decoder_qkv=frozenset({0}))) as recorder:
        own = recorder.activations(student(**taken), mask=taken["attention_mask"]).decoder_qkv[0]
    with torch.no_grad(), capture(teacher, Needs(decoder_qkv=frozenset({1}))) as recorder:
        other = recorder.activations(teacher(**taken), mask=taken["attention_mask"]).decoder_qkv[1]
    real = batch["labels"] != -100
    seen = real.unsqueeze(1) & real.unsqueeze(2) & torch.ones(real.shape[1], real.shape[1], dtype=torch.bool).tril()
    assert found["minilm"] == pytest.approx(float(kdzoo.create("minilm")(own, other, mask=seen)), rel=1e-5)


@pytest.mark.parametrize(
    ("terms", "names", "says"),
    [
        ("minilmv2@cross_qkv", ("Bart", "Bart"), "attention_mse, attention_kl and attention_ce take it"),
        ("bert_emd@cross_qkv", ("Bart", "Bart"), "relates the tokens of one text"),
        ("attention_mse(variant=released)@cross_qkv", ("Bart", "Bart"), "counts padding"),
        ("attention_kl(backend=triton)@cross_qkv", ("Bart", "Bart"), "no Triton kernel"),
        ("minilm@decoder_qkv", ("T5", "T5"), "adds a bias to the scores"),
        ("minilmv2@decoder_qkv", ("T5", "T5"), "adds a bias to the scores"),
        ("bert_emd@decoder_qkv", ("T5", "T5"), "adds a bias"),
        ("attention_kl@cross_qkv[5]", ("Bart", "Bart"), "a layer map is a name or .* pairs, got 5"),
    ],
)
def test_what_takes_no_such_attention_is_refused(terms: str, names: tuple[str, str], says: str) -> None:
    with pytest.raises(KdzooError, match=says):
        kdzoo.Objective(f"{terms} + ce").bind(*(family(name, 99) for name in names))


def test_models_whose_layers_cannot_be_told_apart_are_refused() -> None:
    from tiny_models import batch, tiny

    bart = family("Bart", 99)
    bart.config.decoder_layerdrop = 0.1
    with pytest.raises(KdzooError, match=r"at random while it trains \(decoder_layerdrop\)"):
        kdzoo.Objective("hidden_mse@decoder + ce").bind(bart, family("Bart", 99))
    with pytest.raises(KdzooError, match=r"is taken on a decoder \(cross_qkv\), and the student has none"):
        kdzoo.Objective("attention_kl@cross_qkv + ce").bind(tiny("bert"), tiny("bert"))
    with (
        pytest.raises(KdzooError, match="no decoder, so none of its states or attention"),
        capture(tiny("bert"), Needs(cross_qkv=frozenset({0}))),
    ):
        pass
    bart = family("Bart", 99)
    bart.get_decoder().layers[1].encoder_attn.is_causal = True  # not what its place says
    ids = batch()["input_ids"]
    with pytest.raises(KdzooError, match="cannot be told apart"), capture(bart, Needs(cross_qkv=frozenset({1}))):
        bart(input_ids=ids, decoder_input_ids=ids)
    bart = family("Bart", 99)
    encoded = bart.get_encoder()(ids)
    with capture(bart, Needs(cross_qkv=frozenset({0}))) as recorder, pytest.raises(KdzooError, match="told apart"):
        recorder.activations(bart(encoder_outputs=encoded, decoder_input_ids=ids))


def test_of_two_texts_the_queries_and_keys_may_differ_in_number() -> None:
    query, key = torch.randn(2, 2, 5, 4), torch.randn(2, 2, 7, 4)
    qkv, mask = kdzoo.QKV(query, key, key), torch.ones(2, 5, 7)
    scores = query @ key.mT / 2
    other = torch.randn(2, 2, 5, 7)
    own = kdzoo.create("attention_kl")(qkv, other, mask=mask)
    torch.testing.assert_close(own, kdzoo.create("attention_kl")(scores, other))
    torch.testing.assert_close(
        own, (other.softmax(-1) * (other.log_softmax(-1) - scores.log_softmax(-1))).sum(-1).mean()
    )
    with pytest.raises(KdzooError, match=r"does not fit scores \(2, 2, 5, 7\); it is \(B, T, S\)"):
        kdzoo.create("attention_kl")(qkv, other, mask=torch.ones(2, 5))
    with pytest.raises(KdzooError, match="no Triton kernel takes 5 queries and 7 keys"):
        kdzoo.create("attention_mse", backend="triton")(qkv, qkv)
    with pytest.raises(KdzooError, match=r"must be \(B, A, S, d\)"):
        kdzoo.create("minilm")(qkv, qkv)


def test_micro_batches_weigh_what_their_values_are_means_over() -> None:
    labels = torch.full((2, 4), -100)
    labels[0, :3], labels[1, :2] = 1, 1
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    batches = [
        {"input_ids": mask[at : at + 1], "attention_mask": mask[at : at + 1], "labels": labels[at : at + 1]}
        for at in (0, 1)
    ]
    found = shares(batches, torch.device("cpu"))
    over = {
        "attention_mse@cross_qkv": ("cross_pairs", (15, 4)),
        "attention_mse@decoder_qkv": ("target_pairs", (6, 3)),
        "attention_kl@cross_qkv": ("labels", (3, 2)),
        "hidden_mse@decoder": ("labels", (3, 2)),
        "hidden_mse(variant=released)@decoder": ("rows", (1, 1)),
    }
    for text, (what, counts) in over.items():
        [term] = kdzoo.Objective(text).terms
        assert term.mean_over(True, labelled=True) == what
        assert [float(share[what]) for share in found] == pytest.approx([2 * count / sum(counts) for count in counts])


def test_with_a_cache_the_teacher_runs_live_and_says_so(tmp_path: Path) -> None:
    task, _, rows, tokenizer = made()
    objective = "attention_kl@cross_qkv + kd + ce"
    live = trainer(task, tokenizer, rows, tmp_path / "live", kdzoo.Objective(objective))
    live.train()
    ahead = Needs(cross_qkv=frozenset({1}), decoder=frozenset({1}))  # of others, part of which can be kept
    cache = TeacherCache(tmp_path / "cache", ahead=ahead)
    told = trainer(task, tokenizer, rows, tmp_path / "told", kdzoo.Objective(objective), cache=cache)
    with pytest.warns(KdzooWarning, match="the attention of its decoder is not kept; it runs live"):
        told.train()
    assert told.teacher_rows is None and losses(told) == pytest.approx(losses(live), rel=1e-5)
    kept = trainer(task, tokenizer, rows, tmp_path / "kept", kdzoo.Objective("kd + ce"), cache=cache)
    kept.train()
    assert {file.stem for file in (tmp_path / "cache").glob("*/*.safetensors")} == {"logits", "rows", "decoder-1"}


def test_a_bias_keeps_t5_s_attention_out_of_the_cache(tmp_path: Path) -> None:
    teacher = family("T5", 99)
    rows = [
        {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "labels": [8, 3], "sample_ids": at} for at in range(2)
    ]
    from datasets import Dataset

    def collate(picked: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {name: torch.tensor([row[name] for row in picked]) for name in picked[0]}

    with pytest.warns(KdzooWarning, match="adds a bias to the scores"):
        assert (
            TeacherCache(tmp_path).open(
                teacher,
                Dataset.from_list(rows),
                Needs(qkv=frozenset({0})),
                inputs=("input_ids", "attention_mask"),
                collate=collate,
            )
            is None
        )
