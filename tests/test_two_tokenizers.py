"""A teacher that reads tokens of its own: columns with the prefix teacher_, given to it alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_trainer import student, trainer
from tiny_data import collate, rows
from tiny_models import tiny

from kdzoo.errors import KdzooError
from kdzoo.objectives.objective import Objective
from kdzoo.objectives.term import Term
from kdzoo.training.cache import TEACHER_PREFIX, TeacherCache

OTHERS = 150  # the teacher's vocabulary; the student's has 99 entries


def both(count: int = 24) -> Any:
    """Rows with the student's tokens, and with longer ones for the teacher."""
    data = rows(count)
    generator = torch.Generator().manual_seed(9)
    own = [torch.randint(5, OTHERS, (len(ids) + 3,), generator=generator).tolist() for ids in data["input_ids"]]
    data = data.add_column(f"{TEACHER_PREFIX}input_ids", own)
    return data.add_column(f"{TEACHER_PREFIX}attention_mask", [[1] * len(ids) for ids in own])


def collate_both(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    def part(of_teacher: bool) -> dict[str, torch.Tensor]:
        return collate(
            [
                {
                    k.removeprefix(TEACHER_PREFIX): v
                    for k, v in row.items()
                    if k.startswith(TEACHER_PREFIX) is of_teacher
                }
                for row in batch
            ]
        )

    return part(False) | {TEACHER_PREFIX + name: value for name, value in part(True).items()}


def guide(**options: Any) -> Any:
    return tiny("roberta", seed=4, vocab_size=OTHERS, **options)


def made(folder: Path, objective: Objective, **also: Any) -> Any:
    model = student(hidden_size=32)
    of = trainer(folder, objective=objective, model=model, guide=guide(), data=both(), max_steps=3, also=also)
    of.data_collator = collate_both
    return of


def test_each_model_is_given_its_own(tmp_path: Path) -> None:
    of = made(tmp_path, Objective([Term("kd", temperature=1.0)]))
    seen: dict[str, Any] = {}
    for name, module in (("teacher", of.teacher), ("student", of.student)):
        module.register_forward_pre_hook(
            lambda _, args, given, name=name: seen.setdefault(name, given) and None, with_kwargs=True
        )
    of.train()
    assert seen["teacher"].keys() == {"input_ids", "attention_mask"}
    assert seen["teacher"]["input_ids"].shape[1] == seen["student"]["input_ids"].shape[1] + 3
    assert not any(name.startswith(TEACHER_PREFIX) for name in seen["student"])


@pytest.mark.parametrize("cached", [False, True])
def test_losses_on_rows_have_the_right_values(cached: bool, tmp_path: Path) -> None:
    terms = [
        Term("kd", temperature=1.0),
        Term("hidden_mse", feature="cls", layers=[(1, 2)], name="cls"),
        Term("cosine", feature="pooled", layers=[(2, 3)], name="mean"),
    ]
    cache = TeacherCache(tmp_path / "cache") if cached else None
    of = made(tmp_path, Objective(terms), cache=cache)
    first: list[dict[str, torch.Tensor]] = []
    compute = of.compute_loss
    expected: list[list[float]] = []

    def watched(model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        if not first:
            first.append(inputs)
            with torch.no_grad():
                own = {k: v for k, v in inputs.items() if k in ("input_ids", "attention_mask", "token_type_ids")}
                other = {k.removeprefix("teacher_"): v for k, v in inputs.items() if k.startswith("teacher_")}
                s, t = of.student(**own, output_hidden_states=True), guide()(**other, output_hidden_states=True)
                kl = F.kl_div(
                    s.logits.log_softmax(-1), t.logits.log_softmax(-1), log_target=True, reduction="batchmean"
                )
                mse = F.mse_loss(s.hidden_states[1][:, 0], t.hidden_states[2][:, 0])
                means = [
                    (side.hidden_states[at].double() * taken["attention_mask"].unsqueeze(-1)).sum(1)
                    / taken["attention_mask"].sum(1, keepdim=True)
                    for side, taken, at in ((s, own, 2), (t, other, 3))
                ]
                expected.append([float(kl), float(mse), float(1 - F.cosine_similarity(*means).mean())])
        return compute(model, inputs, *rest, **more)

    of.compute_loss = watched
    of.train()
    logged = of.state.log_history[0]
    found = [logged[f"loss/{name}"] for name in ("kd", "cls", "mean")]
    np.testing.assert_allclose(found, expected[0], rtol=2e-5)
    assert (of.teacher_rows is not None) is cached


def test_the_cache_knows_what_the_teacher_sees(tmp_path: Path) -> None:
    """The student's tokens may change; other tokens of the teacher's are other rows."""
    objective = lambda: Objective([Term("kd")])  # noqa: E731
    changed = both().map(lambda row: {"input_ids": row["input_ids"][::-1]})
    others = both().map(lambda row: {"teacher_input_ids": row["teacher_input_ids"][::-1]})
    for data, folders in ((both(), 1), (changed, 1), (others, 2)):
        of = made(tmp_path, objective(), cache=TeacherCache(tmp_path / "cache"))
        of.train_dataset = data
        of.train()
        assert len([*(tmp_path / "cache").iterdir()]) == folders


@pytest.mark.parametrize(
    ("term", "words"),
    [
        (
            Term("hidden_mse"),
            r"'hidden_mse' compares single tokens \(hidden\).*logits, cls, pooled work: take feature=cls",
        ),
        (Term("embedding_mse"), r"'embedding_mse' compares single tokens \(embedding\).*take kd, pkd"),
        (Term("attention_mse"), r"'attention_mse' compares single tokens \(qkv\)"),
    ],
)
def test_losses_on_tokens_are_refused(term: Term, words: str, tmp_path: Path) -> None:
    with pytest.raises(KdzooError, match=words) as error:
        made(tmp_path, Objective([term]))
    assert "\n" not in str(error.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    of = made(tmp_path, Objective([Term("kd")]))
    of.data_collator = lambda batch: {k: v for k, v in collate_both(batch).items() if not k.startswith(TEACHER_PREFIX)}
    with pytest.raises(KdzooError, match=r"teacher_input_ids, \.\.\.\) and the batch has none"):
        of.train()
    with pytest.raises(KdzooError, match="no teacher_input_ids; give the teacher all of its inputs"):
        trainer(tmp_path, "kd", guide=guide(), data=both().remove_columns("teacher_input_ids"))
    with pytest.raises(KdzooError, match="vocabulary has 99 entries and the teacher's 150"):
        trainer(tmp_path, "kd", guide=guide(), data=rows())
