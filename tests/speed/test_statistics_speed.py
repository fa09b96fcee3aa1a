"""The whole analysis of 100 patients x 8 arms x 2 structures with 10,000 resamples.

    pytest tests/speed/test_statistics_speed.py --benchmark-enable --benchmark-only

The target is 30 s on two cores; run it with nothing else on the machine.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from simulated import write_simulated_run

from gtvbench.reports.analysis.analysis import analyse, as_json
from gtvbench.reports.analysis.scores import wide_scores
from gtvbench.reports.run.load import FinishedRun, read_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The simulated table, with a few crashes and a fifth of the patients without nodes."""
    folder = tmp_path_factory.mktemp("speed") / "run"
    return read_run(write_simulated_run(folder, 100, seed=1, failed=0.01, lack_last=0.2))


def test_the_whole_analysis(benchmark: BenchmarkFixture, run: FinishedRun) -> None:
    wide = wide_scores(run.scores)
    results = benchmark.pedantic(analyse, args=(run, wide), rounds=3, warmup_rounds=1)
    assert results.options.resamples == 10_000 and len(as_json(results)["contrasts"]) == 2 * 2 * 28
