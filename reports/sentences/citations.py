"""What the sentences of the methods text are made of: citations, names from data, ranges."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from gtvbench.bench.study.record import ArmRecord
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.text.numbers import finite, listed, visible

#: A citation inside a text. No name can hold its control characters, because `named` spells them out.
MARK = re.compile("\x02([a-z0-9,]+)\x03")

#: Digits of a digest that a text shows; provenance.json has all.
DIGEST_DIGITS = 12

LITEMEDSAM = ("litemedsam-zero-shot", "litemedsam-fine-tuned")
NNUNET = ("nnunet", "nnunet-box")


def cite(*keys: str) -> str:
    """A citation of works (references.py), to stand before the full stop or comma."""
    return f" \x02{','.join(keys)}\x03"


def named(value: object) -> str:
    """A name or value from data: one line, nothing invisible."""
    return visible(str(value))


def file_name(value: object) -> str:
    """The last part of what may be a path."""
    parts = [part for part in re.split(r"[\\/]+", str(value)) if part]
    return named(parts[-1] if parts else value)


def names(arms: Iterable[ArmRecord]) -> str:
    """Names of arms as a sentence lists them."""
    return listed([named(arm.name) for arm in arms])


def active(run: FinishedRun) -> list[ArmRecord]:
    """Arms that were started."""
    return [arm for arm in run.arms if arm.status != "skipped"]


def of_kinds(run: FinishedRun, kinds: Iterable[str]) -> list[ArmRecord]:
    """Started arms of some methods."""
    chosen = set(kinds)
    return [arm for arm in active(run) if arm.kind in chosen]


def other_weights(arms: Iterable[ArmRecord]) -> list[ArmRecord]:
    """LiteMedSAM's arms whose weights are not the published ones, or were never verified to be."""
    return [arm for arm in arms if arm.kind in LITEMEDSAM and arm.weights.get("name") and arm.published_weights is None]


def weights_file(arm: ArmRecord) -> str:
    """Name and digest of an arm's file of weights."""
    digest = named(arm.weights.get("sha256") or "not recorded")
    short = f"{digest[:DIGEST_DIGITS]}…" if arm.weights.get("sha256") else digest
    return f"{file_name(arm.weights['name'])} (SHA-256 {short})"


def span(values: Iterable[float], digits: int = 2) -> str:
    """A number, or the range of several: 3 or 0.98 to 3.27."""
    found = [f"{round(value, digits):g}" for value in values]
    low, high = min(found, key=float), max(found, key=float)
    return low if low == high else f"{low} to {high}"


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping of a record, empty where the record has none."""
    return value if isinstance(value, Mapping) else {}


def numeral(options: Mapping[str, Any], key: str) -> str | None:
    """An option as a number in words, or None where it is not recorded."""
    value = options.get(key)
    return f"{value:g}" if finite(value) else None


SETS = {"train": "training", "validation": "validation", "test": "test"}


def left_out_words(run: FinishedRun) -> str:
    """How many cases of which set were left out, in words; empty where none was."""
    parts = [f"{len(cases)} {SETS[subset]}" for subset, cases in run.left_out.items() if cases]
    total = sum(map(len, run.left_out.values()))
    return f"{total} ({listed(parts)})" if parts else ""
