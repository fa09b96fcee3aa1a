"""Results of the study that gtvbench generalises, for display beside ours.

Ren, Rasmussen, Nijkamp, Eriksen, Korreman: Segment anything model for head and neck tumor segmentation with CT, PET and
MRI multi-modality images (arXiv 2402.17454), test set, n = 97. Means are from the paper, standard deviations from the
authors' public notebook (Aarhus-RadOnc-AI/MedSAM_multimodality_HNC_GTV_segmentation, commit b6e0100). HD95 is published
only as a figure.
"""

from __future__ import annotations

from collections.abc import Iterable

CITATION = "Ren et al., arXiv 2402.17454"
PATIENTS = 97

#: (method, fusion or None for any) -> structure -> (mean DSC, SD)
RESULTS: dict[tuple[str, str | None], dict[str, tuple[float, float]]] = {
    ("litemedsam-zero-shot", "ct-only"): {"GTV-T": (0.69, 0.10), "GTV-N": (0.75, 0.10)},
    ("litemedsam-zero-shot", "multimodal"): {"GTV-T": (0.70, 0.13), "GTV-N": (0.68, 0.11)},
    ("litemedsam-fine-tuned", "ct-only"): {"GTV-T": (0.82, 0.06), "GTV-N": (0.85, 0.04)},
    ("litemedsam-fine-tuned", "multimodal"): {"GTV-T": (0.82, 0.07), "GTV-N": (0.85, 0.05)},
    ("nnunet", None): {"GTV-T": (0.68, 0.22), "GTV-N": (0.63, 0.33)},
    ("nnunet-box", None): {"GTV-T": (0.88, 0.03), "GTV-N": (0.89, 0.03)},
}


def comparable(structures: Iterable[str]) -> bool:
    """Whether the structures are the study's, so that its results may stand beside ours."""
    names = set(structures)
    return bool(names) and names <= {"GTV-T", "GTV-N"}
