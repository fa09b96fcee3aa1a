import gzip
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from phantom_files import all_reorientations, oblique, write_folder
from pydantic import ValidationError

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.errors import DataError, StudyError
from gtvbench.bench.core.geometry import Grid, Reorientation, Volume
from gtvbench.bench.files.nifti import read_volume, to_image, write_volume
from gtvbench.datasets.assembly.checks import partial_coverage
from gtvbench.datasets.assembly.resample import image_to_grid, labels_to_grid
from gtvbench.datasets.phantom.source import Phantom
from gtvbench.datasets.sources.files import Files, FilesOptions

Open = Callable[..., Files]
SLOPING = (0.96, -0.28, 0.0, 0.28, 0.96, 0.0, 0.0, 0.0, 1.0)


def _read(source: Files, name: str | None = None) -> SourceCase:
    entry = next(e for e in source.entries() if name in (None, e.name))
    return source.read(entry)


def _same(one: SourceCase, other: SourceCase) -> None:
    np.testing.assert_array_equal(one.label, other.label)
    assert one.images.keys() == other.images.keys()
    for modality in one.images:
        assert one.images[modality].tobytes() == other.images[modality].tobytes()


def test_a_patient_comes_back_as_it_was_written(tmp_path: Path, small_case: SourceCase, open_folders: Open) -> None:
    write_folder(small_case, tmp_path)
    source = open_folders(tmp_path)
    found = _read(source)
    _same(found, small_case)
    assert source.modalities() == ("CT", "PET", "T1w", "T2w")
    assert found.name == found.patient == small_case.name
    assert found.coverage == dict.fromkeys(source.modalities(), 1.0)
    assert found.notes == ()
    assert found.images["CT"].dtype == np.float32
    assert found.label.dtype == np.uint8


def test_copies_with_any_flip_and_order_of_axes_are_read_to_the_same_bytes_and_led_back(
    tmp_path: Path, small_case: SourceCase, open_folders: Open
) -> None:
    mixed = write_folder(small_case, tmp_path / "mixed")
    case = replace(small_case, images={"CT": small_case.images["CT"], "PET": small_case.images["PET"]})
    for number, turn in enumerate(all_reorientations()[::5]):
        root = tmp_path / str(number)
        place = write_folder(case, root, turn)
        found = _read(open_folders(root, images={"CT": "CT.nii.gz", "PET": "PET.nii.gz"}))
        _same(found, case)
        assert found.grid.differences(case.grid) == []
        shutil.copy(place / "PET.nii.gz", mixed / "PET.nii.gz")  # each modality in an order of its own
        _same(_read(open_folders(mixed.parent)), small_case)
        # A prediction goes back to the file's own order of axes, at the same place.
        prediction = root / "prediction.nii.gz"
        write_volume(np.ascontiguousarray(found.reorientation.undo(found.label)), found.original, prediction)
        written, own = read_volume(prediction), read_volume(place / "label.nii.gz")
        np.testing.assert_array_equal(written.array, own.array)
        assert written.grid.differences(own.grid) == []


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_an_oblique_copy_equals_its_patient_but_for_interpolation(
    tmp_path: Path, make_phantom: Callable[..., Phantom], open_folders: Open, axis: str
) -> None:
    source = make_phantom(patients=1, noise=0.0)
    case = source.read(source.entries()[0])
    write_folder(oblique(case, 11.0, axis), tmp_path)
    found = _read(open_folders(tmp_path))
    assert max(abs(v) for v in np.subtract(found.grid.direction, case.grid.direction)) > 0.1
    back, _ = labels_to_grid(Volume(found.label, found.grid), case.grid, case="a", file=tmp_path)
    both = np.count_nonzero((back > 0) & (case.label > 0))
    assert 2 * both / (np.count_nonzero(back) + np.count_nonzero(case.label)) > 0.88
    pet, _ = image_to_grid(Volume(found.images["PET"], found.grid), case.grid, 0.0, case="a", file=tmp_path)
    assert np.mean(np.abs(pet - case.images["PET"])) < 0.05
    assert found.label.sum() * found.grid.voxel_volume_mm3 == pytest.approx(
        case.label.sum() * case.grid.voxel_volume_mm3, rel=0.06
    )


def test_a_modality_on_its_own_grid_is_resampled_and_its_coverage_noted(
    tmp_path: Path, small_case: SourceCase, open_folders: Open
) -> None:
    place = write_folder(small_case, tmp_path)
    grid = small_case.grid
    half = grid.shape[2] // 2
    write_volume(
        small_case.images["PET"][..., :half], replace(grid, shape=(*grid.shape[:2], half)), place / "PET.nii.gz"
    )
    found = _read(open_folders(tmp_path))
    assert found.coverage["PET"] == pytest.approx(half / grid.shape[2])
    assert np.all(found.images["PET"][..., half:] == 0)
    np.testing.assert_allclose(found.images["PET"][..., :half], small_case.images["PET"][..., :half], atol=1e-4)
    assert found.notes == ()  # told once for the cohort instead
    (line,) = partial_coverage({found.name: found.coverage})
    assert "PET does not cover the whole grid in 1 of 1 cases" in line and "50 %" in line


def test_another_modality_can_carry_the_grid(tmp_path: Path, small_case: SourceCase, open_folders: Open) -> None:
    place = write_folder(small_case, tmp_path)
    moved = Grid((6, 8, 9), (9.0, 8.0, 7.0), small_case.grid.origin)
    write_volume(np.ones(moved.shape, np.float32), moved, place / "PET.nii.gz")
    found = _read(open_folders(tmp_path, **{"reference_modality": "PET"}))
    assert found.grid.shape == moved.shape
    assert found.images["CT"].shape == moved.shape
    assert any("resampled" in note for note in found.notes)


def test_a_modality_absent_from_the_whole_cohort_is_dropped_with_a_note_and_patterns_may_name_the_patient(
    tmp_path: Path, small_case: SourceCase, open_folders: Open
) -> None:
    place = write_folder(small_case, tmp_path)
    (place / "T2w.nii.gz").unlink()
    source = open_folders(tmp_path)
    assert source.modalities() == ("CT", "PET", "T1w")
    assert any("no case has a T2w image" in note for note in _read(source).notes)
    (place / "CT.nii.gz").rename(place / f"{small_case.name}_ct.nii.gz")
    assert _read(open_folders(tmp_path, images={"CT": "{patient}_ct.nii.gz"})).images.keys() == {"CT"}


def cut(path: Path, name: str, content: bytes) -> None:
    path.unlink()
    path.with_name(name).write_bytes(content[: len(content) * 2 // 3])


def holed(path: Path, volume: Any, grid: Grid, value: float) -> None:
    volume = volume.copy()
    volume[0, 0, :3] = value
    # Not `write_volume`, which reads back what it wrote and compares: NaN never passes.
    sitk.WriteImage(to_image(volume, grid), str(path))


DAMAGED: dict[str, tuple[Callable[[Path, SourceCase], None], str, str]] = {
    "a truncated image": (
        lambda place, _: cut(place / "PET.nii.gz", "PET.nii.gz", (place / "PET.nii.gz").read_bytes()),
        "cannot be read", "PET.nii.gz",
    ),
    "a truncated image without compression": (
        lambda place, _: cut(place / "PET.nii.gz", "PET.nii", gzip.decompress((place / "PET.nii.gz").read_bytes())),
        "cannot be read", "PET.nii",
    ),
    "NaN": (
        lambda place, case: holed(place / "CT.nii.gz", case.images["CT"], case.grid, np.nan),
        "3 of .* voxels are NaN or infinite", "CT.nii.gz",
    ),
    "infinity": (
        lambda place, case: holed(place / "T1w.nii.gz", case.images["T1w"], case.grid, np.inf),
        "3 of .* voxels are NaN or infinite", "T1w.nii.gz",
    ),
    "two files for one image": (
        lambda place, _: shutil.copy(place / "PET.nii.gz", place / "PET.nii"), "2 files match the pattern of the PET",
        "",
    ),
    "no file for an image that others have": (
        lambda place, _: (place / "PET.nii.gz").rename(place / "PETT.nii.gz"), "no file matches .* PET image",
        "PET.nii*",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGED)
def test_images_that_cannot_be_read_are_refused_naming_case_file_and_what_is_near(
    tmp_path: Path, small_case: SourceCase, open_folders: Open, what: str
) -> None:
    damage, told, file = DAMAGED[what]
    place = write_folder(small_case, tmp_path)
    write_folder(replace(small_case, name="sound"), tmp_path)
    damage(place, small_case)
    source = open_folders(tmp_path, images={"CT": "CT.nii.gz", "T1w": "T1w.nii.gz", "PET": "PET.nii*"})
    with pytest.raises(DataError, match=told) as caught:
        _read(source, small_case.name)
    assert caught.value.case == small_case.name
    assert str(caught.value.file).endswith(file or small_case.name)
    assert "no file" not in what or "PETT.nii.gz" in str(caught.value.remedy)
    _read(source, "sound")
    assert [e.name for e in open_folders(tmp_path, exclude=[small_case.name]).entries()] == ["sound"]


def test_label_values_outside_the_structures_are_refused_unless_ignored(
    tmp_path: Path, small_case: SourceCase, open_folders: Open
) -> None:
    place = write_folder(small_case, tmp_path)
    label = small_case.label.copy()
    label[0, 0, 0] = 9
    write_volume(label, small_case.grid, place / "label.nii.gz")
    with pytest.raises(DataError, match=r"label values \[9\]") as caught:
        _read(open_folders(tmp_path))
    assert caught.value.case == small_case.name
    masks = [{"file": "label.nii.gz", "labels": {1: "GTV-T", 2: "GTV-N"}, "ignore": [9]}]
    np.testing.assert_array_equal(_read(open_folders(tmp_path, masks=masks)).label, small_case.label)


def test_an_empty_folder_and_wrong_paths_and_patterns_are_refused(
    tmp_path: Path, small_case: SourceCase, open_folders: Open
) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_folders(tmp_path, path="nowhere").entries()
    with pytest.raises(DataError, match="no folder matches"):
        open_folders(tmp_path).entries()
    write_folder(small_case, tmp_path)
    with pytest.raises(DataError, match="no folder matches") as caught:
        open_folders(tmp_path, patients="STS_*").entries()
    assert small_case.name in str(caught.value.remedy)
    with pytest.raises(DataError, match=r"CT image: ct\.nii"):
        open_folders(tmp_path, images={"CT": "ct.nii"}).entries()
    with pytest.raises(DataError, match="pattern of the mask"):
        open_folders(tmp_path, masks=[{"file": "gtv.nii"}]).entries()
    with pytest.raises(StudyError, match="'exclude' names folders"):
        open_folders(tmp_path, exclude=["nobody"]).entries()
    with pytest.raises(StudyError, match="unknown modality 'US'"):
        open_folders(tmp_path, images={"CT": "CT.nii.gz", "US": "us.nii.gz"})
    with pytest.raises(StudyError, match="'GTVp', which the study does not have"):
        open_folders(tmp_path, masks=[{"file": "label.nii.gz", "structure": "GTVp"}])


def test_two_folders_of_one_name_are_refused_and_several_of_one_patient_told_by_a_pattern(
    tmp_path: Path, small_case: SourceCase, open_folders: Open
) -> None:
    for visit in ("a/P1_before", "b/P1_after", "b/P2_before", "c/P2_before"):
        write_folder(replace(small_case, name=visit), tmp_path)
    with pytest.raises(DataError, match="two folders have this name"):
        open_folders(tmp_path, patients=["b/*", "c/*"]).entries()
    found = open_folders(tmp_path, patients=["a/*", "b/*"], patient_regex="^([^_]+)").entries()
    assert [(e.name, e.patient) for e in found] == [("P1_after", "P1"), ("P1_before", "P1"), ("P2_before", "P2")]
    with pytest.raises(DataError, match="patient-regex"):
        open_folders(tmp_path, patients="a/*", patient_regex="^(Q.)").entries()


def test_the_identity_of_a_case_changes_with_its_files_and_the_options_that_matter(
    tmp_path: Path, small_case: SourceCase, open_folders: Open
) -> None:
    place = write_folder(small_case, tmp_path)
    write_folder(replace(small_case, name="other"), tmp_path)

    def identity(**options: Any) -> dict[str, Any]:
        return next(e.identity for e in open_folders(tmp_path, **options).entries() if e.name == small_case.name)

    first = identity()
    assert first == identity(exclude=["other"], check_masks={"PET": "label.nii.gz"}, check_dsc=0.5)
    assert first != identity(crop={"margin-mm": [5, 50]})
    os.utime(place / "PET.nii.gz", ns=(1, 1))
    assert first != identity()


@pytest.mark.parametrize("turn", [all_reorientations()[0], all_reorientations()[21], all_reorientations()[42]])
def test_a_re_crop_keeps_the_reference_and_every_voxel_at_its_place_and_depends_on_seed_and_name(
    tmp_path: Path, small_case: SourceCase, open_folders: Open, turn: Reorientation
) -> None:
    write_folder(small_case, tmp_path, turn)
    whole = _read(open_folders(tmp_path))
    found = _read(open_folders(tmp_path, crop={"margin-mm": [5, 30], "seed": 4}))
    assert found.grid.shape < whole.grid.shape
    assert np.count_nonzero(found.label) == np.count_nonzero(whole.label)
    start = np.rint((np.asarray(found.grid.origin) - whole.grid.origin)[::-1] / whole.grid.spacing).astype(int)
    where = tuple(slice(a, a + n) for a, n in zip(start, found.grid.shape, strict=True))
    np.testing.assert_array_equal(found.images["CT"], whole.images["CT"][where])
    np.testing.assert_allclose(found.images["PET"], whole.images["PET"][where], atol=1e-3)
    assert found.reorientation.apply_to_grid(found.original).differences(found.grid) == []
    assert found.reorientation.undo(found.label).shape == found.original.shape
    assert any("re-cropped off-centre" in note for note in found.notes)
    write_folder(replace(small_case, name="other"), tmp_path, turn)
    crops = [(small_case.name, 4), (small_case.name, 5), ("other", 4), ("other", 5)]
    grids = {
        str(_read(open_folders(tmp_path, crop={"margin-mm": [5, 30], "seed": seed}), name).grid) for name, seed in crops
    }
    assert len(grids) == 4 and str(found.grid) in grids


def test_masks_that_disagree_between_modalities_are_found(
    tmp_path: Path, small_case: SourceCase, open_folders: Open
) -> None:
    place = write_folder(small_case, tmp_path)
    write_volume(np.roll(small_case.label, 5, axis=1), small_case.grid, place / "pet_label.nii.gz")
    write_volume(small_case.label, small_case.grid, place / "mr_label.nii.gz")
    source = open_folders(tmp_path, check_masks={"PET": "pet_label.nii.gz", "T1w": "mr_label.nii.gz"})
    entry = source.entries()[0]
    found = source.findings(entry, source.read(entry))
    assert len(found) == 2
    assert all("CT" in text and "PET" in text and "DSC" in text for text in found)
    assert open_folders(tmp_path).findings(entry, small_case) == []


@pytest.mark.parametrize(
    "change",
    [{"images": {}}, {"images": {"PET": "PET.nii.gz"}}, {"masks": []}, {"mask": "x"}, {"crop": {"margin-mm": [9, 2]}},
     {"masks": [{"file": "a", "labels": {0: "GTV-T"}}]},
     {"masks": [{"file": "a", "labels": {1: "A"}, "structure": "A"}]},
     {"patient-regex": "("}, {"patient-regex": "abc"}, {"check-dsc": 2}],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    options = {"path": ".", "images": {"CT": "CT.nii.gz"}, "masks": [{"file": "label.nii.gz"}]}
    FilesOptions.model_validate(options)
    with pytest.raises(ValidationError):
        FilesOptions.model_validate(options | change)
