"""Procedural training slices for the demo weights: generic blobs in textured regions, no patient and no phantom.

Every slice is drawn from a seed derived from names, so slice ``("train", 7)`` is the same on every machine. A slice
holds regions of several grey levels, bright and dark structures, noise at several scales, and objects in three
channels whose contrasts are independent; some channels show nothing, some slices repeat one channel three times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gtvbench.bench.core.digest import generator_from

SIDE = 64
"""Side of a slice in pixels."""
PIXEL_MM = 3.0
"""Side of a pixel in mm."""
MARGIN_MM = 20.0
"""Largest box margin per side in mm (arXiv 2402.17454)."""
_FINE = 2  # shapes are drawn on a grid this many times finer and averaged: partial volume
_SMALLEST_OBJECT = 4  # pixels; what another object covered down to less is no target

Array = NDArray[Any]


@dataclass(frozen=True)
class ShapeSlice:
    """One slice: ``image`` (SIDE, SIDE, 3) uint8, ``masks`` (K, SIDE, SIDE) bool, ``boxes`` (K, 4) y0, x0, y1, x1.

    Boxes are half-open pixels: the tight box of each mask plus four independent margins, clipped to the slice.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    boxes: NDArray[np.int64]


def draw_slice(subset: str, index: int, *, hardness: float = 1.0) -> ShapeSlice:
    """Draw slice ``index`` of ``subset``.

    Args:
        subset: any name; training and evaluation use different ones.
        index: number of the slice within the subset.
        hardness: 0 draws only clear contrasts, 1 goes down to one standard deviation of the noise.
    """
    rng = generator_from("gtvbench-shapes", subset, index)
    while True:
        drawn = _try_slice(rng, hardness)
        if drawn is not None:
            return drawn


def draw_box(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """The tight box of ``mask`` (SIDE, SIDE) plus an independent uniform margin of 0 to 20 mm per side."""
    ys, xs = np.nonzero(mask)
    tight = np.array([ys.min(), xs.min(), ys.max() + 1, xs.max() + 1])
    margin = np.rint(rng.uniform(0.0, MARGIN_MM, 4) / PIXEL_MM) * (-1, -1, 1, 1)
    return np.clip(tight + margin, 0, SIDE).astype(np.int64)


def _try_slice(rng: np.random.Generator, hardness: float) -> ShapeSlice | None:
    same_channels = rng.random() < 0.35
    channels = 1 if same_channels else 3
    body = _body(rng)
    image = np.stack([_background(rng, body) for _ in range(channels)])
    noise_sd = np.exp(rng.uniform(np.log(1.5), np.log(14.0), channels))
    coverages = _objects(rng)
    contrasts = _contrasts(rng, len(coverages), channels, noise_sd, hardness)
    owner = np.full((SIDE, SIDE), -1)
    for number, (coverage, contrast) in enumerate(zip(coverages, contrasts, strict=True)):
        _paint(rng, image, coverage, contrast)
        owner[coverage >= 0.5] = number
    for channel in range(channels):
        blurred = ndimage.gaussian_filter(image[channel], rng.uniform(0.0, 0.9))
        image[channel] = blurred + noise_sd[channel] * _noise(rng)
    targets = [mask for number in range(len(coverages)) if (mask := _largest(owner == number)) is not None]
    if not targets:
        return None
    if same_channels:
        image = np.repeat(image, 3, axis=0)
    masks = np.stack(targets)
    boxes = np.stack([draw_box(mask, rng) for mask in masks])
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return ShapeSlice(np.ascontiguousarray(np.moveaxis(pixels, 0, 2)), masks, boxes)


def _grid(fine: int = 1) -> tuple[Array, Array]:
    axis = (np.arange(SIDE * fine) + 0.5) / fine
    return axis[:, None], axis[None, :]


def _smooth(rng: np.random.Generator, sigma: float) -> Array:
    """Smooth noise of unit standard deviation."""
    field = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), sigma, mode="wrap")
    return np.asarray((field - field.mean()) / (field.std() + 1e-9))


def _noise(rng: np.random.Generator) -> Array:
    """Noise of unit standard deviation, white to coarse."""
    total = rng.standard_normal((SIDE, SIDE))
    if rng.random() < 0.6:
        total = total * rng.uniform(0.2, 1.0) + _smooth(rng, rng.uniform(0.5, 1.5)) * rng.uniform(0.2, 1.0)
    return np.asarray(total / total.std())


def _star(rng: np.random.Generator, centre: Array, radius: float, fine: int = _FINE, rough: float = 0.25) -> Array:
    """Coverage in [0, 1] of a star-convex shape: an ellipse whose radius carries a few Fourier terms."""
    y, x = _grid(fine)
    angle = rng.uniform(0, np.pi)
    squeeze = np.sqrt(rng.uniform(0.45, 1.0))
    dy, dx = y - centre[0], x - centre[1]
    u = (np.cos(angle) * dx + np.sin(angle) * dy) / squeeze
    v = (-np.sin(angle) * dx + np.cos(angle) * dy) * squeeze
    theta = np.arctan2(v, u)
    limit = np.full(theta.shape, radius)
    amplitude = rng.uniform(0.0, rough)
    for order in range(2, 7):
        limit += radius * amplitude * rng.normal() / order * np.cos(order * theta + rng.uniform(0, 2 * np.pi))
    return _average((np.hypot(u, v) <= np.maximum(limit, 0.3 * radius)).astype(float), fine)


def _average(inside: Array, fine: int) -> Array:
    return np.asarray(inside.reshape(SIDE, fine, SIDE, fine).mean(axis=(1, 3)))


def _blob(rng: np.random.Generator, centre: Array, radius: float) -> Array:
    """Coverage of one object: star-convex, a union of several, thresholded smooth noise, or a smooth ellipse."""
    kind = rng.random()
    if kind < 0.35:
        return _star(rng, centre, radius)
    if kind < 0.55:
        return _star(rng, centre, radius, rough=0.08)
    if kind < 0.75:
        parts = [_star(rng, centre + rng.normal(0, 0.5 * radius, 2), radius * rng.uniform(0.45, 0.8)) for _ in "abc"]
        return np.asarray(np.maximum.reduce(parts))
    y, x = _grid()
    distance = np.hypot(y - centre[0], x - centre[1]) / radius
    level = 1.0 - distance + 0.35 * _smooth(rng, max(0.8, 0.35 * radius))
    return np.asarray(np.clip(0.5 + level * radius * 0.8, 0.0, 1.0))


def _body(rng: np.random.Generator) -> Array:
    """Coverage of the body: everything, or one large smooth shape with air around."""
    if rng.random() < 0.25:
        return np.ones((SIDE, SIDE))
    centre = np.array([SIDE / 2, SIDE / 2]) + rng.normal(0, 4, 2)
    return _star(rng, centre, rng.uniform(22, 40), fine=1, rough=0.15)


def _background(rng: np.random.Generator, body: Array) -> Array:
    """One channel without objects: tissue of several levels, or a quiet channel with little in it."""
    quiet = rng.random() < 0.35
    base = rng.uniform(3, 40) if quiet else rng.uniform(50, 190)
    spread = rng.uniform(0, 10) if quiet else rng.uniform(2, 45)
    fields = np.stack([_smooth(rng, rng.uniform(2.5, 9)) + rng.normal(0, 0.5) for _ in range(rng.integers(2, 6))])
    levels = base + spread * rng.standard_normal(len(fields))
    channel = ndimage.gaussian_filter(levels[fields.argmax(axis=0)], rng.uniform(0.3, 1.0))
    channel += rng.uniform(0, 8) * _smooth(rng, rng.uniform(2, 12))
    for _ in range(rng.integers(0, 4)):  # bone and air
        centre = rng.uniform(4, SIDE - 4, 2)
        shape = _star(rng, centre, np.exp(rng.uniform(np.log(1.5), np.log(8))), fine=1)
        if rng.random() < 0.3:
            shape = np.clip(shape - ndimage.minimum_filter(shape, 3), 0, 1)
        level = rng.uniform(0, 20) if rng.random() < 0.4 else base + rng.uniform(30, 140)
        channel += shape * (level - channel)
    outside = 0.0 if rng.random() < 0.8 else rng.uniform(0, 30)
    return np.asarray(outside + body * (channel - outside))


def _objects(rng: np.random.Generator) -> list[Array]:
    """Coverages (SIDE, SIDE) of 3 to 6 objects of 8 to 60 mm, some touching a neighbour, some on the border."""
    drawn: list[tuple[Array, float]] = []
    coverages: list[Array] = []
    for _ in range(rng.integers(3, 7)):
        diameter_mm = rng.uniform(12, 55) if rng.random() < 0.75 else rng.uniform(8, 20)
        radius = diameter_mm / PIXEL_MM / 2
        if drawn and rng.random() < 0.35:
            neighbour, other = drawn[rng.integers(len(drawn))]
            angle = rng.uniform(0, 2 * np.pi)
            away = (radius + other) * rng.uniform(0.85, 1.5)
            centre = neighbour + away * np.array([np.sin(angle), np.cos(angle)])
        else:
            centre = rng.uniform(0 if rng.random() < 0.15 else 6, SIDE - 6, 2)
        drawn.append((centre, radius))
        coverages.append(_blob(rng, centre, radius))
    order = np.argsort([-radius for _, radius in drawn])  # small ones last, so that large ones do not bury them
    return [coverages[i] for i in order]


def _contrasts(
    rng: np.random.Generator, count: int, channels: int, noise_sd: Array, hardness: float
) -> NDArray[np.float64]:
    """Contrast (count, channels) of every object in grey levels; objects of a slice often share theirs."""
    faintest = np.log(6.0) * (1 - hardness) + np.log(1.2) * hardness

    def one() -> Array:
        strength = np.exp(rng.uniform(faintest, np.log(25.0), channels))
        sign = rng.choice([-1.0, 1.0], channels, p=[0.35, 0.65])
        shown = rng.random(channels) < 0.7
        shown[rng.integers(channels)] = True
        return np.asarray(np.clip(strength * noise_sd, 0, 150) * sign * shown)

    shared = one()
    return np.stack([shared if rng.random() < 0.5 else one() for _ in range(count)])


def _paint(rng: np.random.Generator, image: Array, coverage: Array, contrast: Array) -> None:
    """Put one object into ``image`` (channels, SIDE, SIDE) in place."""
    total = coverage.sum()
    if total < 1e-6:
        return
    keeps_texture = rng.random() < 0.3
    uneven = 1.0 + rng.uniform(0, 0.3) * _smooth(rng, rng.uniform(1, 4))
    core = ndimage.gaussian_filter(coverage, 2.0) ** 3 if rng.random() < 0.12 else None
    for channel, amount in zip(image, contrast, strict=True):
        if amount == 0:
            continue
        around = channel if keeps_texture else (channel * coverage).sum() / total
        inside = around + amount * uneven
        if core is not None:
            inside = inside - 0.7 * amount * core
        channel += coverage * (inside - channel)


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """The largest 8-connected component, or None where too little is left of it."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count == 0:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    if sizes.max() < _SMALLEST_OBJECT:
        return None
    return np.asarray(labels == sizes.argmax() + 1)
