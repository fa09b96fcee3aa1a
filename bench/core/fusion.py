"""Modalities, their scaling to 0-255, and the named fusions that make three-channel slices of them.

Values: Ren et al., arXiv 2402.17454, section 2: CT window level 40 and width 400 HU, PET clipped to SUV 0-6, MR clipped
to 0 and the 99.5th percentile of the volume, each scaled to 0-255. The percentile is taken over voxels above 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gtvbench.bench.core.errors import StudyError

MODALITIES = ("CT", "PET", "T1w", "T2w")
MR = ("T1w", "T2w")
UNITS = {"CT": "HU", "PET": "SUV", "T1w": "a.u.", "T2w": "a.u."}

#: Value outside a modality's field of view, in its own unit.
BACKGROUND = {"CT": -1000.0, "PET": 0.0, "T1w": 0.0, "T2w": 0.0}

CT_LEVEL_HU, CT_WIDTH_HU = 40.0, 400.0
PET_RANGE_SUV = (0.0, 6.0)
MR_PERCENTILE = 99.5

UInt8 = npt.NDArray[np.uint8]


def display_range(modality: str, volume: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Lower and upper end, in the modality's unit, of the range that is scaled to 0-255.

    `volume` is (z, y, x); only MR looks at it. An MR volume without a voxel above 0 has the range (0, 1).
    """
    if modality == "CT":
        return CT_LEVEL_HU - CT_WIDTH_HU / 2, CT_LEVEL_HU + CT_WIDTH_HU / 2
    if modality == "PET":
        return PET_RANGE_SUV
    if modality in MR:
        positive = volume[volume > 0]
        if not positive.size:
            return 0.0, 1.0
        return 0.0, float(np.percentile(positive, MR_PERCENTILE, overwrite_input=True))  # spares a copy
    raise StudyError(f"unknown modality {modality!r}", remedy=f"use one of {', '.join(MODALITIES)}")


def to_uint8(volume: npt.NDArray[np.floating], low: float, high: float) -> UInt8:
    """Clip to [low, high] and scale to 0-255, rounded half up; slice by slice, so memory stays small."""
    out = np.empty(volume.shape, np.uint8)
    scale = np.float32(255.0 / max(high - low, 1e-12))
    for z in range(volume.shape[0]):
        plane = np.clip(volume[z].astype(np.float32, copy=False), low, high)
        out[z] = np.floor((plane - np.float32(low)) * scale + np.float32(0.5)).clip(0, 255)
    return out


@dataclass(frozen=True)
class Fusion:
    """How modalities become channels: `channels` holds, for R, G and B, the modalities whose mean fills it."""

    name: str
    channels: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    description: str

    def modalities(self, available: Sequence[str]) -> tuple[str, ...]:
        """Modalities that this fusion reads, in the order of MODALITIES, of those available."""
        wanted = {m for channel in self.channels for m in channel}
        return tuple(m for m in MODALITIES if m in wanted and m in available)

    def unavailable(self, available: Sequence[str]) -> str | None:
        """Why this fusion cannot be made of the modalities available, or None where it can."""
        if not self.reads_ct:
            return None if self.modalities(available) else "the data have no MR"
        if "CT" not in available:
            return "the data have no CT"
        if self.name != "ct-only" and not set(self.modalities(available)) - {"CT"}:
            return "the data have no modality beside CT, so the fusion would equal ct-only"
        return None

    @property
    def reads_ct(self) -> bool:
        """Whether CT is among the modalities that make this fusion."""
        return any("CT" in names for names in self.channels)

    def present(self, available: Sequence[str]) -> list[list[str]]:
        """For R, G and B the modalities available whose mean fills the channel; one of which none exists repeats CT."""
        return [[name for name in names if name in available] or ["CT"] for names in self.channels]

    def fuse(self, planes: Mapping[str, UInt8]) -> UInt8:
        """Three channels (..., 3) of uint8 planes (..., ) that share a shape, keyed by modality.

        A channel takes the mean of those of its modalities that exist (so with one MR missing, B is the other);
        a channel of which none exists repeats CT.
        """
        shape = next(iter(planes.values())).shape
        out = np.empty((*shape, 3), np.uint8)
        for index, names in enumerate(self.present(tuple(planes))):
            found = [planes[name] for name in names]
            if len(found) > 1:
                total = np.sum([p.astype(np.uint16) for p in found], axis=0, dtype=np.uint16)
                out[..., index] = (total + len(found) // 2) // len(found)
            else:
                out[..., index] = found[0]
        return out


FUSIONS: Mapping[str, Fusion] = {
    fusion.name: fusion
    for fusion in (
        Fusion("ct-only", (("CT",), ("CT",), ("CT",)), "CT in all three channels"),
        Fusion("multimodal", (("CT",), ("PET",), MR), "R = CT, G = PET, B = mean of T1w and T2w"),
        Fusion("mr-only", (MR, MR, MR), "the mean of T1w and T2w, or the one there is, in all three channels"),
    )
}

#: The fusions of the study; a method that does not say otherwise has these. Where the data can serve none of them (no
#: CT), it gets those that they can.
STUDY_FUSIONS = ("ct-only", "multimodal")

#: Stands for the fusion of a method that does not look at images.
NO_FUSION = "none"
