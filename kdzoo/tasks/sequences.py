"""The registered tasks whose rows are tagged sentences and questions: ``ner`` and ``squad``."""

from __future__ import annotations

from kdzoo.tasks.question_answering import QuestionAnswering
from kdzoo.tasks.registry import built_in
from kdzoo.tasks.synthetic.entities import TAGS
from kdzoo.tasks.token_classification import TokenClassification

# The synthetic sentences' tags; of a folder the data's own are taken (`TokenClassification.adapted`).
NER = built_in(TokenClassification("ner", TAGS))
SQUAD = built_in(QuestionAnswering("squad"))
