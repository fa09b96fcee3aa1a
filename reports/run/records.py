"""Files of a run folder, read one by one: what cannot be read is a StoreError that names the file and the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from gtvbench.bench.core.errors import StoreError
from gtvbench.bench.study.file import StatisticsOptions, problems

UNFINISHED = "the run is under way or was interrupted: start the same `bench run` again, it does only what is missing"
_OTHER_VERSION = "it was written by another version: start the same `bench run` again with this one"
_UNREADABLE = "let your user read it"
_NAME_ONE = "name a folder that `bench run` has made, runs/<study> by default"

#: Files of which a run folder has one at least, however far the run has come.
_IDENTITY = ("run.json", "study.yaml", "arms.json", "scores.parquet", "provenance.json", "failures.json")

# What pandas, pyarrow, json and yaml raise on damaged content.
_DAMAGED = (OSError, ValueError, TypeError, KeyError, NotImplementedError, RecursionError, yaml.YAMLError)


class _Shape(BaseModel):
    """Types of the fields that the report reads; other fields pass."""

    model_config = ConfigDict(extra="allow")


class AnyShape(_Shape):
    """A mapping of whatever content."""


class ProvenanceShape(_Shape):
    """provenance.json."""

    structures: dict[str, int] | None = None
    subsets: dict[str, list[Any]] | None = None
    folds: list[dict[str, list[Any]]] | None = None
    side_by_side: bool | None = None
    left_out: dict[str, list[Any]] | None = None
    hardware: dict[str, Any] | None = None
    packages: dict[str, Any] | None = None
    digests: dict[str, str] | None = None
    coverage: dict[str, dict[str, float]] | None = None
    grid: dict[str, dict[str, Any]] | None = None
    scoring: dict[str, Any] | None = None
    modalities: list[str] | None = None
    notes: list[str] | None = None
    registration: dict[str, dict[str, dict[str, Any]]] | None = None


class StudyShape(_Shape):
    """study.yaml: the study file as it was resolved when the run was made, so unknown keys are no error here."""

    structures: dict[str, int] | None = None
    dataset: dict[str, Any] | None = None
    prompts: dict[str, Any] | None = None
    methods: dict[str, Any] | None = None
    scoring: dict[str, Any] | None = None
    statistics: StatisticsOptions | None = None


def require_folder(folder: Path) -> None:
    """Raise StoreError where there is no such folder, or it may not be read."""
    try:
        if folder.is_dir():
            if any((folder / name).exists() for name in _IDENTITY):
                return
            raise StoreError("this is no run folder: it has none of a run's files", file=folder, remedy=_NAME_ONE)
        message = "this is a file, not a run folder" if folder.exists() else "there is no such run folder"
    except OSError as error:
        raise StoreError(
            f"the run folder cannot be read ({error.strerror})", file=folder, remedy=_UNREADABLE
        ) from error
    raise StoreError(message, file=folder, remedy=_NAME_ONE)


def mapping(path: Path, shape: type[_Shape]) -> dict[str, Any]:
    """A JSON or YAML file that holds one mapping, its known fields of the right type."""
    value = _read(path, _parsed)
    if not isinstance(value, dict):
        raise StoreError("a file of the run folder holds no mapping", file=path, remedy=UNFINISHED)
    _conforms(value, shape, path)
    return value


def rows(path: Path, shape: type[BaseModel]) -> list[dict[str, Any]]:
    """A JSON file that holds a list of mappings, their known fields of the right type."""
    value = _read(path, _parsed)
    if not isinstance(value, list):
        raise StoreError("a file of the run folder holds no list", file=path, remedy=UNFINISHED)
    for record in value:
        _conforms(record, shape, path)
    return value


def table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A Parquet or CSV table with at least these columns."""
    read: Callable[[Path], pd.DataFrame] = pd.read_csv if path.suffix == ".csv" else pd.read_parquet
    found: pd.DataFrame = _read(path, read)
    missing = [column for column in columns if column not in found.columns]
    if missing:
        raise StoreError(f"the table lacks the columns {', '.join(missing)}", file=path, remedy=_OTHER_VERSION)
    return found


def present(path: Path) -> bool:
    """Whether a file is there; one that may not be seen, or whose name no file can have, is not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _parsed(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)


def _conforms(value: Any, shape: type[BaseModel], path: Path) -> None:
    try:
        shape.model_validate(value)
    except ValidationError as error:
        raise StoreError(f"a file of the run folder has {problems(error)}", file=path, remedy=_OTHER_VERSION) from error


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except FileNotFoundError as error:
        raise StoreError("the run folder is not complete: a file is missing", file=path, remedy=UNFINISHED) from error
    except PermissionError as error:
        raise StoreError("a file of the run folder may not be read", file=path, remedy=_UNREADABLE) from error
    except _DAMAGED as error:
        raise StoreError(
            f"a file of the run folder cannot be read ({type(error).__name__})", file=path, remedy=UNFINISHED
        ) from error
