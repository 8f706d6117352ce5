"""A teacher that joins words with semantic roles (SemBERT): its fusion, its rows and files, and what students get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import ROWS, Commands, records
from tasks_by_unit import losses, trainer

from kdzoo.errors import KdzooError
from kdzoo.models.activations import Needs, capture
from kdzoo.models.heads import classification_head
from kdzoo.models.sembert import SemBertConfig, SemBertForSequenceClassification
from kdzoo.models.spec import ModelSpec
from kdzoo.models.vocabulary import learned_tokenizer
from kdzoo.tasks import Classification, QuestionAnswering, WithRoles, get_task, load
from kdzoo.tasks.own import from_data
from kdzoo.tasks.sources.rows import checked
from kdzoo.tasks.with_roles import with_roles
from kdzoo.training.cache import TeacherCache

SMALL = ("--teacher", "2x32,heads=2", "--student", "1x16,heads=2", *ROWS, "--max-length", "32")


def spoken(words: str, *rows: str) -> dict[str, Any]:
    return {"words": words.split(), "verbs": [{"tags": row.split()} for row in rows]}


def pairs(arm: str = "", variant: str = "paper") -> WithRoles:
    inner = Classification("pairs", ("one", "two"), ("no", "yes"))
    return WithRoles("pairs-sembert", inner, arm=arm, variant=variant)


def rows_of(task: WithRoles) -> Any:
    one = [
        spoken("It does n't work here", "B-ARG0 O O B-V B-ARGM-LOC", "O B-V O B-ARG1 O"),
        spoken("she laughed", "B-ARG0 B-V"),
        spoken("silence"),
    ]
    two = [spoken("unbelievably long undertakings", "O O B-V"), spoken("he wept", "B-ARG0 B-V"), spoken("a b c d e f")]
    return checked(
        task,
        "made",
        {
            "one": ["It doesn't work  here", "she laughed", "silence"],
            "two": [" ".join(row["words"]) for row in two],
            "label": ["no", "yes", "no"],
            "roles": [json.dumps(both) for both in zip(one, two, strict=True)],
        },
    )


def made(task: WithRoles, seed: int = 0) -> tuple[Any, Any, Any]:
    """Encoded rows, their tokenizer, and a teacher with weights large enough for logits that differ."""
    rows = rows_of(task)
    tokenizer = learned_tokenizer([*task.texts(rows)], size=60)  # so that words have several pieces
    net = ModelSpec.parse("2x16,heads=2").build(task, tokenizer=tokenizer, positions=64, seed=seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    return task.encode(rows, tokenizer, 64), tokenizer, net


def inputs_of(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name not in ("labels", "sample_ids")}


def logits_of_one(net: Any, row: dict[str, Any]) -> np.ndarray:
    """Of one row by itself, word by word, in float64."""
    net = net.double()
    with torch.no_grad():
        ids, types = (torch.tensor([row[name]]) for name in ("input_ids", "token_type_ids"))
        states = net.encoder(ids, token_type_ids=types).last_hidden_state[0]
        words = []
        for first, last in row["word_spans"]:
            pieces = [states[at] for at in range(first, last + 1)]
            pieces += [torch.zeros(16).double()] * (3 - len(pieces))
            weight, bias = net.words.convolution.weight, net.words.convolution.bias
            windows = [bias + sum(weight[:, :, k] @ pieces[at + k] for k in range(3)) for at in range(len(pieces) - 2)]
            words.append(torch.stack(windows).relu().amax(0))
        roles = net.role_vectors
        rows = []
        for tags in row["role_tags"]:
            vectors = roles.embedding(torch.tensor(tags))
            if net.config.variant == "paper":
                rows.append(roles.gru(vectors.unsqueeze(0))[0][0])
            else:
                rows.append(roles.of_row(roles.norm(vectors)))
        joined = torch.cat([torch.stack(words), roles.join(torch.cat(rows, dim=-1))], dim=-1)
        read = joined[0] if net.config.variant == "paper" else joined.amax(0)
        found = net.out(net.dense(read).tanh()).numpy()
    net.float()
    return found


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_logits_are_those_of_each_row_by_itself(variant: str) -> None:
    """Against words one after the other; the released code's depend on the rows beside."""
    task = pairs(variant=variant)
    rows, tokenizer, net = made(task)
    batch = task.collator(tokenizer)([rows[at] for at in range(3)])
    assert batch["word_spans"].shape[1] == batch["role_tags"].shape[2] == batch["input_ids"].shape[1]
    with torch.no_grad():
        found = net(**inputs_of(batch)).logits.numpy()
    wanted = np.stack([logits_of_one(net, rows[at]) for at in range(3)])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert max(last - first for first, last in rows[0]["word_spans"]) >= 3, "some word has more than one window"
    others = pairs("none", variant)
    bare = others.encode(rows_of(others), tokenizer, 64)
    with torch.no_grad():
        without = net(**inputs_of(others.collator(tokenizer)([bare[at] for at in range(3)]))).logits.numpy()
    assert np.abs(without - found)[:2].max() > 1e-3, "roles count"
    np.testing.assert_allclose(without[2], found[2], rtol=1e-4, atol=1e-5)  # where there are none


def test_both_models_read_the_labeller_s_words() -> None:
    task = pairs()
    rows, tokenizer, _ = made(task)
    first = rows[0]
    shown = "".join(tokenizer.convert_ids_to_tokens(first["input_ids"])).replace("##", "")
    assert shown == "[CLS]itdoesn'tworkhere[SEP]unbelievablylongundertakings[SEP]"
    assert len(first["word_spans"]) == 1 + 5 + 1 + 3 + 1 == len(first["role_tags"][0])
    end = first["input_ids"].index(tokenizer.sep_token_id)
    assert first["token_type_ids"] == [int(at > end) for at in range(len(first["input_ids"]))]
    assert [*rows["labels"]] == [0, 1, 0] and first["length"] == len(first["input_ids"])


def test_arms() -> None:
    rows = rows_of(pairs())
    tokenizer = learned_tokenizer([*pairs().texts(rows)], size=300)
    own, none, shuffled = (pairs(arm).encode(rows, tokenizer, 64) for arm in ("", "none", "shuffled"))
    assert {tag for row in none["role_tags"][:] for tags in row for tag in tags} == {1, 2, 21}, "special tags and O"
    assert [*own["input_ids"]] == [*none["input_ids"]] == [*shuffled["input_ids"]]
    assert all(one != other for one, other in zip(own["role_tags"][:], shuffled["role_tags"][:], strict=True))
    assert len({json.dumps(pairs(arm).identity()) for arm in ("", "none", "shuffled")}) == 3


def test_it_is_saved_and_loaded_as_it_is(tmp_path: Path) -> None:
    task = pairs()
    rows, tokenizer, net = made(task)
    net.save_pretrained(tmp_path)
    assert [*tmp_path.glob("*.safetensors")]
    spec = ModelSpec.parse(str(tmp_path))
    loaded = spec.build(task)
    batch = inputs_of(task.collator(tokenizer)([rows[at] for at in range(3)]))
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, net(**batch).logits)
    with pytest.raises(KdzooError, match="reads semantic roles; it is a teacher of tasks whose rows have them"):
        spec.build(task.inner)
    spec.check_head(task)
    # A teacher is made of a plain encoder, and is no teacher before it is trained.
    plain = ModelSpec.parse("2x16,heads=2").build(task.inner, tokenizer=tokenizer, positions=64)
    plain.save_pretrained(tmp_path / "plain")
    around = ModelSpec.parse(str(tmp_path / "plain"))
    grown = around.build(task, seed=3)
    assert isinstance(grown, SemBertForSequenceClassification) and grown.config.id2label == {0: "no", 1: "yes"}
    for name, value in plain.base_model.state_dict().items():
        if not name.startswith("pooler."):
            assert torch.equal(grown.encoder.state_dict()[name], value)
    with pytest.raises(KdzooError, match="does not join words with roles"):
        around.check_head(task)


def test_students_are_plain_and_compare_what_is_below_the_roles() -> None:
    task = pairs()
    rows, tokenizer, net = made(task)
    for asked in ("teacher:1", "1x8,heads=2"):
        student = ModelSpec.parse(asked).build(task, teacher=net)
        assert type(student).__name__ == "BertForSequenceClassification" and student.config.num_labels == 2
    copied = ModelSpec.parse("teacher:1").build(task, teacher=net)
    assert torch.equal(
        copied.bert.encoder.layer[0].output.dense.weight, net.encoder.encoder.layer[1].output.dense.weight
    )
    batch = inputs_of(task.collator(tokenizer)([rows[at] for at in range(3)]))
    needs = Needs(hidden=frozenset({0, 2}), qkv=frozenset({1}), cls=frozenset({2}))
    with torch.no_grad(), capture(net, needs) as recorder:
        found = recorder.activations(net(**batch), mask=batch["attention_mask"])
    plain = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        states = net.encoder(**plain, output_hidden_states=True).hidden_states
    torch.testing.assert_close(found.hidden[2], states[2])
    torch.testing.assert_close(found.cls[2], states[2][:, 0])
    assert found.qkv[1].query.shape == (3, 2, batch["input_ids"].shape[1], 8)
    with pytest.raises(KdzooError, match="no classification head on its first position"):
        classification_head(net)


def test_the_cache_gives_what_the_live_teacher_gives(tmp_path: Path) -> None:
    task = get_task("sembert")
    data = load(task, "synthetic", train_rows=24, validation_rows=4)["train"]
    tokenizer = learned_tokenizer(task.texts(data), size=150)
    found = []
    for cache in (None, TeacherCache(tmp_path)):
        rows = task.encode(data, tokenizer, 32)
        made = trainer(task, tokenizer, rows, tmp_path, "kd + ce + hidden_mse@cls + attention_kl", cache=cache)
        assert not hasattr(made.student, "role_vectors")
        made.train()
        assert (made.teacher_rows is not None) is (cache is not None)
        found.append(losses(made))
    np.testing.assert_allclose(*found, rtol=2e-4)
    for arm in ("none", "shuffled"):
        other = task.in_arm(arm)
        rows = other.encode(data, tokenizer, 32)
        trainer(other, tokenizer, rows, tmp_path, "kd", cache=TeacherCache(tmp_path)).train()
    assert len([path for path in tmp_path.iterdir() if (path / "rows.safetensors").is_file()]) == 3


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KdzooError, match="that are classified, and x is spans"):
        WithRoles("x", QuestionAnswering("x"))
    with pytest.raises(KdzooError, match="'shufled'; did you mean 'shuffled'"):
        pairs("shufled")
    with pytest.raises(KdzooError, match="got modernbert"):
        SemBertConfig(encoder={"model_type": "modernbert"})
    with pytest.raises(KdzooError, match="'papers'; did you mean 'paper'"):
        SemBertConfig(variant="papers")
    task = pairs()
    row = {"one": "a b", "two": "c", "label": "no", "roles": json.dumps([spoken("a b", "O O"), spoken("d", "O")])}
    for roles, named in (
        (row["roles"], "column 'two': the roles are for other words than the sentence's"),
        (json.dumps([spoken("a b", "O O")]), "roles of 1 texts, and the row has 2"),
        ("{", "expected JSON of words and verbs"),
    ):
        with pytest.raises(KdzooError, match=named):
            task.parse({**row, "roles": roles})
    rows, tokenizer, net = made(task)
    batch = inputs_of(task.collator(tokenizer)([rows[0], rows[1]]))
    with pytest.raises(KdzooError, match="2 rows of tags and the model takes 3"):
        net(**batch | {"role_tags": batch["role_tags"][:, :2]})
    tokenizer.padding_side = "left"
    assert task.collator(tokenizer)([rows[0], rows[1]])["attention_mask"][:, 0].all(), "an encoder's rows begin at 0"
    monkeypatch.setattr(type(tokenizer), "padding_side", "left")  # as of XLNet's kind
    with pytest.raises(KdzooError, match="pads on the right"):
        task.collator(tokenizer)([rows[0], rows[1]])


def test_a_comparison_of_arms(commands: Commands, tmp_path: Path) -> None:
    asked = ("compare", "--tasks", "sembert", "--arms", "roles,none", *SMALL, "--out", tmp_path)
    said = commands.works(*asked, "--methods", "none,lrc,tinybert")
    assert "the teacher reads the roles" in said
    found = records(tmp_path)
    assert len(found) == 8 and found["sembert-teacher"]["parameters"] > found["sembert-none-0"]["parameters"]
    commands.works(*asked, "--methods", "none,lrc,tinybert")  # which finds all of it


def test_files_of_roles(commands: Commands, tmp_path: Path) -> None:
    """GLUE's files beside those of a labeller: finetune and distill; what does not fit is named."""
    table = get_task("sembert").synthetic("train", 40, 0)
    (tmp_path / "roles").mkdir()
    (tmp_path / "cola").mkdir()
    for split, first in (("train", 0), ("validation", 28)):
        taken = range(first, first + (28 if split == "train" else 12))
        lines = [f"{table['sentence'][at]}\t{int(table['label'][at] == 'person')}" for at in taken]
        (tmp_path / "cola" / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
        rows = [json.loads(table["roles"][at])[0] for at in taken]
        (tmp_path / "roles" / f"cola.{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ("--task", "cola", "--data", tmp_path, "--roles", tmp_path / "roles", "--epochs", "1", "--max-length", "32")
    commands.works("finetune", *told, "--model", "2x16,heads=2", "--out", tmp_path / "teacher")
    given = ("--teacher", tmp_path / "teacher", "--student", "1x16,heads=2", "--method", "kd")
    commands.works("distill", *told, *given, "--out", tmp_path / "student")
    from transformers import AutoModelForSequenceClassification

    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert type(plain).__name__ == "BertForSequenceClassification"
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"sentence": text}) + "\n" for text in table["sentence"]))
    assert "the words of the roles' labeller" in commands.works("predict", tmp_path / "student", texts)
    file = tmp_path / "roles" / "cola.train.jsonl"
    lines = file.read_text().splitlines()
    bad = json.loads(lines[4])
    bad["words"][0] = "other"
    for changed, named in (
        (
            [*lines[:4], json.dumps(bad), *lines[5:]],
            "cola.train.jsonl, row 5, column 'sentence': the roles are for other",
        ),
        (lines[:-1], "27 rows of roles, and cola has 28 in train"),
        ([*lines[:-1], "{"], "cola.train.jsonl, row 28: no JSON"),
    ):
        file.write_text("\n".join(changed) + "\n")
        commands.fails("finetune", *told, "--model", "2x16", "--out", tmp_path / "other", says=(named,))
    commands.fails(
        "check", "kd", "--tasks", "cola", "--roles", tmp_path, "--knowledge", "x", says=("give one of them",)
    )


@pytest.mark.parametrize("folds", [None, 3])
def test_roles_of_rows_that_are_held_out_or_in_folds(folds: int | None, tmp_path: Path) -> None:
    """One file has the roles of all rows, and each row keeps its own; what is wrong in it is named by its row."""
    table = get_task("sembert").synthetic("train", 40, 0)
    rows = [{"text": table["sentence"][at], "label": table["label"][at]} for at in range(40)]
    lines = [json.dumps(json.loads(of)[0]) for of in table["roles"]]
    data, file = tmp_path / "d.jsonl", tmp_path / "roles" / "train.jsonl"
    file.parent.mkdir()
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for task in from_data(data, text="text", label="label", folds=folds).tasks:
        joined = with_roles(task, file.parent, task.rows)
        file.write_text("\n".join(lines) + "\n")
        found, plain = joined.rows(), task.rows()
        assert found is not None and plain is not None and sum(map(len, found.values())) == 40
        by_text = dict(zip(table["sentence"], lines, strict=True))
        for split, own in found.items():
            assert own["text"][:] == plain[split]["text"][:] and own["label"][:] == plain[split]["label"][:]
            kept = [json.loads(roles)[0]["words"] for roles in own["roles"]]
            assert kept == [json.loads(by_text[text])["words"] for text in own["text"]]
        for changed, named in (
            ([lines[1], lines[0], *lines[2:]], "train.jsonl, row 1, column 'text': the roles are for other"),
            (lines[:-1], "39 rows of roles, and d has 40 in train"),
        ):
            file.write_text("\n".join(changed) + "\n")
            with pytest.raises(KdzooError, match=named):
                joined.rows()
        # Files of each split, as kdzoo tag writes them, are read as they are.
        file.write_text("\n".join(lines) + "\n")
        each = tmp_path / task.name
        each.mkdir()
        for split, own in plain.items():
            text = "".join(by_text[text] + "\n" for text in own["text"])
            (each / f"{task.name}.{split}.jsonl").write_text(text)
        again = with_roles(task, each, task.rows).rows()
        assert again is not None and {s: of["roles"][:] for s, of in again.items()} == {
            split: of["roles"][:] for split, of in found.items()
        }


def test_what_is_above_the_encoder_begins_as_pytorch_has_it(tmp_path: Path) -> None:
    """At transformers' deviation of 0.02 a model from scratch never learned; what is loaded stays as it was saved."""
    encoder = {
        "model_type": "bert",
        "vocab_size": 30,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "intermediate_size": 32,
    }
    torch.manual_seed(0)
    net = SemBertForSequenceClassification(SemBertConfig(encoder={**encoder, "num_attention_heads": 2}, num_labels=2))
    assert net.role_vectors.embedding.weight[1:].std() > 0.5, "0.02 before"
    bound = (net.config.hidden_size * 3) ** -0.5  # of a convolution over three pieces
    assert 0.4 * bound < net.words.convolution.weight.std() < bound
    assert net.encoder.get_input_embeddings().weight.std() < 0.1, "the encoder's are transformers' own"
    net.save_pretrained(tmp_path)
    again = type(net).from_pretrained(tmp_path)
    for name, value in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.slow
def test_roles_help_a_small_teacher_from_scratch(commands: Commands, tmp_path: Path) -> None:
    """Two of five synthetic sentences are open without their roles."""
    asked = ("compare", "--tasks", "sembert", "--arms", "roles,none,shuffled", "--methods", "none", "--seeds", "1")
    commands.works(*asked, "--out", tmp_path)
    scores = {name: record["score"] for name, record in records(tmp_path).items() if name.endswith("-teacher")}
    assert scores["sembert-teacher"] > 95
    assert scores["sembert-none-teacher"] < 88 and scores["sembert-shuffled-teacher"] < 88
