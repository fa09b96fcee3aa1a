"""What may leave a run folder: texts without paths and identities, and a search that finds what slipped through."""

import base64
import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from dicom_writer import write_series
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

from gtvbench.bench.cli.main import app
from gtvbench.bench.core.errors import DataError, StoreError
from gtvbench.bench.files import provenance
from gtvbench.bench.privacy import terms as privacy_terms
from gtvbench.bench.privacy.policy import Privacy, Scrubber, is_shareable, shareable_study
from gtvbench.bench.privacy.search import Finder, search_run
from gtvbench.bench.privacy.terms import Term, dicom_terms
from gtvbench.bench.study.file import Study
from gtvbench.datasets.base import CaseEntry

Execute = Any  # the fixture of conftest.py

# ---- texts


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("cannot read /data/in put/John Doe/CT 1/1.dcm: cut", "cannot read \u2026"),
        ("bad\n  file:   /home/x y/z.dcm\n  remedy: none", "bad\n  file:   \u2026\n  remedy: none"),
        ("open('/tmp/a b/c') and \"C:\\Users\\doe\\x\"", "open('\u2026') and \"\u2026\""),
        ("in /a/b and [\\\\server\\share]", "in \u2026]"),  # what lies between two paths may be a folder
        ("series 1.2.840.113619.2.55 of Doe, John is cut", "series \u2026 of \u2026, \u2026 is cut"),
        ("patient DOE^JOHN (mrn00123), file ct_0001.dcm", "patient \u2026 (\u2026), file \u2026"),
        ("on 20250131 at 101112.5", "on \u2026 at \u2026"),
        ("3 km/h, 5/8, https://a.b/c, torch 2.6.0.1, (z, y, x) / mm", None),
        ("a doer has 7 of 9 slices at 0.123456 mm", None),
    ],
)
def test_texts_lose_paths_and_identities_and_nothing_else(text: str, left: str | None) -> None:
    scrubber = Scrubber({"DOE^JOHN", "MRN00123", "CT_0001.dcm", "7"}, ["/data/in put"], clinical=True)
    assert scrubber.text(text) == (text if left is None else left)


WORDS = st.text(st.characters(categories=("L", "N", "P", "Zs")), max_size=30)


@fuzzed(200)
@given(WORDS, st.sampled_from(["Smith^Ingrid", "MRN-0471199", "1.2.826.0.1.3680043.8.498.77"]), WORDS)
def test_no_term_survives_between_other_words(before: str, term: str, after: str) -> None:
    text = Scrubber([term]).text(f"{before} {term} {after}")
    assert not Finder([Term("text", term)]).find(text) or Finder([Term("text", term)]).find(f"{before} {after}")


@pytest.mark.timeout(60)
def test_long_texts_are_scrubbed_before_anyone_gives_up() -> None:
    text = "'a/b \\" * 5_000 + "/x/y" * 5_000 + "1.2." * 5_000 + " of term77"
    assert "term77" not in Scrubber([f"term{number}" for number in range(50_000)], clinical=True).text(text)


def test_a_traceback_keeps_the_names_of_the_software_s_files_alone() -> None:
    trace = f'File "{np.__file__}", line 3\nFile "/home/doe/plugin.py", line 4\nFile "{re.__file__}", line 5'
    assert Scrubber().text(trace) == (
        'File "\u2026/__init__.py", line 3\nFile "\u2026", line 4\nFile "\u2026/__init__.py", line 5'
    )


class _Source:
    def sensitive(self, entry: CaseEntry) -> frozenset[str]:
        if entry.name == "P-2":
            raise DataError("gone")
        return frozenset({"ROE^JANE"})


def _study(**changes: Any) -> Study:
    base = {
        "study": "s", "structures": {"GTV-T": 1}, "split": {"file": "lists/splits.json"},
        "dataset": {"source": "dicom", "path": "patients/clinic", "key-file": "../keys/key.json",
                    "patients": {"P-1": {"injection-time": "20250131101500"}}, "series": {"PET": {"path": "/x/y"}}},
        "methods": {"theirs": {"method": "predictions", "folder": "masks/lab", "note": "n/a", "deep": ["~/m"]},
                    "litemedsam-zero-shot": {"weights": "/models/secret place/w.pth"}},
        "output": "/home/doe/runs",
    }  # fmt: skip
    return Study.model_validate(base | changes)


def test_records_of_a_run_are_scrubbed_by_the_terms_of_their_case_and_of_all_where_they_name_none() -> None:
    entries = [CaseEntry("P-1", "P-1"), CaseEntry("P-2", "P-2")]
    privacy = Privacy(_Source(), entries, _study(), Path("/data/study"))
    rows = [{"case": case, "message": "Jane Roe in /data/study/x y", "traceback": ""} for case in ("P-1", None, "P-2")]
    assert [row["message"] for row in privacy.failures(rows)] == ["\u2026 \u2026 in \u2026"] * 2 + [
        "Jane Roe in \u2026"
    ]
    assert privacy.notes({"P-1": ["of Roe"], "P-2": []}) == {"P-1": ["of \u2026"], "P-2": []}
    arm = {"arm": "a", "reason": "no /w/x.pth", "options": {"folder": "/m", "plan": "2d"}}
    assert privacy.arms([arm]) == [
        {"arm": "a", "reason": "no \u2026", "options": {"folder": "<private>", "plan": "2d"}}
    ]


def test_the_study_in_the_run_folder_tells_no_place_and_no_time(tmp_path: Path) -> None:
    (tmp_path / "masks" / "lab").mkdir(parents=True)
    text = shareable_study(_study(), tmp_path)
    kept = yaml.safe_load(text)
    assert kept["dataset"] == {
        "source": "dicom",
        "path": "<private>",
        "key-file": "<private>",
        "series": {"PET": {"path": "<private>"}},
    }
    assert kept["methods"]["theirs"] == {
        "method": "predictions",
        "folder": "<private>",
        "note": "n/a",
        "deep": ["<private>"],
    }
    assert kept["methods"]["litemedsam-zero-shot"]["weights"] == "w.pth"
    assert kept["output"] == kept["split"]["file"] == "<private>"
    assert Study.model_validate(kept).structures == {"GTV-T": 1}
    assert shareable_study(_study(output="runs"), tmp_path).count("output: runs") == 1


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("study.yaml", True), ("report/data/scores.csv", True), ("pictures/P.zip", True), ("steps/fit/a.json", True),
        ("arms/a/fit/epochs.csv", True), ("arms/a/fit/deep/weights.pth", False), ("arms/a/log.txt", False),
        ("arms/a/predictions/P.nii.gz", False), ("arms/a/contours/P.json", True), ("cases/P/CT.nii", False),
        ("references/P.npy", False), ("private/study.json", False), (".lock", False), ("anything/else.bin", True),
    ],
)  # fmt: skip
def test_images_label_maps_weights_and_logs_are_private_and_the_rest_is_not(name: str, shared: bool) -> None:
    assert is_shareable(name) is shared


# ---- the search

SECRETS = {
    "name": "Bergstr\u00f6m^Ingrid", "id": "MRN-0471199", "date": "19610723", "time": "101112.250",
    "uid": "1.2.826.0.1.3680043.8.498.77", "place": "St. Elsewhere Hospital", "path": "/mnt/pacs/in box",
}  # fmt: skip
TERMS = {Term(kind, value) for kind, value in SECRETS.items()}


def _png(text: str, packed: bool) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("note", text, zip=packed)
    stream = io.BytesIO()
    Image.new("L", (4, 4)).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def _webp(text: str) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 4)).save(stream, "WEBP", xmp=text.encode())
    return stream.getvalue()


def _zip(name: str, data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return stream.getvalue()


def _parquet(text: str) -> bytes:
    stream = io.BytesIO()
    pd.DataFrame({"a": ["x", text]}).to_parquet(stream)
    return stream.getvalue()


def _base64(data: bytes) -> bytes:
    return b'<script>const d = "' + base64.b64encode(data) + b'";</script>'


def _pdf(text: str) -> bytes:
    body = zlib.compress(b"BT [(" + text[:4].encode("latin-1") + b") 12 (" + text[4:].encode("latin-1") + b")] TJ ET")
    return b"%PDF-1.4\n1 0 obj\n<< /Filter /FlateDecode >>\nstream\n" + body + b"\nendstream\n%%EOF"


CONTAINERS: dict[str, Callable[[str], bytes]] = {
    "notes.txt": lambda t: f"seen: {t}.".encode(),
    "table.csv": lambda t: f"a,b\n1,{t}\n".encode(),
    "record.json": lambda t: json.dumps({"deep": [{"x": t}]}).encode(),
    "page.html": lambda t: f"<p>{t.replace('/', '&#47;').replace('.', '&#46;').replace('1', '&#49;')}</p>".encode(),
    "script.js": lambda t: "".join(f"\\u{ord(c):04x}" for c in t).encode(),
    "packed.html": lambda t: _base64(gzip.compress(f"x {t}".encode())),
    "deflated.html": lambda t: _base64(zlib.compress(f"x {t}".encode())),
    "embedded.html": lambda t: _base64(f"some text around it: {t}, and after".encode()),
    "picture.html": lambda t: _base64(_webp(t)),
    "scores.parquet": _parquet,
    "case.zip": lambda t: _zip("record.json", t.encode()),
    "nested.zip": lambda t: _zip("inner.zip", _zip("x.gz", gzip.compress(t.encode()))),
    "map.nii.gz": lambda t: gzip.compress(b"\0\xff" * 40 + b"\0" + t.encode("latin-1") + b"\0" * 9),
    "plain.png": lambda t: _png(t, False),
    "zipped.png": lambda t: _png(t, True),
    "meta.webp": _webp,
    "figure.svg": lambda t: f"<svg><!-- {t} --></svg>".encode(),
    "figure.pdf": _pdf,
    "array.npy": lambda t: b"\x93NUMPY\0" + np.array([t]).tobytes(),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("kind", [*SECRETS, None])
def test_every_kind_of_value_is_found_in_every_kind_of_file(folder: Path, kind: str | None) -> None:
    text = SECRETS[kind].replace("^", " ") if kind else "nothing to see"
    (folder / "report").mkdir()
    for name, content in CONTAINERS.items():
        (folder / "report" / name).write_bytes(content(text))
    leaks = {(leak.file, leak.kind, leak.value) for leak in search_run(folder, TERMS)}
    assert leaks == ({(f"report/{name}", kind, SECRETS[kind]) for name in CONTAINERS} if kind else set())


def test_names_of_files_folders_archived_files_and_targets_of_links_are_searched(folder: Path) -> None:
    names = {
        "mrn_0471199.csv": "id",
        "1.2.826.0.1.3680043.8.498.77/a.json": "uid",
        "x/scan-19610723.txt": "date",
        "Bergstrom INGRID.json": "name",
    }
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    assert {(leak.kind, leak.where) for leak in search_run(folder, TERMS)} == {(k, "/name") for k in names.values()}
    for name in names:
        (folder / name).unlink()
    (folder / "a.zip").write_bytes(_zip("MRN-0471199.txt", b""))
    (folder / "link").symlink_to("/mnt/pacs/in box/1.dcm")
    (folder / "x.bin").write_bytes(b"\xff\xe919610723\xe9\x80")  # between bytes of voxels
    found = {(leak.file, leak.kind) for leak in search_run(folder, TERMS)}
    assert found == {("a.zip", "id"), ("link", "path"), ("x.bin", "date")}


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("cut.zip", lambda: _zip("inner.txt", b"Quistorff" * 999)[:-30]),
        ("cut.json.gz", lambda: gzip.compress(bytes(range(256)) * 20)[:-100]),
        ("cut.parquet", lambda: b"PAR1" + b"\0" * 40),
        ("outer.zip", lambda: _zip("inner.zip", b"PK\x03\x04 cut")),
    ],
)
def test_a_search_that_cannot_look_inside_a_file_says_so(folder: Path, name: str, make: Any) -> None:
    (folder / name).write_bytes(make())
    with pytest.raises(StoreError, match="cannot be searched") as error:
        search_run(folder, ["Quistorff"])
    assert error.value.file == str(folder / name)


def test_values_are_found_in_other_ways_of_writing_and_what_only_looks_like_one_is_not(folder: Path) -> None:
    meant = ["1961-07-23", "23.07.1961", "07/23/1961", "19610723101112", "10:11:12"]
    other = [
        "0.19610723",
        "MRN-04711990",
        "1.2.826.0.1.3680043.8.498.778",
        "ingridients",
        "101112",
        "/mnt/pacs/in boxes",
    ]
    for number, text in enumerate(meant + other):
        (folder / f"{number}.txt").write_text(f"on {text} y")
    assert {leak.file for leak in search_run(folder, TERMS)} == {f"{number}.txt" for number in range(len(meant))}


def test_plain_strings_can_be_looked_for(folder: Path) -> None:
    (folder / "a.txt").write_text("Ingrid was on scanner 9 at 1.2.3")
    found = search_run(folder, ["scanner 9", "1.2.3", "scanner 8", "2.3.4"])
    assert [leak.value for leak in found] == ["1.2.3", "scanner 9"]


def test_what_stays_at_home_is_not_searched_and_a_folder_that_is_no_run_is_refused(folder: Path) -> None:
    for name in ("cases/P/case.json", "arms/a/log.txt", "private/study.json"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("MRN-0471199")
    assert search_run(folder, TERMS) == []
    with pytest.raises(StoreError, match="no run folder"):
        search_run(folder / "cases", TERMS)


def _tree(folder: Path) -> Path:
    (folder / "visit-ingrid").mkdir(parents=True)
    write_series(
        folder / "visit-ingrid", np.zeros((3, 4, 4), np.int16), PatientName="Smith^Ingrid^=\u5c71\u7530",
        PatientID="MRN-0471199", PatientBirthDate="19610723", AcquisitionTime="101112.25",
        InstitutionName="St. Elsewhere",
        AcquisitionDateTime="20240229235959.5", StudyDescription="Follow up", SeriesDescription="CT thin",
        SpecificCharacterSet="ISO_IR 192",
    )  # fmt: skip
    (folder / "visit-ingrid" / "notes.txt").write_text("no DICOM")
    return folder


def test_identifying_values_are_gathered_from_headers_and_names_by_one_process_or_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = dicom_terms(_tree(tmp_path / "in"))
    assert {
        Term("name", "Smith Ingrid"), Term("name", "Ingrid Smith"), Term("name", "Smith"), Term("name", "\u5c71\u7530"),
        Term("id", "MRN-0471199"), Term("date", "19610723"), Term("date", "20240229"), Term("time", "101112.25"),
        Term("place", "St. Elsewhere"), Term("text", "Follow up"), Term("uid", "1.2.3.5"), Term("uid", "1.2.3.4"),
        Term("file name", "visit-ingrid"), Term("path", str((tmp_path / "in").resolve())),
    } <= terms  # fmt: skip
    assert not any(t.value.startswith("1.2.840.10008.") or t.value in ("CT thin", "CT") for t in terms)
    monkeypatch.setattr(privacy_terms, "_MANY", 1)
    monkeypatch.setattr(privacy_terms, "_CHUNK", 2)
    monkeypatch.setattr(provenance, "usable_cores", lambda: 2)
    assert dicom_terms(tmp_path / "in") == terms


# ---- the command


def test_the_command_says_what_is_found_where_and_shows_values_only_when_asked(folder: Path, tmp_path: Path) -> None:
    tree = _tree(tmp_path / "private" / "in")  # apart from what is searched
    command = ["privacy", str(folder), "--input", str(tree)]
    clean = CliRunner().invoke(app, command)
    assert clean.exit_code == 0 and "nothing found in 1 files" in clean.output
    (folder / "report.html").write_text("<p>MRN-0471199</p>")
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 3 and "report.html: id (/)" in found.output and "0471199" not in found.output
    assert "'MRN-0471199'" in CliRunner().invoke(app, [*command, "--show"]).output
    untold = CliRunner().invoke(app, ["privacy", str(folder)])  # what its input was
    assert isinstance(untold.exception, StoreError) and "--study" in (untold.exception.remedy or "")


def test_a_run_of_files_by_path_leaks_no_path(execute: Execute, tmp_path: Path) -> None:
    methods = {"theirs": {"method": "predictions", "folder": str(tmp_path / "their masks")}}
    (tmp_path / "their masks").mkdir()
    _, run = execute(["theirs"], methods=methods)
    assert json.loads((run.folder / "failures.json").read_text()), "both predictions are missing"
    result = CliRunner().invoke(app, ["privacy", str(run.folder)])
    assert result.exit_code == 0, result.output
    for path in (run.folder / "study.yaml", run.folder / "arms.json", run.folder / "failures.json"):
        assert str(tmp_path) not in path.read_text() and "their masks" not in path.read_text()
    assert (run.folder / "private" / "study.json").stat().st_mode & 0o777 == 0o600


def test_the_fraction_of_a_number_is_no_id_unless_the_id_is_that_number() -> None:
    finder = Finder([Term("id", "897435"), Term("id", "12.345678")])
    for innocent in ("at 1.897435", "translate(41.897435 -64.897435)", '{"seconds": 0.897435}', "3.897435e-05"):
        assert finder.find(innocent) == set(), innocent
    for telling in ("897435", "ID=897435.", "P-897435.nii.gz", "1.2.897435", "v1.897435", "897435.5x"):
        assert {term.value for term in finder.find(telling)} == {"897435"}, telling
    assert {term.value for term in finder.find("patient 12.345678")} == {"12.345678"}
