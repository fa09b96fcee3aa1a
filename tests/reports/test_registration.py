"""How the page tells of registration: only where there was any, worst first, robust against odd records."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from gtvbench.reports.page import build_report


def facts(after: float, folding: float = 0.0, status: str = "registered") -> dict[str, Any]:
    return {
        "status": status, "stages": ["rigid", "bspline"] if status == "registered" else [],
        "similarity": {"headers": 0.2, "rigid": 0.4, "bspline": after},
        "displacement_mm": {"mean": 6.04, "largest": 21.3}, "jacobian": {"smallest": 0.83, "largest": 1.2},
        "folding": folding, "seconds": 17.2,
    }  # fmt: skip


def page_with(run: Path, registration: Any) -> str:
    path = run / "provenance.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"registration": registration}))
    return build_report(run).read_text()


def test_a_run_without_registration_does_not_speak_of_it(run_folder: Path) -> None:
    page = build_report(run_folder).read_text()
    assert "Registration to the reference image" not in page
    assert not (run_folder / "report" / "data" / "registration.csv").exists()


def test_images_that_fold_come_first_then_those_that_gained_least(run_folder: Path) -> None:
    page = page_with(run_folder, {
        "case-a": {"T1w": facts(0.9), "T2w": {"status": "shared frame of reference"}},
        "case-b": {"T1w": facts(0.5), "T2w": facts(0.7, folding=0.02)},
        "case-c": {"T1w": facts(0.1, status="kept as the headers say")},
    })  # fmt: skip
    assert "3 images of 3 patients registered to the reference; 1 trusted because they share" in page
    assert "1 left as the headers say" in page
    assert "The deformation folds in 1 image." in page
    table = (run_folder / "report" / "data" / "tables" / "registration.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in table[-3:]] == [["case-b", "T2w"], ["case-b", "T1w"], ["case-a", "T1w"]]
    frame = pd.read_csv(run_folder / "report" / "data" / "registration.csv")
    assert len(frame) == 5
    assert frame.set_index(["case", "modality"]).loc[("case-a", "T1w"), "after"] == 0.9


def test_many_patients_are_all_in_the_file_and_few_on_the_page(run_folder: Path) -> None:
    page_with(run_folder, {f"case-{k:03d}": {"T1w": facts(0.5 + k / 1000)} for k in range(40)})
    table = (run_folder / "report" / "data" / "tables" / "registration.csv").read_text().splitlines()
    assert sum(row.startswith("case-") for row in table) == 12
    assert len(pd.read_csv(run_folder / "report" / "data" / "registration.csv")) == 40
