from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from pages import Reader, text_of
from run_writer import PLANS, RunWriter

from gtvbench.bench.core.errors import StoreError
from gtvbench.bench.study.record import ArmRecord
from gtvbench.reports.analysis import contrasts
from gtvbench.reports.analysis import scores as tables
from gtvbench.reports.figures import violins
from gtvbench.reports.page.build import build_report
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.sentences import caveats

NewRun = Callable[..., Any]  # the fixture of conftest.py: RunWriter
HOSTILE = "<b>x</b>\"'&\n\u202eevil $a_b$ %{x}"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (folder / "report").rglob("*") if p.is_file()}


def test_the_page_holds_everything_asks_for_nothing_and_its_links_lead_somewhere(whole: Path, whole_page: str) -> None:
    reader = Reader(whole_page)
    assert len(set(reader.ids)) == len(reader.ids)
    inside = {address for address in reader.addresses if address.startswith("#")}
    assert {address[1:] for address in inside} <= set(reader.ids)
    files = {address.split("#")[0] for address in reader.addresses} - {""}
    assert files and sorted(name for name in files if not (whole / "report" / unquote(name)).is_file()) == []
    assert "default-src 'none'" in whole_page
    assert "@import" not in whole_page.split("<script")[0]
    assert len(whole_page.encode()) < 3_000_000


def test_the_page_says_what_was_compared_and_what_to_be_careful_about(whole_page: str) -> None:
    text = Reader(whole_page).text
    for words in (
        "6 arms compared on 8 test patients.", "16 training, 2 validation, 8 test", "random-margin(0, 20) mm",
        "Synthetic data.", "Published weights, verified.", "(SHA-256 79d8c9dca6db…)",
        "Training cut short.", "8 of 20 epochs", "highest mean DSC",
        "8 of 8 test cases have this structure.", "6 of 8 test cases have this structure.", "Box alone",
        "The leader was chosen by looking at it", "oracle localisation", "What this does not show", "Some Processor",
        "Another cohort.",
        "0.82 ± 0.07",
        "They are not results on the test set", "at 2 mm", "Distances by surface-distance 0.1, 95th percentile."
    ):  # fmt: skip
        assert words in text, words
    assert "Failed arms" not in text
    assert "Few patients" not in text


FIGURES = {
    "flow", "time-slice", "time-case", "training-0", "training-1",
    *(f"{kind}-{k}" for kind in ("violin", "forest") for k in range(4)),
    *(f"{kind}-{metric}-{k}" for kind in ("volume", "profile", "ranks")
      for metric in ("dsc", "hd95") for k in range(2)),
    *(f"bland-altman-{kind}-{k}" for kind in ("ml", "ratio") for k in range(2)),
}  # fmt: skip


def test_every_figure_stands_in_the_page_once_and_marks_tell_their_case(whole_page: str) -> None:
    drawn = re.findall(r'<div class="plot"[^>]*>(<svg.*?</svg>)', whole_page, re.DOTALL)
    names = [min(FIGURES, key=lambda name: (f'id="{name}-figure_1"' not in svg, name)) for svg in drawn]
    assert sorted(names) == sorted(FIGURES) and len(drawn) == whole_page.count("<svg")
    first = next(svg for svg in drawn if 'id="violin-0-figure_1"' in svg)
    panel = re.findall(r'<a href="cases/(\S+)\.html" tabindex="-1"><title>([^<]*)</title>', first)
    assert len(panel) == 6 * 8 and len({case for case, _ in panel}) == 8
    assert all(case in words for case, words in panel)
    assert any(words.startswith("box-fill, PHA-025: 0.") for _, words in panel)


def test_another_process_makes_the_same_bytes_of_the_same_tables_without_torch_or_image_libraries(whole: Path) -> None:
    first = contents(whole)
    (whole / "report" / "index.html").write_text("old")
    code = (
        "import sys; from pathlib import Path; import gtvbench.reports.paper.write\n"
        "from gtvbench.reports.page.build import build_report\n"
        "assert build_report(Path(sys.argv[1])) == Path(sys.argv[1]) / 'report' / 'index.html'\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('torch', 'SimpleITK', 'timm')"
        " or m.startswith(('gtvbench.adapters', 'gtvbench.datasets', 'gtvbench.bench.run.run'))]\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(whole)], check=True, env=os.environ | {"PYTHONHASHSEED": "3"})
    assert contents(whole) == first
    assert set(first) == {"index.html", "stats.json", *(f"PHA-0{number}.html" for number in range(25, 33))}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose names are hostile, whose messages have paths, and whose failures are alike; and its report."""
    writer = RunWriter(patients=3, structures=("GTV-T", HOSTILE), plans=PLANS[:2])
    writer.fail("box-fill", writer.cases, "crashed")
    writer.study |= {"study": HOSTILE}
    renamed = {writer.cases[0]: "</script><script>alert(1)</script>"}
    writer.scores = writer.scores.replace({"case": renamed, "patient": renamed})
    writer.arms[0] |= {"reason": "<img src=x onerror=alert(1)>", "options": {"<i>": HOSTILE}}
    writer.arms[1] |= {"status": "failed", "reason": "see /home/dr.who/log.txt"}
    writer.provenance["notes"] += [HOSTILE]
    writer.failures += [
        {"step": "<s>", "arm": "<u>", "case": None, "status": "", "message": HOSTILE, "traceback": "<x>\n<y>"}
    ]
    folder: Path = writer.write(tmp_path_factory.mktemp("odd") / "run")
    build_report(folder)
    return folder


def test_hostile_names_are_shown_and_never_obeyed(odd: Path) -> None:
    for path in (odd / "report").rglob("*.html"):
        source = path.read_text(encoding="utf-8")
        reader = Reader(source)
        assert reader.tags.count("script") == (path.name == "index.html")
        assert not {"b", "img", "i", "s", "u", "x"} & set(reader.tags)
        assert "\u202e" not in source
        assert not [address for address in reader.addresses if ":" in address]
    text = Reader((odd / "report" / "index.html").read_text(encoding="utf-8")).text
    assert "<b>x</b>\"'&\\n\\u202eevil $a_b$ %{x}" in text
    assert "</script><script>alert(1)</script>" in text


def test_paths_do_not_leave_with_the_report_and_failures_that_are_alike_are_told_once(odd: Path) -> None:
    for content in contents(odd).values():
        assert b"dr.who" not in content
        assert b"/srv/" not in content
    text = Reader((odd / "report" / "index.html").read_text(encoding="utf-8")).text
    for words in ('File "…/x.py", line 3', "Failed arms.", "…/log.txt", "4 steps did not succeed."):
        assert words in text, words
    assert text.count("out of memory while reading '…/PHA.nii.gz'") == 1
    assert "cases PHA-025, PHA-026 and PHA-027" in text


def test_one_arm_and_one_patient_are_enough_and_what_is_no_longer_part_of_the_run_leaves_the_report(
    tmp_path: Path,
) -> None:
    plans = PLANS[:1]
    build_report(RunWriter(patients=2, structures=("GTVp",), plans=plans).write(tmp_path / "run"))
    assert "PHA-026.html" in contents(tmp_path / "run")
    page = build_report(RunWriter(patients=1, structures=("GTVp",), plans=plans).write(tmp_path / "run"))
    assert set(contents(tmp_path / "run")) == {"index.html", "stats.json", "PHA-025.html"}
    text = Reader(page.read_text()).text
    for words in ("1 arm compared on 1 test patient.", "Few patients.", "There is no other arm to compare it with."):
        assert words in text, words
    assert "Published results" not in text


def test_equal_scores_are_a_tie_not_a_ranking_and_a_structure_that_nobody_has_gets_no_mean(tmp_path: Path) -> None:
    writer = RunWriter(patients=6)
    same = writer.scores["status"].eq("ok") & writer.scores["metric"].isin(["dsc", "hd95_mm"])
    writer.scores.loc[same, "value"] = 0.5
    rows = writer.scores["structure"].eq("GTV-N")
    writer.scores.loc[rows, "status"] = "both_empty"
    volumes = writer.scores["metric"].str.contains("volume")
    writer.scores.loc[rows & ~volumes, ["value", "raw"]] = np.nan
    writer.scores.loc[rows & volumes, ["value", "raw"]] = 0.0
    source = build_report(writer.write(tmp_path / "run")).read_text()
    text = Reader(source).text
    for words in (
        "None: 6 arms share this mean to three decimals.",
        "0 of 4 other arms have a higher mean.",
        "No test case has this structure; see false positives.",
    ):
        assert words in text, words
    assert 'id="volume-dsc-0-' in source and 'id="volume-dsc-1-' not in source


def test_an_arm_whose_every_case_failed_is_a_row_of_zeros_and_scores_may_be_infinite_or_missing(tmp_path: Path) -> None:
    writer = RunWriter(structures=("GTV-T",), plans=PLANS[:3])
    writer.fail("box-fill", writer.cases, "timeout")
    writer.timing.pop("box-fill")
    writer.arms[1] |= {"status": "failed", "reason": "8 of 8 cases have no prediction"}
    writer.scores.loc[writer.scores["metric"].eq("hd95_mm"), "raw"] = np.inf
    index = writer.scores.index[writer.scores["metric"].eq("dsc") & writer.scores["status"].eq("ok")][0]
    writer.scores.loc[index, "value"] = np.nan
    text = Reader(build_report(writer.write(tmp_path / "run")).read_text()).text
    for words in (
        "0.000 ± 0.000",
        "100 %",
        "box-fill: 8 of 8 cases have no prediction",
        "Scores missing. 1 score that should exist",
    ):
        assert words in text, words


def test_a_run_under_way_is_shown_as_far_as_it_is(read: Callable[[Any], FinishedRun]) -> None:
    writer = RunWriter(structures=("GTV-T", "Oral cavity"))
    last = writer.plans[-1].name
    writer.scores = writer.scores[(writer.scores["arm"] != last) & (writer.scores["case"] != writer.cases[-1])]
    writer.timing.pop(last)
    writer.epochs.pop(last)
    text = text_of(read(writer))
    for words in ("Run not finished.", "1 test patient without any score", "5 arms compared"):
        assert words in text, words
    assert "Another cohort" not in text, "published results are of GTV-T and GTV-N"


def test_a_run_without_any_score_still_says_why(tmp_path: Path) -> None:
    writer = RunWriter()
    writer.scores = writer.scores.iloc[:0]
    writer.timing, writer.epochs = {}, {}
    for arm in writer.arms:
        arm |= {"status": "skipped", "reason": "weights not found"}
    text = Reader(build_report(writer.write(tmp_path / "run")).read_text()).text
    for words in ("Nothing is scored yet.", "weights not found", "No times were recorded."):
        assert words in text, words


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    writer = RunWriter(patients=1)
    writer.scores = writer.scores.iloc[:0]
    folder = writer.write(tmp_path / "run")
    (folder / "report").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written") as caught:
        build_report(folder)
    assert "bench report" in str(caught.value.remedy)


def test_a_violin_has_the_extent_of_its_values() -> None:
    values = np.array([0.2, 0.4, 0.5, 0.9, 0.4, 0.5, 0.6, 0.45, 0.55, 0.5])
    outline = violins.density(values)
    assert (outline[0][0], outline[-1][0]) == (0.2, 0.9)
    assert max(half for _, half in outline) == 1.0
    assert violins.density(values[:3]) == violins.density(np.full(19, 0.5)) == ()


def test_failed_cases_stand_in_a_band_of_their_own(read: Callable[[Any], FinishedRun]) -> None:
    writer = RunWriter()
    writer.fail("box-fill", writer.cases[:2], "crashed")
    run = read(writer)
    wide = tables.wide_scores(run.scores)
    panel = violins.panel(wide, "GTV-T", "hd95_mm", run.scored_arms, 0)
    assert panel is not None
    assert panel.gutter is not None
    row = next(row for row in panel.rows if row.label == "box-fill")
    lost = [point for point in row.points if point.failed]
    assert len(lost) == 2
    assert all(panel.gutter < point.x < panel.end for point in lost)
    assert "292.0 mm (crashed, penalty)" in lost[0].words
    assert "2 failed" in row.note
    assert max(tick for tick, text in panel.ticks if text != "failed") < panel.gutter
    assert violins.panel(wide, "Nothing", "dsc", run.scored_arms, 0) is None


def test_colour_tells_the_method_and_marker_the_fusion() -> None:
    fusions = ("ct-only", "multimodal")
    arms = [ArmRecord(arm=f"{m}.{f}", method=m, fusion=f, status="complete") for m in "abcdefgh" for f in fusions]
    style = violins.styles(arms)
    assert style["a.ct-only"][0] == style["a.multimodal"][0] != style["b.ct-only"][0]
    assert style["a.ct-only"][1] != style["a.multimodal"][1]
    assert {colour for colour, _ in style.values()} <= set(violins.OKABE_ITO)


def test_a_long_name_loses_its_middle_in_figures_only() -> None:
    assert violins.shorten("a" * 40 + "b" * 40, 11) == "aaaaa…bbbbb"
    assert len(violins.shorten("x" * 300)) == 36


def test_structures_with_the_same_margin_are_named_together() -> None:
    options = contrasts.StatisticsOptions.model_validate({"dsc-margin": {"A": 0.05, "B": 0.05, "C": 0.1}})
    assert caveats.margins(options, ("A", "B", "C")).startswith("a margin of 0.05 (A and B) and 0.1 (C) in DSC")
    assert caveats.margins(options, ("A", "B")).startswith("a margin of 0.05 in DSC")
