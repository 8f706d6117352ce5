"""Pretrained models within encoder-decoders on the decoder's side: what is read, how it writes, what is refused."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from command_line import Commands, records
from generation_models import inputs, made

from kdzoo.errors import KdzooError
from kdzoo.models.activations import Needs, capture
from kdzoo.models.decoders import check_decoder
from kdzoo.models.heads import has_decoder
from kdzoo.models.spec import ModelSpec
from kdzoo.tasks import get_task
from kdzoo.tasks.decoding import Decoding

SIZES = {
    "GPT2": {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 80, "bos_token_id": 2, "eos_token_id": 3},
    "Llama": {"num_key_value_heads": 1, "max_position_embeddings": 90},
    "Bert": {"is_decoder": True},
}
SIDES = ("decoder_frozen={GPT2}", "decoder_tuned={Llama}", "tuned={Bert},decoder_frozen={Bert}")
COMMON = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def pretrained(folder: Path, kind: str, tokenizer: Any, **options: Any) -> str:
    """A tiny pretrained model of a family in a folder, with a tokenizer."""
    own = SIZES[kind] | options if kind == "GPT2" else COMMON | SIZES[kind] | options
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), pad_token_id=0, **own)
    head = {"GPT2": "GPT2LMHeadModel", "Llama": "LlamaForCausalLM", "Bert": "BertModel"}[kind]
    large(getattr(transformers, head)(config), 0.3).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def large(one: Any, deviation: float = 0.4) -> Any:
    """A model whose words differ in what they say, the weights of what it reads left as they are."""
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            if parameter.dim() > 1 and ".source." not in name:
                parameter.normal_(std=deviation)
    return one.eval()


@pytest.mark.parametrize("asked", SIDES)
def test_step_by_step_is_teacher_forcing(asked: str, tmp_path: Path) -> None:
    torch.manual_seed(secrets.randbits(32))
    task, _, rows, tokenizer = made()
    folders = {kind: pretrained(tmp_path / kind, kind, tokenizer) for kind in SIZES}
    spec = ModelSpec.parse(f"2x16,heads=2,decoder=1,{asked.format(**folders)}")
    built = large(spec.build(task, tokenizer=spec.tokenizer, positions=64))
    check_decoder(built, "it", 64)
    batch = task.collator(tokenizer)([rows[at] for at in range(3)])
    taken = inputs(batch, built)
    words, source = taken["decoder_input_ids"], {"attention_mask": taken["attention_mask"]}
    with torch.no_grad():
        whole = built(**taken).logits
        other = words.clone()
        other[:, 6:] = 7  # what comes later changes nothing before
        torch.testing.assert_close(built(**taken | {"decoder_input_ids": other}).logits[:, :6], whole[:, :6])
        source["encoder_outputs"] = built.get_encoder()(taken["input_ids"], attention_mask=taken["attention_mask"])
        past = None
        for place in range(8):
            step = built(**source, decoder_input_ids=words[:, place : place + 1], past_key_values=past, use_cache=True)
            past = step.past_key_values
            torch.testing.assert_close(step.logits[:, 0], whole[:, place], atol=1e-4, rtol=1e-4)
            alone = built(**source, decoder_input_ids=words[:, : place + 1], use_cache=False)
            assert alone.past_key_values is None
            torch.testing.assert_close(alone.logits[:, -1], whole[:, place], atol=1e-4, rtol=1e-4)
    with pytest.raises(KdzooError, match="lack the pretrained model's"), torch.no_grad():
        plain = ModelSpec.parse("1x16,heads=2").build(task, tokenizer=tokenizer, positions=64).eval()
        step = plain(input_ids=taken["input_ids"], decoder_input_ids=words[:, :1], use_cache=True)
        built(**source, decoder_input_ids=words[:, 1:2], past_key_values=step.past_key_values)


def test_a_beam_reorders_what_the_pretrained_model_keeps(tmp_path: Path) -> None:
    torch.manual_seed(5)  # such that hypotheses of a beam overtake each other
    task, _, rows, tokenizer = made()
    folder = pretrained(tmp_path, "GPT2", tokenizer)
    spec = ModelSpec.parse(f"1x16,heads=2,decoder_frozen={folder}")
    built = large(spec.build(task, tokenizer=spec.tokenizer, positions=64), 0.5)
    batch = task.collator(tokenizer)([rows[at] for at in range(4)])
    taken = {name: batch[name] for name in ("input_ids", "attention_mask")}
    told = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 12, "do_sample": False}
    told |= {"output_scores": True, "return_dict_in_generate": True, "no_repeat_ngram_size": 2}
    found = built.generate(**taken, **told)
    again = built.generate(**taken, **told, use_cache=False)
    assert torch.equal(found.sequences, again.sequences)
    assert any(len(set(places.tolist())) < len(places) for places in found.beam_indices[:, 3].view(4, 4))
    written = Decoding(beam=4, max_target=12, no_repeat_ngram=2).generate(built, batch, several=True)
    assert len(written) == 16
    # The score of what is written is that of its words, given before each of them.
    for row, ids in enumerate(found.sequences):
        labels = ids[1:]
        end = (labels == 3).nonzero()
        labels = labels[: int(end[0]) + 1 if len(end) else len(labels)]
        sides = {name: of[row // 4 : row // 4 + 1] for name, of in taken.items()}
        with torch.no_grad():
            logs = built(**sides, decoder_input_ids=ids[None, : len(labels)]).logits[0].log_softmax(-1)
        value = logs.gather(1, labels[:, None]).sum() / len(labels)
        assert float(found.sequences_scores[row]) == pytest.approx(float(value), abs=1e-4)


@pytest.mark.parametrize("arm", ["frozen", "tuned"])
def test_a_pretrained_decoder_s_side_is_read(arm: str, tmp_path: Path) -> None:
    task, _, rows, tokenizer = made()
    folder = pretrained(tmp_path / "lm", "GPT2", tokenizer)
    spec = ModelSpec.parse(f"2x16,heads=2,decoder=1,decoder_{arm}={folder}")
    built = spec.build(task, tokenizer=spec.tokenizer, positions=64).train()
    assert built.model.decoder.embed_tokens.weight is built.lm_head.weight is built.model.encoder.embed_tokens.weight
    batch = task.collator(tokenizer)([rows[at] for at in range(3)])
    taken = inputs(batch, built)
    decoder = built.get_decoder()
    assert decoder.source.training == (arm == "tuned") and has_decoder(built)
    built(**taken).logits.square().mean().backward()
    touched = {name for name, parameter in built.named_parameters() if parameter.grad is not None}
    assert any(".source." in name for name in touched) == (arm == "tuned")
    assert "model.decoder.project.weight" in touched and not any("encoder.source" in name for name in touched)
    built.eval()
    language_model = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        own = {"input_ids": taken["decoder_input_ids"], "attention_mask": taken["decoder_attention_mask"]}
        states = language_model(**own, output_hidden_states=True).hidden_states
        read = states[-1]
        if arm == "frozen":
            decoder.mix.weight.copy_(torch.tensor([0.3, -1.0, 0.7]))
            decoder.mix.gamma.fill_(1.7)
            shares = torch.tensor([0.3, -1.0, 0.7]).softmax(0)
            normed = (torch.nn.functional.layer_norm(state, (24,)) for state in states)
            read = 1.7 * sum(share * state for share, state in zip(shares, normed, strict=True))
        needs = Needs(decoder=frozenset({0}), decoder_qkv=frozenset({0}), cross_qkv=frozenset({0}))
        with capture(built, needs) as recorder:
            found = recorder.activations(built(**taken), mask=taken["attention_mask"])
        wanted = decoder.layernorm_embedding(read @ decoder.project.weight.T)
        torch.testing.assert_close(found.decoder[0], wanted, atol=1e-5, rtol=1e-4)
        assert found.decoder_qkv[0].query.shape[-1] == 8, "the layers asked for are those around the pretrained ones"
        built.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        again = ModelSpec.parse(str(tmp_path / "model")).build(task).eval()
        torch.testing.assert_close(again(**taken).logits, built(**taken).logits)
        part = ModelSpec.parse("teacher:0,1/0").build(task, teacher=built).eval()
        torch.testing.assert_close(part(**taken).logits, built(**taken).logits)
    plain = ModelSpec.parse("1x8,heads=2").build(task, teacher=built)
    assert type(plain).__name__ == "BartForConditionalGeneration"
    both = ModelSpec.parse(f"1x8,heads=2,decoder_tuned={folder}").build(task, teacher=plain)
    for name, value in language_model.state_dict().items():
        assert torch.equal(both.get_decoder().source.state_dict()[name], value)


@pytest.mark.parametrize("begins", [False, True])
def test_a_language_model_s_tokenizer_gets_an_end(begins: bool, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    task, raw, _, other = made()
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learned = {"special_tokens": ["<|endoftext|>"], "vocab_size": 300, "initial_alphabet": alphabet}
    learner.train_from_iterator([*task.texts(raw)], trainers.BpeTrainer(**learned, show_progress=False))
    told = json.loads(learner.to_str())["model"]
    merges = [pair if isinstance(pair, str) else tuple(pair) for pair in told["merges"]]
    plain = transformers.GPT2Tokenizer(vocab=told["vocab"], merges=merges)
    words = plain("the old dog")["input_ids"]
    if begins:  # as OPT's
        end = "<|endoftext|>"
        first = processors.TemplateProcessing(single=f"{end} $A", special_tokens=[(end, 0)])
        plain.backend_tokenizer.post_processor = first
        assert plain("the old dog")["input_ids"] == [0, *words]
    with pytest.raises(KdzooError, match=r"target .*: the tokenizer puts no eos_token behind it"):
        task.check_rows("train", raw, plain)
    folder = pretrained(tmp_path / "lm", "GPT2", plain, bos_token_id=0, eos_token_id=0)
    spec = ModelSpec.parse(f"1x16,heads=2,decoder_frozen={folder}")
    tokenizer = spec.tokenizer
    assert tokenizer("the old dog")["input_ids"] == [*words, 0]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 0
    task.check_rows("train", raw, tokenizer)
    built = spec.build(task, tokenizer=tokenizer, positions=64)
    config = built.config
    assert (config.decoder_start_token_id, config.eos_token_id, config.max_position_embeddings) == (0, 0, 80)
    tokenizer.save_pretrained(tmp_path / "saved")
    kept = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert kept("the old dog")["input_ids"] == [*words, 0]
    if begins:  # a model of that form, which is no language model's
        both = processors.TemplateProcessing(single=f"{end} $A {end}", special_tokens=[(end, 0)])
        plain.backend_tokenizer.post_processor = both
        with pytest.raises(KdzooError, match=r"target .*: the tokenizer begins it with the token that ends texts"):
            task.check_rows("train", raw, plain)
    # A student of other words than its teacher's has their ends and their number.
    teacher = ModelSpec.parse("1x16,heads=2").build(task, tokenizer=other, positions=64)
    student = ModelSpec.parse(f"1x16,heads=2,decoder_frozen={folder}").build(task, teacher=teacher)
    assert (student.config.vocab_size, student.config.eos_token_id, student.config.pad_token_id) == (len(plain), 0, 0)


def test_what_a_decoder_cannot_read_is_refused(commands: Commands, tmp_path: Path) -> None:
    from kdzoo.models.vocabulary import reversible_tokenizer

    task, raw, _, tokenizer = made()
    bert = pretrained(tmp_path / "bert", "Bert", tokenizer, is_decoder=False)
    lm = pretrained(tmp_path / "lm", "GPT2", tokenizer)
    sizes = ("--train-rows", "24", "--validation-rows", "8", "--epochs", "1", "--max-length", "64")
    asked = ("compare", "--tasks", "transduction", *sizes, "--methods", "none", "--out", tmp_path / "o")
    student = ("--teacher", "1x16,heads=2", "--student", f"1x16,heads=2,decoder_tuned={bert}")
    commands.fails(*asked, *student, says=("BertModel, which is not causal", "GPT-2"))

    def built(told: str) -> Any:
        spec = ModelSpec.parse(f"1x16,heads=2,{told}")
        return spec.build_on_meta(task, tokenizer=spec.tokenizer, positions=200)

    with pytest.raises(KdzooError, match="BertModel, which is not causal"):
        built(f"decoder_frozen={bert}")
    with pytest.raises(KdzooError, match="decoder has 80 positions, and max_target is 100"):
        check_decoder(built(f"decoder_frozen={lm}"), "it", 100)
    second = pretrained(tmp_path / "second", "GPT2", reversible_tokenizer(task.texts(raw), size=290))
    with pytest.raises(KdzooError, match="have different vocabularies"):
        built(f"tuned={bert},decoder_frozen={second}")
    transformers.T5Config(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    with pytest.raises(KdzooError, match=r"frozen=.*t5: a t5 is an encoder-decoder"):
        built(f"frozen={tmp_path / 't5'}")
    with pytest.raises(KdzooError, match="names no pretrained model"):
        ModelSpec.parse("1x16,decoder_frozen=")
    with pytest.raises(KdzooError, match="one pretrained model for the decoder"):
        ModelSpec.parse("1x16,decoder_frozen=a,decoder_tuned=b")
    with pytest.raises(KdzooError, match="decoder_frozen= is for tasks that write text"):
        ModelSpec.parse(f"1x16,decoder_frozen={lm}").build(get_task("sst2"), tokenizer=tokenizer)


def test_a_comparison_of_both_sides(commands: Commands, tmp_path: Path) -> None:
    _, _, _, tokenizer = made()
    bert = pretrained(tmp_path / "bert", "Bert", tokenizer, is_decoder=False)
    lm = pretrained(tmp_path / "lm", "GPT2", tokenizer)
    file = tmp_path / "mine.tsv"
    file.write_text("source\ttarget\n" + "".join(f"{one} is\tnot {one}\n" for one in "abcdefghijklmnopqrst"))
    own = ("--data", file, "--kind", "seq2seq", "--decoding", "beam=2,max_target=16")
    sizes = ("--epochs", "1", "--max-length", "32", "--batch-size", "8", "--evaluations", "1")
    both = f"1x16,heads=2,frozen={bert},decoder_frozen={lm}"
    models = ("--teacher", both, "--student", f"1x16,heads=2,decoder_tuned={lm}")
    methods = ("--methods", "word_kd,attention_kl@cross_qkv + hidden_mse@decoder + ce")
    said = commands.works("compare", *own, *models, *sizes, *methods, "--out", tmp_path / "out")
    assert "the teacher runs live: the attention of its decoder is not kept" in " ".join(said.split())
    found = records(tmp_path / "out")
    assert len(found) == 3 and all("bleu" in record["metrics"] for record in found.values())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "the files of the teacher's pretrained decoder" in json.dumps(config)
