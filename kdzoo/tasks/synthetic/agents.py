"""Synthetic sentences about who did it: word order tells in some, and in others only the semantic roles do.

Two of five sentences name both, the person first, and leave open who acted. There the roles, which stand for what a
labeller took from elsewhere, are all there is to know it by.
"""

from __future__ import annotations

import json
from typing import Any

from kdzoo.tasks.synthetic.drawing import Random, columns, drawn

NAME = "sembert"
LABELS = ("animal", "person")  # which of the two acted
PEOPLE = ("nurse", "pilot", "baker", "judge", "singer", "miner", "clerk", "painter", "guard", "cook")
ANIMALS = ("dog", "goat", "crow", "horse", "fox", "goose", "bear", "cat", "wolf", "mule")
VERBS = ("chased", "followed", "watched", "helped", "found", "missed", "called", "feared")
WHERE = ("near the mill", "in the yard", "behind the church", "by the river", "on the road")
WHEN = ("", "again", "at noon", "on that day", "late in the evening")  # so that a length tells no form of sentence
OPEN = 0.4  # of the sentences
# a acts on b; of the last three nobody can tell.
CLEAR = (
    "the {a} {verb} the {b} {where}",
    "the {b} was {verb} by the {a} {where}",
    "{where} the {a} {verb} the {b}",
    "it was the {a} that {verb} the {b} {where}",
    "it was the {b} that the {a} {verb} {where}",
)
UNCLEAR = (
    "{where} between the {x} and the {y} one {verb} the other",
    "of the {x} and the {y} one {verb} the other {where}",
    "the {x} or the {y} {verb} the other one {where}",
)


def generate(split: str, rows: int | None = None, seed: int = 0) -> dict[str, list[Any]]:
    """Rows of ``sentence``, ``label`` and ``roles``; see `kdzoo.tasks.synthetic.drawing.drawn`."""
    return columns(drawn(NAME, split, rows, seed, _row, lambda row: str(row["sentence"])))


def _row(rng: Random) -> dict[str, Any]:
    person, animal, acts = rng.choice(PEOPLE), rng.choice(ANIMALS), rng.randrange(2)
    agent, other = (person, animal) if acts else (animal, person)
    form = rng.choice(UNCLEAR if rng.random() < OPEN else CLEAR)
    verb, where = rng.choice(VERBS), rng.choice(WHERE)
    when = rng.choice(WHEN).split()
    words = [*form.format(a=agent, b=other, x=person, y=animal, verb=verb, where=where).split(), *when]
    tags = ["O"] * len(words)
    for word, role in ((agent, "ARG0"), (other, "ARG1")):
        at = words.index(word)
        tags[at - 1 : at + 1] = [f"B-{role}", f"I-{role}"]
    tags[words.index(verb)] = "B-V"
    place = where.split()
    at = next(at for at in range(len(words)) if words[at : at + len(place)] == place)
    tags[at : at + len(place)] = ["B-ARGM-LOC", *["I-ARGM-LOC"] * (len(place) - 1)]
    tags[len(words) - len(when) :] = ["B-ARGM-TMP", *["I-ARGM-TMP"] * (len(when) - 1)][: len(when)]
    roles = [{"words": words, "verbs": [{"verb": verb, "tags": tags}]}]
    return {"sentence": " ".join(words), "label": LABELS[acts], "roles": json.dumps(roles)}
