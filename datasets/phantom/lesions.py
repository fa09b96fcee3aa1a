"""Lesions of the phantom and what looks like them.

Every lesion and every look-alike draws its tissue from one law, so no modality, nor all together, tells a tumour from
an uninvolved node or from physiological uptake. Site does, and for what shares a tumour's site its size:

* GTV-T, 20 to 45 mm in mean diameter: one, at the wall of the pharynx or larynx, bulging into the airway;
* GTV-N, 10 to 30 mm: none to three, on the jugular chains under the sternocleidomastoid muscles;
* look-alikes elsewhere: nodes of the posterior triangle and under the chin, uptake in salivary glands, neck muscles and
  the floor of the mouth, sizes as of tumours;
* look-alikes at tumour sites, smaller than any tumour there: palatine tonsils (a pair of 9 to 14 mm), chain nodes of
  5 to 8 mm (a short axis below 10 mm is normal: RECIST 1.1, Eisenhauer et al., Eur J Cancer 2009;45:228-247).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gtvbench.datasets.phantom.anatomy import AIRWAY, CHAIN, MUSCLE, Tissue
from gtvbench.datasets.phantom.shapes import Point, Shape, Waves, blob, ellipsoid

PRIMARY_MM = (20.0, 45.0)
NODAL_MM = (10.0, 30.0)
NODE_COUNT_SHARES = (0.25, 0.3, 0.25, 0.2)
_TRIES = 60


@dataclass(frozen=True)
class Lesion:
    """A lesion or look-alike: `kind` is GTV-T, GTV-N or the look-alike's name; `size_mm` is its mean diameter."""

    kind: str
    centre: Point
    size_mm: float
    tissue: Tissue
    shape: Shape
    texture: Waves
    core: tuple[Shape, Tissue] | None = None

    @property
    def is_target(self) -> bool:
        """Whether the reference label map holds it."""
        return self.kind in ("GTV-T", "GTV-N")


def draw_tissue(rng: np.random.Generator) -> Tissue:
    """Tissue of a tumour or a look-alike, both drawn from one distribution.

    A little denser than muscle, with high uptake on PET, and bright on T2w.
    """
    return Tissue(
        ct=MUSCLE.ct + float(rng.uniform(8, 34)),
        pet=float(np.clip(np.exp(rng.normal(np.log(7.0), 0.35)), 3.5, 15.0)),
        t1=MUSCLE.t1 * float(rng.uniform(0.85, 1.1)),
        t2=MUSCLE.t2 * float(rng.uniform(1.7, 2.6)),
    )


def draw_lesions(rng: np.random.Generator, inside: Callable[[Point, float], bool]) -> tuple[Lesion, ...]:
    """Lesions and look-alikes of one patient: GTV-T first, then GTV-N, then look-alikes.

    `inside(centre, margin)` tells whether a position (patient mm) lies in the grid with a margin in mm. What finds no
    place in a small grid is left out, except GTV-T, which goes to the pharynx at mid-height as a last resort.
    """
    placed: list[Lesion] = [_primary(rng, inside)]
    count = int(rng.choice(len(NODE_COUNT_SHARES), p=NODE_COUNT_SHARES))
    main_side = 1 if placed[0].centre[2] >= 0 else -1
    for _ in range(count):
        size = float(rng.triangular(NODAL_MM[0], 14.0, NODAL_MM[1]))
        _add(placed, rng, inside, "GTV-N", size, lambda: _on_chain(rng, main_side, 5.0), apart=0.85)
    for _ in range(int(rng.integers(1, 4))):
        _add(placed, rng, inside, "small node", float(rng.uniform(5, 8)), lambda: _on_chain(rng, main_side, 7.0))
    for _ in range(int(rng.integers(1, 3))):
        _add(placed, rng, inside, "reactive node", float(rng.uniform(9, 17)), lambda: _off_chain(rng))
    for _ in range(int(rng.integers(1, 3))):
        kind = str(rng.choice(tuple(_PHYSIOLOGICAL)))
        middle, spread, sizes = _PHYSIOLOGICAL[kind]
        place = lambda m=middle, s=spread: _near(rng, m, s)  # noqa: E731
        _add(placed, rng, inside, kind, float(rng.uniform(*sizes)), place)
    if rng.random() < 0.5:
        _tonsils(placed, rng, inside)
    return tuple(placed)


#: Physiological uptake: centre of the left side (z, y, x), spread and range of diameters in mm.
_PHYSIOLOGICAL: dict[str, tuple[Point, Point, tuple[float, float]]] = {
    "parotid uptake": ((34, 6, 57), (6, 4, 1.5), (12, 18)),
    "neck muscle uptake": ((-12, 42, 19), (16, 4, 4), (16, 34)),
    "floor of mouth uptake": ((4, -44, 9), (3, 3, 4), (14, 24)),
}


def _primary(rng: np.random.Generator, inside: Callable[[Point, float], bool]) -> Lesion:
    size = float(rng.uniform(PRIMARY_MM[0] + 2, PRIMARY_MM[1] - 5))
    centre: Point = (0.0, AIRWAY.at(0.0)[0], AIRWAY.at(0.0)[3])
    for _ in range(_TRIES):
        z = float(rng.uniform(-30, 32))
        y, x, ry, rx = AIRWAY.at(z)
        # Either side wall, turning to the front or the back; the wall right in front of the spine is spared.
        angle = float(rng.uniform(-0.45, 1.05)) * np.pi / 2
        side = 1 if rng.random() < 0.5 else -1
        depth = 0.30 * size
        found = (z, y - (ry + depth) * float(np.sin(angle)), x + side * (rx + depth) * float(np.cos(angle)))
        if inside(found, 0.6 * size):
            centre = found
            break
    return _lesion(rng, "GTV-T", centre, size)


def _add(
    placed: list[Lesion],
    rng: np.random.Generator,
    inside: Callable[[Point, float], bool],
    kind: str,
    size: float,
    place: Callable[[], Point],
    apart: float = 1.0,
) -> None:
    """Add a lesion where it lies in the grid and clear of the others, or none where no place is found."""
    for _ in range(_TRIES):
        centre = place()
        if not inside(centre, 0.6 * size):
            continue
        gaps = []
        for other in placed:
            distance = float(np.linalg.norm(np.subtract(centre, other.centre)))
            gaps.append(distance - _share(kind, other) * apart * (size + other.size_mm) / 2)
        if min(gaps) > (0 if kind == "GTV-N" else 3):
            placed.append(_lesion(rng, kind, centre, size))
            return


def _share(kind: str, other: Lesion) -> float:
    """Look-alikes keep clear of the irregular outline of tumours; nodes may touch one another and the primary."""
    return 1.0 if kind == "GTV-N" or not other.is_target else 1.25


def _lesion(rng: np.random.Generator, kind: str, centre: Point, size: float) -> Lesion:
    stretch = np.exp(rng.normal(0, 0.16, 3))
    stretch *= 1 / np.cbrt(np.prod(stretch))
    radii = (size / 2 * float(stretch[0]), size / 2 * float(stretch[1]), size / 2 * float(stretch[2]))
    rough = 0.18 if size > 18 else 0.10
    shape = blob(centre, radii, rng, rough) if size > 9 else ellipsoid(centre, radii)
    tissue = draw_tissue(rng)
    texture = Waves.draw(rng, 7.0, 18.0)
    lesion = Lesion(kind, centre, size, tissue, shape, texture)
    if size < 18 or rng.random() > 0.35:
        return lesion
    away = rng.normal(0, 0.12 * size, 3)
    middle = (centre[0] + float(away[0]), centre[1] + float(away[1]), centre[2] + float(away[2]))
    necrosis = Tissue(tissue.ct - 28, tissue.pet * 0.3, tissue.t1 * 0.8, tissue.t2 * 1.5)
    return replace(lesion, core=(ellipsoid(middle, (radii[0] * 0.45, radii[1] * 0.45, radii[2] * 0.45)), necrosis))


def _on_chain(rng: np.random.Generator, main_side: int, spread: float) -> Point:
    z = float(rng.uniform(-46, 36))
    y, x, _, _ = CHAIN.at(z)
    side = main_side if rng.random() < 0.65 else -main_side
    dy, dx = np.clip(rng.normal(0, spread / 2, 2), -spread, spread)
    return z, y + float(dy), side * (x + float(dx))


def _off_chain(rng: np.random.Generator) -> Point:
    side = 1 if rng.random() < 0.5 else -1
    if rng.random() < 0.7:  # posterior triangle
        return _near(rng, (-10, 31, 40), (14, 3, 2.5), side)
    return _near(rng, (2, -50, 7), (3, 2, 3), side)  # under the chin


def _near(rng: np.random.Generator, middle: Point, spread: Point, side: int | None = None) -> Point:
    z, y, x = (float(rng.uniform(m - 1.7 * s, m + 1.7 * s)) for m, s in zip(middle, spread, strict=True))
    return z, y, (side or (1 if rng.random() < 0.5 else -1)) * x


def _tonsils(placed: list[Lesion], rng: np.random.Generator, inside: Callable[[Point, float], bool]) -> None:
    """Palatine tonsils, alike on both sides; a tumour that has grown there takes its side's place."""
    size = float(rng.uniform(9, 14))
    z = float(rng.uniform(16, 27))
    y, x, _, rx = AIRWAY.at(z)
    first: Lesion | None = None
    for side in (-1, 1):
        before = len(placed)
        _add(placed, rng, inside, "tonsil", size, lambda s=side: (z, y, x + s * (rx + 0.35 * size)))  # type: ignore[misc]
        if len(placed) > before and first is None:
            first = placed[-1]
        elif len(placed) > before and first is not None:
            placed[-1] = replace(placed[-1], tissue=first.tissue)
