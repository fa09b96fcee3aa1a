"""Faces: what must not be shown is not, and no surface can be grown back from what is."""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage

from gtvbench.bench.core.geometry import Grid, canonical
from gtvbench.bench.files import nifti
from gtvbench.bench.pictures.faces import HIDDEN_GREY, SHELL_MM, hidden_by_modality, hidden_of_one, hidden_voxels
from gtvbench.bench.run.picture_steps import Crop
from gtvbench.datasets.phantom.source import Phantom

Execute = Any  # the fixture of conftest.py

DATA = Path(os.environ.get("GTVBENCH_TEST_DATA", Path(__file__).parents[3] / ".." / "shared" / "data"))
GRID = Grid((40, 80, 80), (4.0, 2.5, 2.5))


def ball(radius_mm: float = 80.0, centre_mm: tuple[float, float, float] = (80, 100, 100)) -> npt.NDArray[np.bool_]:
    axes = np.ogrid[tuple(slice(0, n) for n in GRID.shape)]
    squares = [((a * s - c) / radius_mm) ** 2 for a, s, c in zip(axes, GRID.spacing, centre_mm, strict=True)]
    inside: npt.NDArray[np.bool_] = sum(squares) <= 1
    return inside


def scan(body: npt.NDArray[np.bool_], inside: float = 40.0, outside: float = -1000.0) -> npt.NDArray[np.float32]:
    noise = np.random.default_rng(1).normal(0, 0.01, body.shape)
    return (np.where(body, inside, outside) * (1 + noise)).astype(np.float32)


def depth_of(shown: npt.NDArray[np.bool_], body: npt.NDArray[np.bool_], grid: Grid) -> npt.NDArray[np.float64]:
    """Depth in mm below the body's surface of every voxel that is shown."""
    depth: npt.NDArray[np.float64] = ndimage.distance_transform_edt(body, sampling=grid.spacing)[shown]
    return depth


@pytest.mark.parametrize(("modality", "inside", "outside"), [("CT", 40, -1000), ("T1w", 300, 9), ("PET", 2, 0.01)])
def test_the_shell_and_what_is_outside_is_hidden_and_the_middle_is_not(
    modality: str, inside: float, outside: float
) -> None:
    body = ball()
    hidden = hidden_voxels({modality: scan(body, inside, outside)}, GRID)
    assert hidden.shape == GRID.shape and hidden[~body].all()
    assert depth_of(~hidden, body, GRID).min() >= SHELL_MM
    assert not hidden[ball(55)].any()


def test_muscle_is_body_beside_fat_that_is_four_times_as_bright() -> None:
    """A T1w that ends within the body: no ring of fat is closed there, to be filled."""
    rng = np.random.default_rng(0)
    x = np.arange(GRID.shape[2]) * GRID.spacing[2]
    values = np.select([x < 30, x < 45], [0.0, 1000.0], 250.0)
    volume = np.abs(np.broadcast_to(values, GRID.shape) + rng.normal(0, 15, GRID.shape)).astype(np.float32)
    hidden = hidden_voxels({"T1w": volume}, GRID)
    assert hidden[..., x < 30 + SHELL_MM].all()
    assert not hidden[..., x > 30 + SHELL_MM + 12].any()


@pytest.mark.parametrize(("noise", "reach"), [(0.01, 74), (0.1, 74), (0.03, 90), (0.06, 90)])
def test_noise_in_the_air_around_mr_is_no_body(noise: float, reach: int) -> None:
    """An MR that covers a box of the grid: exact zeros around it, noisy air in it, fat upon muscle."""
    body, muscle, rng = ball(70), ball(58), np.random.default_rng(0)
    clean = np.where(muscle, 0.3, np.where(body, 1.0, 0.0))
    noisy = np.hypot(clean + rng.normal(0, noise, GRID.shape), rng.normal(0, noise, GRID.shape))
    inside = np.ones(GRID.shape, bool)
    for axis, (n, step) in enumerate(zip(GRID.shape, GRID.spacing, strict=True)):
        near = np.abs(np.arange(n) - n / 2) * step <= reach
        inside &= near.reshape([-1 if k == axis else 1 for k in range(3)])
    volume = np.where(inside, 1000 * noisy, 0).astype(np.float32)
    for hidden in (hidden_voxels({"T1w": volume}, GRID), hidden_of_one(volume, "T1w", GRID, 0.0)):
        assert depth_of(~hidden, body, GRID).min() >= SHELL_MM
        assert (~hidden)[ball(40)].mean() > 0.95


def test_mr_of_two_values_has_a_body() -> None:
    volume = np.zeros(GRID.shape, np.float32)
    volume[:, 30:] = 300.0
    hidden = hidden_voxels({"T1w": volume}, Grid(GRID.shape, (3.0, 3.0, 3.0)))
    assert hidden[:, : 30 + int(SHELL_MM / 3)].all() and not hidden[:, 50:].any()


def test_mr_that_lies_wrong_upon_ct_does_not_show_its_own_surface() -> None:
    there = ball(70, (80, 100, 130))
    rng = np.random.default_rng(0)
    mr = np.abs(np.where(there, 300.0, 0.0) + rng.normal(0, 5, GRID.shape)).astype(np.float32)
    mr[:10] = 0.0  # the MR ends within the body
    hidden = hidden_by_modality({"CT": scan(ball(70)), "T1w": mr, "PET": mr}, GRID)
    np.testing.assert_array_equal(hidden("CT"), hidden_voxels({"CT": scan(ball(70))}, GRID))
    np.testing.assert_array_equal(hidden("PET"), hidden("CT"))
    covered = np.broadcast_to(np.arange(GRID.shape[0])[:, None, None] >= 10, GRID.shape)
    shown = ~hidden("T1w") & covered
    assert depth_of(shown, ball(70), GRID).min() >= SHELL_MM and depth_of(shown, there, GRID).min() >= SHELL_MM
    assert shown[20, 40, 46] and (~hidden("CT") & covered & ~there).any()
    np.testing.assert_array_equal(hidden("T1w")[:10], hidden("CT")[:10])


def test_where_the_field_of_view_of_one_image_ends_in_the_body_there_is_no_surface() -> None:
    half = GRID.shape[0] // 2
    volume = scan(ball(70), 300, 9)
    volume[:half] = 0.0
    hidden = hidden_of_one(volume, "T1w", GRID, 0.0)
    assert hidden[:half].all()
    assert not hidden[half][ball(45)[half]].any()
    assert hidden_of_one(np.zeros(GRID.shape, np.float32), "T1w", GRID, 0.0).all()


def test_a_nose_leaves_no_trace_in_the_border_of_what_is_shown() -> None:
    body, nose = ball(), ball(12, (80, 20, 100))
    without = hidden_voxels({"CT": scan(body)}, GRID)
    with_nose = hidden_voxels({"CT": scan(body | nose)}, GRID)
    assert (nose & ~body).sum() > 50 and with_nose[nose & ~body].all()
    assert (without == with_nose).mean() > 0.999


def test_a_mask_that_fixes_the_head_is_not_its_surface() -> None:
    body = ball(70)
    shell = ndimage.distance_transform_edt(~body, sampling=GRID.spacing)
    fixed = scan(body)
    fixed[(shell > 8) & (shell <= 10.5)] = -50.0
    hidden = hidden_voxels({"CT": fixed}, GRID)
    assert depth_of(~hidden, body, GRID).min() >= SHELL_MM


def test_where_the_volume_ends_inside_the_body_nothing_is_hidden_and_where_no_body_is_found_all_is() -> None:
    assert not hidden_voxels({"CT": np.full(GRID.shape, 30, np.float32)}, GRID).any()
    for images in ({}, {"CT": np.full(GRID.shape, -1000, np.float32)}, {"US": scan(ball())}):
        assert hidden_voxels(images, GRID).all()


def test_an_arm_beside_the_trunk_is_shown_as_well() -> None:
    trunk, arm = ball(50, (80, 60, 60)), ball(40, (80, 150, 150))
    hidden = hidden_voxels({"CT": scan(trunk | arm)}, GRID)
    assert not hidden[20, 24, 24] and not hidden[20, 60, 60]


@pytest.mark.parametrize("patient", ["pt_101", "pt_109", "pt_115"])
def test_no_front_of_a_real_head_can_be_put_together_again(patient: str) -> None:
    path = DATA / "openkbp" / "train" / patient / "ct.nii.gz"
    if not path.is_file():
        pytest.skip("the openkbp volumes are not here (GTVBENCH_TEST_DATA)")
    volume = nifti.read_volume(path, patient)
    turn = canonical(volume.grid)
    ct, grid = np.ascontiguousarray(turn.apply(volume.array)), turn.apply_to_grid(volume.grid)
    body = ndimage.binary_opening(ct > -300, ndimage.generate_binary_structure(3, 1))
    labels, _ = ndimage.label(body)
    body = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
    shown = ~hidden_voxels({"CT": ct.astype(np.float32)}, grid)
    seen = shown.any(1) & body.any(1)
    front, left = body.argmax(1) * grid.spacing[1], shown.argmax(1) * grid.spacing[1]
    assert seen.mean() > 0.05
    assert (left - front)[seen].min() >= SHELL_MM
    # Growing back what is shown by the shell's depth does not give the face: it stays flatter than it by millimetres.
    head = slice(int(0.6 * grid.shape[0]), None)
    grown = ndimage.distance_transform_edt(~shown, sampling=grid.spacing) <= SHELL_MM
    middle = slice(grid.shape[2] // 2 - 8, grid.shape[2] // 2 + 8)
    both = grown.any(1)[head, middle] & body.any(1)[head, middle]
    error = np.abs(grown.argmax(1) - body.argmax(1))[head, middle][both] * grid.spacing[1]
    assert np.median(error) > 15


# ---- in the pictures of a run


def test_pictures_of_real_patients_show_no_voxel_of_the_shell_unless_the_study_wants_it(
    finished: Any, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Phantom, "synthetic", False)
    outcome, run = execute(["box-fill"], "real", page=True)
    case = run.cohort.cases("test")[0]
    with zipfile.ZipFile(run.store.pictures(case)) as archive:
        record = json.loads(archive.read("record.json"))
        names = [name for name in archive.namelist() if name.endswith(".webp")]
        planes = {name: np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L")) for name in names}
    assert record["hidden_mm"] == SHELL_MM
    grid = Grid.from_dict(record["grid"])
    ct = np.load(run.store.case_folder(case) / "CT.uint8.npy")
    images = {"CT": np.memmap(run.store.case_folder(case) / "CT.nii", "<f4", "r", 352, grid.shape)}
    crop = Crop.from_list(record["crop"])
    region = tuple(slice(*r) for r in (crop.z, crop.y, crop.x))
    hidden = hidden_voxels(images, grid)[region]
    assert 0.01 < hidden.mean() < 0.99
    for modality in record["modalities"]:
        stack = np.stack([planes[f"{modality}/{z}.webp"] for z in range(*crop.z)])
        inner = np.stack([ndimage.binary_erosion(plane, iterations=2, border_value=1) for plane in hidden])
        assert np.abs(stack[inner].astype(int) - HIDDEN_GREY).max() <= 12  # what the compression leaves
    assert ct[region][hidden].std() > 0, "nothing was there to hide"
    page = (run.folder / "report" / "index.html").read_text()
    assert "so that no face can be seen" in page and "faces: show" in page

    outcome, shown = execute(["box-fill"], "real", page=True, report={"faces": "show"})
    assert outcome.computed["pictures"] == 4 and outcome.computed["score"] == 0
    # And so the same case gives the same bytes, whichever run made them.
    assert shown.store.pictures(case).read_bytes() == finished.store.pictures(case).read_bytes()
    assert shown.store.contours("box-fill", case).read_text() == finished.store.contours("box-fill", case).read_text()
    assert "so that no face can be seen" not in (run.folder / "report" / "index.html").read_text()
