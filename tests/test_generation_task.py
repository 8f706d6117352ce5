"""Tasks whose answer is a text: what is encoded, compared, decoded and scored, from files of one's own too."""

from __future__ import annotations

import gzip
import json
import random
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from command_line import Commands, records
from generation_models import family, inputs, made, model
from tasks_by_unit import compared, losses, trainer

import kdzoo
from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.kernels.linear_divergence import spread_rest
from kdzoo.models.activations import Needs, capture
from kdzoo.models.decoders import check_decoder
from kdzoo.models.spec import ModelSpec
from kdzoo.models.vocabulary import reversible_tokenizer
from kdzoo.objectives.recipe import Targets
from kdzoo.tasks import SequenceToSequence
from kdzoo.tasks.decoding import Decoding
from kdzoo.tasks.encoding import Encoder
from kdzoo.tasks.metrics import get_metric, resampled_values
from kdzoo.tasks.own import from_data
from kdzoo.tasks.own_file import from_yaml
from kdzoo.tasks.resampling import counts
from kdzoo.tasks.synthetic import transduction
from kdzoo.training import decoded, topk
from kdzoo.training.cache import TeacherCache

ROWS = ("--train-rows", "32", "--validation-rows", "8", "--epochs", "1", "--max-length", "64", "--batch-size", "16")
SMALL = ("--teacher", "2x16,heads=2", "--student", "1x16,heads=2", *ROWS)
WORDS = ["the", "old", "dog", "saw", "a", "red", "house", "near", "and", "tired", "king", "loved", "books"]


# --- scores -----------------------------------------------------------------------------------------------------------


def texts(rng: random.Random, several: bool) -> tuple[list[str], list[list[str]]]:
    """Texts of one to three sentences, and references that share words with them."""

    def text() -> str:
        found = [" ".join(rng.choices(WORDS, k=rng.randint(2, 9))).capitalize() + "." for _ in range(rng.randint(1, 3))]
        return " ".join(found)

    references = [[text() for _ in range(rng.randint(1, 3) if several else 1)] for _ in range(12)]
    predictions = [" ".join(rng.choice(of).split()[: rng.randint(1, 20)]) + rng.choice((".", "")) for of in references]
    return predictions, references


@pytest.mark.parametrize("several", [False, True])
def test_metrics_are_the_libraries(several: bool) -> None:
    import sacrebleu
    from rouge_score import rouge_scorer

    seed = secrets.randbits(32)
    print("seed", seed)
    predictions, references = texts(random.Random(seed), several)
    most = max(map(len, references))
    by_place = [[of[at] if at < len(of) else None for of in references] for at in range(most)]

    def value(name: str) -> float:
        return get_metric(name, "seq2seq").compute(predictions, references)

    assert value("bleu") == pytest.approx(sacrebleu.corpus_bleu(predictions, by_place).score / 100)
    assert value("chrf2") == pytest.approx(sacrebleu.corpus_chrf(predictions, by_place).score / 100)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True)
    for name in ("rouge1", "rouge2", "rougeLsum"):
        best = [
            max(scorer.score(one.replace(". ", ".\n"), text.replace(". ", ".\n"))[name].fmeasure for one in of)
            for text, of in zip(predictions, references, strict=True)
        ]
        assert value(name) == pytest.approx(np.mean(best))
    drawn = np.random.default_rng(seed).integers(12, size=(3, 12))
    for name in ("bleu", "chrf2", "rougeLsum", "exact_match"):
        found = resampled_values(name, "seq2seq", [predictions], references, counts(drawn, 12))[0]
        for rows, resampled in zip(drawn, found, strict=True):
            own = [predictions[row] for row in rows], [references[row] for row in rows]
            assert resampled == pytest.approx(get_metric(name, "seq2seq").compute(*own))
    said = SequenceToSequence("mine", ("bleu", "rouge1")).scored_by({"validation": references})
    scored = sacrebleu.BLEU()
    scored.corpus_score(predictions, by_place)
    assert said["bleu"] == str(scored.get_signature()) and said["decoding"].startswith("beam 4, ")
    assert "rouge-score" in said["rouge1"]


# --- what is compared -------------------------------------------------------------------------------------------------


def test_word_level_losses_count_target_tokens_alone() -> None:
    task, _, rows, tokenizer = made()
    order = np.argsort(rows["length"])
    picked = [rows[int(at)] for at in (*order[:2], *order[10:12], order[-2])]
    batch = task.collator(tokenizer)(picked)
    student, teacher = model(task, tokenizer, "1x16,heads=2", seed=1), model(task, tokenizer)
    terms = [kdzoo.Term("kd", temperature=2.0), kdzoo.Term("reverse_kl"), kdzoo.Term("ce")]
    found = compared(kdzoo.Objective(terms), student, teacher, batch | inputs(batch, student))

    labels = batch["labels"].numpy()
    counted = labels != -100
    assert not counted.all() and not np.array_equal(counted, batch["attention_mask"].numpy() == 1)
    with torch.no_grad():
        zs, zt = (one(**inputs(batch, one)).logits.numpy().astype(float) for one in (student, teacher))
        own = student(**{n: batch[n] for n in ("input_ids", "attention_mask")}, labels=batch["labels"]).loss.item()

    def log_softmax(z: np.ndarray) -> np.ndarray:
        z = z - z.max(-1, keepdims=True)
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    p, q = log_softmax(zt / 2), log_softmax(zs / 2)
    assert found["kd"] == pytest.approx((4 * (np.exp(p) * (p - q)).sum(-1))[counted].mean(), rel=1e-4)
    p, q = log_softmax(zt), log_softmax(zs)
    assert found["reverse_kl"] == pytest.approx((np.exp(q) * (q - p)).sum(-1)[counted].mean(), rel=1e-4)
    assert found["ce"] == pytest.approx(own, rel=1e-5)
    assert torch.equal(task.counted(batch), torch.from_numpy(counted))
    # More padding on either side changes nothing.
    longer = task.collator(tokenizer)([*picked, rows[int(order[-1])]])
    assert longer["labels"].shape[1] > labels.shape[1]
    longer = {name: value[:5] for name, value in longer.items()}
    again = compared(kdzoo.Objective(terms), student, teacher, longer | inputs(longer, student))
    assert again == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("name", ["Bart", "T5", "Marian", "EncoderDecoder"])
def test_families_are_captured_and_made_smaller(name: str) -> None:
    task, _, rows, tokenizer = made()
    batch = task.collator(tokenizer)([rows[at] for at in range(3)])
    teacher = family(name, len(tokenizer))
    check_decoder(teacher, "it", task.longest_target)
    taken = inputs(batch, teacher)
    needs = Needs(hidden=frozenset({0, 2}), cls=frozenset({3}), pooled=frozenset({1}), decoder=frozenset({0, 2}))
    with torch.no_grad(), capture(teacher, needs) as recorder:
        outputs = teacher(**taken)
        found = recorder.activations(outputs, mask=taken["attention_mask"])
        whole = teacher(**taken, output_hidden_states=True)
        alone = teacher.get_encoder()(input_ids=taken["input_ids"], attention_mask=taken["attention_mask"])
    torch.testing.assert_close(found.hidden[2], whole.encoder_hidden_states[2])
    torch.testing.assert_close(found.cls[3], alone.last_hidden_state[:, 0])
    torch.testing.assert_close(found.decoder[2], whole.decoder_hidden_states[2])
    assert found.target_mask is not None and torch.equal(found.target_mask, batch["labels"] != -100)

    same = ModelSpec.parse("teacher:0,1,2/0,1").build(task, teacher=teacher).eval()
    with torch.no_grad():
        torch.testing.assert_close(same(**taken).logits, outputs.logits)
    shape = kdzoo.ModelShape.of(ModelSpec.parse("teacher:0,2/1").build(task, teacher=teacher))
    assert (shape.num_layers, shape.hidden_size, shape.decoder) == (2, 16, (1, 16, 2))
    fresh = ModelSpec.parse("1x8,heads=2,decoder=2").build(task, teacher=teacher)
    shape = kdzoo.ModelShape.of(fresh)
    assert (shape.num_layers, shape.hidden_size, shape.decoder) == (1, 8, (2, 8, 2))
    assert fresh(**taken).logits.shape == outputs.logits.shape
    assert type(fresh) is type(teacher)


def test_features_of_both_stacks() -> None:
    task, _, rows, tokenizer = made()
    batch = task.collator(tokenizer)([rows[at] for at in range(4)])
    student, teacher = model(task, tokenizer, "1x16,heads=2", seed=1), model(task, tokenizer, "2x16,heads=2")
    objective = kdzoo.Objective(
        [
            kdzoo.Term("hidden_mse"),
            kdzoo.Term("hidden_mse", feature="decoder", name="below"),
            kdzoo.Term("attention_kl"),
        ]
    )
    found = compared(objective, student, teacher, batch | inputs(batch, student))
    with torch.no_grad():
        states = [one(**inputs(batch, one), output_hidden_states=True) for one in (student, teacher)]
    real, target = batch["attention_mask"] != 0, batch["labels"] != -100
    above = (states[0].encoder_hidden_states[1] - states[1].encoder_hidden_states[2]).square().mean(-1)[real].mean()
    own = (states[0].decoder_hidden_states[1] - states[1].decoder_hidden_states[2]).square().mean(-1)[target].mean()
    assert found["hidden_mse"] == pytest.approx(float(above), rel=1e-4)
    assert found["below"] == pytest.approx(float(own), rel=1e-4)
    assert found["attention_kl"] > 0


@pytest.mark.parametrize("name", ["tinybert", "minilmv2", "lrc"])
def test_recipes_of_encoders_train_the_encoder(name: str, tmp_path: Path) -> None:
    task, _, rows, tokenizer = made()
    objective = kdzoo.Recipe.load(name).objective()
    student, teacher = model(task, tokenizer, "1x16,heads=2", seed=1), model(task, tokenizer)
    batch = task.collator(tokenizer)([rows[at] for at in range(4)])
    objective.bind(student, teacher, num_samples=24)
    needs = objective.needs(0.0)
    taken = [inputs(batch, one) for one in (student, teacher)]
    with capture(student, needs[0]) as ours, capture(teacher, needs[1]) as theirs:
        own = ours.activations(student(**taken[0]), mask=batch["attention_mask"])
        other = theirs.activations(teacher(**taken[1]), mask=batch["attention_mask"])
    objective(own, other, labels=batch["labels"], sample_ids=batch["sample_ids"]).total.backward()
    assert any(parameter.grad is not None for parameter in student.get_encoder().layers.parameters())


# --- the cache --------------------------------------------------------------------------------------------------------


def run(folder: Path, cache: TeacherCache | None, terms: str = "kd + hidden_mse@decoder + ce") -> list[float]:
    task, _, rows, tokenizer = made()
    made_here = trainer(task, tokenizer, rows, folder / "out", kdzoo.Objective(terms), cache=cache)
    made_here.train()
    assert (made_here.teacher_rows is not None) == (cache is not None)
    return losses(made_here)


def test_cached_targets_are_the_teacher_s(tmp_path: Path) -> None:
    live = run(tmp_path, None)
    assert run(tmp_path, TeacherCache(tmp_path / "cache")) == pytest.approx(live, rel=1e-5)
    few = TeacherCache(tmp_path / "cache", top=64)
    assert run(tmp_path, few) == pytest.approx(live, rel=0.02)
    with pytest.warns(KdzooWarning, match=r"keeps 1 logits, and the others have \d+\.\d% of its probability"):
        run(tmp_path, TeacherCache(tmp_path / "cache", top=1))
    whole, part = ((tmp_path / "cache").glob(f"*/{name}.safetensors") for name in ("logits", "logits-top-64"))
    assert next(part).stat().st_size < next(whole).stat().st_size / 3


def test_top_logits_keep_the_mass_of_the_others() -> None:
    torch.manual_seed(secrets.randbits(32))
    logits = (3 * torch.randn(4, 5, 50)).double()
    kept, places = topk.cut(logits, 7)
    again = spread_rest(kept, places, 50).double()
    exact = logits.log_softmax(-1)
    torch.testing.assert_close(again.exp().sum(-1), torch.ones(4, 5).double(), atol=1e-5, rtol=0)
    top = exact.topk(7).indices
    torch.testing.assert_close(again.gather(-1, top), exact.gather(-1, top), atol=1e-5, rtol=0)
    others = torch.ones_like(exact, dtype=torch.bool).scatter(-1, top, False)
    assert all(len(row.unique()) == 1 for row in again[others].view(20, 43))
    torch.testing.assert_close(spread_rest(*topk.cut(logits, 49), 50).double(), exact, atol=1e-5, rtol=0)


# --- what the teacher writes ------------------------------------------------------------------------------------------


def test_decoded_rows_are_resumed_and_chosen(tmp_path: Path) -> None:
    import sacrebleu

    task, rows, encoded, tokenizer = made(10)
    teacher = model(task, tokenizer)
    told = {"max_length": 64, "folder": tmp_path, "batch_size": 3}
    best = decoded.decoded_rows(rows, task, teacher, tokenizer, Targets(beam=3), **told)
    [file] = tmp_path.glob("*.jsonl")
    written = {line["row"]: line["texts"] for line in map(json.loads, file.read_text().splitlines())}
    assert set(written) == set(range(10)) and {len(of) for of in written.values()} == {3}
    batch = task.collator(tokenizer)([encoded[0]])
    alone = Decoding(3, max_target=64).generate(teacher, batch, several=True)
    assert task.decoded(alone.numpy(), tokenizer) == written[0]
    kept = sum(of == own for of, own in zip(best.rows["target"][:], rows["target"][:], strict=True))
    for row, target in enumerate(best.rows["target"][:]):
        assert target in ([written[row][0]], rows["target"][row])
    assert ("keep their reference" in best.said) == (kept > 0)

    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:4]) + lines[4][:9])  # a kill within a line
    seen: list[tuple[int, int]] = []
    again = decoded.decoded_rows(
        rows, task, teacher, tokenizer, Targets(beam=3), **told, progress=lambda done, total: seen.append((done, total))
    )
    assert again.rows["target"][:] == best.rows["target"][:] and seen == [(7, 10), (10, 10)]
    closest = decoded.decoded_rows(rows, task, teacher, tokenizer, Targets(beam=3, choose="closest"), **told)
    assert len([*tmp_path.glob("*.jsonl")]) == 1
    for row, target in enumerate(closest.rows["target"][:]):
        scores = [sacrebleu.sentence_bleu(text, rows["target"][row]).score for text in written[row]]
        assert target in ([written[row][int(np.argmax(scores))]], rows["target"][row])
    teacher.model.shared.weight.data[7] += 1
    decoded.decoded_rows(rows, task, teacher, tokenizer, Targets(beam=3), **told)
    assert len([*tmp_path.glob("*.jsonl")]) == 2, "another teacher's texts are others"


# --- whole ------------------------------------------------------------------------------------------------------------


def test_a_comparison_whole(commands: Commands, tmp_path: Path) -> None:
    out = tmp_path / "out"
    few = ("--methods", "word_kd,seq_kd", "--evaluations", "1", "--out", out)
    assert "bleu" in commands.works("compare", "--tasks", "transduction", *SMALL, *few)
    found = records(out)
    assert len(found) == 3
    teacher = found["transduction-teacher"]
    assert teacher["kind"] == "seq2seq" and len(teacher["sources"]) == 8
    assert teacher["scored_by"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|")
    references = teacher["references"]["validation"]
    for record in found.values():
        own = record["predictions"]["validation"]
        assert len(own) == len(references) == 8 and all(isinstance(text, str) for text in own)
        assert record["metrics"]["bleu"] == pytest.approx(get_metric("bleu", "seq2seq").compute(own, references))
    assert found["transduction-seq_kd-0"]["scored_by"]["targets"].startswith("targets: written by the teacher, beam 5")
    assert [*out.glob("decoded/transduction-*.jsonl")]
    page = (out / "report.html").read_text()
    assert "Examples" in page and teacher["sources"][0].split()[0] in page and "tok:13a" in page


def test_a_model_trained_here_is_a_teacher(commands: Commands, tmp_path: Path) -> None:
    data = ("--task", "transduction", *ROWS)
    commands.works("finetune", *data, "--model", "1x16,heads=2", "--out", tmp_path / "teacher")
    given = ("--teacher", tmp_path / "teacher", "--student", "teacher:0/0", "--cache-folder", tmp_path / "cache")
    top = ("--cache-top", "16", "--method", "word_kd")
    ran = commands("distill", *data, *given, *top, "--out", tmp_path / "student")
    assert ran.code == 0 and "keeps 16 logits, and the others have" in ran.err, "of a teacher that has learnt little"
    loaded = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "student")
    assert loaded.config.decoder_layers == 1
    commands.works("distill", *data, *given[:4], "--method", "seq_inter", "--out", tmp_path / "other")
    assert "closest" in json.loads((tmp_path / "other" / "record.json").read_text())["scored_by"]["targets"]


def test_data_of_one_s_own(commands: Commands, tmp_path: Path) -> None:
    pairs = [transduction.generate("train", 20)[name] for name in ("source", "target")]
    lines = ["en\tde", *("\t".join(pair) for pair in zip(*pairs, strict=True))]
    with gzip.open(tmp_path / "mine.tsv.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    own = from_data(tmp_path / "mine.tsv.gz", kind="seq2seq", text="en", label="de", decoding="beam=3,max_target=70")
    task: Any = own.task
    assert task.name == "mine" and task.decoding == Decoding(3, max_target=70) and task.headline == ("bleu",)
    assert {split: len(rows) for split, rows in task.rows().items()} == {"train": 18, "validation": 2}
    rows = [{"dialogue": "a b", "summary": "a"}, {"dialogue": "c d", "summary": ["c", "d"]}] * 3
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "two.yaml").write_text(
        "kind: seq2seq\nfiles: {train: two.jsonl, validation: two.jsonl}\nmetrics: [rouge1, rougeLsum]\n"
        "columns: {text: dialogue, label: summary}\ndecoding: {beam: 1, no_repeat_ngram: 3, max_target: 30}\n"
    )
    asked = ("compare", "--tasks", tmp_path / "two.yaml", *SMALL, "--methods", "none", "--out", tmp_path / "out")
    assert "no_repeat_ngram 3" in commands.works(*asked)
    found = records(tmp_path / "out")["two-none-0"]
    assert set(found["metrics"]) == {"rouge1", "rougeLsum"}
    shared = json.loads((tmp_path / "out" / "config.json").read_text())["shared"]
    assert shared["own_tasks"]["two"]["decoding"]["no_repeat_ngram"] == 3
    above = records(tmp_path / "out")["two-teacher"]
    assert above["own_task"] == shared["own_tasks"]["two"] and above["text_columns"] == ["dialogue"]
    references = from_data(tmp_path / "two.jsonl", kind="seq2seq", text="dialogue", label="summary").task.rows()
    assert ["c", "d"] in [*references["train"]["target"], *references["validation"]["target"]]


def test_a_pair_in_one_column_is_named_by_its_keys(commands: Commands, tmp_path: Path) -> None:
    """As the hub has translations: ``{"translation": {"de": ..., "en": ...}}``."""
    from datasets import Dataset

    rows = [{"id": at, "translation": {"de": f"ein Hund {at}", "en": f"a dog {at}"}} for at in range(12)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = {"text": "translation.en", "label": "translation.de"}
    for data in (file, Dataset.from_list(rows)):
        found = from_data(data, kind="seq2seq", **named).task.rows()
        pairs = {(row["source"], *row["target"]) for split in found.values() for row in split}
        assert pairs == {(row["translation"]["en"], row["translation"]["de"]) for row in rows}
    asked = ("finetune", "--data", file, "--kind", "seq2seq", "--model", "1x16,heads=2", "--epochs", 1)
    asked = (*asked, "--decoding", "beam=1,max_target=16", "--max-length", 16, "--text", "translation.en")
    commands.fails(
        *asked, "--label", "translation.fr", "--out", tmp_path / "m", says=("id, translation, translation.de",)
    )
    commands.works(*asked, "--label", "translation.de", "--out", tmp_path / "m")
    assert "12 predictions of translation.en" in commands.works("predict", tmp_path / "m", file)


def test_bad_input_is_one_line(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "mine.tsv"

    def write(*rows: str) -> tuple[Any, ...]:
        file.write_text("source\ttarget\n" + "".join(f"{row}\n" for row in rows))
        return ("compare", "--data", file, "--kind", "seq2seq", *SMALL, "--methods", "none", "--out", tmp_path / "o")

    commands.fails(*write("a\tb", "c\t ", "d\te"), says=("mine.tsv, row 2", "the target is empty"))
    commands.fails(*write("a\tb", "\tb", "d\te"), says=("row 2", "column 'source'"))
    good = ["a b c\td e f"] * 6
    long = write(*good, "a\t" + "x y " * 40)
    commands.fails(*long, "--decoding", "max_target=20", says=("it has", "max_target is 20"))
    # Named by its words: with validation rows held out its number among the others is not the file's.
    commands.fails(*long, "--decoding", "max_target=20", says=("mine, train rows, target 'x y x y x",))
    marked = write(*good, "a\td [SEP] e")  # which a learned vocabulary ends a text with
    commands.fails(*marked, says=("mine, train rows, target 'd [SEP] e'", "for the end of a text"))
    commands.fails(*write(*good), "--decoding", "max_target=500", says=("128 positions", "max_target is 500"))
    commands.fails(*write(*good), "--decoding", "beam=0", says=("beam is a whole number of 1 or more, got 0",))
    commands.fails(*write(*good), "--decoding", "bean=2", says=("bean", "beam"))
    commands.fails(*write(*good), "--label", "targets", says=("no column 'targets'",))
    commands.fails(*write(*good), "--labels", "a,b", says=("no --labels",))
    commands.fails(*write(*good), "--label-separator", ";", says=("--label-separator",))
    ner = ("compare", "--tasks", "ner", "--teacher", "1x16,heads=2", "--student", "1x16,heads=2", *ROWS[:4])
    commands.fails(*ner, "--methods", "seq_kd", "--out", tmp_path / "n", says=("seq_kd on ner", "none to write"))
    decoders = ("compare", "--tasks", "ner", "--teacher", "1x16,decoder=2", *ROWS[:4], "--out", tmp_path / "n")
    commands.fails(*decoders, says=("decoder= is for tasks that write text",))


def test_a_target_that_is_too_long_for_the_teacher_alone_is_refused(commands: Commands, tmp_path: Path) -> None:
    """Before it would be in the teacher's decoding, or in what the teacher is compared at."""
    task, rows, _, _ = made()
    words, letters = (reversible_tokenizer(task.texts(rows), size=size) for size in (2000, 261))
    rows = rows.map(lambda row: {"target": [row["target"][0][:20]]})
    longest, other = (
        max(len(of(text_target=row[0])["input_ids"]) for row in rows["target"]) for of in (words, letters)
    )
    assert other > longest + 4
    for name, tokenizer in (("teacher", letters), ("student", words)):
        family("Bart", len(tokenizer)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    file = tmp_path / "mine.jsonl"
    rows.to_json(file)
    both = ("--teacher", tmp_path / "teacher", "--student", tmp_path / "student", "--out", tmp_path / "o")
    data = ("--data", file, "--kind", "seq2seq", "--decoding", f"max_target={longest + 4}", "--max-length", 64)
    says = ("mine, train rows, target", f"max_target is {longest + 4}")
    commands.fails("distill", *data, *both, "--method", "seq_kd", says=says)
    assert not (tmp_path / "o/decoded").exists()


def test_models_that_cannot_write_are_refused(commands: Commands, tmp_path: Path) -> None:
    task, rows, _, tokenizer = made()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=len(tokenizer), **sizes))
    bert.save_pretrained(tmp_path / "bert")
    file = tmp_path / "yes.yaml"
    file.write_text("kind: seq2seq\nfiles: {train: a.jsonl}\ndecoding: {beam: true}\n")
    with pytest.raises(KdzooError, match=r"decoding\.beam"):
        from_yaml(file)
    bart = family("Bart", len(tokenizer))
    bart.config.decoder_start_token_id = None
    bart.generation_config.decoder_start_token_id = None
    bart.save_pretrained(tmp_path / "bart")
    for name in ("bert", "bart"):
        tokenizer.save_pretrained(tmp_path / name)
    asked = ("compare", "--tasks", "transduction", *ROWS, "--methods", "none", "--out", tmp_path / "o", "--teacher")
    commands.fails(*asked, tmp_path / "bert", says=("has no decoder", "BART, T5 or Marian"))
    commands.fails(*asked, tmp_path / "bart", says=("the teacher", "no decoder_start_token_id"))
    with pytest.raises(KdzooError, match="name its layers after a slash"):
        ModelSpec.parse("teacher:0,2").build(task, teacher=bart)
    other = reversible_tokenizer(task.texts(rows), size=290)
    student = model(task, other, "1x16,heads=2")
    assert Encoder(other, tokenizer, 64).separate
    from kdzoo.objectives.checks import check_separate_tokens

    with pytest.raises(KdzooError, match="their vocabularies differ"):
        check_separate_tokens(kdzoo.Recipe.load("word_kd").objective(), student, same_targets=False)
    check_separate_tokens(kdzoo.Recipe.load("seq_kd").objective(), student, same_targets=False)
    with pytest.raises(KdzooError, match="vocabulary has 290 entries and the teacher's 300"):
        objective = kdzoo.Objective("kd + ce")
        kdzoo.DistillationTrainer(
            model=student,
            teacher=model(task, tokenizer),
            objective=objective,
            args=transformers.TrainingArguments(output_dir=str(tmp_path / "t"), use_cpu=True, report_to="none"),
            train_dataset=task.encode(rows.select(range(8)), other, 64),
            data_collator=task.collator(other),
        )


def test_synthetic_pairs_are_their_own() -> None:
    whole = transduction.generate("train", 30, seed=3)
    assert transduction.generate("train", 10, seed=3)["target"] == whole["target"][:10]
    held = set(transduction.generate("validation", 300)["source"])
    assert not held & set(transduction.generate("train", 600)["source"])
