"""Blocks as LaTeX (booktabs) and as HTML tables, both by pandas' Styler."""

from __future__ import annotations

import html as markup
import re
import unicodedata
from collections.abc import Sequence

import pandas as pd

from results.model import Block, Cell, Row, Tables
from results.render import MINUS, Parts, all_parts
from transfer.runtime.errors import printable

PREAMBLE = (
    "% \\usepackage{booktabs,xcolor}",
    "\\providecommand{\\std}[1]{\\,{\\scriptsize$\\pm$#1}}\\providecommand{\\tie}{\\rlap{\\scriptsize$\\,\\approx$}}",
)
_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "–": "--", "—": "---", "…": r"\ldots{}",
    "×": r"$\times$", "±": r"$\pm$", "≈": r"$\approx$", "†": r"\dag{}", "→": r"$\rightarrow$", MINUS: "$-$",
    "·": r"$\cdot$", "’": "'", "‘": "`", "“": "``", "”": "''", "\u00a0": "~",
}  # fmt: skip


def escape(text: str) -> str:
    """Plain text for LaTeX. Letters that pdflatex has none for stand as their code points: nothing else compiles."""
    return "".join(_letter(letter) for letter in printable(text))


def _letter(letter: str) -> str:
    if letter in _SPECIAL:
        return _SPECIAL[letter]
    if letter.isascii():
        return letter
    base = unicodedata.normalize("NFD", letter)
    latin = (
        base[0].isascii()
        and base[0].isalpha()
        and len(base) == 2
        and base[1] in "\u0300\u0301\u0302\u0303\u0308\u030a\u0327\u030c"
    )
    return letter if latin else f"\\texttt{{U+{ord(letter):04X}}}"


def latex(tables: Tables) -> str:
    """One `table` environment a block, for booktabs and xcolor; the preamble's two macros stand before the first."""
    said = [_block_latex(block) for block in tables.blocks]
    hidden = f"% {escape(tables.hidden_line)}\n" if tables.hidden_line else ""
    return "\n".join(PREAMBLE) + "\n" + "\n".join(said) + hidden


def _block_latex(block: Block) -> str:
    heads = [_head(head.name) for head in block.columns]
    groups = [escape(head.group) for head in block.columns]
    grouped = any(groups)
    columns: pd.Index = pd.MultiIndex.from_arrays([groups, heads]) if grouped else pd.Index(heads)
    order = [*block.of("competitor", "other recipe"), *block.of("baseline"), *block.of("published")]
    cells = [
        [_cell_latex(cell, parts) for cell, parts in zip(row.cells, all_parts(block, row), strict=True)]
        for row in order
    ]
    names = [_name_latex(row) for row in order]
    styler = pd.DataFrame(cells, index=names, columns=columns).style
    columns_format = "@{}l" + "r" * len(heads) + "@{}"
    written = styler.to_latex(
        hrules=True, column_format=columns_format, multicol_align="c", position="t", position_float="centering",
        caption=_caption(block), label=f"tab:{block.key}",
    )  # fmt: skip
    lines = written.replace("\\centering\n", "\\centering\\small\n", 1).splitlines()
    lines.insert(lines.index(f"\\label{{tab:{block.key}}}") + 1, "\\smallskip")
    return "\n".join(_with_rules(lines, block, groups, len(order))) + "\n"


def _with_rules(lines: Sequence[str], block: Block, groups: Sequence[str], count: int) -> list[str]:
    """Styler's lines with rules under the groups, space above baselines and a rule above published rows."""
    middle = lines.index("\\midrule")
    head, body, end = (
        list(lines[: middle + 1]),
        list(lines[middle + 1 : middle + 1 + count]),
        lines[middle + 1 + count :],
    )
    top = head.index("\\toprule")
    if any(groups):
        rules, start = [], 0
        for place in range(1, len(groups) + 1):
            if place == len(groups) or groups[place] != groups[start]:
                rules += [f"\\cmidrule(lr){{{start + 2}-{place + 1}}}"] * bool(groups[start])
                start = place
        head.insert(top + 2, " ".join(rules))
        top += 2
    head[top + 1] = "Checkpoint " + head[top + 1].lstrip(" ")
    first = len(block.of("competitor", "other recipe"))
    scale = len(block.of("baseline"))
    made = body[:first]
    made += ["\\addlinespace"] * bool(scale and first) + body[first : first + scale]
    made += ["\\midrule"] * bool(count > first + scale) + body[first + scale :]
    return [*head, *made, *end]


def _head(name: str) -> str:
    return re.sub(r"AP(50|75)$", r"AP$_{\1}$", escape(name))


def _name_latex(row: Row) -> str:
    name = escape(row.name)
    name += "\\textsuperscript{?}" * row.unproven + "\\textsuperscript{\\dag}" * row.differs
    return f"\\textcolor{{gray}}{{{name}}}" if row.kind == "published" else name


def _cell_latex(cell: Cell, parts: Parts) -> str:
    mean = {"–": "--", "×": "$\\times$"}.get(parts.mean, parts.mean.replace(MINUS, "$-$"))
    if cell.state == "published":
        return f"\\textcolor{{gray}}{{{escape(parts.mean)}}}"
    mean = {"*": f"\\textbf{{{mean}}}", "+": f"\\underline{{{mean}}}"}.get(cell.mark, mean)
    return mean + (f"\\std{{{parts.std}}}" if parts.std else "") + ("\\tie" if cell.mark == "≈" else "")


def _caption(block: Block) -> str:
    counts = sorted({cell.n for row in block.rows for cell in row.cells if cell.state == "measured"})
    said = [f"{escape(block.title)}."]
    if counts:
        seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]}--{counts[-1]}"
        mean = "Mean\\,{\\scriptsize$\\pm$standard deviation}" if counts[-1] > 1 else "Single runs"
        said.append(f"{mean} over {seeds} seed{'' if counts == [1] else 's'}, {escape(block.setting)}.")
    marks = dict(block.legend)
    if "*" in marks:
        second = " and \\underline{second}" if "+" in marks else ""
        said.append(f"\\textbf{{Best}}{second} only where the gap exceeds the noise between seeds (Holm, 5\\,\\%).")
    said += ["$\\approx$: not told from the best."] if "≈" in marks else []
    said += [f"Grey: published ({escape(block.published)})."] if block.published else []
    said += [f"{escape(note)}." for note in block.notes]
    return " ".join(said)


# -- HTML


def html(tables: Tables) -> str:
    """One `<table>` a block, with its title, sentence and legend; no style, no script."""
    said = [_block_html(block) for block in tables.blocks]
    return "\n".join([*said, *([f"<p>{_safe(tables.hidden_line)}</p>"] if tables.hidden_line else [])]) + "\n"


def _block_html(block: Block) -> str:
    names = [f"<bdi>{_safe(row.name)}</bdi>{'?' * row.unproven}{'†' * row.differs}" for row in block.rows]
    columns = pd.MultiIndex.from_tuples([(_safe(head.group), _safe(head.name)) for head in block.columns])
    cells = [
        [_cell_html(cell, parts) for cell, parts in zip(row.cells, all_parts(block, row), strict=True)]
        for row in block.rows
    ]
    styler = pd.DataFrame(cells, index=names, columns=columns).style
    table = styler.set_uuid(block.key).set_caption(_safe(block.title)).to_html(exclude_styles=True)
    legend = " · ".join(f"{_safe(mark)} {_safe(meaning)}" for mark, meaning in block.legend)
    facts = [
        *[block.setting] * bool(block.setting),
        *([f"Published: {block.published}"] if block.published else []),
        *block.notes,
    ]
    return f"<p>{_safe(block.sentence)}</p>\n{table}<p>{'. '.join(map(_safe, facts))}.<br>{legend}</p>"


def _safe(text: str) -> str:
    return markup.escape(printable(text))


def _cell_html(cell: Cell, parts: Parts) -> str:
    mean = _safe(parts.mean)
    mean = {"*": f"<b>{mean}</b>", "+": f"<u>{mean}</u>"}.get(cell.mark, mean)
    if cell.state == "published":
        mean = f"<i>{mean}</i>"
    return mean + (f" ± {parts.std}" if parts.std else "") + (f" {parts.count}" if parts.count else "") + (
        " ≈" if cell.mark == "≈" else ""
    )  # fmt: skip
