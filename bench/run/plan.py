"""What every arm of a run is given, and the keys and jobs that follow from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gtvbench.bench.core.prompts import Prompts
from gtvbench.bench.files.store import Store, step_key
from gtvbench.bench.prepare.cases import Prepared
from gtvbench.bench.processes.arm import ArmJob, FitTask, Item, input_digests
from gtvbench.bench.processes.arm_work import ArmWork
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

    def works(self, arm: Arm) -> list[ArmWork]:
        """All that an arm trains and predicts: one work, or one a fold of a cross-validation where the arm trains."""
        folds = range(1, len(self.cohort.split.folds) + 1) if arm.trains else ()
        return [self._work(arm, fold) for fold in folds or (0,)]

    def missing(self, work: ArmWork) -> ArmWork | None:
        """What of a work is not done yet; None where nothing is missing."""
        items = tuple(item for item in work.items if self.predicted(work.arm.name, item) is None)
        done = work.fit is None or self.store.record(f"fit/{work.arm.unit}", work.fit.key) is not None
        return replace(work, fit=None if done else work.fit, items=items) if items else None

    def predicted(self, arm: str, item: Item) -> dict[str, Any] | None:
        """The record of a prediction, or None where it is not there."""
        return self.store.record(f"predict/{arm}/{item.case}", item.key)

    def _work(self, arm: Arm, fold: int) -> ArmWork:
        fit = self._fit_task(arm, fold) if arm.trains else None
        inputs = self._inputs(arm)
        items = tuple(self._item(arm, case, fold, fit, inputs(case)) for case in self.cohort.cases("test", fold))
        timeout_s, memory = self.study.timing.case_timeout_s, self.study.engine.process_bytes
        return ArmWork(self._job(arm, fold), fit, items, timeout_s=timeout_s, memory_bytes=memory)

    def _fit_task(self, arm: Arm, fold: int) -> FitTask:
        cases = {subset: self.cohort.cases(subset, fold) for subset in ("train", "validation")}
        data = {subset: [self._digests(arm, case) for case in names] for subset, names in cases.items()}
        key = step_key("fit", FIT_VERSION, arm=self._identity(arm), data=data, structures=self.study.structures)
        training, validation = (
            tuple(
                (c, self.prepared[c].images_digest, self.prepared[c].reference_digest, self._prompts_digest(arm, c))
                for c in names
            )
            for names in cases.values()
        )
        return FitTask(key, training, validation)

    def _job(self, arm: Arm, fold: int) -> ArmJob:
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
            run_id=self.store.run_id,
            fold=fold,
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

    def _item(self, arm: Arm, case: str, fold: int, fit: FitTask | None, inputs: list[str | None]) -> Item:
        digests = {
            "images": self.prepared[case].images_digest,
            "prompts": self._prompts_digest(arm, case),
            "split": self.cohort.split.fold(fold).digest if arm.trains else None,
            "weights": arm.weights_sha256,
            "fit": fit.key if fit is not None else None,
        }
        key = step_key(
            "predict",
            PREDICT_VERSION,
            arm=self._identity(arm) | {"input": inputs},
            digests=digests,
            prompted=arm.prompts,
            structures=self.study.structures,
        )
        return Item(case, key, digests, tuple(inputs))

    def _inputs(self, arm: Arm) -> Callable[[str], list[str | None]]:
        """Digests of the files, beside the images, that an arm predicts a case from (None: not there)."""
        cls = registry.load(registry.METHODS, arm.adapter)
        options = cls.Options.model_validate(arm.options)
        return lambda case: input_digests(cls.input_files(options, self.base, case))
