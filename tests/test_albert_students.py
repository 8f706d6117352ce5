"""ALBERTs made from sizes: what they begin from, and that losses reach what their layers share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import ROWS, Commands, records
from transformers import BertConfig, BertForSequenceClassification

import kdzoo
from kdzoo.errors import KdzooError
from kdzoo.models import albert_parameters
from kdzoo.models.activations import Needs, capture
from kdzoo.models.albert_students import factorised
from kdzoo.models.spec import ModelSpec
from kdzoo.models.students import make_student

IDS = torch.tensor([[2, 7, 9, 11, 3], [2, 5, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.fixture
def teacher() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=20,
        num_labels=3,
    )
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def test_the_factors_are_those_of_the_svd() -> None:
    torch.manual_seed(1)
    matrix = torch.randn(40, 12, dtype=torch.float64)
    left, right = factorised(matrix, 5)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(left @ right, (u[:, :5] * s[:5]) @ v[:5])
    torch.testing.assert_close(right @ right.mT, torch.eye(5, dtype=torch.float64))


def test_the_layers_begin_from_the_teacher_s(teacher: BertForSequenceClassification) -> None:
    first = "albert.encoder.albert_layer_groups.{}.albert_layers.0.{}"
    ffn = [layer.intermediate.dense.weight for layer in teacher.bert.encoder.layer]
    size = "albert:4x16,heads=2,ffn=32,embedding=8"
    mean = make_student(size, teacher).state_dict()
    torch.testing.assert_close(mean[first.format(0, "ffn.weight")], torch.stack(ffn).mean(0))
    middle = make_student(f"{size},from=middle", teacher)
    state = middle.state_dict()
    torch.testing.assert_close(state[first.format(0, "ffn.weight")], ffn[1])
    key = teacher.bert.encoder.layer[1].attention.self.key
    torch.testing.assert_close(state[first.format(0, "attention.key.weight")], key.weight)
    torch.testing.assert_close(state["albert.pooler.weight"], teacher.bert.pooler.dense.weight)
    torch.testing.assert_close(state["classifier.weight"], teacher.classifier.weight)
    assert middle.config.hidden_act == "gelu"
    groups = make_student(f"{size},groups=3", teacher).state_dict()
    for group in range(3):
        torch.testing.assert_close(groups[first.format(group, "ffn.weight")], ffn[group])
    new = make_student(f"{size},from=none", teacher).state_dict()
    assert not torch.isclose(new[first.format(0, "ffn.weight")], mean[first.format(0, "ffn.weight")]).all()
    assert sum(p.numel() for p in middle.albert.parameters()) == albert_parameters(middle.config)


def test_a_layer_of_the_teacher_is_the_same_function(teacher: BertForSequenceClassification) -> None:
    """With the whole embedding width, one layer and its own layer 0, the student is the teacher's first layer."""
    teacher.bert.encoder.layer = teacher.bert.encoder.layer[:1]
    teacher.config.num_hidden_layers = 1
    student = make_student("albert:1x16,heads=2,ffn=32,embedding=16,from=middle", teacher).eval()
    with torch.no_grad():
        states = torch.randn(2, 5, 16)
        own = student.albert.encoder.albert_layer_groups[0].albert_layers[0](states)
        theirs = teacher.bert.encoder.layer[0](states)
    torch.testing.assert_close(own, theirs[0] if isinstance(theirs, tuple) else theirs, atol=1e-5, rtol=1e-4)


def test_the_embeddings_are_near_the_teacher_s(teacher: BertForSequenceClassification) -> None:
    with capture(teacher, Needs(hidden=frozenset({0}))) as recorder:
        wanted = recorder.activations(teacher(IDS, MASK), mask=MASK).hidden[0]
    near = {}
    for width in (2, 8, 16):
        student = make_student(f"albert:2x16,heads=2,ffn=32,embedding={width}", teacher).eval()
        with capture(student, Needs(hidden=frozenset({0}))) as recorder:
            found = recorder.activations(student(IDS, MASK), mask=MASK).hidden[0]
        assert found.shape == wanted.shape, "what a loss on embeddings compares has gone through the factor"
        near[width] = torch.cosine_similarity(found[0], wanted[0], dim=-1).mean().item()
    assert near[2] < near[8] < near[16] and near[16] > 0.999


def test_losses_reach_the_factor_and_add_up_in_the_shared_layer(teacher: BertForSequenceClassification) -> None:
    student = make_student("albert:3x16,heads=2,ffn=32,embedding=8", teacher).eval()
    shared = student.albert.encoder.albert_layer_groups[0].albert_layers[0].ffn.weight
    factor = student.albert.encoder.embedding_hidden_mapping_in.weight

    def gradient(terms: list[kdzoo.Term], of: torch.Tensor) -> torch.Tensor:
        objective = kdzoo.Objective(terms).bind(student, teacher)
        taken = []
        for model, needs in zip((student, teacher), objective.needs(0.0), strict=True):
            with capture(model, needs) as recorder:
                taken.append(recorder.activations(model(IDS, MASK), mask=MASK))
        (found,) = torch.autograd.grad(objective(*taken).total, of, allow_unused=True)
        return found

    assert gradient([kdzoo.Term("embedding_mse")], factor).abs().sum() > 0
    layers = [gradient([kdzoo.Term("hidden_mse", layers=[(n, n)])], shared) for n in (1, 2, 3)]
    together = gradient([kdzoo.Term("hidden_mse", layers=[(n, n)], name=f"of{n}") for n in (1, 2, 3)], shared)
    torch.testing.assert_close(together, sum(layers))


def test_other_widths_and_what_is_refused(teacher: BertForSequenceClassification) -> None:
    student = make_student("albert:2x12,heads=2,embedding=8", teacher)
    words = teacher.bert.embeddings.word_embeddings.weight.detach()
    left, _ = factorised(words - words.mean(1, keepdim=True), 8)
    own = student.albert.embeddings.word_embeddings.weight.detach()
    torch.testing.assert_close(own @ own.mT, left @ left.mT, atol=1e-4, rtol=1e-4)
    for spec, says in (
        ("albert:2x12,heads=2,embedding=8,from=mean", "where width, heads and feed-forward width are equal"),
        ("albert:2x16,embedding=32", "more than the teacher's 16"),
        ("albert:2x16,groups=3,embedding=8", "2 layers make at most that many groups, not 3"),
        ("albert:2x16,from=top", "unknown start of an ALBERT's layers"),
        ("albert:teacher:1", "after albert: comes a size"),
        ("albert:2x16,embedding=0", "not a whole number"),
    ):
        with pytest.raises(KdzooError, match=says):
            make_student(spec, teacher)
    with pytest.raises(KdzooError, match="shares its layers already"):
        make_student("albert:2x12,embedding=8", student)
    assert ModelSpec.parse("bi:albert:2x16,embedding=8").two_passes


def test_an_albert_teaches_and_is_taught(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    commands = Commands(capsys)
    sizes = ("--teacher", "albert:2x32,heads=2,embedding=16", "--student", "2x16,heads=2", *ROWS)
    commands.works("compare", "--tasks", "sst2", *sizes, "--methods", "tinybert", "--out", tmp_path / "a")
    sizes = ("--teacher", "2x32,heads=2", "--student", "albert:2x32,heads=2,embedding=16", *ROWS)
    commands.works("compare", "--tasks", "sst2", *sizes, "--methods", "kd,tinybert", "--out", tmp_path / "b")
    found = records(tmp_path / "b")
    assert found["sst2-kd-0"]["parameters"] < found["sst2-teacher"]["parameters"]
