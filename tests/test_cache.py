"""TeacherCache: the live teacher's losses without the teacher; nothing that is damaged or foreign is ever used."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_trainer import student, teacher, trainer
from tiny_data import collate, rows
from tiny_models import tiny

import kdzoo
from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.models.activations import Needs, capture
from kdzoo.objectives.objective import Objective
from kdzoo.objectives.term import Term
from kdzoo.training.agreement import accepted_inputs
from kdzoo.training.cache import TeacherCache

NEEDS = Needs(cls=frozenset({2, 4}), hidden=frozenset({0, 4}), qkv=frozenset({3}))
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def opened(cache: TeacherCache, guide: Any, data: Any = None, needs: Needs = NEEDS, **options: Any) -> Any:
    inputs = accepted_inputs(guide)
    return cache.open(
        guide, rows() if data is None else data, needs, inputs=inputs, collate=collate, batch_size=5, **options
    )


def runs(model: Any) -> list[int]:
    """The rows of each of the model's forward passes from now on."""
    seen: list[int] = []
    model.register_forward_pre_hook(lambda module, args, given: seen.append(len(given["input_ids"])), with_kwargs=True)
    return seen


def agree(kept: Any, live: Any, needs: Needs = NEEDS, tolerance: float = 1e-5) -> None:
    """What the cache gives and what the teacher shows, padding left out."""
    torch.testing.assert_close(kept.logits, live.logits, atol=tolerance, rtol=tolerance)
    assert torch.equal(kept.mask, live.mask)
    real = live.mask
    for layer in needs.cls:
        torch.testing.assert_close(kept.cls[layer], live.cls[layer], atol=tolerance, rtol=tolerance)
    for layer in needs.hidden:
        torch.testing.assert_close(kept.hidden[layer][real], live.hidden[layer][real], atol=tolerance, rtol=tolerance)
        assert not kept.hidden[layer][~real].any()
    for layer in needs.qkv:
        for own, other in zip(kept.qkv[layer], live.qkv[layer], strict=True):
            assert own.shape == other.shape
            own, other = own.transpose(1, 2)[real], other.transpose(1, 2)[real]
            torch.testing.assert_close(own, other, atol=tolerance, rtol=tolerance)


def live(guide: Any, ids: list[int], needs: Needs = NEEDS) -> Any:
    data = rows()
    batch = {name: value for name, value in collate([data[i] for i in ids]).items() if name in accepted_inputs(guide)}
    with torch.no_grad(), capture(guide, needs) as recorder:
        return recorder.activations(guide(**batch), mask=batch["attention_mask"])


def test_it_says_how_far_the_teacher_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []
    for _ in range(2):
        opened(TeacherCache(tmp_path), teacher(), progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 24) for done in (5, 10, 15, 20, 24)], "once: the second finds it there"
    for told_to in (None, lambda done, total: told.append((done, total))):
        told.clear()
        of = trainer(tmp_path, "kd", guide=teacher(), also={"cache": TeacherCache(tmp_path / f"{told_to}")})
        of.args.disable_tqdm, of.teacher_progress = False, told_to
        with of._teacher_bar() as progress:
            progress(24, 24)
        assert told == ([(24, 24)] if told_to else [])


@pytest.mark.parametrize("family", ["bert", "distilbert", "albert", "electra", "roberta"])
def test_it_gives_what_the_teacher_shows(family: str, tmp_path: Path) -> None:
    needs = Needs(cls=frozenset({1, 3}), hidden=frozenset({0, 2}), qkv=frozenset({0, 2}))
    guide = tiny(family, seed=3)
    kept = opened(TeacherCache(tmp_path), guide, needs=needs)
    for ids in ([3], [20, 1, 7, 0], list(range(24))):
        found = live(guide, ids, needs)
        agree(kept.activations(torch.tensor(ids), found.mask, needs), found, needs)


def test_queries_and_keys_come_in_the_type_that_autocast_gave_them(tmp_path: Path) -> None:
    """Or a fused kernel would multiply in float32 what the live teacher gives it in half precision."""
    guide = teacher()
    with torch.autocast("cpu", torch.bfloat16):
        found = live(guide, [3, 5])
    options = {"autocast": lambda: torch.autocast("cpu", torch.bfloat16), "autocast_dtype": "bf16"}
    kept = opened(TeacherCache(tmp_path), guide, **options).activations(torch.tensor([3, 5]), found.mask, NEEDS)
    assert [part.dtype for part in kept.qkv[3]] == [part.dtype for part in found.qkv[3]] == [torch.bfloat16] * 3
    assert kept.hidden[4].dtype == found.hidden[4].dtype == torch.float32
    for own, other in zip(kept.qkv[3], found.qkv[3], strict=True):
        real = found.mask[:, None, :, None]
        torch.testing.assert_close(own * real, other * real, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("recipe", ["kd", "pkd", "tinybert", "crd", "lrc", "minilmv2", "rkd"])
def test_losses_are_the_live_teachers(recipe: str, tmp_path: Path) -> None:
    histories = []
    for cache in (None, TeacherCache(tmp_path / "cache")):
        made = trainer(tmp_path, recipe, also={"cache": cache})
        seen = runs(made.teacher)
        made.train()
        assert cache is None or sum(seen) == 24, "once a row, and not once a step"
        losses = [[v for k, v in sorted(e.items()) if k.startswith("loss")] for e in made.state.log_history[:-1]]
        histories.append(np.asarray([value for entry in losses for value in entry]))
    np.testing.assert_allclose(histories[1], histories[0], rtol=2e-4, atol=1e-6)  # the later steps drift apart
    np.testing.assert_allclose(histories[1][:2], histories[0][:2], rtol=1e-5)


def test_methods_seeds_and_processes_share_it(tmp_path: Path) -> None:
    guide = teacher()
    seen = runs(guide)
    trainer(tmp_path, "pkd", guide=guide, also={"cache": TeacherCache(tmp_path / "cache")}).train()
    assert sum(seen) == 24
    for recipe, seed in (("pkd", 1), ("kd", 0)):  # what KD needs, PKD has left there
        trainer(tmp_path, recipe, guide=guide, seed=seed, also={"cache": TeacherCache(tmp_path / "cache")}).train()
    assert sum(seen) == 24
    before = {path.name for path in tmp_path.glob("cache/*/*.safetensors")}
    trainer(tmp_path, "tinybert", guide=guide, also={"cache": TeacherCache(tmp_path / "cache")}).train()
    after = {path.name for path in tmp_path.glob("cache/*/*.safetensors")}
    assert sum(seen) == 48 and before < after and "logits.safetensors" in before


def test_what_others_will_need_is_made_in_the_first_pass(tmp_path: Path) -> None:
    guide = teacher()
    seen = runs(guide)
    few = Needs(cls=frozenset({2}))
    room = TeacherCache(tmp_path).nbytes(guide.config, rows(), few | NEEDS)
    opened(TeacherCache(tmp_path / "full", ahead=NEEDS, limit=room - 1), guide, needs=few)
    assert len([*(tmp_path / "full").glob("*/*.safetensors")]) == 3, "no room for what others need"
    seen.clear()
    opened(TeacherCache(tmp_path, ahead=NEEDS, limit=room), guide, needs=few)
    assert sum(seen) == 24
    kept = opened(TeacherCache(tmp_path), guide, needs=NEEDS)
    assert sum(seen) == 24, "the teacher did not run again"
    found = live(guide, [1, 5])
    agree(kept.activations(torch.tensor([1, 5]), found.mask, NEEDS), found)


@pytest.mark.parametrize("family", ["deberta", "modernbert"])
def test_others_needs_that_cannot_be_kept_are_in_nobodys_way(family: str, tmp_path: Path) -> None:
    guide = tiny(family, seed=3)
    ahead = Needs(qkv=frozenset(range(guide.config.num_hidden_layers)))
    needs = Needs(cls=frozenset({1}))
    kept = opened(TeacherCache(tmp_path, ahead=ahead), guide, needs=needs)
    found = live(guide, [1, 5], needs)
    agree(kept.activations(torch.tensor([1, 5]), found.mask, needs), found, needs)


def test_two_at_a_time_make_it_once(tmp_path: Path) -> None:
    guide, found = teacher(), []
    seen = runs(guide)
    threads = [threading.Thread(target=lambda: found.append(opened(TeacherCache(tmp_path), guide))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and sum(seen) == 24


def test_another_teacher_other_rows_and_another_precision_have_their_own(tmp_path: Path) -> None:
    opened(TeacherCache(tmp_path), teacher())
    assert len([*tmp_path.iterdir()]) == 1
    changed = teacher()
    with torch.no_grad():
        changed.classifier.bias[0] += 1e-3
    opened(TeacherCache(tmp_path), changed)
    opened(TeacherCache(tmp_path), teacher(), rows(seed=1))
    opened(TeacherCache(tmp_path), teacher(), rows(count=23))
    opened(TeacherCache(tmp_path, precision="bf16"), teacher())
    opened(TeacherCache(tmp_path), teacher(), autocast_dtype="bf16")
    assert len([*tmp_path.iterdir()]) == 6


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 5)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def swap(path: Path) -> None:
    path.write_bytes(path.with_name("cls-2.safetensors").read_bytes())


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    content = path.read_bytes()
    start = content.index(b'"key": "') + 8
    path.write_bytes(content[:start] + b"0" * 64 + content[start + 64 :])


@pytest.mark.parametrize("harm", [cut, flip, empty, foreign])
def test_a_damaged_or_foreign_file_is_made_again(harm: Any, tmp_path: Path) -> None:
    guide = teacher()
    opened(TeacherCache(tmp_path), guide)
    (path,) = tmp_path.glob("*/cls-4.safetensors")
    whole = path.read_bytes()
    harm(path)
    seen = runs(guide)
    with pytest.warns(KdzooWarning, match=r"cls-4.safetensors is not used and made again"):
        kept = opened(TeacherCache(tmp_path), guide)
    assert sum(seen) == 24 and path.read_bytes() == whole
    agree(kept.activations(torch.tensor([5, 0]), live(guide, [5, 0]).mask, NEEDS), live(guide, [5, 0]))


def test_what_a_killed_process_left_is_no_cache(tmp_path: Path) -> None:
    guide = teacher()
    opened(TeacherCache(tmp_path), guide)
    (path,) = tmp_path.glob("*/cls-4.safetensors")
    path.rename(path.with_name(".cls-4.safetensors"))
    seen = runs(guide)
    opened(TeacherCache(tmp_path), guide)
    assert sum(seen) == 24 and path.exists() and not path.with_name(".cls-4.safetensors").exists()


def test_nothing_is_left_of_one_that_fails(tmp_path: Path) -> None:
    guide = teacher()

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = guide.register_forward_pre_hook(lambda *_: stop() if len(seen) > 2 else None)
    seen = runs(guide)
    with pytest.raises(KeyboardInterrupt):
        opened(TeacherCache(tmp_path), guide)
    assert not [*tmp_path.glob("*/*.safetensors")] and not [*tmp_path.glob("*/.*.safetensors")]
    handle.remove()


def test_its_size_is_known_beforehand_and_bounded(tmp_path: Path) -> None:
    guide, data = teacher(), rows()
    size = TeacherCache(tmp_path).nbytes(guide.config, data, NEEDS)
    opened(TeacherCache(tmp_path, limit=size), guide)
    stored = [path.stat().st_size for path in tmp_path.glob("*/*.safetensors")]
    assert 0 < sum(stored) - size < 512 * len(stored), "but for the headers"
    with pytest.warns(KdzooWarning, match="no cache of the teacher: it would take 0.1 MB, and the limit is"):
        assert opened(TeacherCache(tmp_path / "none", limit=size - 1), guide) is None
    assert not (tmp_path / "none").exists()
    assert TeacherCache(tmp_path, precision="fp16").nbytes(guide.config, data, NEEDS) == size // 2

    made = trainer(tmp_path, "kd", guide=guide, also={"cache": TeacherCache(tmp_path / "none", limit=1)})
    seen = runs(guide)
    with pytest.warns(KdzooWarning, match="it runs live"):
        made.train()
    assert sum(seen) == 48 and made.teacher_rows is None


def test_half_precision_is_close_and_never_overflows(tmp_path: Path) -> None:
    guide = teacher()
    for precision, tolerance in (("bf16", 3e-2), ("fp16", 4e-3)):
        kept = opened(TeacherCache(tmp_path, precision=precision), guide)
        found = live(guide, [1, 2, 3])
        taken = kept.activations(torch.tensor([1, 2, 3]), found.mask, NEEDS)
        assert taken.logits.dtype == torch.float32
        agree(taken, found, tolerance=tolerance)
    with torch.no_grad():
        guide.classifier.bias[0] = 1e6
    with pytest.raises(KdzooError, match="too large for fp16; keep them in bf16 or fp32"):
        opened(TeacherCache(tmp_path / "other", precision="fp16"), guide)
    with pytest.raises(KdzooError, match="unknown precision 'fp8'"):
        TeacherCache(tmp_path, precision="fp8")


@pytest.mark.parametrize("family", ["deberta", "modernbert"])
def test_attention_that_rows_do_not_have_by_themselves_runs_live(family: str, tmp_path: Path) -> None:
    guide = tiny(family)
    with pytest.warns(KdzooWarning, match="it runs live"):
        assert opened(TeacherCache(tmp_path), guide, needs=Needs(qkv=frozenset({0, 1, 2}))) is None
    assert not [*tmp_path.glob("*/*.safetensors")]
    needs = Needs(cls=frozenset({3}), hidden=frozenset({2}))
    kept = opened(TeacherCache(tmp_path), guide, needs=needs)
    found = live(guide, [4, 9], needs)
    agree(kept.activations(torch.tensor([4, 9]), found.mask, needs), found, needs)


def test_it_is_memory_mapped(tmp_path: Path) -> None:
    kept = opened(TeacherCache(tmp_path), teacher())
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    assert "hidden-4.safetensors" in maps.read_text() and kept is not None


def test_rows_that_do_not_fit(tmp_path: Path) -> None:
    guide, data = teacher(), rows()
    shuffled = data.remove_columns("sample_ids").add_column("sample_ids", [*range(1, 25)])
    for wrong in (data.remove_columns("sample_ids"), shuffled):
        with pytest.raises(KdzooError, match="sample_ids"):
            opened(TeacherCache(tmp_path), guide, wrong)
    kept = opened(TeacherCache(tmp_path), guide)
    with pytest.raises(KdzooError, match=r"the batch's rows have \[2, 2\] tokens"):
        kept.activations(torch.tensor([0, 1]), torch.ones(2, 2), NEEDS)


def test_it_stays_out_of_what_needs_no_teacher(tmp_path: Path) -> None:
    made = kdzoo.DistillationTrainer(
        model=student(),
        recipe="none",
        cache=TeacherCache(tmp_path / "cache"),
        args=trainer(tmp_path, "kd").args,
        train_dataset=rows(),
        data_collator=collate,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", KdzooWarning)
        made.train()
    assert not (tmp_path / "cache").exists()


# --- what the teacher is given ----------------------------------------------------------------------------------------


def logged(
    folder: Path, objective: Any = None, *, data: Any = None, collator: Any = collate, cache: Any, **more: Any
) -> Any:
    """The losses of three steps, and the trainer."""
    made = trainer(
        folder, objective=objective or Objective([Term("kd")]), data=data, max_steps=3, also={"cache": cache}, **more
    )
    made.data_collator = collator
    made.train()
    return [[v for k, v in sorted(e.items()) if k.startswith("loss")] for e in made.state.log_history[:3]], made


def test_collators_that_cut_otherwise_have_their_own(tmp_path: Path) -> None:
    for length in (99, 5, 7):

        def cutting(batch: list[dict[str, Any]], length: int = length) -> dict[str, Any]:
            return collate([{k: v[:length] if isinstance(v, list) else v for k, v in row.items()} for row in batch])

        live, _ = logged(tmp_path, collator=cutting, cache=None)
        kept, made = logged(tmp_path, collator=cutting, cache=TeacherCache(tmp_path / "cache"))
        np.testing.assert_allclose(kept, live, rtol=1e-4)
        assert made.teacher_rows is not None
    assert len([*(tmp_path / "cache").iterdir()]) == 3


class Masking:
    """Replaces random tokens, by numbers of its own or by torch's."""

    def __init__(self, own: bool) -> None:
        self.generator = torch.Generator().manual_seed(0) if own else None

    def __call__(self, batch: list[dict[str, Any]]) -> dict[str, Any]:
        made = collate(batch)
        hidden = torch.rand(made["input_ids"].shape, generator=self.generator) < 0.3
        return made | {"input_ids": made["input_ids"].masked_fill(hidden, 4)}


@pytest.mark.parametrize("own", [True, False])
def test_a_collator_that_draws_numbers_runs_live(own: bool, tmp_path: Path) -> None:
    live, _ = logged(tmp_path, collator=Masking(own), cache=None, train_sampling_strategy="sequential")
    cache = TeacherCache(tmp_path / "cache")
    with pytest.warns(KdzooWarning, match="the collator makes something else of the same rows each time; it runs live"):
        kept, made = logged(tmp_path, collator=Masking(own), cache=cache, train_sampling_strategy="sequential")
    assert made.teacher_rows is None
    if not own:  # trying the collator out leaves the numbers as they would have been
        np.testing.assert_allclose(kept, live, rtol=1e-6)


def test_a_collator_that_makes_something_else_in_training_runs_live(tmp_path: Path) -> None:
    """Rows beyond those that are tried out are checked batch by batch."""
    data = rows(200, seed=5)

    def late(batch: list[dict[str, Any]]) -> dict[str, Any]:
        made = collate(batch)  # the teacher is given eight rows at a time, and the training four
        return made | {"input_ids": made["input_ids"].clamp_max(50)} if len(batch) == 4 else made

    with pytest.warns(
        KdzooWarning, match="other inputs of these rows than those that the teacher's cache was made from"
    ):
        kept, made = logged(tmp_path, data=data, collator=late, cache=TeacherCache(tmp_path / "cache"))
    assert made.teacher_rows is None and next(made.teacher.parameters()).device == made.args.device
    live, _ = logged(tmp_path, data=data, collator=late, cache=None)
    np.testing.assert_allclose(kept, live, rtol=1e-4)


@pytest.mark.parametrize("recipe", ["kd", "pkd", "tinybert", "minilm"])
def test_rows_padded_to_one_length(recipe: str, tmp_path: Path) -> None:
    def padded(row: dict[str, Any]) -> dict[str, Any]:
        names = ("input_ids", "attention_mask", "token_type_ids")
        return {name: row[name] + [0] * (13 - len(row[name])) for name in names} | {"length": 3}  # which counts nothing

    data = rows().map(padded)
    found = []
    for cache in (None, TeacherCache(tmp_path / "cache")):
        made = trainer(tmp_path, recipe, data=data, max_steps=3, also={"cache": cache})
        made.train()
        found.append([[v for k, v in sorted(e.items()) if k.startswith("loss")] for e in made.state.log_history[:3]])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
    sizes = {path.stat().st_size for path in (tmp_path / "cache").glob("*/hidden-*.safetensors")}
    real = sum(sum(mask) for mask in data["attention_mask"])
    assert all(size - real * 32 * 4 < 512 for size in sizes), "padding is not stored"


@pytest.mark.parametrize("head", ["TokenClassification", "MaskedLM"])
def test_logits_of_tokens(head: str, tmp_path: Path) -> None:
    import transformers

    def model(seed: int) -> Any:
        torch.manual_seed(seed)
        return getattr(transformers, f"BertFor{head}")(tiny("bert").config)

    data = rows(24).map(lambda row: {"labels": [i % 3 for i in range(len(row["input_ids"]))]})

    def collator(batch: list[dict[str, Any]]) -> dict[str, Any]:
        labels = [torch.tensor(row["labels"]) for row in batch]
        made = collate([{k: v for k, v in row.items() if k != "labels"} for row in batch])
        return made | {"labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)}

    found = []
    for cache in (None, TeacherCache(tmp_path / "cache")):
        losses, _ = logged(tmp_path, data=data, collator=collator, cache=cache, model=model(1), guide=model(2))
        found.append(losses)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
    size = TeacherCache(tmp_path).nbytes(model(2), data, Needs())
    (file,) = (tmp_path / "cache").glob("*/logits.safetensors")
    assert 0 < file.stat().st_size - size < 512


def test_a_dynamically_quantised_teacher_runs_live(tmp_path: Path) -> None:
    """It rounds by the range of the whole batch, so that a row's numbers are not its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guide = torch.ao.quantization.quantize_dynamic(teacher(), {torch.nn.Linear}, dtype=torch.qint8)
        live, _ = logged(tmp_path, cache=None, guide=guide)
    with pytest.warns(KdzooWarning, match="its layers are quantised dynamically, by the range of the whole batch"):
        kept, _ = logged(tmp_path, cache=TeacherCache(tmp_path / "cache"), guide=guide)
    np.testing.assert_allclose(kept, live, rtol=1e-6)


def test_rows_padded_on_the_left_run_live(tmp_path: Path) -> None:
    def left(batch: list[dict[str, Any]]) -> dict[str, Any]:
        flipped = collate([{k: v[::-1] if isinstance(v, list) else v for k, v in row.items()} for row in batch])
        return {k: v.flip(1) if v.dim() == 2 else v for k, v in flipped.items()}

    objective = lambda: Objective([Term("hidden_mse", feature="cls"), Term("kd")])  # noqa: E731
    live, _ = logged(tmp_path, objective(), collator=left, cache=None)
    with pytest.warns(KdzooWarning, match="it runs live"):
        kept, made = logged(tmp_path, objective(), collator=left, cache=TeacherCache(tmp_path / "cache"))
    np.testing.assert_allclose(kept, live, rtol=1e-5)
    assert made.teacher_rows is None


def test_columns_of_a_fixed_size_are_known_by_their_values(tmp_path: Path) -> None:
    from datasets import Features, List, Value

    kind = List(Value("int64"), length=12)
    features = Features(
        {"input_ids": kind, "attention_mask": kind, "labels": Value("int64"), "sample_ids": Value("int64")}
    )
    data = rows(24, length=12).remove_columns(["length", "token_type_ids"]).cast(features)
    for _ in range(2):
        logged(tmp_path, data=data, cache=TeacherCache(tmp_path / "cache"))
    assert len([*(tmp_path / "cache").iterdir()]) == 1


def test_pooled_states_are_kept(tmp_path: Path) -> None:
    objective = lambda: Objective([Term("cosine", feature="pooled", layers=[(2, 4)], student_dim=16, teacher_dim=32)])  # noqa: E731
    live, _ = logged(tmp_path, objective(), cache=None)
    kept, _ = logged(tmp_path, objective(), cache=TeacherCache(tmp_path / "cache"))
    np.testing.assert_allclose(kept, live, rtol=1e-4)
    assert [*(tmp_path / "cache").glob("*/pooled-4.safetensors")]
