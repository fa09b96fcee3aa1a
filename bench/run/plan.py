"""What every arm of a run is given, and the keys and jobs that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtvbench.bench.core.digest import digest_file
from gtvbench.bench.core.prompts import Prompts
from gtvbench.bench.files.store import Store, step_key
from gtvbench.bench.prepare.cases import Prepared
from gtvbench.bench.study import registry
from gtvbench.bench.study.arms import Arm
from gtvbench.bench.study.cohort import Cohort
from gtvbench.bench.study.file import Study

FIT_VERSION = 1
PREDICT_VERSION = 1


@dataclass(frozen=True)
class Ready:
    """The cases of a study as every arm gets them: prepared in a run folder (`store`), with their prompts. `base` is
    where relative paths of the study file start."""

    study: Study
    base: Path
    store: Store
    cohort: Cohort
    prepared: dict[str, Prepared]
    prompts: dict[str, Prompts]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.store.folder

    def fit_key(self, arm: Arm) -> str | None:
        """Content key of an arm's training, or None where it has none."""
        if not arm.trains:
            return None
        data = {subset: [self._digests(c) for c in self.cohort.cases(subset)] for subset in ("train", "validation")}
        return step_key("fit", FIT_VERSION, arm=self._identity(arm), data=data, structures=self.study.structures)

    def items(self, arm: Arm) -> dict[str, dict[str, Any]]:
        """What an arm predicts, by case: its name, content key, and the digests that the record of it must repeat."""
        fit_key = self.fit_key(arm)
        return {case: self._item(arm, case, fit_key) for case in self.cohort.cases("test")}

    def job(self, arm: Arm, missing: list[dict[str, Any]], fit: bool) -> dict[str, Any]:
        """What the worker of an arm is told: the items to predict, and with `fit` that it trains before."""
        plan: dict[str, Any] | None = None
        if fit:
            plan = {"key": self.fit_key(arm)}
            for name, subset in (("training", "train"), ("validation", "validation")):
                cases = self.cohort.cases(subset)
                plan[name] = [{"case": case, "digests": {"prompts": self.prompts[case].digest}} for case in cases]
        told = {
            "name": arm.name, "adapter": arm.adapter, "fusion": arm.fusion, "options": arm.options,
            "seed": arm.seed(self.study.seed), "trains": arm.trains, "prompts": list(arm.prompts),
            "weights_file": arm.weights_file, "weights_sha256": arm.weights_sha256,
        }  # fmt: skip
        return {
            "run": str(self.folder.resolve()),
            "base": str(self.base.resolve()),
            "arm": told,
            "structures": self.study.structures,
            "modalities": list(self.cohort.modalities),
            "device": self.study.device,
            "fit": plan,
            "predict": missing,
        }

    def _digests(self, case: str) -> list[str]:
        prepared = self.prepared[case]
        return [case, prepared.images_digest, prepared.reference_digest, self.prompts[case].digest]

    def _identity(self, arm: Arm) -> dict[str, Any]:
        return {
            "adapter": arm.adapter,
            "version": arm.version,
            "fusion": arm.fusion,
            "seed": arm.seed(self.study.seed),
            "options": arm.options,
            "weights": arm.weights_sha256,
        }

    def _item(self, arm: Arm, case: str, fit_key: str | None) -> dict[str, Any]:
        digests = {
            "images": self.prepared[case].images_digest,
            "prompts": self.prompts[case].digest,
            "split": self.cohort.split.digest if arm.trains else None,
            "weights": arm.weights_sha256,
            "fit": fit_key,
        }
        key = step_key(
            "predict",
            PREDICT_VERSION,
            arm=self._identity(arm) | {"input": self._input_digests(arm, case)},
            digests=digests,
            prompted=arm.prompts,
            structures=self.study.structures,
        )
        return {"case": case, "key": key, "digests": digests}

    def _input_digests(self, arm: Arm, case: str) -> list[str | None]:
        cls = registry.load(registry.METHODS, arm.adapter)
        files = cls.input_files(cls.Options.model_validate(arm.options), self.base, case)
        return [digest_file(path) if path.is_file() else None for path in files]
