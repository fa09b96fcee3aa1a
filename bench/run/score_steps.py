"""The step that scores a prediction, and reads it as it was published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gtvbench.bench.core.cases import Images
from gtvbench.bench.core.digest import digest_file
from gtvbench.bench.core.errors import DataError, DigestError
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.core.scores import METRICS
from gtvbench.bench.files import nifti
from gtvbench.bench.files.store import step_key, write_atomically
from gtvbench.bench.run.journal import Journal
from gtvbench.bench.run.picture_steps import PictureSteps
from gtvbench.bench.run.plan import Ready
from gtvbench.bench.score.cases import score_case
from gtvbench.bench.study.arms import Arm

SCORE_VERSION = 1

Row = dict[str, Any]


@dataclass(frozen=True)
class ScoreSteps:
    """Scores predictions of one run, and has their contours drawn where the run has pictures."""

    ready: Ready
    pictures: PictureSteps | None
    journal: Journal

    def rows(
        self, arm: Arm, case: str, digests: Mapping[str, Any], record: Mapping[str, Any] | None, status: str
    ) -> list[Row]:
        """Rows of the score table of one arm and case, computed where they are not there yet.

        `record` is that of the prediction's step; without one the case is scored as missing, with its `status`. Raises
        DigestError where the prediction was made from other inputs than `digests` or its file is not the one recorded.
        """
        ready, store, prepared = self.ready, self.ready.store, self.ready.prepared[case]
        fixed = {"arm": arm.name, "method": arm.method, "fusion": arm.fusion, "seed": arm.seed_index, "case": case}
        fixed["patient"] = prepared.patient
        if record is None:
            if self.pictures is not None:
                self.pictures.of_arm(arm.name, case, None, status, lambda: None)
            return [fixed | row for row in self._score(None, case, status)]
        if record["digests"] != digests:
            raise DigestError(f"the prediction of {arm.name} was made from other data, prompts or weights", case=case)
        step, path = f"score/{arm.name}/{case}", store.arm_folder(arm.name) / "scores" / f"{case}.json"
        key = step_key(
            "score",
            SCORE_VERSION,
            prediction=record["sha256"],
            predicted=record["key"],
            reference=prepared.reference_digest,
            prompts=ready.prompts[case].digest,
            tolerances=ready.study.tolerances(),
            structures=ready.study.structures,
            metrics=list(METRICS),
        )
        read = cache(lambda: self._prediction(arm, case, record["sha256"]))
        if store.record(step, key) is None:
            store.forget(step)
            write_atomically(path, json.dumps(self._score(read(), case, None)) + "\n")
            store.finish(step, key, [path])
            self.journal.computed["score"] += 1
        if self.pictures is not None:
            self.pictures.of_arm(arm.name, case, record["sha256"], None, read)
        return [fixed | row for row in json.loads(path.read_text())]

    def _prediction(self, arm: Arm, case: str, sha256: str) -> Any:
        path = self.ready.store.prediction(arm.name, case)
        if digest_file(path) != sha256:
            raise DigestError(
                "the prediction file is not the one that was recorded",
                case=case,
                file=path,
                remedy="remove it and run again: it will be predicted anew",
            )
        volume = nifti.read_volume(path, case)
        images = Images(case, self.ready.store.case_folder(case))
        differences = volume.grid.differences(images.original)
        if differences:
            raise DataError(f"the prediction left the reference grid: {'; '.join(differences)}", case=case, file=path)
        return images.from_original(volume.array)

    def _score(self, prediction: Any, case: str, status: str | None) -> list[Row]:
        reference = np.load(self.ready.store.reference(case), mmap_mode="r")
        prompts, structures = self.ready.prompts[case], self.ready.cohort.structures
        return score_case(
            prediction,
            reference,
            Grid.from_dict(self.ready.prepared[case].meta["grid"]),
            structures,
            self.ready.study.tolerances(),
            {s.name: prompts.slices_of(s.value) for s in structures},
            status,
        )
