from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import report_state
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from report_state import run
from scipy import stats

import results
from results import panels, report, sources, standing
from results.blocks import tables
from results.model import Cell
from results.provenance import grouped
from results.statistics import Column
from results.tidy import long
from transfer.record import Record, write_record
from transfer.runtime.errors import UserError


@dataclass
class Element:
    """A part of a page: what a browser would see of it."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, tag: str = "", **attributes: str) -> list[Element]:
        found = [self] if tag in ("", self.tag) and attributes.items() <= self.attributes.items() else []
        return found + [each for child in self.children for each in child.all(tag, **attributes)]

    def has(self, name: str) -> list[Element]:
        return [each for each in self.all() if name in each.attributes]

    @property
    def words(self) -> str:
        return self.text + "".join(child.words for child in self.children)


class _Reader(HTMLParser):
    EMPTY = ("meta", "link", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("page", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(made)
        if tag not in self.EMPTY:
            self.open.append(made)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(Element("", {}, data))


def read(path: Path) -> Element:
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert len(reader.open) == 1, "something is not closed"
    return reader.root


@dataclass(repr=False)
class Made:
    frame: pd.DataFrame
    page: Element
    text: str

    @cached_property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.page.all("script", id="data")[0].words)
        return found

    @property
    def headline(self) -> str:
        return self.page.all("p", **{"class": "say"})[0].words


Make = Callable[..., Made]
METHODS = ("MSBReg", "SwAV", "BYOL", "VICReg", "my-run", "supervised", "random")
TASKS = tuple(task for task in report_state.TASKS if task[0] in {
    "transfer.imagenet_linear", "transfer.voc07_svm", "detection.voc", "segmentation.coco_c4",
})  # fmt: skip


def write(folder: Path, records: list[Record], **options: Any) -> Made:
    for one in records:
        write_record(one, folder / "records", overwrite=True)
    frame = results.load(folder / "records")
    out = report.write(frame, folder / "report.html", **options)
    return Made(frame, read(out), out.read_text(encoding="utf-8"))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda *records, **options: write(tmp_path, list(records), **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Three tables, one by two engines; five checkpoints that compete and two baselines; a task that failed."""
    records = [
        one for one in report_state.runs(METHODS, 2, TASKS) if (one.task, one.label) != ("segmentation.coco_c4", "BYOL")
    ]
    records += [run("BYOL", seed, {}, "segmentation.coco_c4", "detectron2") for seed in range(2)]
    return write(tmp_path_factory.mktemp("report"), records)


def numbers(page: Element) -> Iterator[tuple[list[str], float]]:
    for cell in page.has("data-v"):
        yield cell.attributes["data-k"].split("|"), float(cell.attributes["data-v"])


# -- numbers


def test_every_number_is_the_mean_of_the_frame_bit_for_bit(whole: Made) -> None:
    means = whole.frame.groupby(["label", "task", "engine"]).mean(numeric_only=True)
    seen = 0
    for (label, task, metric), value in numbers(whole.page):
        assert value in list(means.loc[(label, task), f"metric.{metric}"]), (label, task, metric)
        seen += 1
    # the tables' cells, and the first metric of a task again in the overview: of COCO boxes and masks both
    assert seen == (sum(len(metrics) for *_, metrics in TASKS) * 7 - 6) + (6 * 7 - 2)


def test_every_number_is_of_the_runs_behind_it_and_they_are_of_one_engine_data_and_recipe(whole: Made) -> None:
    behind, runs = whole.data["behind"], whole.frame.set_index("id").to_dict("index")
    for cell in whole.page.has("data-v"):
        (button,) = cell.all("button")
        item = behind["cells"][int(button.attributes["data-c"])]
        own = [runs[behind["runs"][place]["id"]] for place in item["runs"]]
        label, task, metric = cell.attributes["data-k"].split("|")
        assert float(cell.attributes["data-v"]) == pd.Series([each[f"metric.{metric}"] for each in own]).mean()
        assert {(each["label"], each["task"]) for each in own} == {(label, task)} == {(item["row"], task)}
        assert len({tuple(each[name] for name in ("engine", "data_id", "recipe", "task_version")) for each in own}) == 1


def test_the_csv_buttons_hold_what_to_csv_writes(whole: Made) -> None:
    found = tables(whole.frame)
    texts = [whole.page.all("pre", id=f"csv{place}")[0].words for place in range(len(found.blocks))]
    head, _, lines = long(found).to_csv(index=False).partition("\n")
    assert all(text.startswith(head + "\n") for text in texts)
    assert "".join(text.partition("\n")[2] for text in texts) == lines


def test_published_numbers_stand_as_printed_without_mark_or_key(whole: Made) -> None:
    rows = [row for body in whole.page.all("tbody", **{"class": "published"}) for row in body.all("tr")]
    row = next(row for row in rows if row.words.strip().startswith("Barlow Twins"))
    assert [cell.words.strip() for cell in row.all("td")] == ["73.2", "91.0"]
    assert not [each for row in rows for each in (*row.has("data-v"), *row.all("button"), *row.all("b"), *row.all("u"))]


def test_colours_and_marks_fall_from_the_best(whole: Made) -> None:
    (matrix,) = whole.page.all("table", **{"class": "matrix"})
    rows = {row.all("bdi")[0].words: row for row in matrix.all("tr") if row.all("bdi")}
    assert list(rows) == ["MSBReg", "SwAV", "VICReg", "my-run", "BYOL", "supervised", "random"]
    linear = {name: row.all("button")[0].attributes["class"] for name, row in rows.items()}
    assert [linear[name] for name in ("MSBReg", "SwAV", "random")] == ["cell h0", "cell h1", "cell"]
    assert "failed" in rows["BYOL"].all("button")[3].attributes["class"]
    assert [cell.words for cell in rows["MSBReg"].all("td")][-1] == "1.0"
    assert "Not in the mean rank, too few of the tasks: BYOL." in whole.page.all("section", id="overview")[0].words
    assert {each["reason"] for each in whole.data["behind"]["runs"]} == {"", "OutOfMemory: no memory left"}


# -- the page


def test_it_needs_nothing_else_and_names_no_folder(whole: Made) -> None:
    links = [each.attributes[name] for name in ("src", "href") for each in whole.page.has(name)]
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"https?:", re.sub(r"http-equiv", "", whole.text))
    assert not re.search(r"@import|url\(", whole.text)
    assert not re.search(r"(/home/|/root/|/tmp/|/data/|/work/|file:)", whole.text)
    assert "…/MSBReg.pth" in whole.data["behind"]["shared"]["command"][0]


def test_all_numbers_can_be_read_without_the_script(whole: Made) -> None:
    """Matrix, tables, the first pair and plots are elements of the page; what needs the script says so by its class."""
    for name in ("overview", "compare", "tables", "tasks", "rank"):
        assert whole.page.all("section", id=name)[0].words.strip()
    assert len(whole.page.all("section", id="tasks")[0].all("circle")) > 6 * 7 * 2
    places = [each.attributes["id"] for each in whole.page.has("id")]
    assert len(places) == len(set(places))
    assert {link.attributes["href"].removeprefix("#") for link in whole.page.all("a")} <= set(places)


def test_every_cell_says_what_it_is(whole: Made) -> None:
    labels = [each.attributes["aria-label"] for each in whole.page.has("data-c")]
    assert all(re.search(r": (−?[\d.]+ ± [\d.]+, 2 seeds|failed)", label) for label in labels)
    assert any(label.endswith("best, beyond the noise of seeds") for label in labels)


HOSTILE = [
    "a & b_c",
    "<script>alert(1)</script>",
    "\u05e9\u05dc\u05d5\u05dd",
    '"><img src=x onerror=alert(1)>',
    "{{ 7*7 }}",
]


def test_hostile_labels_are_text(make: Make) -> None:
    values = [{"AP50": 70.0 - place} for place in range(len(HOSTILE))]
    made = make(
        *(
            run(label, seed, {name: value + seed for name, value in each.items()}, "detection.voc", "mmdet")
            for label, each in zip(HOSTILE, values, strict=True)
            for seed in range(2)
        )
    )
    assert len(made.page.all("script")) == 2
    assert not made.page.all("img")
    (matrix,) = made.page.all("table", **{"class": "matrix"})
    assert [each.words for each in matrix.all("bdi")] == HOSTILE
    assert {label for (label, *_), _ in numbers(made.page)} == set(HOSTILE)
    assert {item["row"] for item in made.data["behind"]["cells"]} == set(HOSTILE)


def test_broken_records_are_named(make: Make, tmp_path: Path) -> None:
    broken = tmp_path / "records" / "detection.voc" / "0123456789abcdef.json"
    broken.parent.mkdir(parents=True)
    broken.write_text('{"half": ', encoding="utf-8")
    made = make(*(run(label, seed, {"AP50": 60.0 + seed}, "detection.voc") for label in "AB" for seed in range(2)))
    assert "0123456789abcdef.json" in made.page.all("section", id="broken")[0].words
    assert "1 file is not in what is shown" in made.page.all("ul", **{"class": "cautions"})[0].words
    assert str(tmp_path) not in made.text


def test_code_that_no_commit_holds_is_said_on_the_page_and_in_what_is_copied(make: Make) -> None:
    made = make(*(run(x, s, {"AP50": 60.0 + s}, "detection.voc", git_dirty=True) for x in "AB" for s in range(2)))
    said = "4 of 4 runs were made by code that no commit holds."
    assert said in made.page.all("ul", **{"class": "cautions"})[0].words
    assert made.page.all("pre", id="latex0")[0].words.startswith("% 4 of these 4 runs were made by code")


def test_nothing_to_show_and_nowhere_to_write(make: Make, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    with pytest.raises(UserError, match="no record to report on"):
        make()
    write_record(run("A", 0, {"AP50": 60.0}, "detection.voc"), tmp_path / "records")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        report.write(results.load(tmp_path / "records"), tmp_path / "file" / "report.html")


@pytest.mark.slow
def test_three_hundred_runs_are_under_a_megabyte(make: Make) -> None:
    made = make(*report_state.runs())
    assert len(made.frame) == 300
    assert len(made.text.encode()) < 1_000_000


# -- the sentence


def seeds(label: str, mean: float, task: str = "detection.voc", noise: float = 0.1) -> list[Record]:
    return [run(label, seed, {"AP50": mean + noise * (seed - 1)}, task) for seed in range(3)]


def wobbling(label: str, mean: float, task: str = "detection.voc") -> list[Record]:
    """Seeds that move otherwise than those of `seeds`, so that a gap has noise."""
    return [run(label, seed, {"AP50": mean + off}, task) for seed, off in enumerate((0.1, -0.1, 0.05))]


VOC, FPN = "detection.voc", "detection.voc_fpn"


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([*seeds("A", 60), *wobbling("B", 50)],
         "A is better than B on the one task that both have, beyond the noise of seeds."),
        ([*seeds("A", 50), *wobbling("B", 50.01)],
         "Undecided: B cannot be told from A on the one task that both have."),
        (
            [*seeds("A", 60), *wobbling("B", 50), *seeds("A", 40, FPN), *wobbling("B", 50, FPN)],
            "A is better than B on 1 of 2 tasks and worse on 1, beyond the noise of seeds.",
        ),
        (
            [*seeds("A", 50), *wobbling("random", 50.01), *wobbling("supervised", 40)],
            "A cannot be told from random weights on the one task that both have, "
            "and is better than supervised on the one task that both have, beyond the noise of seeds.",
        ),
        ([*seeds("A", 60)[:1], *wobbling("B", 50)[:1]],
         "Nothing is known yet: no two checkpoints have two or more seeds in common on a task."),
        ([*seeds("A", 60), *seeds("B", 50)],  # the same gap with every seed: nothing is known of its noise
         "Nothing is known yet: no two checkpoints have two or more seeds in common on a task."),
    ],
)  # fmt: skip
def test_the_sentence_says_what_is_known_and_no_more(make: Make, records: list[Record], said: str) -> None:
    assert make(*records).headline == said


def test_of_the_real_records() -> None:
    """Three trainings on small data: no gap to random weights exceeds the noise, corrected for the tasks."""
    frame = results.load(Path(results.frame.ROOT) / "results" / "records")
    values = report.context(frame, trainings=True, pictures=False)
    assert "".join(text for text, _ in values["answer"]["said"]) == (
        "msbreg (3 trainings) cannot be told from random weights on any of 5 tasks, and is better than "
        "supervised (3 trainings) on the one task that both have, beyond the noise of seeds."
    )
    runs = frame[(frame["purpose"] == "") & (frame["engine"] == "mmdet") & frame["metric.AP50"].notna()]
    by = {
        label: runs[runs["label"] == label].groupby("seed")["metric.AP50"].mean() for label in ("msbreg", "supervised")
    }
    assert list(by["msbreg"].index) == [0, 1, 2]
    assert stats.ttest_rel(by["msbreg"], by["supervised"]).pvalue < 0.05


def test_two_checkpoints_are_the_paired_t_test_and_holm_over_the_tasks(make: Make) -> None:
    first = {VOC: [60.0, 60.9, 61.3], FPN: [50.0, 51.0, 50.2]}
    second = {VOC: [59.0, 59.6, 60.7], FPN: [49.0, 50.5, 49.7]}
    made = make(
        *(
            run(label, seed, {"AP50": value}, task)
            for label, tasks in (("A", first), ("B", second))
            for task, values in tasks.items()
            for seed, value in enumerate(values)
        )
    )
    (pair,) = made.data["pairs"].values()
    p = [stats.ttest_rel(first[task], second[task]).pvalue for task in (VOC, FPN)]
    for row, task in zip(pair["rows"], (VOC, FPN), strict=True):
        low, high = stats.ttest_rel(first[task], second[task]).confidence_interval()
        assert row[:3] == [round(low, 2), round(float(np.mean(first[task]) - np.mean(second[task])), 2), round(high, 2)]
    assert min(p) < 0.05 < 2 * min(p)  # one would count by itself, none does after the correction
    assert [row[3] for row in pair["rows"]] == [0, 0]
    assert pair["counts"] == [0, 2, 0, 0]
    assert pair["alone"] == sum(each < 0.05 for each in p)


# -- places


@given(st.lists(st.floats(-1e4, 1e4).map(lambda value: round(value, 4)), min_size=1, max_size=20), st.booleans())
def test_a_scale_holds_all_values_and_its_ticks(values: list[float], symmetric: bool) -> None:
    scale = panels.axis(values, symmetric=symmetric)
    places = [scale.place(value) for value in values] + [place for place, _ in scale.ticks]
    assert all(0 <= place <= 100 for place in places)
    order = sorted(range(len(values)), key=values.__getitem__)
    assert [scale.place(values[place]) for place in order] == sorted(scale.place(value) for value in values)
    assert len({text for _, text in scale.ticks}) == len(scale.ticks)
    if symmetric and any(values):
        assert scale.place(0.0) == 50


@given(st.lists(st.floats(0, 100), min_size=1, max_size=panels.LINES))
def test_labels_at_the_ends_of_curves_keep_their_order_and_distance(places: list[float]) -> None:
    moved = panels.apart(places)
    inside = [moved[place] for place in sorted(range(len(places)), key=places.__getitem__)]
    least = 100 * 15 / panels.TALL
    assert all(after - before >= least - 0.02 for before, after in itertools.pairwise(inside))
    assert max(moved) <= 100


def test_the_interval_of_a_mean_is_students_and_from_five_rows_that_of_the_column() -> None:
    values = {0: 60.0, 1: 61.0, 2: 60.4}
    cell = Cell("measured", float(np.mean(list(values.values()))), float(np.std(list(values.values()), ddof=1)), 3, 3)
    alone = panels.interval_of_mean(cell, Column({"A": values}), "A")
    expected = stats.t.interval(0.95, 2, cell.mean, stats.sem(list(values.values())))
    assert alone == pytest.approx(expected)
    draw = np.random.default_rng(3)
    rows = {name: {seed: 50 + draw.normal() for seed in range(3)} for name in "BCDEF"}
    column = Column({"A": values, **rows})
    pooled = panels.interval_of_mean(cell, column, "A")
    assert pooled is not None
    assert cell.mean is not None
    error = max(column.variance**0.5, float(cell.std or 0)) / 3**0.5
    assert pooled[1] - cell.mean == pytest.approx(stats.t.ppf(0.975, column.degrees) * error)
    assert panels.interval_of_mean(Cell("measured", 60.0, None, 1, 1), column, "A") is None


def test_groups_of_colour_are_those_not_told_from_their_highest() -> None:
    noise = {0: (0.0, 0.1, -0.1), 1: (0.1, -0.1, 0.0), 2: (-0.1, 0.0, 0.1)}
    rows = {name: {s: mean + noise[n % 3][s] for s in range(3)} for n, (name, mean) in enumerate(
        {"A": 60.0, "B": 60.02, "C": 50.0, "D": 50.02, "E": 40.0}.items())}  # fmt: skip
    assert standing.heats(Column(rows)) == {"A": 0, "B": 0, "C": 1, "D": 1, "E": 2}
    assert standing.heats(Column({"A": rows["A"]})) == {}


def test_differences_are_grouped_by_what_they_are_about() -> None:
    found = grouped(
        [("sgd.lr", "30", "0.1"), ("architecture", "resnet50", "resnet18"), ("data", "a", "b"),
         ("view.crop", "224", "64"), ("detector.precise_bn", "200", "0"), ("something", "x", "y")]
    )  # fmt: skip
    assert [(group, [what for what, _, _ in rows]) for group, rows in found] == [
        ("data", ["data"]), ("model", ["architecture", "precise bn"]), ("input", ["crop"]), ("training", ["lr"]),
        ("other", ["something"]),
    ]  # fmt: skip


# -- files beside the records


def test_curves_health_and_pictures_are_taken_in_where_they_are(make: Make, tmp_path: Path) -> None:
    records = [*seeds("A", 60), *wobbling("B", 50)]
    for one in records:
        folder = tmp_path / "work" / VOC / one.run_id
        folder.mkdir(parents=True)
        lines = [{"step": step, "loss": 3.0 / step, "lr": 0.1} for step in range(1, 400)]
        lines += [{"step": step, "test/AP50": 40.0 + step} for step in (200, 400)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        Image.new("RGB", (1500, 30), "red").save(folder / "contact_sheet.png")
    broken = tmp_path / "work" / VOC / records[3].run_id / "metrics.jsonl"
    broken.write_text("no curve\n", encoding="utf-8")
    health = tmp_path / "pretraining" / "run-7"
    health.mkdir(parents=True)
    rows = [{"step": step, "loss": 1.0, "effective_rank": 2.0 + step, "std": 0.5, "alignment": None} for step in (1, 2)]
    (health / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = make(*records, work=tmp_path / "work", pretraining=[tmp_path / "pretraining"])
    (curves,) = made.page.all("section", id="curves")
    assert [each.words for each in curves.all("figcaption")] == [
        "Training loss: Detection and segmentation, R50-C4, VOC07+12",
        "AP50 during training: Detection and segmentation, R50-C4, VOC07+12",
    ]  # fmt: skip
    loss, scores = curves.all("figure")
    assert [each.words for each in loss.all("bdi")] == ["A"]  # B's is no curve, and that is said
    assert "is not a line of a loss curve" in made.page.all("section", id="broken")[0].words
    assert 100 < loss.all("path")[-1].attributes["d"].count("L") < panels.POINTS
    assert len(scores.all("path")[-1].attributes["d"].split("L")) == 2
    (shown,) = made.page.all("section", id="pretraining")
    assert [each.words for each in shown.all("figcaption")] == [
        sources.HEALTH[name][0] for name in ("effective_rank", "std")
    ]
    assert [each.words for each in shown.all("bdi")] == ["run-7", "run-7"]
    pictures = [each.attributes for each in made.page.all("img")]
    assert [each["alt"] for each in pictures] == [
        f"{name}, Detection and segmentation, R50-C4, VOC07+12: ground truth beside detections" for name in "AB"
    ]
    assert all(each["src"].startswith("data:image/jpeg;base64,") for each in pictures)
    assert not make(*records, work=tmp_path / "work", pictures=False).page.all("img")
    with pytest.raises(UserError, match=r"no metrics\.jsonl"):
        make(*records, pretraining=[tmp_path / "records"])


def test_a_picture_that_is_none_is_named(make: Make, tmp_path: Path) -> None:
    records = [*seeds("A", 60), *wobbling("B", 50)]
    sheet = tmp_path / "work" / VOC / records[0].run_id / "contact_sheet.png"
    sheet.parent.mkdir(parents=True)
    sheet.write_bytes(b"no picture")
    made = make(*records, work=tmp_path / "work")
    assert "contact_sheet.png is not a picture" in made.page.all("section", id="broken")[0].words


@pytest.mark.slow  # imports torch
def test_the_floors_are_those_that_the_monitor_warns_at() -> None:
    from pretrain import health

    assert sources.HEALTH["std"][2] == health.STD_FLOOR
    assert sources.HEALTH["effective_rank"][2] == health.RANK_FLOOR
