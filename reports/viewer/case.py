"""What the case viewer shows of one case: its frame, pictures, contours and scores, as data for its script."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gtvbench.bench.core.fusion import CT_LEVEL_HU, CT_WIDTH_HU, FUSIONS, MODALITIES, MR_PERCENTILE, PET_RANGE_SUV
from gtvbench.bench.core.scores import WHOLE_VOLUME
from gtvbench.reports.analysis.scores import of_scope
from gtvbench.reports.figures import violins
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.run.pictures import CasePictures, Contours, Pictures
from gtvbench.reports.tables.table import Cell, Table
from gtvbench.reports.text.addresses import case_link
from gtvbench.reports.text.numbers import ABSENT, number, visible

#: Characters of an arm's name that fit beside the strip of slices.
LONGEST_NAME = 33
#: Share of white in the colour of a line on a picture: the darkest of the palette would not be seen on grey.
LIGHTER = 0.35

_WINDOWS = {
    "CT": f"CT, level {CT_LEVEL_HU:g} HU, width {CT_WIDTH_HU:g} HU",
    "PET": f"PET, SUV {PET_RANGE_SUV[0]:g} to {PET_RANGE_SUV[1]:g}",
    "T1w": f"T1w, 0 to the {MR_PERCENTILE:g}th percentile of the volume",
    "T2w": f"T2w, 0 to the {MR_PERCENTILE:g}th percentile of the volume",
}


@dataclass(frozen=True)
class View:
    """What all cases of a run share."""

    run: FinishedRun
    scores: Mapping[tuple[str, str, str], Mapping[str, Any]]
    pictures: Pictures
    arms: list[str]
    structures: tuple[str, ...]
    cases: list[str]

    @classmethod
    def of(cls, run: FinishedRun, wide: pd.DataFrame) -> View:
        """The view of a run; `wide` is `tables.wide_scores(run.scores)`."""
        rows: list[dict[str, Any]] = of_scope(wide, WHOLE_VOLUME).to_dict("records")  # type: ignore[assignment]
        scores = {(row["arm"], row["case"], row["structure"]): row for row in rows}
        cases = sorted({row["case"] for row in rows})
        return cls(run, scores, Pictures(run), [arm.name for arm in run.scored_arms], run.structures, cases)

    @property
    def turned_off(self) -> bool:
        """Whether the study file wants no pictures."""
        return (self.run.study.get("report") or {}).get("pictures") is False

    def case(self, name: str) -> CaseView | None:
        """A case with its pictures, or None where there are none."""
        pictures = None if self.turned_off else self.pictures.case(name)
        return None if pictures is None else CaseView(self, name, pictures)

    def data(self) -> dict[str, Any]:
        """Names and colours of arms and structures."""
        colours = violins.styles(self.run.arms)
        return {
            "arms": [
                {
                    "name": visible(arm),
                    "short": violins.shorten(arm, LONGEST_NAME),
                    "colour": colours[arm][0],
                    "line": _lighter(colours[arm][0]),
                }
                for arm in self.arms
            ],
            "structures": [visible(s) for s in self.structures],
        }

    def row(self, arm: str, case: str, structure: str) -> dict[str, Any]:
        """Scores of one arm, case and structure, as words; empty where there is no row."""
        row = self.scores.get((arm, case, structure))
        if row is None:
            return {}
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
        for structure in self.structures:
            volumes = {self.row(arm, case, structure).get("reference", ABSENT) for arm in self.arms} - {ABSENT}
            size = f" (reference {min(volumes)} mL)" if volumes else ""
            groups.append((f"{structure}{size}", 4))
            head += ["DSC", "HD95 mm", "volume mL", "status"]
        rows = []
        for arm in self.arms:
            cells = [Cell(arm)]
            for structure in self.structures:
                row = self.row(arm, case, structure)
                cells += [Cell(row.get(key, ABSENT)) for key in ("dsc", "hd95", "volume")]
                cells.append(Cell(row.get("status", ABSENT), wordy=True))
            rows.append(tuple(cells))
        return Table("case-scores", "Scores of this case, whole volume", tuple(head), tuple(rows), tuple(groups))


@dataclass(frozen=True)
class CaseView:
    """One case with its pictures."""

    view: View
    name: str
    pictures: CasePictures

    def data(self, step: int = 1) -> dict[str, Any]:
        """What the script needs: frame, pictures, contours and scores; lists run along the slices, each `step`-th."""
        pictures, structures = self.pictures, self.view.structures
        slices = self._slices(step)
        height, width = pictures.size
        _, row_mm, column_mm = pictures.spacing
        encoded = {m: [base64.b64encode(p).decode() for p in ps] for m, ps in pictures.all_pictures(slices).items()}
        voxels = [pictures.voxels(s) for s in structures]
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
            "arms": [self._arm(arm, slices) for arm in self.view.arms],
            "pair": self._pair(),
        }

    def still(self) -> dict[str, Any]:
        """The slice with the largest reference area as a figure that needs no script."""
        pictures, z = self.pictures, self._largest()
        modality = pictures.modalities[0]
        height, width = pictures.size
        _, row_mm, column_mm = pictures.spacing
        colours = violins.styles(self.view.run.arms)
        best = [self.view.arms[k] for k in self._pair()]
        return {
            "name": self.name,
            "link": case_link(self.name),
            "modality": modality,
            "slice": z + 1,
            "of": len(pictures.voxels(self.view.structures[0])),
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
        return "".join(pictures.paths("reference", s).get(z, "") for s in self.view.structures)

    def _contours(self, arm: str) -> Contours | None:
        return self.view.pictures.contours(arm, self.pictures)

    def _slices(self, step: int) -> range:
        """Slices shown, or each `step`-th of them, the one with the largest reference area among them."""
        shown = self.pictures.slices
        return range(shown.start + (self._largest() - shown.start) % step, shown.stop, step)

    def _largest(self) -> int:
        """Slice with the largest reference area, the first of several."""
        totals = [sum(counts) for counts in zip(*map(self.pictures.voxels, self.view.structures), strict=True)]
        shown = self.pictures.slices
        return max(shown, key=lambda z: (totals[z], -z)) if totals else shown.start

    def _arm(self, arm: str, slices: Sequence[int]) -> dict[str, Any]:
        """Scores and contours of one arm; `paths` is None where it has no mask to draw."""
        structures, drawn = self.view.structures, self._contours(arm)
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

    def _pair(self) -> list[int]:
        """Arms that the two pictures begin with: the best of this case by mean DSC, and the worst."""

        def mean(arm: str) -> float:
            rows = [self.view.row(arm, self.name, structure) for structure in self.view.structures]
            values = [row["value"] for row in rows if row.get("value") is not None]
            return sum(values) / len(values) if values else -1.0

        means = [mean(arm) for arm in self.view.arms]
        order = sorted(range(len(means)), key=lambda k: (-means[k], k))
        return order if len(order) < 2 else [order[0], order[-1]]


def _views(modalities: Sequence[str]) -> list[dict[str, Any]]:
    """Ways to see a slice: each modality, and each fusion that is more than one of them; channels R, G and B."""
    found: list[dict[str, Any]] = [
        {"name": m, "words": _WINDOWS[m], "channels": [[m]]} for m in MODALITIES if m in modalities
    ]
    for fusion in FUSIONS.values():
        used = fusion.modalities(modalities)
        if "CT" in modalities and not fusion.reads_ct:
            continue  # made for data without CT
        if len(used) > 1 and fusion.unavailable(modalities) is None:
            channels = fusion.present(modalities)
            letters = (
                f"{c} = {' and '.join(names)}" for c, names in zip(("red", "green", "blue"), channels, strict=True)
            )
            found.append({"name": fusion.name, "words": f"{fusion.name}: {', '.join(letters)}", "channels": channels})
    return found


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
