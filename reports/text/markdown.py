"""Text as Markdown."""

from __future__ import annotations

import re

from gtvbench.reports.text.numbers import visible

# What begins emphasis, code, a link, HTML, a table's cell, mathematics, a strike or a mention.
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~$&#@])")
_ADDRESS = re.compile(r"(?i)\b(https?|ftp)(:)(?=//)|\b(www)(\.)")


def escaped(text: str) -> str:
    """The text escaped for Markdown, with invisible characters spelt out."""
    broken = _ADDRESS.sub(lambda m: f"{m[1] or m[3]}\0{m[2] or m[4]}", visible(text))
    return _MARKDOWN.sub(r"\\\1", broken).replace("\0", "\\")
