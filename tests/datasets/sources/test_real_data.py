"""Real patients, never part of the repository: soft-tissue sarcoma and head-and-neck planning CTs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.structures import structures_from
from gtvbench.datasets.assembly.checks import case_findings, cohort_findings, facts_of
from gtvbench.datasets.sources.files import Files, FilesOptions

SARCOMA: dict[str, Any] = {
    "path": "sts",
    "patients": "STS_*",
    "images": {"CT": "CT_image.nii.gz", "PET": "PET_image.nii.gz", "T1w": "MR_T1_image.nii.gz", "T2w": "MR_T2*.nii.gz"},
    "masks": [{"file": "CT_mask.nii.gz", "labels": {1: "GTV"}}],
    "check-masks": {"PET": "PET_mask.nii.gz", "T1w": "MR_T1_mask.nii.gz"},
}
GTV = structures_from({"GTV": 1})


def _open(data: Path, **changes: Any) -> Files:
    return Files(FilesOptions.model_validate(SARCOMA | changes), data, GTV, 0)


@pytest.fixture(scope="module")
def sarcoma(data: Path) -> tuple[Files, list[SourceCase]]:
    source = _open(data)
    return source, [source.read(entry) for entry in source.entries()]


def test_all_sarcoma_patients_are_read_as_their_index_describes_them(
    sarcoma: tuple[Files, list[SourceCase]], data: Path
) -> None:
    source, cases = sarcoma
    index = json.loads((data / "sts" / "index.json").read_text())
    assert source.modalities() == ("CT", "PET", "T1w")
    assert sorted(c.name for c in cases) == sorted(p.name for p in (data / "sts").glob("STS_*"))
    for case in cases:
        known = index[case.name]["CT"]
        assert list(case.grid.shape[::-1]) == known["size"]
        assert np.count_nonzero(case.label) == known["gtv_voxels"]
        assert np.count_nonzero(case.label.any(axis=(1, 2))) == known["gtv_slices"]
        assert all(volume.shape == case.grid.shape for volume in case.images.values())
        assert case_findings(case, GTV, source.modalities()) == []


def test_the_share_that_mr_covers_is_told(sarcoma: tuple[Files, list[SourceCase]]) -> None:
    shares = [case.coverage["T1w"] for case in sarcoma[1]]
    assert 0.15 < min(shares) < 0.2
    assert 0.9 < max(shares) < 0.95


def test_the_patient_whose_masks_disagree_between_modalities_is_found_and_no_other(
    sarcoma: tuple[Files, list[SourceCase]],
) -> None:
    source, cases = sarcoma
    found = {e.name: source.findings(e, c) for e, c in zip(source.entries(), cases, strict=True)}
    assert [name for name, texts in found.items() if texts] == ["STS_019"]
    assert any("DSC 0.63" in text for text in found["STS_019"])


def test_the_grid_gives_the_tumour_away_until_it_is_re_cropped(
    sarcoma: tuple[Files, list[SourceCase]], data: Path
) -> None:
    _, cases = sarcoma
    whole = [f.message for f in cohort_findings([facts_of(case) for case in cases])]
    assert any("gives the tumour away" in message for message in whole)
    assert any("T1w does not cover the whole grid in 24 of 24 cases" in message for message in whole)
    assert np.mean([_ellipsoid_dsc(case, 51.0) for case in cases]) > 0.75
    source = _open(data, crop={"margin-mm": [5, 50]})
    again = [source.read(entry) for entry in source.entries()]
    assert not any("gives the tumour away" in f.message for f in cohort_findings([facts_of(c) for c in again]))
    assert np.mean([_ellipsoid_dsc(case, 27.5) for case in again]) < 0.6
    for before, after in zip(cases, again, strict=True):
        assert np.count_nonzero(before.label) == np.count_nonzero(after.label)
        assert after.grid.shape != before.grid.shape


def test_head_and_neck_planning_cts_are_read(data: Path) -> None:
    options = {
        "path": "openkbp",
        "patients": ["train/pt_*", "val/pt_*"],
        "images": {"CT": "ct.nii.gz"},
        "masks": [{"file": "ptv.nii.gz", "labels": {1: "PTV70", 2: "PTV63", 3: "PTV56"}}],
    }
    structures = structures_from({"PTV70": 1, "PTV63": 2, "PTV56": 3})
    source = Files(FilesOptions.model_validate(options), data, structures, 0)
    entries = source.entries()
    assert len(entries) == 80
    index = {row["patient"]: row for row in json.loads((data / "openkbp" / "index.json").read_text())}
    for entry in entries[::20]:
        case = source.read(entry)
        found = {s.name: int(np.count_nonzero(case.label == s.value)) for s in structures}
        assert found == index[entry.name]["ptv"]
        assert case_findings(case, structures) == []


def _ellipsoid_dsc(case: SourceCase, margin_mm: float) -> float:
    """DSC of an ellipsoid placed from the grid's size alone: what an unprompted method could learn from the crop."""
    total: Any = 0.0
    for axis, (count, step) in enumerate(zip(case.grid.shape, case.grid.spacing, strict=True)):
        along = (np.arange(count) - (count - 1) / 2) * step / max(count * step / 2 - margin_mm, 5.0)
        total = total + np.expand_dims(along**2, [a for a in range(3) if a != axis])
    guess, truth = total <= 1, case.label > 0
    return float(2 * np.count_nonzero(guess & truth) / (np.count_nonzero(guess) + np.count_nonzero(truth)))
