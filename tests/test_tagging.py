"""Dependency-derived tags: the rules on parses written by hand, and the files that kdzoo tag makes for --roles."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import Commands

from kdzoo.bench.runs.tasks import asked_for
from kdzoo.tasks import get_task
from kdzoo.tasks.predicates import tagged, tokens_of
from kdzoo.tasks.roles import read_roles


def doc(*lines: str) -> list[Any]:
    """Tokens with spaCy's attributes, from ``word lemma pos tag dep head [entity]``; ``_`` stands for white space."""
    tokens = []
    for at, line in enumerate(lines):
        word, lemma, pos, tag, dep, head, *entity = line.split()
        token = SimpleNamespace(i=at, text=word, lemma_=lemma, pos_=pos, tag_=tag, dep_=dep, head=int(head))
        token.ent_type_, token.is_space = (entity or [""])[0], word == "_"
        tokens.append(token)
    for token in tokens:
        token.head = tokens[token.head]
    return tokens


def roles(*lines: str) -> dict[str, dict[str, str]]:
    """Of each verb, the words of each role."""
    found = tagged(tokens_of(doc(*lines)))
    said: dict[str, dict[str, str]] = {}
    for verb in found["verbs"]:
        spans: dict[str, list[str]] = {}
        assert len(verb["tags"]) == len(found["words"]) and found["words"][verb["index"]] == verb["verb"]
        for word, tag in zip(found["words"], verb["tags"], strict=True):
            if tag != "O":
                spans.setdefault(tag[2:], []).append(word)
        said[verb["verb"]] = {role: " ".join(words) for role, words in spans.items()}
    return said


def test_subject_objects_and_time() -> None:
    assert roles(
        "She she PRON PRP nsubj 1",
        "gave give VERB VBD ROOT 1",
        "him he PRON PRP dative 1",
        "the the DET DT det 4",
        "book book NOUN NN dobj 1",
        "yesterday yesterday NOUN NN npadvmod 1 DATE",
        ". . PUNCT . punct 1",
    ) == {"gave": {"V": "gave", "ARG0": "She", "ARG1": "the book", "ARG2": "him", "ARGM-TMP": "yesterday"}}


def test_a_passive_takes_its_subject_as_what_undergoes_it() -> None:
    assert roles(
        "The the DET DT det 1",
        "house house NOUN NN nsubjpass 3",
        "was be AUX VBD auxpass 3",
        "sold sell VERB VBN ROOT 3",
        "by by ADP IN agent 3",
        "the the DET DT det 6",
        "bank bank NOUN NN pobj 4",
        "in in ADP IN prep 3",
        "1999 1999 NUM CD pobj 7 DATE",
    ) == {"sold": {"V": "sold", "ARG1": "The house", "ARG0": "by the bank", "ARGM-TMP": "in 1999"}}


def test_relative_clauses_and_what_is_said() -> None:
    assert roles(
        "The the DET DT det 1",
        "man man NOUN NN nsubj 4",
        "who who PRON WP nsubj 3",
        "left leave VERB VBD relcl 1",
        "said say VERB VBD ROOT 4",
        "he he PRON PRP nsubj 6",
        "knew know VERB VBD ccomp 4",
    ) == {
        "left": {"V": "left", "R-ARG0": "who", "ARG0": "The man"},
        "said": {"V": "said", "ARG0": "The man who left", "ARG1": "he knew"},
        "knew": {"V": "knew", "ARG0": "he"},
    }
    assert roles(
        "books book NOUN NNS ROOT 0",
        "that that PRON WDT dobj 3",
        "children child NOUN NNS nsubj 3",
        "read read VERB VBP relcl 0",
    )["read"] == {"V": "read", "R-ARG1": "that", "ARG0": "children", "ARG1": "books"}
    assert roles("letters letter NOUN NNS ROOT 0", "sent send VERB VBN acl 0")["sent"] == {
        "V": "sent",
        "ARG1": "letters",
    }


def test_subjects_are_shared_by_conjuncts_and_infinitives() -> None:
    found = roles(
        "Prices price NOUN NNS nsubj 1",
        "rose rise VERB VBD ROOT 1",
        "and and CCONJ CC cc 1",
        "fell fall VERB VBD conj 1",
    )
    assert found == {"rose": {"V": "rose", "ARG1": "Prices"}, "fell": {"V": "fell", "ARG1": "Prices"}}
    found = roles(
        "They they PRON PRP nsubj 1",
        "persuaded persuade VERB VBD ROOT 1",
        "her she PRON PRP dobj 1",
        "to to PART TO aux 4",
        "leave leave VERB VB xcomp 1",
    )
    assert found["persuaded"] == {"V": "persuaded", "ARG0": "They", "ARG1": "her", "ARG2": "to leave"}
    assert found["leave"] == {"V": "leave", "ARG0": "her"}


def test_modifiers_and_being() -> None:
    assert roles(
        "It it PRON PRP nsubj 2",
        "may may AUX MD aux 2",
        "be be AUX VB ROOT 2",
        "not not PART RB neg 2",
        "red red ADJ JJ acomp 2",
        "in in ADP IN prep 2",
        "Oslo Oslo PROPN NNP pobj 5 GPE",
        "because because SCONJ IN mark 9",
        "snow snow NOUN NN nsubj 9",
        "fell fall VERB VBD advcl 2",
    )["be"] == {
        "V": "be",
        "ARG1": "It",
        "ARGM-MOD": "may",
        "ARGM-NEG": "not",
        "ARG2": "red",
        "ARGM-LOC": "in Oslo",
        "ARGM-CAU": "because snow fell",
    }


def test_white_space_is_no_word() -> None:
    found = tagged(
        tokens_of(
            doc("_ _ SPACE _SP dep 1", "Dogs dog NOUN NNS nsubj 3", "_ _ SPACE _SP dep 1", "bark bark VERB VBP ROOT 3")
        )
    )
    assert found == {
        "words": ["Dogs", "bark"],
        "verbs": [{"verb": "bark", "index": 1, "tags": ["B-ARG0", "B-V"]}],
    }


# --- kdzoo tag --------------------------------------------------------------------------------------------------------


class Parser:
    """Stands for a model of spaCy's: the first word does the second to the third."""

    pipe_names = ("tagger", "parser")
    meta = {"lang": "en", "name": "stand_in", "version": "1.0"}  # noqa: RUF012

    def pipe(self, texts: list[str], batch_size: int) -> Any:
        for text in texts:
            words = text.split()
            kinds = ["PRON PRP nsubj 1", "VERB VBD ROOT 1", "NOUN NN dobj 1"]
            yield doc(*(f"{word} {word} {kind}" for word, kind in zip(words, kinds, strict=True)))


def spacy(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    def load(name: str) -> Any:
        if model is None:
            raise OSError(f"[E050] Can't find model '{name}'")
        return model

    monkeypatch.setitem(
        sys.modules, "spacy", SimpleNamespace(load=load, Language=Parser)
    )  # datasets asks for the class


def test_the_files_are_those_that_roles_reads(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spacy(monkeypatch, Parser())
    rows = {
        "train": [("she ate soup", "he wrote it", "yes"), ("they sang songs", "we saw her", "no")] * 4,
        "validation": [("he met us", "it stopped them", "no"), ("I like tea", "you want milk", "yes")],
    }
    folder = tmp_path / "data"
    folder.mkdir()
    for split, lines in rows.items():
        text = "".join(f"{a}\t{b}\t{label}\n" for a, b, label in [("one", "two", "label"), *lines])
        (folder / f"{split}.tsv").write_text(text)
    own = ("--data", folder, "--text", "one,two", "--label", "label")
    said = commands.works("tag", *own, "--out", tmp_path / "roles")
    files = {split: tmp_path / "roles" / f"data.{split}.jsonl" for split in rows}
    assert f"{files['train']}: 8 rows, 16 predicates; dependency-derived by stand_in 1.0" in said
    for split, file in files.items():
        found = read_roles(file)
        assert [row.idx for row in found] == [*range(len(rows[split]))]
        for row, (one, two, _) in zip(found, rows[split], strict=True):
            assert [sentence.words for sentence in row.sentences] == [one.split(), two.split()]
            assert all(sentence.verbs[0]["tags"] == ["B-ARG0", "B-V", "B-ARG1"] for sentence in row.sentences)
            assert row.source == "dependency-derived by stand_in 1.0"
    told = {"text": "one,two", "label": "label", "roles": str(tmp_path / "roles"), "arms": "roles,none"}
    asked = asked_for((), str(folder), told)
    assert "the teacher reads the roles (dependency-derived by stand_in 1.0)" in asked.notes[-2]
    assert "dependency-derived" not in asked.notes[-1]  # where no tags are read
    assert len(get_task(asked.tasks[0]).rows()["train"]) == 8
    # One text a row: its words and verbs stand at the top of a line.
    commands.works("tag", "--data", folder, "--text", "one", "--label", "label", "--out", tmp_path / "single")
    line = json.loads((tmp_path / "single" / "data.validation.jsonl").read_text().splitlines()[0])
    assert line["words"] == ["he", "met", "us"] and len(line["verbs"]) == 1


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("absent", ("spaCy, which is not installed", "pip install 'kdzoo[tag]'")),
        (None, ("cannot load the model 'en_core_web_sm'", "python -m spacy download")),
        (SimpleNamespace(pipe_names=("tagger",), meta=Parser.meta), ("has no parser",)),
        (SimpleNamespace(pipe_names=("parser",), meta={"lang": "de"}), ("is for 'de'", "for English")),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    model: Any, says: tuple[str, ...], commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if model == "absent":
        monkeypatch.setitem(sys.modules, "spacy", None)
    else:
        spacy(monkeypatch, model)
    commands.fails("tag", "--tasks", "sst2", "--data", "synthetic", "--out", tmp_path / "roles", says=says)
    assert not (tmp_path / "roles").exists()


def test_other_kinds_of_task_are_refused(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spacy(monkeypatch, Parser())
    commands.fails(
        "tag", "--tasks", "ner", "--out", tmp_path, says=("tags are for texts that are classified", "tokens")
    )
