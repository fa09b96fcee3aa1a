"""The sources of public layouts: a tree by patterns, OpenKBP as CSV, MedSAM as npz; and what they refuse."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import public_trees as trees
import pytest
from pydantic import ValidationError

from gtvbench.bench.core.errors import DataError, StudyError
from gtvbench.bench.core.fusion import display_range, to_uint8
from gtvbench.bench.core.structures import structures_from
from gtvbench.datasets.assembly.patterns import cases_of, files_of
from gtvbench.datasets.sources import medsam_npz
from gtvbench.datasets.sources.files import Files, FilesOptions
from gtvbench.datasets.sources.medsam_npz import MedsamNpz, MedsamNpzOptions, modality_of, read_arrays
from gtvbench.datasets.sources.openkbp import SIDE, OpenKbpCsv, OpenKbpOptions, read_ct, read_grid, read_mask

GTV = structures_from({"GTV-T": 1, "GTV-N": 2})
PTV = structures_from({"PTV70": 1, "PTV63": 2})


def open_files(root: Path, **options: Any) -> Files:
    settings: dict[str, Any] = {
        "path": ".",
        "images": {"CT": "imagesTr/{case}__CT.nii.gz", "PET": "imagesTr/{case}__PT.nii.gz"},
        "masks": [{"file": "labelsTr/{case}.nii.gz", "labels": {1: "GTV-T", 2: "GTV-N"}}],
    }
    return Files(FilesOptions.model_validate(settings | options), root, GTV, 0)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return trees.hecktor2022(tmp_path, ["A-1", "A-2", "B[1]"])


def test_a_name_with_square_brackets_is_a_name_and_not_a_set(flat: Path) -> None:
    assert [e.name for e in open_files(flat).entries()] == ["A-1", "A-2", "B[1]"]
    assert len(files_of(flat, "imagesTr/{case}__*.nii.gz", "B[1]")) == 2


def test_the_identity_of_a_case_follows_its_own_files_alone(flat: Path) -> None:
    before = {e.name: e.identity for e in open_files(flat).entries()}
    trees.write(flat / "imagesTr" / "A-2__PT.nii.gz", trees.volume(9, "PET"))
    after = {e.name: e.identity for e in open_files(flat).entries()}
    assert [name for name in before if before[name] != after[name]] == ["A-2"]
    assert {e.name: e.identity for e in open_files(flat, exclude=["A-1"]).entries()}.items() <= after.items()


def test_a_pattern_that_fits_nothing_shows_a_layout_that_works(flat: Path) -> None:
    for wrong in ({"images": {"CT": "images/{case}_ct.nii.gz"}}, {"masks": [{"file": "masks/{case}.nii.gz"}]}):
        with pytest.raises(DataError) as caught:
            open_files(flat, **wrong).entries()
        assert "source: files" in str(caught.value.remedy)
    with pytest.raises(StudyError, match="not there: Z-9"):
        open_files(flat, exclude=["Z-9"]).entries()


def test_every_case_in_a_pattern_is_the_same_name_and_two_files_of_one_case_are_an_error(tmp_path: Path) -> None:
    for name in ("2/2_T2.nii", "3/2_T2.nii", "4/a/4_T2.nii", "one/c_ct.nii", "two/c_ct.nii"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(cases_of(tmp_path, "{case}/{case}_T2.nii")) == ["2"]
    assert list(cases_of(tmp_path, "{case}/**/{case}_T2.nii")) == ["2", "4"]
    assert list(cases_of(tmp_path, "**/{case}_T2.nii", "[4-9]")) == ["4"]
    with pytest.raises(DataError, match=r"one/c_ct\.nii and two/c_ct\.nii"):
        cases_of(tmp_path, "*/{case}_ct.nii")


@pytest.mark.parametrize(
    "options",
    [
        {"images": {"CT": "ct.nii.gz"}},
        {"images": {"CT": "../{case}.nii.gz"}},
        {"masks": [{"file": "/data/{case}.nii.gz"}]},
        {"case-regex": "("},
        {"case-regex": "(a|b)"},
        {"reference-modality": "T1w"},
    ],
)
def test_patterns_outside_the_tree_or_without_a_case_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        open_files(tmp_path, **options)


@pytest.fixture
def patient(tmp_path: Path) -> Path:
    """An OpenKBP patient whose CT holds each voxel's own place, so that axes cannot be mixed up."""
    ct = np.full((SIDE, SIDE, SIDE), -1024, np.int16)
    ct[100, 40, 20], ct[100, 90, 20], ct[10, 40, 20] = 11, 22, 3071
    mask = np.zeros_like(ct, bool)
    mask[90:95, 30:34, 20:23] = True
    folder = tmp_path / "train-pats" / "pt_1"
    trees.openkbp_csv(folder, ct, (2.5, 3.75, 3.9), PTV70=mask)
    return folder


def test_openkbp_indices_are_rows_columns_and_slices_from_the_head(patient: Path) -> None:
    # By hand: row 40, column 20, and slice 128 - 1 - 100 counted from the head.
    index = np.ravel_multi_index((40, 20, 27), (128, 128, 128))
    assert f"\n{index},1035.0\n" in (patient / "ct.csv").read_text()
    grid = read_grid(patient / "voxel_dimensions.csv")
    assert grid.spacing == (2.5, 3.75, 3.9)
    ct = read_ct(patient / "ct.csv", grid).array
    assert (ct[100, 40, 20], ct[100, 90, 20], ct[10, 40, 20], ct[0, 0, 0]) == (11, 22, 3071, -1024)
    assert np.argwhere(read_mask(patient / "PTV70.csv")).min(0).tolist() == [90, 30, 20]
    (patient / "ct.csv").write_text(",data\n7,65000.0\n")  # its description asks for twelve bits
    assert read_ct(patient / "ct.csv", grid).array.max() == 3071


def test_openkbp_structures_are_files_by_name_or_as_mapped(patient: Path) -> None:
    base = patient.parents[1]
    source = OpenKbpCsv(OpenKbpOptions(path="."), base, PTV, 0)
    case = source.read(source.entries()[0])
    assert np.count_nonzero(case.label == 1) == 60
    mapped = OpenKbpOptions.model_validate({"path": ".", "structures": {"GTV-T": "PTV70"}})
    source = OpenKbpCsv(mapped, base, structures_from({"GTV-T": 1}), 0)
    assert np.count_nonzero(source.read(source.entries()[0]).label) == 60
    with pytest.raises(DataError, match=r"no patient has any of Larynx\.csv"):
        OpenKbpCsv(OpenKbpOptions(path="."), base, structures_from({"Larynx": 1}), 0).entries()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("ct.csv", ",data\n5,12.0\n6,1", "truncated"),
        ("ct.csv", ",data\n2097152,12.0\n", "indices"),
        ("ct.csv", ",data\n-1,12.0\n", "indices"),
        ("ct.csv", ",data\n1.5,12.0\n", "indices"),
        ("ct.csv", ",data\n5,12.0\n5,13.0\n", "twice"),
        ("ct.csv", ",data\n5,\n", "without a value"),
        ("ct.csv", ",data\n5,-300.0\n", "whole numbers"),
        ("ct.csv", ",data\n5,abc\n", "not an index and a value"),
        ("ct.csv", ",data\n5,inf\n", "infinite"),
        ("ct.csv", "x,y,z\n5,1.0\n", "first line"),
        ("PTV70.csv", ",data\n5,70.0\n", "values beside its indices"),
        ("voxel_dimensions.csv", "3.9\n3.9\n", "three voxel sizes"),
        ("voxel_dimensions.csv", "3.9\n3.9\n0\n", "voxel sizes outside"),
        ("voxel_dimensions.csv", "nan\n3.9\n2\n", "voxel sizes outside"),
    ],
)
def test_a_damaged_openkbp_file_is_named_with_case_and_remedy(name: str, text: str, said: str, patient: Path) -> None:
    (patient / name).write_text(text)
    source = OpenKbpCsv(OpenKbpOptions(path="."), patient.parents[1], PTV, 0)
    with pytest.raises(DataError, match=said) as caught:
        source.read(source.entries()[0])
    assert caught.value.case == "pt_1"
    assert str(caught.value.file).endswith(name)
    assert caught.value.remedy


@pytest.fixture
def open_npz(tmp_path: Path) -> Callable[..., MedsamNpz]:
    def open_(structures: Sequence[Any] = GTV, **options: Any) -> MedsamNpz:
        return MedsamNpz(MedsamNpzOptions.model_validate({"path": "."} | options), tmp_path, structures, 0)

    return open_


def test_medsam_grey_values_come_back_through_the_studys_own_window(
    open_npz: Callable[..., MedsamNpz], tmp_path: Path
) -> None:
    for prefix, modality in (("CT", "CT"), ("PET", "PET")):
        grey = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
        np.savez(tmp_path / f"{prefix}_1.npz", imgs=grey, gts=grey > 200, spacing=(0.8, 0.9, 3.0))
        source = open_npz(files=f"{prefix}_*.npz", structure="GTV-T")
        case = source.read(source.entries()[0])
        assert source.modalities() == (modality,)
        assert case.grid.spacing == (3.0, 0.9, 0.8)
        np.testing.assert_array_equal(
            to_uint8(case.images[modality], *display_range(modality, case.images[modality])), grey
        )
        assert "8-bit" in case.notes[0]


def test_a_grey_slice_in_three_channels_is_read_and_a_photograph_is_not(
    open_npz: Callable[..., MedsamNpz], tmp_path: Path
) -> None:
    grey = np.repeat(np.arange(64, dtype=np.uint8).reshape(8, 8)[..., None], 3, -1)
    label = np.eye(8, dtype=np.uint8)
    np.savez(tmp_path / "CT_1.npz", imgs=grey, gts=label)
    source = open_npz()
    assert source.read(source.entries()[0]).label.shape == (1, 8, 8)
    grey[..., 0] += 1
    np.savez(tmp_path / "CT_1.npz", imgs=grey, gts=label)
    with pytest.raises(DataError, match="photograph"):
        source.read(source.entries()[0])


def test_medsam_files_tell_their_modality_by_whole_parts_of_their_names(
    open_npz: Callable[..., MedsamNpz], tmp_path: Path
) -> None:
    for name, told in {
        "CT_Abd_1": "CT", "3DBox_CT_x": "CT", "MR_T2w_x": "T2w", "MR_BraTS_t1-3": "T1w", "PET_1": "PET",
        "MR_Prostate_1": None, "Actor_1": None,
    }.items():  # fmt: skip
        assert modality_of(name) == told
    trees.medsam_npz(tmp_path, ["CT_1", "PET_1"])
    with pytest.raises(DataError, match="several modalities: CT, PET"):
        open_npz().modalities()
    trees.medsam_npz(tmp_path, ["MR_Prostate_1"])
    with pytest.raises(DataError, match="do not tell the modality: MR_Prostate_1"):
        open_npz().modalities()
    assert open_npz(modality="T2w").modalities() == ("T2w",)


def _with(path: Path, **changed: Any) -> None:
    good: dict[str, Any] = {
        "imgs": np.ones((3, 8, 8), np.uint8),
        "gts": np.ones((3, 8, 8), np.uint8),
        "spacing": (1.0, 1.0, 3.0),
    }
    np.savez(path, **{name: value for name, value in (good | changed).items() if value is not None})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"gts": None, "boxes": np.zeros((1, 6))}, "no gts .*boxes"),
        ({"gts": np.ones((3, 8, 7), np.uint8)}, "shape"),
        ({"imgs": np.full((3, 8, 8), 300.0)}, "beyond 0 to 255"),
        ({"imgs": np.full((3, 8, 8), np.nan)}, "beyond 0 to 255"),
        ({"spacing": None}, "spacing is missing"),
        ({"spacing": (1.0, 0.0, 1.0)}, "spacing is"),
        ({"gts": np.full((3, 8, 8), 9, np.uint8)}, r"label values \[9\]"),
        ({"imgs": np.full((3, 8, 8), None)}, "pickle"),
        ({"gts": np.full((3, 8, 8), "a")}, "not numbers"),
    ],
)
def test_an_odd_npz_file_is_named_with_case_and_remedy(
    changed: dict[str, Any], said: str, open_npz: Callable[..., MedsamNpz], tmp_path: Path
) -> None:
    _with(tmp_path / "CT_1.npz", **changed)
    source = open_npz()
    with pytest.raises(DataError, match=said) as caught:
        source.read(source.entries()[0])
    assert caught.value.case == "CT_1"
    assert caught.value.remedy


def test_a_medsam_volume_with_a_target_in_every_slice_is_told(
    open_npz: Callable[..., MedsamNpz], tmp_path: Path
) -> None:
    _with(tmp_path / "CT_1.npz")
    source = open_npz()
    entry = source.entries()[0]
    assert "every slice has a target" in source.findings(entry, source.read(entry))[0]


def test_a_truncated_npz_file_is_a_clear_error_wherever_it_ends(tmp_path: Path) -> None:
    _with(tmp_path / "CT_1.npz", imgs=np.random.default_rng(0).integers(0, 256, (3, 8, 8)).astype(np.uint8))
    whole = (tmp_path / "CT_1.npz").read_bytes()
    for length in range(0, len(whole) - 1, 97):
        (tmp_path / "CT_1.npz").write_bytes(whole[:length])
        with pytest.raises(DataError, match="cannot be read"):
            read_arrays(tmp_path / "CT_1.npz", ("imgs", "gts", "spacing"))


def test_an_array_that_claims_more_than_can_be_read_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (2**20, 2**20, 2**20)})
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        archive.writestr("imgs.npy", head.getvalue())
    with pytest.raises(DataError, match="claims"):
        read_arrays(tmp_path / "claims.npz", ("imgs",))
    monkeypatch.setattr(medsam_npz, "LARGEST_BYTES", 2**16)
    np.savez_compressed(tmp_path / "bomb.npz", imgs=np.zeros((64, 64, 64), np.uint8))
    with pytest.raises(DataError, match="claims"):
        read_arrays(tmp_path / "bomb.npz", ("imgs",))
