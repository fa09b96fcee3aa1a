"""Words and numbers as the page shows them: names made harmless, values rounded."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

#: Shown where a value does not exist.
ABSENT = "\u2013"

# Control, format (bidirectional marks, zero-width), surrogate and separator characters: they could hide or reorder
# the text around them, or break a line of it.
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def visible(text: str) -> str:
    """Text in which every invisible or reordering character is spelt out, for example a line break as \\n."""
    return "".join(c if unicodedata.category(c) not in _INVISIBLE else _spelt(c) for c in text)


def _spelt(char: str) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return short.get(char, f"\\u{ord(char):04x}")


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
