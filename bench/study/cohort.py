"""The patients of a study: its source, who of them is in which subset, and which modalities they have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gtvbench.bench.core.errors import DataError, StudyError
from gtvbench.bench.core.split import (
    SUBSETS,
    Split,
    read_nnunet_splits,
    split_by_counts,
    split_by_folds,
    split_by_fractions,
    split_by_lists,
)
from gtvbench.bench.core.structures import Structure, structures_from
from gtvbench.bench.study import registry
from gtvbench.bench.study.file import NAME, Study, problems

_OF_A_SOURCE = ("Options", "description", "version", "synthetic", "entries", "modalities", "read", "findings")


@dataclass(frozen=True)
class Job:
    """What every process that reads patients does: `work` is "prepare" (publish in the run folder) or "check"."""

    work: str
    dataset: Mapping[str, Any]
    structures: Mapping[str, int]
    seed: int
    base: Path
    modalities: tuple[str, ...]
    run: Path | None = None


@dataclass(frozen=True)
class Cohort:
    """Source, cases in use (sorted by name), split, modalities and structures."""

    source: Any
    used: list[Any]
    split: Split
    modalities: tuple[str, ...]
    structures: tuple[Structure, ...]

    def cases(self, subset: str, fold: int = 0) -> list[str]:
        """Names of the cases of a subset, sorted; of one fold of a cross-validation, or (0) of the whole split."""
        split = self.split.fold(fold)
        return [entry.name for entry in self.used if split.subset_of(entry.patient) == subset]

    def job(self, work: str, study: Study, base: Path, run: Path | None = None) -> Job:
        """What the processes that read this cohort are told."""
        return Job(work, study.dataset, study.structures, study.seed, base, self.modalities, run)

    def used_subsets(self, fold: int = 0) -> dict[str, list[str]]:
        """Patients of each subset who have a case in use, sorted; of a fold, or (0) of the whole split."""
        used = {entry.patient for entry in self.used}
        return {s: [p for p in patients if p in used] for s, patients in self.split.fold(fold).as_dict().items()}

    def without(self, names: Collection[str]) -> Cohort:
        """The cohort with some cases left out; the split stays as it was planned."""
        return replace(self, used=[entry for entry in self.used if entry.name not in names])


def open_cohort(study: Study, base: Path) -> Cohort:
    """List the study's cases and split their patients, without reading voxels; raises StudyError or DataError."""
    structures = structures_from(study.structures)
    name = study.dataset["source"]
    source = open_source(study.dataset, base, structures, study.seed)
    entries = source.entries()
    if not entries:
        raise DataError(f"the dataset source {name!r} found no cases", remedy="check its path and patterns")
    for case, count in Counter(entry.name for entry in entries).items():
        if count > 1:
            raise DataError("two cases have this name", case=case)
        if not NAME.fullmatch(case):
            raise DataError("a case name may hold letters, digits, '.', '_' and '-' only", case=case)
    split = _split(study, base, [entry.patient for entry in entries])
    made_by = {"source": name, "version": source.version}
    used = sorted(
        (replace(e, identity=made_by | e.identity) for e in entries if split.subset_of(e.patient) is not None),
        key=lambda e: str(e.name),
    )
    if not split.test:
        raise StudyError("the split leaves no test patient", remedy="a comparison needs at least one")
    return Cohort(source, used, split, tuple(source.modalities()), structures)


def require_enough(planned: Cohort, left: Cohort, errors: list[str], stop: bool) -> None:
    """Raise DataError, listing the errors, where a study cannot go on with the cases left.

    That is where more than half of all cases are lost, or every case of a subset, or `stop` is asked for.
    """
    folds = range(1, len(planned.split.folds) + 1)
    empty = [s for s in SUBSETS if planned.cases(s) and not left.cases(s)]
    empty += [f"training (fold {fold})" for fold in folds if not left.cases("train", fold)]
    if not (stop or empty or 2 * len(errors) > len(planned.used)):
        return
    none = f", and none is left of the {' and '.join(empty)} set" if empty else ""
    raise DataError(
        f"{len(errors)} of {len(planned.used)} cases cannot be used{none}; nothing was trained or predicted\n"
        + "\n".join(errors),
        remedy="correct them, or leave them out of the split; what is prepared is kept",
    )


def open_source(dataset: dict[str, Any], base: Path, structures: tuple[Structure, ...], seed: int) -> Any:
    """The source that a study's `dataset` names; raises StudyError where its options make no sense."""
    name = dataset["source"]
    cls = registry.load(registry.SOURCES, name)
    lacking = [each for each in _OF_A_SOURCE if not hasattr(cls, each)]
    if lacking:
        raise StudyError(
            f"the dataset source {name!r} ({cls.__module__}.{cls.__qualname__}) has no {', '.join(lacking)}",
            remedy="the protocol Source in gtvbench/datasets/base.py says what a source has",
        )
    try:
        validated = cls.Options.model_validate({key: value for key, value in dataset.items() if key != "source"})
    except ValidationError as error:
        raise StudyError(
            f"dataset {name!r} has {problems(error, cls.Options)}", remedy="see 'bench list datasets'"
        ) from error
    return cls(validated, base, structures, seed)


def _split(study: Study, base: Path, patients: list[str]) -> Split:
    options = study.split
    lists, counts, fractions = (_plain(part) for part in (options.lists, options.counts, options.fractions))
    if lists is not None:
        return split_by_lists(patients, lists)
    if counts is not None:
        return split_by_counts(patients, counts, study.seed)
    if fractions is not None:
        return split_by_fractions(patients, fractions, study.seed)
    if options.folds is not None:
        return split_by_folds(patients, options.folds, study.seed)
    assert options.file is not None
    return read_nnunet_splits(base / options.file, options.fold, patients)


def _plain(part: Any) -> dict[str, Any] | None:
    return None if part is None else {str(subset): value for subset, value in part.items()}
