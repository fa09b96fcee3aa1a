"""Encoding against the plain float32 eager timm encoder that runs once per box.

    pytest tests/speed/test_encoding.py --benchmark-enable --benchmark-only   (pytest-benchmark's table)
    python tests/speed/test_encoding.py [--rounds 15] [--compile]             (medians and ratios, interleaved)

Run it with nothing else on the machine. The script times the variants in turn within every round, so that a slow moment
of the machine meets all of them, and compares medians.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from gtvbench.adapters.litemedsam.fast import FastLiteMedSAM
from gtvbench.adapters.litemedsam.model import LiteMedSAM

CPU = torch.device("cpu")
BOXES = (1, 3)
TARGETS = {1: 1.4, 3: 3.5}
_log = logging.getLogger(__name__)


def plain_once_per_box(model: LiteMedSAM, image: Tensor, boxes: int) -> Tensor:
    """What a user of the plain network does: encode the slice again for every box."""
    with torch.inference_mode():
        return torch.cat([model.encode(image) for _ in range(boxes)])


def variants(size: int, *, compiled: bool = False) -> dict[str, Callable[[Tensor, int], Tensor]]:
    """Name -> function of (image, boxes)."""
    torch.manual_seed(0)
    model = LiteMedSAM(size).eval()
    fast = FastLiteMedSAM(model, CPU)
    rough = FastLiteMedSAM(model, CPU, "bfloat16")
    found: dict[str, Callable[[Tensor, int], Tensor]] = {
        "plain": lambda image, boxes: plain_once_per_box(model, image, boxes),
        "fast": lambda image, boxes: fast.encode(image),
        "bfloat16": lambda image, boxes: rough.encode(image),
    }
    if compiled:
        quick = FastLiteMedSAM(model, CPU)
        quick.model.encode = torch.compile(quick.model.encode)  # type: ignore[method-assign]
        found["fast + torch.compile"] = lambda image, boxes: quick.encode(image)
    return found


@pytest.mark.parametrize("boxes", BOXES)
@pytest.mark.parametrize("name", ["plain", "fast", "bfloat16"])
def test_encoding(benchmark: BenchmarkFixture, name: str, boxes: int) -> None:
    run = variants(256)[name]
    image = torch.rand(1, 3, 256, 256)
    benchmark.pedantic(run, args=(image, boxes), warmup_rounds=2, rounds=9)


def test_the_fast_encoder_returns_what_the_plain_one_does() -> None:
    run = variants(256)
    image = torch.rand(1, 3, 256, 256)
    assert (run["fast"](image, 1) - run["plain"](image, 1)).abs().max() < 1e-4


def measure(size: int, rounds: int, *, compiled: bool) -> dict[int, dict[str, float]]:
    """Median seconds of every variant, by boxes a slice."""
    run = variants(size, compiled=compiled)
    image = torch.rand(1, 3, size, size)
    medians = {}
    for boxes in BOXES:
        times: dict[str, list[float]] = {name: [] for name in run}
        for number in range(rounds + 2):
            for name, encode in run.items():
                start = time.perf_counter()
                encode(image, boxes)
                if number >= 2:
                    times[name].append(time.perf_counter() - start)
        medians[boxes] = {name: statistics.median(values) for name, values in times.items()}
    return medians


def main() -> None:
    """Measure and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    _log.info("torch %s, %d threads, %d px", torch.__version__, torch.get_num_threads(), options.size)
    for boxes, medians in measure(options.size, options.rounds, compiled=options.compile).items():
        for name, seconds in medians.items():
            ratio = medians["plain"] / seconds
            _log.info("%d boxes  %-22s %8.1f ms  %.2fx", boxes, name, 1000 * seconds, ratio)
        met = medians["plain"] / medians["fast"] >= TARGETS[boxes]
        _log.info("%d boxes  target %.1fx %s", boxes, TARGETS[boxes], "met" if met else "MISSED")


if __name__ == "__main__":
    main()
