"""Several runs as one: what must agree, which arms are kept under which name, and what the reader is told."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gtvbench.bench.core.errors import DigestError, StoreError, StudyError
from gtvbench.reports import page
from gtvbench.reports.agreement import Candidate
from gtvbench.reports.contrasts import contrasts, statistics_of
from gtvbench.reports.load import Run
from gtvbench.reports.merge import build_comparison, machine, merge, read_candidates
from gtvbench.reports.tables import wide_scores

BOXES = ("box-ellipse", "box-fill")
ZERO = ("litemedsam-zero-shot.ct-only", "litemedsam-zero-shot.multimodal")
TUNED = ("litemedsam-fine-tuned.ct-only", "litemedsam-fine-tuned.multimodal")

Lab = Callable[..., Path]


@pytest.fixture
def lab(tmp_path: Path, new_run: Callable[..., Any]) -> Lab:
    """Write a run that has some arms of the whole one: the same data everywhere, and `change` made to the writer."""

    def write(name: str, arms: Sequence[str], change: Callable[[Any], object] | None = None) -> Path:
        writer = new_run(patients=6)
        writer.arms = [record for record in writer.arms if record["arm"] in arms]
        writer.scores = writer.scores[writer.scores["arm"].isin(arms)].reset_index(drop=True)
        for tables in (writer.timing, writer.epochs):
            for arm in [arm for arm in tables if arm not in arms]:
                tables.pop(arm)
        if change is not None:
            change(writer)
        folder: Path = writer.write(tmp_path / name)
        return folder

    return write


def merged(*folders: Path, names: Sequence[str] | None = None) -> Run:
    return merge(read_candidates(folders, names))


def lines(run: Run, kind: str) -> tuple[str, ...]:
    return tuple(line for notice in run.notices if notice.kind == kind for line in notice.names)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def scored(arm: str, value: float) -> Callable[[Any], None]:
    """Give an arm other scores than it has elsewhere."""

    def change(writer: Any) -> None:
        rows = (writer.scores["arm"] == arm) & (writer.scores["metric"] == "dsc") & (writer.scores["status"] == "ok")
        writer.scores.loc[rows, ["value", "raw"]] = value

    return change


def test_the_arms_of_two_runs_are_one_run_and_the_runs_are_only_read(lab: Lab, tmp_path: Path) -> None:
    one, two = lab("lab-a", BOXES), lab("lab-b", ZERO)
    before = [contents(folder) for folder in (one, two)]
    index = build_comparison([one, two], tmp_path / "out")
    assert [contents(folder) for folder in (one, two)] == before
    assert index == tmp_path / "out" / "report" / "index.html"
    text = index.read_text(encoding="utf-8")
    assert "4 arms compared on 6 test" in " ".join(text.split())
    first = contents(tmp_path / "out")
    assert {"comparison.json", "report/index.html", "report/data/scores.csv"} <= set(first)
    record = json.loads(first["comparison.json"])
    assert [(run["name"], run["arms"]) for run in record["runs"]] == [("lab-a", list(BOXES)), ("lab-b", list(ZERO))]
    assert not [name for name, content in first.items() if str(tmp_path).encode() in content]
    build_comparison([one, two], tmp_path / "out")
    assert contents(tmp_path / "out") == first


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


def test_an_arm_with_the_same_result_in_two_runs_is_shown_once(lab: Lab) -> None:
    run = merged(lab("lab-a", BOXES), lab("lab-b", ("box-fill", *ZERO)))
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


def test_pairs_of_an_arm_that_both_runs_have_are_planned_within_a_run(lab: Lab) -> None:
    def another(writer: Any) -> None:
        for arm in ("box-fill", "box-ellipse"):
            scored(arm, 0.25)(writer)

    def declared(writer: Any) -> None:
        writer.study["statistics"] = {"contrasts": [["box-ellipse", "box-fill"], [ZERO[0], "box-fill"]]}

    def both(writer: Any) -> None:
        another(writer)
        declared(writer)

    one, two = lab("lab-a", (*BOXES, ZERO[0]), declared), lab("lab-b", BOXES, both)
    assert statistics_of(merged(one, two)).contrasts == [
        ("box-ellipse@lab-a", "box-fill@lab-a"),
        ("box-ellipse@lab-b", "box-fill@lab-b"),
        (ZERO[0], "box-fill@lab-a"),
        (ZERO[0], "box-fill@lab-b"),
    ]


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


def test_the_default_plan_pairs_repeated_arms_within_a_run(lab: Lab) -> None:
    def another(writer: Any) -> None:
        for arm in (ZERO[0], TUNED[0]):
            scored(arm, 0.25)(writer)

    run = merged(lab("a", (ZERO[0], TUNED[0])), lab("b", (ZERO[0], TUNED[0]), another))
    assert statistics_of(run).contrasts == [
        (f"{TUNED[0]}@a", f"{ZERO[0]}@a"),
        (f"{TUNED[0]}@b", f"{ZERO[0]}@b"),
    ]


def test_other_machines_and_versions_are_told_and_times_not_called_comparable(lab: Lab) -> None:
    def gpu(writer: Any) -> None:
        writer.provenance["hardware"] |= {"gpu": "Big Accelerator", "cores": 16}
        writer.provenance["packages"] |= {"torch": "2.10.0"}
        for record in writer.arms:
            record["device"] = "cuda"

    run = merged(lab("lab-a", BOXES), lab("lab-b", ZERO, gpu))
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
        "weights demo_weights.safetensors (stand-in), sha256 abababababab"
    )


def test_other_margins_are_told_and_those_of_the_first_run_hold(lab: Lab) -> None:
    def wider(writer: Any) -> None:
        writer.study["statistics"] = {"dsc-margin": 0.1}

    run = merged(lab("lab-a", BOXES), lab("lab-b", ZERO, wider))
    assert lines(run, "statistics") == ("dsc_margin: 0.05 (lab-a), 0.1 (lab-b)",)
    assert statistics_of(run).dsc_margin == 0.05


def test_notices_of_a_run_carry_its_label(lab: Lab) -> None:
    two = lab("lab-b", ZERO)
    (two / "arms" / ZERO[0] / "timing.parquet").write_bytes(b"")
    run = merged(lab("lab-a", BOXES), two)
    assert lines(run, "damaged")[0].startswith(f"lab-b: arms/{ZERO[0]}/timing.parquet")


def test_three_runs_with_folders_of_one_name_are_told_apart(lab: Lab) -> None:
    folders = [lab(f"{lab_name}/My study ü", [arm]) for lab_name, arm in zip("abc", (*BOXES, ZERO[0]), strict=True)]
    assert [c.label for c in read_candidates(folders)] == ["My-study-1", "My-study-2", "My-study-3"]
    run = merged(*folders, names=["x", "y", "z"])
    assert [(source.label, source.arms) for source in run.sources] == [
        ("x", ("box-ellipse",)), ("y", ("box-fill",)), ("z", (ZERO[0],)),
    ]  # fmt: skip


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


@pytest.mark.parametrize(
    ("names", "words"),
    [(["a"], "1 name for 2 runs"), (["a", "a"], "two runs are named"), (["a", "b/c"], "cannot name")],
)
def test_labels_are_one_a_run_and_safe_in_file_names(lab: Lab, names: list[str], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        read_candidates([lab("lab-a", BOXES), lab("lab-b", ZERO)], names)


def test_a_run_that_is_under_way_is_not_compared(lab: Lab) -> None:
    one, two = lab("lab-a", BOXES), lab("lab-b", ZERO)
    with (two / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="a run is working on this folder") as caught:
            read_candidates([one, two])
    assert caught.value.file == str(two)


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


def test_a_folder_that_cannot_be_made_is_said_so(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="comparison cannot be written") as caught:
        build_comparison([lab("lab-a", BOXES), lab("lab-b", ZERO)], tmp_path / "file" / "out")
    assert "--out" in str(caught.value.remedy)


def test_the_default_folder_is_named_for_the_study_and_stays_below_the_current_one(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def escaping(writer: Any) -> None:
        writer.study["study"] = "../../etc/<b>"

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    index = build_comparison([lab("lab-a", BOXES, escaping), lab("lab-b", ZERO)])
    assert index == Path("comparisons/etc-b/report/index.html")
    assert index.is_file()


@pytest.mark.parametrize("name", ["arms.json", "scores.parquet"])
def test_a_damaged_run_among_others_is_named(lab: Lab, name: str) -> None:
    one, two = lab("lab-a", BOXES), lab("lab-b", ZERO)
    (two / name).write_bytes((two / name).read_bytes()[:50])
    with pytest.raises(StoreError, match="cannot be read") as caught:
        read_candidates([one, two])
    assert caught.value.file == str(two / name)


HOSTILE = "<script>alert(1)</script>\"'&\n\u202e"


def equal(writer: Any) -> None:
    writer.scores.loc[writer.scores["status"] == "ok", ["value", "raw"]] = 0.5


def all_failed(writer: Any) -> None:
    for record in writer.arms:
        writer.fail(record["arm"], writer.cases, "crashed")
        record |= {"status": "failed", "reason": "6 of 6 cases have no prediction"}


def absent(writer: Any) -> None:
    rows = writer.scores["structure"] == "GTV-N"
    volumes = writer.scores["metric"].str.contains("volume|tp_")
    writer.scores.loc[rows, "status"] = "both_empty"
    writer.scores.loc[rows & ~volumes, ["value", "raw"]] = np.nan
    writer.scores.loc[rows & volumes, ["value", "raw"]] = 0.0


def not_finite(writer: Any) -> None:
    writer.scores.loc[writer.scores["metric"] == "hd95_mm", ["value", "raw"]] = np.inf
    writer.scores.loc[writer.scores["metric"] == "nsd", ["value", "raw"]] = np.nan


def one_patient(writer: Any) -> None:
    writer.scores = writer.scores[writer.scores["case"] == writer.cases[0]].reset_index(drop=True)
    writer.provenance["subsets"]["test"] = writer.cases[:1]


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


@pytest.mark.parametrize(
    "change", [equal, all_failed, absent, not_finite, one_patient, one_arm, unscored, hostile], ids=lambda c: c.__name__
)
def test_runs_at_the_edge_are_rendered_together(lab: Lab, change: Callable[[Any], None]) -> None:
    text, data = page.render(merged(lab("lab-a", BOXES, change), lab("lab-b", BOXES, change)))
    assert text.rstrip().endswith("</html>")
    assert "alert(1)</script>" not in text
    assert "\u202e" not in text
    assert json.loads(data["stats.json"])["schema"] >= 1


def test_merging_does_not_depend_on_the_order_of_rows(lab: Lab) -> None:
    def shuffled(writer: Any) -> None:
        order = np.random.default_rng(3).permutation(len(writer.scores))
        writer.scores = writer.scores.iloc[order].reset_index(drop=True)

    run = merge(
        [
            Candidate(c.label, c.folder, c.run)
            for c in read_candidates([lab("lab-a", BOXES), lab("lab-b", BOXES, shuffled)])
        ]
    )
    assert run.arm_names == list(BOXES)
