"""Objectives and terms: values, needs, what cannot be bound, losses of one's own and plug-ins."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tiny_models import batch, tiny
from torch import Tensor

import kdzoo
from kdzoo import plugins
from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.losses import registry
from kdzoo.losses.base import DistillationLoss
from kdzoo.models.activations import QKV, Activations
from kdzoo.models.labels import order_between
from kdzoo.models.shape import CLASSES as CLASSES_OF
from kdzoo.models.shape import LABELS as LABELS_OF
from kdzoo.models.shape import NUMBERS as NUMBERS_OF
from kdzoo.objectives.objective import Objective
from kdzoo.objectives.schedule import after, before, linear
from kdzoo.objectives.term import Term

ROWS, SEQUENCE, CLASSES, HEADS = 4, 5, 3, 2
LABELS = torch.tensor([0, 2, 1, 0])


def model(layers: int = 2, width: int = 8, heads: int = HEADS, classes: int = CLASSES, qkv: bool = True) -> Any:
    """What binding looks at: a module with a config."""
    module = torch.nn.Module()
    module.config = SimpleNamespace(  # type: ignore[assignment]
        num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, num_labels=classes
    )
    module._can_set_attn_implementation = lambda: qkv  # type: ignore[assignment]
    return module


def activations(layers: int = 2, width: int = 8, seed: int = 0) -> Activations:
    """Random activations of everything, with padding."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    hidden = {i: random(ROWS, SEQUENCE, width) for i in range(layers + 1)}
    return Activations(
        logits=random(ROWS, CLASSES),
        hidden=hidden,
        cls={i: states[:, 0] for i, states in hidden.items()},
        qkv={i: QKV(*(random(ROWS, HEADS, SEQUENCE, width // HEADS) for _ in range(3))) for i in range(layers)},
        mask=torch.arange(SEQUENCE) < torch.tensor([5, 2, 3, 4])[:, None],
    )


def bound(*terms: Term, student: Any = None, teacher: Any = None, **options: Any) -> Objective:
    torch.manual_seed(0)
    return Objective(terms).bind(student or model(), model(4, 12) if teacher is None else teacher, **options)


def value(objective: Objective, progress: float = 0.0, **context: Any) -> Any:
    return objective(activations(), activations(4, 12, seed=1), labels=LABELS, progress=progress, **context)


# --- values equal the losses called by hand ---------------------------------------------------------------------------


def test_the_total_is_the_weighted_sum() -> None:
    objective = bound(Term("ce", weight=0.3), Term("kd", temperature=2.0, weight=after(0.5, 2.0)), Term("logit_mse"))
    student, teacher = activations(), activations(4, 12, seed=1)
    by_hand = {
        "ce": kdzoo.create("ce")(student.logits, labels=LABELS),
        "kd": kdzoo.create("kd", temperature=2.0)(student.logits, teacher.logits),
        "logit_mse": kdzoo.create("logit_mse")(student.logits, teacher.logits),
    }
    early, late = (objective(student, teacher, labels=LABELS, progress=p) for p in (0.49, 0.5))
    torch.testing.assert_close(early.total, 0.3 * by_hand["ce"] + by_hand["logit_mse"])
    torch.testing.assert_close(late.total, early.total + 2 * by_hand["kd"])
    assert early.terms.keys() == {"ce", "logit_mse"} and late.terms.keys() == by_hand.keys()
    for name, term in late.terms.items():
        torch.testing.assert_close(term, by_hand[name].detach())
        assert not term.requires_grad
    assert late.total.requires_grad


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_layers_one_by_one(reduction: str) -> None:
    objective = bound(Term("hidden_mse", layer_reduction=reduction))
    student, teacher = activations(), activations(4, 12, seed=1)
    projections = objective.losses["hidden_mse"]
    assert len(projections) == 2, "one a layer"
    by_hand = [
        loss(student.hidden[i], teacher.hidden[j], mask=student.mask)
        for loss, (i, j) in zip(projections, ((1, 2), (2, 4)), strict=True)
    ]
    torch.testing.assert_close(value(objective).total, sum(by_hand) / (2 if reduction == "mean" else 1))


def test_a_shared_projection() -> None:
    objective = bound(Term("hidden_mse", shared=True))
    (loss,) = objective.losses["hidden_mse"]
    student, teacher = activations(), activations(4, 12, seed=1)
    by_hand = sum(loss(student.hidden[i], teacher.hidden[j], mask=student.mask) for i, j in ((1, 2), (2, 4)))
    torch.testing.assert_close(value(objective).total, by_hand)
    assert sum(p.numel() for p in objective.parameters()) == 8 * 12


def test_other_features() -> None:
    """Embeddings are hidden state 0; CLS states come without a mask, stacked for PKD; attention with one."""
    student, teacher = activations(), activations(4, 12, seed=1)
    objective = bound(Term("embedding_mse"), Term("pkd", layers="uniform"), Term("attention_kl"))
    losses = {name: module[0] for name, module in objective.losses.items()}
    found = value(objective).terms
    by_hand = {
        "embedding_mse": losses["embedding_mse"](student.hidden[0], teacher.hidden[0], mask=student.mask),
        "pkd": losses["pkd"](
            torch.stack([student.cls[1], student.cls[2]], 1), torch.stack([teacher.cls[2], teacher.cls[4]], 1)
        ),
        "attention_kl": sum(
            losses["attention_kl"](student.qkv[i], teacher.qkv[j], mask=student.mask) for i, j in ((0, 1), (1, 3))
        ),
    }
    for name, expected in by_hand.items():
        torch.testing.assert_close(found[name], expected.detach(), msg=name)


def test_attention_with_a_window_of_its_own() -> None:
    student, teacher = tiny("modernbert", seed=1), tiny("modernbert", seed=2)
    inputs = batch()
    objective = Objective([Term("attention_kl", layers=[(1, 2)])]).bind(student, teacher)
    ours, theirs = objective.needs(0.0)
    assert theirs is not None
    taken = []
    for model, needs in ((student, ours), (teacher, theirs)):
        with torch.no_grad(), kdzoo.capture(model, needs) as recorder:
            taken.append(recorder.activations(model(**inputs), mask=inputs["attention_mask"]))
    mask = inputs["attention_mask"].bool()
    positions = torch.arange(mask.shape[1])
    near = (positions - positions.unsqueeze(1)).abs() <= 2
    seen = near & mask.unsqueeze(1) & mask.unsqueeze(2)
    expected = kdzoo.create("attention_kl")(taken[0].qkv[1], taken[1].qkv[2], mask=seen)
    everywhere = kdzoo.create("attention_kl")(taken[0].qkv[1], taken[1].qkv[2], mask=mask)
    torch.testing.assert_close(objective(*taken).total, expected)
    assert not torch.allclose(expected, everywhere)


def test_what_losses_learn_is_trained_and_saved() -> None:
    objective = bound(Term("cos_nce"), Term("crd", feature_dim=4, num_negatives=3), num_samples=9)
    value(objective, sample_ids=torch.arange(ROWS)).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())
    names = set(objective.state_dict())
    assert {"losses.cos_nce.0.projection.weight", "losses.cos_nce.1.projection.weight"} <= names
    assert {"losses.crd.0.student_bank", "losses.crd.0.z_teacher", "losses.crd.0.embed_student.bias"} <= names
    assert objective.losses["crd"][0].student_bank.shape == (9, 4)


def test_ids_reach_the_loss_that_needs_them() -> None:
    objective = bound(Term("crd", feature_dim=4, num_negatives=3), num_samples=9)
    with pytest.raises(KdzooError, match="crd needs sample_ids="):
        value(objective)


# --- needs ------------------------------------------------------------------------------------------------------------


def test_only_what_active_terms_map_is_needed() -> None:
    objective = bound(
        Term("kd", weight=after(0.5, 1.0)),
        Term("pkd", layers=[(1, 3)], weight=before(0.5, 1.0)),
        Term("attention_mse", layers="uniform[-1]", weight=before(0.5, 1.0)),
        Term("embedding_mse", weight=before(0.25, 1.0)),
        Term("hidden_mse", layers=[(2, 1)], weight=before(0.25, 1.0)),
    )
    student, teacher = objective.needs(0.0)
    assert teacher is not None
    assert (student.hidden, student.cls, student.qkv) == ({0, 2}, {1}, {1})
    assert (teacher.hidden, teacher.cls, teacher.qkv) == ({0, 1}, {3}, {3})
    student, _ = objective.needs(0.25)
    assert (student.hidden, student.cls, student.qkv) == (set(), {1}, {1})
    student, teacher = objective.needs(0.5)
    assert teacher is not None and teacher.logits
    assert not student.hidden | student.cls | student.qkv | teacher.hidden | teacher.cls | teacher.qkv


def test_a_progress_that_is_not_given_is_told_of_once_where_something_changes_with_it() -> None:
    def warned(objective: Objective, **given: Any) -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            objective(activations(), activations(4, 12, seed=1), labels=LABELS, **given)
        return [str(one.message) for one in found if issubclass(one.category, KdzooWarning)]

    for term in (
        Term("kd", weight=after(0.5, 1.0)),
        Term("kd", weight=linear(1.0, 0.5)),
        Term("hidden_mse", layer_schedule="stacked"),
        Term("annealing"),
    ):
        objective = bound(Term("ce"), term)
        assert not warned(objective, progress=0.25)
        (said,) = warned(objective)
        assert said.startswith(f"{term.name}: ") and "progress=" in said
        assert not warned(objective)
    assert not warned(bound(Term("ce"), Term("kd", weight=after(0.0, 2.0)))), "nothing changes"


def test_no_teacher_where_none_is_needed() -> None:
    objective = Objective([Term("ce"), Term("kd", weight=after(0.5, 1.0))]).bind(model(), model(4))
    assert objective.needs(0.0)[1] is None
    assert objective(activations(), None, labels=LABELS, progress=0.0).terms.keys() == {"ce"}
    with pytest.raises(KdzooError, match="the term 'kd' needs the teacher's activations"):
        objective(activations(), None, labels=LABELS, progress=0.5)
    assert Objective([Term("ce")]).bind(model(), None).needs(0.0)[1] is None


# --- what cannot be bound ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "hiden_mse"}, "unknown loss 'hiden_mse'; did you mean 'hidden_mse'"),
        ({"loss": "hidden_mse", "feature": "hiden"}, "unknown feature of hidden_mse 'hiden'; did you mean 'hidden'"),
        ({"loss": "kd", "temprature": 1}, "unknown option of kd 'temprature'; did you mean 'temperature'"),
        ({"loss": "hidden_mse", "layer_reduction": "man"}, "unknown layer_reduction 'man'; did you mean 'mean'"),
        ({"loss": "kd", "layers": "uniform"}, "kd is taken on the logits, which has no layers to map"),
        ({"loss": "embedding_mse", "layers": "last"}, "taken on the embedding, which has no layers to map"),
        ({"loss": "kd", "layer_reduction": "mean"}, "kd on the logits does not go layer by layer; leave out layer_re"),
        ({"loss": "kd", "shared": True}, "kd on the logits does not go layer by layer; leave out shared"),
        ({"loss": "embedding_mse", "shared": True}, "on the embedding does not go layer by layer; leave out shared"),
        ({"loss": "bert_emd", "layer_reduction": "mean"}, "does not go layer by layer; leave out layer_reduction"),
        ({"loss": "kd", "name": "my.kd"}, r"a term cannot be called 'my\.kd'"),
        ({"loss": "kd", "name": "keys"}, "a term cannot be called 'keys'"),
    ],
)
def test_wrong_terms(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(KdzooError, match=message):
        Term(**arguments)


class Plain(DistillationLoss):
    """Mean absolute difference of states; nothing to learn, so equal widths."""

    features = ("hidden", "logits")

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        return self.scale * (student - teacher).abs().mean()


def plain() -> type[Plain]:
    """A class to register, so that Plain itself keeps having no name."""
    return type("Plain", (Plain,), {})


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry to write in; the real one comes back."""
    kdzoo.available()
    monkeypatch.setattr(registry, "_losses", dict(registry._losses))
    monkeypatch.setattr(plugins, "_loaded", True)


@pytest.mark.usefixtures("names")
def test_models_that_do_not_fit() -> None:
    kdzoo.register("plain")(plain())
    cases: list[tuple[Term, Any, Any, str]] = [
        (Term("plain"), model(), model(4, 12), "plain has no projection, so it needs equal widths; the student has 8"),
        (Term("kd"), model(), model(classes=2), "the student has 3 classes and the teacher 2"),
        (Term("attention_mse"), model(), model(heads=4), "heads"),
        (
            Term("minilm"),
            model(),
            model(qkv=False),
            "compares queries, keys and values, and the teacher shows its attention",
        ),
        (Term("hidden_mse", layers=[(3, 1)]), model(), model(4), "student index 3 is out of range"),
        (Term("kd", temperature=-1.0), model(), model(), "kd: temperature is -1.0; it must be a positive number"),
        (
            Term("kd", weight=before(0.5, 1.0)),
            model(),
            model(),
            "no term has a weight when 50% of the training is done",
        ),
        (Term("kd", weight=0.0), model(), model(), "no term has a weight when 0% of the training is done"),
    ]
    for term, student, teacher, message in cases:
        with pytest.raises(KdzooError, match=message) as error:
            Objective([term]).bind(student, teacher)
        assert "\n" not in str(error.value)
    with pytest.raises(KdzooError, match="the term 'hints' needs a teacher"):
        Objective([Term("ce"), Term("hidden_mse", name="hints")]).bind(model(), None)
    assert Objective([Term("attention_mse")]).bind(model(), model(qkv=False)), "scores will do"
    # hidden states of a model for another task will do; its logits would not
    assert Objective([Term("ce"), Term("hidden_mse")]).bind(model(), model(classes=2))


def test_a_teachers_logits_are_read_by_the_labels_names() -> None:
    order, names = [2, 0, 1], ("yes", "no", "not given")

    def named(of: Any, *names: str) -> Any:
        of.config.id2label = dict(enumerate(names))
        return of

    same = value(bound(Term("kd"), Term("ce"), student=named(model(), *names), teacher=named(model(4, 12), *names)))
    theirs = activations(4, 12, seed=1)
    exchanged = replace(theirs, logits=theirs.logits[:, order])
    objective = bound(Term("kd"), Term("ce"), student=named(model(), *names))
    assert objective(activations(), theirs, labels=LABELS).total == same.total, "a teacher without names"
    teacher = named(model(4, 12), *(names[at].upper() for at in order))
    objective.bind(named(model(), *names), teacher)
    found = objective(activations(), exchanged, labels=LABELS)
    torch.testing.assert_close(found.total, same.total)
    assert exchanged.logits.equal(theirs.logits[:, order]), "what was given is left as it is"
    other = named(model(4, 12), "good", "bad", "fine")
    with pytest.raises(KdzooError, match="labels good, bad, fine and the student has yes, no, not given"):
        bound(Term("kd"), student=named(model(), *names), teacher=other)
    assert bound(Term("hidden_mse"), student=named(model(), *names), teacher=other), "hidden states have no labels"
    by_case = ("us", "US", "them")
    assert order_between(named(model(), *by_case), named(model(4), *by_case)) is None, "the same names"
    one = (model(classes=1), model(4, 12, classes=1))
    assert bound(Term("kd"), student=named(one[0], "likeness"), teacher=named(one[1], "score")), "one has no order"


@pytest.mark.parametrize("problem", [None, CLASSES_OF, LABELS_OF, NUMBERS_OF])
def test_logits_are_what_either_model_says_and_not_two_things(problem: str | None) -> None:
    def of(layers: int, width: int, problem: str | None) -> Any:
        made = model(layers, width)
        made.config.problem_type = problem
        return made

    want = kdzoo.create("kd", problem_type=problem)(activations().logits, activations(4, 12, seed=1).logits)
    for ours, theirs in ((problem, None), (None, problem), (problem, problem)):
        objective = bound(Term("kd"), student=of(2, 8, ours), teacher=of(4, 12, theirs))
        assert value(objective).terms["kd"] == want
    other = LABELS_OF if problem == CLASSES_OF else CLASSES_OF
    if problem is not None:
        with pytest.raises(
            KdzooError, match=f"student is for {problem} .its problem_type. and the teacher for {other}"
        ):
            bound(Term("kd"), student=of(2, 8, problem), teacher=of(4, 12, other))
        assert bound(Term("hidden_mse"), student=of(2, 8, problem), teacher=of(4, 12, other)), "no logits"
        one = of(2, 8, problem), of(4, 12, other)
        for side in one:
            side.config.num_labels = 1
        assert bound(Term("kd"), student=one[0], teacher=one[1]), "a number, whatever it is called"


@pytest.mark.parametrize("head", ["QuestionAnswering", "MaskedLM"])
def test_logits_of_places_and_words_have_no_labels_to_match(head: str) -> None:
    student, teacher = (tiny("bert") for _ in range(2))
    for of, names in ((student, "abc"), (teacher, "bca")):
        of.config.id2label = dict(enumerate(names))
    assert order_between(student, teacher) == [2, 0, 1]
    assert order_between(*(getattr(transformers, f"BertFor{head}")(of.config) for of in (student, teacher))) is None


def test_wrong_objectives() -> None:
    with pytest.raises(KdzooError, match="an objective needs at least one term"):
        Objective([])
    with pytest.raises(KdzooError, match="two terms are called 'kd'; give one of them another name="):
        Objective([Term("kd"), Term("kd", temperature=2.0)])
    with pytest.raises(KdzooError, match="call bind"):
        Objective([Term("hidden_mse")]).needs(0.0)
    assert len(bound(Term("kd"), Term("kd", temperature=2.0, name="soft")).losses) == 2


# --- losses of one's own ----------------------------------------------------------------------------------------------


def test_a_loss_of_ones_own() -> None:
    objective = bound(Term(Plain(2.0), layers=[(1, 1), (2, 3)], weight=0.5), teacher=model(4))
    student, teacher = activations(), activations(4, seed=1)
    found = objective(student, teacher)
    by_hand = [(student.hidden[i] - teacher.hidden[j]).abs().mean() for i, j in ((1, 1), (2, 3))]
    torch.testing.assert_close(found.total, sum(by_hand))
    assert found.terms.keys() == {"Plain"}
    with pytest.raises(KdzooError, match="Plain is an object already; give its options"):
        Term(Plain(), scale=2.0)


def test_a_loss_of_ones_own_with_state() -> None:
    """One module cannot stand for a projection a layer unless that is said."""
    loss = kdzoo.create("hidden_mse", student_dim=8, teacher_dim=12)
    with pytest.raises(KdzooError, match=r"holds a loss with state on 2 layers; say shared=True"):
        bound(Term(loss))
    assert [*bound(Term(loss, shared=True)).parameters()] == [*loss.parameters()]
    assert [*bound(Term(loss, layers="uniform[-1]")).parameters()] == [*loss.parameters()]


@pytest.mark.usefixtures("names")
def test_register() -> None:
    kdzoo.register("plain")(plain())
    assert "plain" in kdzoo.available() and isinstance(kdzoo.create("plain", scale=2.0), Plain)
    described = kdzoo.describe("plain")
    assert described.summary.startswith("Mean absolute difference") and described.options == {"scale": 1.0}
    kdzoo.register("plain")(plain())  # a reloaded module registers again
    with pytest.raises(KdzooError, match=r"a loss named 'plain' is registered already, by .*; choose another name"):
        kdzoo.register("plain")(type("Other", (Plain,), {}))
    with pytest.raises(KdzooError, match="must be registered on a subclass of DistillationLoss"):
        kdzoo.register("other")(torch.nn.Linear)  # type: ignore[type-var]


PLUG_IN = """
import kdzoo

@kdzoo.register("max_difference")
class MaxDifference(kdzoo.DistillationLoss):
    '''Largest difference of two logits.'''

    features = ("logits",)

    def compute(self, student, teacher, *, mask, **context):
        return (student - teacher).abs().max()
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: None) -> Path:
    """A package on the path whose metadata names it a plug-in, not loaded yet."""
    (tmp_path / "a_plug_in.py").write_text(PLUG_IN)
    metadata = tmp_path / "a_plug_in-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: a-plug-in\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[kdzoo.losses]\nmax_difference = a_plug_in:MaxDifference\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "_loaded", False)
    return tmp_path


@pytest.mark.usefixtures("installed")
def test_plug_ins_join_by_entry_point() -> None:
    assert "max_difference" not in registry._losses
    found = bound(Term("max_difference"))(activations(), activations(4, 12, seed=1))
    expected = (activations().get("logits") - activations(4, 12, seed=1).get("logits")).abs().max()  # type: ignore[operator, union-attr]
    torch.testing.assert_close(found.total, expected)
    assert "max_difference" in kdzoo.available() and math.isfinite(found.total.item())


def test_a_broken_plug_in_is_named(installed: Path) -> None:
    (installed / "a_plug_in-1.0.dist-info" / "entry_points.txt").write_text("[kdzoo.losses]\nbad = a_plug_in_gone\n")
    with pytest.raises(KdzooError, match=r"the plug-in 'bad' \(a_plug_in_gone\) could not be loaded: No module named"):
        kdzoo.available()


@pytest.mark.parametrize("terms", [["kd"], [("kd", 1.0)], [kdzoo.create("kd")]])
def test_what_is_no_term_is_refused(terms: list[Any]) -> None:
    with pytest.raises(KdzooError, match=r"an objective is made of terms, such as kdzoo.Term"):
        Objective(terms)


@pytest.mark.parametrize("weight", [math.nan, -math.inf, after(0.5, math.inf)])
def test_a_weight_that_is_no_number_is_refused(weight: Any) -> None:
    with pytest.raises(KdzooError, match=r"the weight of kd is .*; it must be finite"):
        Term("kd", weight=weight)


@pytest.mark.parametrize("weight", ["1", None])
def test_a_weight_of_another_type_is_refused(weight: Any) -> None:
    with pytest.raises(KdzooError, match=r"the weight of kd is .*; it is a number or a schedule"):
        Term("kd", weight=weight)


@pytest.mark.parametrize("progress", [-0.1, 1.5, 50, math.nan])
def test_progress_is_a_fraction(progress: float) -> None:
    with pytest.raises(KdzooError, match=r"progress is .*; it is the fraction of the training that is done, 0 to 1"):
        Objective([Term("ce")]).needs(progress)


def test_a_key_of_any_term_is_offered() -> None:
    with pytest.raises(KdzooError, match="unknown option of kd 'wieght'; did you mean 'weight'"):
        Term("kd", wieght=2.0)
