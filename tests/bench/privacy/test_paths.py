"""No folder of a path survives, however it is written."""

from __future__ import annotations

import json
from pathlib import PurePosixPath, PureWindowsPath

import pytest
import yaml
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st

from gtvbench.bench.privacy.paths import redact, redact_all


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot read '/home/who/My Data/p1.nii.gz'", "cannot read '…/p1.nii.gz'"),
        ("cannot read /srv/a/b.nii: bad", "cannot read …/b.nii: bad"),
        ('File "/usr/lib/x.py", line 3', 'File "…/x.py", line 3'),
        ("bad\n  file:   /data/My Patients/p 1.nii\n  remedy: no", "bad\n  file:   …/p 1.nii\n  remedy: no"),
        (r"C:\Users\who\x.nii is damaged", "…/x.nii is damaged"),
        (r"\\server\share\x.nii is damaged", "…/x.nii is damaged"),
        ("root=~/study/masks", "root=…/masks"),
        ("read file:///srv/a/b.nii", "read …/b.nii"),
        ("see ../shared/data/sts", "see …/sts"),
        ("//srv/a/b", "…/b"),
        ("root=/srv/Doe, John (2)/masks", "root=…/masks"),
        ("cannot read /home/dr who/My Data/p1.nii: bad", "cannot read …/p1.nii: bad"),
        (r"C:\Users\Dr Who\My Data\x.nii is damaged", "…/x.nii is damaged"),
        ("""open("/home/O'Brien/x.nii")""", """open("…/x.nii")"""),
        (r"open('/home/O\'Brien/x.nii')", "open('…/x.nii')"),
        ("/home/O'Brien/x.nii: bad", "…/x.nii: bad"),
        ("~drwho/data/x.nii", "…/x.nii"),
        ("$HOME/who/x.nii and ${DATA}/who/y.nii", "…/x.nii and …/y.nii"),
        (r"%USERPROFILE%\who\x.nii", "…/x.nii"),
        ("gcc -I/home/who/include, -L/home/who/lib", "gcc -I…/lib"),
        ("file://server/share/who/x.nii", "…/x.nii"),
        ("file:///C:/Users/Dr%20Who/x.nii", "…/x.nii"),
        ("sftp://who@host/data/who/x.nii", "sftp:…/x.nii"),
        (r"\\\\server\\share\\who\\x.nii", "…/x.nii"),
        (r"\\?\C:\Users\who\x.nii", "…/x.nii"),
        ("https://who:secret@host/page", "https://host/page"),
        ("http://host/?logdir=/home/who/run", "http://host/?logdir=…/run"),
        ("/home/who", "…"),
        ("cd /home/who/", "cd …"),
        (r"C:\Users\who", "…"),
        ("cd ~who/", "cd …"),
        ("'/home/who/a' and '/home/who/b'", "'…/a' and '…/b'"),
        ("/srv/who/a.nii or /srv/who/b.nii", "…/a.nii or …/b.nii"),
        ("PHA-026: read from /srv/who/ct.nii.gz, 1/2 of it", "PHA-026: read from …/ct.nii.gz, 1/2 of it"),
        ("--weights=/srv/who/w.pt and/or more", "--weights=…/w.pt and/or more"),
    ],
)
def test_paths_keep_their_last_part_only(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text", ["0.03 s/slice", "T1w / T2w", "1/0/1", "W+/W-", "see https://arxiv.org/abs/2402.17454 there"]
)
def test_what_is_no_path_stays(text: str) -> None:
    assert redact(text) == text


SECRET = "Ruth.Secret"

# Parts of folder names as people make them: blanks, apostrophes, commas, brackets, other alphabets. No blank at an end,
# no quotation mark, no separator.
_WORDS = st.text(st.sampled_from("abcXYZ019 .,;:()[]{}&+=-_#@!~%$öß腫瘍é"), max_size=8)
_FOLDERS = st.builds(
    lambda a, b: f"{a}{SECRET}{b}".strip(), _WORDS, _WORDS | st.sampled_from(["O'Brien", " (2)", ", MD"])
)
_POSIX = ("/", "//", "/home/", "/mnt/data 1/", "~/", "~someone/", "../", "./", "$HOME/", "${SCRATCH}/")
_WINDOWS = ("C:\\", "d:\\Users\\", "\\\\server\\share\\", "\\\\?\\C:\\", "%USERPROFILE%\\", "..\\")
_NAMES = st.sampled_from(["x.nii.gz", "ct.nii", "case_1.dcm", "log.txt", "weights-2.pt", "module.py"])


@st.composite
def hidden_paths(draw: st.DrawFn) -> str:
    """An absolute, home or dotted path of which every folder holds the secret, its last part not."""
    windows = draw(st.booleans())
    root = draw(st.sampled_from(_WINDOWS if windows else _POSIX))
    folders = draw(st.lists(_FOLDERS, min_size=1, max_size=3))
    mark = "\\" if windows and draw(st.integers(0, 3)) else "/"
    return root + mark.join([*folders, draw(_NAMES)])


def _texts(path: str) -> dict[str, str]:
    """A path as errors, tracebacks, dumps and addresses show it."""
    pure = PureWindowsPath(path) if "\\" in path else PurePosixPath(path)
    shown = {
        "bare": f"cannot read {path}: bad header",
        "end": f"is a directory: {path}",
        "sentence": f"{path} is damaged, 3.5 mm apart",
        "equals": f"root={path} seed=3",
        "brackets": f"loading ({path})",
        "error line": f"bad\n  file:   {path}\n  remedy: none",
        "errno": str(FileNotFoundError(2, "No such file or directory", path)),
        "repr": f"open({path!r}, 'rb')",
        "path object": f"failed: {pure!r} and more",
        "traceback": f'Traceback:\n  File "{path}", line 3, in <module>\n    load({path!r})\nOSError',
        "yaml": yaml.safe_dump({"dataset": {"root": path, "seed": 1}}, allow_unicode=True, width=10_000),
        "json": json.dumps({"root": path, "n": 1}, ensure_ascii=False),
        "bytes": f"open({path.encode()!r})" if path.isascii() else "",
        "two": f"copied {path} to {path}",
    }
    if path.startswith("/") and not path.startswith("//"):
        shown |= {"file address": f"see file://{path}", "encoded": f"see {PurePosixPath(path).as_uri()} there"}
    if path[1:3] == ":\\":
        shown["drive address"] = f"see {PureWindowsPath(path).as_uri()} there"
    return shown


@fuzzed(400)
@given(hidden_paths())
def test_no_folder_of_a_path_is_left_however_it_is_written_and_redacting_twice_changes_nothing(path: str) -> None:
    for how, text in _texts(path).items():
        once = redact(text)
        assert SECRET not in once, how
        assert redact(once) == once, how
    assert SECRET not in json.dumps(redact_all({"dataset": {"path": path, "many": [path]}}))


@pytest.mark.parametrize("part", ["/a ", "/", "/a b", "'/a", "a'", "~", "file:", "C:", "$a", "%a%", "\\\\"])
def test_a_long_line_is_redacted_without_backtracking_for_ever(part: str) -> None:
    assert SECRET not in redact(f"{part * 20_000}\n/srv/{SECRET}/x")


def test_paths_are_taken_out_of_nested_configuration() -> None:
    found = redact_all({"root": "/a/b", "n": 3, "list": ["/a/c", None]})
    assert found == {"root": "…/b", "n": 3, "list": ["…/c", None]}
