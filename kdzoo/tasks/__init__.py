"""Tasks: what they are, where their rows come from (`sources`, `own`, `synthetic`), how they are scored (`metrics`)."""

from kdzoo.tasks.base import Head, Task
from kdzoo.tasks.classification import Classification
from kdzoo.tasks.generation import SequenceToSequence
from kdzoo.tasks.glue import TASKS
from kdzoo.tasks.knowledge_graphs import UMLS, WN11, WN18RR, LinkPrediction, RelationPrediction, TripleClassification
from kdzoo.tasks.question_answering import QuestionAnswering
from kdzoo.tasks.registry import get_task, register_task, task_names
from kdzoo.tasks.sequences import KBERT, NER, SEMBERT, SQUAD, TRANSDUCTION
from kdzoo.tasks.sources import load
from kdzoo.tasks.token_classification import TokenClassification
from kdzoo.tasks.with_knowledge import WithKnowledge
from kdzoo.tasks.with_roles import WithRoles

__all__ = [
    "KBERT",
    "NER",
    "SEMBERT",
    "SQUAD",
    "TRANSDUCTION",
    "TASKS",
    "UMLS",
    "WN11",
    "WN18RR",
    "Classification",
    "Head",
    "LinkPrediction",
    "QuestionAnswering",
    "SequenceToSequence",
    "Task",
    "TokenClassification",
    "WithKnowledge",
    "WithRoles",
    "RelationPrediction",
    "TripleClassification",
    "get_task",
    "load",
    "register_task",
    "task_names",
]
