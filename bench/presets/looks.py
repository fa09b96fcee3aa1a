"""Looks at layouts that patterns do not tell: nnU-Net's raw layout, MedSAM's npz files, BIDS-like trees."""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gtvbench.bench.core.errors import DataError, StudyError
from gtvbench.bench.core.fusion import MODALITIES, MR
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.presets.bids import look_for_bids
from gtvbench.bench.presets.description import Found, Preset, exclude_text, safe_name, yaml_flow, yaml_list
from gtvbench.bench.presets.layouts import look_for_layouts
from gtvbench.datasets.assembly.patterns import listed
from gtvbench.datasets.sources.medsam_npz import modality_of, read_arrays
from gtvbench.datasets.sources.nnunet_raw import NnunetRaw, NnunetRawOptions

#: Files of MedSAM whose label values are read to name the structures.
FILES_LOOKED_AT = 20


def look_for_nnunet(known: Preset, path: Path, variant: str | None) -> Found:
    """Structures, channels and the test set of a DatasetXXX_Name folder; raises DataError."""
    root = next((p for p in (path, *sorted(path.glob("Dataset*"))) if (p / "dataset.json").is_file()), None)
    if root is None:
        raise DataError("no dataset.json is here", file=path, remedy=known.expected())
    labels, ignored = _labels(root / "dataset.json", known)
    structures = {name: value for value, name in labels.items()}
    options = NnunetRawOptions(path=str(root), labels=labels, ignore=ignored)
    source = NnunetRaw(options, Path(), structures_from(structures), 0)
    modalities = source.modalities()
    reference = "CT" if "CT" in modalities else modalities[0] if modalities else "CT"
    cases = [entry.name for entry in source.entries()]
    suffix = str(json.loads((root / "dataset.json").read_text(encoding="utf-8")).get("file_ending", ".nii.gz"))
    labelled = {
        part: [c for c in cases if (root / f"labels{part}" / f"{c}{suffix}").is_file()] for part in ("Tr", "Ts")
    }
    whole = [*labelled["Tr"], *labelled["Ts"]]
    if not whole or not modalities:
        raise DataError(
            f"{len(cases)} cases have images of {', '.join(modalities) or 'no modality'}, {len(whole)} a label map",
            file=root,
            remedy=known.expected(),
        )
    lines = [f"{len(whole)} of {len(cases)} cases with a label map; images: {', '.join(modalities)}"]
    if len(whole) < len(cases):
        lines.append(f"left out, no label map: {listed(sorted(set(cases) - set(whole)))}")
    if ignored:
        lines.append(f"the value {ignored[0]} is dataset.json's 'ignore' and counts as background")
    dataset = ["source: nnunet-raw", "path: ${path}${exclude}", f"labels: {yaml_flow(labels)}"]
    dataset += [f"ignore: {list(ignored)}"] if ignored else []
    dataset += [f"reference-modality: {reference}"] if reference != "CT" else []
    parts = {"train": labelled["Tr"], "test": labelled["Ts"]} if labelled["Ts"] else {"": whole}
    return Found(
        root,
        "\n".join(dataset),
        yaml_flow(structures),
        parts,
        tuple(lines),
        exclude_text(sorted(set(cases) - set(whole))),
    )


def look_for_npz(known: Preset, path: Path, variant: str | None) -> Found:
    """The npz files of one modality, the most common of the folder; raises DataError."""
    root, paths = _npz_files(path)
    if not paths:
        raise DataError("no npz file is here", file=path, remedy=known.expected())
    kinds = Counter(_kind(p.stem) for p in paths)
    kind = max(kinds, key=lambda name: (kinds[name], -list(kinds).index(name)))
    if not kind:
        raise DataError(
            f"the names of the files do not tell the modality: {listed(p.name for p in paths)}",
            file=root,
            remedy="write the study file by hand: source medsam-npz with 'modality'. " + known.expected(),
        )
    taken = [p for p in paths if _kind(p.stem) == kind]
    whole = [p for p in taken if _has_masks(p)]
    if not whole:
        raise DataError(
            f"none of {len(taken)} files has imgs and gts (validation files have boxes in the place of gts)",
            file=root,
            remedy=known.expected(),
        )
    lines = [f"{len(whole)} of {len(taken)} {kind} files with imgs and gts"]
    if len(taken) < len(paths):
        rest = ", ".join(f"{count} {name or 'of no modality told'}" for name, count in kinds.items() if name != kind)
        lines.append(f"left aside, a study of npz files has one modality: {rest}")
    gone = sorted({p.stem for p in taken} - {p.stem for p in whole})
    if gone:
        lines.append(f"left out, no gts: {listed(gone)}")
    modality = kind if kind in MODALITIES else MR[0]
    if kind not in MODALITIES:
        lines.append(f"the names tell MR without its weighting: {modality} stands for it")
    structures, meaning = _npz_structures(whole, variant)
    deeper = "**/" if any(p.parent != root for p in taken) else ""
    patterns = sorted({f"{deeper}{_prefix(p.stem)}*.npz" for p in taken}) if len(taken) < len(paths) else []
    dataset = ["source: medsam-npz", "path: ${path}${exclude}"]
    if patterns or deeper:
        dataset.append(f"files: {yaml_list(patterns or [deeper + '*.npz'])}")
    dataset += [f"modality: {modality}", *meaning]
    return Found(root, "\n".join(dataset), structures, {"": [p.stem for p in whole]}, tuple(lines), exclude_text(gone))


def _npz_files(path: Path) -> tuple[Path, list[Path]]:
    for pattern in ("*.npz", "**/*.npz"):
        paths = sorted(p for p in path.glob(pattern) if p.is_file())
        if paths:
            return path, paths
    return path, []


def _kind(name: str) -> str:
    """The modality that a name tells, `MR` for one whose weighting it does not, or nothing."""
    return modality_of(name) or ("MR" if _MR.search(name) else "")


_MR = re.compile(r"(?:^|[_\-. ])(?:mr|mri)(?=[_\-. ])", re.IGNORECASE)
_TOLD = re.compile(r"^.*?(?:^|[_\-. ])(?:ct|cect|pet|pt|mr|mri)(?=[_\-. ])", re.IGNORECASE)


def _prefix(name: str) -> str:
    """The beginning of a name, up to the modality."""
    match = _TOLD.match(name)
    return match.group() + name[match.end()] if match else name


def _has_masks(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return {"imgs.npy", "gts.npy"} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _npz_structures(paths: Sequence[Path], variant: str | None) -> tuple[str, list[str]]:
    """`structures` of the study, and what the source is told of label values."""
    if variant != "labels":
        return "{Target: 1}", ["structure: Target      # every value above 0"]
    values: set[int] = set()
    for path in paths[:FILES_LOOKED_AT]:
        label = read_arrays(path, ("gts",), path.stem)["gts"]
        values |= {int(value) for value in np.unique(label)} - {0}
    if not values:
        raise DataError("no label value is above 0", file=paths[0].parent, remedy="choose the variant 'target'")
    labels = {value: f"label-{value}" for value in sorted(values)}
    return yaml_flow({name: value for value, name in labels.items()}), [f"labels: {yaml_flow(labels)}"]


def _labels(path: Path, known: Preset) -> tuple[dict[int, str], tuple[int, ...]]:
    """Structures of dataset.json by value, and the value of nnU-Net's 'ignore'."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        given: Mapping[str, Any] = record["labels"]
        pairs = [(int(k), str(v)) if str(k).isdigit() else (v, str(k)) for k, v in given.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError("dataset.json has no labels that can be read", file=path, remedy=known.expected()) from error
    if any(not isinstance(value, int) for value, _ in pairs):
        raise DataError(
            "dataset.json has regions (labels made of several values)",
            file=path,
            remedy="write the study file by hand: source nnunet-raw, 'labels: {value: structure}' for single values",
        )
    labels = {value: safe_name(name) for value, name in pairs if value != 0 and name != "ignore"}
    if not labels or len(set(labels.values())) < len(labels):
        raise StudyError("dataset.json names no structure, or two alike", file=path, remedy="repair its 'labels'")
    return labels, tuple(value for value, name in pairs if name == "ignore")


LOOKS: Mapping[str, Callable[[Preset, Path, str | None], Found]] = {
    "layouts": look_for_layouts,
    "nnunet-raw": look_for_nnunet,
    "medsam-npz": look_for_npz,
    "bids": look_for_bids,
}
