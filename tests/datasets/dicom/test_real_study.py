"""The reference patient in DICOM becomes a study: scan, check, what the message says, run."""

from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from gtvbench.bench.cli.main import app
from gtvbench.bench.privacy.search import search_run
from gtvbench.bench.privacy.terms import dicom_terms, path_terms


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_reference_patient_becomes_a_study_without_training(data: Path, tmp_path: Path) -> None:
    folder = data / "sts_001_dicom"
    if not folder.is_dir():
        pytest.skip(f"the reference patient is not here ({folder}); set GTVBENCH_TEST_DATA")
    study = tmp_path / "study.yaml"
    assert bench("scan", folder, "--out", study).exit_code == 0
    refused = bench("check", study, "--log", "quiet")
    assert refused.exit_code == 2
    assert "'series: {PET: {description:" in refused.output  # what the user is told to write
    rule = "dataset.series={PET: {description: PET AC}}"
    checked = bench("check", study, "--set", rule, "--log", "quiet")
    assert checked.exit_code == 0, checked.output
    assert "skipped, the split has no training patients" in checked.output
    run = tmp_path / "run"
    ran = bench("run", study, "--set", rule, "--methods", "box-fill,box-ellipse", "--out", run, "--log", "quiet")
    assert ran.exit_code == 0, ran.output
    scores = pd.read_csv(run / "scores.csv")
    volume = scores[(scores["metric"] == "reference_volume_ml") & (scores["scope"] == "volume")]["value"]
    assert volume.max() == pytest.approx(117145 * 0.9765625**2 * 3.27 / 1000, rel=1e-3)
    assert search_run(run, dicom_terms(folder) | path_terms([folder])) == []
