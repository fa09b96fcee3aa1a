from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from run_writer import RunWriter

from gtvbench.bench.core.scores import METRICS
from gtvbench.reports.analysis import cost
from gtvbench.reports.analysis import scores as tables
from gtvbench.reports.run.load import read_run
from gtvbench.reports.tables.cost import prediction_table

ARMS, STRUCTURES = ["one", "two"], ["GTV-T"]
NAN = float("nan")


def long_table(rows: list[tuple[str, str, str, dict[str, float]]]) -> pd.DataFrame:
    """Long scores of (arm, case, status, metric -> value), whole volume, one structure."""
    return pd.DataFrame(
        [
            {"arm": arm, "case": case, "patient": case, "structure": "GTV-T", "scope": "volume", "metric": metric,
             "value": values.get(metric, NAN), "status": status}
            for arm, case, status, values in rows
            for metric in METRICS
        ]
    )  # fmt: skip


def scored(dsc: float, predicted: float, reference: float, hd95: float = 1.0) -> dict[str, float]:
    return {
        "dsc": dsc, "hd95_mm": hd95, "nsd": dsc, "assd_mm": 1.0, "volume_ml": predicted,
        "reference_volume_ml": reference, "volume_difference_ml": predicted - reference,
    }  # fmt: skip


def empty(predicted: float) -> dict[str, float]:
    return {"volume_ml": predicted, "reference_volume_ml": 0.0, "volume_difference_ml": predicted}


@pytest.fixture
def four_patients() -> pd.DataFrame:
    """The worked example of the evaluation notes: TP 90, 0, 0, 450; V_pred 100, 0, 8, 500; V_ref 100, 0, 0, 500."""
    return tables.wide_scores(
        long_table(
            [
                ("one", "a", "ok", scored(0.9, 100, 100)),
                ("one", "b", "both_empty", empty(0)),
                ("one", "c", "ref_empty_fp", empty(8)),
                ("one", "d", "ok", scored(0.9, 500, 500)),
            ]
        )
    )


def test_the_conventions_for_empty_masks_give_the_documented_values(four_patients: pd.DataFrame) -> None:
    row = tables.sensitivity(four_patients, ["one"], STRUCTURES).iloc[0]
    assert row["present"] == pytest.approx(0.9)
    assert row["empty_is_one"] == pytest.approx(0.7)
    assert row["aggregated"] == pytest.approx(0.894, abs=5e-4)
    assert row["n_complete"] == 2
    row = tables.score_summary(four_patients, "volume", ["one"], STRUCTURES).iloc[0]
    assert (row["n"], row["failed"]) == (2, 0), "cases without a reference stay out of the means"
    assert row["dsc_mean"] == pytest.approx(0.9)


def test_recorded_true_positives_go_before_recovered_ones() -> None:
    wide = tables.wide_scores(long_table([("one", "a", "ok", scored(0.8, 10, 10) | {"tp_mm3": 9000.0})]))
    assert tables.aggregated_dsc(wide) == pytest.approx(0.9)
    row = tables.score_summary(wide, "volume", ["one"], STRUCTURES).iloc[0]
    assert math.isnan(row["dsc_sd"]), "one case has no spread"
    assert row["dsc_min"] == row["dsc_median"] == 0.8


def test_false_positives_are_counted_where_the_reference_is_empty(four_patients: pd.DataFrame) -> None:
    row = tables.false_positives(four_patients, ["one"], STRUCTURES).iloc[0]
    assert (row["cases"], row["false_positive"], row["true_negative"], row["no_mask"]) == (2, 1, 1, 0)
    assert row["rate"] == 0.5
    assert row["volume_max_ml"] == 8
    counts = tables.status_counts(four_patients.replace({"status": {"both_empty": "eaten"}}), ["one"], STRUCTURES)
    assert counts.iloc[0][["cases", "ok", "ref_empty_fp", "other"]].tolist() == [4, 2, 1, 1]


def test_a_crashed_case_stays_in_the_mean_with_its_penalty() -> None:
    lost = {"dsc": 0.0, "hd95_mm": 300.0, "nsd": 0.0, "assd_mm": 300.0, "reference_volume_ml": 10.0}
    wide = tables.wide_scores(
        long_table([("one", "a", "ok", scored(0.8, 10, 10, 3.0)), ("one", "b", "crashed", lost),
                    ("one", "c", "ok", scored(0.9, 10, 10, 2.0))])
    )  # fmt: skip
    row = tables.score_summary(wide, "volume", ["one"], STRUCTURES).iloc[0]
    assert (row["n"], row["failed"]) == (3, 1)
    assert row["dsc_mean"] == pytest.approx((0.8 + 0.9) / 3)
    assert row["hd95_median_mm"] == 3.0
    assert row["hd95_failure_rate"] == pytest.approx(1 / 3)
    assert row["dsc_aggregated"] == pytest.approx((0.8 * 20 + 0.9 * 20) / 50)


def test_a_crash_where_another_arm_saw_an_empty_reference_is_no_miss() -> None:
    wide = tables.wide_scores(
        long_table([("one", "a", "both_empty", empty(0)), ("two", "a", "crashed", {}), ("two", "b", "crashed", {})])
    )
    present = wide.set_index(["arm", "case"])["present"]
    assert not present["two", "a"]
    assert not present["two", "b"]
    assert tables.false_positives(wide, ["two"], STRUCTURES).iloc[0]["no_mask"] == 2


def test_a_score_that_is_not_a_number_is_counted_not_hidden() -> None:
    wide = tables.wide_scores(
        long_table([("one", "a", "ok", scored(NAN, 10, 10)), ("one", "b", "ok", scored(0.5, 10, 10, math.inf))])
    )
    row = tables.score_summary(wide, "volume", ["one"], STRUCTURES).iloc[0]
    assert (row["n"], row["unscored"]) == (2, 1)
    assert row["dsc_mean"] == 0.5
    assert row["hd95_median_mm"] == 1.0


def test_a_change_of_order_between_conventions_is_found() -> None:
    wide = tables.wide_scores(
        long_table(
            [
                ("one", "a", "ok", scored(0.8, 10, 10)),
                ("one", "b", "ref_empty_fp", empty(5)),
                ("two", "a", "ok", scored(0.7, 10, 10)),
                ("two", "b", "both_empty", empty(0)),
            ]
        )
    )
    stability = tables.sensitivity(wide, ARMS, STRUCTURES)
    assert tables.order_changes(stability, "GTV-T") == ["empty_is_one", "aggregated"]
    row: dict[str, Any] = {"structure": "GTV-T", "complete": 0.5, "aggregated": 0.5, "empty_is_one": 0.5}
    noise = pd.DataFrame([{**row, "present": 0.1 + 0.2}, {**row, "present": 0.3}])
    assert tables.order_changes(noise, "GTV-T") == []


def test_arms_that_tie_to_three_decimals_are_all_best() -> None:
    summary = pd.DataFrame({"structure": "GTV-T", "arm": ["one", "two", "three"], "dsc_mean": [0.8001, 0.8004, 0.7]})
    assert tables.best_arms(summary, "GTV-T") == ["one", "two"]
    assert tables.best_arms(summary, "GTV-T", lowest=True) == ["three"]
    assert tables.best_arms(summary, "GTV-N") == []


def test_times_keep_first_epoch_warm_up_and_batches_apart(whole: Path) -> None:
    run = read_run(whole)
    arm = "litemedsam-fine-tuned.ct-only"
    epochs = cost.epoch_summary(run).set_index("arm").loc[arm]
    seconds = run.epochs[arm]["seconds"]
    assert epochs["first_epoch_s"] == seconds.iloc[0]
    assert epochs["median_s"] == pytest.approx(float(np.median(seconds.iloc[1:])))
    stages = cost.stage_summary(run).set_index(["arm", "stage"])
    timing = run.timing[arm]
    assert stages.loc[(arm, "encode"), "median_s"] == timing.loc[timing["stage"] == "encode", "seconds"].median()
    assert stages.loc[(arm, "slice"), "n"] == 48
    row = cost.resources(run).set_index("arm").loc[arm]
    assert (row["warmup_s"], row["batch_slices"]) == (pytest.approx(0.44), 8)
    assert row["slices_per_s"] == pytest.approx(8 / 0.12)
    assert row["boxes_per_s"] == pytest.approx(11 / 0.12)


def test_times_of_two_devices_are_never_pooled(tmp_path: Path) -> None:
    writer = RunWriter(patients=4)
    columns = ["case", "slice", "stage", "boxes", "seconds", "device", "host"]
    places = [("CPU", "a"), ("CPU", "a"), ("GPU", "b"), ("GPU", "b")]
    rows = [
        (case, -1, "case", 0, 10.0 + k if device == "CPU" else 1.0 + k, device, host)
        for k, (case, (device, host)) in enumerate(zip(writer.cases, places, strict=True))
    ]
    writer.timing["box-fill"] = pd.DataFrame(rows, columns=columns)
    run = read_run(writer.write(tmp_path / "run"))
    stages = cost.stage_summary(run)
    own = stages[(stages["arm"] == "box-fill") & (stages["stage"] == "case")]
    assert own.set_index("device")["median_s"].to_dict() == {"CPU (machine a)": 10.5, "GPU (machine b)": 3.5}
    per_case = cost.seconds_per_case(stages)
    assert "box-fill" not in per_case and "box-ellipse" in per_case
    cells = [[cell.text for cell in row][:3] for row in prediction_table(stages).rows]
    own = [row for row in cells if row[0] == "box-fill"]
    assert own == [["box-fill", "CPU (machine a)", "10.5 s"], ["box-fill", "GPU (machine b)", "3.50 s"]]
