"""Scoring a 160 x 512 x 512 label map with two structures, against surface-distance on its masks.

    pytest tests/speed/test_scoring_speed.py --benchmark-enable --benchmark-only   (pytest-benchmark's table)
    pytest tests/speed/test_scoring_speed.py -k ratio                              (targets and equal values)
    python tests/speed/test_scoring_speed.py [--rounds 7]                          (medians and ratios, interleaved)

Run it with nothing else on the machine. "Theirs" is what a user of the package writes: a mask of each structure,
`compute_surface_distances`, DSC, HD95, NSD and mean surface distance. The stray case adds one false-positive voxel of
each structure in the corner that is farthest from its lesion.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pytest
import surface_distance
from pytest_benchmark.fixture import BenchmarkFixture

from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.core.scores import MEASURES
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.score import cases

GRID = Grid((160, 512, 512), (2.0, 0.9, 0.9))
STRUCTURES = structures_from({"GTV-T": 1, "GTV-N": 2})
TOLERANCES = {"GTV-T": 2.0, "GTV-N": 2.0}
TARGETS = {"compact": 1.0, "stray": 10.0}
Label = npt.NDArray[np.uint8]
_log = logging.getLogger(__name__)


def lesion(centre: tuple[int, int, int], diameter_mm: float) -> npt.NDArray[np.bool_]:
    """A ball on GRID."""
    z, y, x = (((np.arange(n) - c) * s) ** 2 for n, c, s in zip(GRID.shape, centre, GRID.spacing, strict=True))
    ball: npt.NDArray[np.bool_] = z[:, None, None] + y[:, None] + x <= (diameter_mm / 2) ** 2
    return ball


@lru_cache(maxsize=1)
def label_maps() -> dict[str, tuple[Label, Label]]:
    """Prediction and reference of each case: two lesions of 25 mm, predicted 2 mm off; then one stray voxel each."""
    maps = []
    for shift in (0, 1):
        label = np.empty(GRID.shape, np.uint8)
        label[:] = 0
        label[lesion((50 + shift, 180 + shift, 200), 25.0)] = 1
        label[lesion((70 + shift, 160 + shift, 300), 25.0)] = 2
        maps.append(label)
    reference, compact = maps
    stray = compact.copy()
    stray[-1, -1, -1], stray[-1, -1, 0] = 1, 2
    return {"compact": (compact, reference), "stray": (stray, reference)}


def ours(case: str) -> list[float]:
    prediction, reference = label_maps()[case]
    rows = cases.score_case(prediction, reference, GRID, STRUCTURES, TOLERANCES)
    return [row["value"] for row in rows if row["metric"] in MEASURES]


def theirs(case: str) -> list[float]:
    prediction, reference = label_maps()[case]
    found: list[float] = []
    for structure in STRUCTURES:
        masks = (reference == structure.value, prediction == structure.value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it imports from old SciPy names
            surfels = surface_distance.compute_surface_distances(*masks, GRID.spacing)
        found += [
            surface_distance.compute_dice_coefficient(*masks),
            surface_distance.compute_robust_hausdorff(surfels, 95),
            surface_distance.compute_surface_dice_at_tolerance(surfels, 2.0),
            float(np.mean(surface_distance.compute_average_surface_distance(surfels))),
        ]
    return found


def medians(case: str, rounds: int) -> tuple[float, float]:
    """Median seconds of ours and theirs, timed in turn within every round."""
    seconds: dict[Callable[[str], list[float]], list[float]] = {ours: [], theirs: []}
    for function in seconds:
        function(case)
    for _ in range(rounds):
        for function, taken in seconds.items():
            start = time.perf_counter()
            function(case)
            taken.append(time.perf_counter() - start)
    return statistics.median(seconds[ours]), statistics.median(seconds[theirs])


@pytest.mark.parametrize("case", list(TARGETS))
@pytest.mark.parametrize("function", [ours, theirs])
def test_scoring(benchmark: BenchmarkFixture, function: Callable[[str], list[float]], case: str) -> None:
    label_maps()
    rounds = 5 if case == "compact" else 3
    benchmark.pedantic(function, args=(case,), warmup_rounds=1, rounds=rounds)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("case", list(TARGETS))
def test_values_are_equal_and_the_ratio_of_medians_meets_its_target(case: str) -> None:
    assert ours(case) == theirs(case)
    own, package = medians(case, 5 if case == "compact" else 1)
    assert package / own >= TARGETS[case], f"{package:.3f} s against {own:.3f} s"


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for case in TARGETS:
        own, package = medians(case, rounds)
        equal = "equal" if ours(case) == theirs(case) else "DIFFERENT"
        _log.info(
            "%-8s ours %.3f s, surface-distance %.3f s, ratio %.1f, values %s", case, own, package, package / own, equal
        )


if __name__ == "__main__":
    main()
