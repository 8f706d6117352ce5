"""Launch constants from a file: taken where they are for, refused where they are none, and ours without it."""

from __future__ import annotations

import json
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from test_ahead_of_time import TARGETS, launches_of, resources

from kdzoo.bench.measure.workloads import workload
from kdzoo.kernels import backend, cos_nce, info_nce, tuning
from kdzoo.kernels.backend import KernelError, has_triton, interpreting
from kdzoo.kernels.info_nce import tiling
from kdzoo.kernels.tuning import VARIABLE, trying, tuned

OURS = {"block_m": 64, "num_warps": 8}


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(backend, "architecture", lambda: "sm_90")
    tuning._read.cache_clear()


def given(folder: Path, monkeypatch: pytest.MonkeyPatch, content: Any) -> None:
    path = folder / "tuning.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    monkeypatch.setenv(VARIABLE, str(path))


def test_ours_without_a_file() -> None:
    assert tuned("info_nce", "c", OURS) is OURS


def test_what_was_measured_for_the_architecture_the_kernel_and_the_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(tmp_path, monkeypatch, {"sm_90": {"info_nce": {"c": {"block_m": 128}}}})
    assert tuned("info_nce", "c", OURS) == {"block_m": 128, "num_warps": 8}
    assert tuned("info_nce", "d", OURS) == tuned("cos_nce", "c", OURS) == OURS
    monkeypatch.setattr(backend, "architecture", lambda: "sm_80")
    assert tuned("info_nce", "c", OURS) == OURS


def test_what_is_tried_comes_first_and_only_within() -> None:
    with trying("info_nce", {"num_warps": 4}) as classes:
        assert tuned("info_nce", "c", OURS) == {"block_m": 64, "num_warps": 4}
        assert tuned("cos_nce", "c", OURS) is OURS
    assert classes == ["c"] and tuned("info_nce", "c", OURS) is OURS


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "not of the form"),
        ({"sm_90": {"info_nce": {"c": {"block_m": "128"}}}}, "not of the form"),
        ({"sm_90": {"info_nce": {"block_m": 128}}}, "not of the form"),
        ({"sm_90": {"info_nce": {"c": {"block_q": 128}}}}, "block_q is no constant of it; they are block_m, num_warps"),
    ],
)
def test_a_file_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, words: str
) -> None:
    given(tmp_path, monkeypatch, content)
    with pytest.raises(KernelError) as raised:
        tuned("info_nce", "c", OURS)
    assert words in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_86", "sm_90", "sm_120", "gfx942", "gfx1100"])
def test_tiles_fit_into_shared_memory(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "architecture", lambda: architecture)
    for dtype, width, rows, slots in product((torch.float32, torch.bfloat16), (37, 128, 256, 768), (8, 999), (1, 500)):
        tile = tiling.tiling(rows, slots, width, dtype)
        assert tiling.shared(tile, width, dtype) <= backend.shared_bytes()
    with trying("info_nce", {"block_m": 512}), pytest.raises(KernelError, match=r"512.* KB of shared memory and "):
        tiling.tiling(999, 1, 256, torch.bfloat16)


def test_256_columns_are_held_where_there_is_room() -> None:
    tile = tiling.tiling(32768, 1, 256, torch.bfloat16)
    assert tile == {"block_m": 128, "block_n": 64, "block_k": 256, "block_d": 256, "num_warps": 8, "num_stages": 3}
    assert tiling.held(tile, 256, torch.bfloat16) and not tiling.held(tile, 257, torch.bfloat16)


def shown(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="meta")


CALLS = {
    "info_nce": partial(info_nce.run, shown(32768, 256), shown(32768, 256), *[None] * 4),
    "cos_nce": partial(cos_nce.run, shown(256, 4, 128, 768), shown(256, 4, 128, 768), *[None] * 4),
}
REST = {"info_nce": (0, 0.07, False, True, "triton"), "cos_nce": (True, "triton")}


@pytest.mark.slow
@pytest.mark.skipif(interpreting() or not has_triton(), reason="needs triton's compiler")
@pytest.mark.parametrize("name", CALLS)
def test_what_is_to_be_tried_compiles_without_spilling(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the shape that it is for, on sm_90: a minute of a GPU is too dear for what cannot be fast."""
    target, shared, _ = TARGETS["sm_90"]
    call = partial(CALLS[name], torch.empty((), device="meta"), *REST[name])
    for constants in workload(name).candidates:
        with trying(name, dict(constants)) as classes:
            launches = launches_of(lambda: [call], monkeypatch)
        assert launches and classes
        for launch in launches:
            used = resources(launch.compiled(target), target[0], tmp_path)
            assert not used["spilt"] and used["shared"] <= shared, (constants, used)
            if launch.kernel.__name__ == "attend_kernel":  # what is reckoned with is no less
                tile = dict(launch.constants) | dict(launch.options)
                tile = {name.lower(): value for name, value in tile.items()}
                assert used["shared"] <= tiling.shared(tile, 256, torch.bfloat16), (constants, used)
