"""Planned differences: which pairs, and what is found where the truth is known."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gtvbench.bench.study.record import ArmRecord
from gtvbench.reports.analysis.contrasts import by_patient, contrasts, planned
from gtvbench.reports.analysis.scores import wide_scores
from gtvbench.reports.page.build import build_report
from gtvbench.reports.run.load import read_run
from gtvbench.reports.tables.comparisons import against_margin


def arm(method: str, fusion: str, seed: int = 1, adapter: str = "") -> ArmRecord:
    trains = method.startswith(("nnunet", "litemedsam-fine"))
    name = f"{method}.{fusion}.{seed}"
    return ArmRecord(
        arm=name, method=method, fusion=fusion, status="complete", trains=trains, adapter=adapter, seed=seed
    )


SIX = [
    arm("litemedsam-zero-shot", "ct-only"), arm("litemedsam-zero-shot", "multimodal"),
    arm("litemedsam-fine-tuned", "ct-only"), arm("litemedsam-fine-tuned", "multimodal"),
    arm("nnunet", "multimodal"), arm("nnunet-box", "multimodal"),
]  # fmt: skip


def test_the_six_arms_of_the_study_have_seven_planned_contrasts() -> None:
    pairs = planned([*SIX, arm("box-fill", "none")])
    short = {tuple(name.replace("litemedsam-", "").removesuffix(".1") for name in pair) for pair in pairs}
    assert short == {
        ("fine-tuned.ct-only", "zero-shot.ct-only"), ("fine-tuned.multimodal", "zero-shot.multimodal"),
        ("zero-shot.multimodal", "zero-shot.ct-only"), ("fine-tuned.multimodal", "fine-tuned.ct-only"),
        ("nnunet-box.multimodal", "nnunet.multimodal"), ("nnunet-box.multimodal", "fine-tuned.ct-only"),
        ("nnunet-box.multimodal", "fine-tuned.multimodal"),
    }  # fmt: skip
    assert len(pairs) == len(set(pairs)) == 7


def test_repetitions_pair_with_their_own_seed_only() -> None:
    repeated = [arm(method, "multimodal", seed) for method in ("nnunet", "nnunet-box") for seed in (1, 2)]
    assert planned(repeated) == [
        ("nnunet-box.multimodal.1", "nnunet.multimodal.1"),
        ("nnunet-box.multimodal.2", "nnunet.multimodal.2"),
    ]


def one_of(table: pd.DataFrame, structure: str, metric: str, one: str, other: str) -> pd.Series:  # type: ignore[type-arg]
    chosen = (table["structure"] == structure) & (table["metric"] == metric)
    return table[chosen & (table["one"] == one) & (table["other"] == other)].iloc[0]


TUNED, ZERO = "litemedsam-fine-tuned.multimodal", "litemedsam-zero-shot.multimodal"


def shift(writer: Any, name: str, by: float) -> None:
    """Give an arm the DSC of the zero-shot arm plus a number and a little noise."""
    rows = writer.scores
    dsc = (rows["metric"] == "dsc") & (rows["scope"] == "volume")
    base = rows[dsc & (rows["arm"] == ZERO)].set_index(["case", "structure"])["value"]
    mine = dsc & (rows["arm"] == name)
    noise = np.random.default_rng(0).normal(0, 0.01, int(mine.sum()))
    keys = pd.MultiIndex.from_frame(rows.loc[mine, ["case", "structure"]])
    rows.loc[mine, "value"] = base.reindex(keys).to_numpy() + by + noise


def test_a_known_effect_is_found_with_its_size(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    writer = new_run(patients=40)
    shift(writer, TUNED, 0.05)
    run = read_run(writer.write(tmp_path / "run"))
    table = contrasts(run, wide_scores(run.scores))
    found = one_of(table, "GTV-T", "dsc", TUNED, ZERO)
    assert found["planned"] and found["n"] == 40 and found["family"] == 4
    assert found["difference"] == pytest.approx(0.05, abs=0.005)
    assert found["low"] < 0.05 < found["high"] and found["high"] - found["low"] < 0.01
    assert found["p"] <= found["p_holm"] < 1e-4 and found["superiority"] > 0.99
    assert found["hodges_lehmann_low"] < found["hodges_lehmann"] < found["hodges_lehmann_high"]
    absent = one_of(table, "GTV-N", "dsc", TUNED, ZERO)
    assert absent["n"] == 32, "patients without the structure belong to no pair"


def test_one_method_under_two_names_is_no_difference(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    writer = new_run(patients=20)
    rows = writer.scores
    for metric in ("dsc", "hd95_mm"):
        same = rows["metric"] == metric
        values = rows[same & (rows["arm"] == ZERO)].set_index(["case", "structure", "scope"])["value"]
        mine = same & (rows["arm"] == TUNED)
        keys = pd.MultiIndex.from_frame(rows.loc[mine, ["case", "structure", "scope"]])
        rows.loc[mine, "value"] = values.reindex(keys).to_numpy()
    run = read_run(writer.write(tmp_path / "run"))
    table = contrasts(run, wide_scores(run.scores))
    for metric in ("dsc", "hd95_mm"):
        found = one_of(table, "GTV-T", metric, TUNED, ZERO)
        assert (found["difference"], found["p"], found["p_holm"], found["superiority"]) == (0, 1, 1, 0.5)
        assert (found["low"], found["high"]) == (0, 0)


def test_the_study_file_says_what_is_planned_and_what_matters(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    writer = new_run(patients=40)
    shift(writer, TUNED, 0.05)
    verdicts = {}
    for margin in (0.02, 0.1):
        writer.study["statistics"] = {"dsc-margin": margin, "contrasts": [[ZERO, TUNED], ["nobody", TUNED]]}
        run = read_run(writer.write(tmp_path / f"run{margin}"))
        table = contrasts(run, wide_scores(run.scores))
        assert set(map(tuple, table.loc[table["planned"], ["one", "other"]].to_numpy())) == {(ZERO, TUNED)}
        found = one_of(table, "GTV-T", "dsc", ZERO, TUNED)
        assert found["family"] == 1 and found["margin"] == margin and found["difference"] < -0.04
        verdicts[margin] = against_margin(found)
    assert verdicts == {0.02: "worse", 0.1: "equivalent"}
    writer.study["statistics"] = {"dsc-margin": 0.02}
    run = read_run(writer.write(tmp_path / "again"))
    better = one_of(contrasts(run, wide_scores(run.scores)), "GTV-T", "dsc", TUNED, ZERO)
    assert against_margin(better) == "better"


def test_failed_cases_count_with_their_penalty(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    writer = new_run(patients=10)
    writer.fail(TUNED, writer.cases[:3], "crashed")
    run = read_run(writer.write(tmp_path / "run"))
    table = by_patient(wide_scores(run.scores), "GTV-T", "dsc")
    assert len(table) == 10 and (table.loc[writer.cases[:3], TUNED] == 0).all()


@pytest.mark.parametrize(("patients", "printed"), [(4, False), (5, False), (8, True)])
def test_so_few_patients_that_no_test_could_reject_get_no_p(
    tmp_path: Path, new_run: Callable[..., Any], patients: int, printed: bool
) -> None:
    run = read_run(new_run(patients=patients).write(tmp_path / "run"))
    table = contrasts(run, wide_scores(run.scores))
    assert table.loc[table["structure"] == "GTV-T", "p"].notna().any() == printed
    page = build_report(tmp_path / "run").read_text()
    assert ("could never reach p &lt; .05" in page or "could never reach p < .05" in page) == (
        not printed or int(table["n"].min()) < 6
    )


def test_the_numbers_travel_as_json_without_nan(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    folder = new_run(patients=5).write(tmp_path / "run")
    build_report(folder)
    record = json.loads((folder / "report" / "data" / "stats.json").read_text())
    assert record["schema"] == 2 and len(record["contrasts"]) == 2 * 2 * 15
    assert all(row["p"] is None for row in record["contrasts"])
    ranked = record["rankings"][0]
    assert len(ranked["schemes"][0]["probability"]) == len(ranked["arms"]) == 6


def test_a_pair_that_is_declared_twice_by_other_names_counts_once(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    writer = new_run(patients=8)
    arms = [{**record, "arm": f"{record['arm']}.seed1"} if record["trains"] else record for record in writer.arms]
    renamed = {old["arm"]: new["arm"] for old, new in zip(writer.arms, arms, strict=True)}
    writer.arms, writer.scores["arm"] = arms, writer.scores["arm"].map(renamed)
    writer.study["statistics"] = {"contrasts": [[TUNED, ZERO], [f"{TUNED}.seed1", ZERO], [TUNED, f"{TUNED}.seed1"]]}
    run = read_run(writer.write(tmp_path / "run"))
    table = contrasts(run, wide_scores(run.scores)).query("planned and metric == 'dsc' and structure == 'GTV-T'")
    assert table[["one", "other", "family"]].to_numpy().tolist() == [[f"{TUNED}.seed1", ZERO, 1]]
