import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gtvbench.bench.cli.conformance import conformance


def bench(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from gtvbench.bench.cli.main import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=300)


def test_listing_methods_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom gtvbench.bench.cli import main as cli\nrows = cli._listing('methods')\n"
        "assert [r['name'] for r in rows], rows\nassert 'torch' not in sys.modules\n"
        "from gtvbench.reports.page import build\nassert 'torch' not in sys.modules and 'SimpleITK' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("what", ["methods", "datasets", "fusions", "prompts"])
def test_everything_can_be_listed_for_people_and_machines(tmp_path: Path, what: str) -> None:
    assert bench("list", what, cwd=tmp_path).returncode == 0
    rows = json.loads(bench("list", what, "--json", cwd=tmp_path).stdout)
    assert rows and all(row["name"] for row in rows)


def test_an_unknown_method_is_answered_with_the_nearest_name_and_no_traceback(tmp_path: Path) -> None:
    done = bench("run", "--methods", "box-elipse", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean box-ellipse" in done.stderr and "Traceback" not in done.stderr


def test_the_demo_study_is_ready(tmp_path: Path) -> None:
    done = bench("check", "--log", "quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith("ready: 11 patients, 0 errors")
    assert list(tmp_path.iterdir()) == []


def test_init_writes_a_study_that_is_read_and_never_overwrites_one(tmp_path: Path) -> None:
    assert bench("init", cwd=tmp_path).returncode == 0
    assert bench("init", cwd=tmp_path).returncode == 2
    done = bench("check", "study.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "data" in done.stderr and "Traceback" not in done.stderr


def test_a_run_ends_with_the_reports_path_and_its_report_can_be_made_again(tmp_path: Path) -> None:
    settings = ["--set", "dataset.patients=3", "--set", "split.counts={train: 1, test: 2}"]
    done = bench("run", "--methods", "box-fill", "--log", "json", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = tmp_path / done.stdout.strip().splitlines()[-1]
    assert report == tmp_path / "runs" / "phantom-demo" / "report" / "index.html"
    first = report.read_bytes()
    assert {json.loads(line)["level"] for line in done.stderr.splitlines() if line.startswith("{")} == {"info"}
    assert bench("report", "runs/phantom-demo", cwd=tmp_path).returncode == 0
    assert report.read_bytes() == first


SMALL = ["--set", "dataset.patients=3", "--set", "split.counts={train: 1, test: 2}", "--log", "quiet"]


def test_runs_of_one_study_with_other_methods_are_compared_and_of_another_seed_are_not(tmp_path: Path) -> None:
    runs = {
        "lab-a": ["--methods", "box-fill"],
        "lab-b": ["--methods", "box-fill,box-ellipse"],
        "other": ["--methods", "box-ellipse", "--set", "seed=99"],
    }
    for folder, arguments in runs.items():
        assert bench("run", *arguments, "--out", folder, *SMALL, cwd=tmp_path).returncode == 0
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

    required = ["--require", "box-fill:GTV-T:dsc>=0.01", "--require", "box-fill:GTV-N:hd95<=0.001"]
    failed = bench("report", "lab-a", *required, cwd=tmp_path)
    assert failed.returncode == 4
    assert "holds box-fill:GTV-T:dsc>=0.01 (mean 0." in failed.stderr
    assert "FAILS box-fill:GTV-N:hd95<=0.001 (" in failed.stderr
    assert bench("report", "lab-a", *required[:2], cwd=tmp_path).returncode == 0
    (tmp_path / "lab-a" / "report" / "index.html").unlink()
    misspelt = bench("report", "lab-a", "--require", "box-fil:GTV-T:dsc>=0.01", cwd=tmp_path)
    assert misspelt.returncode == 2
    assert "did you mean box-fill?" in misspelt.stderr
    assert not (tmp_path / "lab-a" / "report" / "index.html").exists()


@pytest.mark.parametrize("command", [["report", "run"], ["compare", "run", "run2"]])
def test_a_folder_that_a_run_is_working_on_is_left_alone(tmp_path: Path, command: list[str]) -> None:
    for name in ("run", "run2"):
        (tmp_path / name).mkdir()
    with (tmp_path / "run" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = bench(*command, cwd=tmp_path)
    assert done.returncode == 2
    assert "a run is working on this folder" in done.stderr


@pytest.mark.parametrize("name", ["report", "compare"])
def test_rendering_imports_neither_torch_nor_image_libraries(tmp_path: Path, name: str) -> None:
    code = (
        "import sys\nfrom gtvbench.bench.core.errors import BenchError\nfrom gtvbench.bench.cli.main import app\n"
        f"try:\n    app(['{name}', 'a', 'b'][: 2 + ('{name}' == 'compare')], standalone_mode=False)\n"
        "except BenchError:\n    pass\nelse:\n    sys.exit('no error')\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('torch', 'SimpleITK', 'nnunetv2')]\n"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_example_package_adds_a_method_by_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(__file__).parents[2] / "example_package"
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--target", str(site), str(source)]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.fail(installed.stderr)
    assert len((source / "gtvbench_threshold" / "__init__.py").read_text().splitlines()) <= 60
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(str(site))
    names = [row["name"] for row in json.loads(bench("list", "methods", "--json", cwd=tmp_path).stdout)]
    assert "pet-threshold" in names
    results = conformance("pet-threshold", folder=tmp_path / "conformance")
    assert [(r.title, r.detail) for r in results if not r.passed] == []
    done = bench(
        "run", "--methods", "box-fill,pet-threshold", "--set", "dataset.patients=3",
        "--set", "split.counts={train: 1, test: 2}", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    arms = json.loads((tmp_path / "runs" / "phantom-demo" / "arms.json").read_text())
    assert {arm["arm"]: arm["status"] for arm in arms} == {
        "box-fill": "complete",
        "pet-threshold.multimodal": "complete",
    }


@pytest.mark.parametrize("name", ["box-fill", "box-ellipse"])
def test_the_reference_arms_conform(name: str) -> None:
    assert [(r.title, r.detail) for r in conformance(name) if not r.passed] == []


def test_litemedsam_conforms(random_weights: Path) -> None:
    options = [f"weights={random_weights}", "image-size=32", "backend=torch", "fusions=[multimodal]"]
    assert [(r.title, r.detail) for r in conformance("litemedsam-zero-shot", options) if not r.passed] == []


def test_litemedsam_conforms_when_it_is_fine_tuned(random_weights: Path) -> None:
    options = [f"weights={random_weights}", "image-size=32", "backend=torch", "fusions=[multimodal]"]
    options += ["train=decoder", "epochs=1"]
    assert [(r.title, r.detail) for r in conformance("litemedsam-fine-tuned", options) if not r.passed] == []
