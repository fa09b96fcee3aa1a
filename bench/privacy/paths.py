"""Takes paths out of texts and records, however they are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

#: Stands for a piece of text that was taken out.
GONE = "\u2026"

# Where a path begins: / ~/ ~name/ $HOME/ %USERPROFILE%\ C:\ \\server\ ./ ../, after file:// or not.
_ROOT = (
    r"(?:file:(?://)?)?(?:~[\w.-]*[\\/]+|(?:\$\{?\w+\}?[\\/]+|%\w+%[\\/]+|/+|[A-Za-z]:[\\/]+|\\{2,}|\.{1,2}[\\/]+)"
    r"(?=[^\s\\/]))"
)
# Not inside a word or another path: the slash of kg/m, of a redacted path, of a relative one. Compiler flags are.
_START = r"(?:(?<![\w./\\…~$%+)])|(?<=(?<![\w-])-[ILB]))"
# A quotation mark inside quotes that ends nothing: an apostrophe in a name (YAML doubles it), or an escaped one.
_INNER = r"(?<=\w)['\"]{1,2}(?=\w)|(?<=\\)['\"]"
_QUOTED_PATH = re.compile(rf"""(["'])(?:(?<=Path\(["'])|{_ROOT})(?:{_INNER}|(?!\1)[^\n])*\1""")
_WHOLE_PATH = re.compile(rf"{_ROOT}[^\n]*")
_FILE_LINE = re.compile(r"(?m)^(\s*file:[ \t]+)(\S.*)$")
# Folders of a path may hold blanks and punctuation as long as a separator follows at once; its last part may not, and a
# known ending is the last part's. So rather a word too many is taken out than a folder too few.
_ENDING = r"(?<=\.)(?:nii|gz|npy|npz|dcm|nrrd|mha|mhd|json|ya?ml|csv|parquet|pth?|safetensors|py|txt|log)(?![\w.\\/])"
_FOLDER = rf"""(?:(?!https?://|{_ENDING})[^"'<>|\\/\n\r\t]|(?<=\w)'(?=\w))*?(?<! )"""
_BARE_PATH = re.compile(
    rf"""(https?://)(?:[^\s"'<>/@]*@)?|{_START}{_ROOT}(?:{_FOLDER}[\\/]+)*"""
    r"""(?:(?:[^\s"'<>|,;:()\[\]{}\\/]|(?<=\w)'(?=\w))*[\w~%+\-=#&!$@])?"""
)
_ADDRESS_END = re.compile(r"""[^\s"'<>=]*""")
#: Folders whose entries are people.
_HOMES = ("home", "users", "documents and settings")


def last_part(path: str) -> str:
    """Last part of a path, unless that is a user's name (a home folder) or a machine's."""
    parts = [part for part in re.split(r"[\\/]+", path.strip("\"' \t")) if part]
    if not parts:
        return GONE
    home = len(parts) > 1 and parts[-2].casefold() in _HOMES
    alone = len(parts) == 1 and (parts[0].startswith("~") or path.strip("\"' ").startswith(("\\\\", "//")))
    return GONE if home or alone else f"{GONE}/{parts[-1]}"


def redact(text: str, kept: Callable[[str], str] = last_part, roots: Sequence[str] = ()) -> str:
    """Text in which `kept` stands for every path: records travel, and folders name people and machines.

    Web addresses stay, without a user's name or password in them. Where a sentence goes on after a path and has another
    slash, words between the two may go too; what follows one of the `roots` goes to the end of its line. Not
    recognised: relative paths that do not begin with a dot, and bare paths with quotation marks or angle brackets.
    """
    text = _FILE_LINE.sub(lambda m: m.group(1) + kept(m.group(2)), text)
    text = _QUOTED_PATH.sub(lambda m: m.group(1) + kept(m.group(0).strip(m.group(1))) + m.group(1), text)
    for root in roots:
        text = re.sub(rf"(?<![\w/]){re.escape(root)}(?![\w.-])[^\n\"']*", GONE, text)
    parts, end = [], 0
    while (match := _BARE_PATH.search(text, end)) is not None:
        parts.append(text[end : match.start()])
        end = match.end()
        if match.group(1):
            address = _ADDRESS_END.match(text, end)
            assert address is not None
            parts += [match.group(1), address.group(0)]
            end = address.end()
        else:
            parts.append(kept(match.group(0)))
    return "".join([*parts, text[end:]])


def redact_all(value: Any) -> Any:
    """`redact` on every string inside lists and mappings; a string that begins as a path is one; others as they are."""
    if isinstance(value, str):
        return last_part(value) if _WHOLE_PATH.fullmatch(value) else redact(value)
    if isinstance(value, dict):
        return {redact(key) if isinstance(key, str) else key: redact_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(item) for item in value]
    return value


def is_path(text: str) -> bool:
    """Whether a text begins as an absolute path, one of a home folder, or with a dot, and is one line."""
    return _WHOLE_PATH.fullmatch(text) is not None
