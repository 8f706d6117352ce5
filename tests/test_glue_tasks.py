"""The GLUE tasks: labels, tokenisation, collation, predictions and the headline number."""

from __future__ import annotations

import numpy as np
import pytest

from kdzoo.errors import KdzooError
from kdzoo.tasks import TASKS, get_task, load
from kdzoo.tasks.synthetic.tokenizer import synthetic_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return synthetic_tokenizer()


@pytest.mark.parametrize("name", TASKS)
def test_rows_become_model_inputs_labels_ids_and_length(name, tokenizer):
    task = TASKS[name]
    data = load(task, "synthetic", train_rows=12, validation_rows=3)["train"]
    rows = task.encode(data, tokenizer, 20)
    assert set(rows.column_names) == {*tokenizer.model_input_names, "labels", "sample_ids", "length"}
    assert rows["sample_ids"][:] == list(range(12))
    assert rows["labels"][:] == data["label"][:]
    assert max(rows["length"][:]) <= 20
    for row, source in zip(rows, data, strict=True):
        assert row["length"] == len(row["input_ids"])
        assert row["input_ids"].count(tokenizer.sep_token_id) == len(task.columns)
        assert row["token_type_ids"][-1] == len(task.columns) - 1
        if row["length"] < 20:
            text = " ".join(source[column].lower() for column in task.columns)
            assert tokenizer.decode(row["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("name", ["sst2", "stsb"])
def test_a_batch_is_padded_to_its_own_longest_row(name, tokenizer):
    task = TASKS[name]
    rows = task.encode(load(task, "synthetic", train_rows=40, validation_rows=2)["train"], tokenizer, 64)
    collate = task.collator(tokenizer)
    short = min(rows["length"][:])
    for chosen in ([3, 30, 11], [i for i, length in enumerate(rows["length"]) if length == short]):
        batch = collate([rows[i] for i in chosen])
        assert set(batch) == {*tokenizer.model_input_names, "labels", "sample_ids"}
        assert batch["input_ids"].shape == (len(chosen), max(rows[i]["length"] for i in chosen))
        assert batch["sample_ids"].tolist() == chosen
        assert batch["labels"].tolist() == pytest.approx([rows[i]["labels"] for i in chosen])
        assert batch["labels"].is_floating_point() == task.regression
        assert batch["attention_mask"].sum(1).tolist() == [rows[i]["length"] for i in chosen]


def test_labels_are_taken_as_ids_scores_or_names():
    rte, stsb = get_task("rte"), get_task("stsb")
    assert [rte.parse_label(value) for value in (0, "1", 1.0, "entailment", "not_entailment")] == [0, 1, 1, 0, 1]
    assert [stsb.parse_label(value) for value in (0, "2.5", 5.0)] == [0.0, 2.5, 5.0]


@pytest.mark.parametrize("value", [-1, 2, 0.5, "maybe"])
def test_a_label_outside_the_range_names_the_valid_ones(value):
    with pytest.raises(KdzooError, match=r"0 \(entailment\), 1 \(not_entailment\)"):
        get_task("rte").parse_label(value)


@pytest.mark.parametrize("value", [None, "", "  ", float("nan")])
@pytest.mark.parametrize("name", ["rte", "stsb"])
def test_a_row_without_a_label_is_refused(name, value):
    with pytest.raises(KdzooError, match=f"the row has no label, which {name} needs"):
        get_task(name).parse_label(value)


@pytest.mark.parametrize("value", [-0.1, 5.1, "high", "nan"])
def test_a_score_outside_the_range_is_refused(value):
    with pytest.raises(KdzooError, match="from 0 to 5"):
        get_task("stsb").parse_label(value)


def test_predictions():
    logits = np.array([[0.1, 0.9, 0.2], [3.0, -1.0, 2.0]])
    assert get_task("mnli").predictions(logits).tolist() == [1, 0]
    assert get_task("stsb").predictions(logits[:, :1]).tolist() == [0.1, 3.0]
    with pytest.raises(KdzooError, match=r"\(N, 2\), got \(2, 3\)"):
        get_task("rte").predictions(logits)


def test_score_is_glues_number():
    assert get_task("cola").score({"matthews_correlation": 0.4}) == pytest.approx(40)
    assert get_task("mrpc").score({"f1": 0.9, "accuracy": 0.8, "loss": 3.0}) == pytest.approx(85)
    assert get_task("stsb").score({"pearson": 0.5, "spearmanr": 0.7}) == pytest.approx(60)
    assert get_task("sst2").score({"accuracy": 0.75}) == pytest.approx(75)
    mnli = get_task("mnli")
    both = mnli.flatten({"validation_matched": {"accuracy": 0.8}, "validation_mismatched": {"accuracy": 0.7}})
    assert both == {"matched_accuracy": 0.8, "mismatched_accuracy": 0.7}
    assert mnli.score(both) == pytest.approx(75)
    assert mnli.score({"matched_accuracy": 0.8}) == mnli.score({"accuracy": 0.8}) == pytest.approx(80)
    assert get_task("rte").flatten({"validation": {"accuracy": 0.6}}) == {"accuracy": 0.6}
    with pytest.raises(KdzooError, match="scored by f1, got accuracy"):
        get_task("qqp").score({"accuracy": 1.0})


@pytest.mark.parametrize("name", TASKS)
def test_perfect_logits_score_100(name):
    task = TASKS[name]
    labels = np.arange(30) % max(task.num_labels, 2)
    logits = labels[:, None].astype(float) if task.regression else np.eye(task.num_labels)[labels]
    assert task.score(task.evaluate(task.predictions(logits), labels)) == pytest.approx(100)


@pytest.mark.parametrize("name", TASKS)
def test_head_fits_a_transformers_config(name):
    from transformers import BertConfig

    config = BertConfig(**TASKS[name].head().config)
    assert config.num_labels == TASKS[name].num_labels
    assert TASKS[name].regression or tuple(config.id2label.values()) == TASKS[name].labels


def test_unknown_task_offers_the_nearest():
    with pytest.raises(KdzooError, match="unknown task 'mrcp'; did you mean 'mrpc'"):
        get_task("mrcp")
