"""What every arm of a run is given, and the keys and jobs that follow from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gtvbench.bench.core.digest import digest_file
from gtvbench.bench.core.prompts import Prompts
from gtvbench.bench.files.store import Store, step_key
from gtvbench.bench.prepare.cases import Prepared
from gtvbench.bench.processes.arm import ArmJob, ArmWork, FitTask, Item
from gtvbench.bench.study import registry
from gtvbench.bench.study.arms import Arm
from gtvbench.bench.study.cohort import Cohort
from gtvbench.bench.study.file import Study

FIT_VERSION = 1
PREDICT_VERSION = 2


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
        data = {
            subset: [self._digests(arm, c) for c in self.cohort.cases(subset)] for subset in ("train", "validation")
        }
        return step_key("fit", FIT_VERSION, arm=self._identity(arm), data=data, structures=self.study.structures)

    def items(self, arm: Arm) -> dict[str, Item]:
        """What an arm predicts, by case."""
        fit_key = self.fit_key(arm)
        return {case: self._item(arm, case, fit_key) for case in self.cohort.cases("test")}

    def fit_task(self, arm: Arm) -> FitTask:
        """The training of an arm."""
        key = self.fit_key(arm)
        assert key is not None
        training, validation = (
            tuple((case, self._prompts_digest(arm, case)) for case in self.cohort.cases(subset))
            for subset in ("train", "validation")
        )
        return FitTask(key, training, validation)

    def work(self, arm: Arm, items: Iterable[Item]) -> ArmWork | None:
        """What is missing of an arm; None where nothing is."""
        missing = tuple(item for item in items if self.predicted(arm, item) is None)
        if not missing:
            return None
        key = self.fit_key(arm)
        fit = self.fit_task(arm) if key is not None and self.store.record(f"fit/{arm.name}", key) is None else None
        return ArmWork(self.job(arm), fit, missing, self.study.timing.case_timeout_s)

    def predicted(self, arm: Arm, item: Item) -> dict[str, Any] | None:
        """The record of a prediction, or None where it is not there."""
        return self.store.record(f"predict/{arm.name}/{item.case}", item.key)

    def job(self, arm: Arm) -> ArmJob:
        """What the processes of an arm are told."""
        return ArmJob(
            run=self.folder.resolve(),
            base=self.base.resolve(),
            name=arm.name,
            adapter=arm.adapter,
            fusion=arm.fusion,
            options=arm.options,
            seed=arm.seed(self.study.seed),
            trains=arm.trains,
            prompted=bool(arm.prompts),
            weights_file=arm.weights_file,
            weights_sha256=arm.weights_sha256,
            structures=dict(self.study.structures),
            modalities=tuple(self.cohort.modalities),
            device=self.study.device,
            gpus_per_fit=self.study.engine.gpus_per_fit,
        )

    def _digests(self, arm: Arm, case: str) -> list[str | None]:
        prepared = self.prepared[case]
        return [case, prepared.images_digest, prepared.reference_digest, self._prompts_digest(arm, case)]

    def _prompts_digest(self, arm: Arm, case: str) -> str | None:
        """A method that sees no prompt does not depend on them."""
        return self.prompts[case].digest if arm.prompts else None

    def identity(self, arm: Arm) -> str:
        """Digest of what an arm is: method, options, weights, seed; not of its data."""
        return step_key("arm", 1, arm=self._identity(arm))

    def _identity(self, arm: Arm) -> dict[str, Any]:
        return {
            "adapter": arm.adapter,
            "version": arm.version,
            "fusion": arm.fusion,
            "seed": arm.seed(self.study.seed),
            "options": arm.options,
            "weights": arm.weights_sha256,
        }

    def _item(self, arm: Arm, case: str, fit_key: str | None) -> Item:
        digests = {
            "images": self.prepared[case].images_digest,
            "prompts": self._prompts_digest(arm, case),
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
        return Item(case, key, digests)

    def _input_digests(self, arm: Arm, case: str) -> list[str | None]:
        cls = registry.load(registry.METHODS, arm.adapter)
        files = cls.input_files(cls.Options.model_validate(arm.options), self.base, case)
        return [digest_file(path) if path.is_file() else None for path in files]
