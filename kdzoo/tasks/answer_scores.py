"""How right answers are: SQuAD's exact match and F1, and BioASQ's measures of factoid questions."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from kdzoo.errors import KdzooError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
FACTOID_ANSWERS = 5


def normalize_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no article, single spaces, done in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def squad_scores(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], *, version: str | None = None
) -> dict[str, float]:
    """SQuAD's scores in percent: the best over a question's gold answers, the mean over all questions.

    Args:
        predictions: question id → text. A question that is missing scores 0; one that is not asked for is left out.
        references: question id → gold texts; none for a question without an answer, which "" alone answers.
        version: of the official script; by default ``"2.0"`` where some question has no answer, and else ``"1.1"``.
            They differ where prediction and gold answer are both empty once normalised: F1 is 0 in ``"1.1"`` and 1 in
            ``"2.0"``, which also drops gold answers that are.

    Returns:
        ``exact_match`` and ``f1``.

    Raises:
        KdzooError: no question, another version, or something that is no text.

    Source: Rajpurkar et al. (2016, 2018) and the official evaluation scripts.
    """
    questions = list(_questions(references))
    if version is None:
        version = version_for(golds for _, golds in questions)
    if version not in ("1.1", "2.0"):
        raise KdzooError(f"version must be '1.1' or '2.0', got {version!r}")
    scores = []
    for question, golds in questions:
        right = [_text(gold, f"a reference of {question!r}") for gold in golds]
        guess = predictions.get(question)
        scores.append(
            (0.0, 0.0)
            if question not in predictions
            else answer_score(_text(guess, f"the prediction of {question!r}"), right, version)
        )
    exact, overlap = zip(*scores, strict=True)
    return {"exact_match": 100.0 * sum(exact) / len(exact), "f1": 100.0 * sum(overlap) / len(overlap)}


def version_for(references: Iterable[Sequence[str]]) -> str:
    """The official script that scores such gold answers: the later one is for questions of which some have none."""
    return "1.1" if all(references) else "2.0"


def answer_score(guess: str, golds: Sequence[str], version: str = "1.1") -> tuple[float, float]:
    """Exact match and F1 of one answer, 0 to 1: the best over its question's gold answers; see `squad_scores`."""
    guess = normalize_answer(guess)
    normal = [normalize_answer(gold) for gold in golds]
    if version == "2.0":
        normal = [gold for gold in normal if gold]
    both_empty = 1.0 if version == "2.0" or not normal else 0.0
    normal = normal or [""]
    exact = max(float(guess == gold) for gold in normal)
    return exact, max(_token_f1(guess.split(), gold.split(), both_empty) for gold in normal)


def factoid_scores(
    predictions: Mapping[str, Sequence[str]], references: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """BioASQ's measures of factoid questions; an answer is right when it equals a synonym but for case.

    Args:
        predictions: question id → its answers, best first; what follows the fifth is not looked at. A question that
            is missing scores 0, unlike in the official evaluator, which leaves it out of the mean.
        references: question id → the synonyms that are right.

    Returns:
        ``strict`` (the first is right), ``lenient`` (one of the five is) and ``mrr`` (1 / rank of the first right
        one, else 0), each the mean over all questions.

    Raises:
        KdzooError: no question, a question without synonyms, or something that is no text.

    Source: Balikas et al. (2013), "Evaluation framework specifications", BioASQ.
    """
    ranks = []
    for question, golds in _questions(references):
        right = {_text(gold, f"a synonym of {question!r}").lower() for gold in golds}
        if not right:
            raise KdzooError(f"question {question!r} has no right answer to compare with")
        answers = predictions.get(question, ())
        if isinstance(answers, str):
            raise KdzooError(f"the predictions of {question!r} are one text; expected a list of answers, best first")
        lowered = [_text(answer, f"an answer of {question!r}").lower() for answer in answers]
        found = (rank for rank, answer in enumerate(lowered[:FACTOID_ANSWERS], 1) if answer in right)
        ranks.append(next(found, None))

    def mean(score: Callable[[int], float]) -> float:
        return sum(score(rank) for rank in ranks if rank) / len(ranks)

    return {
        "strict": mean(lambda rank: float(rank == 1)),
        "lenient": mean(lambda rank: 1.0),
        "mrr": mean(lambda rank: 1 / rank),
    }


def _token_f1(guess: list[str], gold: list[str], both_empty: float) -> float:
    if not guess and not gold:
        return both_empty
    common = sum((Counter(guess) & Counter(gold)).values())
    if not common:
        return 0.0
    precision, recall = common / len(guess), common / len(gold)
    return 2 * precision * recall / (precision + recall)


def _questions(references: Mapping[str, Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    if not references:
        raise KdzooError("no question to score")
    for question, golds in references.items():
        if isinstance(golds, str | Mapping):  # whose keys would be taken for the texts
            kind = "one text" if isinstance(golds, str) else "a mapping"
            raise KdzooError(f"the references of {question!r} are {kind}; expected a list of texts")
    return list(references.items())


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise KdzooError(f"{what} must be text, got {value!r}")
    return value
