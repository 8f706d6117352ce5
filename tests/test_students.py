"""Students come out as described, seeded and loadable; what cannot be a student is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, LABELS, LAYERS, VOCABULARY, WIDTH, batch, tiny

from kdzoo.errors import KdzooError
from kdzoo.models.building import student_config
from kdzoo.models.heads import hidden_size, num_heads, num_layers
from kdzoo.models.loading import load_model
from kdzoo.models.spec import ModelSpec
from kdzoo.models.students import make_student

SEPARATE_LAYERS = [family for family in FAMILIES if family != "albert"]


def feed_forward(config: Any) -> int:
    return getattr(config, "hidden_dim", None) or config.intermediate_size


def same_weights(a: Any, b: Any) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("4x312", ModelSpec("", layers=4, width=312)),
        (" 4x312, heads=12 ,ffn=1200", ModelSpec("", layers=4, width=312, heads=12, feed_forward=1200)),
        ("teacher:1, 3,5", ModelSpec("", teacher_layers=(1, 3, 5))),
        ("teacher:0", ModelSpec("", teacher_layers=(0,))),
        ("runs/student", ModelSpec("", path="runs/student")),
        ("google/bert_uncased_L-4_H-256_A-4", ModelSpec("", path="google/bert_uncased_L-4_H-256_A-4")),
    ],
)
def test_parse(spec: str, expected: ModelSpec) -> None:
    assert ModelSpec.parse(spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "the model is empty; give a size such as '4x312'"),
        ("4x", "'4x' is malformed"),
        ("0x32", "number of layers is at least 1, not 0"),
        ("2x32,ffn=0", "feed-forward width is at least 1, not 0"),
        ("2x32,heads=5", "5 heads do not divide a model's width of 32"),
        ("2x32,head=4", "unknown option of a size 'head'; did you mean 'heads'"),
        ("2x32,ffn=many", "ffn='many' is not a whole number"),
        ("teacher:", "'teacher:' names no layers"),
        ("teacher:1,1", "repeats layer 1"),
        ("teacher:1,-2", "'-2' is not a layer"),
        ("teacher:1,,2", "'' is not a layer"),
    ],
)
def test_malformed_specs(spec: str, message: str) -> None:
    with pytest.raises(KdzooError, match=message) as error:
        ModelSpec.parse(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_students(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    teacher = tiny(family)
    student = make_student("2x24,heads=2,ffn=40", teacher)
    config = student.config
    assert type(student) is type(teacher) and student.training and student.dtype == torch.float32
    assert (num_layers(config), hidden_size(config), num_heads(config), feed_forward(config)) == (2, 24, 2, 40)
    assert (config.vocab_size, config.num_labels) == (VOCABULARY, LABELS)
    assert num_layers(teacher.config) == LAYERS  # the teacher's configuration is its own
    student.eval().save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(again(**batch()).logits, student(**batch()).logits)


def test_default_sizes() -> None:
    config = tiny("bert").config  # 4 heads
    assert num_heads(student_config(ModelSpec.parse("2x24"), config)) == 4
    assert num_heads(student_config(ModelSpec.parse("2x30"), config)) == 3
    assert num_heads(student_config(ModelSpec.parse("2x31"), config)) == 1
    assert feed_forward(student_config(ModelSpec.parse("2x24"), config)) == 96
    electra = student_config(ModelSpec.parse("2x24"), tiny("electra").config)
    assert electra.embedding_size == 16  # factorised: the teacher's
    assert student_config(ModelSpec.parse("2x24"), tiny("electra", embedding_size=WIDTH).config).embedding_size == 24


def test_modernbert_keeps_the_pattern_of_its_layers() -> None:
    config = tiny("modernbert").config
    full, local = "full_attention", "sliding_attention"
    assert config.layer_types == [full, local, local]
    assert student_config(ModelSpec.parse("5x24"), config).layer_types == [full, local, local, full, local]
    assert student_config(ModelSpec.parse("teacher:2,0"), config).layer_types == [local, full]


def test_published_size() -> None:
    from transformers import BertForSequenceClassification

    teacher = tiny("bert", vocab_size=30522, max_position_embeddings=512)
    with torch.device("meta"):
        student = BertForSequenceClassification(
            student_config(ModelSpec.parse("4x312,heads=12,ffn=1200"), teacher.config)
        )
    assert 14.3e6 < student.num_parameters() < 14.6e6


def test_keywords_override_the_spec() -> None:
    student = make_student("2x24,heads=2,ffn=40", tiny("bert"), heads=3, feed_forward=50)
    assert (student.config.num_attention_heads, student.config.intermediate_size) == (3, 50)
    with pytest.raises(KdzooError, match="5 heads do not divide"):
        make_student("2x24", tiny("bert"), heads=5)
    with pytest.raises(KdzooError, match="students from a size"):
        make_student("teacher:1", tiny("bert"), heads=2)


def test_the_seed_decides_and_the_callers_random_state_is_left_alone() -> None:
    teacher = tiny("bert")
    state = torch.get_rng_state()
    first, second, other = (make_student("2x24", teacher, seed=seed) for seed in (1, 1, 2))
    assert same_weights(first, second) and not same_weights(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", SEPARATE_LAYERS)
def test_students_from_teacher_layers(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    teacher = tiny(family)
    student = make_student("teacher:0,2", teacher)
    ours, theirs = student.state_dict(), teacher.state_dict()
    lists = [n for n, m in teacher.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == LAYERS]
    prefix = f"{lists[0]}."
    assert sum(key.startswith(prefix + "1.") for key in ours) > 0
    for key, value in ours.items():
        source = key.replace(f"{prefix}1.", f"{prefix}2.") if key.startswith(prefix) else key
        assert torch.equal(value, theirs[source]), key
        assert value.data_ptr() != theirs[source].data_ptr()
    student.eval().save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(again(**batch()).logits, student(**batch()).logits)


def test_all_teacher_layers_are_the_teacher() -> None:
    for family in SEPARATE_LAYERS:
        teacher = tiny(family)
        student = make_student("teacher:0,1,2", teacher).eval()
        torch.testing.assert_close(student(**batch()).logits, teacher(**batch()).logits)


def test_modernbert_layers_change_places() -> None:
    teacher = tiny("modernbert")
    layers, theirs = make_student("teacher:2,0", teacher).model.layers, teacher.model.layers
    for ours, source in ((layers[0], theirs[2]), (layers[1], theirs[0])):
        assert torch.equal(ours.attn.Wqkv.weight, source.attn.Wqkv.weight)
    assert isinstance(layers[0].attn_norm, torch.nn.Identity)
    assert torch.equal(layers[1].attn_norm.weight, torch.ones(WIDTH))


def test_teacher_layers_that_cannot_be_taken() -> None:
    with pytest.raises(KdzooError, match="the teacher has 3 layers: layer 3 is not in 0 to 2"):
        make_student("teacher:1,3", tiny("bert"))
    with pytest.raises(KdzooError, match="albert shares one set of weights among its layers"):
        make_student("teacher:1", tiny("albert"))


def test_students_from_a_folder(tmp_path: Path) -> None:
    teacher, saved = tiny("bert"), tiny("bert", seed=5).half()
    saved.save_pretrained(tmp_path)
    student = make_student(str(tmp_path), teacher)
    assert same_weights(student, saved.float())
    assert student.dtype == torch.float32 and student.training
    assert not load_model(tmp_path).training


def test_a_checkpoint_without_a_head_gets_a_seeded_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    tiny("bert").bert.save_pretrained(tmp_path)
    capfd.readouterr()
    state, shown = torch.get_rng_state(), (logging.get_verbosity(), logging.is_progress_bar_enabled())
    first, second, other = (load_model(tmp_path, 4, seed=seed) for seed in (1, 1, 2))
    assert first.classifier.weight.shape == (4, WIDTH)
    assert same_weights(first, second) and not torch.equal(first.classifier.weight, other.classifier.weight)
    assert torch.equal(torch.get_rng_state(), state)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == shown
    assert capfd.readouterr() == ("", "")  # a new head is expected, no reason for a report


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    tiny("bert").save_pretrained(tmp_path / "labels")
    with pytest.raises(KdzooError, match="has a head for 3 labels, the task has 2"):
        load_model(tmp_path / "labels", 2)
    with pytest.raises(KdzooError, match="the teacher has 3 labels, the student is to have 2"):
        make_student("2x24", tiny("bert"), num_labels=2)
    tiny("distilbert", vocab_size=50).save_pretrained(tmp_path / "words")
    assert make_student(str(tmp_path / "words"), tiny("bert")).config.vocab_size == 50, "it has a tokenizer of its own"
    config = json.loads((tmp_path / "labels" / "config.json").read_text())
    for change, message in (
        ({"num_hidden_layers": 4}, "lacks 16 encoder weights, first of them bert.encoder.layer.3"),
        ({"intermediate_size": 40}, "its config.json asks for"),
    ):
        (tmp_path / "labels" / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(KdzooError, match=message):
            load_model(tmp_path / "labels", 3)


def test_broken_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def fails_with(message: str, path: Path | str = tmp_path) -> None:
        with pytest.raises(KdzooError, match=message) as error:
            load_model(path, LABELS)
        assert "\n" not in str(error.value)

    fails_with("there is no such folder", tmp_path / "nowhere")
    fails_with("no folder of that name", "nowhere")
    fails_with("cannot load the model")  # an empty folder
    tiny("bert").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:size])
        fails_with(r"model\.safetensors is truncated or damaged")
    weights.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(whole)
    fails_with(r"no file named model\.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": ')
    fails_with("not a valid JSON file")


@pytest.mark.parametrize(
    "head", ["BertForTokenClassification", "BertForQuestionAnswering", "BertForSequenceClassification"]
)
def test_a_student_has_its_teachers_head(head: str) -> None:
    import transformers

    sizes = {
        "vocab_size": 30,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    teacher = getattr(transformers, head)(transformers.BertConfig(**sizes, num_labels=2))
    for student in (make_student("teacher:1", teacher), make_student("1x8,heads=2", teacher)):
        assert type(student).__name__ == head
    layer = make_student("teacher:1", teacher).state_dict()
    own = [name for name in layer if not name.startswith("bert.")]
    assert own and all(torch.equal(layer[name], teacher.state_dict()[name]) for name in own)


def test_a_writing_teacher_has_a_student_that_writes() -> None:
    from transformers import BartConfig, BartForConditionalGeneration

    sizes = {
        "d_model": 8,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    }
    teacher = BartForConditionalGeneration(BartConfig(vocab_size=30, encoder_ffn_dim=8, decoder_ffn_dim=8, **sizes))
    assert isinstance(make_student("teacher:1/0", teacher), BartForConditionalGeneration)
