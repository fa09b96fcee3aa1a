"""Which modality of the study a stack of slices is, from its header: CT, attenuation-corrected PET, T1w, T2w, or none.

T1 and T2 weighting are told by the description where it names one, else by echo and repetition time. Limits of spin
echo after McRobbie et al., MRI from Picture to Proton, 2nd ed., ch. 3 (T1w: short TE and TR; T2w: long TE and TR).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gtvbench.datasets.dicom.headers.facts import Facts
from gtvbench.datasets.dicom.headers.index import Stack

#: Other contrasts and maps that a description may name beside T1 or T2.
_OTHER_MR = re.compile(
    r"dwi|diff|\badc\b|b-?\d{3,4}\b|t2[ _]?\*|t2 ?star|swi|flair|dark.?fluid|perf|dce|tof|angio|\bmra\b|\bmap\b|"
    r"t[12][ _-]?map|scout|locali[sz]er|survey|proton|\bpdw?\b|spectro|subtract|\bsub\b|mip|fieldmap|\bb0\b",
    re.IGNORECASE,
)
_T1 = re.compile(r"t1(?!\d)|mp-?rage|spgr|fspgr|bravo|vibe|lava|thrive|\bfl3d|\btfl", re.IGNORECASE)
_T2 = re.compile(r"t2(?!\d)|haste|ssfse|\bspace\b|stir|tirm", re.IGNORECASE)
_MIP = re.compile(r"\bmip\b|mip$|projection|cine", re.IGNORECASE)
_NOT_CORRECTED = re.compile(r"\bnac\b|non.?ac\b|no.?ac\b|uncorrected|\bnot? corr", re.IGNORECASE)

SPIN_ECHO_T1 = (30.0, 1200.0)  # at most: TE, TR in ms
SPIN_ECHO_T2 = (60.0, 1800.0)  # at least


@dataclass(frozen=True)
class Kind:
    """`modality` of the study (None: not one that a study uses), and why it is none or what to know about it."""

    modality: str | None
    remark: str = ""


def kind_of(stack: Stack) -> Kind:
    """The modality that a stack of slices can serve as."""
    facts = stack.facts
    if (reason := stack.no_volume) is not None:
        return Kind(None, reason)
    if facts.modality == "CT":
        return Kind("CT", _joined(_derived(facts), facts.kernel, facts.contrast and "contrast"))
    if facts.modality == "PT":
        return _pet(facts)
    return _mr(facts)


def _pet(facts: Facts) -> Kind:
    text = _words(facts)
    if _MIP.search(text) or "MIP" in facts.image_type:
        return Kind(None, "projection")
    if facts.corrected and "ATTN" not in facts.corrected:
        return Kind(None, "not attenuation-corrected")
    if not facts.corrected and _NOT_CORRECTED.search(text):
        return Kind(None, "not attenuation-corrected, by its description")
    return Kind("PET", _joined(facts.units, _derived(facts)))


def _mr(facts: Facts) -> Kind:
    text = _words(facts)
    if "M" not in facts.image_type and any(part in facts.image_type for part in ("P", "PHASE", "PHASE MAP", "I", "R")):
        return Kind(None, "phase, real or imaginary part")
    if _OTHER_MR.search(text):
        return Kind(None, "another contrast, by its description")
    contrast = facts.contrast and "contrast"
    t1, t2 = _T1.search(text), _T2.search(text)
    if bool(t1) != bool(t2):
        return Kind("T1w" if t1 else "T2w", _joined(contrast))
    weighting = _by_times(facts)
    if weighting is None:
        return Kind(None, "neither description nor TE and TR tell the weighting")
    return Kind(weighting, _joined("by TE and TR", contrast))


def _by_times(facts: Facts) -> str | None:
    te, tr = facts.echo_time, facts.repetition_time
    if te is None or tr is None or "SE" not in facts.sequence:
        return None
    if te <= SPIN_ECHO_T1[0] and tr <= SPIN_ECHO_T1[1]:
        return "T1w"
    return "T2w" if te >= SPIN_ECHO_T2[0] and tr >= SPIN_ECHO_T2[1] else None


def _derived(facts: Facts) -> str:
    return "derived" if "DERIVED" in facts.image_type else ""


def _words(facts: Facts) -> str:
    return f"{facts.description} {facts.protocol}".replace("_", " ")


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
