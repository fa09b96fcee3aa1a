"""Pseudonyms: stable for one key file, nobody else's to read, safe between processes."""

import json
import multiprocessing
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from key_worker import ask

from gtvbench.bench.core.errors import DataError
from gtvbench.datasets.dicom import pseudonyms
from gtvbench.datasets.dicom.pseudonyms import Pseudonyms, pseudonym

IDS = [f"MRN{number:06d}" for number in range(40)]


def test_a_patient_keeps_the_name_in_every_process_and_order(tmp_path: Path) -> None:
    key = tmp_path / "keys" / "patients.json"
    first = Pseudonyms.open(key).names(IDS)
    script = (
        "import json, sys; from pathlib import Path; from gtvbench.datasets.dicom.pseudonyms import Pseudonyms; "
        "p = Pseudonyms.open(Path(sys.argv[1])); print(json.dumps({i: p.of(i) for i in reversed(sys.argv[2:])}))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(key), *IDS], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == first
    assert len(set(first.values())) == len(IDS)
    assert all(len(name) == 10 and name.startswith("P-") and name[2:].isalnum() for name in first.values())


def test_names_lead_back_to_patients_and_another_key_file_gives_other_names(tmp_path: Path) -> None:
    names = Pseudonyms.open(tmp_path / "key.json")
    name = names.of("Müller^7")
    assert Pseudonyms.open(tmp_path / "key.json").patient_id(name) == "Müller^7"
    assert names.patient_id("P-00000000") is None
    other = Pseudonyms.open(tmp_path / "other.json")
    assert not set(names.names(IDS).values()) & set(other.names(IDS).values())


def test_a_cohort_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Pseudonyms.open(tmp_path / "key.json")
    written = []
    write = pseudonyms._write
    monkeypatch.setattr(pseudonyms, "_write", lambda *args: (written.append(1), write(*args)))
    names.names(IDS)
    names.names(IDS[:5])
    assert len(written) == 1


def test_the_key_file_is_its_owner_s_alone_whatever_the_umask_and_refused_where_others_may_use_it(
    tmp_path: Path,
) -> None:
    key = tmp_path / "key.json"
    before = os.umask(0)
    try:
        Pseudonyms.open(key).of("MRN1")
    finally:
        os.umask(before)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    for mode in (0o640, 0o604, 0o620):
        key.chmod(mode)
        with pytest.raises(DataError) as error:
            Pseudonyms.open(key)
        assert error.value.remedy == f"chmod 600 {key}"


def test_processes_that_make_the_key_file_at_once_agree_and_lose_no_patient(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(3), context.Queue()
    parts = [IDS[:20], IDS[10:30], IDS[20:]]
    workers = [context.Process(target=ask, args=(tmp_path / "key.json", part, barrier, queue)) for part in parts]
    for worker in workers:
        worker.start()
    answers = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    now = Pseudonyms.open(tmp_path / "key.json")
    for answer in answers:
        assert {patient_id: now.of(patient_id) for patient_id in answer} == answer
    assert len(json.loads((tmp_path / "key.json").read_text())["patients"]) == len(IDS)


def test_an_instance_sees_what_another_added_before_it_adds_its_own(tmp_path: Path) -> None:
    one, other = Pseudonyms.open(tmp_path / "key.json"), Pseudonyms.open(tmp_path / "key.json")
    first = one.of("A")
    other.of("B")
    assert other.of("A") == first
    assert Pseudonyms.open(tmp_path / "key.json").patient_id(first) == "A"


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", "{}", '{"secret": "zz", "patients": {}}', '{"secret": "00", "patients": {}}',
        '{"secret": 5, "patients": {}}', json.dumps({"secret": "00" * 32, "patients": []}),
        json.dumps({"secret": "00" * 32, "patients": {"P-1": "A"}}),
        json.dumps({"secret": "00" * 32, "patients": {"P-11111111": 4}}),
        json.dumps({"secret": "00" * 32, "patients": {"P-11111111": "A", "P-22222222": "A"}}), "\x80\0", "[" * 5000,
    ],
)  # fmt: skip
def test_a_damaged_key_file_is_never_replaced(tmp_path: Path, content: str) -> None:
    key = tmp_path / "key.json"
    key.write_bytes(content.encode("latin-1"))
    key.chmod(0o600)
    with pytest.raises(DataError, match="damaged") as error:
        Pseudonyms.open(key)
    assert "do not make a new one" in (error.value.remedy or "")
    assert key.read_bytes() == content.encode("latin-1")


def test_two_patients_never_share_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pseudonyms, "pseudonym", lambda secret, patient_id, attempt=0: f"P-0000000{attempt}")
    names = Pseudonyms.open(tmp_path / "key.json").names(["B", "A", "C"])
    assert names == {"A": "P-00000000", "B": "P-00000001", "C": "P-00000002"}
    monkeypatch.undo()
    again = Pseudonyms.open(tmp_path / "key.json")
    assert again.names(["C", "A", "B"]) == names


def test_the_name_depends_on_every_part_of_secret_and_id() -> None:
    names = {pseudonym(bytes([value]) * 32, patient_id, attempt) for value in (0, 1) for patient_id in ("1", "11")
             for attempt in (0, 1)}  # fmt: skip
    assert len(names) == 8


@pytest.mark.parametrize("place", ["run", "run/private", "run/a/b"])
def test_a_key_file_in_a_run_folder_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(DataError, match="run folder"):
        Pseudonyms.open(tmp_path / place / "key.json")
    (tmp_path / "link.json").symlink_to(tmp_path / place / "key.json")
    with pytest.raises(DataError, match="run folder"):
        Pseudonyms.open(tmp_path / "link.json")


def test_a_patient_without_an_id_and_a_place_that_cannot_be_used_are_errors_with_their_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for patient_id in ("", "  "):
        with pytest.raises(DataError, match="without an ID"):
            Pseudonyms.open(tmp_path / "key.json").of(patient_id)
    for place, told in ((tmp_path / "file" / "key.json", "cannot be written"), (tmp_path, "cannot be read")):
        with pytest.raises(DataError, match=told) as error:
            Pseudonyms.open(place)
        assert error.value.remedy


def test_known_names_need_no_writing_and_new_ones_that_cannot_be_kept_are_refused(tmp_path: Path) -> None:
    names = Pseudonyms.open(tmp_path / "key.json")
    name = names.of("A")
    lock = tmp_path / ".key.json.lock"
    lock.unlink()
    lock.mkdir()  # stands for a folder that cannot be written, which a test that runs as root cannot make
    assert Pseudonyms.open(tmp_path / "key.json").of("A") == name
    with pytest.raises(DataError, match="cannot be written"):
        names.of("B")
