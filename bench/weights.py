"""The weights that gtvbench knows: where they come from, how they are verified, and where they lie. No torch here."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from gtvbench.bench.core.errors import WeightsError

CACHE_VARIABLE = "GTVBENCH_WEIGHTS"
DEMO = "demo"
_DEMO_PACKAGE = "gtvbench.adapters.litemedsam"
_CHUNK = 1 << 20
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class KnownWeights:
    """One entry of the catalogue. ``url`` is a direct download, ``page`` is for people; digests are lower-case hex."""

    name: str
    description: str
    page: str
    licence: str
    url: str | None = None
    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None
    stand_in: bool = False


CATALOGUE: Mapping[str, KnownWeights] = {
    entry.name: entry
    for entry in (
        KnownWeights(
            DEMO,
            "stand-in weights trained on procedural shapes at 64 px; for demonstrations, never for patients",
            page="built in",
            licence="Apache-2.0 (this project)",
            stand_in=True,
        ),
        KnownWeights(
            "lite_medsam.pth",
            "LiteMedSAM, the published checkpoint (256 px)",
            page="https://github.com/bowang-lab/MedSAM/tree/LiteMedSAM",
            licence="code Apache-2.0; no separate licence is stated for the file",
            url="https://drive.usercontent.google.com/download?id=18Zed-TUTsmr2zc5CHUWd5Tu13nb6vq6z&export=download&confirm=t",
            git_blob="1799e59ab4bd2448cdb76710fe18097086fb7c82",
        ),
        KnownWeights(
            "medsam_vit_b.pth",
            "MedSAM, ViT-B (1024 px), about 375 MB",
            page="https://drive.google.com/drive/folders/1ETWmi4AiniJeWOt6HAsYgTjYv_fkgzoN",
            licence="code Apache-2.0; no separate licence is stated for the file",
            sha256="34b34b78c1d18cb8c6bf84cf9c00e135d6d6c965699f3c0e31ef1bc9dcb5be74",
        ),
        KnownWeights(
            "mobile_sam.pt",
            "MobileSAM (1024 px), natural images; a starting point for fine-tuning",
            page="https://github.com/ChaoningZhang/MobileSAM",
            licence="Apache-2.0",
            url="https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
            size=40_728_226,
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        ),
    )
}


@dataclass(frozen=True)
class Verification:
    """What a file is: its digests, and the catalogue's entry with the same content where there is one."""

    path: Path
    size: int
    sha256: str
    git_blob: str
    known: KnownWeights | None


def cache_folder() -> Path:
    """Where downloaded weights lie: the folder that GTVBENCH_WEIGHTS names, else ~/.cache/gtvbench/weights."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "gtvbench" / "weights"


def locate(name: str, cache: Path | None = None) -> Path:
    """The file behind ``name``: 'demo', a catalogue name looked up in the cache, or the path of any file.

    Raises:
        WeightsError: there is no such file; the remedy says how to get it.
    """
    if name == DEMO:
        return _demo_file("demo_weights.safetensors")
    folder = cache_folder() if cache is None else cache
    known = CATALOGUE.get(name)
    path = folder / name if known is not None else Path(name).expanduser()
    if path.is_file():
        return path
    if known is not None:
        raise WeightsError(f"The weights {name} are not on this machine.", file=path, remedy=_how_to_get(known, folder))
    raise WeightsError(
        "The weights file does not exist.",
        file=path,
        remedy=f"name an existing file or one of {', '.join(CATALOGUE)}; `bench weights` lists them",
    )


def is_stand_in(path: Path) -> bool:
    """True where ``path`` holds the built-in stand-in weights, under whatever name."""
    record = demo_record()
    return record is not None and path.is_file() and digest(path) == record.get("sha256")


def demo_record() -> dict[str, object] | None:
    """The record of the built-in stand-in weights: recipe, measured overlap, sha256; None where none are built in."""
    try:
        loaded: dict[str, object] = json.loads(_demo_file("demo_weights.json").read_text())
    except (WeightsError, ValueError):
        return None
    return loaded


def digest(path: Path) -> str:
    """SHA-256 of a file, lower-case hex."""
    return _digests(path)[0]


def verify(path: Path, name: str | None = None) -> Verification:
    """Compute a file's digests and find it in the catalogue.

    Args:
        path: the file.
        name: a catalogue name that the file claims to be.

    Raises:
        WeightsError: the file does not exist, or is not what ``name`` says.
    """
    if not path.is_file():
        raise WeightsError("The weights file does not exist.", file=path, remedy="see `bench weights`")
    sha256, git_blob = _digests(path)
    found = Verification(path, path.stat().st_size, sha256, git_blob, _known_by_content(sha256, git_blob))
    if name is not None:
        _check(found, _entry(name))
    return found


def download(name: str, cache: Path | None = None) -> Path:
    """Fetch known weights into the cache, verified before they appear there; a verified copy is not fetched again.

    Raises:
        WeightsError: the name is unknown, there is no direct download, the network fails, or the content differs.
    """
    known = _entry(name)
    if known.name == DEMO:
        return locate(DEMO)
    folder = cache_folder() if cache is None else cache
    target = folder / name
    if target.is_file():
        verify(target, name)
        return target
    if known.url is None:
        raise WeightsError(
            f"{name} has no direct download.",
            file=target,
            remedy=f"get it from {known.page} and put it there",
        )
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, partial_name = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
    partial = Path(partial_name)
    try:
        with os.fdopen(descriptor, "wb") as out:
            _fetch(known, target, out.write)
        verify(partial, name)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _fetch(known: KnownWeights, target: Path, write: object) -> None:
    assert known.url is not None
    assert callable(write)
    try:
        with urllib.request.urlopen(known.url, timeout=_TIMEOUT_S) as response:
            while chunk := response.read(_CHUNK):
                write(chunk)
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise WeightsError(
            f"{known.name} could not be downloaded: {error}",
            file=target,
            remedy=f"where there is no network, get it from {known.page} on another machine and put it there",
        ) from error


def _entry(name: str) -> KnownWeights:
    known = CATALOGUE.get(name)
    if known is None:
        raise WeightsError(f"weights {name!r} are unknown", remedy=f"use one of {', '.join(CATALOGUE)}")
    return known


def _check(found: Verification, known: KnownWeights) -> None:
    expected_sha256 = known.sha256
    if known.name == DEMO:
        expected_sha256 = str((demo_record() or {}).get("sha256"))
    differences = [
        f"{what} {actual} instead of {expected}"
        for what, actual, expected in (
            ("size", found.size, known.size),
            ("sha256", found.sha256, expected_sha256),
            ("git blob id", found.git_blob, known.git_blob),
        )
        if expected is not None and actual != expected
    ]
    if differences:
        raise WeightsError(
            f"This is not {known.name}: {'; '.join(differences)}.",
            file=found.path,
            remedy=f"the download is incomplete or another file; get it again from {known.page}",
        )


def _known_by_content(sha256: str, git_blob: str) -> KnownWeights | None:
    for known in CATALOGUE.values():
        if sha256 == known.sha256 or git_blob == known.git_blob:
            return known
    record = demo_record()
    return CATALOGUE[DEMO] if record is not None and record.get("sha256") == sha256 else None


def _digests(path: Path) -> tuple[str, str]:
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha256.update(chunk)
            blob.update(chunk)
    return sha256.hexdigest(), blob.hexdigest()


def _demo_file(name: str) -> Path:
    path = Path(str(resources.files(_DEMO_PACKAGE))) / name
    if not path.is_file():
        raise WeightsError(
            "This installation holds no demo weights.",
            file=path,
            remedy="reinstall gtvbench, or train them: python -m gtvbench.adapters.litemedsam.train_demo --help",
        )
    return path


def _how_to_get(known: KnownWeights, folder: Path) -> str:
    fetch = f"run `bench weights download {known.name}`, or " if known.url else ""
    return f"{fetch}get it from {known.page} and put it into {folder} (GTVBENCH_WEIGHTS names another folder)"


def listing() -> list[dict[str, object]]:
    """Rows for `bench weights`: name, whether the file is here, its size, licence and where it comes from."""
    rows: list[dict[str, object]] = []
    for known in CATALOGUE.values():
        try:
            here: str | bool = bool(locate(known.name))
        except WeightsError:
            here = False
        size = None if known.size is None else f"{known.size / 1e6:.1f}"
        rows.append(
            {"name": known.name, "here": here, "megabytes": size, "licence": known.licence, "source": known.page}
        )
    return rows
