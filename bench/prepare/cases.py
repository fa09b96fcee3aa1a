"""The steps before any method: bring every case onto its grid, scale it, and draw its prompts once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.digest import digest_array, digest_json
from gtvbench.bench.core.errors import DataError, StoreError, why
from gtvbench.bench.core.fusion import MODALITIES, display_range, to_uint8
from gtvbench.bench.core.prompts import Policy, Prompts, draw_prompts
from gtvbench.bench.core.structures import Structure, check_labels
from gtvbench.bench.files.nifti import write_volume
from gtvbench.bench.files.store import Store, publish_file, publish_folder, step_key, write_atomically

PREPARE_VERSION = 2
PROMPTS_VERSION = 1


@dataclass(frozen=True)
class Prepared:
    """What later steps need to know of a prepared case."""

    case: str
    patient: str
    images_digest: str
    reference_digest: str
    meta: dict[str, Any]


def validate(case: SourceCase, modalities: tuple[str, ...], structures: tuple[Structure, ...]) -> None:
    """Raise DataError where a case cannot serve: a modality of the cohort missing, odd labels, no reference, NaN."""
    missing = [m for m in modalities if m not in case.images]
    if missing:
        raise DataError(
            f"the case has no {', '.join(missing)}, which other cases of the cohort have",
            case=case.name,
            remedy="supply it, leave the case out of the split, or leave the modality out of the study",
        )
    check_labels(case.label, structures, case.name, "reference label map")
    if not case.label.any():
        raise DataError(
            "the reference label map is empty: nothing is delineated",
            case=case.name,
            remedy="check the mask file and its label values, or leave the case out of the split",
        )
    for modality, volume in case.images.items():
        if not all(bool(np.isfinite(plane).all()) for plane in volume):
            raise DataError(f"the {modality} volume has NaN or infinite voxels", case=case.name)


def prepare_key(identity: dict[str, Any], modalities: tuple[str, ...], structures: tuple[Structure, ...]) -> str:
    """Content key of the prepare step of one case."""
    values = {s.name: s.value for s in structures}
    return step_key("prepare", PREPARE_VERSION, identity=identity, modalities=modalities, structures=values)


def publish_case(
    store: Store, key: str, case: SourceCase, modalities: tuple[str, ...], structures: tuple[Structure, ...]
) -> None:
    """Write one prepared case: raw float32 and scaled uint8 volumes, case.json, and the reference apart from them."""
    validate(case, modalities, structures)
    step = f"prepare/{case.name}"
    store.forget(step)
    final = store.case_folder(case.name)
    part = final.with_name(f".part-{case.name}")
    digests = {}
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for modality in modalities:
            volume = case.images[modality].astype("<f4", copy=False)
            low, high = display_range(modality, volume)
            # Uncompressed NIfTI: it can be memory-mapped, and linked to by methods that read files.
            write_volume(volume, case.grid, part / f"{modality}.nii")
            np.save(part / f"{modality}.uint8.npy", to_uint8(volume, low, high))
            digests[modality] = digest_array(volume)
        for modality, record in case.registrations.items():
            if record.transform is not None:
                (part / "registration").mkdir(exist_ok=True)
                (part / "registration" / f"{modality}.tfm").write_bytes(record.transform)
        label = np.ascontiguousarray(case.label, np.uint8)
        images_digest = digest_json({"grid": case.grid.as_dict(), "images": digests})
        meta = {
            "case": case.name,
            "patient": case.patient,
            "grid": case.grid.as_dict(),
            "original": case.original.as_dict(),
            "reorientation": {"axes": list(case.reorientation.axes), "flips": list(case.reorientation.flips)},
            "modalities": [m for m in MODALITIES if m in modalities],
            "coverage": {m: float(case.coverage.get(m, 1.0)) for m in modalities},
            "notes": list(case.notes),
            "registration": {modality: dict(record.facts) for modality, record in case.registrations.items()},
            "digest": images_digest,
        }
        (part / "case.json").write_text(json.dumps(meta, indent=1) + "\n")
    except StoreError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise StoreError(
            f"the run folder cannot be written: {why(error)}",
            file=final,
            case=case.name,
            remedy="free disk space or make the folder writable, then run again: finished steps are kept",
        ) from error
    publish_folder(part, final)
    publish_file(store.reference(case.name), lambda path: _save(path, label))
    outputs = [*sorted(path for path in final.rglob("*") if path.is_file()), store.reference(case.name)]
    for modality in case.images:
        store.before_registration(case.name, modality).unlink(missing_ok=True)
    for modality, record in case.registrations.items():
        if record.before:
            # Its planes run through the target: they must not lie where methods look for images.
            outputs.append(store.before_registration(case.name, modality))
            publish_file(outputs[-1], partial(_save_planes, planes=record.before))
    store.finish(step, key, outputs, {"images_digest": images_digest, "reference_digest": digest_array(label)})


def load_prepared(store: Store, key: str, case: str) -> Prepared | None:
    """The prepared case of a key, or None where it must be made."""
    record = store.record(f"prepare/{case}", key)
    if record is None:
        return None
    meta = json.loads((store.case_folder(case) / "case.json").read_text())
    return Prepared(case, meta["patient"], record["images_digest"], record["reference_digest"], meta)


def prompts_key(prepared: Prepared, policy: Policy, seed: int, minimum_area_mm2: float) -> str:
    """Content key of the prompts of one case."""
    return step_key(
        "prompts",
        PROMPTS_VERSION,
        reference=prepared.reference_digest,
        grid=prepared.meta["grid"],
        policy=[policy.low_mm, policy.high_mm],
        seed=seed,
        minimum=minimum_area_mm2,
    )


def prompts_of(
    store: Store,
    prepared: Prepared,
    structures: tuple[Structure, ...],
    policy: Policy,
    seed: int,
    minimum_area_mm2: float,
) -> Prompts:
    """The stored prompts of a case, drawn now where they are not there yet."""
    step, key = f"prompts/{prepared.case}", prompts_key(prepared, policy, seed, minimum_area_mm2)
    path = store.folder / "prompts" / f"{prepared.case}.json"
    if store.record(step, key) is not None:
        return Prompts.from_rows(prepared.case, json.loads(path.read_text()))
    store.forget(step)
    label = np.load(store.reference(prepared.case), mmap_mode="r")
    prompts = draw_prompts(
        prepared.case, label, prepared.meta["grid"]["spacing"], structures, policy, seed, minimum_area_mm2
    )
    write_atomically(path, json.dumps(prompts.rows()) + "\n")
    store.finish(step, key, [path], {"digest": prompts.digest})
    return prompts


def _save_planes(path: Path, planes: Mapping[str, np.ndarray[Any, Any]]) -> None:
    with path.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **planes)


def _save(path: Path, array: np.ndarray[Any, Any]) -> None:
    with path.open("wb") as stream:
        np.save(stream, array)
