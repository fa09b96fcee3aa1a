from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from run_writer import PLANS, Plan, RunWriter

from gtvbench.reports.analysis.scores import wide_scores
from gtvbench.reports.figures import vector
from gtvbench.reports.page.flow import Flow, _fit, draw_flow, flow, flow_table, reading
from gtvbench.reports.paper import tables
from gtvbench.reports.run.load import read_run


def _flow(writer: Any, folder: Path) -> Flow:
    run = read_run(writer.write(folder / "run"))
    return flow(run, wide_scores(run.scores))


def _texts(found: Flow) -> list[str]:
    return [text.get_text() for text in draw_flow(found).findobj(Text) if text.get_text()]


def test_patients_subsets_and_cases_add_up(tmp_path: Path) -> None:
    found = _flow(RunWriter(), tmp_path)
    assert found.subsets == (("training", 16), ("validation", 2), ("test", 8))
    assert found.patients == 26
    assert (found.cases, found.unscored) == (8, 0)
    assert [(s.structure, s.present, s.absent) for s in found.structures] == [("GTV-T", 8, 0), ("GTV-N", 6, 2)]
    for structure in found.structures:
        for arm in structure.arms:
            assert sum(arm.present.values()) == structure.present
            assert sum(arm.absent.values()) == structure.absent
    assert "Every arm has a mask of every structure that is there." in reading(found)


def test_failed_cases_are_masks_that_are_not_there(tmp_path: Path) -> None:
    writer = RunWriter()
    writer.fail("box-fill", writer.cases[:3], "timeout")
    writer.arms.append({"arm": "nnunet.multimodal", "method": "nnunet", "status": "skipped"})
    writer.arms.append({"arm": "late", "method": "late", "status": "failed"})
    writer.provenance["subsets"]["test"].append("PHA-099")
    found = _flow(writer, tmp_path)
    arms = {(s.structure, a.arm): a for s in found.structures for a in s.arms}
    assert arms["GTV-T", "box-fill"].without_mask == 3
    assert arms["GTV-T", "box-fill"].present == {"ok": 5, "timeout": 3}
    assert arms["GTV-T", "box-ellipse"].without_mask == 0
    assert found.unscored == 1
    assert "8 test cases scored, 1 test patient not." in reading(found)
    assert "Of 84 masks that should be there, 5 are not: box-fill." in reading(found)
    assert (found.skipped, found.silent) == (("nnunet.multimodal",), ("late",))
    texts = _texts(found)
    assert "Not run: nnunet.multimodal" in texts
    assert "No score: late" in texts


def test_one_patient_is_told_in_the_singular_and_an_arm_whose_every_case_failed_has_no_mask(tmp_path: Path) -> None:
    writer = RunWriter(patients=1, structures=("GTV",), plans=PLANS[:1])
    writer.provenance["subsets"] = {"train": [], "validation": [], "test": writer.cases}
    writer.fail("box-ellipse", writer.cases, "crashed")
    found = _flow(writer, tmp_path)
    assert reading(found).startswith("1 patient (1 test); 1 test case scored. GTV is in the reference of 1.")
    assert "1 patient" in _texts(found)
    (arm,) = found.structures[0].arms
    assert (arm.scored, arm.without_mask) == (0, 1)


def test_false_positives_are_counted_where_the_structure_is_absent(tmp_path: Path) -> None:
    found = _flow(RunWriter(plans=(Plan("nnunet", "none", 0.8, prompted=False),)), tmp_path)
    nodes = found.structures[1]
    assert nodes.arms[0].false_positives == nodes.absent == 2
    table = flow_table(found)
    assert table.groups == (("", 2), ("Reference has it", 1), ("Reference lacks it", 1))
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["nnunet", "GTV-T", "8", "\u2013"],
        ["nnunet", "GTV-N", "6", "2"],
    ]
    assert "Reference lacks it: ref\\_empty\\_fp" in tables.as_markdown(table)


def test_a_structure_that_nobody_has_is_told_and_without_scores_the_flow_ends_with_the_split(tmp_path: Path) -> None:
    writer = RunWriter()
    nodes = writer.scores["structure"] == "GTV-N"
    writer.scores.loc[nodes & (writer.scores["metric"] == "reference_volume_ml"), "value"] = 0.0
    writer.scores.loc[nodes, "status"] = "both_empty"
    found = _flow(writer, tmp_path)
    assert (found.structures[1].present, found.structures[1].absent) == (0, 8)
    assert "GTV-N is in the reference of 0" in reading(found)
    assert any("lacking in 8" in text for text in _texts(found))
    writer.scores = writer.scores.iloc[:0]
    found = _flow(writer, tmp_path)
    assert reading(found).endswith("nothing is scored yet.")
    assert _texts(found)


def test_no_text_of_the_figure_leaves_it_or_overlaps_another(tmp_path: Path) -> None:
    name = "a-method-with-a-very-long-name-that-goes-on-and-on.multimodal.seed12"
    plans = (Plan(name, "none", 0.8), *PLANS)
    writer = RunWriter(patients=60, structures=("GTV-T", "肿瘤\u202e " + "x" * 60), plans=plans)
    writer.fail(name, writer.cases[:25], "crashed")
    writer.arms += [{"arm": f"skipped-{k}", "method": "x", "status": "skipped"} for k in range(20)]
    found = _flow(writer, tmp_path)
    with vector._in_style():
        figure = draw_flow(found)
        FigureCanvasAgg(figure).draw()
        boxes = [text.get_window_extent() for text in figure.findobj(Text) if text.get_text().strip()]
    width, height = figure.bbox.size
    assert width == pytest.approx(figure.dpi * 360 / 72)
    for box in boxes:
        assert 0 <= box.x0 <= box.x1 <= width and 0 <= box.y0 <= box.y1 <= height
    for k, box in enumerate(boxes):
        for other in boxes[k + 1 :]:
            across = min(box.x1, other.x1) - max(box.x0, other.x0)
            down = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert across <= 0 or down <= 1.5  # an extent is that of the line, above and below its letters


def test_long_names_are_cut_in_the_middle_and_wide_letters_count_twice() -> None:
    cut = _fit("litemedsam-fine-tuned-on-our-own-patients.multimodal", 32)
    assert len(cut) <= 32 and cut.startswith("litemedsam-fin") and cut.endswith("ts.multimodal")
    assert len(_fit("瘤" * 40, 32)) <= 17
    assert _fit("short", 32) == "short"
