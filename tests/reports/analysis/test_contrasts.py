"""Planned differences: which pairs, and what is found where the truth is known."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pages import page_of
from run_writer import RunWriter

from gtvbench.bench.study.record import ArmRecord
from gtvbench.reports.analysis.contrasts import by_patient, contrasts, planned
from gtvbench.reports.analysis.scores import wide_scores
from gtvbench.reports.run.load import read_run
from gtvbench.reports.tables.comparisons import against_margin


def arm(method: str, fusion: str, seed: int = 1, adapter: str = "") -> ArmRecord:
    trains = method.startswith(("nnunet", "litemedsam-fine"))
    name = f"{method}.{fusion}.{seed}"
    return ArmRecord(
        arm=name, method=method, fusion=fusion, status="complete", trains=trains, adapter=adapter, seed=seed
    )


SIX = [
    arm("litemedsam-zero-shot", "ct-only"),
    arm("litemedsam-zero-shot", "multimodal"),
    arm("litemedsam-fine-tuned", "ct-only"),
    arm("litemedsam-fine-tuned", "multimodal"),
    arm("nnunet", "multimodal"),
    arm("nnunet-box", "multimodal"),
]


def test_the_six_arms_of_the_study_have_seven_planned_contrasts() -> None:
    pairs = planned([*SIX, arm("box-fill", "none")])
    short = {tuple(name.replace("litemedsam-", "").removesuffix(".1") for name in pair) for pair in pairs}
    assert short == {
        ("fine-tuned.ct-only", "zero-shot.ct-only"),
        ("fine-tuned.multimodal", "zero-shot.multimodal"),
        ("zero-shot.multimodal", "zero-shot.ct-only"),
        ("fine-tuned.multimodal", "fine-tuned.ct-only"),
        ("nnunet-box.multimodal", "nnunet.multimodal"),
        ("nnunet-box.multimodal", "fine-tuned.ct-only"),
        ("nnunet-box.multimodal", "fine-tuned.multimodal"),
    }
    assert len(pairs) == len(set(pairs)) == 7


def test_repetitions_pair_with_their_own_seed_and_each_with_what_has_none() -> None:
    repeated = [arm("litemedsam-fine-tuned", fusion, seed) for fusion in ("ct-only", "multimodal") for seed in (2, 3)]
    pairs = planned([*SIX[:2], *repeated])
    tuned = [pair for pair in pairs if all("fine-tuned" in name for name in pair)]
    assert sorted(tuned) == [
        (f"litemedsam-fine-tuned.multimodal.{k}", f"litemedsam-fine-tuned.ct-only.{k}") for k in (2, 3)
    ]
    assert len(pairs) == 2 + 1 + 2 * 2  # multimodal against ct-only: tuned, zero-shot; tuned against zero-shot


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


def test_a_known_effect_is_found_with_its_size_and_failed_cases_count_with_their_penalty(tmp_path: Path) -> None:
    writer = RunWriter(patients=40)
    shift(writer, TUNED, 0.05)
    writer.fail("box-fill", writer.cases[:3], "crashed")
    run = read_run(writer.write(tmp_path / "run"))
    wide = wide_scores(run.scores)
    table = contrasts(run, wide)
    found = one_of(table, "GTV-T", "dsc", TUNED, ZERO)
    assert found["planned"] and found["n"] == 40 and found["family"] == 4
    assert found["difference"] == pytest.approx(0.05, abs=0.005)
    assert found["low"] < 0.05 < found["high"] and found["high"] - found["low"] < 0.01
    assert found["p"] <= found["p_holm"] < 1e-4 and found["superiority"] > 0.99
    assert found["hodges_lehmann_low"] < found["hodges_lehmann"] < found["hodges_lehmann_high"]
    absent = one_of(table, "GTV-N", "dsc", TUNED, ZERO)
    assert absent["n"] == 32, "patients without the structure belong to no pair"
    values = by_patient(wide, "GTV-T", "dsc")
    assert len(values) == 40 and (values.loc[writer.cases[:3], "box-fill"] == 0).all()


def test_the_study_file_says_what_is_planned_and_what_matters(tmp_path: Path) -> None:
    writer = RunWriter(patients=40)
    shift(writer, TUNED, 0.05)
    verdicts = {}
    for margin in (0.02, 0.1):
        writer.study["statistics"] |= {"dsc-margin": margin, "contrasts": [[ZERO, TUNED], ["nobody", TUNED]]}
        run = read_run(writer.write(tmp_path / f"run{margin}"))
        table = contrasts(run, wide_scores(run.scores))
        assert set(map(tuple, table.loc[table["planned"], ["one", "other"]].to_numpy())) == {(ZERO, TUNED)}
        found = one_of(table, "GTV-T", "dsc", ZERO, TUNED)
        assert found["family"] == 1 and found["margin"] == margin and found["difference"] < -0.04
        verdicts[margin] = against_margin(found)
    assert verdicts == {0.02: "worse", 0.1: "equivalent"}
    writer.study["statistics"] = {"dsc-margin": 0.02, "resamples": 1000}
    run = read_run(writer.write(tmp_path / "again"))
    better = one_of(contrasts(run, wide_scores(run.scores)), "GTV-T", "dsc", TUNED, ZERO)
    assert against_margin(better) == "better"


@pytest.mark.parametrize(("patients", "printed"), [(5, False), (8, True)])
def test_so_few_patients_that_no_test_could_reject_get_no_p(tmp_path: Path, patients: int, printed: bool) -> None:
    run = read_run(RunWriter(patients=patients).write(tmp_path / "run"))
    table = contrasts(run, wide_scores(run.scores))
    assert table.loc[table["structure"] == "GTV-T", "p"].notna().any() == printed
    told = re.search(r"could never reach p (&lt;|<) \.05", page_of(run)) is not None
    assert told == (not printed or int(table["n"].min()) < 6)


def test_a_pair_that_is_declared_twice_by_other_names_counts_once(tmp_path: Path) -> None:
    writer = RunWriter(patients=8)
    arms = [{**record, "arm": f"{record['arm']}.seed1"} if record["trains"] else record for record in writer.arms]
    renamed = {old["arm"]: new["arm"] for old, new in zip(writer.arms, arms, strict=True)}
    writer.arms, writer.scores["arm"] = arms, writer.scores["arm"].map(renamed)
    writer.study["statistics"] = {"contrasts": [[TUNED, ZERO], [f"{TUNED}.seed1", ZERO], [TUNED, f"{TUNED}.seed1"]]}
    run = read_run(writer.write(tmp_path / "run"))
    table = contrasts(run, wide_scores(run.scores)).query("planned and metric == 'dsc' and structure == 'GTV-T'")
    assert table[["one", "other", "family"]].to_numpy().tolist() == [[f"{TUNED}.seed1", ZERO, 1]]
