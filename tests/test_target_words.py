"""Encoder-decoders whose encoder reads a pretrained model: they write words learned from the rows, as plain ones do."""

from __future__ import annotations

import copy
import json
import random
import secrets
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from command_line import Commands, records
from datasets import DatasetDict
from generation_models import inputs
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import kdzoo
from kdzoo.bench.contents import contents_of
from kdzoo.bench.runs.encoders import encoder_for
from kdzoo.errors import KdzooError
from kdzoo.models.activations import Needs, capture
from kdzoo.models.loading import load_tokenizer
from kdzoo.models.spec import ModelSpec
from kdzoo.models.teachers import check_length
from kdzoo.models.tokenizers import tokenizer_of
from kdzoo.objectives.checks import check_separate_tokens
from kdzoo.tasks.decoding import Decoding
from kdzoo.tasks.encoding import Encoder
from kdzoo.tasks.own import from_data
from kdzoo.tasks.source_target import FILE, FOLDER, SourceTargetTokenizer, vocabularies
from kdzoo.training.cache import TeacherCache

ENGLISH = ["the", "old", "dog", "saw", "a", "red", "house", "near", "king", "books"]
GERMAN = ["Der", "alte", "Hund", "sah", "ein", "rotes", "Häuschen", "nahe", "König", "Bücher"]
OWN = ("--kind", "seq2seq", "--text", "en", "--label", "de", "--decoding", "beam=2,max_target=48")
SHORT = ("--epochs", "1", "--max-length", "32", "--batch-size", "8")


class Made(NamedTuple):
    """A task of a table, its training rows, and the folder of a pretrained encoder of lower-case English words."""

    task: Any
    rows: Any
    file: Path
    bert: Path

    def encoder(self, teacher: str, student: str | None = None) -> Encoder:
        """What encodes the rows for two models."""
        models = ModelSpec.parse(teacher), None if student is None else ModelSpec.parse(student)
        data = {self.task.name: DatasetDict(train=self.rows)}
        return encoder_for(*models, [self.task], data, str(self.file), 32, self.file.parent, 1)


def pretrained(folder: Path, *more: str) -> Path:
    """A tiny BERT whose padding is another token than that of a learned vocabulary."""
    vocabulary = {word: at for at, word in enumerate(["[UNK]", "[CLS]", "[SEP]", "[PAD]", *ENGLISH, *more])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    named = {name: f"[{name[:3].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token")}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **named).save_pretrained(folder)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.BertConfig(vocab_size=len(vocabulary), pad_token_id=3, max_position_embeddings=128, **sizes)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def made(tmp_path: Path) -> Made:
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    seed = secrets.randbits(32)
    print("seed", seed)
    rng = random.Random(seed)
    drawn = [rng.choices(range(10), k=rng.randint(2, 6)) for _ in range(30)]
    lines = ["\t".join(" ".join(of[at] for at in row) + "." for of in (ENGLISH, GERMAN)) for row in drawn]
    file = tmp_path / "mine.tsv"
    file.write_text("\n".join(["en\tde", *lines]) + "\n", encoding="utf-8")
    own: Any = from_data(file, kind="seq2seq", text="en", label="de", decoding="beam=2,max_target=48")
    return Made(own.task, own.task.rows()["train"], file, pretrained(tmp_path / "bert"))


@pytest.mark.parametrize("arm", ["frozen", "tuned"])
def test_a_pretrained_encoder_is_read(arm: str, made: Made, tmp_path: Path) -> None:
    task = made.task
    own = transformers.BertModel.from_pretrained(made.bert).eval()
    encoder = made.encoder(f"2x16,heads=2,decoder=1,{arm}={made.bert}")
    spec = ModelSpec.parse(f"2x16,heads=2,decoder=1,{arm}={made.bert}")
    built = spec.build(task, tokenizer=encoder.teacher, positions=64).train()
    rows = encoder.for_teacher(task, made.rows)
    batch = encoder.teacher_collator(task)([rows[at] for at in range(3)])
    taken = inputs(batch, built)
    stack = built.get_encoder()
    assert stack.source.training == (arm == "tuned")
    built(**taken).logits.square().mean().backward()
    touched = {name for name, parameter in built.named_parameters() if parameter.grad is not None}
    assert any(name.startswith("model.encoder.source") for name in touched) == (arm == "tuned")
    assert "model.encoder.project.weight" in touched

    # Beside the pretrained weights it has what a plain model of its size has, but for the encoder's positions.
    plain = ModelSpec.parse("2x16,heads=2,decoder=1").build(task, tokenizer=encoder.teacher.target, positions=64)
    count = lambda of: sum(parameter.numel() for parameter in of.parameters())  # noqa: E731
    added = count(own) + 16 * 24 + (4 if arm == "frozen" else 0)
    assert count(built) == count(plain) - count(plain.get_encoder().embed_positions) + added
    words = built.get_decoder().embed_tokens.weight
    assert words is built.lm_head.weight is stack.embed_tokens.weight and len(words) == len(encoder.teacher.target)

    built.eval()
    with torch.no_grad():
        stack.project.weight.mul_(2)
        states = own(taken["input_ids"], taken["attention_mask"], output_hidden_states=True).hidden_states
        if arm == "frozen":
            assert {"model.encoder.mix.weight", "model.encoder.mix.gamma"} <= touched
            stack.mix.weight.copy_(torch.tensor([0.3, -1.0, 0.7]))
            stack.mix.gamma.fill_(1.7)
            shares = torch.tensor([0.3, -1.0, 0.7]).softmax(0)
            normed = (torch.nn.functional.layer_norm(state, (24,)) for state in states)
            read = 1.7 * sum(share * state for share, state in zip(shares, normed, strict=True))
        else:
            read = states[-1]
        needs = Needs(hidden=frozenset({0}), qkv=frozenset({1}))
        with capture(built, needs) as recorder:
            found = recorder.activations(built(**taken), mask=taken["attention_mask"])
        wanted = stack.layernorm_embedding(read @ stack.project.weight.T)
        torch.testing.assert_close(found.hidden[0], wanted, atol=1e-5, rtol=1e-4)
        assert found.qkv[1].query.shape[-1] == 8, "the layers asked for are those around the pretrained ones"
        built.save_pretrained(tmp_path / "model")
        encoder.teacher.save_pretrained(tmp_path / "model")
        saved = ModelSpec.parse(str(tmp_path / "model"))
        again = saved.build(task).eval()
        torch.testing.assert_close(again(**taken).logits, built(**taken).logits)
        assert task.encode(made.rows, saved.tokenizer, 32)[:] == rows[:]
        part = ModelSpec.parse("teacher:0,1/0").build(task, teacher=built).eval()
        torch.testing.assert_close(part(**taken).logits, built(**taken).logits)
    fresh = ModelSpec.parse("1x8,heads=2").build(task, teacher=built)
    assert type(fresh).__name__ == "BartForConditionalGeneration" and fresh.config.vocab_size == len(words)
    with pytest.raises(KdzooError, match="one pretrained model for the encoder"):
        ModelSpec.parse("1x8,frozen=a,tuned=b")


def test_places_that_roberta_leaves_unused_are_no_positions(made: Made, tmp_path: Path) -> None:
    words = load_tokenizer(made.bert)
    words.save_pretrained(tmp_path / "roberta")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    # The first place of a text is behind that of padding, here the fifth of the table.
    config = transformers.RobertaConfig(vocab_size=len(words), pad_token_id=3, max_position_embeddings=40, **sizes)
    transformers.RobertaModel(config).save_pretrained(tmp_path / "roberta")
    asked = f"1x24,heads=2,frozen={tmp_path / 'roberta'}"
    tokenizer = made.encoder(asked).teacher
    model = ModelSpec.parse(asked).build(made.task, tokenizer=tokenizer, positions=40).eval()
    with pytest.raises(KdzooError, match="max_length is 37; the model takes at most 36 tokens"):
        check_length(37, tokenizer, model)
    check_length(36, tokenizer, model)
    row = {"input_ids": [[1, *[5] * 34, 2]], "attention_mask": [[1] * 36], "decoder_input_ids": [[2]]}
    with torch.no_grad():
        assert model(**{name: torch.tensor(value) for name, value in row.items()}).logits.isfinite().all()


def test_sources_are_the_pretrained_model_s_words_and_targets_the_learned_ones(made: Made) -> None:
    plain, both = made.encoder("1x16,heads=2"), made.encoder(f"1x16,heads=2,frozen={made.bert}")
    [file] = made.file.parent.glob("tokenizer/*/tokenizer.json")  # one vocabulary is learned for both
    learned, read = Tokenizer.from_file(str(file)), Tokenizer.from_file(str(made.bert / "tokenizer.json"))
    rows = both.for_teacher(made.task, made.rows)
    for row, raw in zip(rows, made.rows, strict=True):
        assert row["labels"] == learned.encode(raw["target"][0]).ids
        assert row["input_ids"] == read.encode(raw["source"]).ids
    assert rows["labels"][:] == plain.for_teacher(made.task, made.rows)["labels"][:]
    texts = [of[0] for of in made.rows["target"]]
    assert made.task.decoded([[*ids, -100] for ids in rows["labels"][:1]], both.teacher) == texts[:1]
    order = sorted(range(len(rows)), key=lambda at: len(rows[at]["input_ids"]))
    batch = both.teacher_collator(made.task)([rows[order[0]], rows[order[-1]]])
    assert batch["input_ids"][0, -1] == 3 and batch["attention_mask"][0, -1] == 0, "the sources' padding"
    assert vocabularies(both.teacher) == [*vocabularies(both.teacher.source), *vocabularies(plain.teacher)]


def test_what_is_written_is_read_back(made: Made) -> None:
    torch.manual_seed(0)
    spec, encoder = (of(f"1x32,heads=2,frozen={made.bert}") for of in (ModelSpec.parse, made.encoder))
    model = spec.build(made.task, tokenizer=encoder.teacher, positions=64)
    rows = encoder.for_teacher(made.task, made.rows.select(range(3)))
    batch = encoder.teacher_collator(made.task)([*rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.99))
    for _ in range(200):
        optimizer.zero_grad()
        loss = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss
        loss.backward()
        optimizer.step()
        if loss < 0.01:
            break
    with torch.no_grad():
        written = Decoding(beam=1, max_target=48).generate(model.eval(), batch)
    texts = made.task.decoded(written.numpy(), encoder.teacher)
    assert texts == [of[0] for of in made.rows["target"][:3]]


def test_students_of_the_same_words_write_by_their_teachers_rules(made: Made) -> None:
    plain = ModelSpec.parse("1x16,heads=2").build(
        made.task, tokenizer=made.encoder("1x16,heads=2").teacher, positions=64
    )
    plain.generation_config.repetition_penalty = 1.5
    for student in ("1x8,heads=2", "teacher:0", f"1x8,heads=2,frozen={made.bert}"):
        built = ModelSpec.parse(student).build(made.task, teacher=plain)
        assert built.generation_config.repetition_penalty == 1.5, student
        back = ModelSpec.parse("1x8,heads=2").build(made.task, teacher=built)
        assert back.generation_config.repetition_penalty == 1.5, student


def test_students_share_what_they_can(made: Made, tmp_path: Path) -> None:
    other = pretrained(tmp_path / "other", "more")
    teacher = f"2x16,heads=2,frozen={made.bert}"

    def checked(student: str, method: str, above: str = teacher) -> Encoder:
        encoder = made.encoder(above, student)
        model = ModelSpec.parse(above).build_on_meta(made.task, tokenizer=encoder.teacher, positions=64)
        with torch.device("meta"):
            below = ModelSpec.parse(student).build(made.task, teacher=model)
        assert below.config.vocab_size == len(encoder.student) and below.config.pad_token_id == 0
        if encoder.separate:
            recipe = kdzoo.Recipe.load(method).objective() if method.isidentifier() else kdzoo.Objective(method)
            check_separate_tokens(recipe, below, same_targets=encoder.same_targets)
        return encoder

    for same in (f"1x16,heads=2,tuned={made.bert}", "teacher:0/1"):
        encoder = checked(same, "tinybert")
        assert encoder.student is encoder.teacher and not encoder.separate
    for method in ("word_kd", "seq_kd", "hidden_mse@decoder + attention_kl@decoder_qkv + cosine@cls"):
        for apart in ("1x16,heads=2", f"1x16,heads=2,frozen={other}"):
            encoder = checked(apart, method)
            assert encoder.separate and encoder.same_targets
        assert checked(f"1x16,heads=2,frozen={other}", method, above="2x16,heads=2").same_targets
    for method in ("tinybert", "minilmv2", "attention_kl@cross_qkv"):
        with pytest.raises(KdzooError, match="the teacher has a tokenizer of its own"):
            checked("1x16,heads=2", method)


def test_models_of_other_sources_are_compared_on_the_same_words(made: Made, tmp_path: Path) -> None:
    torch.manual_seed(secrets.randbits(32))
    above, below = f"1x16,heads=2,frozen={made.bert}", "1x16,heads=2"
    encoder = made.encoder(above, below)
    teacher = ModelSpec.parse(above).build(made.task, tokenizer=encoder.teacher, positions=64).eval()
    student = ModelSpec.parse(below).build(made.task, teacher=teacher, seed=1)
    seen: list[dict[str, Any]] = []
    found = []
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=1,
        per_device_train_batch_size=8,
        use_cpu=True,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
    )

    def trainer(collate: Any, cache: Any = None) -> Any:
        return kdzoo.DistillationTrainer(
            model=copy.deepcopy(student),
            teacher=teacher,
            objective=kdzoo.Objective("kd(temperature=2.0) + hidden_mse@decoder"),
            cache=cache,
            args=arguments,
            train_dataset=encoder.for_students(made.task, made.rows),
            data_collator=collate,
            processing_class=encoder.student,
        )

    collate = encoder.collator(made.task)
    with pytest.raises(KdzooError, match="their vocabularies differ"):
        trainer(lambda rows: collate(rows))  # which does not say that targets are the same
    for cache in (None, TeacherCache(tmp_path / "cache")):
        of = trainer(collate, cache)
        compute = of.compute_loss
        of.compute_loss = lambda model, batch, *rest, compute=compute, **more: (
            seen.append(dict(batch)) or compute(model, batch, *rest, **more)
        )
        of.train()
        assert (of.teacher_rows is not None) == (cache is not None)
        found.append([of.state.log_history[0][f"loss/{name}"] for name in ("kd", "hidden_mse")])
    batch = seen[0]
    counted = batch["labels"] != -100
    words = torch.cat([torch.full((8, 1), 3), batch["labels"].clamp_min(0)[:, :-1]], 1)  # after the end of another text
    names = ("input_ids", "attention_mask")
    with torch.no_grad():
        own, other = (
            model.double().eval()(
                **{name: batch[before + name] for name in names}, decoder_input_ids=words, output_hidden_states=True
            )
            for before, model in (("", student), ("teacher_", teacher))
        )
    p, q = (of.logits.div(2).log_softmax(-1)[counted] for of in (other, own))
    states = (of.decoder_hidden_states[-1][counted] for of in (own, other))
    expected = [float(4 * (p.exp() * (p - q)).sum(-1).mean()), float(torch.nn.functional.mse_loss(*states))]
    for values in found:
        assert values == pytest.approx(expected, rel=1e-4)


def test_a_saved_one_is_loaded_whole_or_refused(made: Made, tmp_path: Path) -> None:
    encoder = made.encoder(f"1x16,heads=2,frozen={made.bert}")
    spec, folder = ModelSpec.parse(f"1x16,heads=2,frozen={made.bert}"), tmp_path / "model"
    spec.build(made.task, tokenizer=encoder.teacher, positions=64).save_pretrained(folder)
    encoder.teacher.save_pretrained(folder)
    loaded = load_tokenizer(folder)
    assert isinstance(loaded, SourceTargetTokenizer) and vocabularies(loaded) == vocabularies(encoder.teacher)

    def refused(message: str) -> None:
        with pytest.raises(KdzooError, match=message):
            tokenizer_of(ModelSpec.parse(str(folder)))

    whole = contents_of(ModelSpec.parse(str(folder)), None, {})
    for part in (FOLDER, FILE):
        (folder / part).rename(tmp_path / "aside")
        refused(rf"has no {part}, and its model writes other tokens.*copy the model's folder whole")
        (tmp_path / "aside").rename(folder / part)
    (folder / FOLDER).rename(tmp_path / "aside")
    encoder.teacher.source.save_pretrained(folder / FOLDER)
    assert contents_of(ModelSpec.parse(str(folder)), None, {}) != whole
    refused("the tokenizer of targets .* is another than the one that was saved")
    (folder / FOLDER / "tokenizer.json").unlink()
    refused("no tokenizer at .*target_tokenizer")
    for file in (folder / FOLDER).iterdir():
        file.unlink()
    (folder / FOLDER).rmdir()
    (tmp_path / "aside").rename(folder / FOLDER)
    encoder.teacher.target.save_pretrained(folder)
    refused("the tokenizer of sources .* is another than the one that was saved")
    encoder.teacher.source.save_pretrained(folder)
    (folder / FILE).write_text("[1")
    refused(f"the {FILE} of .* cannot be read")
    encoder.teacher.save_pretrained(folder)
    with pytest.raises(KdzooError, match="is an encoder-decoder, and a stack reads one stack"):
        ModelSpec.parse(f"1x16,frozen={folder}").build_on_meta(
            made.task, tokenizer=made.encoder(f"1x16,frozen={folder}").teacher
        )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"separate_targets": False}))
    refused("has a tokenizer for targets, and its config.json is of a model that writes the tokens that it reads")
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 20}))
    refused("tokens and its model embeddings for 20")


def test_one_of_a_single_vocabulary_still_loads(made: Made, tmp_path: Path) -> None:
    spec, folder = ModelSpec.parse(f"1x16,heads=2,frozen={made.bert}"), tmp_path / "model"
    spec.build(made.task, tokenizer=spec.tokenizer, positions=64).save_pretrained(folder)
    spec.tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert not config.pop("separate_targets")  # of which older configurations say nothing
    (folder / "config.json").write_text(json.dumps(config))
    encoder = made.encoder(str(folder), "1x16,heads=2")
    assert encoder.student is encoder.teacher and encoder.teacher.pad_token == "[PAD]"
    # A student of a pretrained encoder writes what its teacher writes, whatever that reads.
    encoder = made.encoder(str(folder), f"1x16,heads=2,frozen={made.bert}")
    student = ModelSpec.parse(f"1x16,heads=2,frozen={made.bert}").build(
        made.task, teacher=ModelSpec.parse(str(folder)).build(made.task)
    )
    assert not encoder.separate and isinstance(encoder.student, SourceTargetTokenizer)
    assert student.config.separate_targets and student.config.vocab_size == len(encoder.student)


def test_a_comparison_and_a_distillation(commands: Commands, made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data, models = ("--data", made.file, *OWN), ("--teacher", f"1x16,heads=2,frozen={made.bert}")
    asked = ("compare", *data, *SHORT, *models, "--student", "1x16,heads=2", "--evaluations", "1", "--out", out)
    commands.fails(*asked, "--methods", "tinybert", says=("tinybert on mine", "a tokenizer of its own"))
    commands.works(*asked, "--methods", "word_kd")
    found = records(out)
    assert len(found) == 2 and all("bleu" in record["metrics"] for record in found.values())
    written = {file: file.stat().st_mtime_ns for file in out.glob("[ct]*/**/*.json")}
    commands.works(*asked, "--methods", "word_kd")
    assert written == {file: file.stat().st_mtime_ns for file in out.glob("[ct]*/**/*.json")}
    told = ("distill", *data, *SHORT, "--teacher", out / "teachers/mine", "--student", "teacher:0/0")
    commands.works(*told, "--method", "tinybert", "--out", tmp_path / "student")
    assert vocabularies(load_tokenizer(tmp_path / "student")) == vocabularies(load_tokenizer(out / "teachers/mine"))
    assert FOLDER in (tmp_path / "student/README.md").read_text()
    assert str(tmp_path) not in (tmp_path / "student/config.json").read_text()
    # A run that was begun when such a model wrote the words that it read is not gone on with.
    config = json.loads((out / "config.json").read_text())
    del config["shared"]["separate_targets"]
    (out / "config.json").write_text(json.dumps(config))
    commands.fails(*asked, "--methods", "word_kd", says=("separate_targets is None there and True here",))
