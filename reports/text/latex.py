r"""Any text as LaTeX that compiles and shows it: with pdfLaTeX, XeLaTeX and LuaLaTeX, whatever encoding and language.

Accents and symbols become commands, so nothing hangs on `inputenc` or `fontenc`; a character without a command is
spelt out, as in [U+4E2D]. Quotation marks become character codes, because babel makes some of them commands.
"""

from __future__ import annotations

import re
import unicodedata

from gtvbench.reports.text.numbers import visible

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"{\char34}", "`": r"{\char96}", "*": "{*}", "[": "{[}", "]": "{]}",
}  # fmt: skip

_SYMBOLS = {
    "\u2212": "$-$", "±": r"$\pm$", "\u2013": r"\textendash{}", "—": r"\textemdash{}", "…": r"\ldots{}",
    "\u00d7": r"$\times$", "·": r"$\cdot$", "°": r"$^{\circ}$", "²": "$^2$", "³": "$^3$", "≤": r"$\leq$",
    "≥": r"$\geq$", "≈": r"$\approx$", "→": r"$\to$", "∞": r"$\infty$", "µ": r"$\mu$", "§": r"\S{}", "†": r"\dag{}",
    "\u2018": r"{\char96}", "\u2019": "'", "\u201c": "``", "\u201d": "''", "\u00a0": "~", "\u2009": r"\,",
    "\u202f": r"\,", "\u03b1": r"$\alpha$", "β": r"$\beta$", "\u03b3": r"$\gamma$", "δ": r"$\delta$", "κ": r"$\kappa$",
    "λ": r"$\lambda$", "μ": r"$\mu$", "\u03c1": r"$\rho$", "\u03c3": r"$\sigma$", "τ": r"$\tau$", "χ": r"$\chi$",
    "Δ": r"$\Delta$", "Σ": r"$\Sigma$",
}  # fmt: skip

#: Letters of European languages that no accent makes.
_LETTERS = {
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}",
    "å": r"\aa{}", "Å": r"\AA{}", "ł": r"\l{}", "Ł": r"\L{}", "\u0131": r"\i{}",
}  # fmt: skip

_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip

_COMMANDS = _SPECIAL | _SYMBOLS | _LETTERS

# Repeated, these are ligatures: dashes and quotation marks that nobody wrote.
_LIGATURE = re.compile(r"([-',])(?=\1)")


def escaped(text: str) -> str:
    """A text, made visible, as LaTeX for running text and cells; it never starts with a bracket or a star."""
    shown = unicodedata.normalize("NFC", visible(text))
    return "".join(_command(char) for char in _LIGATURE.sub("\\1\0", shown)).replace("\0", "{}")


def _command(char: str) -> str:
    if char in _COMMANDS:
        return _COMMANDS[char]
    if char == "\0" or " " <= char <= "~":
        return char
    parts = unicodedata.normalize("NFD", char)
    if len(parts) == 2 and parts[0].isascii() and parts[1] in _ACCENTS:
        return rf"\{_ACCENTS[parts[1]]}{{{parts[0]}}}"
    if unicodedata.category(char) == "Zs":
        return " "
    return f"{{[}}U+{ord(char):04X}{{]}}"
