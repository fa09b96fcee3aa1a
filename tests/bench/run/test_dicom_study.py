"""From DICOM folders to scores, as a user goes: scan, check, run; against the same patients as NIfTI files."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import yaml
from dicom_tree import Written, write_tree
from pydicom import dcmread
from typer.testing import CliRunner, Result

from gtvbench.bench.cli.main import app
from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.geometry import Grid
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.files.nifti import read_volume, write_volume
from gtvbench.bench.privacy.search import search_run
from gtvbench.bench.privacy.terms import dicom_terms, path_terms
from gtvbench.datasets.dicom import pseudonyms
from gtvbench.datasets.dicom.pseudonyms import Pseudonyms
from gtvbench.datasets.dicom.structures.contours import read_structures, roi_mask
from gtvbench.datasets.dicom.structures.segmentation import read_segmentation, segment_mask
from gtvbench.datasets.phantom.source import Phantom, PhantomOptions

ARMS = "box-fill,box-ellipse,litemedsam-zero-shot"
ZERO_SHOT = "methods.litemedsam-zero-shot={image-size: 64, backend: torch, fusions: [multimodal]}"
SHORT = ("--log", "quiet", "--no-report")
NAMES = {1: "GTVp", 2: "GTVn"}
FILES = {"CT": "ct", "PET": "pet", "T1w": "t1", "T2w": "t2"}


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def phantoms() -> list[SourceCase]:
    options = PhantomOptions(patients=2, shape=(16, 48, 48), spacing=(6.0, 4.0, 4.0))
    source = Phantom(options, Path(), structures_from({"GTV-T": 1, "GTV-N": 2}), 0)
    return [source.read(entry) for entry in source.entries()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clinic")


@pytest.fixture(scope="module")
def tree(place: Path, phantoms: list[SourceCase]) -> dict[str, Written]:
    carriers = {phantoms[0].name: ("RTSTRUCT",), phantoms[1].name: ("SEG",)}
    return write_tree(place / "archive", phantoms, NAMES, carriers)


@pytest.fixture(scope="module")
def scanned(place: Path, tree: dict[str, Written]) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        # The same pseudonyms each time, and so the same prompts, which are drawn by the names of the cases.
        patch.setattr(pseudonyms.secrets, "token_bytes", bytes)
        return bench("scan", place / "archive", "--out", place / "study.yaml", "--name", "clinic", "--patients")


@pytest.fixture(scope="module")
def dicom_run(place: Path, scanned: Result) -> Path:
    """Scan, check and run, by two readers, without a change to the study file that the scan wrote."""
    assert scanned.exit_code == 0, scanned.output
    study = place / "study.yaml"
    checked = bench("check", study, "--set", ZERO_SHOT, "--log", "quiet")
    assert checked.exit_code == 0, checked.output
    assert "ready: 2 patients, 0 errors" in checked.output
    ran = bench("run", study, "--methods", ARMS, "--set", ZERO_SHOT, "--set", "preparation={workers: 2}",
                "--out", place / "run", "--log", "quiet")  # fmt: skip
    assert ran.exit_code == 0, ran.output
    return place / "run"


def test_the_scan_tells_what_is_there_and_what_becomes_of_it(place: Path, scanned: Result) -> None:
    told = scanned.output
    assert "2 patients, 2 studies a patient" in told
    assert "1 DICOM files cannot be read" in told
    assert "1 files are not DICOM" in told
    for remark in ("not attenuation-corrected", "projection", "localizer"):
        assert remark in told
    assert "RTDOSE in 2 patients" in told
    for kind in ("RTSTRUCT", "SEG"):
        assert re.search(rf"GTVp +{kind} +1 +GTV-T", told)
    draft = yaml.safe_load((place / "study.yaml").read_text())
    assert draft["structures"] == {"GTV-T": 1, "GTV-N": 2}
    assert draft["split"] == {"counts": {"test": 2}}


def test_scores_are_those_of_the_same_patients_as_nifti(
    place: Path, dicom_run: Path, tree: dict[str, Written], phantoms: list[SourceCase]
) -> None:
    key = Pseudonyms.open(place / "gtvbench-private" / "pseudonyms.json")
    for case in phantoms:
        folder = place / "nifti" / key.of(tree[case.name].person.identity)
        for modality, array in case.images.items():
            write_volume(array, case.grid, folder / f"{FILES[modality]}.nii.gz")
        write_volume(case.label, case.grid, folder / "gtv.nii.gz")
    study = yaml.safe_load((place / "study.yaml").read_text())
    study["dataset"] = {
        "source": "folders",
        "path": "nifti",
        "images": {m: f"{name}.nii.gz" for m, name in FILES.items()},
        "masks": [{"file": "gtv.nii.gz"}],
    }
    (place / "nifti.yaml").write_text(yaml.safe_dump(study))
    ran = bench("run", place / "nifti.yaml", "--methods", ARMS, "--set", ZERO_SHOT, "--out", place / "run2", *SHORT)
    assert ran.exit_code == 0, ran.output
    prompts = [pd.read_parquet(run / "prompts.parquet") for run in (dicom_run, place / "run2")]
    pd.testing.assert_frame_equal(prompts[0], prompts[1])
    keys = ["arm", "case", "structure", "scope", "metric"]
    one, other = (
        pd.read_parquet(run / "scores.parquet").set_index(keys)["value"] for run in (dicom_run, place / "run2")
    )
    assert one.index.sort_values().equals(other.index.sort_values())
    difference = (one - other.reindex(one.index)).abs()
    boxes = difference[difference.index.get_level_values("arm").str.startswith("box-")]
    assert boxes.max() == 0  # no image enters, and the label maps are equal
    dsc = difference[difference.index.get_level_values("metric") == "dsc"]
    assert dsc.max() < 0.03  # CT rounded to whole HU


def test_nothing_of_the_patients_is_in_what_is_shared(place: Path, dicom_run: Path, tree: dict[str, Written]) -> None:
    terms = dicom_terms(place / "archive") | path_terms([place / "archive"])
    kinds = {term.kind for term in terms}
    assert {"name", "id", "date", "uid", "path"} <= kinds
    assert search_run(dicom_run, terms) == []
    searched = bench("privacy", dicom_run, "--study", place / "study.yaml")
    assert searched.exit_code == 0, searched.output
    # And without the project's own search, in what lies there as plain text.
    people = [written.person for written in tree.values()]
    values = [v for p in people for v in (p.name.split("^")[0], p.identity, p.uid("planning"), f"{p.birth:%Y%m%d}")]
    values.append(str(place / "archive"))
    for path in dicom_run.rglob("*"):
        if path.suffix in {".json", ".yaml", ".csv", ".html", ".md", ".tex", ".svg"} and "private" not in path.parts:
            text = path.read_text(errors="ignore")
            assert not [value for value in values if value in text], path


def files_of(archive: Path, series: str) -> list[Path]:
    """Files of a series, in the order of its slices."""
    found = {}
    for path in archive.glob("[0-9]/IM*"):
        header = dcmread(path, stop_before_pixels=True)
        if header.SeriesInstanceUID == series:
            found[int(header.InstanceNumber)] = path
    return [path for _, path in sorted(found.items())]


def test_bad_patients_are_rows_that_tell_nothing_and_the_rest_runs(phantoms: list[SourceCase], tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    cases = [*phantoms, *(replace(case, name=f"good {case.name}") for case in phantoms)]
    carriers = {case.name: (kind,) for case, kind in zip(cases, ("RTSTRUCT", "SEG") * 2, strict=True)}
    written = write_tree(archive, cases, NAMES, carriers, seed=5)
    hole, cut = (written[case.name].person for case in phantoms)
    files_of(archive, hole.uid("planning", "series", 2))[7].unlink()
    pet = files_of(archive, cut.uid("planning", "series", 5))[9]
    pet.write_bytes(pet.read_bytes()[:-500])
    assert bench("scan", archive, "--out", tmp_path / "study.yaml").exit_code == 0
    ran = bench("run", tmp_path / "study.yaml", "--methods", "box-fill", "--out", tmp_path / "run", *SHORT)
    assert ran.exit_code == 3, ran.output
    key = Pseudonyms.open(tmp_path / "gtvbench-private" / "pseudonyms.json")
    failures = {row["case"]: row["message"] for row in json.loads((tmp_path / "run" / "failures.json").read_text())}
    assert "slice(s) missing" in failures.pop(key.of(hole.identity))
    assert "ends before its content does" in failures.pop(key.of(cut.identity))
    assert failures == {}
    scores = pd.read_parquet(tmp_path / "run" / "scores.parquet")
    assert set(scores["case"]) == {key.of(written[case.name].person.identity) for case in cases[2:]}
    assert set(scores["status"]) <= {"ok", "both_empty"}  # a phantom has no node
    assert search_run(tmp_path / "run", dicom_terms(archive) | path_terms([archive])) == []


def test_contours_and_a_segmentation_are_decided_by_a_rule_that_the_message_names(
    phantoms: list[SourceCase], tmp_path: Path
) -> None:
    write_tree(tmp_path / "archive", phantoms[:1], NAMES, ("RTSTRUCT", "SEG"), decoys=False)
    study = tmp_path / "study.yaml"
    assert bench("scan", tmp_path / "archive", "--out", study).exit_code == 0
    refused = bench("check", study, "--log", "quiet")
    assert refused.exit_code == 2
    rules = dict.fromkeys(
        re.findall(r"'structure-set: (\{(?:kind|prefer|id): .*?\})'", " ".join(refused.output.split()))
    )
    assert len(rules) == 3
    for rule in rules:
        decided = bench("check", study, "--set", f"dataset.structure-set={rule}", "--set", ZERO_SHOT, "--log", "quiet")
        assert "ready: 1 patients, 0 errors" in decided.output, decided.output
    ran = bench("run", study, "--set", f"dataset.structure-set={min(rules)}", "--methods", "box-fill", "--out",
                tmp_path / "run", *SHORT)  # fmt: skip
    assert ran.exit_code == 0, ran.output


def exported(path: Path, kind: str, structure: str, grid: Grid) -> npt.NDArray[np.bool_]:
    if kind == "seg":
        both = read_segmentation(path)
        there = structure in {segment.label for segment in both.segments}
        return segment_mask(both, structure, grid).array > 0 if there else np.zeros(grid.shape, bool)
    read = read_structures(path)
    return roi_mask(read, structure, grid).array > 0 if read.roi(structure).contours else np.zeros(grid.shape, bool)


@pytest.mark.parametrize("kind", ["rtstruct", "seg"])
def test_exported_predictions_load_again_as_what_was_scored(
    place: Path, dicom_run: Path, tree: dict[str, Written], kind: str, tmp_path: Path
) -> None:
    done = bench("export", kind, dicom_run, "--reference", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "out").glob("*/*.dcm"))) == len(tree) * 4  # three arms and the reference
    assert bench("export", kind, dicom_run, "--out", tmp_path / "out").exit_code != 0  # nothing is overwritten
    key = Pseudonyms.open(place / "gtvbench-private" / "pseudonyms.json")
    for written in tree.values():
        case = key.of(written.person.identity)
        prediction = read_volume(dicom_run / "arms" / "box-ellipse" / "predictions" / f"{case}.nii.gz")
        labels = {"box-ellipse": prediction.array, "reference": np.load(dicom_run / "references" / f"{case}.npy")}
        for name, label in labels.items():
            path = tmp_path / "out" / case / f"{name}.dcm"
            assert dcmread(path).PatientID == written.person.identity
            for structure, value in (("GTV-T", 1), ("GTV-N", 2)):
                found = exported(path, kind, structure, written.volumes["CT"].grid)
                np.testing.assert_array_equal(found, label == value)


def test_a_run_that_was_not_made_from_dicom_says_what_to_use_instead(kept_run: Path) -> None:
    refused = bench("export", "rtstruct", kept_run)
    assert refused.exit_code != 0
    assert "come from the source 'phantom'" in str(refused.exception)
