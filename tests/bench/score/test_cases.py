"""Statuses, scopes, penalties and summaries."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.core.scores import METRICS, UNUSABLE
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

NAN, INF = math.nan, math.inf
#: Values and raw values in the order of METRICS: DSC, HD95, NSD, ASSD, volume, reference, difference, TP.
MISSED = (0.0, DIAGONAL, 0.0, DIAGONAL, 0.0, 0.36, -0.36, 0.0)
UNSEEN = (NAN, NAN, NAN, NAN, NAN, 0.36, NAN, NAN)


@pytest.mark.parametrize(
    ("prediction", "reference", "asked", "status", "values", "raw"),
    [
        (empty(), block(), None, "pred_empty", MISSED, (0.0, INF, 0.0, NAN, *MISSED[4:])),
        (None, block(), None, "missing_output", MISSED, UNSEEN),
        *[(None, block(), status, status, MISSED, UNSEEN) for status in UNUSABLE],
        (np.ones((10, 20, 31), np.uint8), block(), None, "geometry_mismatch", MISSED, UNSEEN),
        (block(), empty(), None, "ref_empty_fp", (*[NAN] * 4, 0.36, 0.0, 0.36, 0.0),
         (0.0, INF, 0.0, NAN, 0.36, 0.0, 0.36, 0.0)),
        (empty(), empty(), None, "both_empty", (*[NAN] * 4, 0.0, 0.0, 0.0, 0.0),
         (NAN, INF, NAN, NAN, 0.0, 0.0, 0.0, 0.0)),
        (None, empty(), "crashed", "crashed", (*[NAN] * 5, 0.0, NAN, NAN), (*[NAN] * 5, 0.0, NAN, NAN)),
    ],
)  # fmt: skip
def test_what_is_missed_has_the_grids_diagonal_and_what_is_absent_has_no_dsc(
    prediction: Label | None, reference: Label, asked: str | None, status: str, values: Any, raw: Any
) -> None:
    frame = score(prediction, reference, status=asked)
    assert status_of(frame) == status
    for column, wanted in (("value", values), ("raw", raw)):
        found = numbers(frame, column)
        assert list(found) == list(METRICS)
        assert list(found.values()) == pytest.approx(list(wanted), nan_ok=True)


def test_a_usable_pair_is_ok_and_scored_as_measured() -> None:
    frame = score(block(shift=1), block())
    found = numbers(frame, "value")
    assert status_of(frame) == "ok" and found == numbers(frame, "raw")
    assert 0 < found.pop("assd_mm") < found["hd95_mm"]
    assert 0 < found.pop("nsd") <= 1
    assert list(found.values()) == pytest.approx([0.8, 1.0, 0.36, 0.36, 0.0, 288])


def test_a_reference_off_its_grid_and_a_status_that_is_none_are_refused() -> None:
    with pytest.raises(ValueError, match="on a grid of"):
        scoring.score_case(None, np.zeros((2, 2, 2), np.uint8), GRID, (T,), {})
    with pytest.raises(ValueError, match="'ok' is not one of missing_output, crashed, timeout, geometry_mismatch"):
        score(None, block(), status="ok")


# ---- structures, tolerances, scopes


def test_each_structure_is_scored_by_its_own_value_surface_and_tolerance() -> None:
    both = block() + block(2, shift=5)  # they touch
    frame = score(block(), both, (T, N))
    assert (status_of(frame, "GTV-T"), status_of(frame, "GTV-N")) == ("ok", "pred_empty")
    frame = score(both, both, (T, N))
    for name in ("GTV-T", "GTV-N"):
        found = numbers(frame, "value", name)
        assert (found["dsc"], found["hd95_mm"], found["nsd"]) == (1.0, 0.0, 1.0)
    reference, prediction = block() + block(2, shift=6), block(shift=2) + block(2, shift=8)
    frame = score(prediction, reference, (T, N), tolerances={"GTV-T": 2.0, "GTV-N": 0.5})
    assert numbers(frame, "value", "GTV-T")["nsd"] == 1.0
    assert numbers(frame, "value", "GTV-N")["nsd"] < 0.7
    default = metrics.compare(block() == 1, block(shift=3) == 1, GRID.spacing, 2.0).nsd
    assert numbers(score(block(shift=3), block()), "value")["nsd"] == default


def test_the_second_scope_sets_both_masks_to_zero_outside_prompted_slices() -> None:
    reference, prediction = block(), block(z=3)
    frame = score(prediction, reference, prompted={"GTV-T": [2, 3]})
    kept_reference, kept_prediction = empty(), empty()
    kept_reference[2:4], kept_prediction[2:4] = reference[2:4], prediction[2:4]
    assert numbers(frame, "value", scope="prompted-slices") == numbers(score(kept_prediction, kept_reference), "value")
    assert numbers(frame, "value", scope="volume") == numbers(score(prediction, reference), "value")
    assert numbers(frame, "value", scope="prompted-slices")["reference_volume_ml"] == pytest.approx(0.24)


def test_prompted_slices_may_cover_both_masks_or_leave_gaps() -> None:
    frame = score(block(z=3), block(), prompted={"GTV-T": list(range(10))})
    assert numbers(frame, "value", scope="prompted-slices") == numbers(frame, "value", scope="volume")
    found = numbers(score(block(), block(), prompted={"GTV-T": [2, 4]}), "value", scope="prompted-slices")
    assert (found["dsc"], found["hd95_mm"]) == (1.0, 0.0)
    assert found["volume_ml"] == pytest.approx(0.24)


def test_what_lies_beyond_the_prompted_slices_counts_in_the_volume_alone() -> None:
    frame = score(block(z=6), empty(), prompted={})
    assert (status_of(frame), status_of(frame, scope="prompted-slices")) == ("ref_empty_fp", "both_empty")
    frame = score(block(z=6), block(), prompted={"GTV-T": [2, 3, 4]})
    assert status_of(frame, scope="prompted-slices") == "pred_empty"
    assert numbers(frame, "value", scope="prompted-slices")["assd_mm"] == pytest.approx(DIAGONAL)
    frame = score(None, block(), prompted={"GTV-T": [2, 3]}, status="crashed")
    assert status_of(frame, scope="prompted-slices") == "crashed"
    found = numbers(frame, "value", scope="prompted-slices")
    assert found["volume_difference_ml"] == pytest.approx(-0.24)


# ---- edges


def test_lesions_in_the_corners_of_the_grid_are_scored() -> None:
    reference, prediction = empty(), empty()
    reference[0, 0, 0] = prediction[-1, -1, -1] = 1
    found = numbers(score(prediction, reference), "value")
    # Eight surfels of one area each: the 95th percentile is the farthest, from a corner of the grid to the nearer
    # corner of the other voxel.
    assert (found["dsc"], found["nsd"]) == (0.0, 0.0)
    assert found["hd95_mm"] == pytest.approx(math.sqrt(27**2 + 19**2 + 58**2))


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


def test_a_structure_that_nobody_has_is_summarised_without_numbers_and_a_crash_is_no_true_negative() -> None:
    found = scoring.aggregate(score(empty(), empty()).assign(case="a"))["GTV-T"]
    assert found["aggregated_dsc"] is None
    assert found["dsc"] == {"mean": None, "sd": None, "median": None}
    assert found["reference_absent"]["false_positive_rate"] == 0.0
    json.dumps(found, allow_nan=False)
    found = scoring.aggregate(score(None, empty(), status="timeout").assign(case="a"))["GTV-T"]
    assert found["status"] == {"timeout": 1}
    assert (found["present"], found["reference_absent"]["usable"]) == (0, 0)
    assert found["reference_absent"]["false_positive_rate"] is None
