"""The metrics of entities, relations, answers and ranks against brute force, and at their edges."""

from __future__ import annotations

import itertools
import math
import random
import re
import secrets
import string
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from kdzoo.errors import KdzooError
from kdzoo.tasks.metrics import (
    entity_f1,
    factoid_scores,
    rank,
    ranking_scores,
    relation_f1,
    semeval_f1,
    specificity,
    squad_scores,
)


@pytest.fixture
def rng():
    seed = secrets.randbits(32)
    print("seed", seed)
    return random.Random(seed)


# --- entities ---


def _entities(sentences, strict):
    """Entities as words: a B opens one; an I goes on with one of its own type, and else opens one unless strict."""
    found = []
    for number, tags in enumerate(sentences):
        current = None
        for place, tag in enumerate([*tags, "O"]):
            mark, _, kind = tag.partition("-")
            goes_on = mark == "I" and current is not None and current[0] == kind
            if current is not None and not goes_on:
                found.append((number, current[0], current[1], place - 1))
                current = None
            if mark == "B" or (mark == "I" and not goes_on and not strict):
                current = (kind, place)
    return set(found)


def _f1(true, guessed):
    return 2 * len(true & guessed) / (len(true) + len(guessed)) if true or guessed else 0.0


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kinds", [["-A", "-B"], ["-creative-work", "-creative", "-x"], [""]])
def test_entities_agree_with_brute_force_and_seqeval(rng, strict, kinds):
    tags = ["O", *(mark + kind for mark in "BI" for kind in kinds)]
    for _ in range(60):
        lengths = [rng.randint(0, 7) for _ in range(rng.randint(1, 6))]
        true, guessed = ([[rng.choice(tags) for _ in range(n)] for n in lengths] for _ in range(2))
        one, other = _entities(true, strict), _entities(guessed, strict)
        types = {entity[1] for entity in one | other}
        by_type = [_f1({e for e in one if e[1] == t}, {e for e in other if e[1] == t}) for t in types]
        expected = {
            "precision": len(one & other) / len(other) if other else 0.0,
            "recall": len(one & other) / len(one) if one else 0.0,
            "f1": _f1(one, other),
            "macro_f1": sum(by_type) / len(by_type) if by_type else 0.0,
        }
        got = entity_f1(true, guessed, strict=strict)
        assert got == pytest.approx(expected)
        assert all(type(value) is float for value in got.values())
        if types:
            mode = {"mode": "strict", "scheme": IOB2} if strict else {}
            assert got["f1"] == f1_score(true, guessed, zero_division=0, **mode)


def test_an_i_after_another_type_opens_an_entity_unless_strict():
    true, guessed = [["B-X", "I-X", "O"], ["O"]], [["I-X", "I-X", "O"], ["O"]]
    assert entity_f1(true, guessed)["f1"] == 1.0
    assert entity_f1(true, guessed, strict=True)["f1"] == 0.0
    assert entity_f1([("B-X",)], [("B-X",)], strict=True)["f1"] == 1.0


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("true", [[["O", "O"]], [[]], [["I-X"]]])
def test_nothing_to_find_is_zero_without_a_warning(true, strict, recwarn):
    got = entity_f1(true, [["O"] * len(true[0])], strict=strict)
    assert got == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "macro_f1": 0.0}
    assert not recwarn.list


@pytest.mark.parametrize(
    ("true", "guessed", "named"),
    [
        ([["O"]], [["X-A"]], "predictions, sentence 1, word 1: 'X-A'"),
        ([["O", "B-"]], [["O", "O"]], "references, sentence 1, word 2: 'B-'"),
        ([["O"], ["O", "O"]], [["O"], ["O"]], "sentence 2 has 2 reference tags and 1 predicted"),
        ([["O"]], [["O"], ["O"]], "1 sentences of references and 2"),
        ([["B-A"]], [["B"]], "without a type"),
        (["O"], ["O"], "one string"),
        ([], [], "no sentence"),
    ],
)
def test_what_is_no_pair_of_tagged_sentences(true, guessed, named):
    with pytest.raises(KdzooError, match=re.escape(named)):
        entity_f1(true, guessed)


def test_without_seqeval_it_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "seqeval"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(KdzooError, match=re.escape("pip install 'kdzoo[bench]'")):
        entity_f1([["O"]], [["O"]])


# --- relations ---


def test_micro_f1_over_some_classes(rng):
    classes = ["false", "3", "4", "5", "6", "9"]
    for _ in range(50):
        size = rng.randint(1, 40)
        true, guessed = ([rng.choice(classes) for _ in range(size)] for _ in range(2))
        positive = rng.sample(classes[1:], rng.randint(1, 5))
        hits = misses = alarms = quiet = negatives = 0
        for a, b in zip(true, guessed, strict=True):
            for name in positive:
                hits += a == name == b
                misses += a == name != b
                alarms += b == name != a
            negatives += a not in positive
            quiet += a not in positive and b not in positive
        got = relation_f1(true, guessed, positive)
        assert got["precision"] == pytest.approx(hits / (hits + alarms) if hits + alarms else 0)
        assert got["recall"] == pytest.approx(hits / (hits + misses) if hits + misses else 0)
        assert got["f1"] == pytest.approx(2 * hits / (2 * hits + alarms + misses) if hits + alarms + misses else 0)
        assert specificity(true, guessed, positive) == pytest.approx(quiet / negatives if negatives else 0)


def test_one_positive_class_may_be_named_alone():
    assert relation_f1([1, 0, 1], [1, 1, 0], 1) == relation_f1([1, 0, 1], [1, 1, 0], [1])
    assert relation_f1(["ab", "a"], ["ab", "b"], "ab") == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    for kind in (np.array, torch.tensor):
        assert relation_f1(kind([1, 0, 1]), kind([1, 1, 0]), kind([1]))["f1"] == 0.5
    assert relation_f1([0], [0], [1]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    for bad in (([1], [1], []), ([1], [1, 2], [1]), ([], [], [1])):
        with pytest.raises(KdzooError):
            relation_f1(*bad)


def _official_semeval(true, guessed):
    """From the confusion matrix, with a row of its own for the wrong direction."""

    def bare(label):
        return re.sub(r"\(e[12],e[12]\)$", "", label)

    matrix, claimed = defaultdict(Counter), Counter()
    for a, b in zip(true, guessed, strict=True):
        row = "wrong direction" if a != b and bare(a) == bare(b) else bare(b)
        matrix[row][bare(a)] += 1
        claimed[row] += 1
    scores = []
    for name in {bare(a) for a in true} - {"Other"}:
        hit, wrong = matrix[name][name], matrix["wrong direction"][name]
        p = hit / (claimed[name] + wrong) if claimed[name] else 0
        r = hit / sum(bare(a) == name for a in true)
        scores.append(2 * p * r / (p + r) if p + r else 0)
    return 100 * sum(scores) / len(scores)


def test_semeval_agrees_with_the_official_way(rng):
    labels = ["Other", *(f"{name}({d})" for name in ("Cause-Effect", "A-B", "C-D") for d in ("e1,e2", "e2,e1"))]
    for _ in range(60):
        true = [labels[1], *(rng.choice(labels[: rng.randint(2, 7)]) for _ in range(rng.randint(0, 40)))]
        guessed = [a if rng.random() < 0.4 else rng.choice(labels) for a in true]
        assert semeval_f1(true, guessed) == pytest.approx(_official_semeval(true, guessed))


def test_semeval_by_hand():
    true = ["R-S(e1,e2)", "R-S(e1,e2)", "Other", "T-U(e2,e1)"]
    assert semeval_f1(true, true) == 100.0
    # R-S: one of two found, the other in the wrong direction: P = R = 1/2. T-U: nothing.
    assert semeval_f1(true, ["R-S(e1,e2)", "R-S(e2,e1)", "Other", "Other"]) == 25.0
    for bad in (["Other"], ["R-S"], ["R-S(e1,e1)"]):
        with pytest.raises(KdzooError):
            semeval_f1(bad, ["Other"])


# --- answers ---


def _plain(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _overlap(guess, gold, version):
    a, b = _plain(guess), _plain(gold)
    if version == "2.0" and (not a or not b):
        return float(a == b)
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if common else 0.0


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_squad_agrees_with_the_official_scripts(rng, version):
    words = ["the", "a", "An", "cat", "Cat.", "--", "théâtre", "the-cat", "U.S.", "a1", "_the_", "«x»", "\u202f", "’s"]

    def text():
        return " ".join(rng.choices(words, k=rng.randint(0, 4)))

    for _ in range(300):
        gold = {str(i): [text() for _ in range(rng.randint(version == "1.1", 3))] for i in range(rng.randint(1, 5))}
        guess = {i: text() for i in gold if rng.random() < 0.8} | {"never asked": "x"}
        exact = overlap = 0.0
        for i, texts in gold.items():
            if i in guess:
                kept = [t for t in texts if version == "1.1" or _plain(t)] or [""]
                exact += max(_plain(guess[i]) == _plain(t) for t in kept)
                overlap += max(_overlap(guess[i], t, version) for t in kept)
        got = squad_scores(guess, gold, version=version)
        assert got == pytest.approx({"exact_match": 100 * exact / len(gold), "f1": 100 * overlap / len(gold)})


def test_squad_corners():
    assert squad_scores({"q": "The!"}, {"q": ["an"]}) == {"exact_match": 100.0, "f1": 0.0}
    assert squad_scores({"q": "The!"}, {"q": ["an"]}, version="2.0") == {"exact_match": 100.0, "f1": 100.0}
    assert squad_scores({"q": ""}, {"q": []}) == {"exact_match": 100.0, "f1": 100.0}
    assert squad_scores({}, {"q": []}) == {"exact_match": 0.0, "f1": 0.0}
    assert squad_scores({"q": "x y"}, {"q": ["x", "x y z"], "r": ["w"]}) == pytest.approx(
        {"exact_match": 0.0, "f1": 40.0}
    )
    for bad in (({"q": 3}, {"q": ["x"]}), ({"q": "x"}, {"q": "x"}), ({}, {}), ({"q": "x"}, {"q": [None]})):
        with pytest.raises(KdzooError):
            squad_scores(*bad)
    with pytest.raises(KdzooError, match="the references of 'q' are a mapping"):  # the hub's form
        squad_scores({"q": "text"}, {"q": {"text": ["x"], "answer_start": [0]}})


def test_factoid_questions():
    gold = {"a": ["TP53", "p53 gene"], "b": ["x"], "c": ["y"], "d": ["z"]}
    ranked = {"a": ["Tp53"], "b": ["w", "the x", "X"], "c": ["1", "2", "3", "4", "5", "y"]}
    assert factoid_scores(ranked, gold) == pytest.approx({"strict": 1 / 4, "lenient": 2 / 4, "mrr": (1 + 1 / 3) / 4})
    for bad in (({"a": "x"}, {"a": ["x"]}), ({}, {}), ({}, {"a": []}), ({}, {"a": "x"})):
        with pytest.raises(KdzooError):
            factoid_scores(*bad)


# --- ranks ---


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda x: torch.tensor(x, dtype=torch.bfloat16)])
def test_rank_is_the_mean_or_an_end_of_all_orders(rng, kind):
    for _ in range(30):
        size = rng.randint(1, 6)
        scores = [float(rng.randint(0, 2)) for _ in range(size)]
        target = rng.randrange(size)
        known = [rng.randrange(size) for _ in range(rng.randint(0, 3))]
        kept = [i for i in range(size) if i == target or i not in known]
        places = [
            1 + order.index(target)
            for order in itertools.permutations(kept)
            if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
        ]
        expected = {"optimistic": min(places), "pessimistic": max(places), "realistic": np.mean(places)}
        for ties, value in expected.items():
            assert rank(kind(scores), target, known, ties) == pytest.approx(value)
        assert rank(kind(scores), target, set(known)) == pytest.approx(expected["realistic"])
        assert rank(kind(scores), target, np.array(known, dtype=int)) == pytest.approx(expected["realistic"])


def test_rank_of_infinities_and_bad_input():
    assert rank([-math.inf, math.inf, -math.inf], 0) == 2.5
    bad = [
        (([1.0, math.nan], 0), "candidate 1"),
        (([1.0], 1), "target 1"),
        (([1.0], -1), "target -1"),
        (([1.0], 0, [2]), "known 2"),
        (([1.0, 2.0], 0, np.array([True, False])), "indices"),
        (([1.0], 0, (), "realist"), "realistic"),
        (([[1.0]], 0), "shape"),
    ]
    for arguments, named in bad:
        with pytest.raises(KdzooError, match=named):
            rank(*arguments)


def test_ranking_scores():
    got = ranking_scores([1, 1.5, 3, 10, 10.5])
    assert got == pytest.approx(
        {"mr": 26 / 5, "mrr": (1 + 2 / 3 + 1 / 3 + 0.1 + 2 / 21) / 5, "hits@1": 0.2, "hits@3": 0.6, "hits@10": 0.8}
    )
    assert list(got) == ["mr", "mrr", "hits@1", "hits@3", "hits@10"]
    for bad in ([], [0.5], [math.nan], [[1.0]]):
        with pytest.raises(KdzooError):
            ranking_scores(bad)


def test_questions_of_which_some_have_no_answer_are_scored_by_the_later_script() -> None:
    """The two differ where nothing is left of prediction and gold answer once the articles are gone."""
    assert squad_scores({"q": "the"}, {"q": ["a"]}) == {"exact_match": 100.0, "f1": 0.0}
    mixed = {"q": ["a"], "r": []}
    assert squad_scores({"q": "the", "r": ""}, mixed) == {"exact_match": 100.0, "f1": 100.0}
    assert squad_scores({"q": "the", "r": ""}, mixed, version="1.1")["f1"] == 50.0
