"""What of a run folder may be shown and sent, and how texts are kept free of whom and where the data came from.

A run folder has two parts. The private one (`PRIVATE`) are the patients' images and label maps, weights fitted to them,
what methods printed, and where the input lies. All the rest is shareable: tables, records, boxes, contours, pictures of
slices (faces hidden, see faces.py) and the report. Nothing in it holds a path, and of DICOM data no name, ID, date or
UID; `bench privacy` (privacy_search.py) checks that.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gtvbench.bench.core.errors import BenchError
from gtvbench.bench.privacy.paths import GONE, is_path, redact
from gtvbench.bench.study.file import Study

#: Stands for an option that tells where something lies.
HIDDEN = "<private>"

#: Files that stay with whoever has the patients, as patterns of their path in the run folder ("*" crosses folders).
PRIVATE = (
    "private/*", "jobs/*", "cases/*", "references/*", "arms/*/predictions/*", "arms/*/fit/*", "arms/*/fit.work/*",
    "arms/*/log.txt", ".lock", "*/.lock", "*.lock", "*/.part-*", ".part-*", "*/.old-*",
)  # fmt: skip
#: Exceptions: losses of a training, which the report draws.
SHARED = ("arms/*/fit/epochs.csv",)

#: Sources whose input holds names, dates and UIDs of its own, and their options that may quote them.
CLINICAL = {"dicom": ("patients",)}

#: Shorter terms are no words of their own: a patient called "7" would take every 7 out of a message.
SHORTEST_TERM = 3

_UID = re.compile(r"(?<![\w.])\d+(?:\.\d+){4,}(?![\w.]*\w)")
_DATE = re.compile(r"(?<![\w.])(?:19|20)\d\d[-./]?(?:0[1-9]|1[0-2])[-./]?(?:0[1-9]|[12]\d|3[01])(?!\w)")
_TIME = re.compile(r"(?<![\w.])(?:[01]\d|2[0-3])[0-5]\d[0-5]\d(?:\.\d{1,6})?(?!\w)")
_PATH_KEY = re.compile(r"(?:.*-)?(?:path|paths|file|files|folder|folders|key|directory)")


def is_shareable(name: str) -> bool:
    """Whether a file, by its POSIX path in the run folder, belongs to the shareable part."""
    if any(fnmatchcase(name, pattern) for pattern in SHARED):
        return True
    return not any(fnmatchcase(name, pattern) for pattern in PRIVATE)


def shareable_files(run: Path) -> Iterator[Path]:
    """The files of the shareable part of a run folder, sorted by path."""
    for path in sorted(run.rglob("*")):
        if (path.is_file() or path.is_symlink()) and is_shareable(path.relative_to(run).as_posix()):
            yield path


def shareable_study(study: Study, base: Path) -> str:
    """The resolved study as YAML without the places of its input; `base` is where its relative paths start."""
    data = yaml.safe_load(study.as_yaml())
    dataset = data["dataset"]
    for option in CLINICAL.get(dataset["source"], ()):
        dataset.pop(option, None)
    data["dataset"] = {
        key: HIDDEN if isinstance(value, str) and _PATH_KEY.fullmatch(key) else without_paths(value, base)
        for key, value in dataset.items()
    }
    for entry in data.get("methods", {}).values():
        weights = entry.pop("weights", None)
        entry |= without_paths(entry, base) | ({} if weights is None else {"weights": Path(weights).name})
    data["engine"] = {"kind": data["engine"]["kind"]}  # a machine, a queue, an account: nobody else's business
    if data["split"].get("file"):
        data["split"]["file"] = HIDDEN
    if len(Path(data["output"]).parts) != 1 or data["output"].startswith(("/", "~", "..")):
        data["output"] = HIDDEN
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def without_paths(value: Any, base: Path) -> Any:
    """Options with every string that is a path replaced: an absolute one, or one with a folder that `base` has."""
    if isinstance(value, Mapping):
        return {key: without_paths(item, base) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item, base) for item in value]
    return HIDDEN if isinstance(value, str) and _is_path(value, base) else value


def _is_path(text: str, base: Path) -> bool:
    if "\n" in text or "\0" in text or not re.search(r"[\\/]", text):
        return False
    if is_path(text):
        return True
    try:
        return (base / text).exists()
    except OSError:
        return False


class Scrubber:
    """Takes out of texts what must not leave: given terms, paths, UIDs, and with `clinical` dates and times as well."""

    def __init__(self, terms: Iterable[str] = (), roots: Iterable[Path | str] = (), clinical: bool = False) -> None:
        """`terms` are taken out as whole words, whatever their case, and the words of a name (A^B) each; `roots` are
        folders of the input, after which a path may hold blanks."""
        found: set[str] = set()
        for term in terms:
            found |= {part.casefold() for part in (term.strip(), *re.split(r"[\^=,\s]+", term))}
        self._terms = sorted((term for term in found if len(term) >= SHORTEST_TERM), key=lambda t: (-len(t), t))
        self._roots = sorted({str(root).rstrip("/") for root in roots} - {"", "."}, key=len, reverse=True)
        self._clinical = clinical

    def text(self, text: str) -> str:
        """The text with each of them replaced by an ellipsis; files of this software keep their name."""
        text = redact(text, _name_of_software, self._roots)
        text = _UID.sub(GONE, text)
        folded = text.casefold()
        for term in self._terms:
            if term in folded:
                text = re.sub(rf"(?<![^\W_]){re.escape(term)}(?![^\W_])", GONE, text, flags=re.IGNORECASE)
        if self._clinical:
            text = _TIME.sub(GONE, _DATE.sub(GONE, text))
        return text

    def record(self, record: Mapping[str, Any], *keys: str) -> dict[str, Any]:
        """A row with the texts under `keys` scrubbed."""
        return {k: self.text(v) if k in keys and isinstance(v, str) else v for k, v in record.items()}


class Privacy:
    """What the shareable records of a run may say of its input."""

    def __init__(self, source: Any, entries: Sequence[Any], study: Study, base: Path) -> None:
        """`source.sensitive(entry)`, optional, tells the strings of a case's input that must not leave."""
        self._source, self._entries, self._base = source, entries, base
        given = study.dataset.get("path")
        given_roots: list[Path] = [base, base / Path(given).expanduser()] if isinstance(given, str) else [base]
        self._roots: list[Path | str] = [*given_roots, *(root.resolve() for root in given_roots)]
        self._clinical = study.dataset["source"] in CLINICAL
        self._scrubbers: dict[str | None, Scrubber] = {}

    def scrubber(self, case: str | None) -> Scrubber:
        """For texts about one case; None stands for all of them."""
        if case not in self._scrubbers:
            terms: set[str] = set()
            for entry in self._entries:
                if case in (None, entry.name):
                    terms |= self._terms(entry)
            self._scrubbers[case] = Scrubber(terms, self._roots, self._clinical)
        return self._scrubbers[case]

    def failures(self, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Rows of failures.json (`case`, and texts of any kind) without what must not leave."""
        return [self.scrubber(row["case"]).record(row, "message", "traceback", "reason", "remedy") for row in rows]

    def arms(self, records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Rows of arms.json without paths."""
        plain = Scrubber(roots=self._roots)
        return [plain.record(row, "reason") | {"options": without_paths(row["options"], self._base)} for row in records]

    def notes(self, notes: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Notes by case without what must not leave."""
        return {case: [self.scrubber(case).text(note) for note in told] if told else [] for case, told in notes.items()}

    def _terms(self, entry: Any) -> frozenset[str]:
        if not hasattr(self._source, "sensitive"):
            return frozenset()
        try:
            return frozenset(self._source.sensitive(entry))
        except (BenchError, OSError):
            return frozenset()  # its files are gone or damaged, which is why there is a text about it at all


@cache
def _software() -> tuple[str, ...]:
    """Folders that hold installed software and none of the user's data."""
    here = Path(__file__).resolve().parents[2]
    packages = [str(here / room) for room in ("bench", "adapters", "datasets", "reports")]
    found = [p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")]
    standard = str(Path(re.__file__).resolve().parent.parent)
    return tuple(f"{p}/" for p in (*packages, *found, standard, *(str(Path(p).resolve()) for p in found)))


def _name_of_software(path: str) -> str:
    """What stays of a path: the file's name where it is one of this software's, else nothing."""
    return f"{GONE}/{Path(path).name}" if path.startswith(_software()) else GONE
