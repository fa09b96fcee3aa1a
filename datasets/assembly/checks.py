"""Checks of cases and cohorts, from any source: what `bench check` reports before anything is computed.

Pure functions. A case is looked at once (`case_findings`, `facts_of`); what concerns the cohort as a whole needs only
the small `Facts` of its cases (`cohort_findings`), so volumes need not stay in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.digest import digest_array
from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.fusion import BACKGROUND
from gtvbench.bench.core.structures import Structure, check_labels

#: A face whose margin lies this close (mm, or a voxel where that is more) to the cohort's median counts as constant ...
MARGIN_TOLERANCE_MM = 3.0
#: ... where it does so in this share of the cases. A re-crop of 5 to 50 mm has about 0.15.
MARGIN_SHARE = 0.6
#: Constant faces, of six, from which the grid is said to give the reference away, and the cases needed to tell.
MARGIN_FACES = 3
MARGIN_CASES = 6
#: Largest over smallest spacing of an axis in the cohort that is worth a word.
SPACING_RATIO = 3.0
#: No PET in SUV reaches this; Bq/ml do.
SUV_LIMIT = 200.0

_FACES = ("bottom", "top", "front", "back", "right", "left")


@dataclass(frozen=True)
class Finding:
    """Something to tell the user: an error stops a run, a warning does not."""

    level: Literal["error", "warning"]
    message: str
    case: str | None = None
    remedy: str | None = None


@dataclass(frozen=True)
class Facts:
    """What the cohort's checks need of a case.

    `margins_mm`: from the reference's bounding box to the six faces of the grid (low and high end of z, y, x), None
    without a reference. `digests`: for each modality the digests of the whole volume and of its part in that box.
    """

    case: str
    patient: str
    spacing: tuple[float, float, float]
    margins_mm: tuple[float, ...] | None
    coverage: Mapping[str, float]
    digests: Mapping[str, tuple[str, ...]]


def facts_of(case: SourceCase) -> Facts:
    """Facts of a case; constant volumes get no digest, for they are equal by themselves."""
    box = _bounding_box(case.label)
    margins = None
    if box is not None:
        ends = zip(box, case.label.shape, case.grid.spacing, strict=True)
        margins = tuple(float(v) for s, n, step in ends for v in (s.start * step, (n - s.stop) * step))
    digests = {}
    for modality, volume in case.images.items():
        parts = [volume] if box is None else [volume, volume[box]]
        digests[modality] = tuple(digest_array(p) for p in parts if float(p.min()) < float(p.max()))
    coverage = {m: float(case.coverage.get(m, 1.0)) for m in case.images}
    return Facts(case.name, case.patient, case.grid.spacing, margins, coverage, digests)


def case_findings(
    case: SourceCase, structures: Sequence[Structure], modalities: Sequence[str] | None = None
) -> list[Finding]:
    """What is wrong with one case by itself.

    Errors: a modality of the cohort missing, label values that no structure has, nothing delineated, NaN or infinite
    voxels, shapes that differ. Warnings: a constant volume, values that are not HU or SUV.
    """
    found = []
    for modality in modalities or ():
        if modality not in case.images:
            found.append(
                Finding("error", f"the case has no {modality}, which other cases have", case.name,
                        "supply it, exclude the patient, or leave the modality out of the study")
            )  # fmt: skip
    try:
        check_labels(case.label, structures, case.name, "reference label map")
    except DataError as error:
        found.append(Finding("error", error.message, case.name, error.remedy))
    if not case.label.any():
        found.append(
            Finding("error", "the reference label map is empty: nothing is delineated", case.name,
                    "check the mask file and its label values, or exclude the patient")
        )  # fmt: skip
    shapes = {name: volume.shape for name, volume in case.images.items()}
    for name, shape in {**shapes, "reference label map": case.label.shape}.items():
        if shape != case.grid.shape:
            found.append(Finding("error", f"{name} has {shape} voxels, its grid {case.grid.shape}", case.name))
    for modality, volume in case.images.items():
        found += _value_findings(case.name, modality, volume)
    return found


def cohort_findings(facts: Iterable[Facts]) -> list[Finding]:
    """What is wrong with a cohort: leakage by duplicates, tell-tale margins, partial coverage, unequal spacings."""
    cases = sorted(facts, key=lambda f: f.case)
    partial = [Finding("warning", line) for line in partial_coverage({f.case: f.coverage for f in cases})]
    return [*_duplicates(cases), *_margins(cases), *partial, *_spacings(cases)]


def partial_coverage(coverage: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each modality whose field of view leaves a part of the grid uncovered, from the shares by case."""
    lines = []
    for modality in sorted({m for shares in coverage.values() for m in shares}):
        short = sorted((shares[modality], c) for c, shares in coverage.items() if shares.get(modality, 1.0) < 1.0)
        if not short:
            continue
        listed = ", ".join(f"{case} {_percent(share)}" for share, case in short[:5])
        more = f" and {len(short) - 5} more" if len(short) > 5 else ""
        lines.append(
            f"{modality} does not cover the whole grid in {len(short)} of {len(coverage)} cases: {listed}{more}; the "
            f"rest holds {BACKGROUND[modality]:g}"
        )
    return lines


def constant_faces(cases: Sequence[Facts]) -> list[int]:
    """Faces of the grid (0 to 5: low and high end of z, y, x) at a near-constant distance from the reference."""
    kept = [f for f in cases if f.margins_mm is not None]
    if len(kept) < MARGIN_CASES:
        return []
    margins = np.array([f.margins_mm for f in kept])
    steps = np.array([f.spacing for f in kept])
    near = np.abs(margins - np.median(margins, axis=0)) <= np.maximum(MARGIN_TOLERANCE_MM, np.repeat(steps, 2, axis=1))
    return [face for face in range(6) if near[:, face].mean() >= MARGIN_SHARE]


def _value_findings(case: str, modality: str, volume: npt.NDArray[np.float32]) -> list[Finding]:
    bad = sum(int(np.count_nonzero(~np.isfinite(plane))) for plane in volume)
    if bad:
        return [Finding("error", f"{bad} voxels of {modality} are NaN or infinite", case, "repair the file")]
    low, high = float(volume.min()), float(volume.max())
    if low == high:
        return [Finding("warning", f"{modality} has the value {low:g} everywhere", case, "check the file")]
    if modality == "CT" and (low >= 0 or high <= 2):
        return [Finding("warning", f"CT ranges from {low:g} to {high:g}, which is not HU", case,
                        "rescale it to HU: the CT window of the study is in HU")]  # fmt: skip
    if modality == "PET" and (low < -1 or high > SUV_LIMIT):
        return [Finding("warning", f"PET ranges from {low:g} to {high:g}, which is not SUV", case,
                        "convert it to SUV (body weight): it is clipped to SUV 0 to 6")]  # fmt: skip
    return []


def _duplicates(cases: Sequence[Facts]) -> list[Finding]:
    """Equal images under two names: leakage where the names fall into two subsets."""
    seen: dict[tuple[str, str], list[Facts]] = defaultdict(list)
    for fact in cases:
        for modality, digests in fact.digests.items():
            for digest in sorted(set(digests)):
                seen[modality, digest].append(fact)
    shared: dict[tuple[str, ...], set[str]] = defaultdict(set)
    patients: dict[tuple[str, ...], set[str]] = {}
    for (modality, _), facts in seen.items():
        if len(facts) > 1:
            names = tuple(f.case for f in facts)
            shared[names].add(modality)
            patients[names] = {f.patient for f in facts}
    found = []
    for names, modalities in sorted(shared.items()):
        listed = f"{', '.join(names)} have the same {' and '.join(sorted(modalities))}"
        if len(patients[names]) > 1:
            found.append(
                Finding("error", f"{listed}: one patient under several names leaks between subsets", names[0],
                        "remove the copies, or name the patient with 'patient-regex'")
            )  # fmt: skip
        else:
            found.append(Finding("warning", f"{listed}: one scan counts more than once", names[0]))
    return found


def _margins(cases: Sequence[Facts]) -> list[Finding]:
    faces = constant_faces(cases)
    if len(faces) < MARGIN_FACES:
        return []
    margins = np.array([f.margins_mm for f in cases if f.margins_mm is not None])
    named = ", ".join(f"{_FACES[face]} {np.median(margins[:, face]):.0f} mm" for face in faces)
    return [
        Finding(
            "warning",
            f"the images end at a near-constant distance from the reference ({named}): the grid alone gives the "
            "tumour away, and no unprompted method's localisation can be believed",
            remedy="use uncropped images, or the 'crop' option of the folders source (off-centre, seeded)",
        )
    ]


def _spacings(cases: Sequence[Facts]) -> list[Finding]:
    found = []
    for axis, name in enumerate("zyx"):
        order = sorted(cases, key=lambda f: f.spacing[axis])
        if order and order[-1].spacing[axis] > SPACING_RATIO * order[0].spacing[axis]:
            low, high = order[0], order[-1]
            found.append(
                Finding(
                    "warning",
                    f"spacing along {name} differs widely: {low.spacing[axis]:.3g} mm in {low.case}, "
                    f"{high.spacing[axis]:.3g} mm in {high.case}",
                    remedy="check the headers; methods that work on voxels see these patients at different scales",
                )
            )
    return found


def _bounding_box(label: npt.NDArray[np.uint8]) -> tuple[slice, ...] | None:
    if not label.any():
        return None
    filled = [np.flatnonzero(label.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple(slice(int(f[0]), int(f[-1]) + 1) for f in filled)


def _percent(share: float) -> str:
    """Never rounded up to the whole."""
    return f"{min(100 * share, 99.9):.0f} %" if share < 0.99 else f"{min(100 * share, 99.9):.1f} %"
