from __future__ import annotations

from gtvbench.reports.text.numbers import (
    counted,
    duration,
    finite,
    listed,
    number,
    percent,
    signed,
    visible,
)


def test_invisible_and_reordering_characters_are_spelt_out() -> None:
    assert visible("a\nb\u202ec\u200bd") == "a\\nb\\u202ec\\u200bd"
    assert visible("Größe 腫瘍 β-1") == "Größe 腫瘍 β-1"


def test_numbers_are_rounded_and_missing_ones_are_a_dash() -> None:
    assert number(0.12345, 3) == "0.123"
    assert number(-0.0001, 2) == "0.00"
    assert number(-1.5, 1) == "\u22121.5"
    assert [number(v, 2) for v in (float("nan"), float("inf"), None, True)] == ["\u2013"] * 4
    assert signed(1.25, 1) == "+1.2"
    assert signed(0.0001, 2) == "0.00"
    assert not finite("1")


def test_lists_and_counts_read_as_english() -> None:
    assert listed([]) == ""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert counted(1, "cross", "crosses") == "1 cross"
    assert counted(2, "cross", "crosses") == "2 crosses"


def test_times_have_the_unit_that_suits_them_and_shares_never_claim_all_or_nothing() -> None:
    assert [duration(s) for s in (0.0, 3.9e-6, 0.0123, 0.9999, 1.5, 125, 8000)] == [
        "0 ms", "3.90 µs", "12.3 ms", "1.00 s", "1.50 s", "2 min 05 s", "2 h 13 min",
    ]  # fmt: skip
    assert duration(None) == "\u2013"
    assert [percent(v) for v in (0.0, 0.00004, 0.004, 0.25, 0.996, 0.99996, 1)] == [
        "0 %", "< 0.1 %", "0.4 %", "25 %", "99.6 %", "> 99.9 %", "100 %",
    ]  # fmt: skip
