from __future__ import annotations

import csv
import io
import shutil
import string
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fuzz import fuzzed
from hypothesis import given
from hypothesis import strategies as st
from pages import Undrawn
from run_writer import RunWriter

from gtvbench.reports.page.content import content
from gtvbench.reports.paper import tables
from gtvbench.reports.run.load import read_run
from gtvbench.reports.tables.table import Cell, Table
from gtvbench.reports.text.latex import escaped

HOSTILE = (
    "\\input{x}$&#_%~^{}", "<script>alert('1')</script>", 'a "quoted" name', "`code` and 'quotes' --- ,,", "a|b\\|c",
    "line\nbreak\r\ttab", "right\u202eto\u200bleft", "[x]* ![y](http://z)", "=1+1", "@name", "肿瘤 Ωß ą é Å \u05d0 😀",
    "**bold** _it_ ~~no~~", "www.example.org", "\x00\x1b[31m",
)  # fmt: skip


def _table(*texts: str) -> Table:
    rows = tuple((Cell(text, wordy=True), Cell("0.812", strong=True), Cell("\u22120.5")) for text in texts)
    return Table("t-0", "Caption", ("Arm", "DSC mean", "other"), rows, (("", 1), ("Both", 2)))


def _all(folder: Path) -> list[Table]:
    """The tables of the page."""
    return tables.collect(content(read_run(folder), Undrawn()))


def test_latex_has_group_heads_over_their_columns_and_long_tables_break_over_pages() -> None:
    text = tables.as_latex(_table("one"))
    assert r" & \multicolumn{2}{c}{Both} \\" in text
    assert r"one & \textbf{0.812} & $-$0.5 \\" in text
    assert r"\caption{Caption}\label{tab:t-0}" in text
    assert text.index(r"\toprule") < text.index(r"\midrule") < text.index(r"\bottomrule")
    assert r"\begin{table}" in text
    assert r"\begin{longtable}" in tables.as_latex(_table(*map(str, range(tables.MAX_ROWS + 1))))


def test_a_markdown_table_has_the_groups_in_its_heads() -> None:
    lines = tables.as_markdown(_table("a|b", "longer name")).splitlines()
    assert lines[0] == "**Caption**"
    body = lines[2:]
    assert body[0].split(" | ")[1].strip() == "Both: DSC mean"
    assert body[1] == "| :-- | --: | --: |"
    assert "a\\|b" in body[2]
    assert "**0.812**" in body[2]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_in_its_cell_of_a_markdown_table_and_of_a_csv_file_and_is_no_formula(name: str) -> None:
    line = tables.as_markdown(_table(name)).splitlines()[-1]
    bare = line.replace("\\\\", "")
    assert bare.replace("\\|", "").count("|") == 4
    cell = bare.split("|")[1] if "\\|" not in bare else ""
    for mark in "<>`[*_~$&":
        assert cell.replace(f"\\{mark}", "").count(mark) == 0
    assert not any(ord(char) < 32 or char in "\u202e\u200b" for char in line)
    assert "http:" not in cell
    assert "www." not in cell
    rows = list(csv.reader(io.StringIO(tables.as_csv(_table(name)))))
    assert [len(row) for row in rows] == [3, 3]
    assert rows[1][0][0] not in "=+-@\t\r"
    assert rows[1][1:] == ["0.812", "-0.5"]


def test_a_csv_file_keeps_signed_numbers_and_leaves_absent_ones_empty() -> None:
    cells = tuple(Cell(text) for text in ("arm", "+0.012 to +0.05", "\u22121.5 mL", "\u2013", "-2+3+cmd|'x'!A0"))
    rows = list(csv.reader(io.StringIO(tables.as_csv(Table("t", "c", ("a", "b", "c", "d", "e"), (cells,))))))
    assert rows[1] == ["arm", "+0.012 to +0.05", "-1.5 mL", "", "'-2+3+cmd|'x'!A0"]


@fuzzed(300)
@given(st.text(max_size=30))
def test_latex_of_any_text_has_balanced_groups_and_no_character_that_needs_a_font(text: str) -> None:
    found = escaped(text)
    assert set(found) <= set(string.printable) - set("\n\r\t\x0b\x0c")
    bare = found
    for pair in ("\\{", "\\}", "\\$", "\\&", "\\#", "\\_", "\\%"):
        bare = bare.replace(pair, "")
    depth = 0
    for char in bare:
        depth += (char == "{") - (char == "}")
        assert depth >= 0
    assert depth == 0
    assert bare.count("$") % 2 == 0
    assert not set("#&%") & set(bare)
    assert not found.startswith(("[", "*"))


def test_accents_and_symbols_become_commands_and_other_letters_their_code_points() -> None:
    assert escaped("é ü Å ß ± \u2212") == r"\'{e} \"{u} \AA{} \ss{} $\pm$ $-$"
    assert escaped("瘤") == "{[}U+7624{]}"
    assert escaped("a--b ''") == "a-{}-b '{}'"


def test_tables_are_found_wherever_they_lie_each_id_once() -> None:
    @dataclass(frozen=True)
    class Holder:
        table: Table

    first, second = _table("a"), Table("u", "c", ("x",), ((Cell("1"),),))
    empty = Table("v", "c", ("x",), ())
    content: dict[str, Any] = {"one": [Holder(first), (second, "text")], "two": {"three": first}, "four": empty}
    assert [table.id for table in tables.collect(content)] == ["t-0", "u"]


def test_the_files_of_all_tables_name_the_packages_that_they_need(whole: Path) -> None:
    found = _all(whole)
    files = tables.files(found)
    assert set(files) >= {"tables.tex", "tables.md", "tables/scores-0.tex", "tables/scores-0.md", "tables/scores-0.csv"}
    assert len(files) == 2 + 3 * len(found)
    for name, text in files.items():
        if name.endswith(".tex"):
            assert text.startswith(r"% Needs \usepackage{array,booktabs")


def document(shown: Sequence[Table]) -> str:
    """A whole document of the tables, to look at them."""
    packages = "\n".join(f"\\usepackage{{{name}}}" for name in tables.PACKAGES)
    body = "\n".join(tables.as_latex(table) for table in shown)
    return (
        f"\\documentclass[a4paper]{{article}}\n\\usepackage[margin=25mm]{{geometry}}\n{packages}\n"
        f"\\begin{{document}}\n{body}\n\\clearpage\n\\end{{document}}\n"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_a_document_of_all_tables_compiles_with_hostile_names_in_them(tmp_path: Path) -> None:
    writer = RunWriter(patients=50, structures=("GTV|<&_$%#{}~^\\[x]*", "N \u202e\"`''--,,\nüß肿瘤"))
    found = [*_all(writer.write(tmp_path / "run")), _table(*HOSTILE)]
    (tmp_path / "all.tex").write_text(document(found), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    if shutil.which("pdftotext") is not None:
        text = subprocess.run(["pdftotext", "-layout", "all.pdf", "-"], cwd=tmp_path, capture_output=True, text=True)
        assert "litemedsam-fine-tuned.multimodal" in text.stdout
        assert "U+80BF" in text.stdout
        assert "<script>" in text.stdout
