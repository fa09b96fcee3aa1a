"""Several runs as one: which arms are kept under which name, and what the reader is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from labs import BOXES, TUNED, ZERO, Lab, contents, lines, merged, scored
from pages import page_of

from gtvbench.reports.analysis.contrasts import contrasts, statistics_of
from gtvbench.reports.analysis.scores import wide_scores
from gtvbench.reports.compare.merge import build_comparison, machine, read_candidates


def test_the_arms_of_two_runs_are_one_run_in_a_folder_named_for_the_study_and_the_runs_are_only_read(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def escaping(writer: Any) -> None:
        writer.study["study"] = "../../etc/<b>"

    one, two = lab("lab-a", BOXES, escaping), lab("lab-b", ZERO)
    before = [contents(folder) for folder in (one, two)]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    index = build_comparison([one, two])
    assert [contents(folder) for folder in (one, two)] == before
    assert index == Path("comparisons/etc-b/report/index.html")
    assert "4 arms compared on 6 test" in " ".join(index.read_text(encoding="utf-8").split())
    found = contents(Path("comparisons/etc-b"))
    assert {"comparison.json", "report/index.html", "report/data/stats.json"} <= set(found)
    record = json.loads(found["comparison.json"])
    assert [(run["name"], run["arms"]) for run in record["runs"]] == [("lab-a", list(BOXES)), ("lab-b", list(ZERO))]
    assert not [name for name, content in found.items() if str(tmp_path).encode() in content]


def test_scores_times_epochs_and_failures_come_along_and_files_are_found_where_they_lie(lab: Lab) -> None:
    one = lab("lab-a", BOXES, lambda writer: writer.fail("box-fill", writer.cases[:1], "crashed"))
    two = lab("lab-b", TUNED)
    run = merged(one, two)
    whole = pd.concat([pd.read_parquet(folder / "scores.parquet") for folder in (one, two)], ignore_index=True)
    pd.testing.assert_frame_equal(run.scores[["arm", "case", "value"]], whole[["arm", "case", "value"]])
    assert run.arm_names == [*BOXES, *TUNED]
    assert set(run.timing) == {*BOXES, *TUNED}
    assert set(run.epochs) == set(TUNED)
    assert [failure["arm"] for failure in run.failures] == ["box-fill"]
    assert run.origins["box-fill"] == (one, "box-fill")
    assert run.origins[TUNED[0]] == (two, TUNED[0])
    assert [source.label for source in run.sources] == ["lab-a", "lab-b"]
    assert run.prompts is not None
    assert [notice.kind for notice in run.notices] == ["merged"]
    assert lines(run, "merged")[0].startswith(
        "lab-a: box-ellipse and box-fill. gtvbench 0.1.0; Some Processor, 2 cores"
    )


def test_the_planned_differences_of_the_study_are_between_the_arms_of_all_runs(lab: Lab) -> None:
    run = merged(lab("lab-a", ZERO), lab("lab-b", TUNED))
    table = contrasts(run, wide_scores(run.scores))
    pairs = table[table["planned"].astype(bool)][["one", "other"]].drop_duplicates()
    assert (TUNED[1], ZERO[1]) in set(pairs.itertuples(index=False, name=None))
    assert len(pairs) == 4


def test_an_arm_with_the_same_result_in_two_runs_is_shown_once_whatever_the_order_of_rows(lab: Lab) -> None:
    def shuffled(writer: Any) -> None:
        writer.scores = writer.scores.sample(frac=1, random_state=3).reset_index(drop=True)

    run = merged(lab("lab-a", BOXES), lab("lab-b", ("box-fill", *ZERO), shuffled))
    assert run.arm_names == [*BOXES, *ZERO]
    assert lines(run, "shared") == ("box-fill: the same in lab-a and lab-b, shown once; times are those of lab-a",)
    assert not run.scores.duplicated(["arm", "case", "structure", "scope", "metric"]).any()
    assert run.sources[1].arms == ZERO


def test_an_arm_with_another_result_is_apart_under_its_runs_label(lab: Lab) -> None:
    one, two = lab("lab-a", BOXES), lab("lab-b", BOXES, scored("box-fill", 0.25))
    run = merged(one, two)
    assert run.arm_names == ["box-ellipse", "box-fill@lab-a", "box-fill@lab-b"]
    own = run.scores[(run.scores["arm"] == "box-fill@lab-b") & (run.scores["metric"] == "dsc")]
    assert set(own["value"].dropna()) == {0.25}
    assert run.origins["box-fill@lab-b"] == (two, "box-fill")
    assert "box-fill@lab-a and box-fill@lab-b are apart" in lines(run, "shared")[1]
    assert {arm.method for arm in run.arms} == set(BOXES)


@pytest.mark.parametrize(
    "change", [{"options": {"margin": 1}}, {"weights": {"name": "x", "sha256": "cd" * 32}}, {"cut_schedule": "1 of 9"}]
)
def test_arms_that_only_failed_alike_are_not_the_same(lab: Lab, change: dict[str, Any]) -> None:
    def failed(writer: Any) -> None:
        writer.fail("box-fill", writer.cases, "crashed")

    def other(writer: Any) -> None:
        failed(writer)
        writer.arms[1] |= change

    run = merged(lab("lab-a", BOXES, failed), lab("lab-b", BOXES, other))
    assert run.arm_names == ["box-ellipse", "box-fill@lab-a", "box-fill@lab-b"]
    assert {failure["arm"] for failure in run.failures} == {"box-fill@lab-a", "box-fill@lab-b"}


def test_an_arm_that_one_run_skipped_is_the_other_runs(lab: Lab) -> None:
    def skipped(writer: Any) -> None:
        gone = {"status": "skipped", "reason": "weights not found"}
        writer.arms += [{"arm": ZERO[0], "method": "litemedsam-zero-shot", "adapter": "litemedsam-zero-shot", **gone}]

    run = merged(lab("lab-a", BOXES, skipped), lab("lab-b", ZERO))
    assert [(arm.name, arm.status) for arm in run.arms if arm.name == ZERO[0]] == [(ZERO[0], "complete")]
    assert lines(run, "shared") == (f"{ZERO[0]}: scored in lab-b only",)


def test_pairs_of_arms_that_both_runs_have_are_planned_within_a_run(lab: Lab) -> None:
    def declared(writer: Any) -> None:
        writer.study["statistics"] = {"contrasts": [["box-ellipse", "box-fill"], [ZERO[0], "box-fill"]]}

    def other(writer: Any) -> None:
        for arm in (*BOXES, ZERO[0], TUNED[0]):
            scored(arm, 0.25)(writer)

    def both(writer: Any) -> None:
        other(writer)
        declared(writer)

    one, two = lab("lab-a", (*BOXES, ZERO[0]), declared), lab("lab-b", BOXES, both)
    assert statistics_of(merged(one, two)).contrasts == [
        ("box-ellipse@lab-a", "box-fill@lab-a"),
        ("box-ellipse@lab-b", "box-fill@lab-b"),
        (ZERO[0], "box-fill@lab-a"),
        (ZERO[0], "box-fill@lab-b"),
    ]
    run = merged(lab("a", (ZERO[0], TUNED[0])), lab("b", (ZERO[0], TUNED[0]), other))  # the default plan
    assert statistics_of(run).contrasts == [(f"{TUNED[0]}@a", f"{ZERO[0]}@a"), (f"{TUNED[0]}@b", f"{ZERO[0]}@b")]


def test_a_difference_that_one_run_lacks_the_arm_of_is_planned_in_all_of_them(lab: Lab) -> None:
    def declared(writer: Any) -> None:
        writer.study["statistics"] = {"contrasts": [["box-fill", ZERO[0]], ["box-fill", "nnunet"]]}

    one, two = lab("lab-a", BOXES, declared), lab("lab-b", ZERO, declared)
    (alone,) = [notice for notice in read_candidates([one, two])[0].run.notices if notice.kind == "plan"]
    assert alone.names == (f"box-fill against {ZERO[0]}", "box-fill against nnunet")
    assert lines(merged(one, two), "plan") == ("box-fill against nnunet",)


def test_repetitions_of_an_arm_that_both_runs_have_pair_by_seed_within_a_run(lab: Lab) -> None:
    def repeated(writer: Any, shift: float = 0.0) -> None:
        writer.study["statistics"] = {"contrasts": [[TUNED[1], TUNED[0]]]}
        scores = [writer.scores.assign(arm=writer.scores["arm"] + f".seed{k}", seed=k) for k in (1, 2)]
        writer.scores = pd.concat(scores, ignore_index=True)
        writer.scores["value"] += shift
        writer.arms = [{**r, "arm": f"{r['arm']}.seed{k}", "seed": k} for k in (1, 2) for r in writer.arms]
        writer.timing, writer.epochs = {}, {}

    one, two = lab("a", TUNED, repeated), lab("b", TUNED, lambda writer: repeated(writer, 0.001))
    assert statistics_of(merged(one, two)).contrasts == [
        (f"{TUNED[1]}.seed{k}@{run}", f"{TUNED[0]}.seed{k}@{run}") for k in (1, 2) for run in "ab"
    ]


def test_other_machines_versions_and_margins_are_told_and_notices_of_a_run_carry_its_label(lab: Lab) -> None:
    def another(writer: Any) -> None:
        writer.provenance["hardware"] |= {"gpu": "Big Accelerator", "cores": 16}
        writer.provenance["packages"] |= {"torch": "2.10.0"}
        writer.arms = [record | {"device": "cuda"} for record in writer.arms]
        writer.study["statistics"] |= {"dsc-margin": 0.1}

    two = lab("lab-b", ZERO, another)
    (two / "arms" / ZERO[0] / "timing.parquet").write_bytes(b"")
    run = merged(lab("lab-a", BOXES), two)
    assert lines(run, "machines") == (
        "cores: 2 (lab-a), 16 (lab-b)",
        "gpu: none (lab-a), Big Accelerator (lab-b)",
        "device: cpu (lab-a), cuda (lab-b)",
    )
    assert lines(run, "versions") == ("torch: 2.9.0 (lab-a), 2.10.0 (lab-b)",)
    assert run.provenance["hardware"]["cpu"] == "Some Processor"
    assert run.provenance["hardware"]["cores"] == "2 (lab-a), 16 (lab-b)"
    assert machine(run.sources[1]) == (
        "gtvbench 0.1.0; Some Processor, 16 cores, 8.0 GB, Big Accelerator; ran on cuda; "
        "weights lite_medsam.pth (published weights, verified), sha256 79d8c9dca6db"
    )
    assert lines(run, "statistics") == ("dsc_margin: 0.05 (lab-a), 0.1 (lab-b)",)
    assert statistics_of(run).dsc_margin == 0.05, "that of the first run holds"
    assert lines(run, "damaged")[0].startswith(f"lab-b: arms/{ZERO[0]}/timing.parquet")


def test_three_runs_with_folders_of_one_name_are_told_apart(lab: Lab) -> None:
    folders = [lab(f"{lab_name}/My study ü", [arm]) for lab_name, arm in zip("abc", (*BOXES, ZERO[0]), strict=True)]
    assert [c.label for c in read_candidates(folders)] == ["My-study-1", "My-study-2", "My-study-3"]
    run = merged(*folders, names=["x", "y", "z"])
    assert [(source.label, source.arms) for source in run.sources] == [
        ("x", ("box-ellipse",)),
        ("y", ("box-fill",)),
        ("z", (ZERO[0],)),
    ]


HOSTILE = "<script>alert(1)</script>\"'&\n\u202e"


def all_failed(writer: Any) -> None:
    for record in writer.arms:
        writer.fail(record["arm"], writer.cases, "crashed")
        record |= {"status": "failed", "reason": "6 of 6 cases have no prediction"}


def not_finite(writer: Any) -> None:
    writer.scores.loc[writer.scores["metric"] == "hd95_mm", ["value", "raw"]] = np.inf
    writer.scores.loc[writer.scores["metric"] == "nsd", ["value", "raw"]] = np.nan


def one_arm(writer: Any) -> None:
    writer.arms = writer.arms[:1]
    writer.scores = writer.scores[writer.scores["arm"] == writer.arms[0]["arm"]].reset_index(drop=True)


def unscored(writer: Any) -> None:
    writer.scores = writer.scores.iloc[:0]


def hostile(writer: Any) -> None:
    writer.study["study"] = HOSTILE
    writer.scores["arm"] = writer.scores["arm"].replace({writer.arms[0]["arm"]: HOSTILE})
    writer.arms[0] |= {"arm": HOSTILE, "reason": HOSTILE, "weights": {"name": HOSTILE, "sha256": HOSTILE}}
    writer.provenance["hardware"] |= {"cpu": HOSTILE}
    writer.provenance["scoring"] |= {"tool": HOSTILE}


@pytest.mark.parametrize("change", [all_failed, not_finite, one_arm, unscored, hostile], ids=lambda c: c.__name__)
def test_runs_at_the_edge_are_merged_and_told(lab: Lab, change: Callable[[Any], None]) -> None:
    page = page_of(merged(lab("lab-a", BOXES, change), lab("lab-b", BOXES, change)))
    assert page.rstrip().endswith("</html>")
    assert "alert(1)</script>" not in page
    assert "\u202e" not in page
