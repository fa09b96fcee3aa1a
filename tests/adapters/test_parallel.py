"""Ranks that train together: what the first returns is returned, and whoever falls ends the fit and says why."""

import time
from typing import Any

import psutil
import pytest
import torch
from ranks import fall

from gtvbench.adapters import parallel
from gtvbench.adapters.parallel import rank_and_ranks, require_devices, together
from gtvbench.bench.core.errors import BenchError


def spawned() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]


def test_one_process_is_a_call_and_knows_no_ranks() -> None:
    def do(number: int, recorder: Any, device: str) -> tuple[int, Any, str, tuple[int, int]]:
        return number, recorder, device, rank_and_ranks()

    assert together(1, "cuda", do, 4, recorder="r") == (4, "r", "cuda", (0, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "number", "message"),
    [
        ("killed", 1, r"rank 1 of 2 of the fit was killed by signal 9"),
        ("raised", 1, r"(?s)rank 1 of 2 of the fit raised: LookupError: no such slice.*in fall"),
        ("told", 0, r"^the learning rate is too high$"),
    ],
)
def test_a_rank_that_falls_ends_the_fit_at_once_and_leaves_nothing(
    how: str, number: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    with pytest.raises(BenchError, match=message):
        together(2, "cpu", fall, how, number, recorder=None)  # type: ignore[arg-type]
    assert time.monotonic() - start < 40, "most of it is the import of torch"
    assert not spawned() and rank_and_ranks() == (0, 1)
    assert ("rank 1: LookupError" in capfd.readouterr().err) == (how == "raised"), "the log holds the traceback"


def test_what_the_first_rank_alone_raises_comes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_GRACE_S", 1.0)
    with pytest.raises(LookupError, match="no such slice"):
        together(2, "cpu", fall, "raised", 0, recorder=None)  # type: ignore[arg-type]
    assert not spawned()


def test_gpus_that_are_not_there_are_told_before_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    require_devices(1, "cuda")
    require_devices(4, "cpu")
    for device in ("cuda", "mps"):
        with pytest.raises(BenchError, match=r"(?s)is to use 2 GPUs, but this process sees 1.*gpus-per-fit"):
            require_devices(2, device)
