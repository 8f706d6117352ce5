"""Dependency-derived predicate-argument tags: rules over a parse with spaCy's English labels, in AllenNLP's shape.

The roles are PropBank's as far as a parse shows them: subjects, objects, clauses and the commonest modifiers. No
labeller of semantic roles has read the sentence, so these tags are called dependency-derived wherever they appear. The
rules are kdzoo's own; the labels are those of spaCy's English models (ClearNLP's).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SUBJECTS, PASSIVE_SUBJECTS = ("nsubj", "csubj", "expl"), ("nsubjpass", "csubjpass")
RELATIVES = ("WDT", "WP", "WP$", "WRB")  # tags of which, who, whose, where
BE = ("be", "seem", "become", "remain", "appear")  # whose subject is described and does nothing
# Verbs whose one argument undergoes what they say.
UNDERGOING = _words(
    "rise fall drop increase decline grow shrink happen occur die exist begin start end arise emerge vanish disappear "
    "collapse close open change gain climb plunge soar slip tumble jump last result belong consist depend"
)
TIMES = _words(
    "now then today yesterday tomorrow tonight already ever never always often recently soon still again later ago "
    "earlier currently previously finally once eventually immediately before since lately yet when sometimes usually"
)
TIME_NOUNS = _words(
    "day week month year hour minute second time moment morning afternoon evening night weekend decade century season "
    "quarter period today yesterday tomorrow monday tuesday wednesday thursday friday saturday sunday january february "
    "march april may june july august september october november december summer winter spring fall"
)
PLACES = _words("here there where everywhere anywhere somewhere nowhere abroad home outside inside nearby")
DISCOURSE = _words("also however therefore thus moreover instead though well please too indeed")
WHEN = _words("when while before after until till since as once whenever")
WHY = _words("because since")
IN_PLACE = _words("in at on near inside outside under over above below behind between among across along")


class Token(NamedTuple):
    """A word of a parse; ``head`` is the number of the word it hangs on, its own for the root."""

    word: str
    lemma: str
    pos: str
    tag: str
    dep: str
    head: int
    entity: str = ""


class Argument(NamedTuple):
    """What a predicate takes: its role, the word that heads it, and its first and last word."""

    role: str
    head: int
    first: int
    last: int


class Predicate(NamedTuple):
    """A predicate's place and its arguments."""

    verb: int
    arguments: list[Argument]


def tokens_of(doc: Iterable[Any]) -> list[Token]:
    """The words of spaCy's ``Doc``, or of anything whose tokens have the same attributes; white space is left out."""
    kept = [token for token in doc if not token.is_space]
    place = {token.i: number for number, token in enumerate(kept)}

    def head(token: Any, number: int) -> int:
        above = token.head
        while above.is_space and above.head.i != above.i:
            above = above.head
        return place.get(above.i, number)

    return [
        Token(t.text, t.lemma_.lower(), t.pos_, t.tag_, t.dep_, head(t, number), t.ent_type_)
        for number, t in enumerate(kept)
    ]


def tagged(tokens: Sequence[Token]) -> dict[str, Any]:
    """``words`` and ``verbs``, as AllenNLP's labeller has them: each verb with its ``index`` and a BIO tag a word.

    Args:
        tokens: a parsed text, of one sentence or several.
    """
    verbs = []
    for predicate in predicates(tokens):
        tags = ["O"] * len(tokens)
        tags[predicate.verb] = "B-V"
        for argument in predicate.arguments:
            span = range(argument.first, argument.last + 1)
            if all(tags[at] == "O" for at in span):  # the first to take a word keeps it
                tags[argument.first : argument.last + 1] = [
                    f"{'BI'[at > argument.first]}-{argument.role}" for at in span
                ]
        verbs.append({"verb": tokens[predicate.verb].word, "index": predicate.verb, "tags": tags})
    return {"words": [token.word for token in tokens], "verbs": verbs}


def predicates(tokens: Sequence[Token]) -> list[Predicate]:
    """Every main verb of a parse with its arguments, in the order of the text."""
    parse = _Parse(tokens)
    return [Predicate(at, parse.arguments(at)) for at in range(len(tokens)) if parse.is_predicate(at)]


class _Parse:
    """A parse with what hangs on each word."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.below: list[list[int]] = [[] for _ in tokens]
        for at, token in enumerate(tokens):
            if token.head != at:
                self.below[token.head].append(at)

    def is_predicate(self, at: int) -> bool:
        token = self.tokens[at]
        if token.dep in ("aux", "auxpass") or token.pos not in ("VERB", "AUX"):
            return False
        return token.dep not in ("amod", "compound", "prep", "mark", "cc", "punct")

    def arguments(self, verb: int) -> list[Argument]:
        found: dict[str, Argument] = {}
        modifiers: list[Argument] = []

        def take(role: str, argument: Argument | None) -> None:
            if argument is not None:
                found.setdefault(role, argument._replace(role=role))

        passive = self.is_passive(verb)
        objects = self.children(verb, "dobj", "attr", "oprd", "acomp", "ccomp", "xcomp", "dative")
        of_being = self.tokens[verb].lemma in BE and not self.children(verb, "dobj")
        undergoing = of_being or (self.tokens[verb].lemma in UNDERGOING and not self.children(verb, "dobj"))
        for child in self.below[verb]:
            dep = self.tokens[child].dep
            relative = "R-" if self.tokens[child].tag in RELATIVES and self.tokens[verb].dep == "relcl" else ""
            if dep in PASSIVE_SUBJECTS or (dep in SUBJECTS and undergoing):
                take(f"{relative}ARG1", self.span(child, verb))
            elif dep in SUBJECTS and dep != "expl":
                take(f"{relative}ARG0", self.span(child, verb))
            elif dep == "dobj":
                take(f"{relative}ARG1", self.span(child, verb))
            elif dep == "agent":
                take("ARG0", self.prepositional(child, verb))
            elif dep == "dative":
                take("ARG2", self.prepositional(child, verb))
        self._shared(verb, take, passive=passive, undergoing=undergoing, filled=set(found))
        for child in objects:
            dep = self.tokens[child].dep
            if dep in ("attr", "oprd", "acomp", "ccomp", "xcomp"):
                take("ARG2" if "ARG1" in found or of_being else "ARG1", self.span(child, verb))
        for child in self.below[verb]:
            role = self.modifier(child)
            if role is None and self.tokens[child].dep == "prep":
                role = "ARG2" if {"ARG1", "ARG2"} & {*found} or passive or undergoing else "ARG1"
                if role not in found:
                    take(role, self.prepositional(child, verb))
                    continue
                role = "ARGM-ADV"
            if role is not None:
                of = self.prepositional(child, verb) if self.tokens[child].dep == "prep" else self.span(child, verb)
                modifiers += [] if of is None else [of._replace(role=role)]
        return [*found.values(), *modifiers]

    def _shared(self, verb: int, take: Any, *, passive: bool, undergoing: bool, filled: set[str]) -> None:
        """What a verb takes from the clause above it: the subject of a conjunct or of an infinitive, or its noun."""
        token, above = self.tokens[verb], self.tokens[verb].head
        own = "ARG1" if passive or undergoing else "ARG0"
        if token.dep in ("relcl", "acl") and not self.is_infinitive(verb):
            gap = own
            if token.dep == "relcl":
                relatives = [role for role in filled if role.startswith("R-")]
                has_subject = bool(self.children(verb, *SUBJECTS, *PASSIVE_SUBJECTS))
                gap = relatives[0][2:] if relatives else "ARG1" if has_subject else own
            elif token.tag == "VBN":
                gap = "ARG1"
            if gap not in filled:
                take(gap, self.noun(above, verb))
        elif own not in filled and not self.children(verb, *SUBJECTS, *PASSIVE_SUBJECTS):
            if token.dep == "conj" and self.is_predicate(above):
                take(own, self.subject(above, verb))
            elif token.dep == "xcomp" and self.is_predicate(above):
                controlled = self.children(above, "dobj")
                take(own, self.span(controlled[0], verb) if controlled else self.subject(above, verb))

    def subject(self, verb: int, of: int) -> Argument | None:
        """The subject of a verb, or of that which it shares it with."""
        for _ in self.tokens:
            there = self.children(verb, *SUBJECTS, *PASSIVE_SUBJECTS)
            if there:
                return self.span(there[0], of)
            if self.tokens[verb].dep not in ("conj", "xcomp"):
                return None
            verb = self.tokens[verb].head
        return None

    def noun(self, at: int, verb: int) -> Argument | None:
        """A noun without the clause that hangs on it."""
        first, last = self.edges(at, without=verb)
        return Argument("", at, first, last) if not first <= verb <= last else None

    def children(self, at: int, *deps: str) -> list[int]:
        return [child for child in self.below[at] if self.tokens[child].dep in deps]

    def is_passive(self, verb: int) -> bool:
        return bool(self.children(verb, "auxpass", *PASSIVE_SUBJECTS))

    def is_infinitive(self, verb: int) -> bool:
        return any(self.tokens[child].lemma == "to" for child in self.children(verb, "aux"))

    def edges(self, at: int, *, without: int = -1) -> tuple[int, int]:
        """The first and the last word below one, as far as they follow each other; without the part below another."""
        inside, waiting = {at}, [at]
        while waiting:
            for child in self.below[waiting.pop()]:
                if child != without and child not in inside:
                    inside.add(child)
                    waiting.append(child)
        first = last = at
        while first - 1 in inside:
            first -= 1
        while last + 1 in inside:
            last += 1
        while first < at and self.tokens[first].pos == "PUNCT" and self.tokens[first].word == ",":
            first += 1
        while last > at and self.tokens[last].pos == "PUNCT" and self.tokens[last].word == ",":
            last -= 1
        return first, last

    def span(self, at: int, verb: int) -> Argument | None:
        """A word with all below it, which must not hold the verb itself."""
        first, last = self.edges(at, without=verb)
        if first <= verb <= last:
            first, last = (first, verb - 1) if at < verb else (verb + 1, last)
        return Argument("", at, first, last) if at != verb else None

    def prepositional(self, at: int, verb: int) -> Argument | None:
        """A preposition with its object, whose head is the object."""
        span = self.span(at, verb)
        inner = self.children(at, "pobj", "pcomp")
        return span._replace(head=inner[0]) if span is not None and inner else span

    def modifier(self, at: int) -> str | None:
        """What a modifier says of its verb; None for what is an argument, or nothing."""
        token = self.tokens[at]
        if token.dep == "neg":
            return "ARGM-NEG"
        if token.dep == "aux":
            return "ARGM-MOD" if token.tag == "MD" else None
        if token.dep in ("npadvmod", "advmod", "tmod"):
            if token.lemma in TIMES or self.is_time(at):
                return "ARGM-TMP"
            if token.lemma in PLACES:
                return "ARGM-LOC"
            if token.lemma in DISCOURSE:
                return "ARGM-DIS"
            return "ARGM-MNR" if token.word.lower().endswith("ly") or token.lemma == "how" else "ARGM-ADV"
        if token.dep == "advcl":
            marks = {self.tokens[child].lemma for child in self.children(at, "mark", "advmod")}
            if self.is_infinitive(at):
                return "ARGM-PRP"
            return "ARGM-CAU" if marks & WHY - WHEN else "ARGM-TMP" if marks & WHEN else "ARGM-ADV"
        if token.dep == "prep":
            return self._of_preposition(at)
        return None

    def _of_preposition(self, at: int) -> str | None:
        word = self.tokens[at].word.lower()
        inner = self.children(at, "pobj", "pcomp")
        if word == "because" or (word == "due" and inner):
            return "ARGM-CAU"
        if inner and (self.is_time(inner[0]) or word in ("during", "after", "before", "until", "since")):
            return "ARGM-TMP"
        place = bool(inner) and self.tokens[inner[0]].entity in ("GPE", "LOC", "FAC")
        if word in IN_PLACE and (place or word not in ("in", "at", "on", "over", "between", "under")):
            return "ARGM-LOC"
        if word == "in":
            return "ARGM-LOC"
        return "ARGM-ADV" if word in ("despite", "without", "according", "like", "as", "by", "including") else None

    def is_time(self, at: int) -> bool:
        token = self.tokens[at]
        return token.entity in ("DATE", "TIME") or token.lemma in TIME_NOUNS
