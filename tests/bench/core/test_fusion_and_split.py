import json
from pathlib import Path

import numpy as np
import pytest

from gtvbench.bench.core.errors import StudyError
from gtvbench.bench.core.fusion import FUSIONS, STUDY_FUSIONS, display_range, to_uint8
from gtvbench.bench.core.split import (
    read_nnunet_splits,
    split_by_counts,
    split_by_fractions,
    split_by_lists,
)
from gtvbench.bench.core.structures import structures_from
from gtvbench.bench.study.arms import _default_fusions

PATIENTS = [f"p{i:02d}" for i in range(10)]


@pytest.mark.parametrize(("modality", "values"), [("CT", [-1000, -160, 40, 240, 3000]), ("PET", [-1, 0, 3, 6, 20])])
def test_ct_is_windowed_at_level_40_and_width_400_and_pet_at_suv_0_to_6(modality: str, values: list[float]) -> None:
    volume = np.array([[values]], np.float32)
    assert to_uint8(volume, *display_range(modality, volume)).ravel().tolist() == [0, 0, 128, 255, 255]


def test_the_clip_of_mr_has_an_effect_and_ignores_the_empty_part() -> None:
    mr = np.zeros((1, 100, 100), np.float32)
    mr[0, :10] = np.arange(1000).reshape(10, 100) + 1
    low, high = display_range("T1w", mr)
    assert (low, high) == (0.0, pytest.approx(np.percentile(np.arange(1, 1001), 99.5)))
    assert (to_uint8(mr, low, high) == 255).sum() >= 5


def test_multimodal_is_ct_pet_and_the_mean_of_both_mr() -> None:
    planes = {m: np.full((2, 2), v, np.uint8) for m, v in (("CT", 10), ("PET", 20), ("T1w", 30), ("T2w", 51))}
    assert FUSIONS["multimodal"].fuse(planes)[0, 0].tolist() == [10, 20, 41]
    del planes["T2w"]
    assert FUSIONS["multimodal"].fuse(planes)[0, 0].tolist() == [10, 20, 30]
    assert FUSIONS["ct-only"].fuse(planes)[0, 0].tolist() == [10, 10, 10]


def test_mr_only_is_the_mean_of_both_mr_or_the_one_there_is_in_all_channels() -> None:
    planes = {m: np.full((2, 2), v, np.uint8) for m, v in (("PET", 20), ("T1w", 30), ("T2w", 51))}
    assert FUSIONS["mr-only"].fuse(planes)[0, 0].tolist() == [41, 41, 41]
    del planes["T1w"]
    assert FUSIONS["mr-only"].fuse(planes)[0, 0].tolist() == [51, 51, 51]
    assert FUSIONS["mr-only"].modalities(("PET", "T2w")) == ("T2w",)


def test_every_fusion_says_why_data_cannot_serve_it() -> None:
    assert {name: f.unavailable(("T2w",)) for name, f in FUSIONS.items()} == {
        "ct-only": "the data have no CT",
        "multimodal": "the data have no CT",
        "mr-only": None,
    }
    assert FUSIONS["mr-only"].unavailable(("CT", "PET")) == "the data have no MR"
    assert "ct-only" in str(FUSIONS["multimodal"].unavailable(["CT"]))
    assert FUSIONS["multimodal"].unavailable(["CT", "T1w"]) is None


def test_arms_of_data_with_ct_are_those_of_the_study_alone() -> None:
    assert set(STUDY_FUSIONS) == {"ct-only", "multimodal"}
    assert _default_fusions(STUDY_FUSIONS, ("CT", "PET", "T1w", "T2w")) == STUDY_FUSIONS
    assert _default_fusions(("multimodal",), ("CT",)) == ("ct-only",)
    assert _default_fusions(STUDY_FUSIONS, ("T1w",)) == ("mr-only",)


def test_a_split_that_the_data_cannot_serve_is_an_error() -> None:
    with pytest.raises(StudyError, match=r"p01.*train set and in the test set"):
        split_by_lists(PATIENTS, {"train": ["p01"], "test": ["p01", "p02"]})
    with pytest.raises(StudyError, match="nobody"):
        split_by_lists(PATIENTS, {"test": ["nobody"]})
    with pytest.raises(StudyError, match="asks for 12 patients, the data have 10"):
        split_by_counts(PATIENTS, {"train": 8, "validation": 2, "test": 2}, 0)
    with pytest.raises(StudyError, match="too few"):
        split_by_fractions(["a", "b"], {"train": 0.5, "validation": 0.25, "test": 0.25}, 0)


def test_fractions_split_every_patient_and_depend_on_the_seed_only() -> None:
    split = split_by_fractions(PATIENTS, {"train": 0.7, "validation": 0.1, "test": 0.2}, 3)
    assert (len(split.train), len(split.validation), len(split.test)) == (7, 1, 2)
    assert split == split_by_fractions(reversed(PATIENTS), {"train": 0.7, "validation": 0.1, "test": 0.2}, 3)
    assert sorted(split.train + split.validation + split.test) == PATIENTS


def test_a_fold_of_nnunets_splits_is_read_and_a_damaged_file_refused_with_its_name(tmp_path: Path) -> None:
    split = split_by_counts(PATIENTS, {"train": 5, "validation": 2, "test": 3}, 1)
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": list(split.train), "val": list(split.validation)}]))
    assert read_nnunet_splits(path, 0, PATIENTS) == split
    for text in ("", "[]", '[{"train": []}]', "{"):
        path.write_text(text)
        with pytest.raises(StudyError, match=r"splits_final\.json"):
            read_nnunet_splits(path, 0, PATIENTS)


def test_two_structures_of_one_value_are_an_error() -> None:
    with pytest.raises(StudyError, match="share label value 1"):
        structures_from({"a": 1, "b": 1})
