"""The registered tasks beside GLUE's: tags, questions, texts to write, and teachers that read facts or roles."""

from __future__ import annotations

from kdzoo.tasks.classification import Classification
from kdzoo.tasks.decoding import Decoding
from kdzoo.tasks.generation import SequenceToSequence
from kdzoo.tasks.knowledge import Facts
from kdzoo.tasks.question_answering import QuestionAnswering
from kdzoo.tasks.registry import built_in
from kdzoo.tasks.synthetic import agents, things
from kdzoo.tasks.synthetic.entities import TAGS
from kdzoo.tasks.token_classification import TokenClassification
from kdzoo.tasks.with_knowledge import WithKnowledge
from kdzoo.tasks.with_roles import WithRoles


def _synthetic_facts() -> Facts:
    found: dict[str, list[str]] = {}
    for subject, predicate, text in things.triples():
        found.setdefault(subject, []).append(f"{predicate} {text}")
    return Facts(found)


# The synthetic sentences' tags; of a folder the data's own are taken (`TokenClassification.adapted`).
NER = built_in(TokenClassification("ner", TAGS))
SQUAD = built_in(QuestionAnswering("squad"))
TRANSDUCTION = built_in(
    SequenceToSequence("transduction", ("bleu", "chrf2", "exact_match"), ("bleu",), decoding=Decoding(2, max_target=64))
)
KBERT = built_in(
    WithKnowledge(things.NAME, Classification(things.NAME, ("sentence",), things.LABELS), facts=_synthetic_facts())
)
SEMBERT = built_in(WithRoles(agents.NAME, Classification(agents.NAME, ("sentence",), agents.LABELS)))
