"""What a reader must know before any number: banners at the head of the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from gtvbench.bench.core.scores import WHOLE_VOLUME
from gtvbench.bench.study.record import ArmRecord
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.sentences.citations import SETS, left_out_words, other_weights, weights_file
from gtvbench.reports.text.numbers import counted, listed

#: Two-sided exact signed-rank test: the smallest p is 2 / 2^n, which is below .05 from six pairs on.
MIN_FOR_A_TEST = 6


@dataclass(frozen=True)
class Banner:
    """Something that the reader must know before any number: `kind` names it, `text` says it, `names` lists arms."""

    kind: str
    label: str
    text: str
    names: tuple[str, ...] = ()


def banners(run: FinishedRun, wide: pd.DataFrame, summary: pd.DataFrame) -> list[Banner]:
    """Every reason to read the results with care, the gravest first."""
    found = []
    if run.synthetic:
        found.append(
            Banner(
                "synthetic",
                "Synthetic data",
                "The patients were made by a procedure. The numbers show that the harness works; they say nothing "
                "about real patients.",
            )
        )
    found += [Banner(n.kind, n.label, n.text, n.names) for n in run.notices]
    found += _left_out(run)
    margin = run.crop_margin_mm
    if margin is not None:
        found.append(
            Banner(
                "cropped",
                "Cropped around the target",
                f"Every image, of the test set too, ends {margin[0]:g} to {margin[1]:g} mm beyond the reference. An "
                "arm without a prompt therefore knows roughly where the target is; false positives far away cannot "
                "occur, and distances are bounded by the crop.",
            )
        )
    found += _about_arms(run)
    found += _incomplete(run)
    found += _too_few(run, wide)
    unscored = int(summary["unscored"].sum())
    if unscored:
        found.append(
            Banner(
                "unscored",
                "Scores missing",
                f"{counted(unscored, 'score')} that should exist (whole volume and prompted slices) "
                f"{'is' if unscored == 1 else 'are'} not a number and left out of the means.",
            )
        )
    return found


def _left_out(run: FinishedRun) -> list[Banner]:
    lost = left_out_words(run)
    if not lost:
        return []
    subsets = {case: SETS[subset] for subset, cases in run.left_out.items() for case in cases}
    reasons = {str(f.get("case")): str(f.get("message") or "") for f in run.failures if f.get("step") == "prepare"}
    told = [(f"{case} ({words})", reasons.get(case)) for case, words in subsets.items()]
    text = (
        f"Of {counted(len(subsets) + sum(map(len, run.subsets.values())), 'patient')} found, {lost} could not be read "
        "and took no part, in any arm. The scores say nothing about them: if what made them unreadable has to do with "
        "the patient, the others are a selection."
    )
    return [Banner("left-out", "Patients left out", text, _by_reason(told))]


def _about_weights(active: Sequence[ArmRecord]) -> list[Banner]:
    found = []
    other = _by_reason([(arm.name, weights_file(arm)) for arm in other_weights(active)])
    if other:
        text = (
            "The weights of these arms are not the published ones, or were not verified to be. Scores are not those of "
            "the published method."
        )
        found.append(Banner("other-weights", "Other weights", text, other))
    published = _by_reason([(arm.name, weights_file(arm)) for arm in active if arm.published_weights])
    if published:
        text = "These arms start from weights as they were published, by the digest of the file."
        found.append(Banner("weights", "Published weights, verified", text, published))
    return found


def _about_arms(run: FinishedRun) -> list[Banner]:
    found = []
    active = [arm for arm in run.arms if arm.status != "skipped"]
    found += _about_weights(active)
    cut = _by_reason([(arm.name, arm.cut_schedule) for arm in active if arm.cut_schedule])
    if cut:
        text = "These arms were trained for less than their protocol asks for. They could do better."
        found.append(Banner("cut", "Training cut short", text, cut))
    failed = _by_reason([(arm.name, arm.reason) for arm in active if arm.status == "failed"])
    if failed:
        text = "Something went wrong in these arms. Cases without a mask count as DSC 0; see Failures."
        found.append(Banner("failed", "Failed arms", text, failed))
    skipped = _by_reason([(arm.name, arm.reason) for arm in run.arms if arm.status == "skipped"])
    if skipped:
        found.append(Banner("skipped", "Skipped arms", "These arms did not run.", skipped))
    return found


def _by_reason(pairs: list[tuple[str, str | None]]) -> tuple[str, ...]:
    """'names: reason' lines, the arms that share a reason together."""
    grouped: dict[str, list[str]] = {}
    for name, reason in pairs:
        grouped.setdefault(reason or "no reason recorded", []).append(name)
    return tuple(f"{listed(names)}: {reason}" for reason, names in grouped.items())


def _incomplete(run: FinishedRun) -> list[Banner]:
    waiting = [arm.name for arm in run.arms if arm.status != "skipped" and arm.name not in set(run.scores["arm"])]
    unscored = sorted(set(run.subsets["test"]) - set(run.scores["patient"]))
    uneven = run.scores.groupby("arm")["case"].nunique()
    short = [str(arm) for arm, count in uneven.items() if count < uneven.max()]
    if not waiting and not (unscored and len(run.scores)) and not short:
        return []
    parts = []
    if unscored and len(run.scores):
        parts.append(f"{counted(len(unscored), 'test patient')} without any score")
    if short:
        parts.append(f"arms that lack cases which others have: {listed(short)}")
    if waiting:
        parts.append("arms without any score, listed here")
    text = f"The score table is not whole ({'; '.join(parts)}): the run is under way or was interrupted."
    return [Banner("incomplete", "Run not finished", text, tuple(waiting))]


def _too_few(run: FinishedRun, wide: pd.DataFrame) -> list[Banner]:
    present = wide[wide["present"] & (wide["scope"] == WHOLE_VOLUME)]
    patients = {s: present.loc[present["structure"] == s, "patient"].nunique() for s in run.structures}
    counts = {s: n for s, n in patients.items() if n < MIN_FOR_A_TEST}
    if not counts:
        return []
    each = listed([f"{counted(n, 'patient')} with {structure}" for structure, n in counts.items()])
    text = (
        f"The test set has {each}. Below {MIN_FOR_A_TEST} pairs a signed-rank test cannot reach p < .05 whatever the "
        "scores are, and SDs and quartiles are rough."
    )
    if max(counts.values()) == 1 and len(counts) == len(patients):
        text = f"The test set has {each}. One patient has no spread, no interval and no test: the scores are its alone."
    return [Banner("few", "Few patients", text)]
