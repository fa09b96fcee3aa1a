"""Run folders that are damaged, unfinished or of another version: they are read as far as they go, or refused."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from pages import page_of
from run_writer import PLANS, RunWriter

from gtvbench.bench.core.errors import StoreError
from gtvbench.reports.run.load import comparable, read_run

TUNED = "litemedsam-fine-tuned.multimodal"
REQUIRED = ("study.yaml", "provenance.json", "arms.json", "failures.json", "scores.parquet")
OPTIONAL = ("prompts.parquet", "arms/box-fill/timing.parquet", f"arms/{TUNED}/fit/epochs.csv")
HOSTILE = "<b>\"x'&\n\u202e:@/../../x\0"


def missing(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 if path.suffix != ".csv" else content.index(b",")])


def garbled(path: Path) -> None:
    path.write_bytes(b"\xff[{\x00")


def another_kind(path: Path) -> None:
    path.write_text("3\n")


DAMAGES = (missing, empty, truncated, garbled, another_kind)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A whole run of two patients."""
    folder: Path = RunWriter(patients=2).write(tmp_path / "run")
    return folder


@pytest.mark.parametrize(
    ("name", "damage"),
    # half a YAML file is YAML, and a study file may lack what it likes
    [(name, damage) for name in REQUIRED for damage in DAMAGES if (name, damage) != ("study.yaml", truncated)],
)
def test_a_record_that_cannot_be_used_is_named_with_its_remedy(
    small: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(small / name)
    with pytest.raises(StoreError) as caught:
        read_run(small)
    assert caught.value.file == str(small / name)
    assert "bench run" in str(caught.value.remedy)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", OPTIONAL)
def test_a_table_of_details_that_cannot_be_used_is_left_out_and_said_so(
    small: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(small / name)
    run = read_run(small)
    (notice,) = run.notices
    assert len(notice.names) == 1
    assert notice.names[0].startswith(name)
    assert str(small) not in notice.names[0]
    assert (run.prompts is None) == (name == OPTIONAL[0])
    assert ("box-fill" not in run.timing) == (name == OPTIONAL[1])
    assert (TUNED not in run.epochs) == (name == OPTIONAL[2])


def test_a_run_without_any_table_of_details_is_rendered(small: Path) -> None:
    for name in ("prompts.parquet", *(str(p.relative_to(small)) for p in (small / "arms").rglob("*") if p.is_file())):
        truncated(small / name)
    assert len(read_run(small).notices[0].names) == 1 + 6 + 2
    assert page_of(small).rstrip().endswith("</html>")


def test_half_a_line_of_a_training_log_and_a_time_that_is_no_number_are_left_out(small: Path) -> None:
    run = read_run(small)
    assert (run.notices, run.sources, run.origins["box-fill"]) == ((), (), (small, "box-fill"))
    path = small / OPTIONAL[2]
    path.write_text(path.read_text() + "8,0.4")
    run = read_run(small)
    assert len(run.epochs[TUNED]) == 8
    assert run.notices[0].names == (f"{OPTIONAL[2]}: rows that are not whole are left out (1 of 9)",)
    path = small / OPTIONAL[1]
    table = pd.read_parquet(path)
    table["seconds"] = ["soon", *table["seconds"].astype(str)[1:]]
    table.to_parquet(path)
    run = read_run(small)
    assert len(run.timing["box-fill"]) == len(table) - 1
    assert any(name.startswith(OPTIONAL[1]) and "1 of" in name for name in run.notices[0].names)


@fuzzed(60)
@given(st.data())
def test_a_file_cut_anywhere_is_an_error_of_ours_or_read(small: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*REQUIRED, *OPTIONAL]))
    content = (small / name).read_bytes()
    try:
        (small / name).write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        with contextlib.suppress(StoreError):
            read_run(small)
    finally:
        (small / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("study.yaml", {"statistics": {"dsc-margin": "wide"}}, "statistics.dsc-margin"),
        ("study.yaml", {"statistics": {"new-idea": 1}}, "statistics.new-idea: unknown key"),
        ("study.yaml", {"scoring": [1]}, "scoring"),
        ("provenance.json", {"structures": {"GTV-T": "one"}}, "structures.GTV-T"),
        ("provenance.json", {"subsets": ["PHA-025"]}, "subsets"),
        ("provenance.json", {"coverage": {"PHA-025": 1}}, "coverage.PHA-025"),
        ("provenance.json", {"hardware": "big"}, "hardware"),
        ("arms.json", {"arm": None}, "arm: Input should be a valid string"),
        ("arms.json", {"options": [1]}, "options"),
        ("arms.json", {"prompts": "box"}, "prompts"),
        ("arms.json", {"peak_host_bytes": "much"}, "peak_host_bytes"),
        ("arms.json", {"arm": "box-fill"}, "'box-fill' is there twice"),
    ],
)
def test_a_record_of_another_form_is_named_with_its_key(
    small: Path, name: str, change: dict[str, Any], words: str
) -> None:
    record = yaml.safe_load((small / name).read_text())
    record = [record[0] | change, *record[1:]] if name == "arms.json" else record | change
    (small / name).write_text(json.dumps(record))
    with pytest.raises(StoreError, match=words) as caught:
        read_run(small)
    assert caught.value.file == str(small / name)


def test_records_of_an_early_version_lack_what_was_added_later(small: Path) -> None:
    records = json.loads((small / "arms.json").read_text())
    kept = ("arm", "method", "fusion", "status", "trains", "prompts")
    (small / "arms.json").write_text(json.dumps([{key: record[key] for key in kept} for record in records]))
    (small / "provenance.json").write_text("{}")
    (small / "study.yaml").write_text("study: old\nstructures: {GTV-T: 1, GTV-N: 2}\n")
    scores = pd.read_parquet(small / "scores.parquet").drop(columns=["method", "fusion", "seed", "patient", "raw"])
    scores[scores["metric"] != "tp_mm3"].to_parquet(small / "scores.parquet")
    (small / "run.json").write_text('{"study": "old", "schema": 0}')
    run = read_run(small)
    assert run.structures == ("GTV-T", "GTV-N")
    assert set(run.scores["patient"]) == set(run.scores["case"])
    assert set(run.scores.loc[run.scores["arm"] == TUNED, "method"]) == {"litemedsam-fine-tuned"}
    assert [line.split(":")[0] for line in run.notices[0].names] == [
        "run.json",
        "scores.parquet lacks the columns method, fusion, seed, patient, raw",
        "scores.parquet has no tp_mm3",
    ]
    assert page_of(small)


def test_a_run_folder_of_a_newer_version_is_refused_and_scores_of_an_arm_without_a_record_are_left_out(
    small: Path,
) -> None:
    (small / "run.json").write_text('{"study": "new", "schema": 2}')
    with pytest.raises(StoreError, match="newer version of gtvbench \\(schema 2; this version knows 1\\)") as caught:
        read_run(small)
    assert "update gtvbench" in str(caught.value.remedy)
    (small / "run.json").write_text("{")
    records = json.loads((small / "arms.json").read_text())
    (small / "arms.json").write_text(json.dumps(records[1:]))
    run = read_run(small)
    assert "run.json cannot be read" in run.notices[0].names[0]
    assert "box-ellipse" not in set(run.scores["arm"])
    assert "scores.parquet has arms that arms.json does not know, left out: box-ellipse" in run.notices[0].names


def test_scores_that_are_no_finite_number_are_none_and_a_patient_without_a_name_is_its_case(small: Path) -> None:
    scores = pd.read_parquet(small / "scores.parquet")
    scores["value"] = scores["value"].astype(object)
    scores.loc[0:3, "value"] = [np.inf, -np.inf, "much", None]
    scores.loc[0, "patient"] = None
    scores["value"] = scores["value"].astype(str)
    scores.to_parquet(small / "scores.parquet")
    read = read_run(small).scores
    assert read["value"][:4].isna().all()
    assert read["value"][4] == float(scores["value"][4])
    assert read["patient"][0] == read["case"][0]


def test_rows_that_do_not_say_what_they_score_or_say_it_twice_and_tables_without_a_column_are_refused(
    small: Path,
) -> None:
    scores = pd.read_parquet(small / "scores.parquet")
    nameless = scores.copy()
    nameless.loc[3, "structure"] = None
    for table, words in (
        (nameless, "1 rows of the score table do not say"),
        (pd.concat([scores, scores.iloc[:1]]), "there twice"),
        (scores.drop(columns="status"), "lacks the columns status"),
    ):
        table.to_parquet(small / "scores.parquet")
        with pytest.raises(StoreError, match=words):
            read_run(small)


def test_what_is_no_run_folder_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for name, words in (("none", "no such run folder"), ("file", "is a file"), ("folder", "is no run folder")):
        with pytest.raises(StoreError, match=words) as caught:
            read_run(tmp_path / name)
        assert "bench run" in str(caught.value.remedy)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", ["", "scores.parquet"])
def test_what_may_not_be_read_is_said_so(small: Path, name: str) -> None:
    (small / name).chmod(0)
    try:
        with pytest.raises(StoreError, match="read"):
            read_run(small)
    finally:
        (small / name).chmod(0o755)


def test_a_disk_without_room_for_the_report_is_said_so_and_leaves_no_part(tmp_path: Path) -> None:
    run = RunWriter(patients=1, structures=("GTV",), plans=PLANS[:1]).write(tmp_path / "run")
    code = (
        "import resource, sys; from gtvbench.bench.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "sys.argv = ['bench', 'report', sys.argv[1]]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the report cannot be written (File too large)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in (run / "report").rglob(".*") if path.is_file()]


def test_a_declared_name_stands_for_its_repetitions_and_one_of_no_arm_is_told(tmp_path: Path) -> None:
    writer = RunWriter(patients=2)
    record = next(record for record in writer.arms if record["arm"] == TUNED)
    writer.arms += [{**record, "arm": f"{TUNED}.seed{k}", "seed": k} for k in (1, 2)]
    writer.arms.remove(record)
    writer.scores = writer.scores[writer.scores["arm"] != TUNED]
    writer.study["statistics"] = {"contrasts": [[TUNED, "box-fill"], ["box-fil", "box-ellipse"]]}
    run = read_run(writer.write(tmp_path / "run"))
    assert [arm.name for arm in run.named(TUNED)] == [f"{TUNED}.seed1", f"{TUNED}.seed2"]
    assert [arm.name for arm in run.named(f"{TUNED}.seed2")] == [f"{TUNED}.seed2"]
    assert run.named("litemedsam-fine-tuned") == []
    assert [comparable(run.named(TUNED)[0], arm) for arm in run.named(TUNED)] == [True, False]
    assert comparable(run.named(TUNED)[1], run.named("box-fill")[0])
    assert [notice.names for notice in run.notices if notice.kind == "plan"] == [("box-fil against box-ellipse",)]


def test_hostile_names_are_read_as_they_are(tmp_path: Path) -> None:
    writer = RunWriter(patients=2, structures=("GTV-T", HOSTILE))
    writer.arms[0]["arm"] = HOSTILE
    writer.scores["arm"] = writer.scores["arm"].replace({"box-ellipse": HOSTILE})
    run = read_run(writer.write(tmp_path / "run"))
    assert HOSTILE in run.structures
    assert HOSTILE in [arm.name for arm in run.scored_arms]
    assert HOSTILE not in run.timing
