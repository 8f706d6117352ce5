"""BLEU, chrF2 and ROUGE of written texts, by sacrebleu and rouge-score.

Source: Papineni et al. (2002), Post (2018) for BLEU and its signature; Popović (2015) for chrF; Lin (2004) for ROUGE.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from kdzoo.errors import KdzooError

ROUGES = ("rouge1", "rouge2", "rougeLsum")
SACRE = {"bleu": "BLEU", "chrf2": "CHRF"}
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def sacre_statistics(name: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """What each text adds to a corpus' BLEU or chrF2, (N, k).

    Args:
        name: a key of `SACRE`.
        predictions: by row, detokenised.
        references: by row, one or more texts.
    """
    found = _scorer(name)._extract_corpus_statistics([*predictions], by_place(references))
    # chrF keeps nothing of an empty text against an empty one; all else is of one length
    return np.asarray(found, dtype=float)


def sacre_score(name: str, sums: np.ndarray) -> np.ndarray:
    """The corpus' score, 0 to 1, from sums (..., k) of `sacre_statistics`."""
    flat = np.asarray(sums).reshape(-1, sums.shape[-1])
    scorer = _scorer(name)
    found = [scorer._compute_score_from_stats([round(value) for value in row]).score / 100 for row in flat.tolist()]
    return np.asarray(found).reshape(sums.shape[:-1])


def signature(name: str, references: Sequence[Sequence[str]]) -> str:
    """sacrebleu's own word for how a score was computed, its version among it."""
    scorer = _scorer(name)
    scorer.corpus_score([of[0] for of in references], by_place(references))
    return str(scorer.get_signature())


def by_place(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """References by row as sacrebleu takes them: all first ones, all second ones; None where a row has fewer."""
    most = max(map(len, references))
    return [[of[place] if place < len(of) else None for of in references] for place in range(most)]


def rouge_statistics(name: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """By row (N, 2): ROUGE's F with stemming, of several references the best, and 1."""
    scores = [_rouge(text, tuple(of))[ROUGES.index(name)] for text, of in zip(predictions, references, strict=True)]
    return np.stack([np.asarray(scores), np.ones(len(scores))], axis=1)


def match_statistics(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """By row (N, 2): whether the text is one of the references, and 1."""
    pairs = zip(predictions, references, strict=True)
    right = [float(text.strip() in {one.strip() for one in of}) for text, of in pairs]
    return np.stack([np.asarray(right), np.ones(len(right))], axis=1)


def closest(hypotheses: Sequence[str], references: Sequence[str]) -> str:
    """The hypothesis with the highest sentence BLEU; of equal ones the first."""
    scorer = _library("sacrebleu").BLEU(effective_order=True)
    scores = [scorer.sentence_score(text, [*references]).score for text in hypotheses]
    return hypotheses[int(np.argmax(scores))]


def by_sentence(text: str) -> str:
    """A text with a line break after each sentence, as ROUGE-Lsum takes it; its own breaks stay."""
    return _SENTENCE_END.sub("\n", text.strip())


def check_libraries(metrics: Sequence[str]) -> None:
    """Refuse metrics whose library is not installed.

    Raises:
        KdzooError: says what to install.
    """
    if any(name in SACRE for name in metrics):
        _library("sacrebleu")
    if any(name in ROUGES for name in metrics):
        _library("rouge_score")


@lru_cache(maxsize=1 << 15)
def _rouge(text: str, references: tuple[str, ...]) -> tuple[float, ...]:
    """ROUGE-1, -2 and -Lsum of a text; remembered, for records of the same rows are scored again."""
    scorer = _rouge_scorer()
    found = scorer.score_multi([*map(by_sentence, references)], by_sentence(text))
    return tuple(found[name].fmeasure for name in ROUGES)


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    _library("rouge_score")
    from rouge_score import rouge_scorer  # type: ignore[import-untyped]

    return rouge_scorer.RougeScorer([*ROUGES], use_stemmer=True)


@lru_cache(maxsize=4)
def _scorer(name: str) -> Any:
    from_library = getattr(_library("sacrebleu"), SACRE[name])
    return from_library()


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise KdzooError(f"texts are scored by {name.replace('_', '-')}: pip install 'kdzoo[bench]'") from None
