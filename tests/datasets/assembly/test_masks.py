from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from phantom_files import write_folder

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.files.nifti import write_volume
from gtvbench.datasets.sources.files import Files

Open = Callable[..., Files]


@pytest.fixture
def place(tmp_path: Path, small_case: SourceCase) -> Path:
    return write_folder(small_case, tmp_path)


def _label(source: Files) -> SourceCase:
    return source.read(source.entries()[0])


def _write(place: Path, name: str, mask: np.ndarray, grid: Grid) -> None:  # type: ignore[type-arg]
    write_volume(mask.astype(np.uint8), grid, place / name)


def test_one_file_a_structure_is_merged_into_one_label_map(
    place: Path, small_case: SourceCase, open_folders: Open
) -> None:
    _write(place, "t.nii.gz", (small_case.label == 1) * 255, small_case.grid)
    _write(place, "n.nii.gz", small_case.label == 2, small_case.grid)
    masks = [{"file": "t.nii.gz", "structure": "GTV-T"}, {"file": "n.nii.gz", "structure": "GTV-N"}]
    case = _label(open_folders(place.parent, masks=masks))
    np.testing.assert_array_equal(case.label, small_case.label)
    assert case.notes == ()


def test_where_masks_overlap_the_earlier_wins_and_the_overlap_is_counted(
    place: Path, small_case: SourceCase, open_folders: Open
) -> None:
    target = small_case.label == 1
    _write(place, "t.nii.gz", target, small_case.grid)
    _write(place, "all.nii.gz", small_case.label > 0, small_case.grid)
    masks = [{"file": "t.nii.gz", "structure": "GTV-T"}, {"file": "all.nii.gz", "structure": "GTV-N"}]
    case = _label(open_folders(place.parent, masks=masks))
    np.testing.assert_array_equal(case.label, small_case.label)
    assert any(f"{np.count_nonzero(target)} voxels" in note and "GTV-N" in note for note in case.notes)
    turned = _label(open_folders(place.parent, masks=masks[::-1]))
    assert set(np.unique(turned.label)) == {0, 2}


def test_several_lesion_files_make_one_structure_and_may_be_absent(
    place: Path, small_case: SourceCase, open_folders: Open
) -> None:
    nodes = small_case.label == 2
    cut = np.zeros_like(nodes)
    cut[:, : nodes.shape[1] // 2] = True
    masks = [
        {"file": "label.nii.gz", "labels": {1: "GTV-T"}, "ignore": [2]},
        {"file": "node_*.nii.gz", "structure": "GTV-N", "several": True, "optional": True},
    ]
    without = _label(open_folders(place.parent, masks=masks))
    np.testing.assert_array_equal(without.label, np.where(small_case.label == 1, 1, 0))
    _write(place, "node_1.nii.gz", nodes & cut, small_case.grid)
    _write(place, "node_2.nii.gz", nodes & ~cut, small_case.grid)
    np.testing.assert_array_equal(_label(open_folders(place.parent, masks=masks)).label, small_case.label)


def test_a_mask_on_another_grid_is_resampled_with_a_note(
    place: Path, small_case: SourceCase, open_folders: Open
) -> None:
    grid = small_case.grid
    bigger = Grid(
        (grid.shape[0] + 2, *grid.shape[1:]), grid.spacing, (*grid.origin[:2], grid.origin[2] - grid.spacing[0])
    )
    _write(place, "label.nii.gz", np.pad(small_case.label, ((1, 1), (0, 0), (0, 0))), bigger)
    case = _label(open_folders(place.parent))
    np.testing.assert_array_equal(case.label, small_case.label)
    assert any("label.nii.gz lies on another grid" in note for note in case.notes)


def test_a_mask_elsewhere_is_refused(place: Path, small_case: SourceCase, open_folders: Open) -> None:
    far = Grid(small_case.grid.shape, small_case.grid.spacing, (5000.0, 0.0, 0.0))
    _write(place, "label.nii.gz", small_case.label, far)
    with pytest.raises(DataError, match="no voxel in common") as caught:
        _label(open_folders(place.parent))
    assert str(caught.value.file).endswith("label.nii.gz")


def test_values_are_whole_numbers_that_the_study_maps_to_structures(
    place: Path, small_case: SourceCase, open_folders: Open
) -> None:
    label, grid = small_case.label, small_case.grid
    masks = [{"file": "label.nii.gz", "labels": {200: "GTV-T", 7: "GTV-N"}}]
    _write(place, "label.nii.gz", np.choose(label, [0, 200, 7]), grid)
    np.testing.assert_array_equal(_label(open_folders(place.parent, masks=masks)).label, label)
    write_volume(label.astype(np.float32), grid, place / "label.nii.gz")
    np.testing.assert_array_equal(_label(open_folders(place.parent)).label, label)
    for array, told in (
        (label.astype(np.float32) * np.float32(0.4), "not whole numbers"),
        (-label.astype(np.int16), r"label values \[-2, -1\]"),
    ):
        write_volume(array, grid, place / "label.nii.gz")
        with pytest.raises(DataError, match=told):
            _label(open_folders(place.parent))
