"""What else decides what a model writes, and how fast: its cache, its own rules, where it ends; all kinds train."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Commands
from generation_models import family, made
from transformers import (
    AutoModelForSeq2SeqLM,
    MBartConfig,
    MBartForConditionalGeneration,
    TrainingArguments,
)

import kdzoo
from kdzoo.errors import KdzooError
from kdzoo.models.decoders import check_decoder
from kdzoo.models.spec import ModelSpec
from kdzoo.objectives.recipe import Targets
from kdzoo.tasks.decoding import Decoding
from kdzoo.training import decoded

FAMILIES = ("Bart", "T5", "Marian", "EncoderDecoder")


def trained(name: str, folder: Path, objective: str = "kd + ce") -> tuple[Any, Any]:
    """A student of a teacher's layers after two steps, and its trainer."""
    task, _, encoded, tokenizer = made(8)
    teacher = family(name, len(tokenizer))
    student = ModelSpec.parse("teacher:0,2/1").student_of(teacher)
    arguments = TrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=4, report_to="none", use_cpu=True, disable_tqdm=True
    )
    trainer = kdzoo.DistillationTrainer(
        student, teacher, objective=objective, args=arguments, train_dataset=encoded,
        data_collator=task.collator(tokenizer), processing_class=tokenizer,
    )  # fmt: skip
    before = [parameter.detach().clone() for parameter in student.parameters()]
    trainer.train()
    assert any(not torch.equal(old, new) for old, new in zip(before, student.parameters(), strict=True))
    return student, trainer


@pytest.mark.parametrize("name", FAMILIES)
def test_each_kind_of_encoder_decoder_trains_and_is_saved_as_it_was_made(name: str, tmp_path: Path) -> None:
    student, trainer = trained(name, tmp_path / "work")
    assert getattr(student.config, "use_cache", True), "the Trainer switches off what decoding takes from word to word"
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "saved")
    assert getattr(loaded.config, "use_cache", True) and loaded.generation_config.use_cache
    for one, other in zip(student.parameters(), loaded.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_decoding_takes_what_was_kept_of_the_words_before(monkeypatch: pytest.MonkeyPatch) -> None:
    task, _, encoded, tokenizer = made(4)
    teacher = family("Bart", len(tokenizer))
    batch = task.collator(tokenizer)([encoded[row] for row in range(4)])
    lengths: list[int] = []
    forward = type(teacher).forward

    def watched(self: Any, *given: Any, **told: Any) -> Any:
        lengths.append(told["decoder_input_ids"].shape[1])
        return forward(self, *given, **told)

    monkeypatch.setattr(type(teacher), "forward", watched)
    written = {}
    for use_cache in (True, False):
        teacher.config.use_cache = teacher.generation_config.use_cache = use_cache
        lengths.clear()
        written[use_cache] = Decoding(beam=2, max_target=12).generate(teacher, batch)
        assert max(lengths) == 1, "one word a pass"
    assert torch.equal(written[True], written[False])


def test_the_least_length_is_the_one_that_is_told_and_a_students_own_rules_are_its_teachers() -> None:
    task, _, encoded, tokenizer = made(4)
    teacher = family("Bart", len(tokenizer))
    batch = task.collator(tokenizer)([encoded[row] for row in range(4)])
    with torch.no_grad():
        teacher.final_logits_bias[0, 3] = 1e4  # its end is ahead of all words
    short = Decoding(beam=1, max_target=30).generate(teacher, batch).shape[1]
    teacher.generation_config.min_length = 20
    assert Decoding(beam=1, max_target=30).generate(teacher, batch).shape[1] == short < 10
    assert Decoding(beam=1, max_target=30, min_length=12).generate(teacher, batch).shape[1] > 12
    teacher.generation_config.min_new_tokens = 20  # which goes before the other
    assert Decoding(beam=1, max_target=30).generate(teacher, batch).shape[1] == short
    assert Decoding(beam=2, max_target=30, min_length=12).generate(teacher, batch).shape[1] > 12
    teacher.generation_config.repetition_penalty = 1.5
    student = ModelSpec.parse("teacher:0,2/1").student_of(teacher)
    assert student.generation_config.repetition_penalty == 1.5
    assert student.generation_config is not teacher.generation_config


@pytest.mark.parametrize("name", FAMILIES)
def test_a_text_begins_with_the_token_that_training_begins_with(name: str) -> None:
    """As a model's own rules of writing may not: EncoderDecoderModel's have none where its configuration was told."""
    task, _, encoded, tokenizer = made(3)
    teacher = family(name, len(tokenizer))
    batch = task.collator(tokenizer)([encoded[row] for row in range(3)])
    given = teacher.prepare_decoder_input_ids_from_labels(batch["labels"])[:, 0]
    for own in ({}, {"bos_token_id": 9}, {"decoder_start_token_id": 11}):
        teacher.generation_config.decoder_start_token_id = None
        teacher.generation_config.update(**own, return_dict_in_generate=True)
        for beam in (1, 2):
            written = Decoding(beam=beam, max_target=5).generate(teacher, batch)
            assert torch.equal(written[:, 0], given), own


def test_behind_the_end_of_a_text_is_none_of_its_words() -> None:
    """Where a model's token for padding is a word of the tokenizer's; a text may begin with what ends one."""
    task, _, _, tokenizer = made(4)
    word, other = tokenizer("dog house")["input_ids"][1:3]
    model = family("Bart", len(tokenizer))
    ids = torch.tensor([[3, other, 3, word, word], [3, other, other, 21, word], [3, word, other, word, 3]])
    model.generate = lambda **told: ids.clone()
    for ends, kept in ((3, [3, 5, 5]), ([3, 21], [3, 4, 5]), (None, [5, 5, 5])):
        model.generation_config.eos_token_id = ends
        written = Decoding(beam=2, max_target=4).generate(model, {"input_ids": ids})
        texts = [row[:count].tolist() for row, count in zip(ids, kept, strict=True)]
        assert [row[row != -100].tolist() for row in written] == texts
        plain = [tokenizer.decode(text, skip_special_tokens=True).strip() for text in texts]
        assert task.decoded(written.numpy(), tokenizer) == plain


def test_a_model_that_takes_another_token_for_the_end_is_refused(tmp_path: Path, commands: Commands) -> None:
    *_, tokenizer = made(2)
    for name in FAMILIES:
        teacher = family(name, len(tokenizer))
        check_decoder(teacher, "it", 40, tokenizer)
        for told in ([7, 3], 3):
            teacher.generation_config.eos_token_id = told
            check_decoder(teacher, "it", 40, tokenizer)
        for told in (None, 7, [7, 8]):
            teacher.generation_config.eos_token_id = told
            with pytest.raises(KdzooError, match=r"it \(.*\) has eos_token_id=.*targets with 3.*set eos_token_id to 3"):
                check_decoder(teacher, "it", 40, tokenizer)
    # The rules of writing are read where no weights are, before anything is trained.
    teacher.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = ("--train-rows", "8", "--validation-rows", "4", "--max-length", "64", "--out", tmp_path / "out")
    commands.fails(
        "compare", "--tasks", "transduction", "--methods", "none", "--teacher", tmp_path / "model", *rows,
        says=("eos_token_id=[7, 8]", "generation_config.json"),
    )  # fmt: skip
    assert not [*tmp_path.glob("out/teachers/*")]


@pytest.mark.parametrize("name", ["decoder_start_token_id", "pad_token_id"])
def test_a_token_that_the_vocabulary_has_not_is_refused(name: str) -> None:
    """Where Marian's configuration says none, it is 58100."""
    teacher = family("Marian", 300)
    for wrong in (300, -1, 58100):
        setattr(teacher.config, name, wrong)
        with pytest.raises(KdzooError, match=f"{name}={wrong!r}, and its decoder's vocabulary has 300 tokens"):
            check_decoder(teacher, "it", 40)


def test_a_model_that_is_trained_from_another_token_than_it_writes_from_is_refused() -> None:
    """As mBART's is the last of a target, whatever its configuration says."""
    *_, tokenizer = made(2)
    config = MBartConfig(**{**family("Bart", len(tokenizer)).config.to_dict(), "decoder_start_token_id": 3})
    check_decoder(MBartForConditionalGeneration(config), "it", 40, tokenizer)
    config.decoder_start_token_id = 9
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = MBartForConditionalGeneration(config)
            with pytest.raises(KdzooError, match=r"trained from 3, the last .* decoder_start_token_id=9; set it to 3"):
                check_decoder(model, "it", 40, tokenizer)


def test_a_model_that_writes_another_first_token_than_it_learns_to_is_refused_and_one_of_no_language_told_of() -> None:
    """NLLB's and mBART-50's targets begin with the token of their language, which ``generate`` is told to write."""
    import copy

    from tokenizers import processors

    *_, plain = made(2)
    tokenizer, language = copy.deepcopy(plain), "[DEU]"
    tokenizer.add_special_tokens({"additional_special_tokens": [language]})
    number = tokenizer.convert_tokens_to_ids(language)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{language} $A [SEP]", special_tokens=[(language, number), ("[SEP]", 3)]
    )
    teacher = family("Bart", len(tokenizer))
    with pytest.warns(
        kdzoo.KdzooWarning, match=rf"it \(.*\) is not told in which language.*set forced.* to {number} in"
    ):
        check_decoder(teacher, "it", 40, tokenizer)
    teacher.generation_config.forced_bos_token_id = number
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_decoder(teacher, "it", 40, tokenizer)
        teacher.generation_config.forced_bos_token_id = plain("a")["input_ids"][0]
        check_decoder(teacher, "it", 40, plain)
    with pytest.raises(
        KdzooError, match=rf"writes forced_bos_token_id=2 first, and .* targets begin with {number}, '.DEU"
    ):
        check_decoder(teacher, "it", 40, tokenizer)


@pytest.mark.parametrize("forced", [None, 3])
def test_what_was_cut_before_its_end_is_no_target(forced: int | None, tmp_path: Path) -> None:
    """A model that never ends, whose last word is made an end where its configuration says so."""
    task, rows, _, tokenizer = made(3)
    task = replace(task, decoding=Decoding(beam=1, max_target=40))
    teacher = family("Bart", len(tokenizer))
    teacher.generation_config.forced_eos_token_id = forced
    with torch.no_grad():
        teacher.final_logits_bias[0, 3] = -1e4
    found = decoded.decoded_rows(rows, task, teacher, tokenizer, Targets(beam=1), max_length=64, folder=tmp_path)
    assert "3 of 3 rows keep their reference" in found.said
    assert found.rows["target"][:] == rows["target"][:]


def test_an_end_is_one_that_the_model_chose() -> None:
    class Told:
        eos_token_id, forced_eos_token_id = [3, 5], None

    class Model:
        generation_config = Told()

    ids = np.array([[3, 7, 3, 0, 0], [3, 7, 7, 7, 5], [3, 7, 7, 7, 7]])
    assert decoded.came_to_an_end(ids, Model(), 4).tolist() == [True, True, False]
    Told.forced_eos_token_id = 5
    assert decoded.came_to_an_end(ids, Model(), 4).tolist() == [True, False, False]
    Told.eos_token_id = None
    assert decoded.came_to_an_end(ids, Model(), 4).all()


def test_texts_are_kept_by_the_configuration_and_by_the_decoding_as_it_is(tmp_path: Path) -> None:
    """The same weights make other texts with another activation, and penalties differ by less than is shown."""
    task, rows, _, tokenizer = made(2)
    teacher = family("Bart", len(tokenizer))

    def files(penalty: float = 1.0) -> int:
        own = replace(task, decoding=Decoding(beam=2, length_penalty=penalty, max_target=64))
        decoded.decoded_rows(rows, own, teacher, tokenizer, Targets(beam=2), max_length=64, folder=tmp_path)
        return len([*tmp_path.glob("*.jsonl")])

    assert files() == files() == 1
    assert files(1.0 + 1e-9) == 2
    teacher.config.use_cache = not teacher.config.use_cache
    assert files() == 2, "how fast it writes changes no text"
    teacher.config.activation_function = "relu"
    assert files() == files() == 3
    teacher.generation_config.forced_bos_token_id = 9
    assert files() == 4


def test_a_beam_without_bounds_is_refused() -> None:
    with pytest.raises(KdzooError, match="beam is 100000; 1024 hypotheses at most"):
        Decoding.parse("beam=100000")
    with pytest.raises(KdzooError, match=r"beam='1\.5' is not a whole number"):
        Decoding.parse("beam=1.5")
