from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage, stats

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.errors import DataError, StudyError
from gtvbench.bench.core.structures import Structure, structures_from
from gtvbench.datasets.phantom import source as module
from gtvbench.datasets.phantom.anatomy import AIRWAY
from gtvbench.datasets.phantom.shapes import Shape, Space, blob, coverage, ellipsoid, without
from gtvbench.datasets.phantom.source import Patient, Phantom, PhantomOptions

Make = Callable[..., Phantom]
COHORT = 120


@pytest.fixture(scope="module")
def patients(make_phantom: Make) -> list[Patient]:
    source = make_phantom(patients=COHORT)
    return [source.patient(entry.name) for entry in source.entries()]


@pytest.fixture(scope="module")
def cases(make_phantom: Make) -> list[SourceCase]:
    source = make_phantom(patients=10, noise=0.0)
    return [source.read(entry) for entry in source.entries()]


def test_a_patient_depends_on_the_cohort_seed_and_its_name_alone(
    make_phantom: Make, structures: tuple[Structure, ...]
) -> None:
    few, many = make_phantom(patients=3), make_phantom(patients=30, modalities=("CT", "T2w"))
    other_study = Phantom(PhantomOptions(patients=3), Path("elsewhere"), structures, 99)
    one = few.read(few.entries()[2])
    two, three = many.read(many.entries()[2]), other_study.read(other_study.entries()[2])
    assert one.name == two.name == "phantom-002"
    for again in (two, three):
        np.testing.assert_array_equal(one.label, again.label)
        for modality in again.images:
            np.testing.assert_array_equal(one.images[modality], again.images[modality])
    assert two.images.keys() == {"CT", "T2w"}
    other = make_phantom(seed=1)
    assert not np.array_equal(one.images["CT"], other.read(other.entries()[2]).images["CT"])


def test_the_identity_of_a_case_changes_with_what_it_is_made_of_and_not_with_the_cohort_size(
    make_phantom: Make,
) -> None:
    identity = make_phantom(patients=2).entries()[0].identity
    assert identity == make_phantom(patients=20).entries()[0].identity
    for change in ({"seed": 3}, {"noise": 2.0}, {"shape": (20, 64, 64)}, {"modalities": ("CT",)}):
        assert identity != make_phantom(patients=2, **change).entries()[0].identity


def test_every_patient_has_one_primary_and_none_to_three_nodes(patients: list[Patient]) -> None:
    kinds = [[lesion.kind for lesion in patient.lesions] for patient in patients]
    assert {found.count("GTV-T") for found in kinds} == {1}
    nodes = [found.count("GTV-N") for found in kinds]
    assert set(nodes) == {0, 1, 2, 3}
    assert 0.12 < nodes.count(0) / len(nodes) < 0.45


def test_primaries_and_nodes_keep_to_their_sizes_and_to_airway_and_sides_of_the_neck(
    cases: list[SourceCase], patients: list[Patient]
) -> None:
    for case in cases:
        parts, count = ndimage.label(case.label == 1, structure=np.ones((3, 3, 3)))
        assert count == 1
        assert 18 <= np.cbrt(np.count_nonzero(parts) * case.grid.voxel_volume_mm3 * 6 / np.pi) <= 47
        assert set(np.unique(case.label)) <= {0, 1, 2}
    for lesion in (lesion for patient in patients for lesion in patient.lesions if lesion.is_target):
        z, y, x = lesion.centre
        centre_y, centre_x, radius_y, radius_x = AIRWAY.at(z)
        if lesion.kind == "GTV-T":
            assert 20 <= lesion.size_mm <= 45
            assert np.hypot(y - centre_y, x - centre_x) < max(radius_y, radius_x) + 0.45 * lesion.size_mm
        else:
            assert 10 <= lesion.size_mm <= 30
            assert 22 < abs(x) < 52 and -15 < y < 22


def test_what_looks_like_a_tumour_lies_elsewhere_or_is_smaller_than_any_tumour_there(patients: list[Patient]) -> None:
    counts = []
    for patient in patients:
        alike = [lesion for lesion in patient.lesions if not lesion.is_target]
        counts.append(len(alike))
        for lesion in alike:
            z, y, x = lesion.centre
            if lesion.kind == "small node":
                assert lesion.size_mm < 9
            elif lesion.kind == "tonsil":
                assert lesion.size_mm < 18
            else:
                assert lesion.size_mm >= 9
                assert not (22 < abs(x) < 50 and -12 < y < 20), "on the chain of nodes"
                assert np.hypot(y - AIRWAY.at(z)[0], x) >= 20, "at the airway"
    assert min(counts) >= 2
    assert np.mean(counts) > 4


def test_tumours_and_look_alikes_have_one_law_of_intensity(patients: list[Patient]) -> None:
    lesions = [lesion for patient in patients for lesion in patient.lesions]
    for modality in ("CT", "PET", "T1w", "T2w"):
        targets, alike = (
            [lesion.tissue.values()[modality] for lesion in lesions if lesion.is_target is kind]
            for kind in (True, False)
        )
        assert stats.ks_2samp(targets, alike).pvalue > 0.01, modality


def test_no_threshold_on_intensity_finds_the_tumours(cases: list[SourceCase]) -> None:
    best = []
    for case in cases:
        target, pet = case.label > 0, case.images["PET"]
        scores = [2 * np.sum(target & (pet > t)) / (np.sum(target) + np.sum(pet > t)) for t in np.arange(1.5, 9, 0.25)]
        best.append(max(scores))
    assert np.mean(best) < 0.75  # although the threshold was chosen with the reference at hand


def test_intensities_are_those_of_tissue_and_noise_is_an_option(make_phantom: Make) -> None:
    source = make_phantom(patients=1)
    images = source.read(source.entries()[0]).images
    ct = images["CT"]
    assert all(volume.dtype == np.float32 for volume in images.values())
    assert ct.min() >= -1024
    assert 900 < np.percentile(ct, 99.9) < 2500
    muscle = (ct > 20) & (ct < 90)
    assert 0.3 < np.median(images["PET"][muscle]) < 2
    assert np.median(images["T1w"][(ct > -130) & (ct < -60)]) > np.median(images["T1w"][muscle])
    assert images["PET"].min() >= 0
    assert np.std(ct[:, :4, :4]) < 30  # air around the neck
    quiet, loud = (make_phantom(patients=1, noise=noise) for noise in (0.0, 2.0))
    corner = [source.read(source.entries()[0]).images["CT"][:, :4, :4].std() for source in (quiet, loud)]
    assert corner[0] < 1e-3
    assert 15 < corner[1] < 30


def test_large_grids_are_painted_in_slabs_without_a_seam(make_phantom: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_phantom(patients=1)
    whole = source.read(source.entries()[0])
    monkeypatch.setattr(module, "_SLAB_VOXELS", 5 * 64 * 64)
    parts = source.read(source.entries()[0])
    np.testing.assert_array_equal(whole.label, parts.label)
    for modality in whole.images:
        np.testing.assert_allclose(whole.images[modality], parts.images[modality], rtol=1e-4, atol=0.05)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((11, 49, 63), (4.0, 3.0, 3.0)), ((1, 64, 64), (4.0, 3.0, 3.0)), ((30, 40, 90), (2.0, 5.0, 1.5)),
     ((60, 70, 70), (6.0, 4.0, 4.0)), ((8, 32, 32), (4.0, 3.0, 3.0))],
)  # fmt: skip
def test_any_shape_and_spacing_shows_the_primary(
    make_phantom: Make, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    source = make_phantom(patients=4, shape=shape, spacing=spacing)
    for case in map(source.read, source.entries()):
        assert case.grid.shape == shape
        assert case.grid.spacing == spacing
        assert (case.label == 1).any()


def test_a_grid_too_small_for_a_neck_or_too_coarse_to_show_the_tumour_is_refused(make_phantom: Make) -> None:
    with pytest.raises(StudyError, match="too small"):
        make_phantom(shape=(24, 10, 64))
    source = make_phantom(patients=1, shape=(1, 2, 2), spacing=(90.0, 90.0, 90.0))
    with pytest.raises(DataError, match="too coarse"):
        source.read(source.entries()[0])


@pytest.mark.parametrize(
    "options",
    [{"modalities": ["PET"]}, {"modalities": ["CT", "US"]}, {"patients": 0}, {"shape": [0, 64, 64]},
     {"spacing": [4, 3, 0]}, {"noise": -1}, {"patient": 3}],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PhantomOptions.model_validate(options)


def test_structures_have_the_values_of_the_study_and_may_be_one_that_the_phantom_has() -> None:
    source = Phantom(PhantomOptions(patients=4), Path(), structures_from({"GTV-N": 7}), 0)
    entries = source.entries()
    entry = next(e for e in entries if any(lesion.kind == "GTV-N" for lesion in source.patient(e.name).lesions))
    assert set(np.unique(source.read(entry).label)) == {0, 7}
    with pytest.raises(StudyError, match="no structure GTVp"):
        Phantom(PhantomOptions(), Path(), structures_from({"GTVp": 1}), 0)


def _space(spacing: tuple[float, float, float], matrix: np.ndarray | None = None) -> Space:  # type: ignore[type-arg]
    shape = tuple(int(60 / s) for s in spacing)
    return Space((shape[0], shape[1], shape[2]), spacing, np.eye(3) if matrix is None else matrix, np.zeros(3))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 2.0, 1.0), (4.0, 3.0, 3.0)])
def test_the_shares_of_an_ellipsoid_sum_to_its_volume(spacing: tuple[float, float, float]) -> None:
    turn, _ = np.linalg.qr(np.array([[1.0, 0.2, 0.1], [0.1, 1.0, -0.3], [0, 0.2, 1.0]]))
    found = coverage(ellipsoid((1.0, -2.0, 0.5), (12, 9, 15)), _space(spacing, turn))
    assert found is not None
    assert float(found[1].sum()) * np.prod(spacing) == pytest.approx(4 / 3 * np.pi * 12 * 9 * 15, rel=0.03)


def test_a_plane_through_a_voxel_leaves_the_share_on_its_inner_side_and_what_is_outside_covers_nothing() -> None:
    plane = Shape(lambda z, y, x: x - 0.7 + 0 * y + 0 * z, (-100, -100, -100), (100, 100, 100))
    space = Space((3, 3, 5), (1.0, 1.0, 1.0), np.eye(3), np.zeros(3))
    found = coverage(plane, space)
    assert found is not None
    np.testing.assert_allclose(found[1][1, 1], [1, 1, 1, 0.2, 0], atol=1e-6)
    assert coverage(ellipsoid((200, 0, 0), (5, 5, 5)), _space((2.0, 2.0, 2.0))) is None


def test_blobs_differ_by_seed_and_can_be_cut() -> None:
    space = _space((2.0, 2.0, 2.0))
    masks = []
    for seed in (1, 2):
        shape = blob((0, 0, 0), (10, 10, 10), np.random.default_rng(seed))
        knife = ellipsoid((0, 0, 10), (9, 9, 9))
        shares = [np.zeros(space.shape) for _ in range(3)]
        for share, part in zip(shares, (shape, without(shape, knife), knife), strict=True):
            found = coverage(part, space)
            assert found is not None
            share[found[0]] = found[1]
        assert not np.any(shares[1][shares[2] == 1])
        assert 0 < shares[1].sum() < shares[0].sum()
        masks.append(shares[0])
    assert not np.array_equal(*masks)
