"""The adapter interface: everything that a new method must know.

A method is one class, derived from `SliceMethod` (slices.py: `encode` and `decode`) or `VolumeMethod` (`segment`), with
its `needs` as data, and one entry-point line in the group `gtvbench.adapters`. The harness owns the clock, the device's
synchronisation, warm-up, files, seeds and scores; an adapter never sees the reference of a case it predicts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from gtvbench.bench.core.cases import CohortFacts, Images, TrainingCase
from gtvbench.bench.core.errors import BenchError
from gtvbench.bench.core.fusion import STUDY_FUSIONS
from gtvbench.bench.core.prompts import Prompts
from gtvbench.bench.core.structures import Structure
from gtvbench.bench.core.timing import Clock as Clock
from gtvbench.bench.core.timing import Recorder as Recorder

LabelMap = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Needs:
    """What a method needs, as data; the runner skips a mismatch with its reason before any work.

    `prompts`: kinds of prompt it takes (now: "box"), empty for a method that localises by itself. `modalities`: those
    without which it cannot run. `fusions`: those it runs with by default, empty for a method that does not look at
    images. `weights`: default name in the catalogue of
    `bench weights` or a path, None for a method without weights. `settings`: options that have no default.
    `several_gpus`: whether `fit` trains on as many devices as `Context.processes` says. `version` is part of the key of
    every result: raise it when results change.
    """

    trains: bool = False
    prompts: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    fusions: tuple[str, ...] = STUDY_FUSIONS
    weights: str | None = None
    settings: tuple[str, ...] = ()
    several_gpus: bool = False
    version: int = 1


class Options(BaseModel):
    """Options of a method in the study file (hyphenated there); an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    def planned_epochs(self) -> int | None:
        """Epochs that `fit` will record in all, for who watches it; None: unknown."""
        return getattr(self, "epochs", None)

    def cut(self) -> str | None:
        """How these options fall short of the method's protocol ("3 of 20 epochs"), shown as a banner; None: not."""
        return None


@dataclass(frozen=True)
class Context:
    """What the harness gives a method: its options and everything that it must not choose by itself.

    `device` is "cpu", "cuda" or "mps"; `seed` is derived from the study's seed and the arm's names; `weights` is a
    verified local file; `base` is the study file's folder, where relative paths in options start; `processes` is the
    number of devices that `fit` uses (cuda:0, cuda:1, ...; `parallel.together` starts a process for each), 1 unless
    `Needs.several_gpus`.
    """

    options: Any
    structures: tuple[Structure, ...]
    fusion: str
    modalities: tuple[str, ...]
    device: str
    seed: int
    weights: Path | None
    base: Path
    processes: int = 1


class Adapter(ABC):
    """A method. The harness calls its hooks in this order:

    =============  ==================================================  ========================================
    hook           when                                                time
    =============  ==================================================  ========================================
    skip           while the run is planned, before any work           not taken
    input_files    while the run is planned, for every test case       not taken
    fit            once, where `needs.trains`; again after a kill      between calls of `recorder`, and in all
    load           once in every process that predicts                 "load"
    predict        once with the first case, for nothing               "warmup"
    throughput     once after that, with the first case                "throughput"
    predict        for every test case, one after the other            "case", and its stages by `clock`
    =============  ==================================================  ========================================

    `fit` runs in a process of its own, and so do `load` and what follows it: nothing passes from one to the other but
    the files of `fit`. Random generators of Python, NumPy and torch (whenever it is imported) are seeded before both,
    and before each case by its name.
    """

    needs: ClassVar[Needs]
    Options: ClassVar[type[Options]] = Options

    def __init__(self, context: Context) -> None:
        self.context = context

    @classmethod
    def skip(cls, options: Any, cohort: CohortFacts) -> str | None:
        """Why the method cannot run, or None: a library that is missing here, a cohort that it does not suit.

        Under `all` the method is then skipped with this reason; where it was named, the reason is an error. Be quick.
        """
        return None

    @classmethod
    def input_files(cls, options: Any, base: Path, case: str) -> list[Path]:
        """Files, beside the prepared images, that the prediction of `case` is made from: where their content changes,
        it is predicted again. `base` is the folder of the study file."""
        return []

    def fit(
        self, training: Sequence[TrainingCase], validation: Sequence[TrainingCase], work: Path, recorder: Recorder
    ) -> dict[str, Any]:
        """Train, and leave in the folder `work` what `load` needs; return facts for the record (such as best_epoch).

        Called once, with the cases of both subsets, their images, reference and prompts read as they are asked for;
        `validation` may be empty. `recorder.ready()` ends the time of preparation, `recorder.epoch(...)` that of an
        epoch. Called again with the same `work` after a kill, it must go on from its last checkpoint.
        """
        raise BenchError(f"{type(self).__name__} declares that it trains, but has no fit()")

    def load(self, fit: Path | None) -> None:  # noqa: B027 - optional: a method without weights has nothing to load
        """Make ready to predict: read weights, build the network. `fit` is the folder that `fit` left, or None for a
        method that does not train. Timed as "load"."""

    def throughput(self, images: Images, prompts: Prompts, clock: Clock) -> None:  # noqa: B027 - optional
        """Do with the first case, as stage "throughput", what the method does faster for several slices at once."""

    @abstractmethod
    def predict(self, images: Images, prompts: Prompts, clock: Clock) -> LabelMap:
        """Label map (z, y, x), uint8, of one case. Timed as "case". `SliceMethod` and `VolumeMethod` implement it, with
        a stage of `clock` for each part."""


class VolumeMethod(Adapter):
    """A method that segments a whole volume at once."""

    @abstractmethod
    def segment(self, images: Images, prompts: Prompts) -> LabelMap:
        """Label map (z, y, x), uint8, on the grid of `images`; `prompts` is empty unless `needs.prompts` asks for them.

        Called once for every test case. Timed as the stage "segment".
        """

    def predict(self, images: Images, prompts: Prompts, clock: Clock) -> LabelMap:
        """Time `segment` as one stage."""
        with clock.measure("segment", boxes=len(prompts.boxes)):
            return self.segment(images, prompts)
