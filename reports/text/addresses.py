"""Addresses of the pages of cases, as file names that every system takes."""

from __future__ import annotations

import hashlib
import re

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def case_file(case: str) -> str:
    """File name of a case's page: its own name where every system takes that, else its harmless part and a digest."""
    if _SAFE.fullmatch(case):
        return f"{case}.html"
    kept = re.sub(r"[^A-Za-z0-9_-]+", "_", case).strip("_")[:40] or "case"
    return f"{kept}-{hashlib.sha256(case.encode(errors='backslashreplace')).hexdigest()[:10]}.html"


def case_link(case: str) -> str:
    """Address of a case's page as seen from report/index.html."""
    return f"cases/{case_file(case)}"
