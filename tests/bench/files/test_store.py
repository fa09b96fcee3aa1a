import errno
import json
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from gtvbench.bench.core.errors import StoreError
from gtvbench.bench.files.store import Store, held, publish_folder, step_key, write_atomically

FILL = """
import resource, signal, sys
from functools import partial
from pathlib import Path
from gtvbench.bench.core.errors import StoreError
from gtvbench.bench.files.store import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(Path(sys.argv[1]), b"x" * 5000)
except StoreError as error:
    print(error)
"""


def test_a_step_is_done_only_with_its_key_and_whole_outputs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    output = tmp_path / "out.txt"
    write_atomically(output, "result")
    store.finish("predict/arm/case", "key", [output], {"facts": 1})
    assert store.record("predict/arm/case", "key") is not None
    assert store.record("predict/arm/case", "other") is None
    output.write_text("trunc")
    assert store.record("predict/arm/case", "key") is None
    output.unlink()
    assert store.record("predict/arm/case", "key") is None


def test_what_another_machine_finished_is_waited_for_and_never_counts_as_missing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    thread = threading.Timer(0.3, store.finish, ("predict/a/p1", "key", ()))
    thread.start()
    assert store.awaited("predict/a/p1", "key")["key"] == "key"
    thread.join()
    with pytest.raises(StoreError, match="finished on another machine"):
        store.awaited("predict/a/p1", "other", patience_s=0.0)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"key": "key"}'])
def test_a_damaged_record_is_not_believed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "steps" / "a.json"
    path.parent.mkdir()
    path.write_text(text)
    assert Store(tmp_path).record("a", "key") is None


def test_a_file_that_outgrows_the_disk_leaves_the_old_one_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", FILL, str(path)], capture_output=True, text=True, check=True)
    assert "cannot be written" in done.stdout and "remedy" in done.stdout
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_a_folder_replaces_an_older_one(tmp_path: Path) -> None:
    part, final = tmp_path / "part", tmp_path / "final"
    for folder, text in ((part, "new"), (final, "old")):
        folder.mkdir()
        (folder / "file").write_text(text)
    publish_folder(part, final)
    assert (final / "file").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


def test_a_second_run_on_one_folder_is_refused_while_the_first_or_its_worker_lives(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    lock = store.open("s")
    with pytest.raises(StoreError, match="another run is working"):
        Store(tmp_path / "run").open("s", patience_s=0.2)
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock])
    store.close()  # as if the parent had been killed
    with pytest.raises(StoreError, match="another run is working"):
        Store(tmp_path / "run").open("s", patience_s=0.2)
    worker.communicate(b"\n")
    again = Store(tmp_path / "run")
    again.open("s")
    again.close()


def test_a_folder_of_another_study_of_other_files_or_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    store.open("one")
    store.close()
    with pytest.raises(StoreError, match="belongs to study 'one'"):
        Store(tmp_path / "run").open("two")
    (tmp_path / "thesis.docx").write_text("precious")
    with pytest.raises(StoreError, match="not a run folder"):
        Store(tmp_path).open("s")
    assert (tmp_path / "thesis.docx").read_text() == "precious"
    # A file in the way fails for every user; permission bits do not stop root.
    with pytest.raises(StoreError, match="run folder cannot be written"):
        Store(tmp_path / "thesis.docx" / "run").open("s")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="run folder cannot be written"):
        Store(tmp_path / "run").open("s")


def test_a_key_depends_on_content_not_on_order() -> None:
    assert step_key("a", 1, x=1, y=[2]) == step_key("a", 1, y=[2], x=1)
    assert step_key("a", 1, x=1) != step_key("a", 2, x=1)
    assert len({step_key("a", 1, x=json.loads(t)) for t in ("1", '"1"', "[1]", "null")}) == 4


def test_a_file_system_without_locks_is_refused_and_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("gtvbench.bench.files.store.fcntl.flock", flock)
    with pytest.raises(StoreError, match="has no locks"):
        Store(tmp_path / "run").open("s")
    with pytest.raises(StoreError, match="has no locks"), held(tmp_path / "arm" / ".lock", "arm"):
        pass


def test_what_a_lost_run_left_behind_begins_nothing_under_the_next_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    store.open("s")
    lost = store.run_id
    store.require_run(lost)
    store.close()
    store.open("s")
    with pytest.raises(StoreError, match="another 'bench run' has taken over"):
        store.require_run(lost)
    with held(store.case_lock("p1"), "p1"):  # it is at work on a case: the next run waits for that
        done = threading.Timer(0.5, lambda: None)
        waiting = threading.Thread(target=store.settle)
        waiting.start()
        done.start()
        done.join()
        assert waiting.is_alive()
    waiting.join(10)
    assert not waiting.is_alive()


def test_folds_of_one_run_work_on_their_arm_together_and_nobody_else_does(tmp_path: Path) -> None:
    lock = tmp_path / "arm" / ".lock"
    with held(lock, "arm", shared_by="one"), held(lock, "arm", shared_by="one"):
        for other in ("two", None):
            turns = iter([False, True])
            with (
                pytest.raises(StoreError, match="stopped while waiting"),
                held(lock, "arm", partial(next, turns), other),
            ):
                pass
    with held(lock, "arm", shared_by="two"):
        pass
    with held(lock, "arm"):
        pass
