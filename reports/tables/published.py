"""Results of the study that gtvbench generalises, for display beside ours.

Ren, Rasmussen, Nijkamp, Eriksen, Korreman: Segment anything model for head and neck tumor segmentation with CT, PET and
MRI multi-modality images (arXiv 2402.17454), test set, n = 97. Means are from the paper, standard deviations from the
authors' public notebook (Aarhus-RadOnc-AI/MedSAM_multimodality_HNC_GTV_segmentation, commit b6e0100). HD95 is published
only as a figure.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from gtvbench.bench.core.errors import StudyError
from gtvbench.bench.core.fusion import MODALITIES
from gtvbench.bench.core.prompts import policy_from
from gtvbench.bench.study.record import ArmRecord
from gtvbench.reports.run.load import FinishedRun
from gtvbench.reports.sentences.citations import DIGEST_DIGITS, LITEMEDSAM, named
from gtvbench.reports.text.numbers import listed, signed, visible

CITATION = "Ren et al., arXiv 2402.17454"
PATIENTS = 97
WEIGHTS = "lite_medsam.pth"

#: (method, fusion; the study's nnU-Net read all modalities) -> structure -> (mean DSC, SD)
RESULTS: dict[tuple[str, str], dict[str, tuple[float, float]]] = {
    ("litemedsam-zero-shot", "ct-only"): {"GTV-T": (0.69, 0.10), "GTV-N": (0.75, 0.10)},
    ("litemedsam-zero-shot", "multimodal"): {"GTV-T": (0.70, 0.13), "GTV-N": (0.68, 0.11)},
    ("litemedsam-fine-tuned", "ct-only"): {"GTV-T": (0.82, 0.06), "GTV-N": (0.85, 0.04)},
    ("litemedsam-fine-tuned", "multimodal"): {"GTV-T": (0.82, 0.07), "GTV-N": (0.85, 0.05)},
    ("nnunet", "multimodal"): {"GTV-T": (0.68, 0.22), "GTV-N": (0.63, 0.33)},
    ("nnunet-box", "multimodal"): {"GTV-T": (0.88, 0.03), "GTV-N": (0.89, 0.03)},
}


def comparable(structures: Iterable[str]) -> bool:
    """Whether the structures are the study's, so that its results may stand beside ours."""
    names = set(structures)
    return bool(names) and names <= {"GTV-T", "GTV-N"}


def remark(run: FinishedRun, summary: pd.DataFrame) -> str | None:
    """How far our mean DSC lies from the published one, of arms that did what the study did; None where none did.

    `summary` is tables.score_summary of the whole volume. Such an arm is of real patients with the study's structures,
    all four modalities and its prompts, complete, from the published weights and with the whole schedule.
    """
    if run.synthetic or not comparable(run.structures) or not set(MODALITIES) <= _modalities(run):
        return None
    means = {(str(r["arm"]), str(r["structure"])): float(r["dsc_mean"]) for r in summary.to_dict("records")}
    found = []
    for arm in run.scored_arms:
        results = _published(arm) if _as_published(run, arm) else None
        for structure, (mean, _) in (results or {}).items():
            ours = means.get((arm.name, structure))
            if ours is not None and ours == ours:
                found.append(f"{visible(arm.name)} {signed(ours - mean, 2)} ({structure})")
    if not found:
        return None
    return (
        f"Mean DSC here less the published one, of arms with the study's design, weights and schedule: "
        f"{listed(found)}. Other patients, observers and scanners lie between the two numbers, so no test is made."
    )


def has_weights(arm: ArmRecord) -> bool:
    """Whether an arm starts from the weights that the study started from; methods without weights do."""
    return arm.kind not in LITEMEDSAM or arm.published_weights == WEIGHTS


def caption(run: FinishedRun) -> str:
    """Title of the table, which says what weights LiteMedSAM has here."""
    file = next((arm.weights.get("sha256") for arm in run.scored_arms if arm.published_weights == WEIGHTS), None)
    digest = f" (SHA-256 {named(file)[:DIGEST_DIGITS]}…)" if file else ""
    return f"Mean DSC ± SD; LiteMedSAM is shown here only with its published weights, verified{digest}"


def _modalities(run: FinishedRun) -> set[str]:
    return {str(modality) for modality in run.provenance.get("modalities") or ()}


def _published(arm: ArmRecord) -> dict[str, tuple[float, float]] | None:
    """The study's results of an arm."""
    return RESULTS.get((arm.kind, arm.fusion))


def _as_published(run: FinishedRun, arm: ArmRecord) -> bool:
    if arm.status != "complete" or arm.cut_schedule or not has_weights(arm):
        return False
    return not arm.box_prompted or _study_prompts(run)


def _study_prompts(run: FinishedRun) -> bool:
    """Whether boxes had the study's margin of 0 to 20 mm on each side."""
    try:
        policy = policy_from(str((run.study.get("prompts") or {}).get("policy")))
    except StudyError:
        return False
    return (policy.low_mm, policy.high_mm) == (0.0, 20.0)
