"""The case viewer: the chosen cases inside the report, and a page of its own for every test case.

Templates get words and escaped JSON; pictures travel inside the page as base64, so that no request leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from gtvbench.reports.analysis import selection
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.run.pictures import CasePictures
from gtvbench.reports.text.addresses import case_file, case_link
from gtvbench.reports.text.numbers import listed, number
from gtvbench.reports.text.templating import asset, environment, script_json
from gtvbench.reports.viewer.case import CaseView, View

#: Bytes of pictures (base64) and contours that the report itself carries; every case has a page of its own besides.
INDEX_BYTES = 4_000_000
MISSING = (
    "There are no pictures in this run folder. Start the same “bench run” again: it adds them and repeats nothing."
)
TURNED_OFF = "The study file turns pictures off (report: {pictures: false})."


def viewer_section(run: FinishedRun, wide: pd.DataFrame, room: int = INDEX_BYTES) -> dict[str, Any]:
    """Context of viewer.html.j2: `message` where there is nothing to show, else the chosen cases' data and figures.

    Cases are embedded whole, in the order of `selection.chosen`, as long as there is `room` (bytes); the others are
    linked. `wide` is `tables.wide_scores(run.scores)`.
    """
    view = View.of(run, wide)
    found = selection.reasons(wide, view.arms, view.structures)
    order = selection.chosen(found)
    data: list[dict[str, Any]] = []
    shown: list[CaseView] = []
    for name in order:
        case = view.case(name)
        if case is None:
            continue
        entry = case.data() if data else _thinned(case, room)
        entry["why"] = _roles_in_short(name, found)
        size = len(script_json(entry))
        if size <= room:
            room -= size
            data.append(entry)
            shown.append(case)
    drawn = {case.name for case in shown}
    return {
        "message": None if any(view.case(name) for name in view.cases) else _nothing(view),
        "data": Markup(script_json({**view.data(), "pages": True, "cases": data})) if data else None,
        "stills": [case.still() for case in shown],
        "embedded": len(shown),
        "cases": len(view.cases),
        "rest": [(name, case_link(name)) for name in view.cases if name not in drawn],
        "hidden": next((_hidden(case.pictures) for case in shown), ""),
        "rule": selection.RULE,
        "reasons": [_reason(reason) for reason in found],
        "script": _script(),
    }


def case_pages(run: FinishedRun, wide: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """(file name, HTML) of the page of every test case, one at a time."""
    view = View.of(run, wide)
    found = selection.reasons(wide, view.arms, view.structures)
    template = environment().get_template("case.html.j2")
    for place, name in enumerate(view.cases):
        case = view.case(name)
        context = {
            "run": run,
            "name": name,
            "message": None if case else _nothing(view),
            "data": Markup(script_json({**view.data(), "cases": [case.data()]})) if case else None,
            "stills_shown": [case.still()] if case else [],
            "scores": view.scores_table(name),
            "facts": _facts(case.pictures) if case else "",
            "reasons": [_reason(reason) for reason in found if reason.case == name],
            "previous": _neighbour(view.cases, place - 1),
            "next": _neighbour(view.cases, place + 1),
            "all": [(other, case_file(other)) for other in view.cases],
            "viewer_script": _script(),
        }
        yield case_file(name), template.render(context)


def _nothing(view: View) -> str:
    return TURNED_OFF if view.turned_off else MISSING


def _thinned(case: CaseView, room: int) -> dict[str, Any]:
    """A case's data with as many slices as there is room for."""
    step = 1
    while len(script_json(entry := case.data(step))) > room and step < len(case.pictures.slices):
        step += 1
    return entry


def _roles_in_short(case: str, found: Sequence[selection.Reason]) -> str:
    """What a case is shown as and how often, for example "worst 3\u00d7, median 1\u00d7"."""
    roles = [role for reason in found if reason.case == case for role in reason.roles]
    return ", ".join(f"{role} {roles.count(role)}\u00d7" for role in selection.ORDER if role in roles)


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
        f"around reference and prompts. {_hidden(pictures)}"
    ).rstrip()


def _hidden(pictures: CasePictures) -> str:
    """That the surface of the body is blanked, and how to see it, as a sentence; empty where it is shown."""
    if pictures.hidden_mm is None:
        return ""
    return (
        f"What lies outside the body, or less than {pictures.hidden_mm:g} mm below its surface, is blanked in grey so "
        "that no face can be seen; contours and scores are whole. \u201creport: {faces: show}\u201d in the study file "
        "shows it."
    )


def _neighbour(cases: Sequence[str], place: int) -> tuple[str, str] | None:
    return (cases[place], case_file(cases[place])) if 0 <= place < len(cases) else None


def _script() -> Markup:
    return asset("viewer_parts.js") + asset("viewer.js")
