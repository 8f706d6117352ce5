"""Synthetic passages with a question each: who did what, where and when, beside who did not and where it was not.

A question's first word tells what kind of words answers it. The passage has two of each kind, and the words around them
tell which one is right.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kdzoo.tasks.synthetic.drawing import Random, a_name, columns, drawn

NAME = "squad"
PEOPLE = tuple(a_name(Random(f"person {number}")) for number in range(40))
PLACES = tuple(a_name(Random(f"place {number}")) for number in range(40))
COLOURS = ("red", "blue", "green", "white", "black", "yellow")
THINGS = ("boat", "house", "horse", "mill", "wagon", "clock", "lamp", "table")
VERBS = (("bought", "buy"), ("sold", "sell"), ("found", "find"), ("painted", "paint"))
OPENINGS = ("", "as far as we know , ", "the paper says that ", "some say otherwise , but ")
ENDINGS = (" .", " , and nobody saw it .", " , as his letters show .", " , long before the war .")


class Passage(NamedTuple):
    """A passage, a question and its answer with its first character."""

    context: str
    question: str
    answer: str
    start: int


def generate(split: str, rows: int | None = None, seed: int = 0) -> dict[str, list[Any]]:
    """Rows of ``id``, ``question``, ``context``, ``answers`` and ``starts``."""
    made = drawn(NAME, split, rows, seed, _passage, lambda row: row.context)
    return columns(
        [
            {
                "id": f"{split}-{seed}-{number}",
                "question": row.question,
                "context": row.context,
                "answers": [row.answer],
                "starts": [row.start],
            }
            for number, row in enumerate(made)
        ]
    )


def _passage(rng: Random) -> Passage:
    person, place, thing = rng.sample(PEOPLE, 2), rng.sample(PLACES, 2), rng.sample(THINGS, 2)
    year = [str(one) for one in rng.sample(range(1800, 1860), 2)]
    thing = [f"{colour} {one}" for colour, one in zip(rng.sample(COLOURS, 2), thing, strict=True)]
    past, present = rng.choice(VERBS)
    asked = rng.choice(("person", "thing", "place", "year"))
    question = {
        "person": f"who {past} it ?",
        "thing": f"what did they {present} ?",
        "place": f"where did they {present} it ?",
        "year": f"when did they {present} it ?",
    }[asked]
    context, start, answer = rng.choice(OPENINGS), 0, ""
    for field, before, (right, wrong) in (
        ("person", "", person),
        ("thing", f" {past} the ", thing),
        ("place", " in ", place),
        ("year", " in ", year),
    ):
        context += before
        if rng.random() < 0.5:
            context += f"not {wrong} but "
            after = ""
        else:
            after = f" , not {wrong} ,"
        if field == asked:
            start, answer = len(context), right
        context += right + after
    return Passage(context + rng.choice(ENDINGS), question, answer, start)
