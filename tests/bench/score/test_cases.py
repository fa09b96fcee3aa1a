"""Statuses, scopes, penalties and summaries."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.core.scores import METRICS, OVERLAP_METRICS, VOLUME_METRICS
from gtvbench.bench.core.structures import Structure, structures_from
from gtvbench.bench.score import cases as scoring
from gtvbench.bench.score import metrics

Label = npt.NDArray[np.uint8]
GRID = Grid((10, 20, 30), (3.0, 1.0, 2.0))
DIAGONAL = math.sqrt(30**2 + 20**2 + 60**2)
T, N = structures_from({"GTV-T": 1, "GTV-N": 2})


def empty() -> Label:
    return np.zeros(GRID.shape, np.uint8)


def block(value: int = 1, z: int = 2, shift: int = 0) -> Label:
    """A block of 3 x 5 x 4 voxels, 360 mm3, which leaves the rest to background."""
    label = empty()
    label[z : z + 3, 5 + shift : 10 + shift, 8:12] = value
    return label


def score(
    prediction: npt.NDArray[Any] | None,
    reference: npt.NDArray[Any],
    structures: tuple[Structure, ...] = (T,),
    prompted: dict[str, list[int]] | None = None,
    status: str | None = None,
    tolerances: dict[str, float] | None = None,
) -> pd.DataFrame:
    rows = scoring.score_case(prediction, reference, GRID, structures, tolerances or {}, prompted, status)
    assert json.loads(json.dumps(rows)) is not None
    return pd.DataFrame(rows)


def numbers(frame: pd.DataFrame, column: str, structure: str = "GTV-T", scope: str = "volume") -> dict[str, float]:
    part = frame[(frame["structure"] == structure) & (frame["scope"] == scope)]
    return dict(zip(part["metric"], part[column].astype(float), strict=True))


def status_of(frame: pd.DataFrame, structure: str = "GTV-T", scope: str = "volume") -> str:
    (status,) = frame.loc[(frame["structure"] == structure) & (frame["scope"] == scope), "status"].unique()
    return str(status)


# ---- statuses


def test_a_usable_pair_is_ok_and_scored_as_measured() -> None:
    frame = score(block(shift=1), block())
    assert status_of(frame) == "ok"
    assert numbers(frame, "value") == numbers(frame, "raw")
    found = numbers(frame, "value")
    assert found["dsc"] == pytest.approx(0.8)
    assert found["tp_mm3"] == pytest.approx(288)
    assert (found["volume_ml"], found["reference_volume_ml"]) == pytest.approx((0.36, 0.36))
    assert found["volume_difference_ml"] == 0.0
    assert 0 < found["assd_mm"] < found["hd95_mm"] == 1.0
    assert list(found) == list(METRICS)


def test_an_empty_prediction_is_penalised_with_the_diagonal_of_the_grid() -> None:
    frame = score(empty(), block())
    assert status_of(frame) == "pred_empty"
    assert numbers(frame, "value") == pytest.approx(
        {
            "dsc": 0.0, "hd95_mm": DIAGONAL, "nsd": 0.0, "assd_mm": DIAGONAL, "volume_ml": 0.0,
            "reference_volume_ml": 0.36, "volume_difference_ml": -0.36, "tp_mm3": 0.0,
        }
    )  # fmt: skip
    raw = numbers(frame, "raw")
    assert (raw["dsc"], raw["nsd"], raw["hd95_mm"]) == (0.0, 0.0, math.inf)
    assert math.isnan(raw["assd_mm"])


@pytest.mark.parametrize("status", ["missing_output", "crashed", "timeout", "geometry_mismatch"])
def test_a_case_without_a_usable_mask_is_scored_from_its_reference(status: str) -> None:
    frame = score(None, block(), status=status)
    assert status_of(frame) == status
    assert numbers(frame, "value") == numbers(score(empty(), block()), "value")
    raw = numbers(frame, "raw")
    assert raw.pop("reference_volume_ml") == pytest.approx(0.36)
    assert all(math.isnan(value) for value in raw.values())


def test_without_a_reason_the_output_is_missing() -> None:
    assert status_of(score(None, block())) == "missing_output"


def test_a_false_positive_has_a_volume_and_no_dsc() -> None:
    frame = score(block(), empty())
    assert status_of(frame) == "ref_empty_fp"
    value, raw = numbers(frame, "value"), numbers(frame, "raw")
    assert all(math.isnan(value[metric]) for metric in OVERLAP_METRICS)
    assert (value["volume_ml"], value["reference_volume_ml"], value["volume_difference_ml"]) == (0.36, 0.0, 0.36)
    assert (raw["dsc"], raw["hd95_mm"], raw["nsd"]) == (0.0, math.inf, 0.0)


def test_two_empty_masks_are_a_true_negative_and_not_a_score() -> None:
    frame = score(empty(), empty())
    assert status_of(frame) == "both_empty"
    value, raw = numbers(frame, "value"), numbers(frame, "raw")
    assert all(math.isnan(value[metric]) for metric in OVERLAP_METRICS)
    assert {value[metric] for metric in VOLUME_METRICS} == {0.0}
    assert math.isnan(raw["dsc"])
    assert raw["hd95_mm"] == math.inf


def test_a_crash_on_a_case_without_the_structure_is_neither_a_score_nor_a_true_negative() -> None:
    frame = score(None, empty(), status="crashed")
    assert status_of(frame) == "crashed"
    value = numbers(frame, "value")
    assert value.pop("reference_volume_ml") == 0.0
    assert all(math.isnan(number) for number in value.values())


def test_a_prediction_of_another_shape_is_a_geometry_mismatch() -> None:
    frame = score(np.ones((10, 20, 31), np.uint8), block())
    assert status_of(frame) == "geometry_mismatch"
    assert numbers(frame, "value")["hd95_mm"] == pytest.approx(DIAGONAL)


def test_a_status_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'ok' is not one of missing_output, crashed, timeout, geometry_mismatch"):
        score(None, block(), status="ok")


def test_a_reference_off_its_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="on a grid of"):
        scoring.score_case(None, np.zeros((2, 2, 2), np.uint8), GRID, (T,), {})


# ---- structures, tolerances, scopes


def test_each_structure_is_scored_by_its_own_value() -> None:
    reference, prediction = block() + block(2, shift=6), block()
    frame = score(prediction, reference, (T, N))
    assert (status_of(frame, "GTV-T"), status_of(frame, "GTV-N")) == ("ok", "pred_empty")
    assert numbers(frame, "value", "GTV-T")["dsc"] == 1.0


def test_structures_that_touch_keep_their_own_surface() -> None:
    reference = block() + block(2, shift=5)
    frame = score(reference, reference, (T, N))
    for name in ("GTV-T", "GTV-N"):
        found = numbers(frame, "value", name)
        assert (found["dsc"], found["hd95_mm"], found["nsd"]) == (1.0, 0.0, 1.0)


def test_the_tolerance_is_the_structures_own() -> None:
    reference, prediction = block() + block(2, shift=6), block(shift=2) + block(2, shift=8)
    frame = score(prediction, reference, (T, N), tolerances={"GTV-T": 2.0, "GTV-N": 0.5})
    assert numbers(frame, "value", "GTV-T")["nsd"] == 1.0
    assert numbers(frame, "value", "GTV-N")["nsd"] < 0.7


def test_the_default_tolerance_is_2_mm() -> None:
    reference, prediction = block(), block(shift=3)
    expected = metrics.compare(reference == 1, prediction == 1, GRID.spacing, 2.0).nsd
    assert numbers(score(prediction, reference), "value")["nsd"] == expected


def test_the_second_scope_sets_both_masks_to_zero_outside_prompted_slices() -> None:
    reference, prediction = block(), block(z=3)
    frame = score(prediction, reference, prompted={"GTV-T": [2, 3]})
    kept_reference, kept_prediction = empty(), empty()
    kept_reference[2:4], kept_prediction[2:4] = reference[2:4], prediction[2:4]
    assert numbers(frame, "value", scope="prompted-slices") == numbers(score(kept_prediction, kept_reference), "value")
    assert numbers(frame, "value", scope="volume") == numbers(score(prediction, reference), "value")
    assert numbers(frame, "value", scope="prompted-slices")["reference_volume_ml"] == pytest.approx(0.24)


def test_prompted_slices_that_cover_both_masks_change_nothing() -> None:
    frame = score(block(z=3), block(), prompted={"GTV-T": list(range(10))})
    assert numbers(frame, "value", scope="prompted-slices") == numbers(frame, "value", scope="volume")


def test_prompted_slices_may_leave_gaps() -> None:
    frame = score(block(), block(), prompted={"GTV-T": [2, 4]})
    found = numbers(frame, "value", scope="prompted-slices")
    assert (found["dsc"], found["hd95_mm"]) == (1.0, 0.0)
    assert found["volume_ml"] == pytest.approx(0.24)


def test_a_false_positive_beyond_the_prompted_slices_counts_in_the_volume_alone() -> None:
    frame = score(block(z=6), empty(), prompted={})
    assert (status_of(frame), status_of(frame, scope="prompted-slices")) == ("ref_empty_fp", "both_empty")


def test_a_prediction_beyond_the_prompted_slices_alone_is_empty_there() -> None:
    frame = score(block(z=6), block(), prompted={"GTV-T": [2, 3, 4]})
    assert status_of(frame, scope="prompted-slices") == "pred_empty"
    assert numbers(frame, "value", scope="prompted-slices")["assd_mm"] == pytest.approx(DIAGONAL)


def test_a_crash_keeps_its_status_in_both_scopes() -> None:
    frame = score(None, block(), prompted={"GTV-T": [2, 3]}, status="crashed")
    assert status_of(frame, scope="prompted-slices") == "crashed"
    found = numbers(frame, "value", scope="prompted-slices")
    assert found["volume_difference_ml"] == pytest.approx(-0.24)


# ---- edges


def test_a_single_voxel_in_a_corner_is_scored() -> None:
    reference, prediction = empty(), empty()
    reference[0, 0, 0] = prediction[-1, -1, -1] = 1
    found = numbers(score(prediction, reference), "value")
    farthest = math.sqrt(27**2 + 19**2 + 58**2)
    # Eight surfels of one area each: the 95th percentile is the farthest, from a corner of the grid to the nearer
    # corner of the other voxel.
    assert (found["dsc"], found["nsd"]) == (0.0, 0.0)
    assert found["hd95_mm"] == pytest.approx(farthest)


def test_a_lesion_on_the_border_of_the_grid_is_scored() -> None:
    reference = empty()
    reference[0:2, 0:4, 0:3] = 1
    found = numbers(score(reference.copy(), reference), "value")
    assert (found["dsc"], found["hd95_mm"], found["nsd"]) == (1.0, 0.0, 1.0)


def test_memory_mapped_label_maps_give_the_same_scores(tmp_path: Path) -> None:
    reference, prediction = block() + block(2, shift=6), block(shift=1)
    for name, label in (("reference", reference), ("prediction", prediction)):
        np.save(tmp_path / f"{name}.npy", label)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("prediction", "reference")]
    pd.testing.assert_frame_equal(score(mapped[0], mapped[1], (T, N)), score(prediction, reference, (T, N)))


def test_flipped_copies_score_the_same() -> None:
    reference, prediction = block(), block(shift=2, z=3)
    for axis in (0, 1, 2):
        flipped = score(np.flip(prediction, axis), np.flip(reference, axis))
        assert numbers(flipped, "value") == pytest.approx(numbers(score(prediction, reference), "value"), rel=1e-12)


def test_label_boxes_are_tight_and_leave_out_absent_values() -> None:
    label = block() + block(2, z=6, shift=6)
    boxes = scoring.label_boxes(label, [1, 2, 3])
    assert boxes == {1: ((2, 5), (5, 10), (8, 12)), 2: ((6, 9), (11, 16), (8, 12))}


# ---- summaries


def long_table(cases: list[tuple[float, float, float]]) -> pd.DataFrame:
    """Rows of cases given by TP, V_pred and V_ref in mm3, statuses and DSC as scoring gives them."""
    rows = []
    for number, (tp, predicted, reference) in enumerate(cases):
        if reference:
            status, dsc = ("ok" if predicted else "pred_empty"), 2 * tp / (predicted + reference)
        else:
            status, dsc = ("ref_empty_fp" if predicted else "both_empty"), math.nan
        values = {"dsc": dsc, "hd95_mm": dsc, "nsd": dsc, "assd_mm": dsc, "tp_mm3": tp, "volume_ml": predicted / 1000}
        values |= {"reference_volume_ml": reference / 1000, "volume_difference_ml": (predicted - reference) / 1000}
        for metric, value in values.items():
            row = {"case": f"case-{number}", "structure": "GTV-T", "scope": "volume", "metric": metric}
            rows.append(row | {"value": value, "raw": value, "status": status})
    return pd.DataFrame(rows)


def test_the_aggregated_dsc_of_the_worked_example() -> None:
    table = long_table([(90, 100, 100), (0, 0, 0), (0, 8, 0), (450, 500, 500)])
    found = scoring.aggregate(table)["GTV-T"]
    assert found["aggregated_dsc"] == pytest.approx(2 * 540 / 1208)
    assert round(found["aggregated_dsc"], 3) == 0.894
    assert found["dsc"]["mean"] == pytest.approx(0.9)
    assert (found["cases"], found["present"]) == (4, 2)
    assert found["status"] == {"ok": 2, "ref_empty_fp": 1, "both_empty": 1}
    absent = found["reference_absent"]
    assert (absent["cases"], absent["usable"], absent["false_positives"]) == (2, 2, 1)
    assert absent["false_positive_rate"] == 0.5
    assert absent["false_positive_volume_ml"] == {"mean": pytest.approx(0.008), "sd": None, "median": 0.008}


def test_a_missed_lesion_worsens_every_mean() -> None:
    reference = block()
    cases = {"a": score(block(shift=1), reference), "b": score(None, reference, status="crashed")}
    table = pd.concat([frame.assign(case=case) for case, frame in cases.items()])
    found, alone = scoring.aggregate(table)["GTV-T"], scoring.aggregate(table[table["case"] == "a"])["GTV-T"]
    assert found["dsc"]["mean"] == pytest.approx(0.4)
    assert found["dsc"]["sd"] == pytest.approx(math.sqrt(0.32))
    assert found["hd95_mm"]["median"] == pytest.approx((1 + DIAGONAL) / 2)
    assert found["aggregated_dsc"] == pytest.approx(2 * 288 / (360 * 3))
    assert alone["dsc"] == {"mean": pytest.approx(0.8), "sd": None, "median": pytest.approx(0.8)}
    assert found["status"] == {"ok": 1, "crashed": 1}


def test_a_structure_that_nobody_has_is_summarised_without_numbers() -> None:
    found = scoring.aggregate(score(empty(), empty()).assign(case="a"))["GTV-T"]
    assert found["aggregated_dsc"] is None
    assert found["dsc"] == {"mean": None, "sd": None, "median": None}
    assert found["reference_absent"]["false_positive_rate"] == 0.0
    json.dumps(found, allow_nan=False)


def test_a_crash_without_a_reference_is_no_true_negative_in_the_summary() -> None:
    found = scoring.aggregate(score(None, empty(), status="timeout").assign(case="a"))["GTV-T"]
    assert found["status"] == {"timeout": 1}
    assert (found["present"], found["reference_absent"]["usable"]) == (0, 0)
    assert found["reference_absent"]["false_positive_rate"] is None


def test_the_definition_says_tool_version_percentile_tolerance_and_policy() -> None:
    found = scoring.definition({"GTV-T": 2.0})
    assert (found["tool"], found["percentile"], found["tolerance_mm"]) == ("surface-distance", 95.0, {"GTV-T": 2.0})
    assert found["version"]
    assert "diagonal" in found["empty_policy"]
