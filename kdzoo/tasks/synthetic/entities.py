"""Synthetic sentences with people, places and companies, whose names tell nothing: what stands around them does.

A name may be a person's, a place's or a company's, and a third of the names stand in one sentence alone, so that a
model has to read the words beside it.
"""

from __future__ import annotations

from typing import Any

from kdzoo.tasks.synthetic.drawing import Random, a_name, columns, drawn

NAME = "ner"
TAGS = ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER")
KNOWN = tuple(a_name(Random(f"name {number}")) for number in range(60))
FIRST = ("Anna", "Boris", "Clara", "David", "Emil", "Frida", "Georg", "Hanna", "Ivan", "Julia", "Karl", "Lena")
TITLES = ("Dr.", "Mrs.", "Captain", "Professor")
TIMES = ("yesterday", "last year", "in May", "on Monday", "in the autumn")
THINGS = ("the old bridge", "a small boat", "the corner shop", "two red cars", "some land near the river")

Words = list[tuple[str, str]]  # each with its tag


def generate(split: str, rows: int | None = None, seed: int = 0) -> dict[str, list[Any]]:
    """Rows of ``words`` and ``tags``; see `kdzoo.tasks.synthetic.drawing.drawn`."""
    made = drawn(NAME, split, rows, seed, _sentence, lambda words: " ".join(word for word, _ in words))
    return columns([{"words": [word for word, _ in row], "tags": [tag for _, tag in row]} for row in made])


def _sentence(rng: Random) -> Words:
    forms = (
        "{per} , who lives in {loc} , works for {org} .",
        "{time} {org} hired {per} to run its office in {loc} .",
        "the train to {loc} was late , {per} said .",
        "{per} sold {thing} to {per} {time} .",
        "shares of {org} fell {time} after {org} left the market .",
        "from {loc} to {loc} the road follows the bank of a river .",
        "{org} bought {thing} near {loc} {time} .",
        "nobody in {loc} knew {per} , but everybody knew {org} .",
        "{per} met {per} on a hill above {loc} {time} .",
        "there is a bank , a hill and a school , but no work .",
        "{thing} and the works behind it were sold {time} .",
        "{per} left {org} {time} and moved to {loc} .",
    )
    words: Words = []
    for part in rng.choice(forms).split():
        slots = {"{per}": _person, "{loc}": _place, "{org}": _company}
        if part in slots:
            words += slots[part](rng)
        elif part in ("{time}", "{thing}"):
            words += [(word, "O") for word in rng.choice(TIMES if part == "{time}" else THINGS).split()]
        else:
            words.append((part, "O"))
    return words


def _name(rng: Random) -> str:
    return rng.choice(KNOWN) if rng.random() < 2 / 3 else a_name(rng)


def _person(rng: Random) -> Words:
    name = _name(rng)
    kind = rng.randrange(3)
    if kind == 0:
        return _tagged("PER", name)
    if kind == 1:
        return _tagged("PER", rng.choice(FIRST), name)
    return [(rng.choice(TITLES), "O"), *_tagged("PER", name)]


def _place(rng: Random) -> Words:
    name = _name(rng)
    return _tagged("LOC", *rng.choice(((name,), (name,), (name, "Hill"), (name, "Bay"), ("North", name))))


def _company(rng: Random) -> Words:
    name = _name(rng)
    return _tagged("ORG", *rng.choice(((name,), (name, "Bank"), (name, "and", "Sons"), (name, "Works"))))


def _tagged(kind: str, *words: str) -> Words:
    return [(word, f"{'I' if place else 'B'}-{kind}") for place, word in enumerate(words)]
