"""The report in a real browser. Skips where there is no Chromium: `.ci/run` installs Debian's where it can."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import pytest
import report_state
from PIL import Image
from report_state import run

import results
from results import picture, report
from transfer.record import write_record

PROGRAM = picture.found()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: apt-get install chromium"),
]
METHODS = ("MSBReg", "SwAV", "BYOL", "VICReg", "a & b_c <script>", "\u05e9\u05dc\u05d5\u05dd", "supervised", "random")
LONG = "a checkpoint with a very long name and_a_word_without_any_space_that_is_longer_than_a_phone_is_wide"
THEMES = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])

# WCAG 2.1, 1.4.3: relative luminance and contrast ratio. Colours go through a canvas, which understands every notation.
CONTRAST = """
(() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const read = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((value) => value / 255)
      .map((value) => (value <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4));
    return .2126 * x + .7152 * y + .0722 * z;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = read(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return read(getComputedStyle(document.documentElement).colorScheme.includes("dark") ? "#111316" : "#fff");
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest("script, title") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [text, back] = [read(element.closest("svg") ? style.fill : style.color), behind(element)].map(luminance);
    const ratio = (Math.max(text, back) + .05) / (Math.min(text, back) + .05);
    found.push([ratio, node.data.trim().slice(0, 40), element.className.toString()]);
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def page() -> Iterator[chromium.Page]:
    assert PROGRAM is not None
    with chromium.browser(PROGRAM) as opened:
        yield opened


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of row, mark and section: hostile names, a long one, a failure, no proof, a broken record."""
    folder = tmp_path_factory.mktemp("chromium")
    records = [
        one for one in report_state.runs(METHODS, 2) if (one.task, one.label) != ("segmentation.coco_c4", "BYOL")
    ]
    records += [run("BYOL", seed, {}, "segmentation.coco_c4", "detectron2") for seed in range(2)]
    records += [
        run(LONG, seed, {"AP50": 61.0 + seed, "AP": 40.0}, "detection.voc", "mmdet", verification={})
        for seed in range(2)
    ]
    for one in records:
        write_record(one, folder / "records")
    (folder / "records" / "detection.voc" / "0123456789abcdef.json").write_text("{", encoding="utf-8")
    curve = "".join(f'{{"step": {step}, "loss": {1 / step}}}\n' for step in range(1, 9))
    health = "".join(f'{{"step": {step}, "effective_rank": {step}, "std": {step / 9}}}\n' for step in range(1, 9))
    for one in records[:2]:
        (folder / "work" / one.task / one.run_id).mkdir(parents=True)
        (folder / "work" / one.task / one.run_id / "metrics.jsonl").write_text(curve, encoding="utf-8")
    for name in ("healthy", LONG):
        (folder / "pretraining" / name).mkdir(parents=True)
        (folder / "pretraining" / name / "metrics.jsonl").write_text(health, encoding="utf-8")
    frame = results.load(folder / "records")
    return report.write(
        frame, folder / "report.html", work=folder / "work", pretraining=[folder / "pretraining"], pictures=False
    )


@pytest.fixture
def opened(page: chromium.Page, file: Path) -> Iterator[chromium.Page]:
    """The page in a wide window; whatever a test does, nothing is complained of and nothing else is asked for."""
    page.said.clear()
    page.requested.clear()
    page.show(file)
    yield page
    assert page.value("1 + 1") == 2
    assert page.said == []
    assert {address for address in page.requested if not address.startswith("data:")} == {file.as_uri()}


def test_the_test_hears_errors_and_requests(page: chromium.Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(
        '<img src="https://example.org/x.png"><script>console.log("said"); nothing()</script>', encoding="utf-8"
    )
    page.show(broken)
    assert "https://example.org/x.png" in page.requested
    assert any("said" in each for each in page.said)
    assert any("nothing is not defined" in each for each in page.said)


def test_its_picture_says_of_which_records_it_is(file: Path, tmp_path: Path) -> None:
    picture.take(file, tmp_path / "report.png", "0123", 390, 844)
    assert picture.records_in(tmp_path / "report.png") == "0123"
    with Image.open(tmp_path / "report.png") as taken:
        assert taken.size == (390, 844)
        assert len(taken.convert("RGB").getcolors(1 << 20) or ()) > 10


def test_all_numbers_arrive(opened: chromium.Page, file: Path) -> None:
    """As the browser reads them, bit for bit: each is the mean of the runs that its button leads to."""
    frame = results.load(file.parent / "records")
    found = opened.value("""
        (() => { const { cells, runs } = JSON.parse(document.getElementById("data").textContent).behind;
          return [...document.querySelectorAll("[data-v]")].map((cell) => [cell.dataset.k, Number(cell.dataset.v),
            cells[cell.querySelector("button").dataset.c].runs.map((place) => runs[place].id)]); })()""")
    assert len(found) > 200
    values = frame.set_index("id")
    means: dict[Any, float] = {}
    for key, value, runs in found:
        label, task, metric = key.split("|")
        place = (metric, *runs)
        means[place] = means.get(place) or values.loc[runs, f"metric.{metric}"].mean()
        assert value == means[place]
        assert set(values.loc[runs, "label"]) == {label}
        assert set(values.loc[runs, "task"]) == {task}


def test_the_keyboard_reaches_every_number_and_what_is_behind_it(opened: chromium.Page) -> None:
    total = opened.value("document.querySelectorAll('.cell').length")
    opened.value("window.reached = new Set()")
    for _ in range(total + 200):
        opened.press("Tab")
        if opened.value("(reached.add(document.activeElement), document.activeElement === document.body)"):
            break
    assert opened.value("[...document.querySelectorAll('.cell')].filter((cell) => !reached.has(cell)).length") == 0
    assert opened.value("[...document.querySelectorAll('button, a, select')].filter((each) => "
                        "!reached.has(each) && each.checkVisibility()).length") == 0  # fmt: skip

    opened.value("document.querySelector('.paper .cell').focus()")
    opened.press("ArrowRight")
    opened.press("ArrowDown")
    label = opened.value("document.activeElement.getAttribute('aria-label')")
    assert label.startswith("SwAV, Linear top-5: ")
    opened.press("Enter")
    assert opened.value("document.querySelector('dialog').open")
    behind = opened.value("document.querySelector('dialog').innerText")
    for said in ("SwAV", "Seeds", "python -m transfer reproduce", "Against the protocol moco", "sha256",
                 "100 of 100 tensors", "torch 2.11.0", "cccccccccccc", "AVX2"):  # fmt: skip
        assert said in behind, said
    opened.press("Escape")
    assert not opened.value("document.querySelector('dialog').open")
    assert opened.value("document.activeElement.getAttribute('aria-label')") == label


def test_a_failed_cell_gives_its_reason_and_unproven_weights_say_so(opened: chromium.Page) -> None:
    opened.value("document.querySelector('.paper .cell.failed').click()")
    assert "OutOfMemory: no memory left" in opened.value("document.querySelector('dialog').innerText")
    opened.press("Escape")
    opened.value(
        "[...document.querySelectorAll('.cell')].find((cell) => cell.ariaLabel.startsWith('a checkpoint')).click()"
    )
    assert "no proof in the record" in opened.value("document.querySelector('dialog').innerText")


def test_any_two_can_be_compared(opened: chromium.Page) -> None:
    pairs = opened.value("JSON.parse(document.getElementById('data').textContent).pairs")
    names = opened.value(
        "[...document.querySelectorAll('#a option')].map((option) => [option.value, option.textContent])"
    )
    first, last = names[0], names[-1]
    shown = "[...document.querySelectorAll('#gaps tbody tr')].map((row) => [row.className, row.cells[2].textContent, " \
            "parseFloat(row.querySelector('circle').getAttribute('cx'))])"  # fmt: skip
    before = opened.value(shown)
    change = (
        "document.querySelector('#b').value = '{}'; document.querySelector('#b').dispatchEvent(new Event('change'))"
    )
    opened.value(change.format(last[0]))
    rows = opened.value(shown)
    expected = pairs[f"{first[0]}-{last[0]}"]
    assert rows != before
    for (_, text, place), row in zip(rows, expected["rows"], strict=True):
        low, gap, high = row[:3]
        assert text == f"{gap:+.2f} [{low:.2f}, {high:.2f}]".replace("-", "−")
        assert place == row[5][1]
    assert f"better on {expected['counts'][0]}" in opened.value("document.querySelector('#verdict').textContent")
    opened.value("document.querySelector('#swap').click()")
    for (kind, text, place), row in zip(opened.value(shown), expected["rows"], strict=True):
        low, gap, high = row[:3]
        assert text == f"{-gap:+.2f} [{-high:.2f}, {-low:.2f}]".replace("-", "−")
        assert place == pytest.approx(100 - row[5][1])
        assert kind == ("" if not row[3] else "down" if gap > 0 else "up")
    assert f"worse on {expected['counts'][0]}" in opened.value("document.querySelector('#verdict').textContent")


def test_the_first_pair_is_the_same_with_and_without_the_script(opened: chromium.Page) -> None:
    look = "document.querySelector('#gaps').innerText + document.querySelector('#verdict').innerText"
    before = opened.value(look)
    opened.value("document.querySelector('#a').dispatchEvent(new Event('change'))")
    assert opened.value(look) == before


def test_tables_are_sorted_and_sorted_back(opened: chromium.Page) -> None:
    names = "[...document.querySelectorAll('.paper')[0].tBodies[0].rows].map((row) => row.cells[0].innerText)"
    before = opened.value(names)
    button = "document.querySelectorAll('.paper .sort')[0]"
    opened.value(f"{button}.click()")
    assert opened.value(f"{button}.parentElement.ariaSort") == "descending"
    assert opened.value(names) == before
    opened.value(f"{button}.click()")
    assert opened.value(f"{button}.parentElement.ariaSort") == "ascending"
    assert opened.value(names) == before[::-1]


def test_what_is_copied_is_what_stands_there(opened: chromium.Page) -> None:
    stands_in = "{ value: { writeText: async (text) => { window.copied = text; } } }"
    opened.value(f"Object.defineProperty(navigator, 'clipboard', {stands_in})")
    for name in ("latex0", "csv0"):
        opened.value(f"document.querySelector('button[data-copy={name}]').click()")
        assert opened.value("copied") == opened.value(f"document.querySelector('#{name}').textContent")
    assert opened.value("document.querySelector('#copied').textContent") == "CSV copied"


def test_where_copying_is_not_allowed_the_text_is_shown_and_selected(opened: chromium.Page) -> None:
    opened.value("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    opened.value("document.querySelector('button[data-copy=csv0]').click()")
    assert opened.value("getSelection().toString()").startswith("block,task,")
    assert opened.value("document.querySelector('#csv0').checkVisibility()")


@THEMES
@pytest.mark.parametrize("width", [1440, 390])
def test_text_can_be_read(opened: chromium.Page, file: Path, dark: bool, width: int) -> None:
    opened.show(file, width=width, dark=dark)
    opened.value("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    found = opened.value(CONTRAST)
    opened.value("document.querySelector('.cell').click()")
    found += opened.value(CONTRAST)
    assert len(found) > 500
    assert min(found)[0] >= 4.5, sorted(found)[:5]


def test_the_button_turns_the_page_dark_and_back(opened: chromium.Page) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = opened.value(colour)
    opened.value("document.querySelector('.theme').click()")
    assert opened.value(colour) != light
    assert opened.value("document.querySelector('.theme').ariaPressed") == "true"
    opened.value("document.querySelector('.theme').click()")
    assert opened.value(colour) == light


def test_nothing_scrolls_the_page_sideways_on_a_phone(opened: chromium.Page, file: Path) -> None:
    opened.show(file, width=390, height=844)
    size = "[document.documentElement.scrollWidth, innerWidth]"
    assert opened.value(size) == [390, 390]
    shown = "[...document.querySelectorAll('.cell, .button, nav a')].filter((each) => each.checkVisibility())"
    assert opened.value(f"{shown}.filter((each) => each.getBoundingClientRect().height < 36).length") == 0
    opened.value(
        "[...document.querySelectorAll('.cell')].find((cell) => cell.ariaLabel.startsWith('a checkpoint')).click()"
    )
    assert opened.value(size) == [390, 390]
    assert opened.value("document.querySelector('dialog').scrollWidth <= 390")


def test_without_scripts_numbers_and_plots_are_there(opened: chromium.Page, file: Path) -> None:
    shown = "['[data-v]', '.strip circle', '.panel path', '.js'].map((selector) => " \
            "[...document.querySelectorAll(selector)].filter((each) => each.checkVisibility()).length)"  # fmt: skip
    before = opened.value(shown)
    opened.show(file, scripts=False)
    after = opened.value(shown)
    assert after[:3] == before[:3]
    assert min(after[:3]) > 10
    assert (before[3] > 5, after[3]) == (True, 0)
    opened.show(file)
