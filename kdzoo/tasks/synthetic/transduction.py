"""A small language to translate: words of another order, whose endings agree with words that stand elsewhere.

English-like sentences become sentences of an invented language. There the verb stands last and has an ending for its
subject's number and gender and for its tense; adjectives follow their noun and agree with it in gender, number and
case; the article is the noun's; an adverb stands before the verb or, as often, first of all, and the negation after
the verb. A noun's gender is to be learned, names are copied.
"""

from __future__ import annotations

from typing import Any

from kdzoo.tasks.synthetic.drawing import Random, a_name, columns, drawn

NAME = "transduction"
# source noun, its plural, stem in the target language, gender
NOUNS = (
    ("dog", "dogs", "kelv", 0), ("cat", "cats", "mir", 1), ("child", "children", "tolp", 2),
    ("woman", "women", "sann", 1), ("man", "men", "horg", 0), ("bird", "birds", "pell", 1),
    ("horse", "horses", "rusk", 2), ("teacher", "teachers", "dimm", 0), ("river", "rivers", "vell", 1),
    ("house", "houses", "brok", 2), ("letter", "letters", "fint", 1), ("apple", "apples", "gall", 2),
    ("friend", "friends", "nask", 0), ("king", "kings", "zorl", 0), ("book", "books", "lemb", 2),
    ("queen", "queens", "wirr", 1),
)  # fmt: skip
ADJECTIVES = (
    ("old", "marr"), ("small", "tikk"), ("red", "rond"), ("tired", "slom"), ("kind", "benn"), ("strange", "kurv"),
    ("young", "nipp"), ("quiet", "hull"),
)  # fmt: skip
# source verb, its past, stem
VERBS = (
    ("see", "saw", "vit"), ("find", "found", "trov"), ("love", "loved", "amm"), ("draw", "drew", "gref"),
    ("follow", "followed", "segg"), ("forget", "forgot", "lat"), ("describe", "described", "scriv"),
    ("hear", "heard", "odd"),
)  # fmt: skip
ADVERBS = (("often", "semp"), ("never", "nolk"), ("today", "hedd"), ("slowly", "lentu"))
PLACES = (("in", "inu"), ("near", "apu"), ("behind", "hintu"))
ENDINGS = (("o", "i"), ("a", "e"), ("u", "us"))  # of a noun and of what agrees with it: by gender, singular and plural
ARTICLES = (("lo", "li"), ("la", "le"), ("lu", "lus"))
CASE = "n"  # after an ending, of the object
NAMES = tuple(a_name(Random(f"transduction {number}")) for number in range(40))

Phrase = tuple[str, list[str], int, int]  # in the source, in the target, gender, number (1: plural)


def generate(split: str, rows: int | None = None, seed: int = 0) -> dict[str, list[Any]]:
    """Rows of ``source`` and ``target``; see `kdzoo.tasks.synthetic.drawing.drawn`."""
    made = drawn(NAME, split, rows, seed, _pair, lambda pair: pair[0])
    return columns([{"source": source, "target": target} for source, target in made])


def _pair(rng: Random) -> tuple[str, str]:
    """A sentence and its translation; a third of them have a second clause."""
    source, target = _clause(rng)
    if rng.random() < 1 / 3:
        more, theirs = _clause(rng)
        source, target = f"{source} because {more}", f"{target}, kar {theirs}"
    return f"{source[0].upper()}{source[1:]}.", f"{target[0].upper()}{target[1:]}."


def _clause(rng: Random) -> tuple[str, str]:
    subject, subject_target, gender, number = _phrase(rng, "")
    thing, thing_target, _, _ = _phrase(rng, CASE)
    verb, past, stem = rng.choice(VERBS)
    before, negated = rng.random() < 1 / 2, rng.random() < 1 / 4  # what is denied stands in the present tense
    words = [subject]
    if before:
        adverb, adverb_target = rng.choice(ADVERBS)
        words.append(adverb)
    if negated:
        words += ["do" if number else "does", "not", verb]
    else:
        words.append(past)
    ending = ENDINGS[gender][number]
    last = [f"{stem}{'in' if negated else 'ar'}{ending}", *(["ne"] if negated else [])]
    words.append(thing)
    place_target: list[str] = []
    if rng.random() < 1 / 3:
        place, preposition = rng.choice(PLACES)
        where, where_target, _, _ = _phrase(rng, "")
        words += [place, where]
        place_target = [*where_target, preposition]
    free = [adverb_target] if before else []
    first, late = (free, []) if rng.random() < 1 / 2 else ([], free)
    return " ".join(words), " ".join([*first, *subject_target, *place_target, *thing_target, *late, *last])


def _phrase(rng: Random, case: str) -> Phrase:
    """A name, or a noun with its article and perhaps an adjective."""
    if rng.random() < 1 / 6:
        name = rng.choice(NAMES)
        return name, [f"{name}{case and '-' + case}"], 0, 0
    noun, plural, stem, gender = rng.choice(NOUNS)
    number = int(rng.random() < 1 / 2)
    ending = ENDINGS[gender][number] + case
    words, target = ["the"], [ARTICLES[gender][number], f"{stem}{ending}"]
    if rng.random() < 1 / 2:
        adjective, other = rng.choice(ADJECTIVES)
        words.append(adjective)
        target.append(f"{other}{ending}")
    return " ".join([*words, plural if number else noun]), target, gender, number
