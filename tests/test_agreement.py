"""Models, rows and checkpoints that do not go together are refused before any training; what only looks so works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from test_trainer import state, student, teacher, trainer
from tiny_data import collate, rows
from tiny_models import tiny

from kdzoo.errors import KdzooError
from kdzoo.models.heads import positions
from kdzoo.objectives.objective import Objective
from kdzoo.objectives.term import OWN_OPTIONS, Term
from kdzoo.training.agreement import accepted_inputs
from kdzoo.training.cache import TeacherCache


def first(made: Any) -> dict[str, float]:
    made.train()
    return {k: v for k, v in made.state.log_history[0].items() if k.startswith("loss")}


# --- models and rows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_rows_longer_than_a_model_has_positions_for(who: str, tmp_path: Path) -> None:
    short = {"max_position_embeddings": 8}
    model, guide = (student(**short), teacher()) if who == "student" else (student(), teacher(**short))
    made = trainer(tmp_path, "kd", model=model, guide=guide, also={"cache": TeacherCache(tmp_path / "cache")})
    guide.register_forward_pre_hook(lambda *_: pytest.fail("before anything runs"))
    with pytest.raises(
        KdzooError, match=f"a row has 13 tokens, and the {who} has positions for 8; cut the rows to that"
    ):
        made.train()


def test_rows_that_the_collator_cuts_are_fine(tmp_path: Path) -> None:
    made = trainer(tmp_path, "kd", model=student(max_position_embeddings=8), max_steps=1)
    made.data_collator = lambda batch: collate(
        [{k: v[:8] if isinstance(v, list) else v for k, v in row.items()} for row in batch]
    )
    made.train()
    assert made.state.global_step == 1


def test_rows_that_no_dataset_tells_of_are_looked_at_as_they_come(tmp_path: Path) -> None:
    data: Any = [{k: v for k, v in row.items() if k != "length"} for row in rows()]
    made = trainer(tmp_path, "kd", model=student(max_position_embeddings=8), data=data)
    with pytest.raises(KdzooError, match="the student has positions for 8"):
        made.train()


def test_rows_that_stream(tmp_path: Path) -> None:
    """What has no length is trained on as it comes."""
    plain = first(trainer(tmp_path, "kd", max_steps=1, train_sampling_strategy="sequential"))
    made = trainer(tmp_path, "kd", data=rows().to_iterable_dataset(), max_steps=1)
    assert first(made) == pytest.approx(plain, rel=1e-6)


def test_positions() -> None:
    """RoBERTa's begin after the padding's; a DeBERTa without absolute ones has no end."""
    found = {family: positions(tiny(family)) for family in ("bert", "roberta", "electra", "distilbert")}
    assert found == {"bert": 64, "roberta": 63, "electra": 64, "distilbert": 64}
    assert positions(tiny("deberta", position_biased_input=False)) is positions(tiny("modernbert")) is None
    model = tiny("roberta")  # the padding's id is 0 here
    with torch.no_grad():
        model(input_ids=torch.full((1, 63), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, 64), 5))


def test_one_token_type_is_none(tmp_path: Path) -> None:
    """A RoBERTa beside a BERT: the types are the teacher's alone."""
    assert "token_type_ids" in accepted_inputs(tiny("bert"))
    model = student(family="roberta", type_vocab_size=1)
    assert "token_type_ids" not in accepted_inputs(model)
    made = trainer(tmp_path, objective=Objective([Term("kd", temperature=1.0)]), model=model, max_steps=1)
    made.args.train_sampling_strategy = "sequential"
    inputs = collate([rows()[i] for i in range(4)])
    with torch.no_grad():
        own = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.log_softmax(-1)
        taken = {k: inputs[k] for k in ("input_ids", "attention_mask", "token_type_ids")}
        other = teacher()(**taken).logits.log_softmax(-1)
    expected = F.kl_div(own, other, log_target=True, reduction="batchmean").item()
    assert first(made)["loss/kd"] == pytest.approx(expected, rel=1e-4)


def test_a_column_that_the_collator_renames(tmp_path: Path) -> None:
    plain = first(trainer(tmp_path, "kd", max_steps=1))
    made = trainer(tmp_path, "kd", data=rows().rename_column("labels", "label"), max_steps=1)
    made.data_collator = lambda batch: {("labels" if k == "label" else k): v for k, v in collate(batch).items()}
    assert first(made) == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize("family", ["deberta", "roberta"])
def test_attention_dropout_is_no_obstacle(family: str, tmp_path: Path) -> None:
    """What a DeBERTa shows is its softmax, before dropout: nothing has to be switched off."""
    options = {"attention_probs_dropout_prob": 0.1, "num_hidden_layers": 2}
    models = tiny(family, 1, **options).train(), tiny(family, 2, **options)
    objective = Objective([Term("attention_kl"), Term("kd")])
    values = first(trainer(tmp_path, objective=objective, model=models[0], guide=models[1], max_steps=1))
    assert all(np.isfinite(value) for value in values.values()) and values["loss/attention_kl"] > 0
    models[0].zero_grad()


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    trainer(tmp_path, "crd", max_steps=2, save_strategy="steps", save_steps=2).train()
    return tmp_path / "checkpoint-2"


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "trainer_state.json", "objective.safetensors"])
def test_a_checkpoint_without_one_of_its_files(name: str, checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(KdzooError, match=rf"checkpoint .*checkpoint-2 cannot be resumed: {name}: ") as error:
        trainer(tmp_path, "crd").train(resume_from_checkpoint=True if name != "trainer_state.json" else str(checkpoint))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (-3, "its global_step is -3, which is no number of steps"),
        (1.5, r"its global_step is 1\.5, which is no number"),
        (None, "its global_step is None, which is no number"),
        (True, "its global_step is True, which is no number"),
        (10**30, "its global_step is 10*, and the folder is that of step 2"),
        (1, "its global_step is 1, and the folder is that of step 2"),
    ],
)
def test_a_checkpoint_with_absurd_steps(steps: Any, words: str, checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"global_step": steps}))
    with pytest.raises(KdzooError, match=f"cannot be resumed: trainer_state.json: {words}"):
        trainer(tmp_path, "crd").train(resume_from_checkpoint=True)


@pytest.mark.parametrize("settings", [{"max_steps": 1}, {"max_steps": -1, "num_train_epochs": 1}])
def test_a_checkpoint_beyond_the_end(settings: dict[str, Any], tmp_path: Path) -> None:
    trainer(tmp_path, "kd", max_steps=2, save_strategy="steps", save_steps=2).train()
    data = rows(4) if "num_train_epochs" in settings else None  # one step an epoch
    with pytest.raises(KdzooError, match=r"ends after 1$"):
        trainer(tmp_path, "kd", data=data, **settings).train(resume_from_checkpoint=True)


def test_a_finished_training_ends_at_once(checkpoint: Path, tmp_path: Path) -> None:
    made = trainer(tmp_path, "crd", max_steps=2)
    made.train(resume_from_checkpoint=str(checkpoint))
    assert made.state.global_step == 2, "transformers' own loop would take one step more"
    kept = load_file(checkpoint / "model.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in made.student.state_dict().items())


def test_weights_alone_are_no_checkpoint(tmp_path: Path) -> None:
    trainer(tmp_path, "kd", max_steps=2, save_strategy="steps", save_steps=2, save_only_model=True).train()
    with pytest.raises(
        KdzooError, match=r"cannot be resumed: optimizer.pt: it is missing, so the training would not go on as it was"
    ):
        trainer(tmp_path, "kd").train(resume_from_checkpoint=True)


# --- the time, and a term's options -----------------------------------------------------------------------------------


def test_a_clock_that_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    made, clock = trainer(tmp_path, "kd", max_steps=6), time.time
    monkeypatch.setattr(time, "time", lambda: clock() - 3600 * (made.state.global_step > 2))
    metrics = made.train().metrics
    assert 0 < metrics["train_runtime"] < 600 and metrics["train_samples_per_second"] > 0
    assert state(made)


def test_a_terms_options_stand_once() -> None:
    from kdzoo.objectives.recipe import TermSpec

    fields = {name: field.default for name, field in TermSpec.model_fields.items() if name != "loss"}
    defaults = {name: Term.__init__.__kwdefaults__[name] for name in OWN_OPTIONS}
    assert fields == defaults
