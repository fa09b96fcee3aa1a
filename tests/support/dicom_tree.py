"""Cases written as the DICOM folder that an archive exports: names without meaning, decoys among the files.

    python tests/support/dicom_tree.py FOLDER [--patients 8]

writes made-up patients to try `bench scan` on (docs/tutorial.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
from dicom_patient import Person, SeriesKind, Study, ct_kind, general, mr_kind, pet_kind, series
from dicom_structures import segmentation, structure_set
from dicom_writer import save
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.geometry import Volume
from gtvbench.bench.core.structures import structures_from
from gtvbench.datasets.phantom.source import Phantom, PhantomOptions

CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@dataclass(frozen=True)
class Written:
    """A patient in the tree: who it is, and the volumes by modality as the files hold them (PET in SUV)."""

    person: Person
    volumes: Mapping[str, Volume]


def write_tree(
    folder: Path,
    cases: Sequence[SourceCase],
    names: Mapping[int, str],
    carriers: Sequence[str] | Mapping[str, Sequence[str]] = ("RTSTRUCT",),
    decoys: bool = True,
    seed: int = 0,
) -> dict[str, Written]:
    """Write cases (canonical grids) below `folder`; `names` are the regions' names by label value. By case's name.

    `carriers`: RTSTRUCT, SEG or both, for all cases or by case's name.
    Decoys: a localizer, an older study with a CT of its own, another kernel's reconstruction, a PET without attenuation
    correction, a projection, a secondary capture, a dose object, a file cut short, a text file and a DICOMDIR.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    found, datasets = {}, []
    for case in cases:
        person = Person.draw(rng, f"{seed} {case.name}")
        carried = carriers[case.name] if isinstance(carriers, Mapping) else carriers
        made, volumes = _patient(person, case, names, carried)
        datasets += made
        if decoys:
            datasets += list(_decoys(person, case))
        found[case.name] = Written(person, volumes)
    for number, place in enumerate(rng.permutation(len(datasets)).tolist()):
        ds, syntax = datasets[place]
        where = folder / f"{number % 3}"
        where.mkdir(exist_ok=True)
        save(ds, where / f"IM{number:06d}", syntax)
    if decoys:
        whole = (folder / "0" / "IM000000").read_bytes()
        (folder / "cut").mkdir()
        (folder / "cut" / "IM999999").write_bytes(whole[: whole.index(b"Lindenallee") + 5])
        (folder / "read me.txt").write_text("exported for the study")
        (folder / "DICOMDIR").write_bytes(whole)
        (folder / ".DS_Store").write_bytes(whole)
    return found


def _patient(
    person: Person, case: SourceCase, names: Mapping[int, str], carriers: Sequence[str]
) -> tuple[list[tuple[Dataset, str]], dict[str, Volume]]:
    frame = person.uid("frame")
    planning = Study("planning", person.scanned, "PET-CT Radiotherapy planning Quellbrunn")
    kinds = {"CT": ct_kind(frame), "PET": pet_kind(frame), "T1w": mr_kind("T1w", frame), "T2w": mr_kind("T2w", frame)}
    made: list[tuple[Dataset, str]] = []
    volumes, images = {}, {}
    for modality, array in case.images.items():
        scale = person.suv_a_bqml if modality == "PET" else 1.0
        slices, held = series(person, planning, kinds[modality], Volume(array / np.float32(scale), case.grid))
        made += [(ds, kinds[modality].syntax) for ds in slices]
        images[modality] = slices
        volumes[modality] = Volume(held.array * np.float32(scale), case.grid)
    masks = {name: case.label == value for value, name in names.items()}
    masks["Spinal Cord"] = np.roll(case.label > 0, 3, axis=1)
    if "RTSTRUCT" in carriers:
        made.append((structure_set(person, planning, 20, images["CT"], case.grid, masks), ExplicitVRLittleEndian))
    if "SEG" in carriers:
        made.append((segmentation(person, planning, 21, images["CT"], masks), ExplicitVRLittleEndian))
    return made, volumes


def _decoys(person: Person, case: SourceCase) -> Iterator[tuple[Dataset, str]]:
    frame = person.uid("frame")
    planning = Study("planning", person.scanned, "PET-CT Radiotherapy planning Quellbrunn")
    older = Study("older", person.scanned - timedelta(days=77), "CT thorax Quellbrunn")
    ct = Volume(case.images["CT"], case.grid)
    lung = replace(ct_kind(frame), number=3, description="HN 1.0 B70f")
    scout = replace(
        ct_kind(frame), number=1, description="Topogram", tags={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    )
    nac = replace(pet_kind(frame), number=6, description="PET HN NAC", tags={"CorrectedImage": ["DECY", "RAN"]})
    mip = replace(pet_kind(frame), number=9, description="PET MIP", tags={"ImageType": ["DERIVED", "SECONDARY", "MIP"]})
    planned: list[tuple[Study, SeriesKind, Volume]] = [
        (planning, lung, ct),
        (planning, scout, ct),
        (older, ct_kind(person.uid("older frame")), ct),
    ]
    if "PET" in case.images:
        pet = Volume(case.images["PET"] / np.float32(person.suv_a_bqml), case.grid)
        planned += [(planning, nac, pet), (planning, mip, pet)]
    for study, kind, volume in planned:
        slices, _ = series(person, study, kind, volume)
        kept = slices[:2] if "LOCALIZER" in kind.tags.get("ImageType", ()) else slices
        yield from ((ds, kind.syntax) for ds in kept)
    for number, modality in ((30, "OT"), (31, "RTDOSE")):
        ds = general(person, planning, CAPTURE, modality, number, "Screen")
        ds.SOPInstanceUID = person.uid("other", number)
        yield ds, ExplicitVRLittleEndian


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write made-up patients as a DICOM export.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--patients", type=int, default=8)
    chosen = parser.parse_args()
    made = PhantomOptions(patients=chosen.patients, shape=(12, 64, 64), spacing=(8.0, 3.0, 3.0))
    source = Phantom(made, Path(), structures_from({"GTV-T": 1, "GTV-N": 2}), 0)
    write_tree(chosen.folder, [source.read(entry) for entry in source.entries()], {1: "GTVp", 2: "GTVn"})
