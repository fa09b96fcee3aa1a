"""Fixtures of the sources' tests: small phantom cases, as values and as files, and the real patients where they are."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.structures import Structure, structures_from
from gtvbench.datasets.phantom.source import Phantom, PhantomOptions
from gtvbench.datasets.sources.files import Files, FilesOptions

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def structures() -> tuple[Structure, ...]:
    return structures_from({"GTV-T": 1, "GTV-N": 2})


@pytest.fixture(scope="session")
def make_phantom(structures: tuple[Structure, ...]) -> Callable[..., Phantom]:
    def make(**options: Any) -> Phantom:
        return Phantom(PhantomOptions(**options), Path(), structures, 0)

    return make


@pytest.fixture(scope="session")
def small_case(make_phantom: Callable[..., Phantom]) -> SourceCase:
    """A phantom patient with a GTV-N on a grid of three different sides and spacings."""
    source = make_phantom(patients=8, shape=(14, 40, 36), spacing=(5.0, 3.5, 4.0))
    return next(
        case for case in map(source.read, source.entries()) if all((case.label == value).any() for value in (1, 2))
    )


@pytest.fixture
def open_folders(structures: tuple[Structure, ...]) -> Callable[..., Files]:
    """Files on what `write_folder` wrote; options override."""

    def open_(root: Path, **options: Any) -> Files:
        settings: dict[str, Any] = {
            "path": ".",
            "images": {m: f"{m}.nii.gz" for m in ("CT", "PET", "T1w", "T2w")},
            "masks": [{"file": "label.nii.gz", "labels": {1: "GTV-T", 2: "GTV-N"}}],
        }
        named = {name.replace("_", "-"): value for name, value in options.items()}
        return Files(FilesOptions.model_validate(settings | named), root, structures, 0)

    return open_


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the real patients: GTVBENCH_TEST_DATA, by default ../shared/data beside the repository."""
    folder = Path(os.environ.get("GTVBENCH_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "sts").is_dir():
        pytest.skip(f"the real patients are not here ({folder}); set GTVBENCH_TEST_DATA")
    return folder
