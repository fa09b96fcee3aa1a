"""Numbers of one pair of masks, against surface-distance itself, worked examples and values on real masks."""

from __future__ import annotations

import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import surface_distance
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st

from gtvbench.bench.files import nifti
from gtvbench.bench.score import metrics

Mask = npt.NDArray[np.bool_]
Pair = tuple[Mask, Mask, tuple[float, float, float]]
DATA = Path(os.environ.get("GTVBENCH_TEST_DATA") or Path(__file__).parents[4] / "shared" / "data")
SPACINGS = (0.2, 0.4, 0.5, 0.9765625, 0.98, 1.0, 1.199997067451477, 2.5, 3.0)


def package(reference: Mask, prediction: Mask, spacing: tuple[float, ...]) -> dict[str, npt.NDArray[Any]]:
    """The package's own answer, from its own distance transforms."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports from old SciPy names
        found: dict[str, npt.NDArray[Any]] = surface_distance.compute_surface_distances(reference, prediction, spacing)
    return found


def cube(first: tuple[int, int, int], side: int, shape: tuple[int, int, int] = (48, 48, 48)) -> Mask:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(f, f + side) for f in first)] = True
    return mask


def ball(
    radius_mm: float, spacing: tuple[float, ...] = (1.0, 1.0, 1.0), centre: tuple[int, ...] = (24, 24, 24)
) -> Mask:
    square = [((np.arange(48) - c) * s) ** 2 for c, s in zip(centre, spacing, strict=True)]
    mask: Mask = square[0][:, None, None] + square[1][:, None] + square[2] <= radius_mm**2
    return mask


@st.composite
def mask_pairs(draw: st.DrawFn) -> Pair:
    """Two masks of one shape, none empty: blobs that may leave the volume, islands, single voxels, noise."""
    shape = (draw(st.integers(1, 12)), draw(st.integers(1, 24)), draw(st.integers(1, 32)))
    spacing = (draw(st.sampled_from(SPACINGS)), draw(st.sampled_from(SPACINGS)), draw(st.sampled_from(SPACINGS)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.sampled_from((0.0, 0.0, 0.01, 0.3)))
    pair = []
    for blobs in (draw(st.integers(1, 4)), draw(st.integers(1, 4))):
        mask: Mask = rng.random(shape) < share
        for _ in range(blobs):
            centre, radius = rng.integers(0, shape), rng.uniform(0.4, 7.0)
            square = [(np.arange(n) - c) ** 2 for n, c in zip(shape, centre, strict=True)]
            mask |= square[0][:, None, None] + square[1][:, None] + square[2] <= radius**2
        pair.append(mask)
    return pair[0], pair[1], spacing


# ---- equal to the package


@pytest.mark.parametrize(
    ("limits", "tolerance"),
    [
        ({}, 0.0),
        ({"_UNCUT_VOXELS": 1, "_GAP_PLANES": 1}, 1e-12),  # masks that are cut to pieces
        ({"_TRANSFORM_VOXELS": 0}, 1e-12),  # masks too large for a distance transform
    ],
    ids=["whole", "cut", "large"],
)
@fuzzed(150)
@given(pair=mask_pairs())
def test_surfels_are_the_packages(limits: dict[str, int], tolerance: float, pair: Pair) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in limits.items():
            patch.setattr(metrics, name, value)
        found, expected = metrics.surface_distances(*pair), package(*pair)
    for name in ("distances_gt_to_pred", "distances_pred_to_gt"):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=tolerance)
    for name in ("surfel_areas_gt", "surfel_areas_pred"):
        np.testing.assert_allclose(np.sort(found[name]), np.sort(expected[name]), rtol=0, atol=tolerance)
    for name in expected if not tolerance else ():
        np.testing.assert_array_equal(found[name], expected[name])


@fuzzed(60)
@given(mask_pairs(), st.sampled_from((0.0, 0.5, 1.0, 2.0, 3.0)))
def test_every_number_is_the_packages(pair: Pair, tolerance_mm: float) -> None:
    reference, prediction, spacing = pair
    found, surfels = metrics.compare(*pair, tolerance_mm), package(*pair)
    assert found.dsc == surface_distance.compute_dice_coefficient(reference, prediction)
    assert found.hd95_mm == surface_distance.compute_robust_hausdorff(surfels, 95)
    assert found.nsd == surface_distance.compute_surface_dice_at_tolerance(surfels, tolerance_mm)
    assert found.assd_mm == np.mean(surface_distance.compute_average_surface_distance(surfels))
    assert found.reference_volume_ml == pytest.approx(reference.sum() * math.prod(spacing) / 1000)
    assert found.volume_ml == pytest.approx(prediction.sum() * math.prod(spacing) / 1000)
    assert found.tp_mm3 == pytest.approx((reference & prediction).sum() * math.prod(spacing))
    assert found.volume_difference_ml == found.volume_ml - found.reference_volume_ml


def test_a_stray_voxel_far_away_gives_the_packages_numbers() -> None:
    spacing, shape = (2.5, 0.4, 0.4), (40, 160, 160)
    reference, prediction = cube((5, 20, 20), 9, shape), cube((6, 22, 20), 9, shape)
    prediction[-1, -1, -1] = prediction[-1, 0, 80] = True
    assert len(metrics.pieces(reference | prediction)) == 3
    found, expected = metrics.surface_distances(reference, prediction, spacing), package(reference, prediction, spacing)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


# ---- worked examples of the field


ISLANDS = [
    (cube((30, 13, 13), 3) | cube((10, 10, 10), 10), 11.0, 0.9635),
    (cube((30, 13, 13), 4) | cube((10, 10, 10), 10), 13.0, None),
]


@pytest.mark.parametrize(("prediction", "hd95", "nsd"), ISLANDS, ids=["3-cube", "4-cube"])
def test_an_island_counts_by_its_area(prediction: Mask, hd95: float, nsd: float | None) -> None:
    found = metrics.compare(cube((10, 10, 10), 10), prediction, (1.0, 1.0, 1.0), 2.0)
    assert found.hd95_mm == hd95
    assert nsd is None or found.nsd == pytest.approx(nsd, abs=5e-5)


def test_numbers_on_thick_slices_are_in_mm_and_weighed_by_area() -> None:
    found = metrics.compare(cube((10, 10, 10), 10), cube((8, 8, 8), 14), (1.0, 1.0, 3.0), 2.0)
    assert found.nsd == pytest.approx(0.659, abs=5e-4)
    spacing = (3.0, 1.0, 1.0)
    balls = metrics.compare(ball(5, spacing), ball(6, spacing), spacing, 1.0)
    assert (balls.hd95_mm, balls.nsd) == (1.0, pytest.approx(0.960, abs=5e-4))
    reference, shifted = ball(15, spacing), ball(15, spacing, (25, 24, 24))
    assert metrics.compare(reference, shifted, spacing).hd95_mm == 3.0
    assert metrics.compare(reference, shifted, (1.0, 1.0, 1.0)).hd95_mm == 1.0  # the spacing forgotten


# ---- edges


def test_single_voxels_are_measured() -> None:
    found = metrics.compare(cube((0, 0, 0), 1, (1, 1, 9)), cube((0, 0, 6), 1, (1, 1, 9)), (1.0, 1.0, 0.5), 2.0)
    assert (found.dsc, found.hd95_mm, found.nsd, found.tp_mm3) == (0.0, 3.0, 0.0, 0.0)
    assert found.volume_ml == 0.0005


def test_empty_masks_give_what_the_newest_package_gives() -> None:
    empty, full = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    for reference, prediction in ((full, empty), (empty, full)):
        found = metrics.compare(reference, prediction, (1.0, 1.0, 1.0))
        assert (found.dsc, found.hd95_mm, found.nsd, found.tp_mm3) == (0.0, math.inf, 0.0, 0.0)
        assert math.isnan(found.assd_mm)
    both = metrics.compare(empty, empty, (1.0, 1.0, 1.0))
    assert both.hd95_mm == math.inf
    assert math.isnan(both.dsc)
    assert math.isnan(both.nsd)
    assert (both.volume_ml, both.reference_volume_ml) == (0.0, 0.0)


def test_what_cannot_be_compared_is_refused() -> None:
    mask = np.ones((2, 2, 2), bool)
    with pytest.raises(ValueError, match="an empty mask has no surface"):
        metrics.surface_distances(~mask, mask, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="not two volumes of one shape"):
        metrics.compare(mask, np.ones((2, 2, 3), bool), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="masks are boolean, not bool and uint8"):
        metrics.compare(mask, mask.astype(np.uint8), (1.0, 1.0, 1.0))


# ---- real masks


def organ_file(folder: Path, organ: str) -> Path:
    """File of an organ, which one observer calls Parotid-Lt and another Parotid_Lt."""
    (path,) = (p for p in folder.iterdir() if p.stem.replace("_", "-") == organ.replace("_", "-"))
    return path


def masks_of(group: str, pair: dict[str, Any]) -> Pair:
    if group == "hntsmrg":
        paths = [DATA / "hntsmrg_masks" / side / f"{pair['case']}.nii.gz" for side in ("reference", "prediction")]
    elif group == "deepmind":
        case, organ = pair["case"].split("/")
        folder = DATA / "hn_oar_two_observers" / case
        paths = [organ_file(folder / side, organ) for side in ("oncologist", "radiographer")]
    else:
        folder = DATA / "metric_vectors" / "meshmetrics"
        paths = [folder / f"example_{pair['case']}_{side}_mask.nii.gz" for side in ("ref", "pred")]
    reference, prediction = (nifti.read_volume(path, pair["case"]) for path in paths)
    masks = [v.array == pair["label"] if pair["label"] else v.array > 0 for v in (reference, prediction)]
    assert (int(masks[0].sum()), int(masks[1].sum())) == (pair["ref_vox"], pair["pred_vox"])
    return masks[0], masks[1], reference.grid.spacing


@pytest.mark.skipif(not (DATA / "metric_vectors").is_dir(), reason=f"no real masks in {DATA} (GTVBENCH_TEST_DATA)")
@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)], ids=["every fourth", "all"])
@pytest.mark.parametrize("group", ["hntsmrg", "deepmind", "meshmetrics"])
def test_real_masks_have_the_values_that_surface_distance_published(group: str, step: int) -> None:
    pairs = json.loads((DATA / "metric_vectors" / "three_tools.json").read_text())["pairs"][group][::step]
    checked = 0
    for pair in pairs:
        expected = pair.get("deepmind_surface_distance")
        if not pair["ref_vox"] or not pair["pred_vox"]:
            continue
        reference, prediction, spacing = masks_of(group, pair)
        found = metrics.compare(reference, prediction, spacing, 2.0)
        surfels = metrics.surface_distances(reference, prediction, spacing)
        values = {"hd100": surface_distance.compute_robust_hausdorff(surfels, 100), "hd95": found.hd95_mm}
        directed = surface_distance.compute_average_surface_distance(surfels)
        values |= {"asd_ref_to_pred": directed[0], "asd_pred_to_ref": directed[1], "nsd_2mm": found.nsd}
        for mm in (1, 3):
            values[f"nsd_{mm}mm"] = surface_distance.compute_surface_dice_at_tolerance(surfels, mm)
        assert values == pytest.approx(expected, abs=1e-6, rel=0), (group, pair["case"], pair["label"])
        assert found.assd_mm == pytest.approx((expected["asd_ref_to_pred"] + expected["asd_pred_to_ref"]) / 2, abs=1e-6)
        assert found.dsc == pytest.approx(pair["dsc"], abs=1e-9)
        checked += 1
    assert checked == sum(1 for pair in pairs if pair["ref_vox"] and pair["pred_vox"])
