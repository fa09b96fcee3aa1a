"""Cases by patterns: files of one tree with `{case}` in their names, or a folder a patient."""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path

from gtvbench.bench.core.errors import DataError, StudyError

CASE = "{case}"
#: Files of a tree that an error looks at for names near to the pattern.
LOOKED_AT = 2000


def check_pattern(pattern: str) -> str:
    """Validate a pattern: relative, inside the tree, and naming the case; raises ValueError."""
    if CASE not in pattern:
        raise ValueError(f"the pattern {pattern!r} needs {CASE}, which stands for the case's name")
    if pattern.startswith("/") or ".." in Path(pattern).parts:
        raise ValueError(f"the pattern {pattern!r} must lie below 'path'")
    return pattern


def cases_of(root: Path, pattern: str, case_regex: str = "[^/]+") -> dict[str, Path]:
    """Files that match the pattern, by case, sorted; `*` and `?` stay within a folder, `**/` does not.

    Every `{case}` of a pattern is the same name. Raises DataError where two files belong to one case.
    """
    shape = re.compile(_regex(pattern, case_regex))
    found: dict[str, Path] = {}
    for path in sorted(root.glob(_glob(pattern, "*"))):
        match = shape.fullmatch(path.relative_to(root).as_posix())
        if match is None or not path.is_file() or path.name.startswith("."):
            continue
        case = match.group("case")
        if case in found:
            names = " and ".join(p.relative_to(root).as_posix() for p in (found[case], path))
            raise DataError(
                f"two files are the case's by the pattern {pattern}: {names}",
                case=case,
                file=root,
                remedy="narrow the pattern to one file a case, or take more into the name with 'case-regex'",
            )
        found[case] = path
    return dict(sorted(found.items()))


def files_of(root: Path, pattern: str, case: str) -> list[Path]:
    """Files of one case that match a pattern, sorted."""
    if not any(sign in pattern for sign in "*?"):
        path = root / pattern.replace(CASE, case)
        return [path] if path.is_file() else []
    return sorted(path for path in root.glob(_glob(pattern, glob.escape(case))) if path.is_file())


def folders_of(root: Path, patients: str | Sequence[str], exclude: Collection[str] = ()) -> dict[str, Path]:
    """Folders of patients below a folder, by name, sorted; hidden ones and those of `exclude` are left out.

    `patients`: pattern(s) of their paths. Raises DataError where there is none, or two have one name, and StudyError
    where `exclude` names one that is not there.
    """
    if not root.is_dir():
        raise DataError("the folder of the patients does not exist", file=root, remedy="check 'path'")
    wanted = (patients,) if isinstance(patients, str) else tuple(patients)
    paths = sorted({path for pattern in wanted for path in root.glob(pattern) if path.is_dir()})
    found: dict[str, Path] = {}
    for path in paths:
        if path.name in exclude or path.name.startswith("."):
            continue
        if path.name in found:
            raise DataError(
                f"two folders have this name: {found[path.name]} and {path}",
                case=path.name,
                remedy="rename one of them, or narrow 'patients': the folder's name is the case's",
            )
        found[path.name] = path
    if not found:
        present = listed(sorted(path.name for path in root.iterdir()), 8) or "nothing"
        raise DataError(
            f"no folder matches 'patients' ({', '.join(wanted)})",
            file=root,
            remedy=f"check 'path' and 'patients'; the folder holds: {present}",
        )
    unknown = sorted(set(exclude) - {path.name for path in paths})
    if unknown:
        raise StudyError(f"'exclude' names folders that are not there: {listed(unknown)}", file=root)
    return dict(sorted(found.items()))


def near(root: Path, name: str) -> str:
    """Names of files below a folder that a pattern may have meant, as words."""
    seen = islice((p for p in root.rglob("*") if p.is_file() and not p.name.startswith(".")), LOOKED_AT)
    names = sorted(path.relative_to(root).as_posix() for path in seen)
    close = difflib.get_close_matches(name.replace(CASE, "*"), names, n=4, cutoff=0.4)
    return f"the folder has {listed(close or names[:6])}" if names else "the folder is empty"


def listed(names: Iterable[str], most: int = 6) -> str:
    """The first names, separated by commas, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def _glob(pattern: str, case: str) -> str:
    """The pattern for `Path.glob`: square brackets are characters of names, not sets."""
    return pattern.replace("[", "[[]").replace(CASE, case)


def _regex(pattern: str, case_regex: str) -> str:
    parts, named = [], False
    for token in re.split(r"(\{case\}|\*\*/|\*|\?)", pattern):
        if token == CASE:
            parts.append("(?P=case)" if named else f"(?P<case>{case_regex})")
            named = True
        else:
            parts.append({"**/": "(?:[^/]+/)*", "*": "[^/]*", "?": "[^/]"}.get(token, re.escape(token)))
    return "".join(parts)
