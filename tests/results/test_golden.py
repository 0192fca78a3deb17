"""Tables of a fixed set of records with every mark, in every form; and what no form may let through."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import golden_state
import pandas as pd
import pytest

from results import render
from results.model import Tables


@pytest.fixture(scope="module")
def tables() -> Tables:
    return golden_state.tables()


def test_every_form_is_as_kept(tables: Tables) -> None:
    for name, text in golden_state.forms(tables).items():
        assert text == (golden_state.GOLDEN / name).read_text(encoding="utf-8"), name


def test_every_mark_occurs(tables: Tables) -> None:
    legend = {mark for block in tables.blocks for mark, _ in block.legend}
    assert legend == {"*", "+", "≈", "(n)", "(2/3)", "(1)", "–", "×", "?", "†"}


@pytest.mark.parametrize("columns", [52, 80, 120])
def test_no_line_is_wider_than_the_terminal(tables: Tables, columns: int) -> None:
    lines = render.text(tables, columns).splitlines()
    tight = [line for line in lines if not line.startswith("python -m") and "not shown" not in line]
    assert max(map(render.width, tight)) <= columns


def test_colour_changes_nothing_but_colour(tables: Tables) -> None:
    coloured = render.text(tables, colour=True)
    assert "\x1b[1m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == render.text(tables)


def test_latex_is_balanced_and_every_row_as_wide(tables: Tables) -> None:
    text = golden_state.forms(tables)["paper.tex"]
    for table in text.split("\\begin{table}")[1:]:
        plain = table.replace("\\{", "").replace("\\}", "")
        assert plain.count("{") == plain.count("}")
        body = table.partition("\\toprule")[2].partition("\\bottomrule")[0]
        rows = [line for line in body.splitlines() if line.endswith("\\\\")]
        spans = [sum(int(n) - 1 for n in re.findall(r"multicolumn\{(\d)\}", row)) for row in rows]
        assert len({len(re.findall(r"(?<!\\)&", row)) + more for row, more in zip(rows, spans, strict=True)}) == 1


def test_labels_are_text_in_every_form(tables: Tables) -> None:
    forms = golden_state.forms(tables)
    assert "Barlow \\& \\textless{}i\\textgreater{}" in forms["paper.tex"]
    assert "my\\_run" in forms["paper.tex"]
    assert forms["paper.tex"].isascii()
    assert "<i>Twins" not in forms["paper.html"] + forms["paper.md"].replace("\\<i\\>", "")
    assert "<bdi>שלום</bdi>" in forms["paper.html"]
    assert "\u2068שלום\u2069" in forms["paper.md"]
    assert "שלום" in forms["long.csv"]

    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: set[str] = set()

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.found.add(tag)

    tags = Tags()
    tags.feed(forms["paper.html"])
    assert tags.found <= {"p", "br", "table", "caption", "thead", "tbody", "tr", "th", "td", "b", "u", "i", "bdi"}


def test_csv_is_in_full_precision(tables: Tables) -> None:
    frame = pd.read_csv(StringIO(golden_state.forms(tables)["long.csv"]))
    cells = [
        cell.mean
        for block in tables.blocks for row in block.rows for cell in row.cells if cell.state == "measured"
    ]  # fmt: skip
    assert list(frame.loc[(frame["kind"] != "published") & frame["mean"].notna(), "mean"]) == cells


def test_numbers_are_rounded_as_people_do() -> None:
    assert [render.number(value, 1) for value in (41.25, -0.04, -1.06, 0.0)] == ["41.2", "0.0", "−1.1", "0.0"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex: apt-get install texlive-latex-recommended")
def test_latex_compiles(tables: Tables, tmp_path: Path) -> None:
    forms = golden_state.forms(tables)
    awkward = "".join(map(chr, range(32, 127))) + "é ü ç ± ≈ † → · – × … 中 שלום \u202e \x1b"
    from results.latex import escape

    document = (
        "\\documentclass{article}\n\\usepackage[utf8]{inputenc}\n\\usepackage[T1]{fontenc}\n"
        "\\usepackage{booktabs,xcolor}\n\\begin{document}\n"
        + forms["paper.tex"] + "\n" + escape(awkward) + "\n\\end{document}\n"
    )  # fmt: skip
    (tmp_path / "tables.tex").write_text(document, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"],
        cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "tables.pdf").stat().st_size > 10_000
