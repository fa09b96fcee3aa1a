from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.geometry import Grid, canonical
from gtvbench.bench.core.structures import Structure
from gtvbench.datasets.assembly.checks import Facts, case_findings, cohort_findings, constant_faces, facts_of
from gtvbench.datasets.phantom.source import Phantom

Structures = tuple[Structure, ...]


def _facts(name: str, margins: Any, **changes: Any) -> Facts:
    settings: dict[str, Any] = {"patient": name, "spacing": (3.0, 1.0, 1.0), "coverage": {"CT": 1.0}, "digests": {}}
    return Facts(name, margins_mm=tuple(margins), **(settings | changes))


def _with(case: SourceCase, modality: str, volume: Any) -> SourceCase:
    return replace(case, images={**case.images, modality: volume})


def _levels(case: SourceCase, structures: Structures, **more: Any) -> list[tuple[str, str]]:
    return [(f.level, f.message) for f in case_findings(case, structures, **more)]


def test_a_sound_case_and_cohort_have_no_findings(make_phantom: Callable[..., Phantom], structures: Structures) -> None:
    source = make_phantom(patients=8)
    cases = [source.read(entry) for entry in source.entries()]
    assert [f for case in cases for f in case_findings(case, structures, source.modalities())] == []
    assert cohort_findings([facts_of(case) for case in cases]) == []


def test_an_empty_reference_is_an_error_and_a_missing_structure_is_none(
    small_case: SourceCase, structures: Structures
) -> None:
    only = replace(small_case, label=np.where(small_case.label == 1, 1, 0).astype(np.uint8))
    assert _levels(only, structures) == []
    empty = replace(small_case, label=np.zeros_like(small_case.label))
    assert [level for level, message in _levels(empty, structures) if "empty" in message] == ["error"]
    assert facts_of(empty).margins_mm is None


def test_label_values_of_no_structure_and_nan_and_infinity_are_errors(
    small_case: SourceCase, structures: Structures
) -> None:
    label = small_case.label.copy()
    label[0, 0, 0] = 7
    (found,) = case_findings(replace(small_case, label=label), structures)
    assert (found.level, found.case) == ("error", small_case.name)
    assert "[7]" in found.message
    volume = small_case.images["PET"].copy()
    volume[0, 0, :2] = np.nan, np.inf
    assert _levels(_with(small_case, "PET", volume), structures) == [("error", "2 voxels of PET are NaN or infinite")]


def test_a_modality_that_others_have_is_missed_and_one_of_another_shape_an_error(
    small_case: SourceCase, structures: Structures
) -> None:
    case = replace(small_case, images={"CT": small_case.images["CT"]})
    found = _levels(case, structures, modalities=("CT", "PET"))
    assert found == [("error", "the case has no PET, which other cases have")]
    found = _levels(_with(small_case, "PET", small_case.images["PET"][1:]), structures)
    assert [level for level, _ in found] == ["error"]


@pytest.mark.parametrize(
    ("modality", "change", "words"),
    [("CT", lambda v: v + 1024.5, "not HU"), ("CT", lambda v: v / 4000, "not HU"),
     ("PET", lambda v: v * 5000, "not SUV"), ("T1w", lambda v: v * 0, "value 0 everywhere")],
)  # fmt: skip
def test_values_in_other_units_are_warned_of(
    small_case: SourceCase, structures: Structures, modality: str, change: Callable[[Any], Any], words: str
) -> None:
    found = _levels(_with(small_case, modality, change(small_case.images[modality])), structures)
    assert [(level, words in message) for level, message in found] == [("warning", True)]


def test_margins_that_hardly_vary_are_warned_of_and_drawn_ones_are_not() -> None:
    rng = np.random.default_rng(5)
    constant = [_facts(f"c{i}", rng.uniform(50, 53, 6)) for i in range(10)]
    drawn = [_facts(f"d{i}", rng.uniform(5, 50, 6)) for i in range(24)]
    assert constant_faces(constant) == list(range(6))
    assert constant_faces(drawn) == []
    assert constant_faces(constant[:4]) == []  # too few to tell
    mixed = [_facts(f"c{i}", [51, 51, 51, 51, rng.uniform(0, 40), 51]) for i in range(8)]  # some images end earlier
    assert constant_faces(mixed) == [0, 1, 2, 3, 5]
    assert len(cohort_findings(mixed)) == 1
    (found,) = cohort_findings(constant)
    assert found.level == "warning"
    assert "gives the tumour away" in found.message
    assert cohort_findings(drawn) == []


def test_drawn_margins_of_small_cohorts_are_seldom_taken_for_constant() -> None:
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(200):
        wrong += len(cohort_findings([_facts(f"d{i}", rng.uniform(5, 50, 6)) for i in range(6)]))
    assert wrong <= 4


def test_one_image_under_two_patients_is_leakage(small_case: SourceCase) -> None:
    copy = replace(small_case, name="copy", patient="copy")
    found = cohort_findings([facts_of(small_case), facts_of(copy)])
    assert [f.level for f in found] == ["error"]
    assert small_case.name in found[0].message
    assert "copy" in found[0].message
    same_patient = replace(small_case, name="again")
    assert [f.level for f in cohort_findings([facts_of(small_case), facts_of(same_patient)])] == ["warning"]


def test_a_copy_is_found_although_its_grid_was_cropped_otherwise(small_case: SourceCase) -> None:
    cut = small_case.label[1:, 1:, 2:]
    assert np.count_nonzero(cut) == np.count_nonzero(small_case.label)
    grid = Grid(cut.shape, small_case.grid.spacing)
    images = {m: volume[1:, 1:, 2:] for m, volume in small_case.images.items()}
    copy = replace(
        small_case, name="copy", patient="copy", label=cut, images=images, grid=grid, original=grid,
        reorientation=canonical(grid),
    )  # fmt: skip
    assert [f.level for f in cohort_findings([facts_of(small_case), facts_of(copy)])] == ["error"]


def test_equal_images_that_are_constant_are_no_leakage(small_case: SourceCase, make_phantom: Any) -> None:
    source = make_phantom(patients=2)
    cases = [source.read(entry) for entry in source.entries()]
    blank = [_with(case, "T2w", np.zeros_like(case.images["T2w"])) for case in cases]
    assert cohort_findings([facts_of(case) for case in blank]) == []


def test_partial_coverage_is_warned_of_once_a_modality() -> None:
    cases = [_facts(f"c{i}", [20 * i] * 6, coverage={"CT": 1.0, "T1w": 0.2 + 0.1 * i}) for i in range(8)]
    (found,) = cohort_findings([*cases, _facts("full", [90] * 6, coverage={"CT": 1.0, "T1w": 1.0})])
    assert found.level == "warning"
    assert "T1w does not cover the whole grid in 8 of 9 cases: c0 20 %" in found.message


def test_widely_different_spacings_are_warned_of() -> None:
    (found,) = cohort_findings([_facts("fine", [0] * 6), _facts("coarse", [0] * 6, spacing=(3.0, 1.0, 4.0))])
    assert "spacing along x differs widely: 1 mm in fine, 4 mm in coarse" in found.message
