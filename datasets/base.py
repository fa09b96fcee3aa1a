"""What a source of cases is: it lists its cases without reading voxels, and reads one case at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.structures import Structure
from gtvbench.bench.pictures.faces import HIDING_VERSION

#: Raised when the same images are registered otherwise than before.
REGISTRATION_VERSION = 2


def hyphenated(name: str) -> str:
    """Names of options in YAML use hyphens."""
    return name.replace("_", "-")


class SourceOptions(BaseModel):
    """Options of a source; an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=hyphenated, populate_by_name=True, use_attribute_docstrings=True
    )

    def settings(self, aside: Collection[str]) -> dict[str, Any]:
        """The options that a case depends on, for its identity: all but those `aside`, JSON-serialisable.

        `registration` counts only where it is asked for, with the versions of its code and of what is hidden in the
        planes that are kept for its picture.
        """
        found = self.model_dump(mode="json", by_alias=True, exclude=set(aside))
        asked = found.pop("registration", None)
        versions = [REGISTRATION_VERSION, HIDING_VERSION]
        return found if asked is None else found | {"registration": {**asked, "versions": versions}}


@dataclass(frozen=True)
class CaseEntry:
    """A case that a source found: its name, its patient, and what identifies its input.

    `identity` is JSON-serialisable and changes whenever the input does: the prepare step's key is made of it, of the
    source's name and of its `version`, so nothing is read twice. Its `files` {name: [bytes, time]} (`stamp`), `bytes`,
    or `shape` (z, y, x) of what is generated tell how much memory the case will take; without them all cases are
    taken to be alike.
    """

    name: str
    patient: str
    identity: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Inventory:
    """Where a case lies, and whether it has each of the files that a source needs of it, the reference image first."""

    case: str
    patient: str
    folder: Path
    present: dict[str, bool]

    @property
    def lacking(self) -> tuple[str, ...]:
        """What is not there."""
        return tuple(what for what, there in self.present.items() if not there)


class Source(Protocol):
    """A source is made of its options, the study's folder (relative paths in options start there), its structures and
    its seed (for what is generated).

    Label maps hold the structures' values, and 0 elsewhere. A source that `bench init` finds by a preset also has
    `inventory()`, a list of `Inventory`, one for each case whether it can be used or not.
    """

    Options: ClassVar[type[SourceOptions]]
    #: One line for `bench list datasets`.
    description: ClassVar[str]
    #: Raised when the same input gives other cases than before.
    version: ClassVar[int]
    #: True where the patients are made up; the report then carries a banner.
    synthetic: ClassVar[bool]

    def __init__(self, options: Any, base: Path, structures: Sequence[Structure], seed: int) -> None: ...

    def entries(self) -> list[CaseEntry]:
        """All cases, sorted by name; raises DataError where the layout is not as described or nothing is found."""
        ...

    def modalities(self) -> tuple[str, ...]:
        """Modalities that the cohort has, in the order of MODALITIES; one absent from the whole cohort is not named."""
        ...

    def read(self, entry: CaseEntry) -> SourceCase:
        """Read one case onto its reference grid, canonical orientation; raises DataError naming case, file, remedy."""
        ...

    def findings(self, entry: CaseEntry, case: SourceCase) -> list[str]:
        """What `bench check` should warn of in a case that can be read (beyond the generic checks); often empty."""
        ...
