import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gtvbench.bench.cli.conformance import conformance
from gtvbench.bench.cli.main import app


def bench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from gtvbench.bench.cli.main import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def test_listing_reporting_and_comparing_import_neither_torch_nor_image_libraries(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom gtvbench.bench.cli import listing, main as cli\n"
        "from gtvbench.bench.core.errors import BenchError\n"
        "assert [row['name'] for row in listing._listing('methods')]\n"
        "assert 'torch' not in sys.modules\n"
        "from gtvbench.reports.page import build\n"
        "for arguments in (['report', 'a'], ['compare', 'a', 'b']):\n"
        "    try:\n        cli.app(arguments, standalone_mode=False)\n"
        "    except BenchError:\n        continue\n"
        "    sys.exit('no error')\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('torch', 'SimpleITK', 'nnunetv2')]\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("what", ["methods", "datasets", "presets", "fusions", "prompts"])
def test_everything_can_be_listed_for_people_and_machines(what: str) -> None:
    assert CliRunner().invoke(app, ["list", what]).exit_code == 0
    rows = json.loads(CliRunner().invoke(app, ["list", what, "--json"]).stdout)
    assert rows and all(row["name"] for row in rows)


def test_an_unknown_method_is_answered_with_the_nearest_name_and_no_traceback(tmp_path: Path) -> None:
    done = bench("run", "--methods", "box-elipse", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean box-ellipse" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("engine", "where"),
    [
        ("local", "this machine"),
        ("slurm", "1 jobs of slurm"),
        ("tcp://127.0.0.1:9", "tcp://127.0.0.1:9"),
        ("slurmm", "is none"),
    ],
)
def test_the_engine_of_the_command_line_wins(tmp_path: Path, engine: str, where: str) -> None:
    (tmp_path / "s.yaml").write_text("""
study: small
dataset: {source: phantom, patients: 3}
structures: {GTV-T: 1, GTV-N: 2}
split: {counts: {test: 3}}
engine: {kind: dask, address: "tcp://elsewhere:1", walltime: "1:00:00"}
""")
    command = ["run", str(tmp_path / "s.yaml"), "--methods", "box-fill", "--dry-run", "--engine", engine]
    told = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "run")])
    assert where in told.output + str(told.exception)


def test_the_demo_study_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["check", "--log", "quiet"])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip().splitlines()[-1].startswith("ready: 11 patients, 0 errors")
    assert list(tmp_path.iterdir()) == []


def test_init_writes_a_study_that_is_read_and_never_overwrites_one(tmp_path: Path) -> None:
    assert bench("init", cwd=tmp_path).returncode == 0
    assert bench("init", cwd=tmp_path).returncode == 2
    done = bench("check", "study.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "data" in done.stderr and "Traceback" not in done.stderr


SMALL = ["--set", "dataset.patients=3", "--set", "split.counts={train: 1, test: 2}"]


def test_a_run_ends_with_its_reports_path_which_is_made_again_and_held_to_requirements(tmp_path: Path) -> None:
    done = bench("run", "--methods", "box-fill", "--log", "json", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = tmp_path / done.stdout.strip().splitlines()[-1]
    assert report == tmp_path / "runs" / "phantom-demo" / "report" / "index.html"
    first = report.read_bytes()
    assert {json.loads(line)["level"] for line in done.stderr.splitlines() if line.startswith("{")} == {"info"}

    required = ["--require", "box-fill:GTV-T:dsc>=0.01"]
    assert bench("report", "runs/phantom-demo", *required, cwd=tmp_path).returncode == 0
    assert report.read_bytes() == first
    required += ["--require", "box-fill:GTV-N:hd95<=0.001"]
    failed = bench("report", "runs/phantom-demo", *required, cwd=tmp_path)
    assert failed.returncode == 4
    assert "holds box-fill:GTV-T:dsc>=0.01 (mean 0." in failed.stderr
    assert "FAILS box-fill:GTV-N:hd95<=0.001 (" in failed.stderr
    report.unlink()
    misspelt = bench("report", "runs/phantom-demo", "--require", "box-fil:GTV-T:dsc>=0.01", cwd=tmp_path)
    assert misspelt.returncode == 2
    assert "did you mean box-fill?" in misspelt.stderr
    assert not report.exists()


def test_runs_of_one_study_with_other_methods_are_compared_and_of_another_seed_are_not(tmp_path: Path) -> None:
    runs = {
        "lab-a": ["--methods", "box-fill"],
        "lab-b": ["--methods", "box-fill,box-ellipse"],
        "other": ["--methods", "box-ellipse", "--set", "seed=99"],
    }
    for folder, arguments in runs.items():
        done = bench("run", *arguments, "--out", folder, *SMALL, "--log", "quiet", "--no-report", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, f"{folder}\n"), done.stderr
    done = bench("compare", "lab-a", "lab-b", "--out", "both", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "both/report/index.html\n"), done.stderr
    record = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert [(arm["arm"], arm["run"]) for arm in record["arms"]] == [("box-fill", "lab-a"), ("box-ellipse", "lab-b")]
    refused = bench("compare", "lab-a", "other", cwd=tmp_path)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert "other differs from lab-a in prompts: other boxes in " in refused.stderr
    assert "file:   lab-a and other" in refused.stderr
    assert bench("compare", "lab-a", cwd=tmp_path).returncode == 2
    assert bench("compare", "lab-a", "lab-b", "--names", "x", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("command", [["report", "run"], ["compare", "run", "run2"]])
def test_a_folder_that_a_run_is_working_on_is_left_alone(tmp_path: Path, command: list[str]) -> None:
    for name in ("run", "run2"):
        (tmp_path / name).mkdir()
    with (tmp_path / "run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = bench(*command, cwd=tmp_path)
    assert done.returncode == 2
    assert "a run is working on this folder" in done.stderr


# ---- conformance


def broken_promises(name: str, options: list[str] | None = None, folder: Path | None = None) -> list[tuple[str, str]]:
    return [(result.title, result.detail) for result in conformance(name, options, folder) if not result.passed]


def test_an_example_package_adds_a_method_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(__file__).parents[2] / "example_package"
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--target", str(site), str(source)]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    assert len((source / "gtvbench_threshold" / "__init__.py").read_text().splitlines()) <= 60
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(site))
    names = [row["name"] for row in json.loads(bench("list", "methods", "--json", cwd=tmp_path).stdout)]
    assert "pet-threshold" in names
    assert broken_promises("pet-threshold", folder=tmp_path / "conformance") == []
    (arm,) = json.loads((tmp_path / "conformance" / "first" / "arms.json").read_text())
    assert (arm["arm"], arm["status"]) == ("pet-threshold.multimodal", "complete")


def test_a_method_that_keeps_every_promise_conforms() -> None:
    told = CliRunner().invoke(app, ["check-adapter", "box-fill"])
    assert told.exit_code == 0, told.output
    assert told.output.count("pass ") == 9 and "box-fill: conforms" in told.output


@pytest.mark.usefixtures("with_plugins")
def test_a_method_that_breaks_does_not_conform() -> None:
    told = CliRunner().invoke(app, ["check-adapter", "broken", "--set", "how=label"])
    assert told.exit_code == 2
    assert "FAIL predicts every test case of a phantom cohort" in told.output
    assert "unknown label values" in told.output and "broken: 6 checks failed" in told.output
    assert broken_promises("sleeper") == [("segments something, if it needs no training", "every prediction is empty")]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("box-ellipse", [], marks=pytest.mark.slow),
        pytest.param("litemedsam-zero-shot", [], marks=pytest.mark.slow),
        ("litemedsam-fine-tuned", ["train=decoder", "epochs=1"]),
    ],
)
def test_the_methods_of_the_house_conform(name: str, options: list[str], random_weights: Path) -> None:
    if name.startswith("litemedsam"):
        options = [f"weights={random_weights}", "image-size=32", "backend=torch", "fusions=[multimodal]", *options]
    assert broken_promises(name, options) == []
