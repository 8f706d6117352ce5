"""Candidates of one query as one list: what losses on logits see, which rows stand together, and what is refused."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from command_line import ROWS, Commands, records
from tasks_by_unit import compared, losses, made, model, trainer
from tiny_graphs import a_graph, arguments, written

import kdzoo
from kdzoo.errors import KdzooError
from kdzoo.models.activations import Activations
from kdzoo.models.bi_encoder import BiEncoder
from kdzoo.tasks import LinkPrediction
from kdzoo.tasks.own import from_data
from kdzoo.training.cache import TeacherCache
from kdzoo.training.labels import Labels
from kdzoo.training.order import by_length

SIZE = 4
BY_LENGTH = {"train_sampling_strategy": "group_by_length", "length_column_name": "length"}


def lists_of(rows: int = 24, epochs: float = 1) -> tuple[Any, Any, Any]:
    """A task of lists of four, its encoded rows and a tokenizer."""
    _, data, _, tokenizer = made("umls", rows)
    task = LinkPrediction("umls", negatives=SIZE - 1, lists=True)
    return task, task.for_epochs(epochs).encode(data, tokenizer, 32), tokenizer


def softmax(scores: np.ndarray) -> np.ndarray:
    shifted = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


@pytest.mark.parametrize("seed", range(3))
def test_losses_on_logits_are_of_the_scores_of_a_list(seed: int) -> None:
    rng = np.random.default_rng(seed)
    queries, size = rng.integers(1, 5), rng.integers(2, 6)
    ours, theirs = (rng.normal(size=(queries * size, 2)) for _ in range(2))
    lists = rng.permutation(queries * size).reshape(queries, size)
    values = {}
    for objective in ("kd(temperature=2)", "ce", "margin_mse", "logit_mse"):
        found = kdzoo.Objective(objective)
        found.bind(a_model(), a_model())
        taken = (Activations(logits=torch.from_numpy(side)) for side in (ours, theirs))
        labels = torch.from_numpy(np.isin(np.arange(queries * size), lists[:, 0]).astype(int))
        values[objective] = float(found(*taken, labels=labels, lists=torch.from_numpy(lists)).total)
    scores = [(side[:, 1] - side[:, 0])[lists] for side in (ours, theirs)]
    student, teacher = (softmax(side / 2) for side in scores)
    assert values["kd(temperature=2)"] == pytest.approx(4 * (teacher * np.log(teacher / student)).sum(-1).mean())
    assert values["ce"] == pytest.approx(-np.log(softmax(scores[0])[:, 0]).mean())
    gaps = scores[0] - scores[1]
    assert values["margin_mse"] == pytest.approx(((gaps[:, :1] - gaps[:, 1:]) ** 2).mean())
    assert values["logit_mse"] == pytest.approx((gaps**2).mean())


def a_model() -> Any:
    """With two classes, and without weights."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    with torch.device("meta"):
        return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=30, **sizes))


def test_what_lists_are_not() -> None:
    objective = kdzoo.Objective("logit_mse")
    objective.bind(a_model(), a_model())
    whole = torch.arange(4).reshape(2, 2)
    for logits, lists, wrong in (
        (torch.zeros(4, 3), whole, r"two classes, got logits \(4, 3\)"),
        (torch.zeros(4, 2), whole.flatten(), r"\(Q, K\) of K from 2 on, got torch.int64 \(4,\)"),
        (torch.zeros(4, 2), whole[:, :1], r"got torch.int64 \(2, 1\)"),
        (torch.zeros(4, 2), whole.float(), r"got torch.float32"),
    ):
        with pytest.raises(KdzooError, match=wrong):
            objective(Activations(logits=logits), Activations(logits=logits), lists=lists)


def test_a_teacher_of_labels_in_another_order_has_the_same_scores() -> None:
    task, rows, tokenizer = lists_of()
    batch = task.collator(tokenizer)([rows[at] for at in (0, 1, *range(24, 30))])
    student, teacher = model(task, tokenizer, "1x16,heads=2", seed=1), model(task, tokenizer)
    other = copy.deepcopy(teacher)
    other.config.id2label, other.config.label2id = {0: "true", 1: "false"}, {"true": 0, "false": 1}
    with torch.no_grad():
        for parameter in other.classifier.parameters():
            parameter.copy_(parameter.flip(0))
    found = [compared(kdzoo.Objective("kd + ce"), student, of, batch) for of in (teacher, other)]
    assert found[0] == pytest.approx(found[1]) and found[0]["kd"] > 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_whole_lists_stand_in_a_batch(seed: int, tmp_path: Path) -> None:
    _, rows, _ = lists_of(random.Random(seed).randint(5, 30), epochs=2)
    count = int(sum(rows["labels"][:]))
    drawn = [at // 3 for at in range(3 * count)]
    assert rows["candidate_list"][:] == [*range(count), *drawn, *drawn]
    for query, triple, label in zip(rows["candidate_list"][:], rows["triple"][:], rows["labels"][:], strict=True):
        true = rows["triple"][query]
        assert sum(a != b for a, b in zip(true, triple, strict=True)) == 1 - label
    sampler = by_length(rows, arguments(tmp_path, per_device_train_batch_size=8, data_seed=seed), rows)
    assert len(sampler) == SIZE * count
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append([*sampler])
        assert sorted(orders[-1]) == [*range(count), *range(count * (1 + 3 * epoch), count * (4 + 3 * epoch))]
        for at in range(0, len(orders[-1]), SIZE):
            part = rows[orders[-1][at : at + SIZE]]
            assert len({*part["candidate_list"]}) == 1 and part["labels"] == [1, 0, 0, 0]
    assert orders[0] == orders[2] != orders[1]
    lengths = np.array(
        [max(rows["length"][at] for at in orders[0][a : a + SIZE]) for a in range(0, SIZE * count, SIZE)]
    )
    assert np.abs(np.diff(lengths)).mean() <= np.abs(np.diff(np.random.default_rng(0).permutation(lengths))).mean()


def test_rows_of_a_batch_may_stand_in_any_order() -> None:
    rng = np.random.default_rng()
    queries = torch.from_numpy(np.repeat([7, 2, 30], 3))
    labels = torch.tensor([1, 0, 0] * 3)
    order = torch.from_numpy(rng.permutation(9))
    found = Labels.of(torch.nn.Linear(1, 1), {"labels": labels[order], "candidate_list": queries[order]})
    assert found.lists is not None and found.lists.shape == (3, 3)
    assert queries[order][found.lists].tolist() == [[2] * 3, [7] * 3, [30] * 3]
    assert labels[order][found.lists].tolist() == [[1, 0, 0]] * 3
    assert found.values is not None and torch.equal(found.values, labels[order])
    for kept, changed in ((8, labels), (9, labels.clone().fill_(0)), (9, labels.clone().fill_(1)), (1, labels)):
        with pytest.raises(KdzooError, match=r"whole lists of candidates, .*multiple"):
            Labels.of(torch.nn.Linear(1, 1), {"labels": changed[:kept], "candidate_list": queries[:kept]})


def test_training_on_lists(tmp_path: Path) -> None:
    task, rows, tokenizer = lists_of()
    told = {"objective": kdzoo.Objective("kd + ce"), **BY_LENGTH}
    live = trainer(task, tokenizer, rows, tmp_path / "live", batch=16, **told)
    live.train()
    order = [*by_length(rows, live.args, rows)][:16]
    batch = task.collator(tokenizer)([rows[at] for at in order])
    students = (model(task, tokenizer, "1x16,heads=2", seed=1), model(task, tokenizer))
    assert losses(live)[0] == pytest.approx(sum(compared(kdzoo.Objective("kd + ce"), *students, batch).values()))
    kept = trainer(task, tokenizer, rows, tmp_path / "kept", batch=16, cache=TeacherCache(tmp_path / "cache"), **told)
    kept.train()
    assert losses(kept) == pytest.approx(losses(live), rel=1e-4)
    pieces = trainer(task, tokenizer, rows, tmp_path / "pieces", batch=8, pieces=2, **told)
    pieces.train()
    for one, other in zip(pieces.student.parameters(), live.student.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    with pytest.raises(KdzooError, match=r"batch size is 14, and a list of candidates has 4 rows.*such as 12"):
        trainer(task, tokenizer, rows, tmp_path / "no", batch=14, **told)
    with pytest.raises(KdzooError, match=r"lists of candidates .*group_by_length"):
        trainer(task, tokenizer, rows.remove_columns("epoch"), tmp_path / "no", kdzoo.Objective("kd"), batch=16)


def test_a_method_on_hidden_states_has_a_label_a_row(tmp_path: Path) -> None:
    task, rows, tokenizer = lists_of()
    told = {"objective": kdzoo.Objective("codir(num_negatives=4) + pkd + kd"), **BY_LENGTH}
    trained = trainer(task, tokenizer, rows, tmp_path, batch=16, **told)
    trained.train()
    assert all(np.isfinite(losses(trained)))


def test_a_bi_encoder_learns_a_list(tmp_path: Path) -> None:
    task, rows, tokenizer = lists_of(4)
    torch.manual_seed(0)
    student = BiEncoder(model(task, tokenizer, "1x32,heads=2", seed=1).base_model)
    teacher = model(task, tokenizer)
    batch = task.collator(tokenizer)([*rows])
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    values = []
    from kdzoo.training.distiller import Distiller

    objective = kdzoo.Objective("kd")
    objective.bind(student, teacher)
    distiller = Distiller(student, objective).train()
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        above = Activations(logits=teacher(**inputs).logits)
    for _ in range(60):
        optimizer.zero_grad()
        loss = distiller(teacher=above, **batch).total
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.2 * values[0]


def test_lists_from_a_folder(commands: Commands, tmp_path: Path) -> None:
    folder = written(tmp_path / "mine", a_graph(random.Random(5)))
    described = tmp_path / "lists.yaml"
    described.write_text(f"kind: links\nfiles: {folder}\ngraph: {{negatives: 3, lists: true}}\n")
    small = (*ROWS, "--teacher", "1x16,heads=2", "--student", "1x16,heads=2", "--evaluations", "0")
    told = ("compare", "--tasks", described, *small, "--max-length", "24", "--methods", "none,kd,margin_mse + ce")
    said = commands.works(*told, "--batch-size", "8", "--out", tmp_path / "out")
    assert "ranked among all, trained in lists of 4, 12 entities" in said
    found = records(tmp_path / "out")
    assert {record["metrics"]["mrr"] > 0 for record in found.values()} == {True} and len(found) == 4
    commands.fails(*told, "--batch-size", "6", "--out", tmp_path / "no", says=("batch size is 6", "has 4 rows"))
    one = ("--task", described, "--student", "1x16,heads=2", *ROWS, "--max-length", "24", "--method", "kd")
    teacher = ("--teacher", tmp_path / "out/teachers/lists")
    says = ("batch size is 7", "such as 4")
    commands.fails("distill", *one, *teacher, "--batch-size", "7", "--out", tmp_path / "d", says=says)

    for settings, wrong in (
        ({"lists": 1}, "lists is 1; it must be true or false"),
        ({"lists": "yes"}, "lists is 'yes'; it must be true or false"),
    ):
        with pytest.raises(KdzooError, match=wrong):
            from_data(folder, kind="links", graph=settings)
    with pytest.raises(KdzooError, match="setting of triples"):
        from_data(folder, kind="triples", graph={"lists": True})
    with pytest.raises(KdzooError, match="negatives must be 1 or more"):
        LinkPrediction("umls", negatives=0, lists=True)
    assert LinkPrediction("umls").identity() != LinkPrediction("umls", lists=True).identity()
    assert "lists" not in LinkPrediction("umls").identity()
