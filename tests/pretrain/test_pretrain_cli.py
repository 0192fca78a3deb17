"""`python -m pretrain`: options, messages, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pretrain import train
from pretrain.__main__ import main, parse
from pretrain.forces import Forces
from pretrain.methods.msbreg import PRESETS, PROTOCOLS
from transfer.runtime.errors import UserError


def test_options_change_a_preset() -> None:
    command = parse(["DATA", "--preset", "demo", "--views", "2", "--singular", "0", "--lr=0.1", "--workers", "3"])
    recipe, settings = PRESETS["demo"]
    assert command.data == Path("DATA")
    assert command.recipe == replace(recipe, lr=0.1)
    assert command.settings == replace(settings, views=2, forces=Forces(singular=0, brownian=0.5))
    assert command.machine.workers == 3


def test_help_names_presets_and_says_what_demo_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    for words in ("--arch", "--preset", "--protocol", "demo is NOT a", "--singular", "--overwrite"):
        assert words in text


def test_a_protocol_by_its_name_and_as_it_was_once_asked_for() -> None:
    published = parse(["DATA", "--protocol", "300"]).recipe
    assert published == parse(["DATA", "--preset", "300"]).recipe == PROTOCOLS["300"][0]
    assert parse(["DATA"]).recipe == PROTOCOLS["100"][0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "64"], "9 images are fewer than a batch of 64"),
        (["--views", "1"], "--views is 1"),
        (["--preset", "dmo"], "unknown preset 'dmo' of msbreg"),
        (["--protocol", "99"], "unknown protocol '99' of msbreg"),
        (["--method", "byoll"], "unknown method 'byoll'"),
        (["--arch", "vit_huge"], "unknown architecture 'vit_huge'"),
        (["--arch", "vit_tiny", "--crop", "40"], "--crop 40 is no multiple of the patches of 16 pixels"),
        (["--arch", "vit_tiny", "--stem", "cifar"], "--stem cifar is for ResNets"),
        (["--arch", "vit_tiny", "--method", "dino", "--small-crop", "24"], "--small-crop 24 is no multiple"),
        (["--arch", "vit_tiny", "--method", "swav", "--small-crop", "24"], "--small-crop 24 is no multiple"),
        (["--lr", "-1"], "--lr is -1.0"),
        (["--precision", "fp16", "--device", "cpu"], "fp16 needs a GPU"),
        (["--device", "tpu9000"], "unknown device"),
        (["--steps", "-1"], "--steps is -1"),
        (["--singular", "-1"], "--singular is -1.0"),
    ],
)
def test_bad_input_is_one_message_and_status_2(
    tiny: None, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    base = ["--preset", "demo", "--batch", "4", "--crop", "32", "--out", str(tmp_path / "out")]
    assert main([str(images), *base, *options]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_missing_folder_and_debug(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere"), "--preset", "demo", "--out", str(tmp_path)]) == 2
    assert "nowhere" in capsys.readouterr().err
    with pytest.raises(UserError):
        main([str(tmp_path / "nowhere"), "--preset", "demo", "--out", str(tmp_path), "--debug"])


def test_interrupt_says_how_to_go_on(
    tiny: None, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train._Run, "_step", interrupted)
    options = ["--preset", "demo", "--batch", "4", "--crop", "32", "--workers", "0", "--out", str(tmp_path / "out")]
    assert main([str(images), *options]) == 130
    assert "type the same command again" in capsys.readouterr().err
    assert main([str(images), *options, "--overwrite"]) == 130
    assert "without --overwrite" in capsys.readouterr().err


def test_plot_draws_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"step": step, "loss": 1 / step, "centroid": 1.0, "lr": 0.1} for step in range(1, 4)]
    out = tmp_path / "out"
    out.mkdir()
    (out / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 4, "lo', encoding="utf-8"
    )
    assert main(["plot", str(tmp_path / "out")]) == 0
    with Image.open(capsys.readouterr().out.strip()) as picture:
        assert picture.size[0] > 500
    assert main(["plot", str(tmp_path)]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("method", "arch"), [("msbreg", "resnet18_quarter"), ("dino", "vit_tiny_patch8")])
def test_kill_and_resume_ends_with_the_same_weights(method: str, arch: str, images: Path, tmp_path: Path) -> None:
    options = [str(images), "--preset", "demo", "--batch", "4", "--crop", "32", "--hidden", "16", "--steps", "12"]
    options += ["--method", method, "--arch", arch]
    options += ["--save-every", "1", "--device", "cpu", "--workers", "1", "--out"]
    command = [sys.executable, "-m", "pretrain", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([*command, str(tmp_path / "whole")], check=True, env=environment, capture_output=True)
    checkpoint = tmp_path / "cut" / "checkpoint.pth"
    for number, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 128 + 15)):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = subprocess.Popen([*command, str(tmp_path / "cut")], env=environment, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 120
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        said = process.communicate(timeout=120)[1].decode()
        assert process.returncode == status, said
        assert (status < 0) == ("saved; type the same command again" not in said)
    subprocess.run([*command, str(tmp_path / "cut")], check=True, env=environment, capture_output=True)
    whole, cut = (torch.load(tmp_path / name / "checkpoint.pth", weights_only=True) for name in ("whole", "cut"))
    assert whole["step"] == cut["step"] == 12
    for branch in ("online", "target", "rest"):
        assert all(torch.equal(tensor, cut[branch][name]) for name, tensor in whole[branch].items())
    assert not list((tmp_path / "cut").glob(".*.part"))
