"""The split of *patients* into training, validation and test set; a patient in two of them is an error.

A cross-validation is a split whose test set is every patient, made of one split a fold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gtvbench.bench.core.digest import digest_json, generator_from
from gtvbench.bench.core.errors import StudyError

SUBSETS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Patients of each subset, sorted by name within it.

    `folds`, of a cross-validation: what trains, validates and tests in each fold. Every patient is tested in one of
    them, and is in `test` here; nobody is in `train` or `validation`.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    folds: tuple[Split, ...] = ()

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for subset in SUBSETS:
            for patient in getattr(self, subset):
                if patient in seen:
                    raise StudyError(
                        f"patient {patient!r} is in the {seen[patient]} set and in the {subset} set",
                        remedy="a patient belongs to one subset; remove it from the other",
                    )
                seen[patient] = subset

    @property
    def digest(self) -> str:
        """Identity of the split."""
        folds = {"folds": [fold.as_dict() for fold in self.folds]} if self.folds else {}
        return digest_json(self.as_dict() | folds)

    def as_dict(self) -> dict[str, list[str]]:
        """Subset -> its patients; JSON-serialisable."""
        return {subset: list(getattr(self, subset)) for subset in SUBSETS}

    @property
    def trainable(self) -> bool:
        """Whether there are patients to train on (in every fold)."""
        return all(fold.train for fold in self.folds) if self.folds else bool(self.train)

    def fold(self, number: int) -> Split:
        """A fold of a cross-validation, from 1; 0 is the split itself."""
        return self.folds[number - 1] if number else self

    def subset_of(self, patient: str) -> str | None:
        """Name of the patient's subset, or None where the split leaves it out."""
        return next((subset for subset in SUBSETS if patient in getattr(self, subset)), None)


def split_by_lists(patients: Iterable[str], lists: Mapping[str, Sequence[str]]) -> Split:
    """Split by lists of patient names; an unknown name is an error, an unlisted patient is left out."""
    known = set(patients)
    for subset, names in lists.items():
        missing = sorted(set(names) - known)
        if missing:
            raise StudyError(
                f"the {subset} list names patients that the data do not have: {', '.join(missing)}",
                remedy=f"the data have: {', '.join(sorted(known))}",
            )
        if len(set(names)) != len(names):
            raise StudyError(f"the {subset} list names a patient twice")
    train, validation, test = (tuple(sorted(lists.get(subset, ()))) for subset in SUBSETS)
    return Split(train, validation, test)


def split_by_counts(patients: Iterable[str], counts: Mapping[str, int], seed: int) -> Split:
    """Split by numbers of patients, at random from the seed; more than there are is an error, a rest is left out."""
    names = sorted(set(patients))
    wanted = sum(counts.get(subset, 0) for subset in SUBSETS)
    if wanted > len(names):
        raise StudyError(
            f"the split asks for {wanted} patients, the data have {len(names)}",
            remedy="ask for fewer, or use fractions",
        )
    order = [names[i] for i in generator_from(seed, "split").permutation(len(names))]
    parts, start = [], 0
    for subset in SUBSETS:
        count = counts.get(subset, 0)
        parts.append(tuple(sorted(order[start : start + count])))
        start += count
    train, validation, test = parts
    return Split(train, validation, test)


def split_by_fractions(patients: Iterable[str], fractions: Mapping[str, float], seed: int) -> Split:
    """Split by fractions that sum to 1; patients lost to rounding go to the largest remainder."""
    names = sorted(set(patients))
    shares = [float(fractions.get(subset, 0.0)) for subset in SUBSETS]
    if abs(sum(shares) - 1.0) > 1e-6 or min(shares) < 0:
        raise StudyError(f"the fractions of the split sum to {sum(shares):g}", remedy="let them sum to 1")
    exact = np.multiply(shares, len(names))
    counts = np.floor(exact + 1e-9).astype(int)
    for index in np.argsort(-(exact - counts), kind="stable")[: len(names) - int(counts.sum())]:
        counts[index] += 1
    empty = [s for s, share, count in zip(SUBSETS, shares, counts, strict=True) if share > 0 and count == 0]
    if empty:
        raise StudyError(
            f"{len(names)} patients are too few for the fractions: nobody is left for {', '.join(empty)}",
            remedy="use more patients or larger fractions",
        )
    return split_by_counts(names, dict(zip(SUBSETS, (int(c) for c in counts), strict=True)), seed)


def split_by_folds(patients: Iterable[str], folds: int, seed: int) -> Split:
    """Divide patients at random into equal parts; in each fold one part tests, the next validates, the rest trains."""
    names = sorted(set(patients))
    if len(names) < folds:
        raise StudyError(
            f"{len(names)} patients are too few for {folds} folds", remedy="use more patients, or fewer folds"
        )
    order = generator_from(seed, "split").permutation(len(names))
    parts = [tuple(sorted(names[i] for i in part)) for part in np.array_split(order, folds)]
    made = []
    for number, part in enumerate(parts):
        validation = parts[(number + 1) % folds]
        made.append(Split(tuple(n for n in names if n not in (*part, *validation)), validation, part))
    return Split((), (), tuple(names), tuple(made))


def read_nnunet_splits(path: Path, fold: int, patients: Iterable[str]) -> Split:
    """Read nnU-Net's `splits_final.json`: train and val of one fold; every other patient is the test set."""
    try:
        folds = json.loads(path.read_text())
        train, validation = folds[fold]["train"], folds[fold]["val"]
    except OSError as error:
        raise StudyError(f"the split file cannot be read: {error.strerror}", file=path) from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise StudyError(
            f"fold {fold} cannot be read from the split file",
            file=path,
            remedy="it must be nnU-Net's splits_final.json: a list of {'train': [...], 'val': [...]}",
        ) from error
    known = set(patients)
    test = sorted(known - set(train) - set(validation))
    return split_by_lists(known, {"train": train, "validation": validation, "test": test})
