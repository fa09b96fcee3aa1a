from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_writer import PLANS, Plan, RunWriter

from gtvbench.reports.analysis.scores import score_summary, wide_scores
from gtvbench.reports.run.load import read_run
from gtvbench.reports.sentences import banners
from gtvbench.reports.tables import published
from gtvbench.reports.tables.scores import published_table
from gtvbench.reports.text.numbers import ABSENT


def _remark(writer: Any, folder: Path) -> str | None:
    run = read_run(writer.write(folder / "run"))
    arms = [arm.name for arm in run.scored_arms]
    return published.remark(run, score_summary(wide_scores(run.scores), "volume", arms, run.structures))


@pytest.fixture
def like_the_study() -> Any:
    """A run with the study's design on real patients."""
    fusions = {"multimodal": 0.7, "ct-only": 0.6}
    nnunet = [Plan("nnunet", fusion, dsc, prompted=False, trains=True) for fusion, dsc in fusions.items()]
    writer = RunWriter(plans=(*PLANS, *nnunet))
    writer.provenance["synthetic"] = False
    writer.arms = [arm | {"cut_schedule": None} for arm in writer.arms]
    return writer


def test_differences_from_the_study_are_of_the_arms_that_it_had(like_the_study: Any, tmp_path: Path) -> None:
    scores = like_the_study.scores
    arm = (scores["arm"] == "nnunet.multimodal") & (scores["metric"] == "dsc") & (scores["structure"] == "GTV-T")
    scores.loc[arm, "value"] = 0.73
    text = _remark(like_the_study, tmp_path)
    assert text is not None
    assert "nnunet.multimodal +0.05 (GTV-T)" in text
    assert "litemedsam-fine-tuned.ct-only" in text
    for name in ("nnunet.ct-only", "box-fill"):
        assert name not in text
    assert "no test is made" in text


def test_weights_of_an_old_record_are_not_called_published(like_the_study: Any, tmp_path: Path) -> None:
    for arm in like_the_study.arms:
        if arm["weights"]:
            arm["stand_in_weights"] = True
            del arm["weights"]["published"]
    run = read_run(like_the_study.write(tmp_path / "run"))
    wide = wide_scores(run.scores)
    summary = score_summary(wide, "volume", [arm.name for arm in run.scored_arms], run.structures)
    said = {banner.kind: banner for banner in banners.banners(run, wide, summary)}
    assert "weights" not in said
    assert said["other-weights"].names[0].endswith(": lite_medsam.pth (SHA-256 79d8c9dca6db…)")
    rows = {row[0].text: row[2].text for row in published_table(run, summary).rows}
    assert rows["litemedsam-zero-shot.ct-only"] == ABSENT
    assert rows["nnunet.multimodal"].endswith("(n = 8)")


def _without_t2(writer: Any) -> None:
    writer.provenance["modalities"] = ["CT", "PET", "T1w"]


def _synthetic(writer: Any) -> None:
    writer.provenance["synthetic"] = True


def _other_weights(writer: Any) -> None:
    writer.arms = [arm | {"weights": {**arm["weights"], "published": None}} for arm in writer.arms if arm["weights"]]


def _cut(writer: Any) -> None:
    writer.arms = [arm | {"cut_schedule": "2 of 20 epochs"} for arm in writer.arms]


@pytest.mark.parametrize("spoil", [_without_t2, _synthetic, _other_weights, _cut])
def test_a_run_that_did_something_else_has_no_remark(
    spoil: Callable[[Any], None], like_the_study: Any, tmp_path: Path
) -> None:
    spoil(like_the_study)
    assert _remark(like_the_study, tmp_path) is None


def test_with_other_prompts_only_arms_without_a_prompt_are_compared(like_the_study: Any, tmp_path: Path) -> None:
    like_the_study.study["prompts"]["policy"] = "fixed-margin(5)"
    text = _remark(like_the_study, tmp_path)
    assert text is not None
    assert "nnunet.multimodal" in text
    assert "litemedsam" not in text


def test_the_results_are_those_of_the_paper_and_of_the_authors_notebook() -> None:
    flat = [value for of_arm in published.RESULTS.values() for pair in of_arm.values() for value in pair]
    assert flat == [
        .69, .10, .75, .10, .70, .13, .68, .11, .82, .06, .85, .04, .82, .07, .85, .05, .68, .22, .63, .33,
        .88, .03, .89, .03,
    ]  # fmt: skip
    assert published.PATIENTS == 97
