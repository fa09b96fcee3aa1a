"""Data without CT, from a preset to the report."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import public_trees as trees

from gtvbench.bench.files.progress import Display
from gtvbench.bench.presets import write
from gtvbench.bench.run.run import Run
from gtvbench.bench.study.file import read_study


def test_a_study_of_t2w_alone_runs_and_its_report_speaks_of_no_ct(tmp_path: Path, random_weights: Path) -> None:
    root = trees.hntsmrg2024(tmp_path / "data", ["2", "3", "4"])
    file = tmp_path / "study.yaml"
    file.write_text(write.write_study("hntsmrg2024", root, file)[0])
    study = read_study(file, [
        f"methods.litemedsam-zero-shot={{weights: {random_weights}, image-size: 32, backend: torch}}",
        "statistics.resamples=1000", "device=cpu", "seed=3",
    ])  # fmt: skip
    outcome = Run(study, tmp_path, tmp_path / "run", ["box-fill", "litemedsam-zero-shot"], Display("quiet")).execute()
    assert outcome.exit_code == 0
    arms = json.loads((tmp_path / "run" / "arms.json").read_text())
    assert [arm["fusion"] for arm in arms] == ["none", "mr-only"]
    page = outcome.report.read_text()
    words = html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"(?s)<(script|style).*?</\1>", "", page)))
    assert "In mr-only images all three colour channels are T2w." in words
    assert "grid of the T2w" in words
    assert re.search(r"Modalities\s*T2w", words)
    assert "CT windowed" not in words
