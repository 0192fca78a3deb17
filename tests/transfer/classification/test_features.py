"""Extraction: values, resuming after kills, processes, unreadable images. Run as a script it extracts slowly."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from transfer.checkpoints.backbone import Backbone, InputSpec, random_backbone
from transfer.classification import feature_cache, features
from transfer.classification.features import Features, Kind, extract
from transfer.classification.views import WholeView, to_network
from transfer.datasets.labels.labelled import LabelledImages
from transfer.runtime import progress
from transfer.runtime.errors import DataError, UserError
from transfer.runtime.world import world

CPU = torch.device("cpu")
VIEW = WholeView(resize=32, crop=32)
ROWS, BATCH, COUNT = 8, 3, 45
ROOT = Path(__file__).parents[3]


@dataclass
class Pictures:
    """Noise, a picture a number; some that cannot be read. Counts what this process reads."""

    count: int = COUNT
    bad: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()
    seconds: float = 0.0
    seen: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"{index:03}.png"

    def size(self, index: int) -> int:
        return 100 + index

    def content(self, index: int) -> bytes:
        if index in self.gone:
            raise DataError(f"cannot read {self.name(index)}", found="gone")
        return self._pixels(index).tobytes()

    def read(self, index: int) -> Image.Image:
        time.sleep(self.seconds)
        self.seen.append(index)
        if index in self.bad:
            raise DataError(f"cannot read {self.name(index)}", found="torn")
        return Image.fromarray(self._pixels(index))

    def _pixels(self, index: int) -> np.ndarray:
        pixels: np.ndarray = np.random.default_rng(index % 40).integers(0, 256, (36, 40, 3), dtype=np.uint8)
        return pixels


def labelled(pictures: Pictures) -> LabelledImages:
    return LabelledImages("noise", pictures, np.arange(len(pictures)) % 2, ("a", "b"))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone("resnet18", 1)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "ROWS", ROWS)


def extracted(backbone: Backbone, pictures: Pictures, cache: Path, *poolings: str, **options: Any) -> Features:
    return extract(
        backbone, labelled(pictures), VIEW, poolings or ("avg",), cache=cache, device=CPU, **{"batch": BATCH} | options
    )


def command(cache: Path, seconds: float) -> list[str]:
    return [sys.executable, __file__, str(cache), str(seconds)]


def environment() -> dict[str, str]:
    # The same number of threads as here: sums are cut by it.
    return os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes], may_end: bool = False) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        if process.poll() is not None:
            assert may_end
            return
        time.sleep(0.01)


def lines(cache: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in cache.glob("*/progress*.jsonl"))


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def files(cache: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(cache.glob("*/*.npy"))]


def test_asked_to_leave_it_ends_after_the_chunk_and_computes_none_of_it_again(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, pictures = extracted(backbone, Pictures(), tmp_path / "whole"), Pictures()
    calls = iter([False, True])
    with monkeypatch.context() as patch:
        patch.setattr(features, "asked", lambda: next(calls))
        with pytest.raises(KeyboardInterrupt):
            extracted(backbone, pictures, tmp_path / "cut")
    assert len(pictures.seen) == 2 * ROWS < COUNT
    resumed = extracted(backbone, pictures, tmp_path / "cut")
    assert sorted(pictures.seen) == list(range(COUNT))  # each once
    np.testing.assert_array_equal(resumed.arrays["avg"], whole.arrays["avg"])


def test_values_are_those_of_torchvision(backbone: Backbone, tmp_path: Path) -> None:
    pictures = Pictures()
    found = extracted(backbone, pictures, tmp_path, "avg", "max")
    seen = torch.stack([VIEW(pictures.read(index)) for index in range(COUNT)])
    with torch.no_grad():
        wanted = backbone.network()(to_network(seen, backbone.input, CPU)).numpy()
    np.testing.assert_allclose(found.arrays["avg"], wanted, rtol=1e-4, atol=1e-5)
    assert (found.arrays["max"] >= found.arrays["avg"]).all()
    array, places = found.rows("avg")
    assert array.shape == (COUNT, 512)
    assert not array.flags.writeable
    assert places.tolist() == list(range(COUNT))
    assert found.usable.all()
    # pictures 40 … 44 are 0 … 4 again
    assert np.array_equal(found.digests[:5], found.digests[40:])
    assert len(np.unique(found.digests, axis=0)) == 40


def test_extraction_says_how_far_it_is(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[progress.Progress] = []
    monkeypatch.setattr(progress._Report, "write", lambda _, found: said.append(found))
    with progress.report_to(tmp_path / progress.FILE):
        extracted(backbone, Pictures(7, bad=(2,)), tmp_path / "cache", unreadable=1)
    assert (said[0].what, said[0].unit, said[0].done, said[0].total) == ("features of noise", "im", 0, 7)
    assert said[-1].done == 7


def test_each_image_is_read_once_and_never_again(backbone: Backbone, tmp_path: Path) -> None:
    first, second, third = Pictures(12), Pictures(12), Pictures(12)
    one = extracted(backbone, first, tmp_path, "avg")
    two = extracted(backbone, second, tmp_path, "avg")
    assert sorted(first.seen) == list(range(12))
    assert not second.seen
    assert np.array_equal(one.arrays["avg"], two.arrays["avg"])
    three = extracted(backbone, third, tmp_path, "avg", "max")  # only "max" is missing
    assert sorted(third.seen) == list(range(12))
    assert np.array_equal(one.arrays["avg"], three.arrays["avg"])


def test_workers_change_nothing(backbone: Backbone, tmp_path: Path) -> None:
    extracted(backbone, Pictures(12, bad=(4,)), tmp_path / "here", unreadable=1)
    extracted(backbone, Pictures(12, bad=(4,)), tmp_path / "workers", unreadable=1, workers=2)
    assert files(tmp_path / "here") == files(tmp_path / "workers")


def test_what_is_drawn_afterwards_does_not_depend_on_the_cache(backbone: Backbone, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    extracted(backbone, Pictures(count=9), tmp_path)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    "other",
    [
        lambda b: (replace(b, input=InputSpec(channels="BGR")), labelled(Pictures(4)), VIEW, "fp32"),
        lambda b: (random_backbone("resnet18", 2), labelled(Pictures(4)), VIEW, "fp32"),
        lambda b: (replace(b, source=replace(b.source, branch="ema")), labelled(Pictures(4)), VIEW, "fp32"),
        lambda b: (b, labelled(Pictures(4)).subset(range(4)[::-1], "noise"), VIEW, "fp32"),
        lambda b: (b, labelled(Pictures(4)), WholeView(32, 32, squash=True), "fp32"),
        lambda b: (b, labelled(Pictures(4)), VIEW, "bf16"),
    ],
    ids=["input", "checkpoint", "branch", "order", "view", "precision"],
)
def test_whatever_features_depend_on_finds_another_folder(
    backbone: Backbone, tmp_path: Path, other: Callable[[Backbone], tuple[Any, ...]]
) -> None:
    extracted(backbone, Pictures(4), tmp_path)
    another, images, view, precision = other(backbone)
    extract(another, images, view, ("avg",), cache=tmp_path, device=CPU, precision=precision, batch=BATCH)
    assert len(list(tmp_path.glob("*/done.json"))) == 2


@pytest.mark.slow
def test_killed_and_resumed_is_bit_equal(backbone: Backbone, tmp_path: Path) -> None:
    running = subprocess.Popen(command(tmp_path / "cut", 0.03), env=environment())
    wait_for(lambda: lines(tmp_path / "cut") >= 2, running)
    kill(running)
    kept = lines(tmp_path / "cut")
    assert not list((tmp_path / "cut").glob("*/done.json"))
    pictures = Pictures()
    extracted(backbone, pictures, tmp_path / "cut")
    assert len(pictures.seen) == COUNT - kept * ROWS
    extracted(backbone, Pictures(), tmp_path / "whole")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


@pytest.mark.slow
def test_the_second_of_two_processes_finds_the_work_of_the_first(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = subprocess.Popen(command(tmp_path, 0.03), env=environment())
    wait_for(lambda: lines(tmp_path) >= 1, running)
    pictures = Pictures()
    with caplog.at_level(logging.INFO):
        extracted(backbone, pictures, tmp_path)
    assert running.wait(60) == 0
    assert "another process fills" in caplog.text
    assert not pictures.seen


def test_a_flipped_byte_is_computed_again(backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    extracted(backbone, Pictures(), tmp_path)
    (path,) = tmp_path.glob("*/features.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-7] + bytes([whole[-7] ^ 16]) + whole[-6:])
    pictures = Pictures()
    extracted(backbone, pictures, tmp_path)
    assert "rows 40–44 do not fit" in caplog.text
    assert pictures.seen == [40, 41, 42, 43, 44]
    assert path.read_bytes() == whole


def test_unreadable_images_are_left_out_up_to_the_budget(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = extracted(backbone, Pictures(), tmp_path)
    bad = Pictures(bad=(3, 16, 17, 18), gone=(44,))
    cache = tmp_path / "bad"
    with pytest.raises(DataError, match="4 images of noise cannot be read, 3 may be left out") as caught:
        extracted(backbone, bad, cache, unreadable=3)
    assert "003.png: torn\n016.png" in caught.value.found
    assert "--unreadable 4" in caught.value.todo
    assert lines(cache) == 2  # the chunk that was one too many is not kept: what was away for a moment is tried again
    found = extracted(backbone, bad, cache, unreadable=5)
    assert found.unreadable == ("003.png", "016.png", "017.png", "018.png", "044.png")
    assert np.flatnonzero(~found.usable).tolist() == [3, 16, 17, 18, 44]
    assert "5 unreadable images are left out" in caplog.text
    assert np.isnan(found.arrays["avg"][~found.usable]).all()
    array, places = found.rows("avg")
    # Other batches than without the bad images: equal but for rounding.
    np.testing.assert_allclose(array, whole.arrays["avg"][places], rtol=1e-4, atol=1e-5)
    assert np.array_equal(found.digests[3], whole.digests[3])  # its bytes can be read
    assert not found.digests[44].any()
    again = Pictures()
    assert extracted(backbone, again, cache, unreadable=5).unreadable == found.unreadable
    assert not again.seen
    with pytest.raises(DataError, match="5 images of noise cannot be read, 4 may"):
        extracted(backbone, again, cache, unreadable=4)


def test_features_that_are_not_finite_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    # Finite weights whose products are not.
    huge = {f"layer4.1.bn{number}.weight": torch.full((512,), 1e30) for number in (1, 2)}
    broken = replace(backbone, state=dict(backbone.state) | huge)
    with pytest.raises(UserError, match="8 images of noise are not finite") as caught:
        extracted(broken, Pictures(), tmp_path)
    assert "000.png" in caught.value.found
    assert "BatchNorm statistics" in caught.value.todo
    assert lines(tmp_path) == 0


def test_no_pooling_and_unknown_ones_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pooling"):
        extract(backbone, labelled(Pictures()), VIEW, (), cache=tmp_path, device=CPU)
    with pytest.raises(UserError, match="unknown pooling 'mean'"):
        extracted(backbone, Pictures(), tmp_path, "avg", "mean")


OTHER = WholeView(resize=40, crop=40, interpolation="bicubic")
THIRD = WholeView(resize=0, crop=24, squash=True)
BESIDE: list[Kind] = [(VIEW, "max"), (OTHER, "avg"), (THIRD, "avg"), (THIRD, "max")]


def alone(backbone: Backbone, cache: Path, kinds: list[Kind]) -> None:
    """Each in a pass of its own."""
    for view, pooling in kinds:
        images = labelled(Pictures())
        extract(backbone, images, view, (pooling,), cache=cache, device=CPU, batch=BATCH)


def two_processes(cache: Path, seconds: float = 0.0, bad: int = 0, *more: str) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    return [
        subprocess.Popen(
            [*command(cache, seconds), "--bad", str(bad), *more],
            env=environment() | where | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]


@pytest.mark.slow
def test_two_processes_are_as_one(backbone: Backbone, tmp_path: Path) -> None:
    both = two_processes(tmp_path / "two")
    told = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(told) == [b"21 read, 45 rows\n", b"24 read, 45 rows\n"]  # 6 chunks, the last of 5; all get the whole
    extracted(backbone, Pictures(), tmp_path / "one")
    assert files(tmp_path / "two") == files(tmp_path / "one")


@pytest.mark.slow
def test_two_killed_and_resumed_by_one_and_by_two(backbone: Backbone, tmp_path: Path) -> None:
    extracted(backbone, Pictures(), tmp_path / "whole")
    for name in ("by one", "by two"):
        both = two_processes(tmp_path / name, 0.03)
        wait_for(lambda folder=tmp_path / name: lines(folder) >= 2, both[0])  # type: ignore[misc]
        for process in both:
            kill(process)
        kept = lines(tmp_path / name)
        if name == "by one":
            pictures = Pictures()
            extracted(backbone, pictures, tmp_path / name)
            assert len(pictures.seen) in (COUNT - kept * ROWS, COUNT - kept * ROWS + 3)  # the last chunk has 5
        else:
            again = two_processes(tmp_path / name)
            assert [process.wait(300) for process in again] == [0, 0]
        assert files(tmp_path / name) == files(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path: Path) -> None:
    both = two_processes(tmp_path, bad=2)  # one of each process
    told = [process.communicate(timeout=300)[1] for process in both]
    assert all(process.returncode == 2 for process in both)
    assert all(b"2 images of noise cannot be read, 1 may be left out" in text for text in told)


@pytest.mark.slow
def test_ten_kills(backbone: Backbone, tmp_path: Path) -> None:
    """At moments spread over the whole of the work, start-up included."""
    extracted(backbone, Pictures(), tmp_path / "whole")
    cut = tmp_path / "cut"
    for number in range(10):
        before = lines(cut)
        running = subprocess.Popen(command(cut, 0.02), env=environment())
        if number % 2:
            wait_for(lambda seen=before: lines(cut) > seen, running, may_end=True)  # type: ignore[misc]
        else:
            time.sleep(0.6 * number)
        kill(running)
    extracted(backbone, Pictures(), cut)
    assert files(cut) == files(tmp_path / "whole")


@pytest.mark.slow
def test_kills_between_views_leave_what_each_has(backbone: Backbone, tmp_path: Path) -> None:
    alone(backbone, tmp_path / "each", [(VIEW, "avg"), *BESIDE])
    cut = tmp_path / "cut"
    for _ in range(2):
        before = lines(cut)
        running = subprocess.Popen([*command(cut, 0.01), "--beside"], env=environment())
        wait_for(lambda seen=before: lines(cut) > seen + 1, running, may_end=True)  # type: ignore[misc]
        kill(running)
    extracted(backbone, Pictures(), cut, beside=BESIDE)
    assert files(cut) == files(tmp_path / "each")


@pytest.mark.slow
def test_two_processes_with_views_beside_are_as_one(backbone: Backbone, tmp_path: Path) -> None:
    both = two_processes(tmp_path / "two", 0.0, 0, "--beside")
    told = [process.communicate(timeout=300)[0] for process in both]
    assert sorted(told) == [b"21 read, 45 rows\n", b"24 read, 45 rows\n"]
    alone(backbone, tmp_path / "each", [(VIEW, "avg"), *BESIDE])
    assert files(tmp_path / "two") == files(tmp_path / "each")


@pytest.mark.slow
def test_runs_that_extract_for_each_other_at_once_all_end(backbone: Backbone, tmp_path: Path) -> None:
    """Each of four asks for another kind, and for those of the others beside it."""
    running = [
        subprocess.Popen([*command(tmp_path / "all", 0.01), "--beside", "--turn", str(turn)], env=environment())
        for turn in range(4)
    ]
    assert [process.wait(300) for process in running] == [0] * 4
    alone(backbone, tmp_path / "each", [(VIEW, "avg"), *BESIDE])
    assert files(tmp_path / "all") == files(tmp_path / "each")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cache", type=Path)
    parser.add_argument("seconds", type=float, help="to read an image")
    parser.add_argument("--bad", type=int, default=0)
    parser.add_argument("--beside", action="store_true", help="all kinds in one pass")
    parser.add_argument("--turn", type=int, default=0, help="which kind of them is asked for")
    given = parser.parse_args()
    feature_cache.ROWS = ROWS
    pictures = Pictures(bad=tuple(ROWS * index for index in range(given.bad)), seconds=given.seconds)
    kinds = [(VIEW, "avg"), *BESIDE]
    with world(CPU) as (processes, _):
        try:
            (view, pooling), *others = [*kinds[given.turn :], *kinds[: given.turn]]
            found = extract(
                random_backbone("resnet18", 1), labelled(pictures), view, (pooling,), cache=given.cache, device=CPU,
                batch=BATCH, unreadable=1, world=processes, beside=others if given.beside else (),
            )  # fmt: skip
        except UserError as error:
            print(error, file=sys.stderr)
            sys.exit(2)
    print(f"{len(pictures.seen)} read, {len(found.arrays[pooling])} rows")


if __name__ == "__main__":
    main()
