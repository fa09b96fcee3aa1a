from __future__ import annotations

import pytest

from gtvbench.reports.text import (
    counted,
    duration,
    finite,
    listed,
    number,
    percent,
    redact,
    redact_all,
    signed,
    visible,
)


def test_invisible_and_reordering_characters_are_spelt_out() -> None:
    assert visible("a\nb\u202ec\u200bd") == "a\\nb\\u202ec\\u200bd"
    assert visible("Größe 腫瘍 β-1") == "Größe 腫瘍 β-1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot read '/home/who/My Data/p1.nii.gz'", "cannot read '…/p1.nii.gz'"),
        ("cannot read /srv/a/b.nii: bad", "cannot read …/b.nii: bad"),
        ('File "/usr/lib/x.py", line 3', 'File "…/x.py", line 3'),
        (
            "bad header\n  file:   /data/My Patients/p 1.nii\n  remedy: no",
            "bad header\n  file:   …/p 1.nii\n  remedy: no",
        ),
        (r"C:\Users\who\x.nii is damaged", "…/x.nii is damaged"),
        (r"\\server\share\x.nii is damaged", "…/x.nii is damaged"),
        ("root=~/study/masks", "root=…/masks"),
        ("read file:///srv/a/b.nii", "read …/b.nii"),
        ("see ../shared/data/sts", "see …/sts"),
        ("//srv/a/b", "…/b"),
    ],
)
def test_paths_keep_their_last_part_only(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize("text", ["0.03 s/slice", "T1w / T2w", "1/0/1", "see https://arxiv.org/abs/2402.17454 there"])
def test_what_is_no_path_stays(text: str) -> None:
    assert redact(text) == text


def test_paths_are_taken_out_of_nested_configuration() -> None:
    assert redact_all({"root": "/a/b", "n": 3, "list": ["/a/c", None]}) == {
        "root": "…/b",
        "n": 3,
        "list": ["…/c", None],
    }


def test_numbers_are_rounded_and_missing_ones_are_a_dash() -> None:
    assert number(0.12345, 3) == "0.123"
    assert number(-0.0001, 2) == "0.00"
    assert number(-1.5, 1) == "\u22121.5"
    assert [number(v, 2) for v in (float("nan"), float("inf"), None, True)] == ["\u2013"] * 4
    assert signed(1.25, 1) == "+1.2"
    assert signed(0.0001, 2) == "0.00"
    assert not finite("1")


def test_a_share_says_nothing_or_all_only_where_it_is_so() -> None:
    assert [percent(v) for v in (0.0, 0.004, 0.25, 0.998, 1.0)] == ["0 %", "0.4 %", "25 %", "99.8 %", "100 %"]


def test_times_take_the_unit_that_suits_them() -> None:
    assert [duration(s) for s in (0.0, 0.0123, 0.9999, 1.5, 125.0, 8000.0)] == [
        "0 ms", "12.3 ms", "1.00 s", "1.50 s", "2 min 05 s", "2 h 13 min",
    ]  # fmt: skip
    assert duration(None) == "\u2013"


def test_lists_and_counts_read_as_english() -> None:
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert counted(1, "cross", "crosses") == "1 cross"
    assert counted(2, "cross", "crosses") == "2 crosses"
