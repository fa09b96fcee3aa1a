"""How MR came to the reference image: similarity before and after, motion, folding and pictures of the registration."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gtvbench.reports.page.sections.collected import Collected
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.run.pictures import Pictures
from gtvbench.reports.tables.table import Cell, Table, row_of
from gtvbench.reports.text.numbers import counted, number, percent

#: Rows on the page: those that gained least, and those that fold; all are in provenance.json.
MOST_ROWS = 12
#: Pictures on the page, and their size in bytes together; the others lie in the run folder.
MOST_PICTURES, MOST_BYTES = 24, 1_500_000
_COLUMNS = ("case", "modality", "status", "by", "stages", "before", "after", "mean_mm", "largest_mm",
            "smallest_jacobian", "folding", "seconds")  # fmt: skip


@dataclass(frozen=True)
class Checkerboard:
    """Squares of both images before (above) and after (below); `picture` is WebP, base64."""

    case: str
    modality: str
    reference: str
    picture: str


@dataclass(frozen=True)
class Registrations:
    """A sentence on all of them, the table of those to look at, and pictures in the same order.

    `absent`: pictures that are in the run folder, not on the page; `hidden`: they do not show the body's surface.
    """

    sentence: str
    table: Table
    pictures: tuple[Checkerboard, ...] = ()
    absent: int = 0
    hidden: bool = False


def registrations(run: FinishedRun, collected: Collected) -> Registrations | None:
    """The section, or None where nothing was registered."""
    frame = registration_frame(run)
    if not len(frame):
        return None
    collected.frame("registration", frame)
    done = frame[frame["status"] == "registered"]
    parts = [f"{counted(len(done), 'image')} of {frame['case'].nunique()} patients registered to the reference"]
    shared = int((frame["status"] == "shared frame of reference").sum())
    if shared:
        parts.append(f"{shared} trusted because they share its frame of reference")
    kept = len(frame) - len(done) - shared
    if kept:
        parts.append(f"{kept} left as the headers say because registration failed (see the notes on the data)")
    folding = done[done["folding"] > 0]
    text = "; ".join(parts) + ". "
    text += f"The deformation folds in {counted(len(folding), 'image')}." if len(folding) else "No deformation folds."
    # Without a value before there was no overlap: that is to be looked at first.
    gain = (done["after"] - done["before"]).astype(float).fillna(-np.inf)
    shown = done.assign(gain=gain).sort_values(["folding", "gain", "case"], ascending=[False, True, True])
    rows = tuple(_row(record) for record in shown.head(MOST_ROWS).to_dict("records"))
    more = f" ({MOST_ROWS} of {len(shown)}: folding first, then the smallest gain)" if len(shown) > MOST_ROWS else ""
    head = ("Case", "Modality", "Stages", "before", "after", "mean", "largest", "least Jacobian", "folds", "s")
    groups = (("", 3), ("Mutual information", 2), ("Displacement (mm)", 2), ("", 3))
    table = Table("registration", f"Registration to the reference image{more}", head, rows, groups)
    hidden = not run.synthetic and (run.study.get("report") or {}).get("faces", "hide") == "hide"
    return Registrations(text, table, *_checkerboards(run, shown), hidden)


def _checkerboards(run: FinishedRun, shown: pd.DataFrame) -> tuple[tuple[Checkerboard, ...], int]:
    """Pictures in the order of the table as far as there is room, and the number left out."""
    pictures, size, absent = Pictures(run), 0, 0
    found: list[Checkerboard] = []
    for case, modality in zip(shown["case"], shown["modality"], strict=True):
        picture = pictures.checkerboard(case, modality)
        if picture is None:
            continue
        if absent or len(found) == MOST_PICTURES or size + len(picture) > MOST_BYTES:
            absent += 1
            continue
        size += len(picture)
        facts = run.provenance["registration"][case][modality]
        encoded = base64.b64encode(picture).decode()
        found.append(Checkerboard(case, modality, str(facts.get("reference", "reference")), encoded))
    return tuple(found), absent


def registration_frame(run: FinishedRun) -> pd.DataFrame:
    """A row a case and modality; similarity is mutual information in nats over what both images cover."""
    rows = []
    for case, modalities in (run.provenance.get("registration") or {}).items():
        for modality, facts in modalities.items():
            similarity, stages = facts.get("similarity") or {}, facts.get("stages") or []
            motion = facts.get("displacement_mm") or {}
            rows.append((
                str(case), str(modality), str(facts.get("status", "")), facts.get("by"), " + ".join(map(str, stages)),
                similarity.get("headers"), similarity.get(stages[-1]) if stages else None,
                motion.get("mean"), motion.get("largest"), (facts.get("jacobian") or {}).get("smallest"),
                facts.get("folding"), facts.get("seconds"),
            ))  # fmt: skip
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _row(record: dict[Any, Any]) -> tuple[Cell, ...]:
    return row_of(
        record["case"], record["modality"], record["stages"], number(record["before"], 3), number(record["after"], 3),
        number(record["mean_mm"], 1), number(record["largest_mm"], 1), number(record["smallest_jacobian"], 2),
        percent(record["folding"]), number(record["seconds"], 0),
    )  # fmt: skip
