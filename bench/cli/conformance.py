"""The conformance suite: what every adapter promises, tried on small phantom cohorts through the real runner."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from gtvbench.bench.core.digest import digest_file
from gtvbench.bench.core.errors import BenchError, StudyError
from gtvbench.bench.files.nifti import read_volume
from gtvbench.bench.files.progress import Display
from gtvbench.bench.run.run import Run
from gtvbench.bench.study import registry
from gtvbench.bench.study.file import Study


@dataclass(frozen=True)
class ClaimResult:
    """One promise: its title, whether it was kept, and what was seen where it was not."""

    title: str
    passed: bool
    detail: str = ""


class _BrokenError(Exception):
    """A promise was not kept."""


def conformance(name: str, overrides: list[str] | None = None, folder: Path | None = None) -> list[ClaimResult]:
    """Check the method `name`; `overrides` are its options as KEY=VALUE. `folder` keeps the runs (default: removed)."""
    cls = registry.load(registry.METHODS, name)
    options = dict(_pair(text) for text in overrides or [])
    place = folder or Path(tempfile.mkdtemp(prefix="gtvbench-conformance-"))
    suite = _Suite(name, cls, options, place)
    try:
        return [_attempt(title, check) for title, check in suite.checks()]
    finally:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise StudyError(f"--set {text!r} is not KEY=VALUE")
    return key.strip(), yaml.safe_load(value)


def _attempt(title: str, check: Callable[[], None]) -> ClaimResult:
    try:
        check()
    except _BrokenError as error:
        return ClaimResult(title, False, str(error))
    except BenchError as error:
        return ClaimResult(title, False, str(error))
    except Exception as error:
        return ClaimResult(title, False, f"{type(error).__name__}: {error}")
    return ClaimResult(title, True)


@dataclass
class _Suite:
    name: str
    cls: Any
    options: dict[str, Any]
    folder: Path

    def checks(self) -> list[tuple[str, Callable[[], None]]]:
        """Promises in the order in which they are tried."""
        return [
            ("declares its needs as data", self.needs),
            ("can be listed without importing torch", self.light),
            ("refuses an unknown option", self.options_are_checked),
            ("predicts every test case of a phantom cohort", self.predicts),
            ("segments something, if it needs no training", self.segments),
            ("is timed by the harness", self.timed),
            ("does nothing when it is run again", self.resumes),
            ("gives the same result from the same seed", self.repeats),
            ("copes with volumes of odd, unequal sides", self.odd_sides),
        ]

    def needs(self) -> None:
        """`needs` is a Needs; one that trains has fit()."""
        from gtvbench.adapters.base import Adapter, Needs

        if not isinstance(getattr(self.cls, "needs", None), Needs):
            raise _BrokenError("the class attribute 'needs' is not a gtvbench.adapters.base.Needs")
        if not issubclass(self.cls, Adapter):
            raise _BrokenError("the class is not derived from gtvbench.adapters.base.Adapter")
        if self.cls.needs.trains and self.cls.fit is Adapter.fit:
            raise _BrokenError("needs.trains is set, but fit() is not written")

    def light(self) -> None:
        """Importing the adapter's module leaves torch alone: `bench list` stays fast, the parent process small."""
        value = registry.entry(registry.METHODS, self.name).value.partition(":")[0]
        code = f"import sys, {value}; sys.exit('torch' in sys.modules)"
        if subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode:
            raise _BrokenError(f"importing {value} imports torch; import it inside load(), fit() or encode()")

    def options_are_checked(self) -> None:
        """An option that the method does not know is an error."""
        try:
            self.cls.Options.model_validate({"no-such-option": 1})
        except ValueError:
            return
        raise _BrokenError("Options accept the unknown key 'no-such-option'; derive them from adapters.base.Options")

    def predicts(self) -> None:
        """All cases are predicted, with known labels, on the right grid (the runner checks both)."""
        self._run("first")

    def segments(self) -> None:
        """Not every label map is empty; a method that trains may find nothing after so short a training."""
        files = [self.folder / "first" / "arms" / name for name in self._predictions("first")]
        if not self.cls.needs.trains and not any(read_volume(path).array.any() for path in files):
            raise _BrokenError("every prediction is empty")

    def timed(self) -> None:
        """Every case has a timed row."""
        for arm in sorted((self.folder / "first" / "arms").iterdir()):
            timing = pd.read_parquet(arm / "timing.parquet")
            if (timing["stage"] == "case").sum() != 2:
                raise _BrokenError(f"{arm.name}: {(timing['stage'] == 'case').sum()} of 2 cases are timed")

    def resumes(self) -> None:
        """A second run on the same folder computes nothing."""
        outcome = self._run("first")
        if any(outcome.computed.values()):
            raise _BrokenError(f"computed again: {outcome.computed}")

    def repeats(self) -> None:
        """A run in another folder gives the same label maps."""
        self._run("second")
        first, second = (self._predictions(name) for name in ("first", "second"))
        if first != second:
            different = sorted(name for name in first if first[name] != second.get(name))
            raise _BrokenError(f"label maps differ between two runs of one seed: {', '.join(different)}")

    def odd_sides(self) -> None:
        """Volumes need not be square, nor their sides even."""
        self._run("odd", shape=[11, 49, 63])

    def _run(self, name: str, **dataset: Any) -> Any:
        study = Study.model_validate(
            {
                "study": "conformance",
                "seed": 7,
                "dataset": {"source": "phantom", "patients": 5, **dataset},
                "structures": {"GTV-T": 1, "GTV-N": 2},
                "split": {"counts": {"train": 2, "validation": 1, "test": 2}},
                "methods": {self.name: self.options},
            }
        )
        run = Run(study, Path.cwd(), self.folder / name, [self.name], Display("quiet"), report=False)
        outcome = run.execute()
        if outcome.exit_code:
            raise _BrokenError("; ".join(failure["message"] for failure in outcome.failures))
        return outcome

    def _predictions(self, name: str) -> dict[str, str]:
        files = sorted((self.folder / name / "arms").glob("*/predictions/*.nii.gz"))
        return {str(path.relative_to(self.folder / name / "arms")): digest_file(path) for path in files}
