"""The source `dicom` on trees written from phantoms: what is found, chosen, and read; and what is refused."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_tree import Written, write_tree
from pydantic import ValidationError

from gtvbench.bench.core.cases import SourceCase
from gtvbench.bench.core.errors import DataError, StudyError
from gtvbench.bench.core.structures import structures_from
from gtvbench.datasets.dicom.headers.index import build_index
from gtvbench.datasets.dicom.source import DicomOptions, DicomSource
from gtvbench.datasets.phantom.source import Phantom

STRUCTURES = structures_from({"GTV-T": 1, "GTV-N": 2})
NAMES = {1: "GTVp", 2: "GTVn"}


@pytest.fixture(scope="module")
def phantoms(make_phantom: Callable[..., Phantom]) -> list[SourceCase]:
    source = make_phantom(patients=2, shape=(16, 48, 48))
    return [source.read(entry) for entry in source.entries()]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, phantoms: list[SourceCase]) -> tuple[Path, dict[str, Written]]:
    folder = tmp_path_factory.mktemp("dicom") / "tree"
    return folder, write_tree(folder, phantoms, NAMES)


def source_of(folder: Path, **options: Any) -> DicomSource:
    given = DicomOptions.model_validate({"path": str(folder), **options})
    return DicomSource(given, folder.parent, STRUCTURES, 0)


def case_of(source: DicomSource, written: Written) -> tuple[Any, SourceCase]:
    """The entry and case of a patient that was written."""
    name = next(name for name, patient in source._patients.items() if patient.id == written.person.identity)
    entry = next(entry for entry in source.entries() if entry.name == name)
    return entry, source.read(entry)


def test_what_is_read_is_what_was_written_in_spite_of_decoys(
    tree: tuple[Path, dict[str, Written]], phantoms: list[SourceCase]
) -> None:
    source = source_of(tree[0])
    assert source.modalities() == ("CT", "PET", "T1w", "T2w")
    for phantom in phantoms:
        written = tree[1][phantom.name]
        _, case = case_of(source, written)
        np.testing.assert_array_equal(case.label, phantom.label)
        assert case.grid.differences(phantom.grid) == []
        for modality, volume in written.volumes.items():
            np.testing.assert_allclose(case.images[modality], volume.array, rtol=1e-4, atol=1e-4)
        assert np.max(np.abs(case.images["CT"] - phantom.images["CT"])) <= 0.5 + 1e-3
        assert np.max(np.abs(case.images["PET"] - phantom.images["PET"])) < 0.001


def test_segmentations_carry_the_same_label_map_as_contours(tmp_path: Path, phantoms: list[SourceCase]) -> None:
    written = write_tree(tmp_path / "tree", phantoms[:1], NAMES, carriers=("RTSTRUCT", "SEG"), decoys=False)
    undecided = source_of(tmp_path / "tree")
    with pytest.raises(DataError, match="2 structure sets fit") as error:
        case_of(undecided, written[phantoms[0].name])
    assert "structure-set" in (error.value.remedy or "")
    for kind in ("SEG", "RTSTRUCT"):
        source = source_of(tmp_path / "tree", **{"structure-set": {"kind": kind}})
        _, case = case_of(source, written[phantoms[0].name])
        np.testing.assert_array_equal(case.label, phantoms[0].label)


def test_names_are_pseudonyms_that_stay_and_nothing_of_the_patient_is_in_them(
    tree: tuple[Path, dict[str, Written]],
) -> None:
    first = [entry.name for entry in source_of(tree[0]).entries()]
    assert first == [entry.name for entry in source_of(tree[0]).entries()]
    assert all(name.startswith("P-") and len(name) == 10 for name in first)
    private = tree[0].parent / "gtvbench-private"
    assert oct(private.stat().st_mode & 0o777) == "0o700"
    assert {oct(path.stat().st_mode & 0o777) for path in private.iterdir()} == {"0o600"}


def test_a_header_that_the_cache_knows_is_not_read_again(
    tree: tuple[Path, dict[str, Written]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "index.json"
    first = build_index(tree[0], cache)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a header was read again")

    monkeypatch.setattr("gtvbench.datasets.dicom.headers.index.read_header", never)
    assert build_index(tree[0], cache) == first
    cache.write_text("{")
    with pytest.raises(AssertionError):
        build_index(tree[0], cache)


def test_the_key_of_a_case_changes_with_its_files_and_rules_and_with_nothing_else(
    tree: tuple[Path, dict[str, Written]],
) -> None:
    before = {entry.name: entry.identity for entry in source_of(tree[0]).entries()}
    assert before == {entry.name: entry.identity for entry in source_of(tree[0]).entries()}
    for change in ({"overlap": "smaller"}, {"series": {"T2w": None}}, {"names": {"GTV-N": "nothing*"}}):
        after = {entry.name: entry.identity for entry in source_of(tree[0], **change).entries()}
        assert all(after[name] != identity for name, identity in before.items())
    source = source_of(tree[0])
    first = source.entries()[0]
    os.utime(source.reference_files(first)[0], ns=(1, 1))
    after = {entry.name: entry.identity for entry in source_of(tree[0]).entries()}
    assert [name for name in before if before[name] != after[name]] == [first.name]


def test_several_series_that_fit_are_an_error_with_the_candidates_and_a_rule_of_study_or_patient_decides(
    phantoms: list[SourceCase], tree: tuple[Path, dict[str, Written]]
) -> None:
    both = source_of(tree[0], series={"PET": {"any": True}})
    written = tree[1][phantoms[0].name]
    with pytest.raises(DataError, match="3 PET series fit") as error:
        case_of(both, written)
    assert "'PET HN NAC'" in error.value.message
    assert error.value.remedy is not None
    assert "description" in error.value.remedy
    decided = source_of(tree[0], series={"PET": {"any": True, "description": "pet hn ac"}})
    entry, case = case_of(decided, written)
    np.testing.assert_allclose(case.images["PET"], written.volumes["PET"].array, rtol=1e-4, atol=1e-4)
    heavier = {entry.name: {"suv": {"weight-kg": 2 * written.person.weight_kg}}}  # of one patient alone
    _, other = case_of(source_of(tree[0], patients=heavier), written)
    np.testing.assert_allclose(other.images["PET"], 2 * case.images["PET"], rtol=1e-5)
    with pytest.raises(StudyError, match="'patients' names patients that are not there: P-NOBODY"):
        source_of(tree[0], patients={"P-NOBODY": {}}).entries()


def test_a_patient_that_cannot_be_used_fails_alone_and_names_what_it_has(
    tree: tuple[Path, dict[str, Written]], phantoms: list[SourceCase]
) -> None:
    source = source_of(tree[0], names={"GTV-T": "Larynx", "GTV-N": "Larynx 2"})
    entries = source.entries()
    assert len(entries) == 2
    with pytest.raises(DataError, match="no structure of the patient has a name of GTV-T or GTV-N") as error:
        source.read(entries[0])
    assert "GTVp, GTVn, Spinal Cord" in (error.value.remedy or "")
    assert error.value.case == entries[0].name


def test_overlaps_go_to_whom_the_rule_names(tmp_path: Path, phantoms: list[SourceCase]) -> None:
    case = phantoms[0]
    written = write_tree(tmp_path / "tree", [case], {1: "GTVp"}, decoys=False)
    # The cord is the target moved by three voxels: it overlaps what it was made of.
    names = {"GTV-T": "GTVp", "GTV-N": "Spinal*"}
    _, earlier = case_of(source_of(tmp_path / "tree", names=names), written[case.name])
    _, turned = case_of(source_of(tmp_path / "tree", names=dict(reversed(names.items()))), written[case.name])
    target = case.label == 1
    np.testing.assert_array_equal(earlier.label == 1, target)
    assert (turned.label == 1).sum() < target.sum()
    assert any("kept by the earlier structure" in note for note in earlier.notes)
    with pytest.raises(DataError, match="belong to another structure too"):
        case_of(source_of(tmp_path / "tree", names=names, overlap="error"), written[case.name])


def test_a_folder_without_dicom_and_a_private_folder_inside_it_are_refused(
    tmp_path: Path, tree: tuple[Path, dict[str, Written]]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("nothing")
    with pytest.raises(DataError, match="holds no DICOM image or structure set"):
        source_of(tmp_path / "empty").entries()
    with pytest.raises(DataError, match="does not exist"):
        source_of(tmp_path / "absent").entries()
    with pytest.raises(StudyError, match="'private-folder' lies inside the DICOM folder"):
        source_of(tree[0], **{"private-folder": "tree/private"}).entries()
    with pytest.raises(ValidationError):
        DicomOptions.model_validate({"path": "x", "overlap": "larger"})


def test_what_must_not_leave_is_known_of_every_patient(
    tree: tuple[Path, dict[str, Written]], phantoms: list[SourceCase]
) -> None:
    source = source_of(tree[0])
    written = tree[1][phantoms[0].name]
    entry, _ = case_of(source, written)
    terms = source.sensitive(entry)
    person = written.person
    assert {
        person.name,
        person.identity,
        f"{person.birth:%Y%m%d}",
        person.uid("planning"),
        person.uid("frame"),
    } <= terms
    files = source.reference_files(entry)
    assert len(files) == phantoms[0].grid.shape[0]
    assert {path.name for path in files} <= terms
