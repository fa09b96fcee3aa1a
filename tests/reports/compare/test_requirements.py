"""Requirements on a run: what holds, what does not, and what cannot be read."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from run_writer import RunWriter

from gtvbench.bench.core.errors import StudyError
from gtvbench.reports.compare.requirements import check_requirements


def rows_of(writer: Any, arm: str, metric: str, structure: str = "GTV-T") -> pd.Series:
    rows = writer.scores
    return (
        (rows["arm"] == arm)
        & (rows["structure"] == structure)
        & (rows["scope"] == "volume")
        & (rows["metric"] == metric)
    )


def repeat_with_seeds(writer: Any, arm: str, values: list[list[float]], metric: str = "dsc") -> None:
    """Replace an arm by `arm`.seed1, .seed2 ... of which each has these values in every patient with GTV-T."""
    record = next(r for r in writer.arms if r["arm"] == arm)
    scores = writer.scores[writer.scores["arm"] == arm]
    writer.arms.remove(record)
    writer.scores = writer.scores[writer.scores["arm"] != arm]
    for seed, own in enumerate(values, start=1):
        name = f"{arm}.seed{seed}"
        writer.arms.append({**record, "arm": name, "seed": seed})
        writer.scores = pd.concat([writer.scores, scores.assign(arm=name, seed=seed)], ignore_index=True)
        writer.scores.loc[rows_of(writer, name, metric), "value"] = own
        for tables in (writer.timing, writer.epochs):
            tables[name] = tables[arm]
    for tables in (writer.timing, writer.epochs):
        tables.pop(arm)


def test_requirements_compare_the_headline_numbers(tmp_path: Path) -> None:
    writer = RunWriter(patients=6)
    dsc, nsd = [0.5, 0.6, 0.7, 0.8, 0.9, 0.1], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    writer.scores.loc[rows_of(writer, "box-fill", "dsc"), "value"] = dsc
    writer.scores.loc[rows_of(writer, "box-fill", "nsd"), "value"] = nsd
    writer.scores.loc[rows_of(writer, "box-fill", "hd95_mm"), "value"] = [1, 2, 3, 4, 5, 100]
    writer.scores.loc[rows_of(writer, "box-fill", "assd_mm"), "value"] = [1, 1, 1, 2, 2, 50]
    texts = [
        "box-fill:GTV-T:dsc>=0.6",
        "box-fill:GTV-T:dsc > .61",
        "box-fill:GTV-T:hd95<=3.5",
        "box-fill:GTV-T:hd95<3e0",
        " box-fill : GTV-T : NSD \u2265 0.35 ",
        "box-fill:GTV-T:assd_mm\u22641.5",
    ]
    found = check_requirements(writer.write(tmp_path / "run"), texts)
    assert [outcome.holds for outcome in found] == [True, False, True, False, True, True]
    assert [outcome.found for outcome in found] == pytest.approx([np.mean(dsc), np.mean(dsc), 3.5, 3.5, 0.35, 1.5])
    assert found[0].found_text == "mean 0.6, n = 6 patients"
    assert found[2].found_text == "median 3.5, n = 6 patients"


def test_what_is_printed_never_contradicts_the_verdict(tmp_path: Path) -> None:
    writer = RunWriter(patients=3)
    writer.scores.loc[rows_of(writer, "box-fill", "dsc"), "value"] = [0.1, 0.2, 0.3]  # their mean is 0.2 + 3e-17
    writer.scores.loc[rows_of(writer, "box-ellipse", "dsc"), "value"] = [0.7999996] * 3
    same, below = check_requirements(
        writer.write(tmp_path / "run"), ["box-fill:GTV-T:dsc<=0.2", "box-ellipse:GTV-T:dsc>=0.8"]
    )
    assert same.holds
    assert not below.holds
    assert below.found_text == "mean 0.7999996, n = 3 patients"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return RunWriter(patients=3).write(tmp_path_factory.mktemp("small") / "run")


def test_a_method_stands_for_its_only_arm(small: Path) -> None:
    with pytest.raises(StudyError, match="names no single arm") as caught:
        check_requirements(small, ["litemedsam-zero-shot:GTV-T:dsc>=0.1"])
    assert caught.value.remedy == "name one of litemedsam-zero-shot.ct-only, litemedsam-zero-shot.multimodal"
    (found,) = check_requirements(small, ["litemedsam-zero-shot.ct-only:GTV-T:dsc>=0.1"])
    assert found.holds


def test_an_arm_without_its_seed_stands_for_the_mean_of_its_seeds(tmp_path: Path) -> None:
    writer = RunWriter(patients=3)
    arm = "litemedsam-fine-tuned.multimodal"
    writer.arms = [record for record in writer.arms if record["arm"] != "litemedsam-fine-tuned.ct-only"]
    writer.scores = writer.scores[writer.scores["arm"] != "litemedsam-fine-tuned.ct-only"]
    repeat_with_seeds(writer, arm, [[0.2, 0.4, 0.9], [0.4, 0.6, 0.9]])
    folder = writer.write(tmp_path / "run")
    mean, method, first = check_requirements(
        folder,
        [f"{arm}:GTV-T:dsc>=0.5666", "litemedsam-fine-tuned:GTV-T:dsc>=0.5667", f"{arm}.seed1:GTV-T:dsc>=0.5"],
    )
    assert (mean.found, mean.n, mean.seeds) == (pytest.approx(1.7 / 3), 3, 2)
    assert mean.holds
    assert not method.holds
    assert (first.found, first.seeds) == (pytest.approx(0.5), 1)


def test_the_median_over_patients_is_of_their_means_over_seeds(tmp_path: Path) -> None:
    writer = RunWriter(patients=3)
    arm = "litemedsam-fine-tuned.multimodal"
    repeat_with_seeds(writer, arm, [[1, 10, 100], [3, 30, 2]], "hd95_mm")
    (found,) = check_requirements(writer.write(tmp_path / "run"), [f"{arm}:GTV-T:hd95<=20"])
    assert (found.found, found.holds) == (20, True)


def test_names_may_have_colons_blanks_and_accents(tmp_path: Path) -> None:
    composed, decomposed = "Tumo\u00efr: left", "Tumoi\u0308r: left"
    folder = RunWriter(patients=3, structures=(composed, "lymph node")).write(tmp_path / "run")
    texts = [f"box-fill:{decomposed}:dsc>=0.01", "box-fill: lymph node :dsc>=0.01", f"box-fill:{composed}:hd95<900"]
    assert [outcome.holds for outcome in check_requirements(folder, texts)] == [True] * 3


def test_failed_cases_count_with_their_penalty_and_a_requirement_without_a_value_fails_and_says_why(
    tmp_path: Path,
) -> None:
    writer = RunWriter(patients=4)
    writer.fail("litemedsam-zero-shot.ct-only", writer.cases, "crashed")
    writer.arms.append({"arm": "nnunet.multimodal", "method": "nnunet", "status": "skipped", "reason": "no weights"})
    writer.scores.loc[rows_of(writer, "box-fill", "dsc"), "value"] = [0.9, np.nan, 0.9, 0.9]
    writer.scores.loc[rows_of(writer, "box-fill", "hd95_mm"), "value"] = [1.0, 1.0, np.inf, 1.0]
    gone = (writer.scores["arm"] == "box-ellipse") & (writer.scores["case"] == writer.cases[0])
    writer.scores = writer.scores[~gone]
    writer.scores.loc[writer.scores["structure"] == "GTV-N", "value"] = 0.0
    texts = [
        "box-fill:GTV-T:dsc>=0.1",
        "box-fill:GTV-T:hd95<=9999",
        "box-ellipse:GTV-T:dsc>=0",
        "nnunet:GTV-T:dsc>=0",
        "box-fill:GTV-N:dsc>=0",
        "litemedsam-zero-shot.ct-only:GTV-T:dsc>=0.1",
    ]
    found = check_requirements(writer.write(tmp_path / "run"), texts)
    assert [outcome.holds for outcome in found] == [False] * 6
    assert (found[-1].found, found[-1].n) == (0.0, 4)
    assert [outcome.found_text for outcome in found[:-1]] == [
        "no value: no DSC of 1 patient: PHA-026",
        "no value: no HD95 of 1 patient: PHA-027",
        "no value: no DSC of 1 patient: PHA-025",
        "no value: nnunet.multimodal has no scores (skipped: no weights)",
        "no value: no test patient has GTV-N",
    ]


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("box-fill GTV-T dsc", "cannot be read", "write ARM:STRUCTURE:METRIC>=VALUE"),
        ("box-fill:GTV-T:dsc>=nan", "cannot be read", "write ARM"),
        ("box-fill:GTV-T:dsc=0.5", "cannot be read", "write ARM"),
        ("box-fill:GTV-T:dsc>=0,5", "cannot be read", "a decimal point, not a comma"),
        ("box-fill:GTV-T:dsc>=80", "dsc lies between 0 and 1", "80 % is written 0.8"),
        ("box-fill:GTV-T:dice>=0.5", "unknown metric 'dice'", "dsc, hd95, nsd, assd"),
        ("box-fill:GTVp:dsc>=0.5", "unknown structure 'GTVp'", "GTV-T, GTV-N"),
        ("box-fil:GTV-T:dsc>=0.5", "names no single arm", "did you mean box-fill"),
    ],
)
def test_what_cannot_be_read_or_names_nothing_is_an_error(text: str, message: str, remedy: str, small: Path) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        check_requirements(small, ["box-fill:GTV-T:dsc>=0", text])
    assert remedy in str(caught.value.remedy)
