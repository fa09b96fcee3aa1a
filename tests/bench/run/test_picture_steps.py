import io
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from gtvbench.bench.core.errors import StoreError
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.core.prompts import BoxPrompt, Prompts
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.pictures.contours import box_outline, outline, slice_dsc
from gtvbench.bench.run import picture_steps
from gtvbench.bench.run.picture_steps import Crop

Execute = Any  # the fixture of conftest.py: execute(methods, folder, **changes) -> (outcome, run)
Run = Any  # `finished` of conftest.py: a finished run of both reference arms, that `execute` goes on with
Mask = npt.NDArray[np.bool_]

BOTH = ["box-fill", "box-ellipse"]
GTV = structures_from({"GTV-T": 1, "GTV-N": 2})


def filled(path: str, shape: tuple[int, int], corner: tuple[int, int] = (0, 0)) -> Mask:
    """The voxels that a path encloses (even-odd), found by crossing its upright edges."""
    inside = np.zeros(shape, bool)
    for loop in path.split("z")[:-1]:
        begin, *moves = re.findall(r"[Mhv]-?\d+(?: -?\d+)?", loop)
        x, y = (int(n) for n in begin[1:].split())
        x, y = x - corner[1], y - corner[0]
        first = (x, y)
        for move in [*moves, ""]:
            if move[:1] == "h":
                x += int(move[1:])
                continue
            end = y + int(move[1:]) if move else first[1]
            low, high = sorted((y, end))
            inside[low:high, x:] ^= True
            y = end
        assert (x, y) == first, "the path does not close along voxel edges"
    return inside


@fuzzed(300)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_filling_an_outline_gives_back_the_mask(mask: Mask) -> None:
    assert (filled(outline(mask), (mask.shape[0], mask.shape[1])) == mask).all()


@fuzzed()
@given(arrays(bool, (7, 9)), st.integers(-5, 90), st.integers(-5, 90))
def test_an_outline_moves_with_its_corner(mask: Mask, y: int, x: int) -> None:
    assert (filled(outline(mask, (y, x)), (7, 9), (y, x)) == mask).all()


def test_outlines_of_known_masks_are_as_drawn_by_hand() -> None:
    assert outline(np.zeros((3, 3), bool)) == ""
    assert outline(np.ones((1, 1), bool)) == "M0 0h1v1h-1z"
    assert outline(np.ones((2, 3), bool), (5, 10)) == "M10 5h3v2h-3z"
    assert outline(np.eye(2, dtype=bool)) == "M0 0h1v1h-1zM1 1h1v1h-1z"  # touching at a corner: two loops
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    assert outline(ring) == "M0 0h3v3h-3zM1 2h1v-1h-1z"  # the hole runs the other way


def test_a_box_is_outlined_along_the_edges_of_its_voxels() -> None:
    box = np.zeros((10, 12), bool)
    box[2:5, 3:9] = True
    assert (filled(box_outline((2, 3, 5, 9), (0, 0)), (10, 12)) == box).all()
    assert box_outline((2, 3, 5, 9), (1, 1)) == "M2 1h6v3h-6z"


def test_a_slice_without_any_voxel_has_no_dsc() -> None:
    one, none = np.ones((2, 2), bool), np.zeros((2, 2), bool)
    assert slice_dsc(none, none) is None
    assert slice_dsc(one, none) == 0.0
    assert slice_dsc(one, one) == 1.0


def label_map(shape: tuple[int, int, int] = (20, 60, 70)) -> npt.NDArray[np.uint8]:
    label = np.zeros(shape, np.uint8)
    label[8:12, 25:35, 30:40] = 1
    return label


def test_the_crop_has_margins_in_mm_around_reference_and_prompts_and_stays_inside_the_grid() -> None:
    grid = Grid((20, 60, 70), (5.0, 4.0, 2.0))
    prompts = Prompts("P", (BoxPrompt(13, 1, 1, 20, 20, 30, 41, 9),))
    crop = picture_steps.crop_around(label_map(), prompts, GTV, grid)
    assert crop == Crop((6, 16), (10, 45), (0, 61))  # 2 slices, 10 rows and 20 columns more, cut off at the left
    assert Crop.from_list(crop.as_list()) == crop


def test_pictures_are_made_smaller_only_where_the_crop_is_large() -> None:
    assert Crop((0, 1), (0, 100), (10, 330)).size() == (100, 320)
    assert Crop((0, 1), (0, 200), (0, 400)).size() == (160, 320)


@pytest.mark.parametrize("shape", [(40, 50), (80, 100)])
def test_a_picture_shows_the_grey_levels_it_was_made_of(shape: tuple[int, int]) -> None:
    rows, columns = np.indices(shape)
    plane = (2 * rows + columns * 100 // shape[1] + 20).astype(np.uint8)
    image = Image.open(io.BytesIO(picture_steps.picture(plane, (40, 50))))
    assert image.size == (50, 40)
    step = shape[0] // 40
    expected = plane.reshape(40, step, 50, step).mean(axis=(1, 3))
    assert np.abs(np.asarray(image.convert("L"), float) - expected).mean() < 3


def test_contours_hold_what_was_scored_and_tell_what_lies_outside_the_picture() -> None:
    reference = label_map()
    prediction = np.zeros_like(reference)
    prediction[9:13, 25:35, 35:60] = 1
    prediction[0, 0, :3] = 1
    crop = Crop((7, 14), (20, 40), (25, 50))
    record = picture_steps.contour_record(prediction, reference, crop, GTV, None)
    part = record["structures"]["GTV-T"]
    assert part["outside"] == 3 + 4 * 10 * 10
    assert part["dsc"][9] == pytest.approx(2 * 50 / (100 + 250), abs=1e-4)
    assert part["dsc"][0] == 0.0 and part["dsc"][8] == 0.0 and part["dsc"][1] is None
    assert len(part["dsc"]) == 20 and set(part["paths"]) == {"9", "10", "11", "12"}
    # Drawn to one voxel beyond the crop, so that no line runs along the picture's edge.
    assert part["paths"]["9"] == "M10 5h16v10h-16z" and crop.x[1] - crop.x[0] == 25
    assert record["structures"]["GTV-N"] == {"paths": {}, "dsc": [None] * 20, "outside": 0}


def test_a_failed_prediction_is_recorded_by_its_status_alone() -> None:
    record = picture_steps.contour_record(None, label_map(), Crop((7, 14), (20, 40), (25, 50)), GTV, "timeout")
    assert record["status"] == "timeout" and record["structures"] == {}


# ---- as steps of a run


def test_a_run_leaves_pictures_and_contours_without_a_path_or_a_date(finished: Run, kept_run: Path) -> None:
    case = finished.cohort.cases("test")[0]
    with zipfile.ZipFile(finished.store.pictures(case)) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        files = {name: archive.read(name) for name in archive.namelist()}
    record = json.loads(files["record.json"])
    first, stop = record["crop"][0]
    assert set(files) == {"record.json"} | {f"{m}/{z}.webp" for m in record["modalities"] for z in range(first, stop)}
    reference, crop = np.load(finished.store.reference(case)), Crop.from_list(record["crop"])
    text = finished.store.contours("box-fill", case).read_text()
    drawn = json.loads(text)
    for z in range(first, stop):
        path = record["reference"]["GTV-T"].get(str(z), "")
        assert (filled(path, reference.shape[1:], (-crop.y[0], -crop.x[0])) == (reference[z] == 1)).all()
        # The mask of box-fill is the box.
        assert drawn["structures"]["GTV-T"]["dsc"][z] is None or record["prompts"]["GTV-T"][str(z)]
    assert record["voxels"]["GTV-T"] == [int((plane == 1).sum()) for plane in reference]
    text += files["record.json"].decode()
    assert str(kept_run.parent) not in text and "/" not in text and ":\\" not in text


def test_an_older_run_gets_pictures_without_being_scored_again_unless_told_not_to(
    finished: Run, execute: Execute
) -> None:
    before = pd.read_parquet(finished.folder / "scores.parquet")
    for name in ("pictures", "steps/pictures", "steps/contours", "arms/box-fill/contours"):
        shutil.rmtree(finished.folder / name)
    outcome, run = execute(BOTH, report={"pictures": False})
    assert outcome.computed["pictures"] == 0 and not (run.folder / "pictures").exists()
    outcome, run = execute(BOTH)
    assert outcome.computed == {"prepare": 0, "fit": 0, "predict": 0, "score": 0, "pictures": 6, "report": 0}
    pd.testing.assert_frame_equal(pd.read_parquet(run.folder / "scores.parquet"), before)
    assert run.store.pictures(run.cohort.cases("test")[0]).is_file()


def test_a_picture_that_cannot_be_made_costs_no_score_and_is_told(finished: Run, execute: Execute) -> None:
    case = finished.cohort.cases("test")[0]
    # A damaged file: what lies there is not an array.
    path = finished.folder / "cases" / case / "CT.uint8.npy"
    path.write_bytes(b"\0" * path.stat().st_size)
    shutil.rmtree(finished.folder / "steps" / "pictures")
    outcome, run = execute(["box-fill"])
    assert outcome.exit_code == 0
    (failure,) = json.loads((run.folder / "failures.json").read_text())
    assert (failure["step"], failure["case"], failure["status"]) == ("pictures", case, "no_pictures")
    assert not run.store.pictures(case).exists(), "an older picture would show something else"
    assert set(pd.read_parquet(run.folder / "scores.parquet")["status"]) == {"ok"}


def test_a_folder_that_cannot_be_written_stops_the_run(finished: Run, execute: Execute) -> None:
    shutil.rmtree(finished.folder / "pictures")
    (finished.folder / "pictures").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written"):
        execute(["box-fill"])
