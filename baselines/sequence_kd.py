"""Distillation of models that write text, Kim and Rush 2016: by word, by sequence, and interpolated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe

PAPER: dict[str, Any] = {
    "authors": "Kim, Y., Rush, A. M.",
    "title": "Sequence-Level Knowledge Distillation",
    "venue": "EMNLP",
    "year": 2016,
    "url": "https://arxiv.org/abs/1606.07947",
}


@register_recipe("word_kd")
def word_kd() -> Recipe:
    """The teacher's distribution of each next word of the reference, and the word itself, half each."""
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, TermSpec

    return Recipe(
        name="word_kd",
        title="the teacher's distribution of each word, with the word itself",
        citation=Citation(**PAPER),
        stages=(Stage(terms=(TermSpec(loss="kd", temperature=1.0, weight=0.5), TermSpec(loss="ce", weight=0.5))),),
        notes="The paper's cross-entropy with the teacher's distribution has the gradient of the divergence here. On a "
        "task without a target the same terms are those of kd at temperature 1.",
        sources=(
            Source(
                origin="paper",
                where="section 4.2, Word-KD: alpha = 0.5 was better than 0.9; no temperature",
                of=("kd.temperature", "kd.weight", "ce.weight"),
            ),
        ),
    )


@register_recipe("seq_kd")
def seq_kd() -> Recipe:
    """Fine-tuning on what the teacher writes for the training sources."""
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, Targets, TermSpec

    return Recipe(
        name="seq_kd",
        title="trained on the texts that the teacher writes",
        citation=Citation(**PAPER),
        stages=(Stage(terms=(TermSpec(loss="ce"),)),),
        targets=Targets(beam=5),
        notes="The teacher's tokenizer may be another than the student's.",
        sources=(
            Source(
                origin="paper",
                where="section 4.2, Seq-KD: a beam of 5, its best hypothesis",
                of=("targets.beam", "targets.choose"),
            ),
            Source(origin="ours", where="the only term", of=("ce.weight",)),
        ),
    )


@register_recipe("seq_inter")
def seq_inter() -> Recipe:
    """Fine-tuning on the hypothesis of the teacher's beam that is closest to the reference."""
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, Targets, TermSpec

    return Recipe(
        name="seq_inter",
        title="trained on the teacher's hypotheses that are closest to the references",
        citation=Citation(**PAPER),
        stages=(Stage(terms=(TermSpec(loss="ce"),)),),
        targets=Targets(beam=5, choose="closest"),
        notes="The paper goes on from a student that was trained before, at a tenth of its rate, and takes a beam of "
        "35; here the student is trained on these texts from the start, as by the other methods.",
        sources=(
            Source(
                origin="ours",
                where="the paper's choice by BLEU (section 4.2, Seq-Inter) with Seq-KD's beam, so that one decoding "
                "serves both",
                of=("targets.beam", "targets.choose"),
            ),
            Source(origin="ours", where="the only term", of=("ce.weight",)),
        ),
    )
