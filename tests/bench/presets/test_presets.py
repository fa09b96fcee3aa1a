"""Every preset on a tree built from the published layout: bench init --preset, then bench check."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import public_trees as trees
import pytest
from typer.testing import CliRunner

from gtvbench.bench.cli.main import app
from gtvbench.bench.core.errors import BenchError, DataError, StudyError
from gtvbench.bench.files.nifti import read_volume
from gtvbench.bench.files.progress import Display
from gtvbench.bench.prepare.check import CheckResult, check_study
from gtvbench.bench.presets import write
from gtvbench.bench.study.cohort import Cohort, open_cohort
from gtvbench.bench.study.file import Study, read_study

REPOSITORY = Path(__file__).resolve().parents[3]
HECKTOR = ["CHUM-001", "CHUM-002", "CHUP-001", "MDA-007", "MDA-019"]


@dataclass
class Made:
    """A study that a preset wrote: its text, what was told, and the study as read again."""

    text: str
    lines: tuple[str, ...]
    study: Study
    file: Path

    @property
    def cohort(self) -> Cohort:
        return open_cohort(self.study, self.file.parent)

    def check(self) -> CheckResult:
        return check_study(self.study, self.file.parent, Display("quiet"))

    def ready(self) -> CheckResult:
        result = self.check()
        assert [f for f in result.findings if f.level == "error"] == []
        assert any(arm.skip is None for arm in result.arms)
        return result

    def case(self, name: str) -> Any:
        cohort = self.cohort
        return cohort.source.read(next(e for e in cohort.used if e.name == name))


Init = Callable[..., Made]


@pytest.fixture
def init(tmp_path: Path) -> Init:
    def init_(name: str, root: Path, variant: str | None = None) -> Made:
        file = tmp_path / "study.yaml"
        text, lines = write.write_study(name, root, file, variant)
        file.write_text(text)
        return Made(text, lines, read_study(file), file)

    return init_


def test_every_preset_is_described_and_says_where_its_layout_is_from_and_how_to_cite_it() -> None:
    assert write.names() == [
        "bids", "hanseg", "hecktor2022", "hecktor2025", "hntsmrg2024", "medsam-npz", "nnunet-raw", "openkbp",
        "segrap2023", "segrap2025",
    ]  # fmt: skip
    for name in write.names():
        known = write.preset(name)
        assert known.described and known.cite and known.licence and known.tree
        assert {layout.variant for layout in known.layouts} <= {None, *known.variants}
        assert all(not layout.variant or layout.variant in known.variants for layout in known.layouts)


def test_hecktor_2022_is_ct_and_pet_found_from_its_folder_or_the_one_above(init: Init, tmp_path: Path) -> None:
    root = trees.hecktor2022(tmp_path / "data" / "hecktor2022_training", HECKTOR)
    assert init("hecktor2022", tmp_path / "data").study.dataset["path"] == "data/hecktor2022_training"
    made = init("hecktor2022", root)
    assert made.study.dataset["path"] == "data/hecktor2022_training"
    assert made.ready().patients == 5
    assert made.cohort.modalities == ("CT", "PET")
    assert made.study.structures == {"GTV-T": 1, "GTV-N": 2}
    case = made.case("CHUM-001")
    np.testing.assert_array_equal(case.images["CT"], trees.volume(0))
    np.testing.assert_array_equal(case.label, trees.label(0))
    assert case.images["PET"].shape == case.images["CT"].shape


def test_cases_without_pet_are_left_out_and_unknown_labels_fail_the_check(init: Init, tmp_path: Path) -> None:
    root = trees.hecktor2022(tmp_path / "h", HECKTOR)
    (root / "imagesTr" / "MDA-007__PT.nii.gz").unlink()
    trees.write(root / "labelsTr" / "CHUP-001.nii.gz", trees.label(2, (1, 7)))
    made = init("hecktor2022", root)
    assert "left out, PET is missing: MDA-007" in made.lines
    assert made.study.dataset["exclude"] == ["MDA-007"]
    result = made.check()
    (error,) = (finding for finding in result.findings if finding.level == "error")
    assert (result.patients, error.case) == (4, "CHUP-001") and "[7]" in error.message
    for path in root.glob("imagesTr/*__PT.nii.gz"):
        path.unlink()
    with pytest.raises(DataError, match="none of 5 cases has all it needs: 5 with CT, 0 with PET, 5 with label map"):
        init("hecktor2022", root)


@pytest.mark.parametrize("name", write.names())
def test_a_folder_of_something_else_is_an_error_that_shows_the_layout(name: str, init: Init, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(DataError) as caught:
        init(name, tmp_path / "photos")
    assert write.preset(name).tree.splitlines()[0] in str(caught.value.remedy)
    with pytest.raises(DataError, match="does not exist"):
        init(name, tmp_path / "nowhere")


def test_hecktor_2025_is_one_folder_a_patient_below_its_task_or_flat(init: Init, tmp_path: Path) -> None:
    root = trees.hecktor2025(tmp_path / "hecktor2025_training", HECKTOR[:2])
    (root / "Task 1" / "USZ-001").mkdir()  # a patient without an image
    made = init("hecktor2025", root)
    assert (made.study.dataset["source"], made.study.dataset["path"]) == ("files", "hecktor2025_training/Task 1")
    assert made.study.dataset["exclude"] == ["USZ-001"]
    assert made.ready().patients == 2
    np.testing.assert_array_equal(made.case("CHUM-002").images["PET"], trees.volume(1, "PET"))
    flat = init("hecktor2025", trees.hecktor2022(tmp_path / "flat", HECKTOR[:2]))
    assert flat.study.dataset["source"] == "files"
    assert flat.ready().patients == 2


def test_hnts_mrg_is_t2w_before_during_or_both_without_the_complete_responses(init: Init, tmp_path: Path) -> None:
    root = trees.hntsmrg2024(tmp_path / "HNTSMRG", ["2", "3", "21"], empty=["21"])
    for variant, cases in {
        None: ["2", "21", "3"],
        "mid-rt": ["2", "3"],
        "both": ["21_preRT", "2_midRT", "2_preRT", "3_midRT", "3_preRT"],
    }.items():
        made = init("hntsmrg2024", root, variant)
        assert made.cohort.modalities == ("T2w",)
        assert sorted(entry.name for entry in made.cohort.used) == cases
        result = made.ready()
        assert result.patients == (2 if variant == "mid-rt" else 3)
        assert {arm.fusion for arm in result.arms} == {"mr-only", "none"}
        assert {arm.fusion for arm in result.arms if arm.adapter == "nnunet"} == {"mr-only"}
    assert {entry.patient for entry in made.cohort.used} == {"2", "3", "21"}
    np.testing.assert_array_equal(made.case("2_midRT").label, trees.label(1))


def test_segrap_2023_is_one_of_its_two_cts_with_masks_or_label_maps(init: Init, tmp_path: Path) -> None:
    cases = ["segrap_0000", "segrap_0001"]
    root = trees.segrap(tmp_path / "SegRap2023_Training_Set_120cases", cases)
    for variant, first in ((None, 500), ("plain", 0)):
        for made in (init("segrap2023", root, variant), init("segrap2023", tmp_path, variant)):
            case = made.case("segrap_0000")
            np.testing.assert_array_equal(case.images["CT"], trees.volume(first))
            np.testing.assert_array_equal(case.label, trees.label(0))
        assert made.ready().patients == 2
    for path in [path for path in root.glob("*/*") if not path.name.startswith("image")]:
        path.unlink()
    for seed, case in enumerate(cases):
        folder = tmp_path / "SegRap2023_Training_Set_120cases_OneHot_Labels" / "Task002"
        trees.write(folder / f"{case}.nii.gz", trees.label(seed))
    made = init("segrap2023", tmp_path)
    assert made.study.dataset["source"] == "files"
    assert made.ready().patients == 2
    np.testing.assert_array_equal(made.case("segrap_0001").label, trees.label(1))


def test_segrap_2025_has_gross_tumour_and_lymph_node_tasks(init: Init, tmp_path: Path) -> None:
    trees.segrap(tmp_path / "Task01", ["segrap_0000", "segrap_0001"])
    nodes = ["segrap_0000", "segrap_nc_0002", "segrap_0003"]
    trees.segrap(tmp_path / "Task02" / "image", nodes, False)
    (tmp_path / "Task02" / "image" / "segrap_nc_0002" / "image_contrast.nii.gz").unlink()
    for seed, case in enumerate(nodes):
        trees.write(tmp_path / "Task02" / "label" / f"{case}.nii.gz", trees.label(seed, (1, 5)))
    assert init("segrap2025", tmp_path).ready().patients == 2
    made = init("segrap2025", tmp_path, "ln-ctv")
    assert made.study.structures == {"LN-CTV": 1}
    assert made.ready().patients == 2
    assert init("segrap2025", tmp_path, "ln-ctv-plain").ready().patients == 3


def test_han_seg_is_organs_on_ct_with_mri_where_asked(init: Init, tmp_path: Path) -> None:
    root = trees.hanseg(tmp_path / "HaN-Seg", ["case_01", "case_02"])
    made = init("hanseg", root)
    assert made.ready().patients == 2
    assert made.cohort.modalities == ("CT",)
    assert set(np.unique(made.case("case_02").label)) == {0, 1, 6}
    both = init("hanseg", root, "ct-t1w")
    both.ready()
    assert both.cohort.modalities == ("CT", "T1w")


def test_a_raw_data_set_of_nnunet_has_its_names_and_its_test_set(init: Init, tmp_path: Path) -> None:
    root = trees.nnunet_raw(tmp_path / "Dataset042_HN", ["hn_01", "hn_02", "hn_03"], ["hn_90"])
    made = init("nnunet-raw", root)
    made.ready()
    assert made.study.structures == {"GTV-p": 1, "GTV-N": 2}
    assert made.cohort.split.test == ("hn_90",)
    assert made.cohort.modalities == ("CT", "PET")
    (root / "labelsTr" / "hn_03.nii.gz").unlink()
    assert init("nnunet-raw", root).study.dataset["exclude"] == ["hn_03"]


def test_medsam_files_of_one_modality_make_a_study_where_they_have_masks(init: Init, tmp_path: Path) -> None:
    root = trees.medsam_npz(tmp_path / "npz", ["CT_Abd_1", "CT_HN_3", "MR_Brain_1"])
    made = init("medsam-npz", root)
    assert made.ready().patients == 2
    assert made.study.structures == {"Target": 1}
    assert any("1 MR" in line for line in made.lines)
    organs = init("medsam-npz", root, "labels")
    organs.ready()
    assert organs.study.structures == {"label-1": 1, "label-2": 2}
    (tmp_path / "validation").mkdir()
    boxes = {"imgs": np.zeros((2, 3, 3), np.uint8), "boxes": np.zeros((1, 6))}
    np.savez(tmp_path / "validation" / "3DBox_CT_1.npz", **boxes)
    with pytest.raises(DataError, match="boxes in the place of gts"):
        init("medsam-npz", tmp_path / "validation")


def test_a_bids_tree_is_split_by_subject_and_has_the_grid_asked_for(init: Init, tmp_path: Path) -> None:
    root = trees.bids(tmp_path / "bids", ["01", "02"], ["pre", "mid"], ["CT", "PET", "T1w", "T2w"])
    made = init("bids", root)
    assert made.ready().patients == 2
    assert made.cohort.modalities == ("CT", "PET", "T1w", "T2w")
    assert len(made.cohort.used) == 4
    assert made.study.structures == {"GTVn": 1, "GTVp": 2}
    first = made.case("sub-01_ses-mid")  # the seeds of tests follow the order of writing
    np.testing.assert_array_equal(first.label == 2, trees.label(2) == 1)
    mri = trees.bids(tmp_path / "mri", ["a", "b"], modalities=["T1w", "T2w"])
    assert init("bids", mri).study.dataset["reference-modality"] == "T1w"
    made = init("bids", mri, "t2w")
    assert made.study.dataset["reference-modality"] == "T2w"
    made.ready()
    with pytest.raises(DataError, match="no case has a CT image"):
        init("bids", mri, "ct")


def _hold_as_csv(source: Path, target: Path) -> None:
    ct, ptv, oar = (read_volume(source / f"{name}.nii.gz") for name in ("ct", "ptv", "oar"))
    named = {"PTV70": ptv.array == 1, "PTV63": ptv.array == 2, "PTV56": ptv.array == 3}
    organs = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx", "Mandible")
    named |= {organ: oar.array == value for value, organ in enumerate(organs, 1)}
    trees.openkbp_csv(target, ct.array, ct.grid.spacing, **named)


@pytest.mark.timeout(3600)
def test_openkbp_as_csv_gives_the_cases_of_the_nifti_layout_voxel_for_voxel(init: Init, tmp_path: Path) -> None:
    data = Path(os.environ.get("GTVBENCH_TEST_DATA", REPOSITORY.parent / "shared" / "data")) / "openkbp"
    if not data.is_dir():
        pytest.skip(f"OpenKBP is not here ({data}); set GTVBENCH_TEST_DATA")
    whole = os.environ.get("GTVBENCH_OPENKBP") == "all"  # every patient: half a minute, 200 MB
    chosen = {"train": ["pt_1", "pt_101", "pt_109"], "val": ["pt_201"]}
    if whole:
        chosen = {part: sorted(path.name for path in (data / part).iterdir()) for part in chosen}
    for part, patients in chosen.items():
        (tmp_path / "nifti" / part).mkdir(parents=True)
        for patient in patients:
            where = {"train": "train-pats", "val": "validation-pats"}[part]
            _hold_as_csv(data / part / patient, tmp_path / "csv" / where / patient)
            (tmp_path / "nifti" / part / patient).symlink_to(data / part / patient)
    for variant in ("targets", "organs"):
        csv, nifti = (init("openkbp", tmp_path / root, variant) for root in ("csv", "nifti"))
        assert csv.study.dataset["source"] == "openkbp-csv"
        assert nifti.study.dataset["source"] == "files"
        one, other = csv.cohort, nifti.cohort
        assert one.split == other.split
        assert one.split.test == tuple(chosen["val"])
        names = {entry.name: entry for entry in other.used}
        assert names.keys() == {entry.name for entry in one.used}
        for entry in [entry for entry in one.used if whole or entry.name in ("pt_1", "pt_201")]:
            left, right = one.source.read(entry), other.source.read(names[entry.name])
            assert left.grid.differences(right.grid) == []
            np.testing.assert_array_equal(left.images["CT"], right.images["CT"])
            np.testing.assert_array_equal(left.label, right.label)
    csv.ready()
    shutil.rmtree(tmp_path / "csv")  # pytest keeps its last folders


def test_an_unknown_preset_or_variant_offers_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        write.write_study("hector", tmp_path, tmp_path / "study.yaml")
    assert "hecktor2022" in str(caught.value.remedy)
    with pytest.raises(StudyError, match="has no variant"):
        write.write_study("openkbp", tmp_path, tmp_path / "study.yaml", "gtv")


def test_patients_are_split_by_numbers_or_as_the_official_parts_are() -> None:
    for count, split in ((2, {"test": 2}), (4, {"train": 2, "validation": 1, "test": 1})):
        text, lines = write.split_text({"": [f"p{n}" for n in range(count)]})
        assert all(f"{subset}: {number}" in text for subset, number in split.items())
        assert "train: 0" not in text
        assert lines
    text, lines = write.split_text({"train": ["a", "b"], "validation": ["c"], "test": ["d", "e"]})
    assert "[d, e]" in text and "[c]" in text and "[a, b]" in text
    assert lines == ()


def test_the_command_writes_the_study_and_overwrites_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = trees.hecktor2022(tmp_path / "hecktor2022_training", HECKTOR[:2])
    run = CliRunner()
    done = run.invoke(app, ["init", "--preset", "hecktor2022", str(root), "--out", "h.yaml"])
    assert done.exit_code == 0, done.output
    assert "2 cases, 2 with CT, 2 with PET, 2 with label map" in done.output
    assert read_study(tmp_path / "h.yaml").study == "hecktor2022"
    again = run.invoke(app, ["init", "--preset", "hecktor2022", str(root), "--out", "h.yaml"])
    assert isinstance(again.exception, BenchError)
    assert run.invoke(app, ["init", "--preset", "hecktor2022", str(root), "--out", "h.yaml", "--force"]).exit_code == 0
    assert run.invoke(app, ["init", "plain.yaml"]).exit_code == 0
    assert read_study(tmp_path / "plain.yaml").study == "my-study"
    assert isinstance(run.invoke(app, ["init", "--variant", "x"]).exception, StudyError)
    listed = run.invoke(app, ["init", "--list-presets"])
    assert [line.split(":")[0] for line in listed.output.splitlines()] == write.names()
    assert "hntsmrg2024" in run.invoke(app, ["list", "presets", "--json"]).output
