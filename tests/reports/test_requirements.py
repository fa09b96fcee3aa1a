"""Requirements on a run: what holds, what does not, and what cannot be read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gtvbench.bench.core.errors import StudyError
from gtvbench.reports.requirements import check_requirements


def test_requirements_compare_the_headline_numbers(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    writer = new_run(patients=6)
    rows = writer.scores
    mine = (rows["arm"] == "box-fill") & (rows["structure"] == "GTV-T") & (rows["scope"] == "volume")
    rows.loc[mine & (rows["metric"] == "dsc"), "value"] = [0.5, 0.6, 0.7, 0.8, 0.9, 0.1]
    rows.loc[mine & (rows["metric"] == "hd95_mm"), "value"] = [1, 2, 3, 4, 5, 100]
    folder = writer.write(tmp_path / "run")
    texts = [
        "box-fill:GTV-T:dsc>=0.6",
        "box-fill:GTV-T:dsc > .61",
        "box-fill:GTV-T:hd95<=3.5",
        "box-fill:GTV-T:hd95<3e0",
    ]
    found = check_requirements(folder, texts)
    assert [outcome.holds for outcome in found] == [True, False, True, False]
    assert found[0].found == pytest.approx(np.mean([0.5, 0.6, 0.7, 0.8, 0.9, 0.1]))
    assert found[2].found == 3.5


def test_a_method_stands_for_its_only_arm(tmp_path: Path, new_run: Callable[..., Any]) -> None:
    folder = new_run(patients=3).write(tmp_path / "run")
    with pytest.raises(StudyError, match="names no single arm"):
        check_requirements(folder, ["litemedsam-zero-shot:GTV-T:dsc>=0.1"])
    (found,) = check_requirements(folder, ["litemedsam-zero-shot.ct-only:GTV-T:dsc>=0.1"])
    assert found.holds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("box-fill GTV-T dsc", "cannot be read"),
        ("box-fill:GTV-T:dsc>=much", "cannot be read"),
        ("box-fill:GTV-T:dice>=0.5", "unknown metric 'dice'"),
        ("box-fill:GTVp:dsc>=0.5", "unknown structure 'GTVp'"),
        ("box-fil:GTV-T:dsc>=0.5", "names no single arm"),
    ],
)
def test_what_cannot_be_read_or_names_nothing_is_an_error(
    text: str, message: str, tmp_path: Path, new_run: Callable[..., Any]
) -> None:
    with pytest.raises(StudyError, match=message):
        check_requirements(new_run(patients=3).write(tmp_path / "run"), [text])
