"""Synthetic GLUE: a seeded grammar that makes every task's rows, so that all of kdzoo runs without network or files.

In one file because the nine grammars share their events and sentences.

Each task keeps the structure of its namesake: sentiment with negation and contrast, agreement, paraphrase against
changed roles, graded overlap, entailment by kinds, negation and quantifiers, questions with and without their answer,
pronouns. Rows are a pure function of task, split, number and seed.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from kdzoo.errors import KdzooError
from kdzoo.tasks.registry import get_task
from kdzoo.tasks.synthetic import lexicon

Random = random.Random
Row = tuple[Any, ...]  # the task's text columns, then the label


class Sizes(NamedTuple):
    """How many rows each split has."""

    train: int
    validation: int


SIZES = {"wnli": Sizes(600, 150)}
DEFAULT_SIZES = Sizes(4000, 1000)


def generate(task: str, split: str, rows: int | None = None, seed: int = 0) -> dict[str, list[Any]]:
    """Rows of one split, as columns: the task's text columns and ``label``.

    No text of a first column, and so no row, occurs twice in a split or in two splits, whatever the seeds.

    Args:
        task: a GLUE task's name.
        split: ``"train"`` or one of the task's validation splits.
        rows: how many; `SIZES` (or `DEFAULT_SIZES`) has the default.
        seed: of the rows.

    Raises:
        KdzooError: unknown task or split, or more rows than the grammar has sentences for.
    """
    columns = get_task(task).columns
    splits = ("train", *get_task(task).validation_splits)
    if split not in splits:
        raise KdzooError(f"{task} has no split {split!r}; it has {', '.join(splits)}")
    if rows is None:
        sizes = SIZES.get(task, DEFAULT_SIZES)
        rows = sizes.train if split == "train" else sizes.validation
    grammar = GRAMMARS[task]
    rng = Random(f"{task} {split} {seed}")  # a string is seeded by its SHA-512, the same in every process
    seen: set[str] = set()
    made: list[Row] = []
    misses = 0  # in a row
    while len(made) < rows:
        row = grammar(rng, split)
        # The sentence alone says which split it is of, so that no two splits and no two seeds share one.
        held_out = zlib.crc32(row[0].encode()) % 4 == 0
        if row[0] in seen or held_out == (split == "train"):
            misses += 1
            if misses == 10_000:
                raise KdzooError(f"the grammar of {task} is too small for {rows} {split} rows; it made {len(made)}")
            continue
        misses = 0
        seen.add(row[0])
        made.append(row)
    return dict(zip((*columns, "label"), (list(column) for column in zip(*made, strict=True)), strict=True))


# --- events: who did what to whom, where, when and how ---


@dataclass(frozen=True)
class Event:
    """One event. Words with a synonym are pairs (word, synonym); ``None`` is left unsaid."""

    agent: str
    verb: tuple[str, str]
    patient: str
    agent_adjective: tuple[str, str] | None = None
    patient_adjective: tuple[str, str] | None = None
    place: tuple[str, str] | None = None
    time: tuple[str, str] | None = None
    manner: tuple[str, str] | None = None


OPTIONAL = ("agent_adjective", "patient_adjective", "place", "time", "manner")
_CHOICES: dict[str, tuple[tuple[str, str], ...]] = {
    "agent_adjective": lexicon.ADJECTIVES,
    "patient_adjective": lexicon.ADJECTIVES,
    "place": lexicon.PLACES,
    "time": lexicon.TIMES,
    "manner": lexicon.MANNERS,
}
_KIND_OF = {
    member: kind
    for kinds in (lexicon.PEOPLE, lexicon.THINGS, lexicon.OTHER_PEOPLE, lexicon.OTHER_THINGS)
    for kind, members in kinds.items()
    for member in members
}


def _members(kinds: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [member for members in kinds.values() for member in members]


def _other(rng: Random, choices: Any, but: Any) -> Any:
    """One of the choices that is not ``but``."""
    return rng.choice([choice for choice in choices if choice != but])


def _event(rng: Random, keep: float, *, social: bool = False, split: str = "train") -> Event:
    """A random event; each optional part is there with probability ``keep``; a social one is done to a person."""
    mismatched = split == "validation_mismatched"
    people = _members(lexicon.OTHER_PEOPLE if mismatched else lexicon.PEOPLE)
    things = people if social else _members(lexicon.OTHER_THINGS if mismatched else lexicon.THINGS)
    agent = rng.choice(people)
    parts = {name: rng.choice(_CHOICES[name]) if rng.random() < keep else None for name in OPTIONAL}
    verb = rng.choice(lexicon.SOCIAL_VERBS if social else lexicon.VERBS)
    return Event(agent, verb, _other(rng, things, agent), **parts)


def _say(rng: Random, event: Event, *, synonyms: float = 0.0, passive: float = 0.0, fronted: float = 0.0) -> str:
    """The event in words.

    Args:
        synonyms: how likely each word gives way to its synonym.
        passive: how likely the passive voice.
        fronted: how likely the place or time comes first.
    """

    def word(pair: tuple[str, str] | None) -> str:
        return "" if pair is None else pair[rng.random() < synonyms]

    agent = f"the {word(event.agent_adjective)} {event.agent}"
    patient = f"the {word(event.patient_adjective)} {event.patient}"
    verb, manner = word(event.verb), word(event.manner)
    if rng.random() < passive:
        core = f"{patient} was {manner} {verb} by {agent}"
    else:
        core = f"{agent} {manner} {verb} {patient}"
    place = f"in the {word(event.place)}" if event.place else ""
    time = word(event.time)
    front = rng.choice([part for part in (place, time) if part] or [""]) if rng.random() < fronted else ""
    tail = " ".join(part for part in (place, time) if part != front)
    return " ".join(f"{front + ' ,' if front else ''} {core} {tail} .".split())


def _change(rng: Random, event: Event, name: str) -> Event:
    """The event with one part exchanged for another of its sort."""
    if name == "agent":
        kinds = lexicon.OTHER_PEOPLE if _KIND_OF[event.agent] in lexicon.OTHER_PEOPLE else lexicon.PEOPLE
        others = [member for member in _members(kinds) if member != event.patient]
        return replace(event, agent=_other(rng, others, event.agent))
    if name == "patient":
        groups = (lexicon.PEOPLE, lexicon.THINGS, lexicon.OTHER_PEOPLE, lexicon.OTHER_THINGS)
        kinds = next(kinds for kinds in groups if _KIND_OF[event.patient] in kinds)
        others = [member for member in _members(kinds) if member != event.agent]
        return replace(event, patient=_other(rng, others, event.patient))
    if name == "verb":
        verbs = lexicon.SOCIAL_VERBS if event.verb in lexicon.SOCIAL_VERBS else lexicon.VERBS
        return replace(event, verb=_other(rng, verbs, event.verb))
    return _with(event, name, _other(rng, _CHOICES[name], getattr(event, name)))


def _swap(event: Event) -> Event:
    """The event with its roles exchanged."""
    return replace(event, agent=event.patient, patient=event.agent)


def _with(event: Event, name: str, value: Any) -> Event:
    """The event with the named part given, or left unsaid."""
    changes: dict[str, Any] = {name: value}
    return replace(event, **changes)


def _said(event: Event) -> list[str]:
    """The optional parts that the event has."""
    return [name for name in OPTIONAL if getattr(event, name) is not None]


# --- the tasks ---


def _sst2(rng: Random, split: str) -> Row:
    positive = rng.random() < 0.5
    aspects = rng.sample(lexicon.ASPECTS, 3)

    def clause(aspect: str, positive: bool) -> str:
        flips = rng.random() < 0.25
        adjective = rng.choice(lexicon.POSITIVE if positive != flips else lexicon.NEGATIVE)
        degree = rng.choice((*lexicon.STRONG, *lexicon.MILD, "", ""))
        copula = rng.choice(lexicon.COPULAS)
        forms = (
            f"the {aspect} {copula} {rng.choice(lexicon.NEGATORS)} {degree} {adjective}",
            f"nobody could call the {aspect} {degree} {adjective}",
            f"it is wrong to say that the {aspect} {copula} {degree} {adjective}",
        ) if flips else (
            f"the {aspect} {copula} {degree} {adjective}",
            f"the {aspect} {copula} {rng.choice(lexicon.AFFIRMERS)} {degree} {adjective}",
            f"everybody would call the {aspect} {degree} {adjective}",
        )  # fmt: skip
        return rng.choice(forms)

    main = clause(aspects[0], positive)
    aside = clause(aspects[1], positive != (rng.random() < 0.4))
    form = rng.randrange(6)
    text = (
        f"{aside} , but {main}",
        f"although {aside} , {main}",
        f"{main} , although {aside}",
        f"{main} , even if {aside}",
        main,
        main,
    )[form]
    if rng.random() < 0.2:
        text = f"{rng.choice(lexicon.OPENERS)} , {text}"
    return " ".join(f"{text} .".split()), int(positive)


def _cola(rng: Random, split: str) -> Row:
    acceptable = rng.random() < 0.5
    number = rng.randrange(2)
    noun, attractor, third = rng.sample(lexicon.NOUNS_BOTH, 3)
    determiner = rng.choice((("the", "the"), ("this", "these"), ("that", "those")))
    verb = rng.choice(lexicon.OBJECT_VERBS if rng.random() < 0.6 else lexicon.PLAIN_VERBS)
    adjective = rng.choice(rng.choice(lexicon.ADJECTIVES))
    fault = "" if acceptable else rng.choice(("agreement", "agreement", "determiner", "order", "object", "reflexive"))
    if fault == "determiner" and determiner[0] == "the":
        determiner = ("this", "these")
    subject = [determiner[number ^ (fault == "determiner")], adjective, noun[number]]
    if fault == "order":
        subject = [subject[1], subject[0], subject[2]] if rng.random() < 0.5 else [subject[0], subject[2], subject[1]]
    if rng.random() < 0.6:
        subject += [rng.choice(lexicon.PREPOSITIONS), "the", attractor[rng.randrange(2)]]
    elif rng.random() < 0.5:
        subject += ["who", rng.choice(lexicon.OBJECT_VERBS)[number], "the", attractor[rng.randrange(2)]]
    takes_object = verb in lexicon.OBJECT_VERBS
    predicate = [verb[number ^ (fault == "agreement")]]
    if fault == "reflexive" or (takes_object and rng.random() < 0.3):
        predicate = [rng.choice(lexicon.OBJECT_VERBS)[number]]
        predicate.append(("himself", "themselves")[number ^ (fault == "reflexive")])
    elif takes_object != (fault == "object"):
        predicate += ["the", third[rng.randrange(2)]]
    place, manner = rng.choice(rng.choice(lexicon.PLACES)), rng.choice(rng.choice(lexicon.MANNERS))
    tail = rng.choice((f"in the {place}", manner))
    return " ".join([*subject, *predicate, tail, "."]), int(acceptable)


def _mrpc(rng: Random, split: str) -> Row:
    equivalent = rng.random() < 0.5
    event = _event(rng, 0.6, social=rng.random() < 0.5)
    other = event
    if not equivalent:
        changes = ["verb", "agent", "patient", *_said(event)]
        if _KIND_OF[event.patient] in lexicon.PEOPLE and rng.random() < 0.5:
            other = _swap(event)
        else:
            for name in rng.sample(changes, rng.choice((1, 2))):
                other = _change(rng, other, name)
    first = _say(rng, event, passive=0.2, fronted=0.3)
    return first, _say(rng, other, synonyms=0.4, passive=0.4, fronted=0.5), int(equivalent)


def _stsb(rng: Random, split: str) -> Row:
    """Five points, less a penalty for every part of the meaning that differs; a negation costs most."""
    parts: dict[str, tuple[Sequence[str], float, float]] = {
        # what there is to choose from, how likely it changes, what a change costs
        "polarity": (("always", "never"), 0.3, 1.6),
        "time": (("did", "will"), 0.3, 0.8),
        "number": (("one", "many"), 0.3, 0.6),
        "agent": (("teacher", "farmer", "king"), 0.3, 0.9),
        "verb": (("see", "feed", "buy"), 0.3, 0.9),
        "patient": (("dog", "horse", "goat"), 0.3, 0.9),
        "place": (("garden", "street", "forest"), 0.3, 0.6),
    }
    first = {name: rng.choice(choices) for name, (choices, _, _) in parts.items()}
    for name, usual in (("polarity", "always"), ("time", "did"), ("number", "one")):
        if rng.random() < 0.6:
            first[name] = usual
    adjective = rng.choice(rng.choice(lexicon.ADJECTIVES))
    second, score = dict(first), 5.0
    for name, (choices, change, cost) in parts.items():
        if rng.random() < change:
            second[name] = _other(rng, choices, first[name])
            score -= cost

    def say(words: dict[str, str]) -> str:
        animal = words["patient"] + ("s" if words["number"] == "many" else "")
        subject = f"the {adjective} {words['agent']} {words['time']} {words['polarity']}"
        return f"{subject} {words['verb']} {words['number']} {animal} in the {words['place']} ."

    return say(first), say(second), round(max(score, 0.0) * 5) / 5


def _qqp(rng: Random, split: str) -> Row:
    duplicate = rng.random() < 0.5
    skill, subject, purpose = rng.choice(lexicon.SKILLS), rng.choice(lexicon.SUBJECTS), rng.choice(lexicon.PURPOSES)
    adverb = rng.choice(lexicon.MANNERS)
    parts = [skill, (subject, subject), purpose, adverb]
    others = list(parts)
    if not duplicate:
        choices = (lexicon.SKILLS, [(name, name) for name in lexicon.SUBJECTS], lexicon.PURPOSES, lexicon.MANNERS)
        for place in rng.sample(range(4), rng.choice((1, 2))):
            others[place] = _other(rng, choices[place], parts[place])

    def ask(parts: list[tuple[str, str]], synonyms: float) -> str:
        skill, subject, purpose, adverb = (pair[rng.random() < synonyms] for pair in parts)
        return rng.choice((
            f"how can i {adverb} {skill} {subject} {purpose} ?",
            f"what is the best way to {adverb} {skill} {subject} {purpose} ?",
            f"is it possible to {skill} {subject} {adverb} {purpose} ?",
            f"{purpose} , how do people {adverb} {skill} {subject} ?",
        ))  # fmt: skip

    return ask(parts, 0.3), ask(others, 0.5), int(duplicate)


def _shorter(rng: Random, event: Event) -> Event:
    """The event with some of its optional parts left out; it follows from the whole."""
    for name in _said(event):
        if rng.random() < 0.5:
            event = _with(event, name, None)
    return event


def _weaker(rng: Random, event: Event) -> Event:
    """An event that follows from this one: shorter, or with a person or thing named by its kind."""
    event = _shorter(rng, event)
    if rng.random() < 0.6:
        name = rng.choice(("agent", "patient"))
        event = _with(event, name, _KIND_OF[getattr(event, name)])
    return event


# How a quantifier lets its noun and its verb phrase change in what follows from it (van Benthem's monotonicity).
_UP, _SAME, _DOWN = 1, 0, -1
_QUANTIFIERS = {"every": (_DOWN, _UP), "some": (_UP, _UP), "no": (_DOWN, _DOWN), "not every": (_UP, _DOWN)}
_WEAKER_QUANTIFIER = {"every": "some", "no": "not every"}


def _rte(rng: Random, split: str) -> Row:
    entailed = rng.random() < 0.5
    while True:
        first = rng.choice(tuple(_QUANTIFIERS))
        second = first if rng.random() < 0.5 else rng.choice(tuple(_QUANTIFIERS))
        noun, phrase = (rng.choice((_UP, _SAME, _SAME, _DOWN)) for _ in range(2))
        other_word = rng.random() < 0.15
        follows = (
            noun in (_SAME, _QUANTIFIERS[first][0])
            and phrase in (_SAME, _QUANTIFIERS[first][1])
            and (second == first or (second == _WEAKER_QUANTIFIER.get(first) and noun == phrase == _SAME))
            and not other_word
        )
        if follows == entailed:
            break
    member = rng.choice(_members(lexicon.PEOPLE))
    kind = _KIND_OF[member]
    names = {_UP: (member, kind), _DOWN: (kind, member), _SAME: rng.choice(((member, member), (kind, kind)))}[noun]
    verb, thing = rng.choice(lexicon.VERBS), rng.choice(_members(lexicon.THINGS))
    verbs = (verb, _other(rng, lexicon.VERBS, verb)) if other_word else (verb, verb)
    modifier = rng.choice(rng.choice(lexicon.TIMES))
    place = f"in the {rng.choice(rng.choice(lexicon.PLACES))}" if rng.random() < 0.7 else ""
    neither_or_both = rng.choice((("", ""), (modifier, modifier)))
    modifiers = {_UP: (modifier, ""), _DOWN: ("", modifier), _SAME: neither_or_both}[phrase]
    texts = [
        " ".join(f"{q} {name} {v[0]} the {thing} {place} {m} .".split())
        for q, name, v, m in zip((first, second), names, verbs, modifiers, strict=True)
    ]
    return texts[0], texts[1], int(not entailed)


def _mnli(rng: Random, split: str) -> Row:
    label = rng.randrange(3)  # entailment, neutral, contradiction
    event = _event(rng, 0.7, split=split)
    if rng.random() < 0.4:
        return _quantified_pair(rng, event, label)
    if label == 1:
        missing = [name for name in OPTIONAL if getattr(event, name) is None]
        name = rng.choice(missing or ("agent", "patient", "verb"))
        other = _with(event, name, rng.choice(_CHOICES[name])) if missing else _change(rng, event, name)
    else:
        other = _weaker(rng, event)
    if label == 2 and rng.random() < 0.5:
        hypothesis = _say(rng, other, synonyms=0.3).replace("the ", "no ", 1)
    else:
        hypothesis = _say(rng, other, synonyms=0.3, passive=0.3)
        if label == 2:
            hypothesis = f"it is not true that {hypothesis}"
    return _say(rng, event, fronted=0.3), hypothesis, label


def _quantified_pair(rng: Random, event: Event, label: int) -> Row:
    """Two quantified sentences on one event, the agent named or given by its kind."""
    kind, member = _KIND_OF[event.agent], event.agent
    # The premise's quantifier and noun, then the hypothesis's, by label.
    cases = (
        (
            ("every", kind, "every", member),
            ("every", kind, "some", member),
            ("some", member, "some", kind),
            ("no", kind, "no", member),
        ),
        (
            ("some", kind, "every", kind),
            ("some", kind, "some", member),
            ("every", member, "every", kind),
            ("no", member, "no", kind),
        ),
        (
            ("every", kind, "no", member),
            ("some", member, "no", kind),
            ("no", kind, "some", member),
            ("no", kind, "every", member),
        ),
    )
    first, noun, second, other = rng.choice(cases[label])
    event = replace(event, agent="", agent_adjective=None)
    # Only below "every" and "some" does less follow from more.
    follows = _shorter(rng, event) if label == 0 and first != "no" else event
    premise, hypothesis = (_say(rng, said).removeprefix("the ") for said in (event, follows))
    return f"{first} {noun} {premise}", f"{second} {other} {hypothesis}", label


def _qnli(rng: Random, split: str) -> Row:
    answered = rng.random() < 0.5
    asked = rng.choice(("agent", "patient", "place", "time"))
    event = _event(rng, 0.7)
    if getattr(event, asked) is None:
        event = _with(event, asked, rng.choice(_CHOICES[asked]))
    agent, verb, patient = event.agent, event.verb[rng.random() < 0.3], event.patient
    adjective = event.patient_adjective[0] if event.patient_adjective else ""
    question = {
        "agent": f"who {verb} the {adjective} {patient} {event.time[0] if event.time else ''} ?",
        "patient": f"what was {verb} by the {agent} {event.time[0] if event.time else ''} ?",
        "place": f"in which place was the {adjective} {patient} {verb} by the {agent} ?",
        "time": f"at what time was the {adjective} {patient} {verb} by the {agent} ?",
    }[asked]
    if not answered:
        if asked in OPTIONAL and rng.random() < 0.5:
            event = _with(event, asked, None)
        else:
            event = _change(rng, event, rng.choice([name for name in ("agent", "verb", "patient") if name != asked]))
    aside = _say(rng, _event(rng, 0.2), fronted=0.2)
    said = _say(rng, event, synonyms=0.2, passive=0.3, fronted=0.3)
    text = " ".join((said, aside) if rng.random() < 0.5 else (aside, said))
    return " ".join(question.split()), text, int(not answered)


class _Schema(NamedTuple):
    """A sentence on ``{a}`` and ``{b}`` whose one word ``{w}`` decides which of them its pronoun means."""

    sentence: str
    claim: str
    words_for_a: tuple[str, str]
    words_for_b: tuple[str, str]


_SCHEMAS = (
    _Schema("does not fit into the {b} {p} because it is too {w}", "is too {w}", ("big", "wide"), ("small", "narrow")),
    _Schema("broke the {b} {p} because it was so {w}", "was so {w}", ("hard", "heavy"), ("thin", "weak")),
    _Schema("hit the {b} {p} because it was {w}", "was {w}", ("falling", "rolling"), ("parked", "standing")),
)
_SOCIAL_SCHEMAS = (
    _Schema("could not lift the {b} {p} because he was too {w}", "was too {w}", ("weak", "tired"), ("heavy", "fat")),
    _Schema(
        "thanked the {b} {p} because he had {w} help", "had {w} help", ("received", "needed"), ("given", "offered")
    ),
    _Schema(
        "paid the {b} {p} because he had {w} the work", "had {w} the work", ("ordered", "wanted"), ("done", "finished")
    ),
    _Schema("feared the {b} {p} because he was {w}", "was {w}", ("timid", "shy"), ("cruel", "violent")),
)


def _wnli(rng: Random, split: str) -> Row:
    true = rng.random() < 0.5
    social = rng.random() < 0.5
    schema = rng.choice(_SOCIAL_SCHEMAS if social else _SCHEMAS)
    a, b = rng.sample(_members(lexicon.PEOPLE if social else lexicon.THINGS), 2)
    refers_to_a = rng.random() < 0.5
    word = rng.choice(schema.words_for_a if refers_to_a else schema.words_for_b)
    place = f"in the {rng.choice(rng.choice(lexicon.PLACES))}"
    named = a if refers_to_a == true else b
    sentence, claim = schema.sentence.format(b=b, p=place, w=word), schema.claim.format(w=word)
    return f"the {a} {sentence} .", f"the {named} {claim} .", int(true)


GRAMMARS: dict[str, Callable[[Random, str], Row]] = {
    "cola": _cola,
    "sst2": _sst2,
    "mrpc": _mrpc,
    "qqp": _qqp,
    "stsb": _stsb,
    "mnli": _mnli,
    "qnli": _qnli,
    "rte": _rte,
    "wnli": _wnli,
}
