"""The normal anatomy of the phantom: tissues and organs of the neck and lower head, in patient millimetres.

Positions are round figures of an adult's anatomy, z up from the middle of the neck, y to the back, x to the left.
Values are typical of contrast-enhanced CT (HU), FDG-PET (SUV) and spin-echo MR (scanner units); none was fitted to a
method.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gtvbench.datasets.phantom.shapes import (
    Array,
    Point,
    Profile,
    Shape,
    clipped,
    ellipsoid,
    mirrored,
    shrunk,
    tube,
    union,
    without,
)


@dataclass(frozen=True)
class Tissue:
    """What a tissue shows: HU, SUV, T1w and T2w signal."""

    ct: float
    pet: float
    t1: float
    t2: float

    def values(self) -> dict[str, float]:
        """Value of each modality."""
        return {"CT": self.ct, "PET": self.pet, "T1w": self.t1, "T2w": self.t2}

    def varied(self, rng: np.random.Generator) -> Tissue:
        """The same tissue in another patient: CT +- 3 HU, the others +- 8 %."""
        d = rng.standard_normal(4)
        pet, t1, t2 = (v * float(np.exp(0.08 * n)) for v, n in zip((self.pet, self.t1, self.t2), d[1:], strict=True))
        return Tissue(self.ct + 3 * float(d[0]), pet, t1, t2)


AIR = Tissue(-1000, 0.0, 0, 0)
FAT = Tissue(-95, 0.35, 760, 430)
SKIN = Tissue(20, 0.7, 330, 190)
MUSCLE = Tissue(58, 0.9, 300, 150)
MUCOSA = Tissue(62, 1.5, 310, 240)
CORTEX = Tissue(950, 0.4, 40, 30)
MARROW = Tissue(280, 1.3, 460, 230)
TOOTH = Tissue(1700, 0.2, 15, 15)
DISC = Tissue(90, 0.7, 260, 200)
CORD = Tissue(38, 1.6, 330, 260)
FLUID = Tissue(12, 0.4, 130, 850)
CARTILAGE = Tissue(160, 0.8, 220, 130)
THYROID = Tissue(125, 1.4, 380, 280)
PAROTID = Tissue(8, 1.9, 520, 330)
SUBMANDIBULAR = Tissue(52, 2.1, 400, 300)
BLOOD = Tissue(165, 1.5, 90, 70)
BRAIN = Tissue(36, 6.5, 380, 300)

AIRWAY = Profile(
    z=(-140, -60, -38, -25, -12, 0, 15, 30, 45, 62),
    y=(-16, -18, -22, -24, -14, -8, -4, -3, -3, -8),
    x=(0,) * 10,
    radius_y=(8.5, 8.5, 8, 9, 5, 5, 6.5, 7, 9, 10),
    radius_x=(8.5, 8.5, 7.5, 4.5, 11, 13, 13, 13, 12, 11),
)
BODY = Profile(
    z=(-160, -75, -55, -35, -10, 10, 30, 60, 120, 165, 188, 195),
    y=(15, 15, 12, 8, 4, 0, -6, -4, 8, 12, 12, 12),
    x=(0,) * 12,
    radius_y=(105, 85, 72, 64, 62, 67, 78, 86, 95, 72, 35, 3),
    radius_x=(200, 125, 84, 66, 60, 64, 69, 73, 78, 58, 30, 3),
)
#: Centre line of the left jugular chain of nodes (levels II to IV), under the sternocleidomastoid muscle.
CHAIN = Profile(
    z=(-48, -20, 0, 20, 38), y=(-6, -2, 3, 9, 13), x=(30, 34, 37, 41, 43), radius_y=(1,) * 5, radius_x=(1,) * 5
)
_STERNOMASTOID = Profile(
    z=(-62, -40, -10, 20, 52),
    y=(-32, -24, -8, 12, 27),
    x=(17, 30, 43, 50, 54),
    radius_y=(8, 10, 14, 13, 11),
    radius_x=(8, 9, 7.5, 7.5, 8),
)
_TRAPEZIUS = Profile((-300, -60, -35, 0), (64, 62, 58, 56), (40, 34, 26, 16), (9, 8, 7, 6), (32, 26, 20, 15))
_CAROTID = Profile((-140, -40, 0, 30, 55), (-8, -4, 2, 7, 9), (18, 22, 24, 26, 26), (3.6,) * 5, (3.6,) * 5)
_JUGULAR = Profile(
    (-140, -40, 0, 30, 55), (-4, 1, 7, 13, 15), (24, 30, 31, 31, 29), (5, 5, 5, 4.5, 4), (6, 6, 5, 4.5, 4)
)

Layer = tuple[Shape, Tissue]


@dataclass(frozen=True)
class Anatomy:
    """What is painted, in order: `soft` before the lesions, `hard` (bone and air) after them; air outside `body`."""

    body: Shape
    soft: tuple[Layer, ...]
    hard: tuple[Layer, ...]
    bone: Shape
    airway: Shape


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """One patient's normal anatomy; fat thickness, sizes of glands and vessels and all tissue values vary."""
    fat_mm = float(rng.uniform(3.5, 9.0))
    tissues = {t: t.varied(rng) for t in (MUSCLE, FAT, PAROTID, SUBMANDIBULAR, THYROID, BLOOD, MARROW, MUCOSA)}
    jaw = ellipsoid((18, -42, 0), (25, 36, 47))
    body = union(tube(BODY, -1e4), jaw)
    mandible, teeth, maxilla = _jaw(rng)
    vertebrae, discs = _spine(float(rng.uniform(0, 19)))
    airway = tube(_resized(AIRWAY, rng, 0.12), -1e4)
    soft = [
        (body, SKIN),
        (shrunk(body, 2.0), tissues[FAT]),
        *((shape, tissues[MUSCLE]) for shape in _muscles(body, fat_mm)),
        *((shape, tissues[PAROTID]) for shape in _pair(rng, (34, 8, 54), (21, 15, 10.5))),
        *((shape, tissues[SUBMANDIBULAR]) for shape in _pair(rng, (-3, -30, 29), (12, 14, 9.5))),
        *((shape, tissues[THYROID]) for shape in _pair(rng, (-48, -19, 17), (17, 9, 8))),
        (tube(_resized(AIRWAY, rng, 0.05).grown(4.0), -1e4), tissues[MUCOSA]),
        (_larynx(), CARTILAGE),
        *((tube(_resized(p, rng, 0.15), -1e4, 58), tissues[BLOOD]) for p in (_CAROTID, _CAROTID.mirrored())),
        *((tube(_resized(p, rng, 0.3), -1e4, 58), tissues[BLOOD]) for p in (_JUGULAR, _JUGULAR.mirrored())),
    ]
    canal = tube(Profile((-300, 58), (31, 31), (0, 0), (7.5, 7.5), (9, 9)), -1e4)
    cord = tube(Profile((-300, 58), (31, 31), (0, 0), (4, 4), (5.5, 5.5)), -1e4)
    skull = ellipsoid((122, 8, 0), (68, 90, 73))
    hard = [
        (airway, AIR),
        (discs, DISC),
        (vertebrae, CORTEX),
        (shrunk(vertebrae, 2.2), tissues[MARROW]),
        (canal, FLUID),
        (cord, CORD),
        (union(mandible, maxilla), CORTEX),
        (shrunk(mandible, 2.4), tissues[MARROW]),
        (teeth, TOOTH),
        (skull, CORTEX),
        (shrunk(skull, 7), BRAIN),
    ]
    bone = union(vertebrae, discs, canal, mandible, maxilla, teeth)
    return Anatomy(body, tuple(soft), tuple(hard), bone, airway)


def _muscles(body: Shape, fat_mm: float) -> list[Shape]:
    deep = shrunk(body, 2.0 + fat_mm)

    def kept(shape: Shape) -> Shape:
        return Shape(lambda z, y, x: np.maximum(shape.field(z, y, x), deep.field(z, y, x)), shape.low, shape.high)

    def straight(y: float, x: float, ry: float, rx: float, low: float, high: float) -> Shape:
        return tube(Profile((low, high), (y, y), (x, x), (ry, ry), (rx, rx)))

    sided = [
        straight(46, 11, 13, 9.5, -300, 48),  # semispinalis
        straight(38, 27, 15, 8, -300, 48),  # splenius
        straight(22, 33, 12, 7, -300, 20),  # levator scapulae, scalenes
        straight(7, 8, 4, 6.5, -300, 40),  # longus colli
        tube(_STERNOMASTOID),
        ellipsoid((30, -14, 55), (21, 15, 6.5)),  # masseter
        ellipsoid((34, -8, 33), (19, 14, 6)),  # medial pterygoid
        tube(_TRAPEZIUS),
    ]
    middle = [
        ellipsoid((20, -30, 0), (19, 27, 24)),  # tongue
        ellipsoid((2, -36, 0), (9, 22, 21)),  # floor of the mouth
        tube(Profile((-300, -40, -12, 0), (-24, -26, -22, -22), (0,) * 4, (10, 13, 15, 13), (17, 19, 22, 20))),  # strap
    ]
    return [kept(s) for s in (*sided, *(mirrored(s) for s in sided), *middle)]


def _jaw(rng: np.random.Generator) -> tuple[Shape, Shape, Shape]:
    """Mandible, teeth and maxilla; some patients have few teeth."""

    def arch(low: float, high: float, ry: float, rx: float, half: float) -> Shape:
        least = min(ry, rx)

        def field(z: Array, y: Array, x: Array) -> Array:
            ring = (np.sqrt(((y + 12) / ry) ** 2 + (x / rx) ** 2) - 1) * np.float32(least)
            walls: Array = np.maximum(np.abs(ring) - np.float32(half), np.abs(z - (low + high) / 2) - (high - low) / 2)
            return walls

        return clipped(Shape(field, (low, -18 - ry, -rx - 6), (high, -6, rx + 6)), (None,) * 3, (None, -6.0, None))

    ramus = tube(Profile((8, 34, 60), (-4, -2, 0), (42, 45, 47), (14, 14, 12), (4.5, 4, 4)))
    mandible = union(arch(2, 23, 49, 41, 4.5), ramus, mirrored(ramus))
    row = arch(23, 33, 46, 36, 3.0)
    period, phase = 9.0, float(rng.uniform(0, 9))
    front = float(rng.uniform(-52, -30))

    def spaced(z: Array, y: Array, x: Array) -> Array:
        gaps = np.float32(2.2) * np.cos((np.abs(x) + np.float32(phase)) * np.float32(2 * np.pi / period))
        teeth: Array = np.maximum.reduce([row.field(z, y, x), gaps, np.float32(front) - y])
        return teeth

    return mandible, replace(row, field=spaced), arch(37, 60, 45, 34, 3.5)


def _spine(phase: float) -> tuple[Shape, Shape]:
    """Vertebrae (bodies with arch and spinous process, every 19 mm) and the column of discs behind and between."""
    column = tube(Profile((-300, 58), (18, 18), (0, 0), (9.5, 9.5), (13, 13)))
    outer = tube(Profile((-300, 58), (31, 31), (0, 0), (13, 13), (17, 17)))
    process = tube(Profile((-300, 58), (47, 47), (0, 0), (11, 11), (3.5, 3.5)))
    whole = union(column, outer, process)

    def field(z: Array, y: Array, x: Array) -> Array:
        height = np.abs(np.mod(z + np.float32(phase), np.float32(19.0)) - np.float32(9.5))
        cut: Array = np.maximum(whole.field(z, y, x), height - np.float32(7.3))
        return cut

    discs = tube(Profile((-300, 58), (18, 18), (0, 0), (8.5, 8.5), (11.5, 11.5)))
    return Shape(field, whole.low, whole.high), discs


def _larynx() -> Shape:
    """Thyroid cartilage: a shield open to the back."""
    ring = tube(Profile((-40, -18), (-24, -22), (0, 0), (18, 17), (16, 17)))
    hollow = tube(Profile((-50, -10), (-24, -22), (0, 0), (14.5, 13.5), (12.5, 13.5)))
    return clipped(without(ring, hollow), (None,) * 3, (None, -18.0, None))


def _pair(rng: np.random.Generator, centre: Point, radii: Point) -> list[Shape]:
    shapes = []
    for side in (-1, 1):
        z, y, x = (c + float(rng.normal(0, 1.5)) for c in (centre[0], centre[1], centre[2]))
        scale = float(rng.uniform(0.85, 1.12))
        shapes.append(ellipsoid((z, y, side * x), (radii[0] * scale, radii[1] * scale, radii[2] * scale)))
    return shapes


def _resized(profile: Profile, rng: np.random.Generator, spread: float) -> Profile:
    factor = float(np.exp(rng.normal(0, spread)))
    return replace(
        profile, radius_y=[r * factor for r in profile.radius_y], radius_x=[r * factor for r in profile.radius_x]
    )
