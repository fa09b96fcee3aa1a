from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gtvbench.bench.core.errors import StoreError
from gtvbench.bench.study.record import ArmRecord
from gtvbench.reports.analysis import contrasts, scores
from gtvbench.reports.figures import violins
from gtvbench.reports.page.build import build_report
from gtvbench.reports.run.load import read_run
from gtvbench.reports.sentences import caveats

VOID = {"meta", "wbr", "br", "img", "link", "input", "hr"}
HOSTILE = "<b>x</b>\"'&\n\u202eevil $a_b$ %{x}"


class Reader(HTMLParser):
    """Collects ids, addresses and text, and fails on tags that do not match."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open, self._open
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = dict(attrs)
        self.ids += [named["id"] or ""] if "id" in named else []
        self.addresses += [
            value or "" for key, value in attrs if key in ("src", "href", "srcset", "action", "xlink:href")
        ]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open, tag
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("script", "style"):
            self.words.append(data)


def test_the_page_holds_everything_and_asks_for_nothing(whole_page: str) -> None:
    reader = Reader(whole_page)
    assert {a.split(":")[0].split("/")[0] for a in reader.addresses if not a.startswith("#")} == {"data", "cases"}
    assert "default-src 'none'" in whole_page
    assert "@import" not in whole_page.split("<script")[0]
    assert len(whole_page.encode()) < 3_000_000


def test_links_inside_the_page_lead_somewhere_and_ids_are_unique(whole_page: str) -> None:
    reader = Reader(whole_page)
    assert len(set(reader.ids)) == len(reader.ids)
    assert {a[1:] for a in reader.addresses if a.startswith("#")} <= set(reader.ids)


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


def test_every_figure_stands_in_the_page_once(whole_page: str) -> None:
    drawn = re.findall(r'<div class="plot"[^>]*>(<svg.*?</svg>)', whole_page, re.DOTALL)
    names = [min(FIGURES, key=lambda name: (f'id="{name}-figure_1"' not in svg, name)) for svg in drawn]
    assert sorted(names) == sorted(FIGURES) and len(drawn) == whole_page.count("<svg")


def test_marks_tell_their_case_and_lead_to_its_page(whole_page: str) -> None:
    first = re.search(r'<svg(?:(?!</svg>).)*id="violin-0-figure_1".*?</svg>', whole_page, re.DOTALL)
    assert first is not None
    panel = re.findall(r'<a href="cases/(\S+)\.html" tabindex="-1"><title>([^<]*)</title>', first[0])
    assert len(panel) == 6 * 8 and len({case for case, _ in panel}) == 8
    assert all(case in words for case, words in panel)
    assert any(words.startswith("box-fill, PHA-025: 0.") for _, words in panel)


def test_the_same_tables_give_the_same_bytes(run_folder: Path) -> None:
    def contents() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (run_folder / "report").rglob("*") if p.is_file()}

    index = build_report(run_folder)
    assert index == run_folder / "report" / "index.html"
    first = contents()
    index.write_text("old")
    build_report(run_folder)
    assert contents() == first
    assert not [name for name in first if name.startswith(".")]
    assert set(first) == {"index.html", "stats.json", *(f"PHA-0{number}.html" for number in range(25, 33))}


def test_rendering_imports_neither_torch_nor_image_libraries() -> None:
    code = (
        "import sys, gtvbench.reports.page.build, gtvbench.reports.paper.write\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('torch', 'SimpleITK', 'timm')"
        " or m.startswith(('gtvbench.adapters', 'gtvbench.datasets', 'gtvbench.bench.run.run'))]\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_hostile_names_are_shown_and_never_obeyed(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    writer = new_run(patients=3, structures=("GTV-T", HOSTILE))
    writer.study["study"] = HOSTILE
    renamed = "</script><script>alert(1)</script>"
    writer.scores["case"] = writer.scores["case"].replace({writer.cases[0]: renamed})
    writer.scores["patient"] = writer.scores["case"]
    writer.arms[0]["reason"] = "<img src=x onerror=alert(1)>"
    writer.arms[0]["options"] = {"<i>": HOSTILE}
    writer.provenance["notes"] = [HOSTILE]
    writer.failures = [
        {"step": "<s>", "arm": "<u>", "case": None, "status": "", "message": HOSTILE, "traceback": "<x>\n<y>"}
    ]
    source = build_report(writer.write(tmp_path / "run")).read_text(encoding="utf-8")
    reader = Reader(source)
    assert reader.tags.count("script") == 1
    assert not {"b", "img", "i", "s", "u", "x"} & set(reader.tags)
    assert "\u202e" not in source
    assert "<b>x</b>\"'&\\n\\u202eevil $a_b$ %{x}" in reader.text
    assert renamed in reader.text


def test_paths_do_not_leave_with_the_report(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    writer = new_run(patients=3)
    writer.fail("box-fill", writer.cases[:1], "crashed")
    writer.arms[1] |= {"status": "failed", "reason": "see /home/dr.who/log.txt"}
    build_report(writer.write(tmp_path / "run"))
    for path in (tmp_path / "run" / "report").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"dr.who" not in content
            assert b"/srv/" not in content
    text = Reader((tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")).text
    assert "case PHA-025" in text
    for words in ("out of memory while reading '…/PHA.nii.gz'", 'File "…/x.py", line 3', "Failed arms.", "…/log.txt"):
        assert words in text


def test_failures_that_are_alike_are_told_once(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    writer = new_run(patients=3)
    writer.fail("box-fill", writer.cases, "crashed")
    text = Reader(build_report(writer.write(tmp_path / "run")).read_text(encoding="utf-8")).text
    assert "3 steps did not succeed." in text
    assert text.count("out of memory while reading") == 1
    assert "cases PHA-025, PHA-026 and PHA-027" in text


def test_one_arm_and_one_patient_are_enough(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    plans = (figure_plan(new_run),)
    source = build_report(new_run(patients=1, structures=("GTVp",), plans=plans).write(tmp_path / "run")).read_text()
    text = Reader(source).text
    assert "1 arm compared on 1 test patient." in text
    assert "Few patients." in text
    assert "Published results" not in text
    assert "There is no other arm to compare it with." in text


def figure_plan(new_run: Callable[..., Any]) -> Any:
    return new_run(patients=1).plans[0]


def test_equal_scores_everywhere_are_a_tie_not_a_ranking(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    writer = new_run(patients=6)
    same = writer.scores["status"].eq("ok") & writer.scores["metric"].isin(["dsc", "hd95_mm"])
    writer.scores.loc[same, "value"] = 0.5
    text = Reader(build_report(writer.write(tmp_path / "run")).read_text()).text
    assert "6 arms share this mean to three decimals" in text
    assert "0 of 4 other arms have a higher mean." in text
    assert "None: 6 arms share this mean to three decimals." in text


def test_an_arm_whose_every_case_failed_is_a_row_of_zeros(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    writer = new_run()
    writer.fail("box-fill", writer.cases, "timeout")
    writer.timing.pop("box-fill")
    writer.arms[1] |= {"status": "failed", "reason": "8 of 8 cases have no prediction"}
    text = Reader(build_report(writer.write(tmp_path / "run")).read_text()).text
    assert "0.000 ± 0.000" in text
    assert "100 %" in text
    assert "box-fill: 8 of 8 cases have no prediction" in text


def test_a_structure_that_no_test_patient_has_gets_no_mean(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    writer = new_run(patients=4)
    rows = writer.scores["structure"].eq("GTV-N")
    writer.scores.loc[rows, "status"] = "both_empty"
    volumes = writer.scores["metric"].str.contains("volume")
    writer.scores.loc[rows & ~volumes, ["value", "raw"]] = np.nan
    writer.scores.loc[rows & volumes, ["value", "raw"]] = 0.0
    source = build_report(writer.write(tmp_path / "run")).read_text()
    assert "No test case has this structure; see false positives." in Reader(source).text
    assert 'id="volume-dsc-0-' in source and 'id="volume-dsc-1-' not in source


def test_raw_values_may_be_infinite_and_scored_ones_missing(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    writer = new_run()
    writer.scores.loc[writer.scores["metric"].eq("hd95_mm"), "raw"] = np.inf
    index = writer.scores.index[writer.scores["metric"].eq("dsc") & writer.scores["status"].eq("ok")][0]
    writer.scores.loc[index, "value"] = np.nan
    text = Reader(build_report(writer.write(tmp_path / "run")).read_text()).text
    assert "Scores missing. 1 score that should exist" in text


@pytest.mark.parametrize("name", ["study.yaml", "provenance.json", "arms.json", "failures.json", "scores.parquet"])
def test_a_missing_table_is_named_with_its_remedy(run_folder: Path, name: str) -> None:
    (run_folder / name).unlink()
    with pytest.raises(StoreError) as caught:
        build_report(run_folder)
    assert caught.value.file is not None
    assert caught.value.file.endswith(name)
    assert "bench run" in str(caught.value.remedy)


@pytest.mark.parametrize("name", ["study.yaml", "arms.json", "scores.parquet"])
def test_a_damaged_table_is_named_with_its_remedy(run_folder: Path, name: str) -> None:
    (run_folder / name).write_bytes(b"\xff[{")
    with pytest.raises(StoreError, match="cannot be read") as caught:
        build_report(run_folder)
    assert str(caught.value.file).endswith(name)


def test_no_folder_a_table_of_another_shape_and_double_rows_are_refused(run_folder: Path) -> None:
    with pytest.raises(StoreError, match="no such run folder"):
        build_report(run_folder / "nowhere")
    scores = pd.read_parquet(run_folder / "scores.parquet")
    pd.concat([scores, scores.iloc[:1]]).to_parquet(run_folder / "scores.parquet")
    with pytest.raises(StoreError, match="there twice"):
        build_report(run_folder)
    scores.drop(columns="status").to_parquet(run_folder / "scores.parquet")
    with pytest.raises(StoreError, match="lacks the columns status"):
        build_report(run_folder)


def test_a_folder_that_cannot_be_written_is_said_so(run_folder: Path) -> None:
    (run_folder / "report").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written") as caught:
        build_report(run_folder)
    assert "bench report" in str(caught.value.remedy)


def test_a_run_under_way_is_shown_as_far_as_it_is(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    writer = new_run()
    last = writer.plans[-1].name
    writer.scores = writer.scores[(writer.scores["arm"] != last) & (writer.scores["case"] != writer.cases[-1])]
    writer.timing.pop(last)
    writer.epochs.pop(last)
    text = Reader(build_report(writer.write(tmp_path / "run")).read_text()).text
    assert "Run not finished." in text
    assert "1 test patient without any score" in text
    assert "5 arms compared" in text


def test_a_run_without_any_score_still_says_why(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    writer = new_run()
    writer.scores = writer.scores.iloc[:0]
    writer.timing, writer.epochs = {}, {}
    for arm in writer.arms:
        arm |= {"status": "skipped", "reason": "weights not found"}
    text = Reader(build_report(writer.write(tmp_path / "run")).read_text()).text
    assert "Nothing is scored yet." in text
    assert "weights not found" in text
    assert "No times were recorded." in text


def test_results_of_another_cohort_appear_only_for_its_structures(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    text = Reader(
        build_report(new_run(patients=6, structures=("GTV-T", "Oral cavity")).write(tmp_path / "run")).read_text()
    ).text
    assert "Another cohort" not in text


def test_a_violin_has_the_extent_of_its_values() -> None:
    values = np.array([0.2, 0.4, 0.5, 0.9, 0.4, 0.5, 0.6, 0.45, 0.55, 0.5])
    outline = violins.density(values)
    assert outline[0][0] == 0.2
    assert outline[-1][0] == 0.9
    assert max(half for _, half in outline) == 1.0
    assert violins.density(values[:3]) == ()
    assert violins.density(np.full(19, 0.5)) == ()


def test_failed_cases_stand_in_a_band_of_their_own(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    writer = new_run()
    writer.fail("box-fill", writer.cases[:2], "crashed")
    run = read_run(writer.write(tmp_path / "run"))
    wide = scores.wide_scores(run.scores)
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


def test_what_is_no_longer_part_of_the_run_leaves_the_report(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    folder = new_run(patients=3).write(tmp_path / "run")
    build_report(folder)
    before = {p.name for p in (folder / "report").rglob("*") if p.is_file()}
    one = new_run(patients=2, structures=("GTV-T",)).write(tmp_path / "run")
    build_report(one)
    after = {p.name for p in (folder / "report").rglob("*") if p.is_file()}
    assert "PHA-027.html" in before - after
    build_report(new_run(patients=2, structures=("GTV-T",)).write(tmp_path / "fresh"))
    assert after == {p.name for p in (tmp_path / "fresh" / "report").rglob("*") if p.is_file()}


def test_structures_with_the_same_margin_are_named_together() -> None:
    options = contrasts.StatisticsOptions.model_validate({"dsc-margin": {"A": 0.05, "B": 0.05, "C": 0.1}})
    assert caveats.margins(options, ("A", "B", "C")).startswith("a margin of 0.05 (A and B) and 0.1 (C) in DSC")
    assert caveats.margins(options, ("A", "B")).startswith("a margin of 0.05 in DSC")
