"""A teacher that reads facts beside its sentences (K-BERT): its rows, its attention, and what a student learns from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import ROWS, Commands, records
from tasks_by_unit import losses, model
from tiny_models import tiny
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainingArguments

import kdzoo
from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.models.activations import Needs, capture
from kdzoo.models.inputs import check_abilities
from kdzoo.models.vocabulary import learned_tokenizer
from kdzoo.tasks import Classification, QuestionAnswering, TokenClassification, WithKnowledge, get_task, load
from kdzoo.tasks.encoding import Encoder
from kdzoo.tasks.knowledge import Facts, inject, read_facts
from kdzoo.tasks.own_file import from_yaml
from kdzoo.tasks.pieces import IGNORED, tokenizer_pieces
from kdzoo.tasks.sources.rows import checked
from kdzoo.training.cache import TeacherCache
from kdzoo.training.trainer import DistillationTrainer

SMALL = ("--teacher", "2x32,heads=2", "--student", "1x16,heads=2", *ROWS, "--max-length", "32")
FACTS = Facts({"tim cook": ["CEO Apple"], "Beijing": ["capital China", "is a city"], "x-ray": ["is light"]})
TEXTS = (
    ("Tim Cook is visiting Beijing, now!", "an X-ray of Beijing"),
    ("nothing is here", "TIM  COOK"),
    ("Beijing Beijing Beijing", "Tim went"),
)


def pairs(arm: str = "") -> WithKnowledge:
    inner = Classification("pairs", ("one", "two"), ("no", "yes"))
    return WithKnowledge("pairs-kbert", inner, facts=FACTS, arm=arm)


def tagged(arm: str = "") -> WithKnowledge:
    return WithKnowledge("tagged", TokenClassification("tagged", ("O", "B-X")), facts=FACTS, arm=arm)


def rows_of(task: WithKnowledge) -> Any:
    if task.kind == "tokens":
        words = [["Tim", "Cook", "saw", "Beijing", "."], ["an", "X-ray"], ["Beijing"] * 9]
        return checked(task, "made", {"words": words, "tags": [["B-X", *["O"] * (len(own) - 1)] for own in words]})
    one, two = zip(*TEXTS, strict=True)
    return checked(task, "made", {"one": one, "two": two, "label": ["no", "yes", "no"]})


def tokenizer_of(task: WithKnowledge, rows: Any) -> Any:
    return learned_tokenizer([*task.texts(rows)] * 2, size=120)


def encoded(task: WithKnowledge, length: int = 64) -> tuple[Any, Any, Any]:
    """Plain rows, rows of both, and the encoder."""
    rows = rows_of(task)
    tokenizer = tokenizer_of(task, rows)
    encoder = Encoder(tokenizer, tokenizer, length)
    return task.inner.encode(rows, tokenizer, length), encoder.for_students(task, rows), encoder


def test_the_teacher_s_row_is_the_student_s_with_facts_in_it() -> None:
    plain, both, encoder = encoded(pairs())
    tokenizer = encoder.teacher
    first = ["Tim", "Cook", "is", "visiting", "Beijing", ",", "now", "!"]
    words = ["[CLS]", *first, "[SEP]", "an", "X", "-", "ray", "of", "Beijing", "[SEP]"]
    known = {"tim cook": FACTS["tim cook"], "beijing": FACTS["beijing"], "x - ray": FACTS["x-ray"]}
    wanted = inject(words, known, tokenizer_pieces(tokenizer))
    row = both[0]
    assert tokenizer.convert_ids_to_tokens(row["teacher_input_ids"]) == wanted.tokens
    assert row["teacher_position_ids"] == wanted.positions
    assert row["teacher_index"] == np.flatnonzero(wanted.trunk).tolist()
    batch = encoder.collator(pairs())([both[at] for at in range(3)])
    seen = batch["teacher_attention_mask"][0, 0, : len(wanted.tokens), : len(wanted.tokens)] == 0
    assert np.array_equal(seen.numpy(), wanted.visible)
    for number in range(3):
        row, own = both[number], plain[number]
        assert {name: row[name] for name in own} == own, "the student's row is the plain task's"
        assert [row["teacher_input_ids"][place] for place in row["teacher_index"]] == own["input_ids"]
        # A fact has the segment of the text around it.
        types = row["teacher_token_type_ids"]
        assert [types[place] for place in row["teacher_index"]] == own["token_type_ids"]
        assert types == sorted(types)
    assert len(both[1]["teacher_input_ids"]) > len(both[1]["input_ids"]), "case and blanks do not count"


def test_long_rows_lose_facts_and_never_the_text() -> None:
    for length in (12, 20, 30):
        plain, both, _ = encoded(pairs(), length)
        whole = [len(row["teacher_input_ids"]) for row in both]
        assert max(whole) <= length
        for row, own in zip(both, plain, strict=True):
            assert [row["teacher_input_ids"][place] for place in row["teacher_index"]] == own["input_ids"]


def test_tagged_sentences_that_are_cut() -> None:
    task = tagged()
    plain, both, encoder = encoded(task, 9)
    assert len(plain) > 3 and [*both["unit_ids"]] == [*plain["unit_ids"]]
    rows = encoder.for_teacher(task, rows_of(task))
    for own, row, above in zip(plain, both, rows, strict=True):
        assert [row["teacher_input_ids"][place] for place in row["teacher_index"]] == own["input_ids"]
        assert len(above["input_ids"]) <= 9
        marks = [above["labels"][place] for place in row["teacher_index"]]
        assert marks == own["labels"] and sum(mark != IGNORED for mark in above["labels"]) == sum(
            mark != IGNORED for mark in own["labels"]
        )
    assert any(len(row["teacher_input_ids"]) > len(row["input_ids"]) for row in both)
    logits = np.random.default_rng(0).normal(size=(len(rows), 9, 2))
    assert [*map(len, task.predictions(logits, rows))] == [*map(len, task.references(rows))] == [5, 2, 9]


def test_chinese_texts_without_spaces() -> None:
    facts = Facts({"北京": ["首都"], "北京大学": ["学校"]})
    inner = Classification("zh", ("text",), ("a", "b"))
    task = WithKnowledge("zh-kbert", inner, facts=facts)
    rows = checked(task, "made", {"text": ["我在北京大学。", "北京好 abc"], "label": ["a", "b"]})
    tokenizer = learned_tokenizer([*task.texts(rows)] * 2, size=120)
    both = Encoder(tokenizer, tokenizer, 32).for_students(task, rows)
    shown = ["".join(tokenizer.convert_ids_to_tokens(ids)) for ids in both["teacher_input_ids"][:]]
    assert shown[0] == "[CLS]我在北京大学学校。[SEP]" and shown[1].startswith("[CLS]北京首都好")
    by_character = WithKnowledge("c", TokenClassification("c", ("O", "B")), facts=facts)
    rows = checked(by_character, "made", {"words": [[*"在北京"]], "tags": [["O", "O", "O"]]})
    both = Encoder(tokenizer, tokenizer, 32).for_students(by_character, rows)
    assert "".join(tokenizer.convert_ids_to_tokens(both[0]["teacher_input_ids"])) == "[CLS]在北京首都[SEP]"


@pytest.mark.parametrize("family", ["bert", "albert", "electra", "distilbert"])
def test_attention_honours_matrix_and_positions(family: str) -> None:
    """SDPA and eager agree; what a token may not see changes nothing; padding changes nothing."""
    _, both, encoder = encoded(pairs())
    batch = encoder.collator(pairs())([both[at] for at in range(3)])
    names = ("input_ids", "attention_mask", "position_ids")
    inputs = {name: batch[f"teacher_{name}"] for name in names}
    net = tiny(family, vocab_size=len(encoder.teacher))
    check_abilities(net, pairs().abilities(teacher=True), "pairs")

    def states(taken: dict[str, torch.Tensor], layer: int = -1) -> torch.Tensor:
        with torch.no_grad():
            return net(**taken, output_hidden_states=True).hidden_states[layer]

    net.set_attn_implementation("eager")
    eager = states(inputs)
    net.set_attn_implementation("sdpa")
    found = states(inputs)
    real = inputs["attention_mask"][:, 0].diagonal(dim1=1, dim2=2) == 0
    torch.testing.assert_close(found[real], eager[real], rtol=1e-4, atol=1e-5)
    assert found.isfinite().all()
    branch = int(np.flatnonzero(np.asarray(both[0]["teacher_tree_branches"]))[0])
    other = inputs | {"input_ids": inputs["input_ids"].clone()}
    other["input_ids"][0, branch] = 7 if int(inputs["input_ids"][0, branch]) != 7 else 8
    # After one layer the sentence's first token has not seen the fact, and after three it has.
    assert torch.allclose(states(other, 1)[0, 0], states(inputs, 1)[0, 0], atol=1e-6)
    assert not torch.allclose(states(other)[0, 0], found[0, 0], atol=1e-5)
    alone = encoder.collator(pairs())([both[1]])
    single = states({name: alone[f"teacher_{name}"] for name in names})
    torch.testing.assert_close(found[1, : single.shape[1]], single[0], rtol=1e-4, atol=1e-5)
    moved = states(inputs | {"position_ids": inputs["position_ids"].flip(1)})
    assert not torch.allclose(moved, found, atol=1e-4)


def test_what_is_captured_is_gathered_first() -> None:
    """Against the whole row's: states by the index, their mean, and attention renormalised over the trunk."""
    task = tagged()
    _, both, encoder = encoded(task, 40)
    batch = encoder.collator(task)([both[at] for at in range(3)])
    index, net = batch["teacher_index"].clone(), model(task, encoder.teacher)
    index[0, 2] = -1  # as where the teacher's row was cut
    names = ("input_ids", "attention_mask", "position_ids", "token_type_ids")
    inputs = {name: batch[f"teacher_{name}"] for name in names}
    needs = Needs(hidden=frozenset({1}), pooled=frozenset({2}), cls=frozenset({2}), qkv=frozenset({0, 1}))
    with torch.no_grad(), capture(net, needs) as recorder:
        outputs = net(**inputs)
        whole = recorder.activations(outputs, mask=inputs["attention_mask"])
        found = recorder.activations(outputs, mask=inputs["attention_mask"], index=index)
    assert found.aligned and torch.equal(found.mask, index >= 0) and not found.visible and whole.visible
    student = torch.randn(index.shape[0], 2, index.shape[1], 8), torch.randn(index.shape[0], 2, index.shape[1], 8)
    pairs_of = kdzoo.create("attention_kl")(kdzoo.QKV(*student, student[1]), found.qkv[1], mask=found.mask)
    rows: list[torch.Tensor] = []
    for row in range(3):
        for at, place in enumerate(index[row].tolist()):
            wanted = whole.hidden[1][row, place] if place >= 0 else torch.zeros(16)
            assert torch.equal(found.hidden[1][row, at], wanted)
            assert torch.equal(found.logits[row, at], outputs.logits[row, place] if place >= 0 else torch.zeros(2))
        kept = index[row][index[row] >= 0]
        mean = recorder_states(net, inputs, 2)[row, kept].mean(0)
        torch.testing.assert_close(found.pooled[2][row], mean)
        scores = whole.qkv[1].query[row] @ whole.qkv[1].key[row].mT / 8**0.5
        teacher = scores[:, kept][:, :, kept].double().softmax(-1)
        mine = (student[0][row] @ student[1][row].mT / 8**0.5)[:, index[row] >= 0][:, :, index[row] >= 0]
        log = mine.double().log_softmax(-1)
        rows.append((teacher * (teacher.log() - log)).sum(-1).flatten())
    torch.testing.assert_close(pairs_of.double(), torch.cat(rows).mean(), rtol=1e-4, atol=1e-6)
    assert torch.equal(found.cls[2], whole.cls[2])


class Largest(TorchDispatchMode):
    """The most memory, in bytes, of a tensor whose last two dimensions are a row's length."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length, self.bytes, self.seen = length, 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for part in found if isinstance(found, tuple) else (found,):
            if isinstance(part, torch.Tensor) and part.dim() > 2 and part.shape[-2:] == (self.length, self.length):
                self.seen += 1
                self.bytes = max(self.bytes, part.untyped_storage().nbytes())
        return found


def test_the_visible_matrix_has_no_axis_of_heads() -> None:
    """Neither forward pass nor capture makes one of (B, A, S, S): one float a pair serves all heads and layers."""
    task = tagged()
    _, both, encoder = encoded(task, 40)
    names = ("input_ids", "attention_mask", "position_ids", "token_type_ids")
    batch = encoder.collator(task)([both[at] for at in range(3)])
    inputs = {name: batch[f"teacher_{name}"] for name in names}
    size, _, length, _ = inputs["attention_mask"].shape
    net = model(task, encoder.teacher, "2x32,heads=4")
    net.set_attn_implementation("sdpa")
    needs = Needs(hidden=frozenset({1}), qkv=frozenset({0, 1}))
    with torch.no_grad(), Largest(length) as whole, capture(net, needs) as recorder:
        found = recorder.activations(net(**inputs), mask=inputs["attention_mask"])
    assert found.visible and whole.seen
    assert whole.bytes <= 4 * size * length * length
    net.set_attn_implementation("eager")
    with torch.no_grad(), Largest(length) as eager:
        net(**inputs)
    assert eager.bytes >= 4 * 4 * size * length * length, "what is looked for is found where it is"


def recorder_states(net: Any, inputs: dict[str, Any], layer: int) -> torch.Tensor:
    with torch.no_grad():
        return net(**inputs, output_hidden_states=True).hidden_states[layer]


def test_tokens_that_the_teacher_did_not_read_count_for_nothing() -> None:
    torch.manual_seed(0)
    mask = torch.ones(2, 5, dtype=torch.bool)
    read = torch.tensor([[1, 1, 0, 1, 1], [1, 1, 1, 0, 0]]).bool()
    shape = kdzoo.ModelShape(num_layers=1, hidden_size=4, num_heads=1, num_labels=3)

    def value(spoilt: float) -> dict[str, float]:
        torch.manual_seed(1)
        objective = kdzoo.Objective([kdzoo.Term("hidden_mse", layers="all"), kdzoo.Term("kd"), kdzoo.Term("ce")])
        objective.bind(shape, shape)
        own = kdzoo.Activations(logits=torch.randn(2, 5, 3), hidden={0: torch.randn(2, 5, 4), 1: torch.randn(2, 5, 4)})
        other = kdzoo.Activations(
            logits=torch.randn(2, 5, 3), hidden={1: torch.randn(2, 5, 4)}, mask=read, aligned=True
        )
        own.mask = mask
        for part in (other.logits, other.hidden[1]):
            part[~read] = spoilt
        labels = torch.randint(0, 3, (2, 5))
        terms = objective(own, other, labels=labels, counted=mask).terms
        return {name: float(term) for name, term in terms.items()} | {
            "plain": float(torch.nn.functional.cross_entropy(own.logits.flatten(0, 1), labels.flatten()))
        }

    first, second = value(0.0), value(1e3)
    assert first == second
    assert first["ce"] == pytest.approx(first["plain"], rel=1e-5), "labels count wherever they are"


def trained(task: Any, folder: Path, objective: str, *, cache: bool = False, teacher_seed: int = 0) -> Any:
    data = load(task, "synthetic", train_rows=24, validation_rows=4)["train"]
    tokenizer = learned_tokenizer(task.texts(data), size=300)
    encoder = Encoder(tokenizer, tokenizer, 32)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=8,
        learning_rate=0.05,
        optim="sgd",
        use_cpu=True,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
    )
    made = DistillationTrainer(
        model=model(task, tokenizer, "1x16,heads=2", seed=1),
        teacher=model(task, tokenizer, seed=teacher_seed),
        objective=objective,
        cache=TeacherCache(folder / "cache") if cache else None,
        args=arguments,
        train_dataset=encoder.for_students(task, data),
        data_collator=encoder.collator(task),
        processing_class=tokenizer,
    )
    made.train()
    return made


EVERYTHING = "kd + ce + hidden_mse + cosine@pooled + attention_kl"


@pytest.mark.parametrize("arm", ["", "both", "blind"])
def test_the_cache_gives_what_the_live_teacher_gives(arm: str, tmp_path: Path) -> None:
    task = get_task("kbert").in_arm(arm)
    live = trained(task, tmp_path, EVERYTHING)
    kept = trained(task, tmp_path, EVERYTHING, cache=True)
    assert kept.teacher_rows is not None and live.teacher_rows is None
    np.testing.assert_allclose(losses(kept), losses(live), rtol=2e-4)
    assert len([*(tmp_path / "cache").iterdir()]) == 1
    if not arm:
        for other in ("blind", "flat", "random"):
            trained(get_task("kbert").in_arm(other), tmp_path, EVERYTHING, cache=True)
        assert len([*(tmp_path / "cache").iterdir()]) == 4, "each arm's teacher reads something else"


def test_the_order_of_subjects_is_part_of_what_a_teacher_read() -> None:
    """Two subjects that are one to a text share its first facts, and the arm random pairs subjects by their order."""
    inner = Classification("pairs", ("one", "two"), ("no", "yes"))
    facts = {"New-York": ["a city"], "New - York": ["a state"], "Rome": ["in Italy"], "Oslo": ["in Norway"]}
    for arm in ("", "random"):
        first, again, other = (
            WithKnowledge("pairs-kbert", inner, facts=Facts(told), arm=arm)
            for told in (facts, dict(facts), dict(reversed(facts.items())))
        )
        assert first._look_up != other._look_up, "it decides which facts are read"
        assert first.identity() == again.identity() != other.identity()


def test_facts_that_are_never_named_are_said() -> None:
    inner = Classification("pairs", ("one", "two"), ("no", "yes"))
    task = WithKnowledge("pairs-kbert", inner, facts=Facts({"London": ["is a city"]}))
    rows = rows_of(task)
    tokenizer = tokenizer_of(task, rows)
    with pytest.warns(KdzooWarning, match="none of 3 rows names a subject"):
        found = task.encode_for_teacher(rows, tokenizer, 32)
    assert found["input_ids"][:] == inner.encode(rows, tokenizer, 32)["input_ids"][:], "the rows are the students'"


def test_facts_without_room_are_said() -> None:
    task = pairs()
    rows = rows_of(task)
    tokenizer = tokenizer_of(task, rows)
    whole = task.encode_for_teacher(rows, tokenizer, 512)
    facts = sum(len({*row}) - 1 for row in whole["tree_branches"])
    assert facts > 2
    short = max(map(len, task.inner.encode(rows, tokenizer, 512)["input_ids"]))
    with pytest.warns(KdzooWarning, match=rf"\d of {facts} facts have no room in rows of --max-length {short}, and"):
        part = task.encode_for_teacher(rows, tokenizer, short)
    assert 0 < sum(len({*row}) - 1 for row in part["tree_branches"]) < facts
    least = min(map(len, task.inner.encode(rows, tokenizer, 512)["input_ids"]))
    says = r"(\d+) of \1 facts have no room .* and 3 of 3 rows lose all of theirs"
    with pytest.warns(KdzooWarning, match=says):
        task.encode_for_teacher(rows, tokenizer, least)
    with pytest.warns(KdzooWarning, match="max_entities is 0, so that no fact goes in"):
        replace(task, max_entities=0).encode_for_teacher(rows, tokenizer, 512)


def test_a_model_that_reads_facts_is_not_exported(commands: Commands, tmp_path: Path) -> None:
    shape = ("--model", "1x16,heads=2", "--train-rows", 24, "--validation-rows", 8, "--epochs", 1, "--max-length", 48)
    commands.works("finetune", "--task", "kbert", *shape, "--out", tmp_path / "teacher")
    refused = ("export", tmp_path / "teacher", "--onnx")
    commands.fails(*refused, says=("reads facts beside the words; take a student of it",))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(KdzooError, match="classified or tagged, and x is spans"):
        WithKnowledge("x", QuestionAnswering("x"), facts=FACTS)
    with pytest.raises(KdzooError, match="'bling'"):
        pairs("bling")
    for family in ("roberta", "deberta", "modernbert"):
        with pytest.raises(KdzooError, match=r"pairs gives a model soft positions, which .* does not take; take bert"):
            check_abilities(tiny(family), pairs().abilities(teacher=True), "pairs")
    check_abilities(tiny("roberta"), pairs("flat").abilities(teacher=True), "pairs")
    check_abilities(tiny("deberta"), pairs().abilities(teacher=False), "pairs")
    net, ids = tiny("bert"), torch.tensor([[5, 6, 7]])
    mask = torch.tensor([[[[0.0, 0, 0], [0, torch.finfo(torch.float32).min, 0], [0, 0, 0]]]])
    with (
        pytest.raises(KdzooError, match="visible matrix of row 0 hides token 1 from itself"),
        capture(net, Needs(qkv=frozenset({0}))),
    ):
        net(input_ids=ids, attention_mask=mask)
    with capture(net, Needs()) as recorder:
        outputs = net(input_ids=ids)
    with pytest.raises(KdzooError, match="row 0, token 1: the teacher has no real token 3 in its 3"):
        recorder.activations(outputs, mask=torch.ones(1, 3), index=torch.tensor([[0, 3]]))


def test_what_is_not_there_or_twice_is_said(commands: Commands, tmp_path: Path) -> None:
    asked = ("compare", *SMALL, "--out", tmp_path / "out")
    with pytest.raises(KdzooError, match=r"^there is no file .*gone\.spo$"):
        read_facts(tmp_path / "gone.spo")
    for task, has in (("kbert", "facts"), ("sembert", "roles")):
        for option in ("--knowledge", "--roles"):
            says = (f"{task} has {has} already; leave {option} out",)
            commands.fails(*asked, "--tasks", task, option, tmp_path, says=says)
    # What is named is the task that has no such arm, and all that it has.
    for arm, wrong in (
        ("fact", "kbert 'fact'; did you mean 'facts'"),
        ("facts", "sembert 'facts'; known: none, roles"),
    ):
        commands.fails(*asked, "--tasks", "kbert,sembert", "--arms", arm, says=(f"arm of {wrong}",))


def test_a_comparison_of_arms(commands: Commands, tmp_path: Path) -> None:
    asked = ("compare", "--tasks", "kbert", "--arms", "facts,none,both", *SMALL, "--out", tmp_path)
    said = commands.works(*asked, "--methods", "none,lrc")
    assert "kbert-both" in said and "300 subjects with 600 facts" in said
    found = records(tmp_path)
    assert {name for name in found if name.endswith("teacher")} == {
        f"kbert{arm}-teacher" for arm in ("", "-none", "-both")
    }
    assert len(found) == 9
    commands.works(*asked, "--methods", "none,lrc")  # which finds all of it


def test_data_and_triples_of_one_s_own(commands: Commands, tmp_path: Path) -> None:
    """From a YAML file, whose teacher learns from the facts alone what is right."""
    things = get_task("kbert")
    table = things.synthetic("train", 400, 0)
    (tmp_path / "data.jsonl").write_text(
        "".join(
            json.dumps({"text": t, "label": y}) + "\n" for t, y in zip(table["sentence"], table["label"], strict=True)
        )
    )
    lines = [
        f"{subject}\t{text.split(' ', 1)[0]}\t{text.split(' ', 1)[1]}\n"
        for subject in things.facts
        for text in things.facts[subject]
    ]
    (tmp_path / "facts.spo").write_text("".join(lines))
    described = "files: data.jsonl\ncolumns: {text: text, label: label}\nknowledge: facts.spo\n"
    (tmp_path / "mine.yaml").write_text(described)
    given = (*ROWS[:4], "--epochs", "1", "--max-length", "32", "--seed", "1")
    said = commands.works(
        "finetune", "--task", tmp_path / "mine.yaml", "--model", "2x16,heads=2", *given, "--out", tmp_path / "teacher"
    )
    assert "300 subjects with 600 facts" in said
    commands.works(
        "distill", "--task", tmp_path / "mine.yaml", "--teacher", tmp_path / "teacher", "--student", "1x16,heads=2",
        "--method", "tinybert", "--cache-folder", tmp_path / "cache", *given, "--out", tmp_path / "student",
    )  # fmt: skip
    for text, named in (
        ("a\tb\n", "facts.spo, row 1: 2 columns"),
        ("a\tis\t\n", "facts.spo, row 1: the object is empty"),
        ("".join(f"s{n}\to{n}\tis a\n" for n in range(20)), "column 2 has 20 different values"),
    ):
        (tmp_path / "facts.spo").write_text(text)
        commands.fails("check", "kd", "--tasks", tmp_path / "mine.yaml", "--teacher", "1x16", says=(named,))
    (tmp_path / "facts.spo").write_text("".join(lines))
    (tmp_path / "mine.yaml").write_text(f"{described}max_entities: 1\n")
    assert from_yaml(tmp_path / "mine.yaml").task.identity()["max_entities"] == 1
    for key, setting in (("arm", "none"), ("max_entities", "1")):
        (tmp_path / "mine.yaml").write_text(described.replace("knowledge: facts.spo", f"{key}: {setting}"))
        commands.fails("check", "kd", "--tasks", tmp_path / "mine.yaml", says=(f"{key}: it is of facts",))
    commands.fails("check", "kd", "--tasks", "rte", "--arms", "none", says=("rte has none",))


def test_tagged_sentences_with_facts(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "facts.tsv").write_text("Anna\tis a\tperson\nHill\tis a\tplace\n")
    told = ("--tasks", "ner", "--knowledge", tmp_path / "facts.tsv", "--arms", "facts,random")
    commands.works("compare", *told, *SMALL, "--methods", "none,tinybert", "--out", tmp_path / "out")
    assert {"ner-kbert-teacher", "ner-kbert-random-tinybert-0"} <= set(records(tmp_path / "out"))
