"""Words and numbers as the page shows them: names made harmless, paths taken out, values rounded."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

#: Shown where a value does not exist.
ABSENT = "\u2013"

# Control, format (bidirectional marks, zero-width), surrogate and separator characters: they could hide or reorder
# the text around them, or break a line of it.
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}

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


def visible(text: str) -> str:
    """Text in which every invisible or reordering character is spelt out, for example a line break as \\n."""
    return "".join(c if unicodedata.category(c) not in _INVISIBLE else _spelt(c) for c in text)


def _spelt(char: str) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return short.get(char, f"\\u{ord(char):04x}")


def _base(path: str) -> str:
    """Last part of a path, unless that is a user's name (a home folder) or a machine's."""
    parts = [part for part in re.split(r"[\\/]+", path.strip("\"' \t")) if part]
    if not parts:
        return "…"
    home = len(parts) > 1 and parts[-2].casefold() in _HOMES
    alone = len(parts) == 1 and (parts[0].startswith("~") or path.strip("\"' ").startswith(("\\\\", "//")))
    return "…" if home or alone else f"…/{parts[-1]}"


def redact(text: str) -> str:
    """Text in which paths keep their last part only: reports travel, and folders name people and machines.

    Web addresses stay, without a user's name or password in them. Where a sentence goes on after a path and has another
    slash, words between the two may go too. Not recognised: relative paths that do not begin with a dot, and bare paths
    with quotation marks or angle brackets in them.
    """
    text = _FILE_LINE.sub(lambda m: m.group(1) + _base(m.group(2)), text)
    text = _QUOTED_PATH.sub(lambda m: m.group(1) + _base(m.group(0)) + m.group(1), text)
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
            parts.append(_base(match.group(0)))
    return "".join([*parts, text[end:]])


def redact_all(value: Any) -> Any:
    """`redact` on every string inside lists and mappings; a string that begins as a path is one; others as they are."""
    if isinstance(value, str):
        return _base(value) if _WHOLE_PATH.fullmatch(value) else redact(value)
    if isinstance(value, dict):
        return {redact(str(key)): redact_all(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(item) for item in value]
    return value


def finite(value: Any) -> bool:
    """Whether a value is a number that is neither NaN nor infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int) -> str:
    """A number with a fixed count of decimals; a dash where there is none; minus zero is zero."""
    if not finite(value):
        return ABSENT
    text = f"{float(value):.{digits}f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", "\u2212")


def signed(value: Any, digits: int) -> str:
    """A number with its sign, zero without."""
    text = number(value, digits)
    return text if not finite(value) or value <= 0 or float(f"{value:.{digits}f}") == 0 else f"+{text}"


def interval(low: Any, high: Any, digits: int) -> str:
    """A confidence interval; a dash where there is none."""
    return f"{signed(low, digits)} to {signed(high, digits)}" if finite(low) and finite(high) else ABSENT


def p_value(value: Any) -> str:
    """A p value with two significant digits, below .001 as such; a dash where no test was made."""
    if not finite(value):
        return ABSENT
    if value < 0.001:
        return "< 0.001"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def equals(value: Any) -> str:
    """A p value as it stands behind the letter p: = 0.012, or < 0.001."""
    text = p_value(value)
    return text if text.startswith("<") else f"= {text}"


def percent(value: Any) -> str:
    """A share from 0 to 1 as whole per cent, with one decimal where it would round to 0 or 100 without being it."""
    if not finite(value):
        return ABSENT
    whole = round(100 * value)
    if whole not in (0, 100) or value in (0, 1):
        return f"{whole} %"
    text = f"{100 * value:.1f}"
    return {"0.0": "< 0.1 %", "100.0": "> 99.9 %"}.get(text, f"{text} %")


def duration(seconds: Any) -> str:
    """A time in the unit that suits it: 3.90 µs, 12.3 ms, 1.23 s, 2 min 05 s, 1 h 12 min."""
    if not finite(seconds):
        return ABSENT
    if 0 < seconds < 0.9995e-3:
        return f"{_three(1e6 * seconds)} µs"
    if seconds < 0.9995:
        return f"{_three(1000 * seconds)} ms"
    if seconds < 119.5:
        return f"{_three(seconds)} s"
    whole = round(seconds)
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _three(value: float) -> str:
    """Three significant digits without an exponent."""
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(float(f"{value:.2e}"))))
    return f"{value:.{max(0, min(digits, 4))}f}"


def gigabytes(count: Any) -> str:
    """Bytes as GB (10^9 bytes)."""
    return f"{count / 1e9:.2f} GB" if finite(count) else ABSENT


def listed(names: list[str]) -> str:
    """Names as a sentence lists them: a, b and c."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun: 1 patient, 2 patients."""
    return f"{count} {one if count == 1 else many or one + 's'}"
