"""The case viewer: the chosen cases inside the report, and a page of its own for every test case.

Templates get words and escaped JSON; pictures travel inside the page as base64, so that no request leaves it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from gtvbench.bench.core.fusion import CT_LEVEL_HU, CT_WIDTH_HU, FUSIONS, MODALITIES, MR_PERCENTILE, PET_RANGE_SUV
from gtvbench.reports import figures, selection
from gtvbench.reports.layout import Cell, Table
from gtvbench.reports.load import Run
from gtvbench.reports.pictures import CasePictures, Contours, Pictures, read_pictures
from gtvbench.reports.tables import PRIMARY_SCOPE, of_scope
from gtvbench.reports.text import ABSENT, listed, number, visible

#: Bytes of pictures (base64) and contours that the report itself carries; every case has a page of its own besides.
INDEX_BYTES = 4_000_000
#: Characters of an arm's name that fit beside the strip of slices.
LONGEST_NAME = 33
#: Share of white in the colour of a line on a picture: the darkest of the palette would not be seen on grey.
LIGHTER = 0.35

MISSING = (
    "There are no pictures in this run folder. Start the same `bench run` again: it adds them and repeats nothing."
)
TURNED_OFF = "The study file turns pictures off (`report: {pictures: false}`)."

_WINDOWS = {
    "CT": f"CT, level {CT_LEVEL_HU:g} HU, width {CT_WIDTH_HU:g} HU",
    "PET": f"PET, SUV {PET_RANGE_SUV[0]:g} to {PET_RANGE_SUV[1]:g}",
    "T1w": f"T1w, 0 to the {MR_PERCENTILE:g}th percentile of the volume",
    "T2w": f"T2w, 0 to the {MR_PERCENTILE:g}th percentile of the volume",
}
_ASSETS = Path(__file__).parent / "assets"
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


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element: no `<`, `>` or `&`, and no NaN."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def viewer_section(run: Run, wide: pd.DataFrame) -> dict[str, Any]:
    """Context of viewer.html.j2: `message` where there is nothing to show, else the chosen cases' data and figures.

    Cases are embedded whole, in the order of `selection.chosen`, as long as INDEX_BYTES has room; the others are
    linked. `wide` is `tables.wide_scores(run.scores)`.
    """
    view = _View.of(run, wide)
    found = selection.reasons(wide, view.arms, run.structures)
    order = selection.chosen(found)
    data, room = [], INDEX_BYTES
    shown: list[_Case] = []
    for name in order:
        case = view.case(name)
        if case is None:
            continue
        entry = case.data() if data else _thinned(case)
        entry["why"] = _roles_in_short(name, found)
        size = len(script_json(entry))
        if size <= room:
            room -= size
            data.append(entry)
            shown.append(case)
    drawn = {case.name for case in shown}
    return {
        "message": None if any(view.case(name) for name in view.cases) else view.nothing,
        "data": Markup(script_json({**view.data(), "pages": True, "cases": data})) if data else None,
        "stills": [case.still() for case in shown],
        "embedded": len(shown),
        "cases": len(view.cases),
        "rest": [(name, case_link(name)) for name in view.cases if name not in drawn],
        "rule": selection.RULE,
        "reasons": [_reason(reason) for reason in found],
        "css": Markup(_asset("viewer.css")),
        "script": Markup(_asset("viewer.js")),
    }


def case_pages(run: Run, wide: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """(file name, HTML) of the page of every test case, one at a time."""
    from gtvbench.reports.page import _environment

    view = _View.of(run, wide)
    found = selection.reasons(wide, view.arms, run.structures)
    template = _environment().get_template("case.html.j2")
    for place, name in enumerate(view.cases):
        case = view.case(name)
        context = {
            "run": run,
            "name": name,
            "message": None if case else view.nothing,
            "data": Markup(script_json({**view.data(), "cases": [case.data()]})) if case else None,
            "stills_shown": [case.still()] if case else [],
            "scores": view.scores_table(name),
            "facts": _facts(case.pictures) if case else "",
            "reasons": [_reason(reason) for reason in found if reason.case == name],
            "previous": _neighbour(view.cases, place - 1),
            "next": _neighbour(view.cases, place + 1),
            "all": [(other, case_file(other)) for other in view.cases],
            "viewer_css": Markup(_asset("viewer.css")),
            "viewer_script": Markup(_asset("viewer.js")),
        }
        yield case_file(name), template.render(context)


@dataclass(frozen=True)
class _View:
    """What all cases of a run share."""

    run: Run
    scores: pd.DataFrame
    pictures: Pictures
    arms: list[str]
    cases: list[str]

    @classmethod
    def of(cls, run: Run, wide: pd.DataFrame) -> _View:
        volume = of_scope(wide, PRIMARY_SCOPE)
        scores = volume.set_index(["arm", "case", "structure"]).sort_index()
        cases = sorted(set(volume["case"]))
        return cls(run, scores, read_pictures(run), [arm.name for arm in run.scored_arms], cases)

    @property
    def turned_off(self) -> bool:
        return (self.run.study.get("report") or {}).get("pictures") is False

    @property
    def nothing(self) -> str:
        return TURNED_OFF if self.turned_off else MISSING

    def case(self, name: str) -> _Case | None:
        pictures = None if self.turned_off else self.pictures.case(name)
        return None if pictures is None else _Case(self, name, pictures)

    def data(self) -> dict[str, Any]:
        """Names and colours of arms and structures."""
        colours = figures.styles(self.run.arms)
        return {
            "arms": [
                {
                    "name": visible(arm),
                    "short": figures.shorten(arm, LONGEST_NAME),
                    "colour": colours[arm][0],
                    "line": _lighter(colours[arm][0]),
                }
                for arm in self.arms
            ],
            "structures": [visible(s) for s in self.run.structures],
        }

    def row(self, arm: str, case: str, structure: str) -> dict[str, Any]:
        """Scores of one arm, case and structure, as words; empty where there is no row."""
        key = (arm, case, structure)
        if key not in self.scores.index:
            return {}
        row = self.scores.loc[key]
        return {
            "status": str(row["status"]),
            "present": bool(row["present"]),
            "dsc": number(row["dsc"], 3),
            "hd95": number(row["hd95_mm"], 1),
            "volume": number(row["volume_ml"], 1),
            "reference": number(row["reference_volume_ml"], 1),
            "value": float(row["dsc"]) if pd.notna(row["dsc"]) else None,
        }

    def scores_table(self, case: str) -> Table:
        """Scores of one case: a row for each arm, a group of columns for each structure."""
        groups, head = [("", 1)], ["Arm"]
        for structure in self.run.structures:
            volumes = {self.row(arm, case, structure).get("reference", ABSENT) for arm in self.arms} - {ABSENT}
            size = f" (reference {min(volumes)} mL)" if volumes else ""
            groups.append((f"{structure}{size}", 4))
            head += ["DSC", "HD95 mm", "volume mL", "status"]
        rows = []
        for arm in self.arms:
            cells = [Cell(arm)]
            for structure in self.run.structures:
                row = self.row(arm, case, structure)
                cells += [Cell(row.get(key, ABSENT)) for key in ("dsc", "hd95", "volume")]
                cells.append(Cell(row.get("status", ABSENT), wordy=True))
            rows.append(tuple(cells))
        return Table("case-scores", "Scores of this case, whole volume", tuple(head), tuple(rows), tuple(groups))


@dataclass(frozen=True)
class _Case:
    """One case with its pictures."""

    view: _View
    name: str
    pictures: CasePictures

    def data(self, step: int = 1) -> dict[str, Any]:
        """What the script needs: frame, pictures, contours and scores; lists run along the slices, each `step`-th."""
        pictures, structures = self.pictures, self.view.run.structures
        slices = self._slices(step)
        height, width = pictures.size
        _, row_mm, column_mm = pictures.spacing
        encoded = {m: [base64.b64encode(p).decode() for p in ps] for m, ps in pictures.all_pictures(slices).items()}
        voxels = [pictures.voxels(s) for s in structures]
        arms = [self._arm(arm, slices) for arm in self.view.arms]
        return {
            "name": visible(self.name),
            "page": case_link(self.name),
            "height": height,
            "width": width,
            "row": row_mm,
            "column": column_mm,
            "slices": list(slices),
            "of": len(voxels[0]),
            "thinned": step,
            "positions": [number(pictures.position(z), 1) for z in slices],
            "sides": pictures.sides,
            "bar": _bar_mm(width * column_mm),
            "start": slices.index(self._largest()),
            "views": _views(pictures.modalities),
            "pictures": encoded,
            "reference": [_along(pictures.paths("reference", s), slices) for s in structures],
            "voxels": [[v[z] for z in slices] for v in voxels],
            "prompts": [_along(pictures.paths("prompts", s), slices) for s in structures],
            "arms": arms,
            "pair": self._pair(arms),
        }

    def still(self) -> dict[str, Any]:
        """The slice with the largest reference area as a figure that needs no script."""
        pictures, z = self.pictures, self._largest()
        modality = pictures.modalities[0]
        height, width = pictures.size
        _, row_mm, column_mm = pictures.spacing
        colours = figures.styles(self.view.run.arms)
        best = [self.view.arms[k] for k in self._pair([self._arm(arm, ()) for arm in self.view.arms])]
        return {
            "name": self.name,
            "link": case_link(self.name),
            "modality": modality,
            "slice": z + 1,
            "of": len(pictures.voxels(self.view.run.structures[0])),
            "width": width,
            "height": height,
            "shown_width": round(width * column_mm, 2),
            "shown_height": round(height * row_mm, 2),
            "scale": f"scale({column_mm:g} {row_mm:g})",
            "sides": pictures.sides,
            "bar": _bar_mm(width * column_mm),
            "picture": base64.b64encode(pictures.picture(modality, z)).decode(),
            "reference": self._joined(pictures, z),
            "arms": [
                {"name": arm, "colour": _lighter(colours[arm][0]), "path": _all_paths(self._contours(arm), z)}
                for arm in best
            ],
        }

    def _joined(self, pictures: CasePictures, z: int) -> str:
        return "".join(pictures.paths("reference", s).get(z, "") for s in self.view.run.structures)

    def _contours(self, arm: str) -> Contours | None:
        return self.view.pictures.contours(arm, self.pictures)

    def _slices(self, step: int) -> range:
        """Slices shown, or each `step`-th of them, the one with the largest reference area among them."""
        shown = self.pictures.slices
        return range(shown.start + (self._largest() - shown.start) % step, shown.stop, step)

    def _largest(self) -> int:
        """Slice with the largest reference area, the first of several."""
        totals = [sum(counts) for counts in zip(*map(self.pictures.voxels, self.view.run.structures), strict=True)]
        shown = self.pictures.slices
        return max(shown, key=lambda z: (totals[z], -z)) if totals else shown.start

    def _arm(self, arm: str, slices: Sequence[int]) -> dict[str, Any]:
        """Scores and contours of one arm; `paths` is None where it has no mask to draw."""
        structures, drawn = self.view.run.structures, self._contours(arm)
        rows = [self.view.row(arm, self.name, s) for s in structures]
        entry: dict[str, Any] = {"scores": rows, "paths": None, "slices": None, "outside": [], "note": ""}
        if drawn is None:
            entry["note"] = "no contours in the run folder"
        elif drawn.status is not None:
            entry["note"] = f"no usable mask ({visible(drawn.status)})"
        else:
            entry["paths"] = [_along(drawn.paths.get(s) or {}, slices) for s in structures]
            entry["slices"] = [[drawn.dsc[s][z] if s in drawn.dsc else None for z in slices] for s in structures]
            entry["outside"] = [_millilitres(drawn.outside.get(s, 0) * self.pictures.voxel_ml) for s in structures]
        return entry

    def _pair(self, arms: Sequence[dict[str, Any]]) -> list[int]:
        """Arms that the two pictures begin with: the best of this case by mean DSC, and the worst."""

        def mean(k: int) -> float:
            values = [row["value"] for row in arms[k]["scores"] if row.get("value") is not None]
            return sum(values) / len(values) if values else -1.0

        order = sorted(range(len(arms)), key=lambda k: (-mean(k), k))
        return order if len(order) < 2 else [order[0], order[-1]]


def _views(modalities: Sequence[str]) -> list[dict[str, Any]]:
    """Ways to see a slice: each modality, and each fusion that is more than one of them; channels R, G and B."""
    found: list[dict[str, Any]] = [
        {"name": m, "words": _WINDOWS[m], "channels": [[m]]} for m in MODALITIES if m in modalities
    ]
    for fusion in FUSIONS.values():
        used = fusion.modalities(modalities)
        if len(used) > 1 and fusion.unavailable(modalities) is None:
            channels = [[m for m in names if m in used] or ["CT"] for names in fusion.channels]
            letters = (
                f"{c} = {' and '.join(names)}" for c, names in zip(("red", "green", "blue"), channels, strict=True)
            )
            found.append({"name": fusion.name, "words": f"{fusion.name}: {', '.join(letters)}", "channels": channels})
    return found


def _thinned(case: _Case) -> dict[str, Any]:
    """A case's data with as many slices as INDEX_BYTES has room for."""
    step = 1
    while len(script_json(entry := case.data(step))) > INDEX_BYTES and step < len(case.pictures.slices):
        step += 1
    return entry


def _along(paths: Mapping[int, str], slices: Sequence[int]) -> list[str]:
    return [paths.get(z, "") for z in slices]


def _all_paths(contours: Contours | None, z: int) -> str:
    return "" if contours is None else "".join(paths.get(z, "") for paths in contours.paths.values())


def _millilitres(volume: float) -> str:
    """A volume as words; empty where it is nothing."""
    return "" if volume == 0 else f"{number(volume, 1)} mL" if volume >= 0.05 else "less than 0.1 mL"


def _lighter(colour: str) -> str:
    """A colour (#rrggbb) mixed with white."""
    parts = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * LIGHTER):02x}" for part in parts)


def _bar_mm(width_mm: float) -> int:
    """Length of a scale bar: the largest of 5, 10, 20, 50 and 100 mm within a third of the picture."""
    return max((mm for mm in (5, 10, 20, 50, 100) if mm <= width_mm / 3), default=5)


def _roles_in_short(case: str, found: Sequence[selection.Reason]) -> str:
    """What a case is shown as, for example "worst 3 times, median once"."""
    roles = [role for reason in found if reason.case == case for role in reason.roles]
    counts = ((role, roles.count(role)) for role in selection.ORDER if role in roles)
    return ", ".join(f"{role} once" if n == 1 else f"{role} {n} times" for role, n in counts)


def _reason(reason: selection.Reason) -> dict[str, str]:
    return {
        "case": reason.case,
        "link": case_link(reason.case),
        "file": case_file(reason.case),
        "arm": reason.arm,
        "structure": reason.structure,
        "roles": listed(list(reason.roles)),
        "dsc": number(reason.dsc, 3),
        "hd95": number(reason.hd95_mm, 1),
        "status": reason.status,
    }


def _facts(pictures: CasePictures) -> str:
    """Size of the volume and of its pictures as a sentence."""
    z, y, x = pictures.record["grid"]["shape"]
    slice_mm, row_mm, column_mm = pictures.spacing
    height, width = pictures.size
    return (
        f"{z} slices of {slice_mm:.3g} mm with {x} \u00d7 {y} voxels of {column_mm:.3g} \u00d7 {row_mm:.3g} mm. "
        f"The pictures show {width * column_mm:.0f} \u00d7 {height * row_mm:.0f} mm of {len(pictures.slices)} slices "
        "around reference and prompts."
    )


def _neighbour(cases: Sequence[str], place: int) -> tuple[str, str] | None:
    return (cases[place], case_file(cases[place])) if 0 <= place < len(cases) else None


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
