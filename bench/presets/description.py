"""What a preset says of a public data set, and what was found of it on disk."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from gtvbench.bench.core.errors import StudyError
from gtvbench.bench.study.file import NAME

_WIDTH = 110


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=lambda name: name.replace("_", "-"))


class Layout(_Described):
    """One way in which a data set lies on disk.

    `roots`: folders below the user's where it may begin. `dataset`, `images`, `structures`: text for the study file,
    and at once what is looked for: it is there where the source that they describe finds cases. `part_folders`: the
    first folder of a case is the official part it belongs to. `without`: cases that are left out, and `why`.
    """

    name: str
    variant: str | None = None
    roots: tuple[str, ...] = (".",)
    part_folders: bool = False
    without: tuple[str, ...] = ()
    why: str = ""
    dataset: str
    images: str = ""
    structures: str = ""


class Preset(_Described):
    """What the first part of a preset's file says; `text` is the second."""

    name: str
    text: str
    title: str
    targets: str
    licence: str
    described: str
    cite: str
    tree: str
    variants: dict[str, str] = Field(default_factory=dict)
    parts: dict[str, list[str]] = Field(default_factory=dict)
    layouts: tuple[Layout, ...] = ()
    look: Literal["layouts", "nnunet-raw", "medsam-npz", "bids"] = "layouts"

    def chosen(self, variant: str | None) -> str | None:
        """The variant asked for, by default the first; raises StudyError for one that there is not."""
        if variant is None:
            return next(iter(self.variants), None)
        if variant not in self.variants:
            known = ", ".join(self.variants) or "it has none"
            raise StudyError(f"preset {self.name!r} has no variant {variant!r}", remedy=f"known: {known}")
        return variant

    def expected(self) -> str:
        """The layout, as the remedy of an error."""
        return f"the layout is ({self.described}):\n    " + "\n    ".join(self.tree.rstrip().splitlines())


@dataclass(frozen=True)
class Found:
    """A data set that is there, below `root`.

    `dataset`, `structures`: text for the study file; `dataset` has places for `path`, `exclude` and `images`.
    `patients` by part: the official subsets (train, validation, test) where there are any, else all under ''. `lines`
    tell the user what was counted.
    """

    root: Path
    dataset: str
    structures: str
    patients: Mapping[str, Sequence[str]]
    lines: tuple[str, ...]
    exclude: str = ""
    images: str = ""


def exclude_text(names: Sequence[str]) -> str:
    """The option `exclude` of a source, on a line of its own, or nothing."""
    if not names:
        return ""
    first, *rest = yaml_list(names).splitlines()
    return "\nexclude: " + "\n  ".join([first, *rest])


def yaml_text(text: str) -> str:
    """A string as YAML, quoted where it must be."""
    return yaml.safe_dump(text, allow_unicode=True, width=10_000).removesuffix("\n").removesuffix("\n...")


def yaml_list(items: Sequence[str]) -> str:
    """A list of strings as YAML in brackets, wrapped."""
    return yaml.safe_dump(list(items), default_flow_style=True, width=_WIDTH, allow_unicode=True).rstrip()


def yaml_flow(pairs: Mapping[Any, Any]) -> str:
    """A mapping as YAML in braces, on one line."""
    return yaml.safe_dump(
        dict(pairs), default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True
    ).rstrip()


def path_text(root: Path, base: Path) -> str:
    """Path of the data as a study file in `base` gives it: relative where the data lie below it."""
    root, base = Path(os.path.abspath(root)), Path(os.path.abspath(base))  # noqa: PTH100 - links stay links
    return root.relative_to(base).as_posix() if root.is_relative_to(base) else str(root)


def safe_name(text: str) -> str:
    """A structure's or study's name of what a data set calls it."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100]
    return plain if NAME.fullmatch(plain) else "structure"
