"""What lies in a folder: every DICOM file by its header, grouped into patients, stacks of slices and structure sets.

File names and folders tell nothing here. Headers that were read once are remembered in a cache file, which holds names
and numbers of patients and so belongs into a private folder.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from gtvbench.bench.core.errors import DataError
from gtvbench.bench.files.store import write_atomically
from gtvbench.datasets.dicom.headers.facts import CARRIERS, FACTS_VERSION, Facts, facts_of, short_id
from gtvbench.datasets.dicom.headers.tags import read_header

#: Modalities that are images; the rest (dose, plans, reports) is listed and left alone.
IMAGES = ("CT", "PT", "MR")

#: Direction cosines and echo times (ms) of one stack agree to this.
_TURN, _ECHO_MS = 0.01, 0.5
#: A file that DICOM viewers make of a disk; no image.
_DIRECTORY = "DICOMDIR"
_NOT_DICOM, _UNREADABLE = -1, -2


@dataclass(frozen=True)
class FileRow:
    """A file: path below the root, [size, modification time in ns], digest of its instance UID, position (mm)."""

    path: str
    stamp: tuple[int, int]
    instance: str = ""
    position: tuple[float, ...] = ()


@dataclass(frozen=True)
class Stack:
    """Files of one series that share size, orientation, image type and echo: a volume, where they are regular.

    Most series are one stack; a localizer of three planes is three.
    """

    facts: Facts
    files: tuple[FileRow, ...]
    #: How many files of the same series are in other stacks.
    others: int = 0

    @property
    def id(self) -> str:
        """Short name of the series in study files and messages."""
        return short_id(self.facts.series)

    @cached_property
    def gap(self) -> float | None:
        """Distance between slices in mm (median), None where positions do not tell."""
        if len(self.facts.orientation) != 6 or any(len(row.position) != 3 for row in self.files) or len(self.files) < 2:
            return None
        normal = np.cross(self.facts.orientation[:3], self.facts.orientation[3:])
        steps = np.diff(np.sort([float(np.dot(normal, row.position)) for row in self.files]))
        steps = steps[steps > 1e-3]
        return float(np.median(steps)) if steps.size else None

    @property
    def no_volume(self) -> str | None:
        """Why these files are no volume, or None where they may be one."""
        if self.facts.frames > 1:
            return "multi-frame object: convert it to single-frame files"
        if "LOCALIZER" in self.facts.image_type:
            return "localizer"
        if len(self.files) < 2:
            return "one image"
        return "slices without position or at one place" if self.gap is None else None


@dataclass(frozen=True)
class StructureFile:
    """An RTSTRUCT or SEG file."""

    facts: Facts
    file: FileRow

    @property
    def id(self) -> str:
        """Short name in study files and messages; of the file, since several share a series."""
        return short_id(self.file.instance or self.file.path)


@dataclass(frozen=True)
class Patient:
    """A patient of the folder, by PatientID: stacks of slices, structure sets, and other objects by modality."""

    id: str
    stacks: tuple[Stack, ...]
    structures: tuple[StructureFile, ...]
    other: Mapping[str, int] = field(default_factory=dict)
    #: Files that are there twice (the same instance), of which one counts.
    copies: int = 0

    @property
    def facts(self) -> Iterator[Facts]:
        """Facts of everything of the patient that can be used."""
        yield from (stack.facts for stack in self.stacks)
        yield from (item.facts for item in self.structures)

    @property
    def studies(self) -> tuple[str, ...]:
        """UIDs of the studies, in the order of their dates."""
        dated = {facts.study: facts.study_date for facts in self.facts}
        return tuple(sorted(dated, key=lambda uid: (dated[uid], uid)))


@dataclass(frozen=True)
class Index:
    """A folder as it was found: `patients` by PatientID, and what is no DICOM or cannot be read (paths below it)."""

    root: Path
    patients: Mapping[str, Patient]
    files: int
    not_dicom: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()

    def path(self, row: FileRow) -> Path:
        """The file of a row."""
        return self.root / row.path


def build_index(root: Path, cache: Path | None = None, advance: Callable[[int, int], None] | None = None) -> Index:
    """Read the headers of all files below a folder; those that the cache knows, unchanged, are not read again.

    `advance(done, of)` is called now and then. Raises DataError where the folder is not there, or holds no DICOM.
    """
    if not root.is_dir():
        raise DataError("the DICOM folder does not exist", file=root, remedy="check 'path'")
    known_facts, known = _read_cache(cache, root)
    facts: list[Facts] = []
    numbers: dict[Facts, int] = {}
    rows: list[tuple[FileRow, int]] = []
    found = list(_walk(root))
    fresh = 0
    for done, (path, stamp) in enumerate(found):
        if advance is not None and done % 100 == 0:
            advance(done, len(found))
        old = known.get(path)
        if old is not None and old[0].stamp == stamp:
            row, kind, fact = old[0], old[1], known_facts[old[1]] if old[1] >= 0 else None
        else:
            row, kind, fact = _look(root, path, stamp)
            fresh += 1
        if fact is not None:
            kind = numbers.setdefault(fact, len(facts))
            if kind == len(facts):
                facts.append(fact)
        rows.append((row, kind))
    if advance is not None:
        advance(len(found), len(found))
    if cache is not None and (fresh or len(known) != len(rows)):
        _write_cache(cache, root, facts, rows)
    index = _grouped(root, facts, rows)
    if not index.patients:
        raise DataError(
            f"the folder holds no DICOM image or structure set ({len(rows)} files)",
            file=root,
            remedy="check 'path': give the folder above the exported files",
        )
    return index


def _walk(root: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Files below the root, sorted, hidden ones left out; links are followed, each folder once."""
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        state = Path(folder).stat()
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or name.upper() == _DIRECTORY:
                continue
            path = Path(folder, name)
            try:
                state = path.stat()
            except OSError:
                continue  # a link to nothing
            yield path.relative_to(root).as_posix(), (state.st_size, state.st_mtime_ns)


def _look(root: Path, path: str, stamp: tuple[int, int]) -> tuple[FileRow, int, Facts | None]:
    try:
        header = read_header(root / path)
    except DataError:
        return FileRow(path, stamp), _UNREADABLE if _claims_dicom(root / path) else _NOT_DICOM, None
    found = facts_of(header)
    return FileRow(path, stamp, found.instance, found.position), 0, found.facts


def _claims_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return True


def _grouped(root: Path, facts: Sequence[Facts], rows: Sequence[tuple[FileRow, int]]) -> Index:
    slices: dict[str, list[tuple[Facts, FileRow]]] = defaultdict(list)
    structures: dict[str, list[StructureFile]] = defaultdict(list)
    other: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    copies: dict[str, int] = defaultdict(int)
    seen: set[str] = set()
    for row, kind in rows:
        if kind < 0:
            continue
        fact = facts[kind]
        # Without a number the study is the best that tells one patient from another.
        patient = fact.patient or f"study {fact.study}"
        if row.instance and row.instance in seen:
            copies[patient] += 1
            continue
        seen.add(row.instance)
        if fact.modality in IMAGES and fact.rows:
            slices[patient].append((fact, row))
        elif fact.modality in CARRIERS:
            structures[patient].append(StructureFile(fact, row))
        else:
            other[patient][fact.modality or "unknown"] += 1
    patients = {
        name: Patient(name, _stacks(slices[name]), tuple(structures[name]), dict(other[name]), copies[name])
        for name in sorted({*slices, *structures})
    }
    return Index(
        root,
        patients,
        len(rows),
        tuple(row.path for row, kind in rows if kind == _NOT_DICOM),
        tuple(row.path for row, kind in rows if kind == _UNREADABLE),
    )


def _stacks(slices: Sequence[tuple[Facts, FileRow]]) -> tuple[Stack, ...]:
    groups: list[tuple[Facts, list[FileRow]]] = []
    by_series: dict[str, list[tuple[Facts, list[FileRow]]]] = defaultdict(list)
    for fact, row in slices:
        group = next((g for g in by_series[fact.series] if _alike(g[0], fact)), None)
        if group is None:
            group = (fact, [])
            groups.append(group)
            by_series[fact.series].append(group)
        group[1].append(row)
    sizes = {series: sum(len(rows) for _, rows in parts) for series, parts in by_series.items()}
    return tuple(Stack(fact, tuple(rows), sizes[fact.series] - len(rows)) for fact, rows in groups)


def _alike(one: Facts, other: Facts) -> bool:
    """Whether two files of a series can be slices of one volume; limited precision of headers is none's fault."""
    if (one.rows, one.columns, one.image_type, one.frames > 1) != (
        other.rows,
        other.columns,
        other.image_type,
        other.frames > 1,
    ):
        return False
    if len(one.orientation) != len(other.orientation):
        return False
    if any(abs(a - b) > _TURN for a, b in zip(one.orientation, other.orientation, strict=True)):
        return False
    if one.echo_time is None or other.echo_time is None:
        return one.echo_time is other.echo_time
    return abs(one.echo_time - other.echo_time) <= _ECHO_MS


def _read_cache(cache: Path | None, root: Path) -> tuple[list[Facts], dict[str, tuple[FileRow, int]]]:
    """What an earlier reading left; empty where there is none, it is damaged, or of another folder or version."""
    if cache is None:
        return [], {}
    try:
        record = json.loads(cache.read_text())
        if record["version"] != FACTS_VERSION or record["root"] != str(root.resolve()):
            return [], {}
        facts = [Facts.from_dict(item) for item in record["facts"]]
        rows = {
            path: (FileRow(path, (size, time), instance, tuple(position)), int(kind))
            for path, size, time, kind, instance, position in record["files"]
        }
        if any(kind >= len(facts) for _, kind in rows.values()):
            return [], {}
    except (OSError, ValueError, KeyError, TypeError):
        return [], {}
    return facts, rows


def _write_cache(cache: Path, root: Path, facts: Sequence[Facts], rows: Sequence[tuple[FileRow, int]]) -> None:
    record = {
        "version": FACTS_VERSION,
        "root": str(root.resolve()),
        "facts": [fact.as_dict() for fact in facts],
        "files": [[row.path, *row.stamp, kind, row.instance, row.position] for row, kind in rows],
    }
    cache.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(cache, json.dumps(record, separators=(",", ":")))
    cache.chmod(0o600)
