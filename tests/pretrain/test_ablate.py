"""`python -m pretrain ablate`: which runs a grid has, that it goes on where it was, and what it reports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pretrain import ablate
from pretrain.__main__ import main
from pretrain.ablate import Ablation, Grid, GridCell, read_rows, recipe_of, settings_of
from pretrain.ablation_report import draw_curves, mean_difference, over_seeds, report
from pretrain.forces import Forces
from pretrain.methods import find_method
from pretrain.presets import method_names
from pretrain.recipe import Recipe
from pretrain.views import Views
from transfer.runtime.errors import TrainingError, UserError

ROWS = [
    {"seed": seed, "singular": s, "knn": knn, "linear": knn + 1, "name": f"{s}-{seed}", "effective_rank": 9.0}
    for seed, s, knn in ((0, 0.0, 30.0), (0, 0.004, 33.0), (1, 0.0, 31.0), (1, 0.004, 36.0), (2, 0.004, 50.0))
]


def row(**values: object) -> dict[str, object]:
    plain = {"method": "msbreg", "views": 2, "batch": 128, "dimensions": 128, "singular_form": "nuclear"}
    return {**plain, "brownian": 0.0, "brownian_per": "view", "centroid": "others", **values}


def test_the_grid_of_the_paper_each_run_once() -> None:
    grid = Grid(studies=("singular", "compare", "brownian"), views=(2, 4), singular=(0.0, 0.004), brownian=(0.0, 0.5))
    cells = grid.cells(batch=64, dimensions=32)
    assert len(cells) == len(set(cells)) == len({cell.name for cell in cells})
    for seed in (0, 1, 2):
        ours = {(c.views, c.singular, c.brownian, c.brownian_per) for c in cells if c.seed == seed and c.views > 1}
        both = {(k, s, b, "view") for k in (2, 4) for s in (0.0, 0.004) for b in (0.0, 0.5)}
        assert ours == both | {(k, 0.0, 0.5, "image") for k in (2, 4)}
    assert sum(cell.method == "random" for cell in cells) == 3
    everything = Grid(studies=("singular", "covariance", "brownian", "scale", "centroid", "compare", "methods"))
    cells = everything.cells(256, 256)
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.method for cell in cells} <= {*method_names(), "random"}


def test_one_factor_at_a_time() -> None:
    grid = Grid(studies=("both", "factors"), seeds=(3,), weights=(0.004, 0.5))
    cells = [cell for cell in grid.cells(128, 64) if cell.method != "random"]
    byol, ours = (
        GridCell(batch=128, dimensions=64, seed=3),
        GridCell("msbreg", 2, 0.004, batch=128, dimensions=64, seed=3),
    )
    ours = replace(ours, brownian=0.5)
    assert cells[:2] == [byol, ours]
    changed = [{k for k in asdict(ours) if getattr(cell, k) != getattr(ours, k)} for cell in cells[2:]]
    assert changed == [{"singular"}] * 2 + [{"brownian"}, {"brownian_per"}, {"centroid"}, {"centroid"}, {"views"}]
    assert [cell.singular for cell in cells[2:4]] == [0.016, 0.032]


def test_every_run_forwards_equally_many_views() -> None:
    command = Ablation(Path("a"), Path("b"), Path("c"), grid=Grid(budget=96_000), recipe=Recipe(warmup_steps=20))
    for views in (2, 4, 8):
        for batch in (32, 128):
            cell = GridCell(views=views, batch=batch)
            recipe = recipe_of(command, cell)
            assert recipe.steps * recipe.batch * views == pytest.approx(96_000, rel=0.01)
            assert recipe.warmup_steps <= max(1, recipe.steps // 5)


def test_a_cell_reaches_the_settings() -> None:
    command = Ablation(Path("a"), Path("b"), Path("c"), hidden=77, ema=0.5)
    cell = GridCell("msbreg", 8, 0.01, "covariance", 0.25, "image", "pair", 64, 32, 3)
    settings = settings_of(command, cell)
    assert (settings.views, settings.centroid, settings.hidden, settings.dimensions) == (8, "pair", 77, 32)
    assert settings.forces == Forces(0.01, 0.25, "covariance", "image")
    assert (settings.ema, recipe_of(command, cell).seed) == (0.5, 3)
    for name in method_names():
        forces = settings_of(command, replace(cell, method=name, views=2)).forces
        assert forces == settings.forces


def test_gains_are_paired_by_seed() -> None:
    frame = pd.DataFrame([row(**values) for values in ROWS])
    setting = ("msbreg", 2, 128, 128, 0.004, "nuclear", 0.0, "view", "others")
    assert mean_difference(frame, setting) == "+4.00 ± 1.00"  # 3 and 5; seed 2 has no partner
    table = over_seeds(frame).set_index("singular")
    assert table.loc[0.0, "knn_mean"] == pytest.approx(30.5)
    assert table.loc[0.0, "knn_std"] == pytest.approx(0.5**0.5)
    assert table.loc[0.004, "seeds"] == 3
    assert table.loc[0.0, "gain"] == ""


def test_report_of_few_and_of_many_runs(tmp_path: Path) -> None:
    for rows in ([row(**ROWS[0])], [row(**values) for values in ROWS]):
        csv, markdown, figure = report(rows, tmp_path)
        assert len(pd.read_csv(csv)) == len(rows)
        assert "kNN accuracy" in markdown.read_text(encoding="utf-8")
        with Image.open(figure) as picture:
            assert picture.size[0] > 1000


def test_curves_of_the_trainings_are_drawn_where_they_lie(tmp_path: Path) -> None:
    rows = [row(**values) for values in ROWS]
    for each in rows[1:]:  # the first has none
        lines = [{"step": step, "loss": 1 / step, "effective_rank": 8.0 + step} for step in (1, 2, 3)]
        curve = tmp_path / each["name"] / "metrics.jsonl"
        curve.parent.mkdir()
        curve.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"step": 3, "knn": 30.0}]), "utf-8")
    *_, figure = report(rows, tmp_path)
    assert figure.name == "curves.png"
    with Image.open(figure) as picture:
        assert picture.size[0] > 1000
    drawn = draw_curves(pd.DataFrame(rows), {each["name"]: [] for each in rows})
    assert [text.get_text() for text in drawn.axes[2].get_yticklabels()][:2] == ["no forces", "λ_s 0.004"]


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    for split, count in (("train", 12), ("test", 6)):
        for index in range(count):
            path = tmp_path / split / f"class{index % 2}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            colour = np.array([250, 10, 10] if index % 2 else [10, 10, 250])
            noise = np.random.default_rng(index).integers(-9, 9, (32, 32, 3))
            Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8)).save(path)
    return tmp_path


@pytest.mark.slow
def test_a_grid_runs_goes_on_and_reports(
    sets: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    out = sets / "out"
    command = ["ablate", str(sets / "train"), "--probe-train", str(sets / "train"), "--probe-test", str(sets / "test")]
    command += ["--out", str(out), "--studies", "compare", "--views", "2", "--seeds", "0", "--budget", "16"]
    command += ["--batch", "4", "--dimensions", "4", "--hidden", "8", "--device", "cpu", "--jobs", "2"]
    command += ["--arch", "resnet18_quarter"]
    assert main(command) == 0
    assert [Path(line).name for line in capsys.readouterr().out.split()] == [
        "table.csv",
        "table.md",
        "figure.png",
        "curves.png",
    ]
    rows = read_rows(out)
    assert len(rows) == 5
    assert all(found["linear"] == 100 for found in rows)  # red and blue
    assert {found["forwarded_views"] for found in rows} == {0, 16}
    assert not list(out.glob("*/checkpoint.pth"))
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*/row.json")}
    gone, other, *_ = stamps
    gone.unlink()
    content = json.loads(other.read_text(encoding="utf-8"))
    assert content["conditions"]["threads"] == 1  # not a share of this machine's cores
    content["conditions"]["threads"] = 2
    other.write_text(json.dumps(content), encoding="utf-8")
    stamps[other] = other.stat().st_mtime_ns
    before = json.dumps(rows, sort_keys=True)
    assert main(command) == 0
    assert f"{other.parent.name} is finished, compared with which the number of CPU threads was 2" in caplog.text
    again = read_rows(out)
    for found in (*rows, *again):
        found.pop("seconds")
    assert json.dumps(again, sort_keys=True) == json.dumps(rows, sort_keys=True) != before
    assert {path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp} == {gone}
    with pytest.raises(TrainingError, match="other settings") as caught:
        main([*command, "--lr", "0.05", "--debug"])
    assert "recipe.lr: 0.1 in the row, 0.05 now" in caught.value.found


@pytest.mark.slow
def test_an_interrupt_ends_the_grid_at_once(sets: Path) -> None:
    out = sets / "out"
    command = [sys.executable, "-m", "pretrain", "ablate", str(sets / "train"), "--out", str(out)]
    command += ["--probe-train", str(sets / "train"), "--probe-test", str(sets / "test"), "--views", "2"]
    command += ["--batch", "4", "--dimensions", "4", "--hidden", "8", "--device", "cpu", "--budget", "80"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not list(out.glob("*/row.json")):
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "type the same command again" in error
    assert len(list(out.glob("*/row.json"))) <= 4  # of more than a hundred


def test_a_failing_run_is_named_after_the_others_are_done(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = Ablation(sets / "train", sets / "train", sets / "test", out=sets / "out", debug=True)
    cells = [GridCell(seed=0), GridCell(seed=1)]

    class Now:
        """Runs at once, in this process."""

        def __init__(self, *_: object, **__: object) -> None: ...
        def shutdown(self, wait: bool) -> None: ...
        def submit(self, _: object, __: object, cell: GridCell, ___: object) -> object:
            from concurrent.futures import Future

            future: Future[dict[str, float]] = Future()
            if cell.seed == 0:
                future.set_exception(TrainingError("the loss is nan at step 3"))
            else:
                future.set_result({"knn": 1.0, "linear": 2.0})
            return future

    monkeypatch.setattr(ablate, "ProcessPoolExecutor", Now)
    assert ablate._run_all(command, cells, {}) == ["msbreg-k2-n256-d256-seed0: the loss is nan at step 3"]


@pytest.mark.parametrize("options", [["--jobs", "0"], ["--budget", "0"], ["--steps", "5"], ["--seed", "3"]])
def test_options_that_would_be_ignored_are_refused(sets: Path, options: list[str]) -> None:
    usual = [str(sets / "train"), "--probe-train", str(sets / "train"), "--probe-test", str(sets / "test")]
    with pytest.raises(UserError, match=options[0]):
        ablate.main([*usual, *options, "--out", str(sets / "out")])


def test_every_cell_of_the_default_grid_can_be_built() -> None:
    command = Ablation(Path("a"), Path("b"), Path("c"))
    studies = ("singular", "covariance", "brownian", "scale", "centroid", "compare", "methods")
    kinds = {replace(cell, seed=0) for cell in Grid(studies=studies).cells(256, 256) if cell.method != "random"}
    with torch.device("meta"):
        for method in {cell.method for cell in kinds}:
            cell = next(cell for cell in kinds if cell.method == method)
            find_method(method).build(recipe_of(command, cell).network(), settings_of(command, cell))
    for cell in kinds:
        recipe, settings = recipe_of(command, cell), settings_of(command, cell)
        recipe.check(images=50_000)
        views = Views.of(recipe, settings)
        assert len(views.kinds()) == cell.views  # no small views: the budget counts all
        wide = {getattr(settings, name) for name in ("dimensions", "width") if hasattr(settings, name)}
        assert wide == {64} if cell.method == "wmse" else cell.dimensions in wide or cell.method in ("mocov2", "swav")
