"""Checkerboards: both images in their squares, before and after; nothing of the body's surface unless it is wanted."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gtvbench.bench.core.cases import Images, RegistrationRecord, SourceCase
from gtvbench.bench.core.geometry import Grid, Reorientation
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.files.nifti import write_volume
from gtvbench.bench.files.progress import Display
from gtvbench.bench.files.store import Store
from gtvbench.bench.pictures.checkerboards import checkerboard, kept_before, planes_through
from gtvbench.bench.pictures.faces import hidden_voxels
from gtvbench.bench.prepare.cases import Prepared, load_prepared, prepare_key, publish_case
from gtvbench.bench.prepare.check import check_study
from gtvbench.bench.run.picture_steps import PictureSteps
from gtvbench.bench.study.cohort import open_cohort
from gtvbench.bench.study.file import Study
from gtvbench.datasets.phantom.source import Phantom, PhantomOptions
from gtvbench.datasets.registration import register as registration

GRID = Grid((40, 100, 100), (4.0, 2.0, 2.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
AT = (20, 50, 50)
GTV = structures_from({"GTV": 1})


def cylinder(shift: int = 0, inside: float = 100.0, outside: float = 0.0) -> np.ndarray:
    """A body of 80 mm radius along z, moved along x by so many voxels."""
    _, y, x = np.indices(GRID.shape)
    return np.where((y - 50) ** 2 + (x - 50 - shift) ** 2 < 40**2, inside, outside).astype(np.float32)


def case_of(shift: int = 6) -> SourceCase:
    label = np.zeros(GRID.shape, np.uint8)
    label[18:23, 48:53, 48:53] = 1
    before = kept_before(cylinder(shift), "T1w", AT, GRID)
    facts = {"status": "registered", "reference": "CT"}
    images = {"CT": cylinder(0, 40.0, -1000.0), "T1w": cylinder()}
    records = {"T1w": RegistrationRecord(facts, b"tfm", before)}
    turn = Reorientation((0, 1, 2), (False, False, False))
    return SourceCase("P", "P", GRID, images, label, GRID, turn, registrations=records)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "run")


def publish(store: Store) -> Prepared:
    publish_case(store, "key", case_of(), ("CT", "T1w"), GTV)
    prepared = load_prepared(store, "key", "P")
    assert prepared is not None
    return prepared


def shown(store: Store, hide: bool) -> np.ndarray:
    images = Images("P", store.case_folder("P"))
    surface = hidden_voxels({"CT": images.raw("CT")}, GRID) if hide else None
    content = checkerboard(store.before_registration("P", "T1w"), "T1w", "CT", images, surface)
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def tinted(picture: np.ndarray) -> np.ndarray:
    """Where the other image is: more red than blue."""
    return picture[..., 0] - picture[..., 2] > 25


def test_planes_have_the_head_up() -> None:
    volume = np.arange(24).reshape(2, 3, 4)
    planes = planes_through(volume, (1, 2, 3))
    assert planes["axial"].tolist() == volume[1].tolist()
    assert planes["coronal"].tolist() == [volume[1, 2].tolist(), volume[0, 2].tolist()]
    assert planes["sagittal"].tolist() == [volume[1, :, 3].tolist(), volume[0, :, 3].tolist()]


def test_before_lies_above_and_off_by_what_it_was_off(store: Store) -> None:
    publish(store)
    picture = shown(store, hide=False)
    half = picture.shape[0] // 2
    above, below = tinted(picture[:half, : picture.shape[1] // 3]), tinted(picture[half:, : picture.shape[1] // 3])
    assert 0.2 < below.sum() / (np.pi / 4 * half**2) < 0.8  # about every second square of the body
    reach = [np.flatnonzero(part.any(axis=0))[-1] for part in (above, below)]
    assert reach[0] - reach[1] >= 4  # 12 mm to the right of where it was taken to


def test_surfaces_of_both_images_are_hidden_in_every_panel(store: Store) -> None:
    """Open pictures tell where the body ends in each panel, closed ones end 12 mm before; MR lay 12 mm to the right."""
    publish(store)
    open_, closed = shown(store, hide=False), shown(store, hide=True)
    assert open_.shape == closed.shape
    lines = np.flatnonzero((open_ == 0).all(axis=(0, 2)))  # the gaps between columns
    width = lines[0]
    pixel_mm = 192 / width  # 160 mm of body, 12 more for where the MR lay, 10 of margin on both sides
    for half in (slice(0, open_.shape[0] // 2 - 3), slice(open_.shape[0] // 2 + 3, None)):
        for panel in (slice(0, width), slice(width + 6, 2 * width + 6)):
            bright = [(part[half, panel].max(axis=-1) > 90) for part in (open_, closed)]
            ends = [np.flatnonzero(part.any(axis=0))[[0, -1]] * pixel_mm for part in bright]
            assert ends[1][0] - ends[0][0] >= 11 and ends[0][1] - ends[1][1] >= 11
    # Above, what is tinted (MR) ends 12 mm before the CT's surface on the right, and before its own on the left.
    left, right = (np.flatnonzero(tinted(closed[: closed.shape[0] // 2, :width]).any(axis=0))[[0, -1]]) * pixel_mm
    start = np.flatnonzero(tinted(open_[: open_.shape[0] // 2, :width]).any(axis=0))[[0, -1]] * pixel_mm
    assert left - start[0] >= 11 and start[1] - right >= 22


def test_pictures_are_made_once_told_where_they_fail_and_gone_where_nothing_is_registered(store: Store) -> None:
    prepared, failed = publish(store), []
    steps = PictureSteps(store, GTV, failed.append, hide_faces=True)
    steps.of_registrations(prepared)
    path = store.checkerboard("P", "T1w")
    content = path.read_bytes()
    assert content[:4] == b"RIFF" and steps.computed == 1 and not failed
    steps.of_registrations(prepared)
    assert steps.computed == 1
    open_ = PictureSteps(store, GTV, failed.append)
    open_.of_registrations(prepared)
    assert path.read_bytes() != content  # what may be seen is part of the key
    store.before_registration("P", "T1w").write_bytes(b"broken")
    steps.of_registrations(prepared)
    assert [row.status for row in failed] == ["no_pictures"]
    assert not path.exists()
    steps.of_registrations(publish(store))
    assert path.exists()
    publish_case(store, "another", replace(case_of(), registrations={}), ("CT", "T1w"), GTV)
    prepared = load_prepared(store, "another", "P")
    assert prepared is not None
    steps.of_registrations(prepared)
    assert not path.exists() and not store.before_registration("P", "T1w").exists()


def test_methods_see_nothing_that_runs_through_the_target(store: Store) -> None:
    """The planes do; they must not lie in the folder that a method is given."""
    publish(store)
    names = {path.name for path in Images("P", store.case_folder("P")).folder.rglob("*")}
    assert names == {"CT.nii", "CT.uint8.npy", "T1w.nii", "T1w.uint8.npy", "case.json", "registration", "T1w.tfm"}


def test_an_image_that_lay_elsewhere_is_absent_before(tmp_path: Path) -> None:
    kept: dict[str, Any] = kept_before(None, "T1w", AT, GRID)
    assert (kept["axial"] == 0).all() and kept["hidden axial"].all()


def keys(study: Study, base: Path) -> list[str]:
    cohort = open_cohort(study, base)
    return [prepare_key(entry.identity, cohort.modalities, cohort.structures) for entry in cohort.used]


def test_a_run_registers_shows_it_on_its_page_and_does_nothing_twice(
    execute: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = PhantomOptions(patients=1, shape=(20, 48, 48), spacing=(5.0, 4.0, 4.0))
    source = Phantom(options, Path(), structures_from({"GTV-T": 1, "GTV-N": 2}), 0)
    case = source.read(source.entries()[0])
    off = replace(case.grid, origin=tuple(v + d for v, d in zip(case.grid.origin, (9.0, -7.0, 6.0), strict=True)))
    write_volume(case.images["CT"], case.grid, tmp_path / "data" / "P" / "CT.nii.gz")
    write_volume(case.images["T1w"], off, tmp_path / "data" / "P" / "T1w.nii.gz")
    write_volume(case.label, case.grid, tmp_path / "data" / "P" / "mask.nii.gz")
    registered = {"modalities": ["T1w"], "method": "rigid"}
    dataset = {
        "source": "folders",
        "path": "data",
        "images": {"CT": "CT.nii.gz", "T1w": "T1w.nii.gz"},
        "masks": [{"file": "mask.nii.gz", "labels": {1: "GTV-T", 2: "GTV-N"}}],
        "registration": registered,
    }
    changes: dict[str, Any] = {"dataset": dataset, "split": {"counts": {"test": 1}}}
    study = Study.model_validate({"study": "s", "structures": {"GTV-T": 1, "GTV-N": 2}} | changes)
    with monkeypatch.context() as patch:
        patch.setattr(registration, "rigid_by_structure", lambda *_: pytest.fail("'bench check' does not register"))
        checked = check_study(study, tmp_path, Display("quiet"))
    assert [finding for finding in checked.findings if finding.level == "error"] == []
    outcome, run = execute(["box-fill"], page=True, **changes)
    assert outcome.exit_code == 0
    assert run.store.checkerboard("P", "T1w").is_file()
    facts = json.loads((run.store.case_folder("P") / "case.json").read_text())["registration"]["T1w"]
    assert facts["status"] == "registered" and facts["displacement_mm"]["mean"] == pytest.approx(12.9, abs=1.5)
    page = outcome.report.read_text()
    assert "Pictures of the registration (1)" in page
    assert "The surface of the body is hidden." in page  # the folders source does not know that they are phantoms
    again, _ = execute(["box-fill"], **changes)
    assert set(again.computed.values()) == {0}
    reseeded = study.model_copy(update={"dataset": dataset | {"registration": registered | {"seed": 1}}})
    assert set(keys(study, tmp_path)).isdisjoint(keys(reseeded, tmp_path))
