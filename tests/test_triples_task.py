"""Tasks on the triples of a knowledge graph: what is drawn, encoded, ranked and scored, from files too."""

from __future__ import annotations

import copy
import random
import secrets
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import ROWS, Commands, records
from tasks_by_unit import compared, losses, made, model
from tiny_graphs import a_graph, arguments, written
from transformers import TrainingArguments

import kdzoo
from kdzoo.errors import KdzooError
from kdzoo.models.bi_encoder import BiEncoder, load_bi_encoder
from kdzoo.models.spec import ModelSpec
from kdzoo.models.vocabulary import learned_tokenizer
from kdzoo.tasks import LinkPrediction, RelationPrediction, TripleClassification, get_task, load
from kdzoo.tasks.encoding import Encoder
from kdzoo.tasks.epochs import EVERY, epochs_of, first_epochs, rows_an_epoch
from kdzoo.tasks.metric_words import in_words
from kdzoo.tasks.metrics import get_metric, rank, ranking_scores, resampled_values
from kdzoo.tasks.own import from_data
from kdzoo.tasks.resampling import counts
from kdzoo.tasks.synthetic import graph as synthetic
from kdzoo.tasks.triples import Graph, Triple
from kdzoo.training.cache import TeacherCache
from kdzoo.training.order import by_length
from kdzoo.training.trainer import DistillationTrainer

SMALL = ("--teacher", "2x32,heads=2", "--student", "1x16,heads=2", *ROWS, "--max-length", "32")


def own(kind: Any, graph: Graph, **settings: Any) -> tuple[Any, Any, Any]:
    """A task of a graph's own, its rows and a tokenizer."""
    task = kind("mine", graph=graph, own=True, test_split="test", **settings)
    data = load(task, "own")
    return task, data, learned_tokenizer(task.texts(data["train"]), size=60)


def test_false_triples_are_drawn_for_each_epoch_and_keep_their_numbers() -> None:
    task, data, encoded, tokenizer = made("wn11")
    assert rows_an_epoch(encoded) == task.rows_an_epoch(24) == 48 and len(encoded) == 48
    three = task.for_epochs(2.5).encode(data, tokenizer, 32)
    assert three["epoch"][:] == [EVERY] * 24 + [0] * 24 + [1] * 24 + [2] * 24
    assert three["sample_ids"][:] == [*range(96)] and three["labels"][:] == [1] * 24 + [0] * 72
    assert three.select(range(48))["input_ids"][:] == encoded["input_ids"][:]
    assert first_epochs(three, 1.2)["triple"][:] == three["triple"][:72]
    with pytest.raises(KdzooError, match="drawn for 3 epochs, and the training has 4"):
        first_epochs(three, 3.5)

    known = {tuple(task.numbers_of(triple)) for triple in task.knowledge.train}
    triples = [tuple(triple) for triple in three["triple"]]
    assert set(triples[:24]) <= known and not set(triples[24:]) & known
    for start in (24, 48, 72):  # each differs from its true one in one side
        for true, false in zip(triples[:24], triples[start : start + 24], strict=True):
            assert sum(a != b for a, b in zip(true, false, strict=True)) == 1 and true[1] == false[1]
    assert triples[24:48] != triples[48:72] != triples[72:]
    again = task.for_epochs(3).encode(data, tokenizer, 32)
    assert again["triple"][:] == three["triple"][:]
    other = TripleClassification("wn11", seed=1).encode(data, tokenizer, 32)
    assert other["triple"][24:] != encoded["triple"][24:]
    links = get_task("umls").encode(data, tokenizer, 32)
    assert links["labels"][:] == [1] * 24 + [0] * 120


def test_an_epoch_takes_its_own_rows_alone(tmp_path: Path) -> None:
    task, data, _, tokenizer = made("wn11")
    rows = task.for_epochs(2).encode(data, tokenizer, 32)
    sampler = by_length(rows, arguments(tmp_path), rows)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        orders.append([*sampler])
        assert len(sampler) == 48
        assert sorted(orders[-1]) == [*range(24), *range(24 + 24 * epoch, 48 + 24 * epoch)]
    assert orders[0][:24] != orders[1][:24]
    sampler.set_epoch(2)
    with pytest.raises(KdzooError, match="rows of 2 epochs"):
        iter(sampler)
    with pytest.raises(KdzooError, match="group_by_length"):
        trained(task, tokenizer, rows, arguments(tmp_path, train_sampling_strategy="random"))
    mixed = rows.remove_columns("epoch").add_column("epoch", [0, EVERY] * 36)
    with pytest.raises(KdzooError, match="in order"):
        epochs_of(mixed)


def trained(task: Any, tokenizer: Any, rows: Any, args: TrainingArguments, cache: Any = None) -> DistillationTrainer:
    return DistillationTrainer(
        model=model(task, tokenizer, "1x16,heads=2", seed=1),
        teacher=model(task, tokenizer),
        objective="kd + ce",
        cache=cache,
        args=args,
        train_dataset=rows,
        data_collator=task.collator(tokenizer),
        processing_class=tokenizer,
    )


def test_the_cache_and_a_resume_have_the_rows_that_were_drawn(tmp_path: Path) -> None:
    task, data, _, tokenizer = made("wn11")
    rows = task.for_epochs(3).encode(data, tokenizer, 32)
    live = trained(task, tokenizer, rows, arguments(tmp_path / "live"))
    live.train()
    cached = trained(
        task, tokenizer, rows, arguments(tmp_path / "out", save_strategy="epoch"), TeacherCache(tmp_path / "cache")
    )
    cached.train()
    assert cached.teacher_rows is not None and cached.state.max_steps == 9
    assert losses(cached) == pytest.approx(losses(live), rel=1e-5)
    resumed = trained(task, tokenizer, rows, arguments(tmp_path / "out"), TeacherCache(tmp_path / "cache"))
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert resumed.teacher_rows is not None
    for one, other in zip(resumed.student.parameters(), cached.student.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_ranks_are_those_of_brute_force() -> None:
    seed = secrets.randbits(32)
    print("seed", seed)
    rng = random.Random(seed)
    graph = a_graph(rng)
    task, data, tokenizer = own(LinkPrediction, graph)
    rows = task.encode(data["validation"], tokenizer, 32)
    texts = {
        triple: tuple(task.row_of(tokenizer, 32)(triple).input_ids)
        for triple in (Triple(h, r, t) for h in graph.entities for r in graph.relations for t in graph.entities)
    }
    ids = [tuple(row) for row in rows["input_ids"]]
    assert len(set(ids)) == len(set(ids[10:]) | set(ids[:10])) and len({*ids[10:]}) == len(ids) - 10
    score = {row: float(rng.randint(0, 5)) for row in texts.values()}  # many are equal
    logits = np.array([[1.0, 1.0 + score[row]] for row in ids], dtype=np.float32)
    found = task.predictions(logits, rows)

    true, names = set(graph.true()), [*graph.entities]
    expected = []
    for triple in graph.dev:
        for side in ("head", "tail"):
            every = [triple._replace(**{side: name}) for name in names]
            known = [at for at, other in enumerate(every) if other in true and other != triple]
            expected.append(rank([score[texts[o]] for o in every], names.index(getattr(triple, side)), known))
    # Of candidates whose tokens are those of the true triple, as with equal texts, half count as better.
    assert found.ravel().tolist() == expected
    scores = task.evaluate(found, task.references(rows))
    assert scores == pytest.approx(ranking_scores(expected))
    assert task.references(rows) == [task.numbers_of(triple) for triple in graph.dev]

    part = task.glimpse(rows)
    assert len(part) == len(rows)
    from kdzoo.tasks.candidates import first_asked

    part = first_asked(rows, 4)
    kept = {tuple(row): value for row, value in zip(ids, logits.tolist(), strict=True)}
    again = task.predictions(np.array([kept[tuple(row)] for row in part["input_ids"]]), part)
    assert again.tolist() == found[:4].tolist() and len(part) < len(rows)
    assert task.references(part) == task.references(rows)[:4]


def test_relations_are_ranked_among_all_but_those_that_hold() -> None:
    rng = random.Random(5)
    graph = a_graph(rng, entities=5)
    task, data, tokenizer = own(RelationPrediction, graph)
    rows = task.encode(data["test"], tokenizer, 32)
    assert rows[0]["token_type_ids"][0] == 0 and rows[0]["token_type_ids"][-1] == 1
    logits = np.array([[rng.randint(0, 3) for _ in range(4)] for _ in range(10)], dtype=np.float32)
    true, names = set(graph.true()), [*graph.relations]
    expected = [
        rank(
            scores,
            names.index(triple.relation),
            [at for at, name in enumerate(names) if triple._replace(relation=name) in true - {triple}],
        )
        for triple, scores in zip(graph.test, logits, strict=True)
    ]
    assert task.predictions(logits, rows).tolist() == expected
    assert any(rows["known"][:]), "some pairs have several relations"
    assert task.head().config["id2label"] == dict(enumerate(names))
    with pytest.raises(KdzooError, match=r"logits \(N, 4\)"):
        task.predictions(logits[:, :3], rows)
    train = task.encode(data["train"], tokenizer, 32)
    usual = task.constant(train, task.references(rows))
    assert usual.shape == (10,) and usual.min() >= 1


@pytest.mark.parametrize("kind", [TripleClassification, RelationPrediction, LinkPrediction])
def test_triples_that_are_cut_are_said(kind: Any) -> None:
    task, data, tokenizer = own(kind, a_graph(random.Random(0)))
    rows = data["train"]
    lengths = list(map(len, task.for_epochs(1).encode(rows, tokenizer, 64)["input_ids"]))[: len(rows)]
    most = max(lengths)
    assert task.about_length(rows, tokenizer, most) == ""
    longer = sum(length > most - 1 for length in lengths)
    said = f"{longer} of {len(rows)} training rows are longer than --max-length {most - 1}, and are cut"
    assert task.about_length(rows, tokenizer, most - 1) == said


def test_rank_metrics_and_their_resamples() -> None:
    drawing = np.random.default_rng(secrets.randbits(32))
    ranks = 1 + drawing.integers(30, size=(2, 40, 2)) / 2
    index = drawing.integers(40, size=(3, 40))
    for name in ("mr", "mrr", "hits@1", "hits@3", "hits@10"):
        found = resampled_values(name, "ranking", [*ranks], [], counts(index, 40))
        for cell in range(2):
            assert get_metric(name, "ranking").compute(ranks[cell], []) == pytest.approx(
                ranking_scores(ranks[cell].ravel())[name]
            )
            for row, rows in enumerate(index):
                assert found[cell, row] == pytest.approx(ranking_scores(ranks[cell][rows].ravel())[name])
        assert get_metric(f"sampled_{name}", "sampled_ranking").compute(ranks[0], []) == pytest.approx(
            get_metric(name, "ranking").compute(ranks[0], [])
        )
    assert in_words({"mr": 3.14, "mrr": 0.5}, "ranking") == "mr 3.1, mrr 50.0"
    assert in_words({"accuracy": 0.5, "mse": 0.5}, "regression") == "accuracy 50.0, mse 0.5"
    assert in_words({"mse": 0.01278, "mae": 3.14}, "regression") == "mse 0.013, mae 3.1", "in the labels' unit"
    assert in_words({"relation_f1[1+2]": 0.5, "accuracy": 1.0}, "classification") == "relation_f1 50.0, accuracy 100.0"
    two = {"relation_f1[1]": 0.5, "relation_f1[2]": 1.0}
    assert in_words(two, "classification") == "relation_f1[1] 50.0, relation_f1[2] 100.0"


def test_a_sample_of_candidates_is_named_so() -> None:
    names = {f"e{number}": f"word{number}" for number in range(600)}
    triples = [Triple(f"e{number}", "r", f"e{number + 1}") for number in range(30)]
    graph = Graph(names, {"r": "rel"}, triples[:20], triples[20:25], triples[25:])
    task, data, tokenizer = own(LinkPrediction, graph)
    assert task.kind == "sampled_ranking" and task.headline == ("sampled_mrr",)
    assert "sampled ranking, among a fixed 100 of 600" in task.describe()
    drawn = task.candidate_names()
    assert len(drawn) == 100 and drawn == task.candidate_names()
    rows = task.encode(data["validation"], tokenizer, 16)
    known, sizes = set(graph.true()), [len(places) for places in rows["tails"][:5]]
    for triple, size in zip(graph.dev, sizes, strict=True):
        possible = {name for name in drawn if triple._replace(tail=name) not in known}
        assert size == len(possible | {triple.tail})
    exact = LinkPrediction("mine", graph=graph, candidates=600)
    assert exact.kind == "ranking" and exact.headline == ("mrr",) and len(exact.candidate_names()) == 600
    assert LinkPrediction("mine", candidates=20).of_graph(graph).headline == ("sampled_mrr",)
    assert task.of_graph(a_graph(random.Random(0))).headline == ("mrr",)
    with pytest.raises(KdzooError, match="2 or more"):
        LinkPrediction("mine", candidates=1)


def test_false_triples_of_dev_are_false_everywhere() -> None:
    graph = a_graph(random.Random(1))
    task, data, _ = own(TripleClassification, graph)
    assert [len(data[split]) for split in ("train", "validation", "test")] == [40, 20, 20]
    true = set(graph.true())
    for split in ("validation", "test"):
        names = zip(*(data[split][part][:] for part in ("head", "relation", "tail")), strict=True)
        assert [int(Triple(*found) in true) for found in names] == data[split]["label"][:]
    kept, taken = task.held_out(data["train"], 0)
    assert (len(kept), len(taken)) == (36, 8) and {*taken["split"]} == {"validation"}
    assert taken["label"][:] == [1, 0] * 4


def test_two_tokenizers_make_equally_many_rows() -> None:
    graph = a_graph(random.Random(2))
    task, data, tokenizer = own(LinkPrediction, graph)
    other = learned_tokenizer(chain(task.texts(data["train"]), ["au bv"] * 5), size=400)
    both = Encoder(other, tokenizer, 16, epochs=2)
    train, dev = both.for_students(task, data["train"]), both.for_students(task, data["validation"])
    assert len(train) == 40 * 11 and "teacher_input_ids" in dev.column_names
    batch = both.collator(task)([train[at] for at in range(4)])
    assert {"input_ids", "teacher_input_ids", "tail_start"} <= {*batch}


def bi(task: Any, tokenizer: Any, size: str = "bi:2x16,heads=2") -> BiEncoder:
    built = ModelSpec.parse(size).build(task, tokenizer=tokenizer, positions=64, seed=3)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(4 if parameter.dim() > 1 else 1)
    return built.eval()


def test_a_bi_encoder_reads_each_part_by_itself(tmp_path: Path) -> None:
    graph = a_graph(random.Random(3))
    task, data, tokenizer = own(LinkPrediction, graph)
    rows = task.encode(data["validation"], tokenizer, 16)
    one = bi(task, tokenizer)
    found = one.outputs_of(rows, 7)
    collate = task.collator(tokenizer)
    for at in range(0, len(rows), 5):
        row = rows[at]
        start, whole = row["tail_start"], row["input_ids"]
        with torch.no_grad():
            query = one.encode(
                torch.tensor([whole[:start]]), torch.ones(1, start), torch.tensor([row["token_type_ids"][:start]])
            )
            tail = torch.tensor([[whole[0], *whole[start:]]])
            expected = one.pair_scores(query * one.encode(tail, torch.ones_like(tail)))
        np.testing.assert_allclose(found[at : at + 1], expected.numpy(), atol=1e-5)
    batch = collate([rows[at] for at in range(len(rows))])
    given = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids", "tail_start")}
    with pytest.raises(KdzooError, match="needs tail_start"):
        one(batch["input_ids"])
    with torch.no_grad():
        np.testing.assert_allclose(one(**given).logits.numpy(), found, atol=1e-5)
    longer = {name: torch.cat([v, v[:, :3] * 0], 1) if v.dim() == 2 else v for name, v in given.items()}
    with torch.no_grad():
        np.testing.assert_allclose(one(**longer).logits.numpy(), found, atol=1e-5)
    assert one(**given, labels=batch["labels"]).loss.item() > 0

    one.save_pretrained(tmp_path)
    again = load_bi_encoder(tmp_path)
    np.testing.assert_array_equal(again.outputs_of(rows, 7), found)
    np.testing.assert_array_equal(bi_of(tmp_path, task).outputs_of(rows, 7), found)
    from transformers import AutoModel

    plain = AutoModel.from_pretrained(tmp_path).eval()
    ids = batch["input_ids"][:2]
    with torch.no_grad():
        states = plain(ids).last_hidden_state
        torch.testing.assert_close(states, one.base_model(ids).last_hidden_state)
    model(task, tokenizer).save_pretrained(tmp_path / "other")
    with pytest.raises(KdzooError, match="no bi-encoder"):
        load_bi_encoder(tmp_path / "other")


def bi_of(folder: Path, task: Any) -> Any:
    return ModelSpec.parse(f"bi:{folder}").absolute().build(task).eval()


def test_a_bi_encoder_learns_from_logits_alone() -> None:
    task, _, rows, tokenizer = made("umls")
    student, teacher = bi(task, tokenizer), model(task, tokenizer)
    batch = task.collator(tokenizer)([rows[at] for at in range(12)])
    found = compared(kdzoo.Objective("kd + ce"), student, teacher, batch)
    given = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids", "tail_start")}
    with torch.no_grad():
        own_loss = student(**given, labels=batch["labels"]).loss.item()
    assert found["ce"] == pytest.approx(own_loss, rel=1e-5) and found["kd"] > 0
    for expression in ("cos_nce@cls", "hidden_mse", "attention_kl", "pkd@pooled"):
        with pytest.raises(KdzooError, match="reads a row in two passes"):
            kdzoo.Objective(expression).bind(student, teacher)
    for name in ("wn18rr", "sst2"):
        with pytest.raises(KdzooError, match="not made of a query and a tail"):
            ModelSpec.parse("bi:1x16").build(get_task(name), tokenizer=tokenizer)
    with pytest.raises(KdzooError, match="2 classes, not 3"):
        BiEncoder(copy.deepcopy(student.base_model), 3)


def test_the_synthetic_graph() -> None:
    graph = synthetic.graph()
    split = {name: set(getattr(graph, name)) for name in ("train", "dev", "test")}
    assert not split["train"] & (split["dev"] | split["test"])
    assert graph.dev_labels is not None and graph.dev_labels.count(True) == len(graph.dev) // 2
    task = get_task("umls")
    rows = task.synthetic("train", 30, 3)
    assert task.synthetic("train", 10, 3)["head"] == rows["head"][:10]
    assert task.synthetic("train", 10, 4)["head"] != rows["head"][:10]
    assert len(task.synthetic("train", 10**6, 0)["head"]) == len(graph.train)


def test_a_comparison_whole(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdzoo.tasks.knowledge_graphs.GLIMPSE", 2)
    out = tmp_path / "out"
    small = (*SMALL, "--train-rows", "24", "--validation-rows", "6", "--epochs", "1.5", "--evaluations", "1")
    asked = ("compare", "--tasks", "umls,wn18rr,wn11", *small, "--methods", "none,kd", "--out", out)
    said = commands.works(*asked)
    found = records(out)
    assert len(found) == 9
    record = found["umls-kd-0"]
    ranks = np.array(record["predictions"]["validation"])
    assert ranks.shape == (6, 2)
    assert record["score"] == pytest.approx(100 * ranking_scores(ranks.ravel())["mrr"], rel=1e-6)
    assert f"mr {ranking_scores(ranks.ravel())['mr']:.1f}" in said
    assert (record["steps"], found["wn11-kd-0"]["steps"]) == (14, 5)  # an epoch has 24 * 6 and 24 * 2 rows
    assert record["cached"] and found["wn11-kd-0"]["cached"]
    assert len(record["curve"]) == 2 and record["curve"][-1]["score"] != record["score"], "it is of fewer triples"
    commands.works(*asked)  # which finds all of it
    assert "<svg" in (out / "report.html").read_text()


def test_a_bi_encoder_is_distilled(commands: Commands, tmp_path: Path) -> None:
    data = ("--task", "umls", *SMALL[4:], "--train-rows", "24", "--validation-rows", "4")
    commands.works("finetune", *data, "--model", "2x32,heads=2", "--out", tmp_path / "teacher")
    given = ("--teacher", tmp_path / "teacher", "--cache-folder", tmp_path / "cache", "--out", tmp_path / "student")
    commands.works("distill", *data, *given, "--student", "bi:1x16,heads=2", "--method", "kd")
    assert load_bi_encoder(tmp_path / "student").config.bi_encoder
    given = (*given[:-1], tmp_path / "other")
    commands.fails(
        "distill", *data, *given, "--student", "bi:2x16,heads=2", "--method", "pkd", says=("bi-encoder", "two passes")
    )
    # Its folder without bi: is no encoder to begin a plain student from, which would carry its mark, nor a teacher.
    plain = ("--method", "kd", "--teacher", tmp_path / "teacher", "--student", tmp_path / "student")
    for told in (plain, (*plain[:3], tmp_path / "student", "--student", "1x16,heads=2")):
        commands.fails("distill", *data, *told, *given[-2:], says=("holds a bi-encoder", f"bi:{tmp_path}"))
    assert not (tmp_path / "other").exists() or not any((tmp_path / "other").glob("*.safetensors"))
    asked = ("compare", "--tasks", "umls", "--teacher", "bi:2x32", "--out", tmp_path / "out")
    commands.fails(*asked, says=("bi:2x32 is a bi-encoder, which is for students",))
    told = ("--method", "kd", "--teacher", f"bi:{tmp_path / 'student'}", "--student", "1x16,heads=2", *given[-2:])
    commands.fails("distill", *data, *told, says=("is a bi-encoder, which is for students",))


def test_folders(commands: Commands, tmp_path: Path) -> None:
    graph = a_graph(random.Random(4))
    folder = written(tmp_path / "data" / "umls", graph)
    task = get_task("umls").adapted(str(tmp_path / "data"))
    assert task.test_split == "test" and [*task.knowledge.entities] == [*dict.fromkeys(task.knowledge.entities)]
    data = load(task, tmp_path / "data")
    assert {split: len(rows) for split, rows in data.items()} == {"train": 40, "validation": 10, "test": 10}
    assert len(load(task, tmp_path / "data", test_rows=4)["test"]) == 4
    assert {*load(task, tmp_path / "data", test_rows=0)} == {"train", "validation"}
    with pytest.raises(KdzooError, match="adapt_task"):
        load(get_task("wn11"), shutil.copytree(folder, tmp_path / "two" / "wn11").parent)
    with pytest.raises(KdzooError, match="another graph"):
        get_task("wn11").encode(data["train"], None, 16)
    given = (*SMALL, "--methods", "none", "--evaluations", "0", "--out", tmp_path / "out")
    said = commands.works("compare", "--tasks", "umls", "--data", tmp_path / "data", *given)
    assert "12 entities, 4 relations, 40 training triples" in said
    test = records(tmp_path / "out")["umls-none-0"]["test"]
    assert test["rows"] == 10 and "mrr" in test["metrics"]
    assert get_task("umls").adapted("synthetic").graph is None

    described = tmp_path / "mine.yaml"
    described.write_text(f"kind: links\nfiles: {folder}\nname: linked\ngraph: {{candidates: 5, negatives: 2}}\n")
    told = ("--tasks", described, *given[:-1], tmp_path / "yaml")
    assert "among a fixed 5 of 12" in commands.works("compare", *told)
    assert records(tmp_path / "yaml")["linked-none-0"]["kind"] == "sampled_ranking"
    for kind, name in (("triples", "umls-triples"), ("relations", "umls-relations")):
        found = from_data(folder, kind=kind)
        assert found.task.name == name and found.task.brings_rows
    twice = written(
        tmp_path / "twice", Graph(graph.entities, graph.relations, graph.train, graph.train[:3], graph.test)
    )
    assert "3 of 3 true triples of dev are in training too" in from_data(twice, kind="links").notes[1]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"train": "e0\tr0\te1\ne0\tr9\te1\n"}, ("train.tsv, row 2", "'r9' has no text")),
        ({"dev": "e0\te1\tr0\n"}, ("dev.tsv, row 1", "the order is head, relation, tail")),
        ({"test": "e0\tr0\n"}, ("test.tsv, row 1", "2 columns")),
        ({"entity2text": "e0\t\n"}, ("entity2text.txt, row 1", "'e0' has no text")),
    ],
)
def test_folders_that_are_none(
    commands: Commands, tmp_path: Path, changed: dict[str, str], says: tuple[str, ...]
) -> None:
    written(tmp_path / "data" / "umls", a_graph(random.Random(4)), **changed)
    commands.fails("compare", "--tasks", "umls", "--data", tmp_path / "data", "--out", tmp_path / "o", says=says)


def test_what_else_is_refused(commands: Commands, tmp_path: Path) -> None:
    folder = written(tmp_path / "mine", a_graph(random.Random(4)))
    asked = ("compare", "--data", folder, "--kind", "links", *SMALL, "--out", tmp_path / "out")
    commands.fails(*asked, "--text", "head", says=("triples have no --text",))
    commands.fails(*asked, "--metric", "accuracy", says=("accuracy", "for ranking there are mr"))
    commands.fails(*asked, "--metric", "mr", says=("less is better of mr",))
    commands.fails(*asked, "--augment", "1", "--glove", folder / "train.tsv", says=("exchanged words", "--augment"))
    commands.fails("compare", "--data", folder / "train.tsv", *asked[3:], says=("read from a folder",))
    with pytest.raises(KdzooError, match="setting of links"):
        from_data(folder, kind="links", graph={"negative": 1})
    with pytest.raises(KdzooError, match="negatives is 'two'"):
        from_data(folder, kind="links", graph={"negatives": "two"})
    task = LinkPrediction("mine", graph=a_graph(random.Random(4)))
    with pytest.raises(KdzooError, match="'nobody' is no entity"):
        task.parse({"head": "nobody", "relation": "r0", "tail": "e1", "label": 1, "split": "train"})
    with pytest.raises(KdzooError, match="only true ones have a rank"):
        task.parse({"head": "e0", "relation": "r0", "tail": "e1", "label": 0, "split": "test"})
