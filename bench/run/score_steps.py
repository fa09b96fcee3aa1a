"""The step that scores a prediction: where the arm is computed, or by the run; read as it was published."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gtvbench.bench.core.cases import Images
from gtvbench.bench.core.digest import digest_file
from gtvbench.bench.core.errors import DataError, DigestError
from gtvbench.bench.core.events import CaseScored
from gtvbench.bench.core.scores import METRICS
from gtvbench.bench.core.structures import Structure
from gtvbench.bench.files import nifti
from gtvbench.bench.files.store import Store, step_key, write_atomically
from gtvbench.bench.processes.arm import Item, require_reference, stored_prompts
from gtvbench.bench.run.journal import Journal
from gtvbench.bench.run.picture_steps import PictureSteps, contours_key, draw_contours
from gtvbench.bench.run.plan import Ready
from gtvbench.bench.score.cases import score_case
from gtvbench.bench.study.arms import Arm

SCORE_VERSION = 1

Row = dict[str, Any]


@dataclass(frozen=True)
class Scoring:
    """The scoring of an arm's predictions, as it is sent to where the arm is computed: the work of a crew, whose tasks
    are items. `references` and `prompts` are digests by case; `pictures` keys of the cases' pictures, where there are
    any."""

    run: Path
    arm: str
    structures: tuple[Structure, ...]
    tolerances: Mapping[str, float]
    references: Mapping[str, str]
    prompts: Mapping[str, str]
    pictures: Mapping[str, str]

    def open(self) -> Scoring:
        """Nothing to make ready."""
        return self

    def perform(self, item: Item, tell: object) -> CaseScored:
        """Score a prediction and draw its contours, where it is there and that is not done."""
        store, case = self.store, item.case
        record = store.record(f"predict/{self.arm}/{case}", item.key)
        if record is None:
            return CaseScored(case, False, False)
        read = cache(lambda: self.prediction(case, record["sha256"]))
        scored, drawn = self.score(case, record, read), not self._is_drawn(case, record)
        if drawn:
            with suppress(Exception):  # they cost no score: the run tries again, and tells why the report lacks them
                key = contours_key(self.pictures[case], record["sha256"], None)
                draw_contours(store, self.arm, case, key, self.structures, read(), None)
        return CaseScored(case, scored, drawn and self._is_drawn(case, record))

    def is_done(self, item: Item) -> bool:
        """Whether a prediction is there, scored and drawn."""
        record = self.store.record(f"predict/{self.arm}/{item.case}", item.key)
        return record is not None and self.is_scored(item.case, record) and self._is_drawn(item.case, record)

    @property
    def store(self) -> Store:
        """The run folder."""
        return Store(self.run)

    def path(self, case: str) -> Path:
        """Where the rows of a case lie."""
        return self.store.arm_folder(self.arm) / "scores" / f"{case}.json"

    def score(self, case: str, record: Mapping[str, Any], read: Callable[[], Any]) -> bool:
        """Publish the rows of a prediction, if they are not there yet; return whether they were not."""
        if self.is_scored(case, record):
            return False
        step = f"score/{self.arm}/{case}"
        self.store.forget(step)
        write_atomically(self.path(case), json.dumps(self.rows(read(), case, None)) + "\n")
        self.store.finish(step, self._key(case, record), [self.path(case)])
        return True

    def rows(self, prediction: Any, case: str, status: str | None) -> list[Row]:
        """Rows of one case; without a prediction (None) it is scored as missing, with its `status`."""
        require_reference(self.store, case, self.references[case])
        reference = np.load(self.store.reference(case), mmap_mode="r")
        prompts = stored_prompts(self.store, case, self.prompts[case])
        grid = Images(case, self.store.case_folder(case)).grid
        slices = {s.name: prompts.slices_of(s.value) for s in self.structures}
        return score_case(prediction, reference, grid, self.structures, self.tolerances, slices, status)

    def prediction(self, case: str, sha256: str) -> Any:
        """A prediction as it was recorded, on the grid of the prepared case; raises DigestError or DataError."""
        path = self.store.prediction(self.arm, case)
        if digest_file(path) != sha256:
            raise DigestError(
                "the prediction file is not the one that was recorded",
                case=case,
                file=path,
                remedy="remove it and run again: it will be predicted anew",
            )
        volume = nifti.read_volume(path, case)
        images = Images(case, self.store.case_folder(case))
        differences = volume.grid.differences(images.original)
        if differences:
            raise DataError(f"the prediction left the reference grid: {'; '.join(differences)}", case=case, file=path)
        return images.from_original(volume.array)

    def _key(self, case: str, record: Mapping[str, Any]) -> str:
        return step_key(
            "score",
            SCORE_VERSION,
            prediction=record["sha256"],
            predicted=record["key"],
            reference=self.references[case],
            prompts=self.prompts[case],
            tolerances=self.tolerances,
            structures={s.name: s.value for s in self.structures},
            metrics=list(METRICS),
        )

    def is_scored(self, case: str, record: Mapping[str, Any]) -> bool:
        """Whether the rows of a prediction are there."""
        return self.store.record(f"score/{self.arm}/{case}", self._key(case, record)) is not None

    def _is_drawn(self, case: str, record: Mapping[str, Any]) -> bool:
        if case not in self.pictures:
            return True
        key = contours_key(self.pictures[case], record["sha256"], None)
        return self.store.record(f"contours/{self.arm}/{case}", key) is not None


@dataclass(frozen=True)
class ScoreSteps:
    """Scores of one run: what was computed with the arms is read, what is missing is computed here."""

    ready: Ready
    pictures: PictureSteps | None
    journal: Journal

    def scoring(self, arm: Arm) -> Scoring:
        """What scores an arm."""
        ready = self.ready
        keys = self.pictures.keys if self.pictures is not None else {}
        return Scoring(
            run=ready.folder.resolve(),
            arm=arm.name,
            structures=ready.cohort.structures,
            tolerances=ready.study.tolerances(),
            references={case: prepared.reference_digest for case, prepared in ready.prepared.items()},
            prompts={case: prompts.digest for case, prompts in ready.prompts.items()},
            pictures={case: keys[f"pictures/{case}"] for case in ready.prepared if f"pictures/{case}" in keys},
        )

    def rows(
        self, arm: Arm, scoring: Scoring, item: Item, record: Mapping[str, Any] | None, status: str, draw: bool = True
    ) -> list[Row]:
        """Rows of the score table of one arm and case, computed where they are not there yet, as its contours are.

        `record` is that of the prediction's step; without one the case is scored as missing, with its `status`. Raises
        DigestError where the prediction was made from other inputs than the item's or its file is not the one recorded.
        """
        case, patient = item.case, self.ready.prepared[item.case].patient
        fixed = {"arm": arm.name, "method": arm.method, "fusion": arm.fusion, "seed": arm.seed_index}
        fixed |= {"case": case, "patient": patient}
        if record is None:
            if self.pictures is not None:
                self.pictures.of_arm(arm.name, case, None, status, lambda: None)
            return [fixed | row for row in scoring.rows(None, case, status)]
        if record["digests"] != item.digests:
            raise DigestError(f"the prediction of {arm.name} was made from other data, prompts or weights", case=case)
        read = cache(lambda: scoring.prediction(case, record["sha256"]))
        self.journal.computed["score"] += scoring.score(case, record, read)
        if self.pictures is not None and draw:
            self.pictures.of_arm(arm.name, case, record["sha256"], None, read)
        return [fixed | row for row in json.loads(scoring.path(case).read_text())]
