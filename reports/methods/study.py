"""Sentences of the methods text on patients, images and prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from gtvbench.bench.core.errors import StudyError
from gtvbench.bench.core.fusion import (
    BACKGROUND,
    CT_LEVEL_HU,
    CT_WIDTH_HU,
    FUSIONS,
    MR,
    MR_PERCENTILE,
    NO_FUSION,
    PET_RANGE_SUV,
    UNITS,
)
from gtvbench.bench.core.prompts import policy_from
from gtvbench.reports.analysis.scores import presence
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.sentences.citations import (
    DIGEST_DIGITS,
    LITEMEDSAM,
    active,
    cite,
    left_out_words,
    mapping,
    named,
    names,
    of_kinds,
    span,
)
from gtvbench.reports.text.numbers import counted, finite, listed

#: Sources that bring every modality to the grid of the reference image (datasets/resample.py).
_RESAMPLED = ("folders", "files", "nnunet-raw", "dicom")

_SUBSETS = {"train": "to train on", "validation": "for validation", "test": "to test"}


def patients(run: FinishedRun, wide: pd.DataFrame) -> list[str]:
    """Who was split how, and who of the test set has which structure."""
    version = run.provenance.get("gtvbench")
    harness = f"gtvbench {named(version)}" if version else "gtvbench"
    said = [f"Methods were compared with {harness}, which generalises the study of Ren et al.{cite('ren2024')}."]
    subsets = run.subsets
    total = sum(map(len, subsets.values()))
    if run.synthetic:
        said.append("The patients are synthetic: a procedure made images and reference.")
    if run.folds:
        said.append(f"{counted(total, 'patient')} {_folded(run)}{_way(run)}{_digest(run, 'split')}.")
    elif total:
        parts = listed([f"{len(subsets[key])} {words}" for key, words in _SUBSETS.items() if subsets[key]])
        said.append(f"{counted(total, 'patient')} were split by patient{_way(run)}: {parts}{_digest(run, 'split')}.")
    lost = left_out_words(run)
    if lost:
        said.append(f"A further {lost} could not be read and took no part.")
    names_of = listed([named(s) for s in run.structures])
    if names_of:
        found = [
            f"{named(structure)} in {present} of {counted(scored, 'test case')}"
            for structure, (present, scored) in presence(wide, run.structures).items()
            if scored
        ]
        text = f"Structures are {names_of}" if len(run.structures) > 1 else f"The structure is {names_of}"
        said.append(f"{text}; the reference of the test set has {listed(found)}." if found else f"{text}.")
    return said


def _folded(run: FinishedRun) -> str:
    """Cross-validation, as what was done with the patients."""
    sizes = [span([float(len(fold[subset])) for fold in run.folds]) for subset in _SUBSETS]
    train, validation, test = sizes
    return (
        f"were each tested once, in a cross-validation with {len(run.folds)} folds: in each, {test} were tested, "
        f"{validation} validated and the other {train} trained, so that no arm was tested on who trained it; folds "
        "were drawn by patient"
    )


def _way(run: FinishedRun) -> str:
    split = mapping(run.study.get("split"))
    if "counts" in split or "fractions" in split or "folds" in split:
        seed = run.study.get("seed")
        return " at random" + (f" (seed {named(seed)})" if seed is not None else "")
    if "lists" in split:
        return " as listed in the study file"
    if "file" in split:
        return f" as in a split file of nnU-Net (fold {named(split.get('fold', 0))})"
    return ""


def _digest(run: FinishedRun, what: str) -> str:
    digest = mapping(run.provenance.get("digests")).get(what)
    return f" (digest {named(digest)[:DIGEST_DIGITS]})" if digest else ""


def images(run: FinishedRun) -> list[str]:
    """Modalities, grids, coverage, scaling and fusion, as far as an arm used them."""
    modalities = [str(m) for m in run.provenance.get("modalities") or ()]
    if not modalities:
        return []
    dataset = mapping(run.study.get("dataset"))
    source = str(dataset.get("source") or "")
    reference = named(dataset.get("reference-modality") or "CT")
    said = [f"Each case has {listed([named(m) for m in modalities])}{_digest(run, 'data')}."]
    if source in _RESAMPLED:
        said.append(
            f"What does not lie on the grid of the {reference} was resampled to it with SimpleITK"
            f"{cite('lowekamp2013')}: images linearly, smoothed before along axes where the {reference} is coarser by "
            "more than a quarter, label maps by nearest neighbour."
        )
    said += _registration(run, dataset) + _grids(run) + _coverage(run) + _crop(dataset)
    if any(arm.fusion != NO_FUSION for arm in of_kinds(run, LITEMEDSAM)):
        said += _scaling(modalities)
    return said + _fusions(run, modalities)


def _registration(run: FinishedRun, dataset: Mapping[str, Any]) -> list[str]:
    """How modalities were registered, and how many were; nothing where headers were trusted."""
    facts = [
        (str(modality), mapping(record))
        for of_case in mapping(run.provenance.get("registration")).values()
        for modality, record in mapping(of_case).items()
    ]
    registered = [(modality, record) for modality, record in facts if record.get("status") == "registered"]
    done = [record for _, record in registered]
    if not done:
        return []
    by = "mutual information" + cite("mattes2003")
    if any(record.get("by") == "structure" for record in done):
        by = f"descriptors of local structure{cite('heinrich2013')}"
    deformed = sum("bspline" in (record.get("stages") or ()) for record in done)
    spacing = mapping(dataset.get("registration")).get("control-point-mm", 50)
    modalities = listed(list(dict.fromkeys(named(modality) for modality, _ in registered)))
    text = f"{modalities} images were registered to the reference image by {by}"
    text += ", rigidly"
    if deformed:
        text += f" and then with a cubic B-spline{cite('rueckert1999')} (control points {named(spacing)} mm apart)"
    text += f"; a stage was kept where mutual information{cite('mattes2003')} rose and the overlap stayed. "
    said = f"That was so for {counted(len(done), 'image')} of {len(facts)}"
    if deformed and deformed < len(done):
        said += f", with the B-spline for {deformed}"
    trusted = sum(record.get("status") == "shared frame of reference" for _, record in facts)
    if trusted:
        said += f"; {trusted} shared the frame of reference and were left as they were"
    failed = len(facts) - len(done) - trusted
    if failed:
        said += f"; for {failed} it failed, and headers were trusted"
    return [text + said + "."]


def _grids(run: FinishedRun) -> list[str]:
    grids = [mapping(grid) for grid in mapping(run.provenance.get("grid")).values()]
    grids = [grid for grid in grids if grid.get("shape") and grid.get("spacing")]
    if not grids:
        return []
    slices = span([grid["shape"][0] for grid in grids])
    thickness = span([grid["spacing"][0] for grid in grids])
    pixels = span([side for grid in grids for side in grid["spacing"][1:]])
    return [f"The grids have {slices} slices {thickness} mm apart, with pixels of {pixels} mm."]


def _coverage(run: FinishedRun) -> list[str]:
    shares = {
        (str(case), str(modality)): float(share)
        for case, of_case in mapping(run.provenance.get("coverage")).items()
        for modality, share in mapping(of_case).items()
        if finite(share) and share < 0.9995
    }
    if not shares:
        return []
    (_, modality), least = min(shares.items(), key=lambda item: item[1])
    partial = list(dict.fromkeys(m for _, m in shares))
    values = listed([f"{BACKGROUND[m]:g} {UNITS[m]} ({m})".replace("-", "\u2212") for m in partial if m in BACKGROUND])
    outside = f"; outside it is {values}" if values else ""
    return [
        f"In {counted(len({case for case, _ in shares}), 'case')} the field of view of "
        f"{listed([named(m) for m in partial])} covers only part of the grid, at least {100 * least:.0f} % "
        f"({named(modality)}){outside}."
    ]


def _crop(dataset: Mapping[str, Any]) -> list[str]:
    margin = mapping(dataset.get("crop")).get("margin-mm")
    if not isinstance(margin, list | tuple) or len(margin) != 2:
        return []
    return [
        f"Images were cropped anew: each face lies, drawn at random, {margin[0]:g} to {margin[1]:g} mm beyond the "
        "reference."
    ]


def _scaling(modalities: list[str]) -> list[str]:
    parts = []
    if "CT" in modalities:
        parts.append(f"CT windowed (level {CT_LEVEL_HU:g}, width {CT_WIDTH_HU:g} HU)")
    if "PET" in modalities:
        parts.append(f"PET clipped to SUV {PET_RANGE_SUV[0]:g} to {PET_RANGE_SUV[1]:g}")
    mr = [m for m in MR if m in modalities]
    if mr:
        each = "each clipped" if len(mr) > 1 else "clipped"
        parts.append(f"{listed(mr)} {each} between 0 and the {MR_PERCENTILE}th percentile of its voxels above 0")
    if not parts:
        return []
    return [f"For LiteMedSAM, intensities were scaled to 0 to 255 in each volume: {listed(parts)}{cite('ren2024')}."]


def _fusions(run: FinishedRun, modalities: list[str]) -> list[str]:
    used = [name for name in FUSIONS if any(arm.fusion == name for arm in active(run))]
    said = []
    for name in used:
        channels = [listed(names) for names in FUSIONS[name].present(modalities)]
        channels = [f"the mean of {c}" if " and " in c else c for c in channels]
        if not any(arm.fusion == name for arm in of_kinds(run, LITEMEDSAM)):
            continue
        if len(set(channels)) == 1:
            said.append(f"In {name} images all three colour channels are {channels[0]}.")
            continue
        red, green, blue = channels
        said.append(f"In {name} images the red channel is {red}, the green {green} and the blue {blue}.")
    return said


def prompts(run: FinishedRun) -> list[str]:
    """How boxes were drawn, how many, and who got them."""
    prompted = [arm for arm in active(run) if arm.box_prompted]
    if not prompted:
        return []
    options = mapping(run.study.get("prompts"))
    said = [
        "An instance is an 8-connected component of a structure's reference in one slice. Its prompt is "
        f"{_box(options.get('policy'))}."
    ]
    said.append(
        "Boxes were drawn from the reference once, from a seed made of the study's seed and the names of case, slice, "
        f"structure and instance, stored{_digest(run, 'prompts')}, and given unchanged to every arm that takes a "
        f"prompt: {names(prompted)}."
    )
    minimum = options.get("minimum-area-mm2")
    if isinstance(minimum, int | float) and minimum > 0:
        said.append(f"Instances below {minimum:g} mm² got none, but count in every score.")
    if run.prompts is not None:
        own = run.prompts[run.prompts["case"].astype(str).isin(set(run.scores["case"]))]
        slices = len(own[["case", "slice"]].drop_duplicates())
        if len(own):
            said.append(f"The test set has {counted(len(own), 'box', 'boxes')} in {counted(slices, 'slice')}.")
    return said


def _box(policy: object) -> str:
    """A prompt policy in words."""
    if policy is None:
        return "a box around it"
    try:
        read = policy_from(str(policy))
    except StudyError:
        return f"a box by the policy {named(policy)}"
    if read.high_mm == 0:
        return "its tight bounding box"
    if read.low_mm == read.high_mm:
        margin = f"a margin of {read.low_mm:g} mm on each side"
    else:
        margin = (
            "a margin on each side that is drawn independently and uniformly between "
            f"{read.low_mm:g} and {read.high_mm:g} mm"
        )
    return f"its tight bounding box with {margin}, rounded to whole voxels and clipped to the image"


def not_recorded(run: FinishedRun) -> list[str]:
    """What the authors must add, because no run folder holds it."""
    if run.synthetic:
        return []
    registration = "" if _registration(run, {}) else "registration of the modalities, "
    return [
        "Authors must add what the run does not record: where the patients come from and how they were chosen, "
        f"scanners and protocols, {registration}who drew the reference and by which guideline, and the ethics approval."
    ]
