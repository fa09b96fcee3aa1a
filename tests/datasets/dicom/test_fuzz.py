"""Trees with damaged headers, contours and files: a case, or an error that says what to do; nothing else."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_tree import write_tree
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from gtvbench.bench.core.errors import BenchError
from gtvbench.bench.core.structures import structures_from
from gtvbench.datasets.dicom.source import DicomOptions, DicomSource
from gtvbench.datasets.phantom.source import Phantom

ODD = (b"", b"\0", b"-1", b"0", b"1e300", b"nan", b"inf", b"1\\2", b"1\\2\\3\\4\\5\\6\\7", b"a^b", b"9" * 20,
       b"\xff\xfe", b"LOCALIZER", b"20201301", b"2.5.6", b"PT", b"SEG", b"x" * 300)  # fmt: skip


class Files(dict[str, bytes]):
    """Content by path; told in one word, since Hypothesis tells arguments in full."""

    def __repr__(self) -> str:
        return "Files(...)"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, make_phantom: Callable[..., Phantom]) -> Files:
    """The files of one small patient, by path."""
    source = make_phantom(patients=1, shape=(6, 24, 24), modalities=("CT", "PET"))
    folder = tmp_path_factory.mktemp("fuzz") / "tree"
    case = source.read(source.entries()[0])
    write_tree(folder, [case], {1: "GTVp", 2: "GTVn"}, carriers=("RTSTRUCT", "SEG"), decoys=False)
    return Files({str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("IM*"))})


def changed_value(data: bytes, rng: random.Random) -> bytes:
    """A tag, at any depth of sequences, taken away or given an odd value, whatever its VR allows."""
    from io import BytesIO

    ds = pydicom.dcmread(BytesIO(data))
    place: Dataset = ds
    while True:
        nested = [e.value for e in place if e.VR == "SQ" and len(e.value)]
        if not nested or rng.random() < 0.4:
            break
        place = rng.choice(list(rng.choice(nested)))
    tags = [tag for tag in place.keys() if tag != Tag(0x7FE0, 0x0010)]  # noqa: SIM118 - would convert every value
    if not tags:
        return data
    tag = rng.choice(tags)
    if rng.random() < 0.3:
        del place[tag]
    elif place[tag].VR == "SQ":
        place[tag].value = []
    else:
        value = rng.choice(ODD)
        place[tag] = RawDataElement(tag, place[tag].VR, len(value), value + b" " * (len(value) % 2), 0, False, True)
    stream = BytesIO()
    try:
        ds.save_as(stream)
    except Exception:  # what cannot even be written needs no reading
        return data
    return stream.getvalue()


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes turned, or the end cut off."""
    if rng.random() < 0.4:
        return data[: rng.randrange(len(data))]
    turned = bytearray(data)
    for _ in range(rng.randrange(1, 12)):
        turned[rng.randrange(len(turned))] = rng.randrange(256)
    return bytes(turned)


@fuzzed(40)
@given(seed=st.integers(0, 2**32), whole=st.booleans())
def test_a_damaged_tree_is_a_case_or_an_error_with_a_remedy(
    tree: Files, tmp_path_factory: pytest.TempPathFactory, seed: int, whole: bool
) -> None:
    rng = random.Random(seed)
    files = dict(tree)
    change = changed_value if whole else damaged
    # One kind of object as a whole, or a few files anywhere.
    for name in rng.sample(sorted(files), rng.choice((1, 1, 2, len(files)))):
        files[name] = change(files[name], rng)
    place = tmp_path_factory.mktemp("case")
    for name, data in files.items():
        path = place / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    options: dict[str, Any] = {"path": "tree", "structure-set": {"kind": rng.choice(("RTSTRUCT", "SEG"))}}
    source = DicomSource(DicomOptions.model_validate(options), place, structures_from({"GTV-T": 1, "GTV-N": 2}), 0)
    try:
        for entry in source.entries():
            case = source.read(entry)
            assert case.label.dtype == np.uint8
            assert set(np.unique(case.label)) <= {0, 1, 2}
            source.sensitive(entry)
    except BenchError as error:
        assert error.remedy  # noqa: PT017 - a whole case is as good
