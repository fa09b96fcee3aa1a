import base64
import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from run_pictures import GRID, add_pictures
from run_writer import RunWriter

from gtvbench.reports.analysis import scores as tables
from gtvbench.reports.analysis import selection
from gtvbench.reports.run.load import FinishedRun, read_run
from gtvbench.reports.run.pictures import Pictures
from gtvbench.reports.text import addresses, templating
from gtvbench.reports.viewer import build

NewRun = Callable[..., Any]  # the fixture of conftest.py: RunWriter


def section_html(run: FinishedRun, context: dict[str, Any]) -> str:
    template = templating.environment().get_template("viewer.html.j2")
    return template.render(viewer=context, run=run)


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="viewer-data">(.*?)</script>', html, re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found.group(1))
    return data


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight patients with pictures, one of them crashed in one arm."""
    writer = RunWriter()
    writer.fail("box-fill", [writer.cases[1]], "crashed")
    return add_pictures(writer.write(tmp_path_factory.mktemp("pictured") / "run"), writer)


@pytest.fixture(scope="module")
def loaded(pictured: Path) -> tuple[FinishedRun, pd.DataFrame]:
    run = read_run(pictured)
    return run, tables.wide_scores(run.scores)


@pytest.fixture(scope="module")
def pages(loaded: tuple[FinishedRun, pd.DataFrame]) -> dict[str, str]:
    return dict(build.case_pages(*loaded))


# ---- selection


def table_of(scores: dict[str, float | None]) -> pd.DataFrame:
    rows = []
    for case, dsc in scores.items():
        for metric, value in (("dsc", dsc), ("hd95_mm", 5.0), ("reference_volume_ml", 10.0)):
            status = "crashed" if dsc is None else "ok"
            shown = 0.0 if value is None else value
            rows.append(("a", "a", "none", 1, case, case, "T", "volume", metric, shown, shown, status))
    columns = ["arm", "method", "fusion", "seed", "case", "patient", "structure", "scope", "metric", "value", "raw",
               "status"]  # fmt: skip
    return tables.wide_scores(pd.DataFrame(rows, columns=columns))


def roles(scores: dict[str, float | None]) -> dict[str, tuple[str, ...]]:
    return {reason.case: reason.roles for reason in selection.reasons(table_of(scores), ["a"], ["T"])}


def test_worst_median_and_best_are_taken_among_usable_masks_and_failures_beside_them() -> None:
    found = roles({"p1": 0.9, "p2": 0.5, "p3": None, "p4": 0.7, "p5": 0.65, "p6": 0.2, "p7": None})
    assert found == {"p1": ("best",), "p3": ("failed",), "p5": ("median",), "p6": ("worst",), "p7": ("failed",)}


def test_ties_go_to_the_first_by_name_and_a_single_case_is_everything() -> None:
    assert roles({"p3": 0.5, "p2": 0.8, "p1": 0.5, "p4": 0.8}) == {"p1": ("worst", "median"), "p2": ("best",)}
    assert roles({"p1": 0.5}) == {"p1": ("worst", "median", "best")}
    assert roles({"p1": None, "p2": None}) == {"p1": ("failed",), "p2": ("failed",)}


def test_failed_and_worst_cases_come_first_and_structures_that_are_not_there_give_no_reason(
    loaded: tuple[FinishedRun, pd.DataFrame],
) -> None:
    run, wide = loaded
    found = selection.reasons(wide, run.arm_names, run.structures)
    order = selection.chosen(found)
    assert len(order) == len(set(order)) == len({reason.case for reason in found})
    assert "failed" in {role for reason in found if reason.case == order[0] for role in reason.roles}
    assert order == selection.chosen(list(reversed(found)))
    absent = set(wide.loc[~wide["present"], "case"])
    assert absent and not {r.case for r in found if r.structure == "GTV-N"} & absent


# ---- reading


def test_pictures_are_read_from_the_folder_of_the_arm(loaded: tuple[FinishedRun, pd.DataFrame]) -> None:
    run, _ = loaded
    pictures = Pictures(run)
    case = pictures.case("PHA-025")
    assert case is not None
    assert case.sides == ("R", "L", "A", "P")
    assert case.position(5) == pytest.approx(GRID.origin[2] + 5 * 4.0)
    assert case.voxel_ml == pytest.approx(4 * 3 * 2.5 / 1000)
    drawn = pictures.contours("box-ellipse", case)
    assert drawn is not None and drawn.status is None and set(drawn.paths) == {"GTV-T", "GTV-N"}
    crashed = pictures.case("PHA-026")
    assert crashed is not None
    lost = pictures.contours("box-fill", crashed)
    assert lost is not None and lost.status == "crashed"
    assert pictures.contours("no such arm", case) is None
    assert pictures.case("nobody") is None


def test_contours_of_another_frame_are_not_drawn_and_an_oblique_grid_names_two_sides(
    loaded: tuple[FinishedRun, pd.DataFrame],
) -> None:
    run, _ = loaded
    case = Pictures(run).case("PHA-025")
    assert case is not None
    shifted = {**case.record, "crop": [[0, 1], [0, 1], [0, 1]]}
    assert Pictures(run).contours("box-fill", type(case)(case.path, shifted)) is None
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    grid = {**case.record["grid"], "direction": [c, -s, 0, s, c, 0, 0, 0, 1]}
    assert type(case)(case.path, {**case.record, "grid": grid}).sides == ("RA", "LP", "AL", "PR")


# ---- pages


def test_every_test_case_has_a_page_with_its_scores_that_asks_for_nothing_outside_itself(
    loaded: tuple[FinishedRun, pd.DataFrame], pages: dict[str, str]
) -> None:
    run, wide = loaded
    assert set(pages) == {f"{case}.html" for case in run.subsets["test"]}
    row = wide[(wide["case"] == "PHA-025") & (wide["arm"] == "box-ellipse") & (wide["scope"] == "volume")].iloc[0]
    assert f"{row['dsc']:.3f}" in pages["PHA-025.html"]
    assert 'href="PHA-026.html" rel="next"' in pages["PHA-025.html"]
    assert 'rel="prev"' not in pages["PHA-025.html"]
    for html in pages.values():
        assert "default-src 'none'" in html
        for target in re.findall(r'(?:src|href)="([^"]*)"', html):
            assert target.startswith(("data:image/webp;base64,", "#", "../index.html")) or target in pages
        assert "http:" not in html.replace("http://www.w3.org/2000/svg", "") and "https:" not in html


def test_pictures_and_contours_travel_in_the_page(pictured: Path, pages: dict[str, str]) -> None:
    data = data_of(pages["PHA-025.html"])
    (case,) = data["cases"]
    with zipfile.ZipFile(pictured / "pictures" / "PHA-025.zip") as archive:
        first = archive.read(f"PET/{case['slices'][0]}.webp")
    assert base64.b64decode(case["pictures"]["PET"][0]) == first
    count = len(case["slices"])
    assert all(len(pictures) == count for pictures in case["pictures"].values())
    for arm in case["arms"]:
        assert [len(paths) for paths in arm["paths"]] == [count, count] == [len(s) for s in arm["slices"]]
    assert [view["name"] for view in case["views"]] == ["CT", "PET", "T1w", "T2w", "multimodal"]
    assert case["views"][-1]["channels"] == [["CT"], ["PET"], ["T1w", "T2w"]]
    assert case["reference"][0][case["start"]], "the viewer opens on a slice with the target"


def test_a_failed_arm_says_so_instead_of_a_contour(
    loaded: tuple[FinishedRun, pd.DataFrame], pages: dict[str, str]
) -> None:
    data = data_of(pages["PHA-026.html"])
    (case,) = data["cases"]
    by_name = {arm["name"]: entry for arm, entry in zip(data["arms"], case["arms"], strict=True)}
    assert by_name["box-fill"]["paths"] is None
    assert by_name["box-fill"]["note"] == "no usable mask (crashed)"
    assert by_name["box-ellipse"]["note"] == ""


def test_without_script_a_figure_and_a_table_remain(pages: dict[str, str]) -> None:
    html = pages["PHA-025.html"]
    assert '<div id="viewer" class="viewer" hidden>' in html
    still = html.split('class="v-stills"')[1].split("</figure>")[0]
    assert "data:image/webp;base64," in still and still.count('class="halo"') == 3
    assert 'class="prediction-1"' in still and 'class="reference"' in still and "20 mm" in still
    assert "multimodal" in still


def test_the_section_embeds_chosen_cases_and_links_the_rest(loaded: tuple[FinishedRun, pd.DataFrame]) -> None:
    run, wide = loaded
    context = build.viewer_section(run, wide)
    html = section_html(run, context)
    shown = {case["name"] for case in data_of(html)["cases"]}
    assert context["embedded"] == len(shown) > 3
    assert {name for name, _ in context["rest"]} == set(run.subsets["test"]) - shown
    assert all(f'href="{addresses.case_link(name)}"' in html for name in run.subsets["test"])


def test_the_byte_budget_is_kept_and_failed_cases_go_first(loaded: tuple[FinishedRun, pd.DataFrame]) -> None:
    run, wide = loaded
    whole = len(build.viewer_section(run, wide)["data"])
    context = build.viewer_section(run, wide, whole // 3)
    assert 0 < context["embedded"] < 5 and len(context["data"]) <= whole // 3 + 2000
    assert json.loads(context["data"])["cases"][0]["name"] == "PHA-026"


def test_a_case_too_large_for_the_report_is_thinned_and_says_so(loaded: tuple[FinishedRun, pd.DataFrame]) -> None:
    run, wide = loaded
    (one,) = data_of(dict(build.case_pages(run, wide))["PHA-026.html"])["cases"]
    budget = len(templating.script_json(one)) // 2
    (case,) = json.loads(build.viewer_section(run, wide, budget)["data"])["cases"]
    assert case["thinned"] > 1 and len(templating.script_json(case)) < budget + 200
    assert case["slices"][case["start"]] == one["slices"][one["start"]], "the largest slice stays"
    assert len(case["pictures"]["CT"]) == len(case["slices"]) < len(one["slices"])


def test_a_run_without_pictures_scores_or_the_wish_for_pictures_says_what_to_do(
    read: Callable[[Any], FinishedRun], pictured: Path
) -> None:
    writer = RunWriter(patients=2)
    run = read(writer)
    wide = tables.wide_scores(run.scores)
    html = section_html(run, build.viewer_section(run, wide))
    assert "Start the same “bench run” again" in html and "<script" not in html
    for case in dict(build.case_pages(run, wide)).values():
        assert "There are no pictures in this run folder" in case and "case-scores" in case
    off = read_run(pictured)
    off = replace(off, study={**off.study, "report": {"pictures": False}})
    context = build.viewer_section(off, tables.wide_scores(off.scores))
    assert context["data"] is None and "turns pictures off" in section_html(off, context)
    writer.scores = writer.scores.iloc[:0]
    run = read(writer)
    wide = tables.wide_scores(run.scores)
    assert section_html(run, build.viewer_section(run, wide)).strip() == ""
    assert list(build.case_pages(run, wide)) == []


def test_the_order_of_rows_does_not_matter(loaded: tuple[FinishedRun, pd.DataFrame], pages: dict[str, str]) -> None:
    run, wide = loaded
    assert dict(build.case_pages(run, wide.sample(frac=1, random_state=1))) == pages


HOSTILE = "</script><img src=x onerror=alert(1)>'\"& \u202e"


def test_hostile_names_stay_text_beside_pictures(tmp_path: Path) -> None:
    writer = RunWriter(patients=1, structures=("GTV-T", HOSTILE))
    run = read_run(add_pictures(writer.write(tmp_path / "run"), writer))
    wide = tables.wide_scores(run.scores)
    (page,) = dict(build.case_pages(run, wide)).values()
    for html in (section_html(run, build.viewer_section(run, wide)), page):
        assert "viewer-data" in html
        assert "<img src=x" not in html and "</script><img" not in html and "\u202e" not in html


def test_names_of_pages_are_harmless_and_differ() -> None:
    assert addresses.case_file("PHA-025") == "PHA-025.html"
    odd = ["../../etc/passwd", ".hidden", "a/b", "a b", "a\\b", "", "<b>", "x" * 300, "\ud800", "é"]
    names = [addresses.case_file(case) for case in odd]
    assert len(set(names)) == len(odd)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,60}\.html", name) for name in names)
    assert addresses.case_link("a b").startswith("cases/a_b-")


# ---- damage


def _without(content: bytes, name: str) -> bytes:
    """An archive without one member."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for member in set(old.namelist()) - {name}:
            new.writestr(member, old.read(member))
    return stream.getvalue()


def _flipped(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


DAMAGES: tuple[Callable[[bytes], bytes], ...] = (
    lambda _: b"", lambda _: b"PK", lambda _: b"not an archive", lambda _: b"PK\x05\x06" + b"\0" * 18, _flipped,
    lambda content: _without(content, "CT/8.webp"), lambda content: _without(content, "record.json"),
)  # fmt: skip


def test_damage_costs_the_pictures_of_that_case_or_the_contours_of_that_arm_alone(tmp_path: Path) -> None:
    writer = RunWriter(patients=len(DAMAGES) + 1)
    folder = add_pictures(writer.write(tmp_path / "run"), writer)
    *damaged, last = writer.cases
    for case, damage in zip(damaged, DAMAGES, strict=True):
        path = folder / "pictures" / f"{case}.zip"
        path.write_bytes(damage(path.read_bytes()))
    held = ("[]", "{", '{"schema": 1}', '{"schema": 1, "crop": null, "structures": {"a": {}}}')
    for arm, text in zip(writer.arms, held, strict=False):
        (folder / "arms" / arm["arm"] / "contours" / f"{last}.json").write_text(text)
    more = writer.scores[writer.scores["structure"] == "GTV-T"].assign(structure="Without pictures")
    pd.concat([writer.scores, more]).to_parquet(folder / "scores.parquet", index=False)
    run = read_run(folder)
    found = dict(build.case_pages(run, tables.wide_scores(run.scores)))
    for case in damaged:
        assert "There are no pictures" in found[f"{case}.html"] and "viewer-data" not in found[f"{case}.html"]
    (whole,) = data_of(found[f"{last}.html"])["cases"]
    assert [arm["note"] for arm in whole["arms"]] == ["no contours in the run folder"] * 4 + [""] * 2
    assert len(whole["voxels"]) == 3, "a structure without pictures of its own is shown by its scores"
