"""Registration recovers known motions of a phantom's MR, the same twice, and says what it did."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from pydantic import ValidationError

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.geometry import Volume
from gtvbench.bench.nifti import to_image
from gtvbench.bench.preparation import publish_case
from gtvbench.bench.store import Store
from gtvbench.datasets.assemble import CaseParts, Part, put_together
from gtvbench.datasets.phantom import Phantom
from gtvbench.datasets.registration import Registered, RegistrationOptions, register

FILE = Path("t1.nii.gz")
RIGID = RegistrationOptions(method="rigid")


@pytest.fixture(scope="module")
def case(make_phantom: Callable[..., Phantom]) -> SourceCase:
    source = make_phantom(patients=1, shape=(24, 64, 64), spacing=(5.0, 3.5, 3.5))
    return source.read(source.entries()[0])


def moved(case: SourceCase, motion: Any) -> Volume:
    """T1w of the phantom where `motion` (reference to moving points) has taken it."""
    image = to_image(case.images["T1w"], case.grid)
    field = sitk.TransformToDisplacementField(
        motion, sitk.sitkVectorFloat64, image.GetSize(), image.GetOrigin(), image.GetSpacing(), image.GetDirection()
    )
    back = sitk.InvertDisplacementField(field, 60, 0.1, 0.01)
    array = sitk.GetArrayFromImage(
        sitk.Resample(image, image, sitk.DisplacementFieldTransform(back), sitk.sitkLinear, 0)
    )
    return Volume(array, case.grid)


def motion(case: SourceCase, seed: int, deformed: bool = False) -> Any:
    """Up to 10 degrees and 12 mm about each axis; control points moved by up to 6 mm where deformed."""
    rng = np.random.default_rng(seed)
    rigid = sitk.Euler3DTransform()
    rigid.SetCenter(tuple(case.grid.world(np.asarray(case.grid.shape) / 2)))
    rigid.SetRotation(*np.deg2rad(rng.uniform(-10, 10, 3)))
    rigid.SetTranslation(tuple(rng.uniform(-12, 12, 3)))
    both = sitk.CompositeTransform(3)
    both.AddTransform(rigid)
    if deformed:
        spline = sitk.BSplineTransformInitializer(to_image(case.images["T1w"], case.grid), [3, 3, 2], 3)
        spline.SetParameters(tuple(rng.uniform(-6, 6, len(spline.GetParameters()))))
        both.AddTransform(spline)
    return both


def errors_mm(case: SourceCase, found: Any, truth: Any) -> np.ndarray:
    """Target registration error at 500 points of the body."""
    where = np.argwhere(case.images["CT"] > -300)
    points = [tuple(case.grid.world(i)) for i in where[np.random.default_rng(0).choice(len(where), 500)]]
    return np.asarray([np.linalg.norm(np.subtract(found.TransformPoint(p), truth.TransformPoint(p))) for p in points])


def registered(case: SourceCase, volume: Volume, options: RegistrationOptions = RIGID) -> Registered:
    return register(Volume(case.images["CT"], case.grid), volume, options, fixed_is_ct=True, case=case.name, file=FILE)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_rigid_motion_is_recovered_within_a_millimetre(case: SourceCase, seed: int) -> None:
    truth = motion(case, seed)
    before = errors_mm(case, sitk.Transform(3, sitk.sitkIdentity), truth)
    found = registered(case, moved(case, truth))
    assert found.stages == ("rigid",)
    assert found.similarity["rigid"] > found.similarity["headers"]
    after = errors_mm(case, found.transform, truth)
    assert before.mean() > 5
    assert after.mean() < 1.0 and after.max() < 2.0
    assert found.folding == 0
    assert found.displacement_mm[0] == pytest.approx(before.mean(), rel=0.25)


@pytest.mark.parametrize("seed", [0, 3, 7])
def test_a_registration_that_loses_the_overlap_is_left_out_whatever_its_similarity(case: SourceCase, seed: int) -> None:
    """Up to 15 degrees and 20 mm: from some the optimiser runs away, with more mutual information than before."""
    rng = np.random.default_rng(seed)
    truth = sitk.Euler3DTransform()
    truth.SetCenter(tuple(case.grid.world(np.asarray(case.grid.shape) / 2)))
    truth.SetRotation(*np.deg2rad(rng.uniform(-15, 15, 3)))
    truth.SetTranslation(tuple(rng.uniform(-20, 20, 3)))
    found = registered(case, moved(case, truth))
    after = errors_mm(case, found.transform, truth).mean()
    if found.stages:  # what is believed lies right
        assert after < 3.0
    else:
        assert found.similarity["rigid"] > found.similarity["headers"]
        assert "lost the overlap" in found.notes[0]
        assert found.displacement_mm == (0.0, 0.0)


def test_a_smooth_deformation_is_recovered_within_three_millimetres(case: SourceCase) -> None:
    truth = motion(case, 4, deformed=True)
    volume = moved(case, truth)
    rigid, both = registered(case, volume), registered(case, volume, RegistrationOptions())
    assert both.stages == ("rigid", "bspline")
    after = [errors_mm(case, found.transform, truth).mean() for found in (rigid, both)]
    assert after[1] < after[0]
    assert after[1] < 3.0
    assert both.jacobian[0] > 0 and both.folding == 0


def test_the_same_images_give_the_same_transform(case: SourceCase) -> None:
    volume = moved(case, motion(case, 1))
    one, other = registered(case, volume), registered(case, volume)
    assert one.as_file() == other.as_file()
    assert one.similarity == other.similarity


def test_images_that_lie_right_are_not_made_worse(case: SourceCase) -> None:
    found = registered(case, Volume(case.images["T1w"], case.grid))
    truth = sitk.Transform(3, sitk.sitkIdentity)
    assert errors_mm(case, found.transform, truth).mean() < 0.6


def test_a_constant_image_and_one_of_another_place_are_refused(case: SourceCase) -> None:
    with pytest.raises(DataError, match="constant"):
        registered(case, Volume(np.zeros(case.grid.shape, np.float32), case.grid))
    tiny = replace(case.grid, shape=(2, 2, 2), origin=(4000.0, 4000.0, 4000.0))
    values = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
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
    plain, found = put_together(parts_of(case, volume)), put_together(parts_of(case, volume), None, RIGID)
    assert plain.registrations == {}
    body = case.images["CT"] > -300
    truth = case.images["T1w"][body]
    off = [float(np.abs(c.images["T1w"][body] - truth).mean()) for c in (plain, found)]
    assert off[1] < 0.5 * off[0]  # noise is interpolated twice here
    record = found.registrations["T1w"]
    assert record.facts["status"] == "registered"
    store = Store(tmp_path / "run")
    publish_case(store, "key", replace(found, label=case.label), ("CT", "T1w"), _structures())
    kept = sitk.ReadTransform(str(store.case_folder(case.name) / "registration" / "T1w.tfm"))
    assert errors_mm(case, kept, registered(case, volume).transform).max() < 1e-6
    assert '"registered"' in (store.case_folder(case.name) / "case.json").read_text()


def test_a_shared_frame_of_reference_is_trusted_unless_forced(case: SourceCase) -> None:
    parts = parts_of(case, Volume(case.images["T1w"], case.grid), ("1.2.3", "1.2.3"))
    trusted = put_together(parts, None, RIGID)
    assert trusted.registrations["T1w"].facts == {"status": "shared frame of reference"}
    np.testing.assert_array_equal(trusted.images["T1w"], case.images["T1w"])
    forced = put_together(parts, None, RegistrationOptions(method="rigid", force=True))
    assert "similarity" in forced.registrations["T1w"].facts


def test_options_that_make_no_sense_are_refused() -> None:
    for wrong in ({"method": "affine"}, {"control-point-mm": 1}, {"modalities": ["US"]}):
        with pytest.raises(ValidationError):
            RegistrationOptions.model_validate(wrong)


def _structures() -> Any:
    from gtvbench.bench.core.structures import structures_from

    return structures_from({"GTV-T": 1, "GTV-N": 2})
