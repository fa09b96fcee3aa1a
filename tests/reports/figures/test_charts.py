from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import simulated
from pages import Undrawn, page_of

from gtvbench.reports.analysis import scores
from gtvbench.reports.analysis.analysis import Results, analyse
from gtvbench.reports.figures import static_charts, vector, volume_figures
from gtvbench.reports.figures.charts import Axis, Chart, Rule, Series
from gtvbench.reports.figures.ranking_figures import Diagram, RankMap
from gtvbench.reports.page.sections import profiles, ranking, volumes
from gtvbench.reports.run.load import read_run

CHART = Chart(
    "c", "A chart", "How to read it.", Axis("x", log=True, range=(0.0, 2.0), ticks=((1.0, "1"), (100.0, "100"))),
    Axis("y", range=(0.0, 1.0)),
    (
        Series("band", "arm <b>", "#0072B2", (1.0, 10.0), (0.1, 0.2), (0.3, 0.4)),
        Series("line", "arm <b>", "#0072B2", (1.0, None, 10.0), (0.2, None, 0.3), dash="dash", legend=True),
        Series("points", "other", "#D55E00", (2.0, 3.0), (0.5, 0.6), marker="square", words=("a < b", "c"),
               cases=("P/1", "P2")),
    ),
    (Rule("y", 0.9, "dot", "90 %"), Rule("x", 5.0)),
)  # fmt: skip


QUICK = {"resamples": 1000}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Results]:
    folder = simulated.write_simulated_run(
        tmp_path_factory.mktemp("charts") / "run", 30, seed=2, failed=0.02, statistics=QUICK
    )
    run = read_run(folder)
    wide = scores.wide_scores(run.scores)
    return run, wide, analyse(run, wide)


def test_a_chart_shows_its_series_and_its_marks_tell_their_case() -> None:
    drawn = vector.inline(partial(static_charts.chart, CHART), "c")
    ET.fromstring(drawn)
    assert "arm &lt;b&gt;" in drawn and "<b>" not in drawn and "90 %" in drawn
    titles = re.findall(r'<a href="([^"]*)" tabindex="-1"><title>(.*?)</title><use ', drawn)
    assert [words for _, words in titles] == ["a &lt; b", "c"]
    assert titles[1][0] == "cases/P2.html" and re.fullmatch(r"cases/P_1-[0-9a-f]{10}\.html", titles[0][0])


def test_a_rank_map_prints_every_share_and_a_diagram_every_mean_rank() -> None:
    ranks = RankMap("r", "Ranks", (("best", (0.9, 0.1)), ("second", (0.1, 0.9))), "")
    drawn = vector.inline(partial(static_charts.rank_map, ranks), "r")
    assert all(f">{text}<" in drawn for text in ("best", "second", "90", "10"))
    diagram = Diagram("d", "Apart", (("best", 1.2), ("second", 1.8)), ((0, 1),), "")
    assert "second: 1.80" in vector.inline(partial(static_charts.critical_difference, diagram), "d")


@pytest.mark.parametrize("span", [(3.0, 50.0), (130.0, 330.0), (10.0, 12.0), (0.5, 900.0), (7.0, 7.0)])
def test_ticks_of_volume_lie_inside_and_are_neither_one_nor_many(span: tuple[float, float]) -> None:
    ticks = volume_figures.volume_ticks(*span)
    assert all(span[0] <= tick <= span[1] for tick in ticks)
    assert 3 <= len(ticks) <= 6 or span[0] == span[1]
    assert ticks == sorted(ticks)


def test_profiles_and_volumes_show_what_was_analysed(known: tuple[Any, Any, Results]) -> None:
    run, wide, results = known
    book = Undrawn()
    shown = profiles.profiles(run, results, book)
    assert [figure.id for figure in shown] == ["profile-dsc-0", "profile-hd95-0", "profile-dsc-1", "profile-hd95-1"]
    (axes,) = book.figures["profile-dsc-0"]().axes
    curve = next(line for line in axes.lines if line.get_label() == "nnunet-box.multimodal")
    own = results.profiles.query("structure == 'GTV-T' and metric == 'dsc' and arm == 'nnunet-box.multimodal'")
    assert list(curve.get_ydata()) == [round(v, 4) for v in own["share"]]
    parts = volumes.volumes(run, wide, results, book)
    assert "Wald chi-square" in parts[0]["parts"][0]["sentence"]
    assert parts[0]["parts"][0]["thirds"].rows
    failed = int(wide.query("failed and structure == 'GTV-N' and scope == 'volume'").shape[0])
    assert failed > 0 and f"{failed} mask" in parts[1]["parts"][1]["figure"].reading
    agreement = volumes.agreement(run, results, book)
    assert [figure.id for figure in agreement[0]["figures"]] == ["bland-altman-ml-0", "bland-altman-ratio-0"]


def test_a_diagram_stands_only_where_arms_could_be_told_apart(tmp_path: Path, known: tuple[Any, Any, Results]) -> None:
    run, _, results = known
    many = ranking.ranking(results.rankings, run.structures, Undrawn())
    assert [f.id for f in many[0]["parts"][0]["figures"]] == ["ranks-dsc-0", "apart-dsc-0"]
    few = read_run(simulated.write_simulated_run(tmp_path / "run", 8, seed=3, statistics=QUICK))
    found = ranking.ranking(analyse(few, scores.wide_scores(few.scores)).rankings, few.structures, Undrawn())
    assert [f.id for f in found[0]["parts"][0]["figures"]] == ["ranks-dsc-0"]
    assert "no two arms can be told apart after Holm" in found[0]["parts"][0]["sentence"]


def test_repetitions_get_a_section_of_their_own(tmp_path: Path) -> None:
    arms = ("nnunet.multimodal", "nnunet-box.multimodal")
    effects = {arm: simulated.EFFECTS[arm] for arm in arms}
    page = page_of(simulated.write_simulated_run(tmp_path / "run", 8, effects, seeds=(1, 2), seed=3, statistics=QUICK))
    assert 'id="repetitions"' in page and "Run-to-run spread" in page
    assert 'href="#repetitions"' in page
