"""Runs that are not merged, and folders that are not written to: each refused with its reason."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from labs import BOXES, TUNED, ZERO, Lab, merged

from gtvbench.bench.core.errors import DigestError, StoreError, StudyError
from gtvbench.reports.compare.merge import build_comparison, read_candidates


def digest(what: str) -> Callable[[Any], None]:
    def change(writer: Any) -> None:
        writer.provenance["digests"] = {**writer.provenance["digests"], what: "99" * 32}

    return change


def other_split(writer: Any) -> None:
    digest("split")(writer)
    writer.provenance["subsets"]["test"] = [*writer.cases[1:], "PHA-099"]


def other_scoring(writer: Any) -> None:
    writer.provenance["scoring"] |= {"percentile": 100.0, "tool": "another"}


def other_structures(writer: Any) -> None:
    writer.provenance["structures"] = {"GTV-T": 1, "GTV-N": 3}


def fewer_metrics(writer: Any) -> None:
    writer.scores = writer.scores[writer.scores["metric"] != "tp_mm3"]


def no_digests(writer: Any) -> None:
    writer.provenance["digests"] = {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (digest("data"), ["in data: which cases differ is not recorded", "same images and masks"]),
        (digest("prompts"), ["in prompts", "the same `seed`"]),
        (other_split, ["in split: 1 test patient (PHA-025) only in lab-a; 1 test patient (PHA-099) only in lab-b"]),
        (other_scoring, ["in scoring: percentile is 95.0 in lab-a and 100.0 in lab-b; tool is"]),
        (other_structures, ["in structures: GTV-N is 2 in lab-a and 3 in lab-b"]),
        (fewer_metrics, ["in score table: 1 metric (tp_mm3) only in lab-a"]),
        (
            no_digests,
            ["data: no digest is recorded in lab-b", "prompts: no digest", "start the same `bench run` again"],
        ),
    ],
)
def test_runs_that_do_not_agree_are_refused_with_the_reason(
    lab: Lab, tmp_path: Path, change: Callable[[Any], None], words: list[str]
) -> None:
    one, two = lab("lab-a", BOXES), lab("lab-b", ZERO, change)
    with pytest.raises(DigestError, match="cannot be compared") as caught:
        build_comparison([one, two], tmp_path / "out")
    for part in words:
        assert part in str(caught.value)
    assert caught.value.file == f"{one} and {two}"
    assert not (tmp_path / "out").exists()


def test_a_third_run_that_differs_is_named(lab: Lab) -> None:
    folders = [lab("a", BOXES), lab("b", ZERO), lab("c", TUNED, other_split)]
    with pytest.raises(DigestError) as caught:
        merged(*folders)
    assert "c differs from a in split" in str(caught.value)
    assert "b differs" not in str(caught.value)
    assert caught.value.file == f"{folders[0]} and {folders[2]}"


def test_boxes_are_compared_case_by_case_where_only_the_table_is_there(lab: Lab) -> None:
    one, two = lab("lab-a", BOXES), lab("lab-b", ZERO, digest("prompts"))
    table = pd.read_parquet(two / "prompts.parquet")
    table.loc[table["case"] == "PHA-026", "x1"] += 1
    table.to_parquet(two / "prompts.parquet")
    with pytest.raises(DigestError, match=r"in prompts: other boxes in 1 case \(PHA-026\)"):
        merged(one, two)


def test_cases_with_other_images_or_masks_are_named_from_the_records_of_the_steps(lab: Lab) -> None:
    def recorded(folder: Path, images: str, reference: str) -> None:
        (folder / "steps" / "prepare").mkdir(parents=True)
        for k in range(25, 31):
            record = {
                "images_digest": images if k == 27 else "same",
                "reference_digest": reference if k > 28 else "same",
            }
            (folder / "steps" / "prepare" / f"PHA-{k:03d}.json").write_text(json.dumps(record))

    one, two = lab("lab-a", BOXES), lab("lab-b", ZERO, digest("data"))
    recorded(one, "i1", "r1")
    recorded(two, "i2", "r2")
    with pytest.raises(DigestError) as caught:
        merged(one, two)
    assert "other images in 1 case (PHA-027); other reference masks in 2 cases (PHA-029, PHA-030)" in str(caught.value)


def test_what_is_no_comparison_is_refused(lab: Lab, tmp_path: Path) -> None:
    one, two = lab("lab-a", BOXES), lab("lab-b", ZERO)
    (tmp_path / "link").symlink_to(one)
    with pytest.raises(StudyError, match="two runs or more") as caught:
        build_comparison([one])
    assert "bench report" in str(caught.value.remedy)
    for folders in ([one, one], [one, two, tmp_path / "lab-b" / ".." / "lab-a"], [one, tmp_path / "link"]):
        with pytest.raises(StudyError, match="named twice"):
            build_comparison(folders)
    with pytest.raises(StoreError, match="no run folder"):
        build_comparison([one, tmp_path])
    with pytest.raises(StoreError, match="no such run folder"):
        build_comparison([one, tmp_path / "nowhere"])
    labels = ((["a"], "1 name for 2 runs"), (["a", "a"], "two runs are named"), (["a", "b/c"], "cannot name"))
    for names, words in labels:  # one a run, and safe in file names
        with pytest.raises(StudyError, match=words):
            read_candidates([one, two], names)


def test_a_run_that_is_under_way_is_not_compared(lab: Lab) -> None:
    one, two = lab("lab-a", BOXES), lab("lab-b", ZERO)
    with (two / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="a run is working on this folder") as caught:
            read_candidates([one, two])
    assert caught.value.file == str(two)
    assert len(read_candidates([one, two])) == 2


def test_nothing_but_an_earlier_comparison_is_written_over(lab: Lab, tmp_path: Path) -> None:
    one, two = lab("lab-a", BOXES), lab("lab-b", ZERO)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    (tmp_path / "file").touch()
    for out, words in (
        (one, "into a run folder"),
        (one / "report", "into a run folder"),
        (two / "new" / "er", "into a run folder"),
        (tmp_path, "is not empty"),
        (tmp_path / "full", "is not empty"),
        (tmp_path / "file", "this is a file"),
    ):
        with pytest.raises(StudyError, match=words):
            build_comparison([one, two], out)
    with pytest.raises(StoreError, match="comparison cannot be written") as caught:
        build_comparison([one, two], tmp_path / "file" / "out")
    assert "--out" in str(caught.value.remedy)


def test_a_damaged_run_among_others_is_named(lab: Lab) -> None:
    one, two = lab("lab-a", BOXES), lab("lab-b", ZERO)
    (two / "arms.json").write_bytes((two / "arms.json").read_bytes()[:50])
    with pytest.raises(StoreError, match="cannot be read") as caught:
        read_candidates([one, two])
    assert caught.value.file == str(two / "arms.json")
