"""DistillationTrainer: a training that is resumed, and what it saves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_trainer import callback, seeing, state, student, trainer
from tiny_data import collate, rows
from tiny_models import batch

from kdzoo.errors import KdzooError
from kdzoo.objectives.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")


@pytest.mark.parametrize(
    ("recipe", "stop", "settings"),
    [
        ("crd", 6, {}),  # at the end of an epoch; with a bank
        ("lrc", 8, {}),  # in the middle of one; two forward passes a step
        ("tinybert", 7, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}),
        ("kd", 8, {"train_sampling_strategy": "random"}),
    ],
)
def test_resumed_equals_uninterrupted(recipe: str, stop: int, settings: dict[str, Any], tmp_path: Path) -> None:
    straight = trainer(tmp_path / "a", recipe, model=student(dropout=0.1), **settings)
    order = seeing(straight)
    straight.train()

    def halt(args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == stop

    saving = {"save_strategy": "steps", "save_steps": stop, **settings}
    stopping = [callback(on_step_end=halt)]
    first = trainer(tmp_path / "b", recipe, model=student(dropout=0.1), callbacks=stopping, **saving)
    before = seeing(first)
    first.train()
    assert first.state.global_step == stop

    torch.manual_seed(99)
    second = trainer(tmp_path / "b", recipe, model=student(seed=50, dropout=0.1), **saving)
    for parameter in second.model.parameters():
        parameter.data.add_(1.0)  # whatever is right in the end came out of the checkpoint
    after = seeing(second)
    second.train(resume_from_checkpoint=True)
    assert before + after == order
    for name, expected in state(straight).items():
        torch.testing.assert_close(state(second)[name], expected, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("name", ["model.safetensors", "objective.safetensors", "optimizer.pt", "trainer_state.json"])
def test_truncated_checkpoints_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    trainer(tmp_path, "crd", max_steps=2, save_strategy="steps", save_steps=2).train()
    path = tmp_path / "checkpoint-2" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(KdzooError, match=rf"checkpoint .*checkpoint-2 cannot be resumed: {name}") as error:
        trainer(tmp_path, "crd").train(resume_from_checkpoint=True)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, "crd", max_steps=2, save_strategy="steps", save_steps=2).train()
    with pytest.raises(KdzooError, match=r"cannot be resumed: objective.safetensors") as error:
        trainer(tmp_path, "tinybert").train(resume_from_checkpoint=True)
    assert "\n" not in str(error.value)


def test_the_best_checkpoint_is_loaded_in_the_end(tmp_path: Path) -> None:
    worst_is_last = iter([1.0, 2.0, 3.0])
    made = trainer(
        tmp_path, "crd", max_steps=3, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1,
        load_best_model_at_end=True, metric_for_best_model="made_up", greater_is_better=False,
        also={"eval_dataset": rows(8, seed=1), "compute_metrics": lambda _: {"made_up": next(worst_is_last)}},
    )  # fmt: skip
    made.train()
    from safetensors.torch import load_file

    kept = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in made.student.state_dict().items())
    made.save_model(str(tmp_path / "model"))
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "3 training steps; the weights are those of step 1." in card
    assert "| eval_made_up | 1.0000 |" in card and "| epoch |" not in card, "the score of these weights"


def test_a_card_says_how_the_student_was_trained_and_which_weights_it_has(tmp_path: Path) -> None:
    """Not what the recipe was published with."""
    recipe = Recipe.load("tinybert")
    assert recipe.training.learning_rate == 5e-5 and recipe.student is not None
    made = trainer(tmp_path, recipe=recipe, max_steps=3, weight_decay=0.0, gradient_accumulation_steps=2, seed=1234567)
    made.train()
    made.kept = {"step": 2, "score": 80.0, "evaluations": 3, "held_out_rows": 20}
    made.save_model(str(tmp_path))
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "3 training steps; the weights are those of step 2, the best of 3 on 20 held-out training rows. It" in card
    for told in ("learning rate | 0.005", "epochs | 1", "batch size | 4", "gradient accumulation | 2", "seed | 1234567",
                 "schedule | linear where a stage has none of its own", "warm-up steps | 0", "weight decay | 0",
                 "precision | fp32"):  # fmt: skip
        assert f"| {told} |" in card
    method = yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])
    assert method["name"] == "tinybert" and len(method["stages"]) == len(recipe.stages)
    assert not {"training", "student", "general", "tunable"} & {*method}
    assert not any(name.startswith(("training", "student")) for source in method["sources"] for name in source["of"])


OUTSIDER = """
import json, sys

class NoKdzoo:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "kdzoo":
            raise ImportError("kdzoo is not installed here")

sys.meta_path.insert(0, NoKdzoo())
try:
    import kdzoo
except ImportError:
    pass
else:
    sys.exit("kdzoo was imported after all")
import torch
from transformers import AutoModelForSequenceClassification

model, notes = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], output_loading_info=True)
batch = {name: torch.tensor(value) for name, value in json.load(open(sys.argv[2])).items()}
with torch.no_grad():
    logits = model.eval()(**batch).logits.tolist()
print(json.dumps([logits, sorted(notes["missing_keys"]), sorted(notes["unexpected_keys"])]))
"""


def test_saved_students_need_no_kdzoo(tmp_path: Path) -> None:
    made = trainer(tmp_path / "run", "crd", max_steps=2)
    made.train()
    made.log({"eval_accuracy": 0.75})
    made.save_model(str(tmp_path / "model"))
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert files == {"config.json", "model.safetensors", "README.md"}, "no objective, and nothing pickled"
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "distilled with crd" in card and "Contrastive Representation Distillation" in card
    assert "| eval_accuracy | 0.7500 |" in card
    inputs = batch()
    (tmp_path / "batch.json").write_text(json.dumps({name: value.tolist() for name, value in inputs.items()}))
    ran = subprocess.run(
        [sys.executable, "-c", OUTSIDER, str(tmp_path / "model"), str(tmp_path / "batch.json")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    logits, missing, unexpected = json.loads(ran.stdout.splitlines()[-1])
    assert missing == unexpected == []
    with torch.no_grad():
        expected = made.student.eval()(**inputs).logits
    torch.testing.assert_close(torch.tensor(logits), expected, rtol=1e-5, atol=1e-6)


def test_predictions_are_the_students(tmp_path: Path) -> None:
    made = trainer(tmp_path, "lrc", max_steps=1)
    data = rows(10, seed=3)
    made.train()
    output = made.predict(data)
    with torch.no_grad():
        alone = [made.student.eval()(**{k: v for k, v in collate([row]).items() if k != "sample_ids"}) for row in data]
    np.testing.assert_allclose(output.predictions, torch.cat([o.logits for o in alone]), rtol=1e-4, atol=1e-5)
    assert output.metrics["test_loss"] == pytest.approx(sum(o.loss.item() for o in alone) / 10, rel=1e-4)
    assert output.label_ids.tolist() == data["labels"]
