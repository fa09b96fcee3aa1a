import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantom_files import write_nnunet

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.errors import DataError
from gtvbench.bench.core.structures import Structure, structures_from
from gtvbench.datasets.sources.nnunet_raw import NnunetRaw, NnunetRawOptions

Dataset = tuple[Path, SourceCase]


@pytest.fixture
def dataset(tmp_path: Path, small_case: SourceCase, structures: tuple[Structure, ...]) -> Dataset:
    case = replace(small_case, images={m: small_case.images[m] for m in ("CT", "PET", "T1w")})
    cases = [replace(case, name=name) for name in ("HN_001", "HN_002")]
    return write_nnunet(cases, tmp_path / "Dataset042_HN", structures, [replace(case, name="HN_009")]), case


def _open(path: Path, names: dict[str, int] | None = None, **options: Any) -> NnunetRaw:
    settings = {"path": path.name, **{name.replace("_", "-"): value for name, value in options.items()}}
    structures = structures_from(names or {"GTV-T": 1, "GTV-N": 2})
    return NnunetRaw(NnunetRawOptions.model_validate(settings), path.parent, structures, 0)


def _edit(path: Path, **changes: Any) -> None:
    record = json.loads((path / "dataset.json").read_text())
    (path / "dataset.json").write_text(json.dumps(record | changes))


def test_a_raw_dataset_is_read_with_its_test_part(dataset: Dataset) -> None:
    path, case = dataset
    source = _open(path)
    assert [e.name for e in source.entries()] == ["HN_001", "HN_002", "HN_009"]
    assert source.modalities() == ("CT", "PET", "T1w")
    for entry in source.entries():
        found = source.read(entry)
        np.testing.assert_array_equal(found.label, case.label)
        for modality in case.images:
            np.testing.assert_array_equal(found.images[modality], case.images[modality])
    assert [e.name for e in _open(path, test=False).entries()] == ["HN_001", "HN_002"]
    assert [e.name for e in _open(path, exclude=["HN_002"]).entries()] == ["HN_001", "HN_009"]
    assert {e.patient for e in _open(path, patient_regex="^(HN)").entries()} == {"HN"}


def test_channels_are_known_by_their_synonyms_or_named_in_the_study(dataset: Dataset) -> None:
    path, case = dataset
    for names in ({"0": "planning-CT", "1": "PT", "2": "MR_T1"}, {"0": "ct", "1": "SUV", "2": "T1"}):
        _edit(path, channel_names=names)
        assert _open(path).modalities() == ("CT", "PET", "T1w")
    _edit(path, channel_names={"0": "CT", "1": "PET", "2": "PT"})
    with pytest.raises(DataError, match=r"two channels of dataset\.json are PET"):
        _open(path).entries()
    _edit(path, channel_names={"0": "A", "1": "B", "2": "C"})
    with pytest.raises(DataError, match="A, B, C") as caught:
        _open(path).entries()
    assert "channels" in str(caught.value.remedy)
    source = _open(path, channels={"CT": 0, "T2w": 2})
    found = source.read(source.entries()[0])
    np.testing.assert_array_equal(found.images["T2w"], case.images["T1w"])
    assert source.modalities() == ("CT", "T2w")


def test_labels_are_matched_by_name_mapped_ignored_or_refused(dataset: Dataset) -> None:
    path, case = dataset
    source = _open(path, {"gtv_t": 5, "GTV N": 3})
    np.testing.assert_array_equal(source.read(source.entries()[0]).label, np.choose(case.label, [0, 5, 3]))
    source = _open(path, {"GTV-T": 1})
    with pytest.raises(DataError, match=r"label values \[2\]") as caught:
        source.read(source.entries()[0])
    assert caught.value.case == "HN_001"
    source = _open(path, {"GTV-T": 1}, ignore=[2])
    np.testing.assert_array_equal(source.read(source.entries()[0]).label, np.where(case.label == 1, 1, 0))
    _edit(path, labels={"background": 0, "primary": 1, "nodes": 2, "whole": [1, 2]})
    with pytest.raises(DataError, match=r"no label named GTV-N, GTV-T; it has primary, nodes"):
        _open(path).entries()
    source = _open(path, labels={1: "GTV-T", 2: "GTV-N"})
    np.testing.assert_array_equal(source.read(source.entries()[0]).label, case.label)


def test_the_layout_of_version_1_is_understood(dataset: Dataset) -> None:
    path, _ = dataset
    record = {"modality": {"0": "CT", "1": "PET", "2": "T1"}, "labels": {"0": "background", "1": "GTV-T", "2": "GTV-N"}}
    (path / "dataset.json").write_text(json.dumps(record))
    source = _open(path)
    assert source.read(source.entries()[0]).images.keys() == {"CT", "PET", "T1w"}


def test_a_missing_file_of_a_case_and_a_case_in_both_parts_are_refused(dataset: Dataset) -> None:
    path, _ = dataset
    for lost in ("labelsTr/HN_002.nii.gz", "imagesTr/HN_002_0001.nii.gz"):
        (path / lost).unlink()
        source = _open(path)
        with pytest.raises(DataError, match="the case has no") as caught:
            source.read(source.entries()[1])
        assert caught.value.case == "HN_002"
        assert str(caught.value.file).endswith(lost)
    shutil.copy(path / "imagesTr" / "HN_001_0000.nii.gz", path / "imagesTs" / "HN_001_0000.nii.gz")
    with pytest.raises(DataError, match="in imagesTr and in imagesTs"):
        _open(path).entries()


def test_a_broken_description_and_files_that_cannot_be_read_are_refused(dataset: Dataset) -> None:
    path, _ = dataset
    for ending, message in ((".png", r"\.png cannot be read"), (".nrrd", "no case is in imagesTr")):
        _edit(path, file_ending=ending)
        with pytest.raises(DataError, match=message):
            _open(path).entries()
    for content, message in (("{", "cannot be read"), ("[]", "not an object"), ("{}", "channel_names")):
        (path / "dataset.json").write_text(content)
        with pytest.raises(DataError, match=message):
            _open(path).entries()
    (path / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"dataset.json not found"):
        _open(path).entries()
