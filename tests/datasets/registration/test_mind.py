"""Descriptors of local structure: blind to contrast, with exact gradients; B-spline weights are SimpleITK's."""

import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from gtvbench.datasets.registration import mind
from gtvbench.datasets.registration.structure import _roughness, _weights


def texture(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.0)
    return (noise / noise.std()).astype(np.float32)


def oblique(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.5, 2.0, 3.0))
    image.SetOrigin((-10.0, 20.0, 5.0))
    turn = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.3)
    image.SetDirection(turn.GetMatrix())
    return image


def test_reversed_and_scaled_contrast_gives_the_same_descriptors_and_another_structure_does_not() -> None:
    array = texture((12, 20, 22))
    found = mind.descriptors(array)
    assert found.shape == (*array.shape, mind.CHANNELS) and mind.CHANNELS == 12
    assert found.min() >= 0 and found.max() == 1
    np.testing.assert_allclose(mind.descriptors(500 - 30 * array), found, atol=2e-3)
    assert np.abs(mind.descriptors(texture(array.shape, 1)) - found).mean() > 0.1
    assert (mind.descriptors(np.full((4, 5, 6), 7, np.float32)) == 1).all(), "a constant volume: the same everywhere"


def test_voxels_lie_where_the_image_has_them_and_large_images_get_coarser_ones() -> None:
    image = oblique(texture((10, 16, 24)))
    found = mind.descriptors_of(image, 2.0)
    assert found.channels.shape[:3] == (15, 16, 18)  # 30 x 32 x 36 mm
    corner = np.array([image.TransformIndexToPhysicalPoint((0, 0, 0))])
    np.testing.assert_allclose(found.index(corner), [[0, 0, 0]], atol=1e-9)
    point = np.array(
        [image.TransformContinuousIndexToPhysicalPoint((4 / 1.5, 6 / 2, 8 / 3))]
    )  # 4, 6, 8 mm along x, y, z
    np.testing.assert_allclose(found.index(point), [[4, 3, 2]], atol=1e-9)
    np.testing.assert_allclose(found.at(point)[0], found.channels[4, 3, 2], atol=1e-5)
    assert found.covers(np.concatenate([corner, corner - 1])).tolist() == [True, False]


def test_there_are_never_more_voxels_than_fit_into_memory(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(mind, "MOST_VOXELS", 1000)
    found = mind.descriptors_of(oblique(texture((10, 16, 24))), 2.0)
    assert 300 < np.prod(found.channels.shape[:3]) <= 1600  # rounded up along each axis


def test_the_gradient_is_the_slope_of_the_distance() -> None:
    image = oblique(texture((10, 16, 24)))
    found, other = mind.descriptors_of(image, 2.0), mind.descriptors_of(oblique(texture((10, 16, 24), 1)), 2.0)
    index = np.random.default_rng(0).uniform(2.2, 12.8, (6, 3))
    points = index @ found.to_world.T + found.origin
    wanted = other.at(points)
    _, gradient = found.distance(points, wanted)
    step = 1e-2
    for row, axis in ((0, 0), (3, 1), (5, 2)):
        ends = []
        for sign in (1, -1):
            moved = points.copy()
            moved[row, axis] += sign * step
            ends.append(found.distance(moved, wanted)[0])
        assert np.isclose((ends[0] - ends[1]) / (2 * step), gradient[row, axis], rtol=0.05, atol=1e-5)


def test_points_outside_take_no_part_and_none_at_all_is_infinitely_far() -> None:
    found = mind.descriptors_of(oblique(texture((10, 16, 24))), 2.0)
    inside = np.array([[5.0, 5, 5]]) @ found.to_world.T + found.origin
    far = inside + 1000
    wanted = np.zeros((2, 12), np.float32)
    both, gradient = found.distance(np.concatenate([inside, far]), wanted)
    assert both == found.distance(inside, wanted[:1])[0]
    assert (gradient[1] == 0).all() and (gradient[0] != 0).any()
    assert found.distance(far, wanted[:1])[0] == float("inf")


def test_control_points_weigh_as_in_simpleitk() -> None:
    image = oblique(texture((10, 16, 24)))
    spline = sitk.BSplineTransformInitializer(image, [2, 3, 4], 3)
    control = np.random.default_rng(0).normal(size=(5 * 6 * 7, 3))
    spline.SetParameters(tuple(control.T.ravel().tolist()))
    index = np.random.default_rng(1).uniform(0, [23, 15, 9], (50, 3))
    points = np.array([image.TransformContinuousIndexToPhysicalPoint(tuple(i.tolist())) for i in index])
    there = np.array([spline.TransformPoint(tuple(p.tolist())) for p in points])
    np.testing.assert_allclose(points + _weights(spline, points) @ control, there, atol=1e-9)


def test_roughness_is_least_at_rest_and_has_the_gradient_it_says() -> None:
    control = np.random.default_rng(0).normal(size=(4, 5, 6, 3))
    value, gradient = _roughness(control)
    assert _roughness(np.zeros_like(control))[0] == 0 < value
    moved = control.copy()
    moved[1, 2, 3, 0] += 1e-6
    assert np.isclose((_roughness(moved)[0] - value) / 1e-6, gradient[1, 2, 3, 0], rtol=1e-4)
