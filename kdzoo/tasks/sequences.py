"""The registered tasks on sequences: ``ner`` (tags), ``squad`` (answers) and ``transduction`` (texts to write)."""

from __future__ import annotations

from kdzoo.tasks.decoding import Decoding
from kdzoo.tasks.generation import SequenceToSequence
from kdzoo.tasks.question_answering import QuestionAnswering
from kdzoo.tasks.registry import built_in
from kdzoo.tasks.synthetic.entities import TAGS
from kdzoo.tasks.token_classification import TokenClassification

# The synthetic sentences' tags; of a folder the data's own are taken (`TokenClassification.adapted`).
NER = built_in(TokenClassification("ner", TAGS))
SQUAD = built_in(QuestionAnswering("squad"))
TRANSDUCTION = built_in(
    SequenceToSequence("transduction", ("bleu", "chrf2", "exact_match"), ("bleu",), decoding=Decoding(2, max_target=64))
)
