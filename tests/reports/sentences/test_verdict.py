from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_writer import RunWriter

from gtvbench.bench.core.scores import WHOLE_VOLUME
from gtvbench.reports.analysis import contrasts, cost, scores
from gtvbench.reports.run.load import read_run
from gtvbench.reports.sentences import verdict


def of(folder: Path) -> list[verdict.Verdict]:
    run = read_run(folder)
    wide = scores.wide_scores(run.scores)
    arms = [arm.name for arm in run.scored_arms]
    summary = scores.score_summary(wide, WHOLE_VOLUME, arms, run.structures)
    costs = cost.seconds_per_case(cost.stage_summary(run))
    found = contrasts.contrasts(run, wide)
    return verdict.verdicts(run, wide, summary, found, contrasts.rankings(run, wide), costs)


def said(one: verdict.Verdict, term: str) -> str:
    return next((point.text for point in one.points if point.term == term), "")


def shift(scores: pd.DataFrame, arm: str, other: str, by: float, noise: float = 0.0) -> None:
    """Make the DSC of an arm that of another one plus a shift (and a little seeded noise)."""
    rng = np.random.default_rng(3)
    rows = (scores["arm"] == arm) & (scores["metric"] == "dsc")
    source = scores[(scores["arm"] == other) & (scores["metric"] == "dsc")]
    values = source["value"].to_numpy() + by + rng.normal(0, noise, len(source))
    scores.loc[rows, "value"] = values


def test_a_clear_lead_over_many_patients_is_named_with_its_size(tmp_path: Path) -> None:
    writer = RunWriter(patients=30)
    shift(writer.scores, "litemedsam-fine-tuned.multimodal", "litemedsam-fine-tuned.ct-only", 0.12, 0.01)
    tumour = of(writer.write(tmp_path / "run"))[0]
    assert tumour.arms == ("litemedsam-fine-tuned.multimodal",)
    assert "over litemedsam-fine-tuned.ct-only, the next" in said(tumour, "Lead")
    assert "+0.12" in said(tumour, "Lead")
    assert "more than chance, and beyond the margin of 0.05" in said(tumour, "Lead")
    assert "after Holm over all pairs" in said(tumour, "Lead")
    assert said(tumour, "Told apart").startswith("From all 5 other arms")
    assert "First in 100 %" in said(tumour, "How sure")
    assert "a case" in said(tumour, "Cost")
    assert "training in 8 epochs" in said(tumour, "Cost")


@pytest.mark.parametrize(
    ("by", "noise", "words"), [(0.004, 0.001, "practically the same"), (0.03, 0.25, "it may be chance")]
)
def test_a_lead_within_the_margin_or_one_that_may_be_chance_is_no_lead(
    tmp_path: Path, by: float, noise: float, words: str
) -> None:
    writer = RunWriter(patients=30)
    shift(writer.scores, "litemedsam-fine-tuned.multimodal", "litemedsam-fine-tuned.ct-only", by, noise)
    writer.study["statistics"] |= {"dsc-margin": 0.01}
    tumour = of(writer.write(tmp_path / "run"))[0]
    assert words in said(tumour, "Lead")
    assert ("litemedsam-fine-tuned" in said(tumour, "Not told apart")) == (noise > 0.1)


def test_few_patients_decide_nothing_and_the_verdict_says_so(tmp_path: Path) -> None:
    tumour = of(RunWriter(patients=4).write(tmp_path / "run"))[0]
    assert "too few patients for a test to decide" in said(tumour, "Lead")
    assert "none of 4 planned differences and 15 pairs can reach p < .05" in said(tumour, "Tests")


def test_a_pair_is_turned_round_where_the_table_has_it_the_other_way() -> None:
    frame = pd.DataFrame(
        [{"metric": "dsc", "one": "a", "other": "b", "difference": 0.2, "low": 0.1, "high": 0.4, "p": 0.01}]
    )
    turned = verdict.oriented(frame, "dsc", "b", "a")
    assert turned is not None
    assert (turned["difference"], turned["low"], turned["high"]) == (-0.2, -0.4, -0.1)
    assert verdict.oriented(frame, "dsc", "a", "c") is None
