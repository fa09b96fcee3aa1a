"""Registration recovers known motions of a phantom's MR, the same twice, and says what it did."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import known_motions
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from pydantic import ValidationError
from scipy import ndimage

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.geometry import Volume
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.files.nifti import read_volume, to_image
from gtvbench.bench.files.store import Store
from gtvbench.bench.prepare.cases import publish_case
from gtvbench.datasets.assembly.assemble import CaseParts, Part, put_together
from gtvbench.datasets.phantom.source import Phantom
from gtvbench.datasets.registration import register as registration
from gtvbench.datasets.registration.register import Registered, RegistrationOptions, register, without_search
from gtvbench.datasets.registration.structure import deformable_by_structure

FILE = Path("t1.nii.gz")
RIGID = RegistrationOptions(method="rigid")
#: What is faster, for what does not depend on how the search is done.
QUICK = RegistrationOptions(method="rigid", by="mutual-information")


@pytest.fixture(scope="module")
def case(make_phantom: Callable[..., Phantom]) -> SourceCase:
    source = make_phantom(patients=1, shape=(24, 64, 64), spacing=(5.0, 3.5, 3.5))
    return source.read(source.entries()[0])


def pushed(image: sitk.Image, motion: Any, around: float = 0.0) -> sitk.Image:
    """An image where `motion` (reference to moving points) has taken it."""
    field = sitk.TransformToDisplacementField(
        motion, sitk.sitkVectorFloat64, image.GetSize(), image.GetOrigin(), image.GetSpacing(), image.GetDirection()
    )
    back = sitk.DisplacementFieldTransform(sitk.InvertDisplacementField(field, 60, 0.1, 0.01))
    return sitk.Resample(image, image, back, sitk.sitkLinear, around)


def moved(case: SourceCase, motion: Any) -> Volume:
    return Volume(sitk.GetArrayFromImage(pushed(to_image(case.images["T1w"], case.grid), motion)), case.grid)


def motion(case: SourceCase, seed: int, deformed: bool = False, degrees: float = 10, shift_mm: float = 12) -> Any:
    """Up to so many degrees and mm about each axis; control points moved by up to 8 mm where deformed."""
    rng = np.random.default_rng(seed)
    rigid = sitk.Euler3DTransform()
    rigid.SetCenter(tuple(case.grid.world(np.asarray(case.grid.shape) / 2)))
    rigid.SetRotation(*np.deg2rad(rng.uniform(-degrees, degrees, 3)))
    rigid.SetTranslation(tuple(rng.uniform(-shift_mm, shift_mm, 3)))
    both = sitk.CompositeTransform(3)
    both.AddTransform(rigid)
    if deformed:
        spline = sitk.BSplineTransformInitializer(to_image(case.images["T1w"], case.grid), [3, 3, 2], 3)
        spline.SetParameters(tuple(rng.uniform(-8, 8, len(spline.GetParameters()))))
        both.AddTransform(spline)
    return both


def errors_mm(case: SourceCase, found: Any, truth: Any) -> np.ndarray:
    """Target registration error at 500 points of the body."""
    where = np.argwhere(case.images["CT"] > -300)
    points = [tuple(case.grid.world(i)) for i in where[np.random.default_rng(0).choice(len(where), 500)]]
    return np.asarray([np.linalg.norm(np.subtract(found.TransformPoint(p), truth.TransformPoint(p))) for p in points])


def registered(case: SourceCase, volume: Volume, options: RegistrationOptions = RIGID) -> Registered:
    return register(Volume(case.images["CT"], case.grid), volume, options, fixed_is_ct=True, case=case.name, file=FILE)


@pytest.mark.parametrize(("by", "within", "seed"), [("structure", 1.5, 0), ("mutual-information", 0.6, 7)])
def test_a_rigid_motion_is_recovered(case: SourceCase, by: Any, within: float, seed: int) -> None:
    """Up to 15 degrees and 20 mm about each axis; the voxels have 5 x 3.5 x 3.5 mm."""
    truth = motion(case, seed, degrees=15, shift_mm=20)
    before = errors_mm(case, sitk.Transform(3, sitk.sitkIdentity), truth)
    volume, options = moved(case, truth), RegistrationOptions(method="rigid", by=by)
    found = registered(case, volume, options)
    assert found.as_file() == registered(case, volume, options).as_file(), "the same images, the same transform"
    assert found.stages == ("rigid",) and not found.notes
    assert found.similarity["rigid"] > 2 * found.similarity["headers"]
    after = errors_mm(case, found.transform, truth)
    assert before.mean() > 20
    assert after.mean() < within and after.max() < 2.5 * within
    assert found.folding == 0
    assert found.displacement_mm[0] == pytest.approx(before.mean(), rel=0.25)


def test_headers_that_lie_elsewhere_are_overcome_by_centres(case: SourceCase) -> None:
    far = replace(case.grid, origin=tuple(v + 500 for v in case.grid.origin))
    found = registered(case, Volume(case.images["T1w"], far))
    shift = np.asarray(found.transform.TransformPoint(case.grid.origin)) - case.grid.origin
    assert np.abs(shift - 500).max() < 1.5
    assert found.facts()["similarity"]["headers"] is None
    assert "the headers place it far off" in found.notes[0]


def test_a_smooth_deformation_is_recovered_by_mutual_information(case: SourceCase) -> None:
    truth = motion(case, 4, deformed=True)
    found = registered(case, moved(case, truth), RegistrationOptions(by="mutual-information"))
    assert found.stages == ("rigid", "bspline")
    after = errors_mm(case, found.transform, truth).mean()
    assert after < 0.9 * errors_mm(case, found.transform.GetNthTransform(0), truth).mean()
    assert after < 2.0
    assert found.jacobian[0] > 0 and found.folding == 0


@pytest.fixture(scope="module")
def sarcoma(data: Path) -> tuple[Volume, sitk.Image, list[tuple[float, ...]]]:
    """A patient's CT, its T1w as it lies, and points of the body that the T1w covers."""
    ct, mr = (read_volume(data / "sts" / "STS_024" / f"{name}_image.nii.gz") for name in ("CT", "MR_T1"))
    where = np.argwhere(mr.array > 0.1 * np.percentile(mr.array, 99.5))
    chosen = where[np.random.default_rng(0).choice(len(where), 300)]
    points = [tuple(float(v) for v in mr.grid.world(index)) for index in chosen]
    return ct, sitk.Cast(to_image(mr.array, mr.grid), sitk.sitkFloat32), points


@pytest.mark.parametrize(("deformed", "within"), [(False, 1.0), (True, 2.2)])
def test_a_patients_ct_in_the_contrast_of_a_t1w_is_found_again(sarcoma: Any, deformed: bool, within: float) -> None:
    """The truth is known exactly here; the field of view, a fifth of the CT's, is that of the patient's MR."""
    ct, mr, points = sarcoma
    truth, volume = known_motions.motion(known_motions.pseudo_t1w(to_image(ct.array, ct.grid), mr, 0), 3, deformed)
    options = RegistrationOptions(method="rigid+bspline" if deformed else "rigid")
    found = register(ct, volume, options, fixed_is_ct=True, case="STS_024", file=FILE)
    assert found.stages == (("rigid", "bspline") if deformed else ("rigid",))
    assert distance(truth, sitk.Transform(3, sitk.sitkIdentity), points) > 10
    assert distance(truth, found.transform, points) < within
    if deformed:
        assert distance(truth, found.transform, points) < 0.85 * distance(
            truth, found.transform.GetNthTransform(0), points
        )


def test_a_patients_t1w_ends_at_one_place_wherever_it_starts(sarcoma: Any) -> None:
    ct, mr, points = sarcoma
    truth, volume = known_motions.motion(mr, 1, False)
    ends = []
    for start in (known_motions.volume_of(mr), volume):
        found = register(ct, start, RIGID, fixed_is_ct=True, case="STS_024", file=FILE)
        assert found.stages == ("rigid",)
        ends.append(found.transform)
    lying = [tuple(ends[0].TransformPoint(p)) for p in points]
    gap = [np.subtract(ends[1].TransformPoint(p), truth.TransformPoint(q)) for p, q in zip(points, lying, strict=True)]
    assert np.linalg.norm(gap, axis=1).mean() < 2.5


def distance(one: Any, other: Any, points: list[tuple[float, ...]]) -> float:
    gaps = [np.subtract(one.TransformPoint(p), other.TransformPoint(p)) for p in points]
    return float(np.linalg.norm(gaps, axis=1).mean())


def test_a_deformation_that_lowers_mutual_information_gives_way_to_a_stiffer_one_or_to_none(
    case: SourceCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def deformation(reference: Any, body: Any, other: Any, rigid: Any, mm: float, seed: int, stiffness: float) -> Any:
        """One at random, the less stiff the larger."""
        asked.append(stiffness)
        spline = sitk.BSplineTransformInitializer(reference, [4, 4, 4], 3)
        size = len(spline.GetParameters())
        spline.SetParameters(tuple(np.random.default_rng(0).uniform(-1, 1, size) / stiffness))
        return spline

    rigid = motion(case, 5).GetNthTransform(0).Downcast()
    volume = moved(case, rigid)
    monkeypatch.setattr(registration, "rigid_by_structure", lambda reference, other, body, start, seed: rigid)
    monkeypatch.setattr(registration, "deformable_by_structure", deformation)
    monkeypatch.setattr(registration, "STIFFNESS", (0.02, 0.03))
    loose = registered(case, volume, RegistrationOptions())
    assert loose.stages == ("rigid",) and asked == [0.02, 0.03]
    assert "deformable registration did not raise mutual information" in loose.notes[-1]
    truth = sitk.BSplineTransform(deformation(to_image(case.images["CT"], case.grid), None, None, None, 0, 0, 0.2))
    volume = moved(case, truth)
    asked.clear()
    monkeypatch.setattr(registration, "STIFFNESS", (0.02, 0.2))
    monkeypatch.setattr(registration, "rigid_by_structure", lambda reference, other, body, start, seed: start)
    found = registered(case, volume, RegistrationOptions())
    assert found.stages == ("bspline",) and asked == [0.02, 0.2]
    assert errors_mm(case, found.transform, truth).mean() < 0.5


def test_a_search_that_loses_the_overlap_is_not_believed(case: SourceCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutual information of few voxels can be large: here of a corner that is all the images have in common."""

    def away(reference: Any, other: Any, body: Any, start: Any, seed: int) -> Any:
        far = sitk.Euler3DTransform(start)
        far.SetTranslation((0.0, 0.0, 0.8 * case.grid.shape[0] * case.grid.spacing[0]))
        return far

    monkeypatch.setattr(registration, "rigid_by_structure", away)
    found = registered(case, Volume(case.images["T1w"], case.grid))
    assert found.stages == () and "lost the overlap" in found.notes[0]
    assert found.displacement_mm == (0.0, 0.0)


def test_too_few_slices_and_images_without_overlap_are_left_as_they_are_with_a_note(
    case: SourceCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    thin = Volume(case.images["T1w"][10:12], replace(case.grid, shape=(2, *case.grid.shape[1:])))
    for by in ("structure", "mutual-information"):
        found = registered(case, thin, RegistrationOptions(by=by))
        assert found.stages == () and "fewer than 4 slices" in found.notes[0]
        assert found.facts()["similarity"] == {}
    monkeypatch.setattr(registration, "LEAST_KEPT", 2.0)  # so that the rigid stage is left out
    far = replace(case.grid, origin=tuple(v + 500 for v in case.grid.origin))
    found = registered(case, Volume(case.images["T1w"], far), RegistrationOptions(by="mutual-information"))
    assert found.stages == () and len(found.notes) == 2


def test_structure_finds_a_deformation_of_detail_in_reversed_contrast() -> None:
    """Detail everywhere, as inside patients; the phantom's organs are even but for noise."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(40, 44, 48)), 2.0)
    image = sitk.GetImageFromArray((noise / noise.std()).astype(np.float32))
    image.SetSpacing((3.0, 3.0, 3.0))
    truth = sitk.BSplineTransformInitializer(image, [3, 3, 3], 3)
    truth.SetParameters(tuple(np.random.default_rng(1).uniform(-8, 8, len(truth.GetParameters()))))
    other = sitk.Cast(pushed(sitk.Exp(-0.7 * image), truth, 1.0), sitk.sitkFloat32)
    body = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    body.CopyInformation(image)
    identity = sitk.Transform(3, sitk.sitkIdentity)
    found = deformable_by_structure(image, body, other, identity, 45.0, 0, 2e-4)
    index = np.random.default_rng(2).uniform(6, 34, (300, 3))
    points = [tuple(float(v) for v in image.TransformContinuousIndexToPhysicalPoint(tuple(i))) for i in index]
    assert distance(truth, found, points) < 0.35 * distance(truth, identity, points)


def test_nan_a_constant_image_and_one_of_another_place_are_refused(case: SourceCase) -> None:
    holed = case.images["T1w"].copy()
    holed[3, 4, 5] = np.nan
    with pytest.raises(DataError, match="the image has NaN"):
        registered(case, Volume(holed, case.grid))
    with pytest.raises(DataError, match="constant"):
        registered(case, Volume(np.zeros(case.grid.shape, np.float32), case.grid))
    tiny = replace(case.grid, shape=(5, 5, 5), origin=(4000.0, 4000.0, 4000.0))
    values = np.arange(125, dtype=np.float32).reshape(5, 5, 5)
    with pytest.raises(DataError, match="next to nothing in common") as error:
        registered(case, Volume(values, tiny))
    assert error.value.case == case.name


def parts_of(case: SourceCase, volume: Volume, frames: tuple[str, str] = ("", "")) -> CaseParts:
    return CaseParts(
        case.name, case.patient, "CT",
        {"CT": Part(Path("ct"), lambda: Volume(case.images["CT"], case.grid), frames[0]),
         "T1w": Part(FILE, lambda: volume, frames[1])},
        lambda grid: (case.label, []),
    )  # fmt: skip


def test_a_case_is_put_together_registered_and_its_transform_is_kept(case: SourceCase, tmp_path: Path) -> None:
    volume = moved(case, motion(case, 2))
    plain, found = put_together(parts_of(case, volume)), put_together(parts_of(case, volume), None, QUICK)
    assert plain.registrations == {}
    body = case.images["CT"] > -300
    truth = case.images["T1w"][body]
    off = [float(np.abs(c.images["T1w"][body] - truth).mean()) for c in (plain, found)]
    assert off[1] < 0.5 * off[0]  # noise is interpolated twice here
    record = found.registrations["T1w"]
    assert record.facts["status"] == "registered" and record.facts["reference"] == "CT"
    middle = [int(v) for v in np.argwhere(found.label).mean(axis=0)]
    assert record.before["at"].tolist() == middle  # and how it lay before, for the picture
    np.testing.assert_array_equal(record.before["axial"], plain.images["T1w"][middle[0]])
    store = Store(tmp_path / "run")
    publish_case(
        store, "key", replace(found, label=case.label), ("CT", "T1w"), structures_from({"GTV-T": 1, "GTV-N": 2})
    )
    path, again = store.case_folder(case.name) / "registration" / "T1w.tfm", registered(case, volume, QUICK)
    assert errors_mm(case, sitk.ReadTransform(str(path)), again.transform).max() < 1e-6
    assert '"registered"' in (store.case_folder(case.name) / "case.json").read_text()


def test_a_shared_frame_of_reference_is_trusted_unless_forced(case: SourceCase) -> None:
    parts = parts_of(case, Volume(case.images["T1w"], case.grid), ("1.2.3", "1.2.3"))
    trusted = put_together(parts, None, RIGID)
    assert trusted.registrations["T1w"].facts == {"status": "shared frame of reference"}
    np.testing.assert_array_equal(trusted.images["T1w"], case.images["T1w"])
    forced = put_together(parts, None, QUICK.model_copy(update={"force": True}))
    assert forced.registrations["T1w"].facts["displacement_mm"]["mean"] < 0.6, "what lies right is not made worse"


def test_without_a_search_images_lie_where_it_would_begin(case: SourceCase) -> None:
    far = replace(case.grid, origin=tuple(v + 500 for v in case.grid.origin))
    with without_search():
        near = put_together(parts_of(case, Volume(case.images["T1w"], case.grid)), None, RIGID)
        centred = put_together(parts_of(case, Volume(case.images["T1w"], far)), None, RIGID)
        with pytest.raises(DataError, match="constant"):
            registered(case, Volume(np.zeros(case.grid.shape, np.float32), case.grid))
    np.testing.assert_allclose(near.images["T1w"], case.images["T1w"], atol=1e-3)
    np.testing.assert_allclose(centred.images["T1w"], case.images["T1w"], atol=0.5)
    assert near.notes == () and "far off" in centred.notes[0]


def test_an_image_of_another_session_that_is_not_registered_is_told(case: SourceCase) -> None:
    volume = Volume(case.images["T1w"], case.grid)
    told = put_together(parts_of(case, volume, ("1.2.3", "1.2.4"))).notes
    assert "T1w is in another frame of reference than CT" in told[0] and "registration: {modalities: [T1w]}" in told[0]
    assert put_together(parts_of(case, volume, ("1.2.3", "1.2.3"))).notes == ()
    assert put_together(parts_of(case, volume, ("", "1.2.3"))).notes == ()
    with without_search():
        assert put_together(parts_of(case, volume, ("1.2.3", "1.2.4")), None, RIGID).notes == ()


def test_options_that_make_no_sense_are_refused() -> None:
    for wrong in ({"method": "affine"}, {"control-point-mm": 1}, {"modalities": ["US"]}):
        with pytest.raises(ValidationError):
            RegistrationOptions.model_validate(wrong)
