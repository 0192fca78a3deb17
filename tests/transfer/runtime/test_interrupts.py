"""Ctrl-C as a terminal sends it, to every process of a command: one line, exit status 130, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORKING = "import time; print('there', flush=True); time.sleep(30)"
DEAF = "import time; print('there', flush=True)\ntry: time.sleep(30)\nexcept KeyboardInterrupt: time.sleep(30)"
FORKED = "import os, time; child = not os.fork(); child or print('there', flush=True); time.sleep(4)"


@pytest.mark.parametrize(
    ("code", "presses"),
    [(WORKING, 1), (DEAF, 2), pytest.param(FORKED, 1, marks=pytest.mark.slow)],
    ids=["once", "twice", "forked"],
)
def test_one_line_and_130(code: str, presses: int) -> None:
    begin = "from transfer.runtime.interrupts import on_interrupt; on_interrupt('type it again')"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{begin}\n{code}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    time.sleep(0.1)
    for _ in range(presses):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert error == "\ntype it again\n"


TRAINING = """
import os, sys, time
from transfer.runtime.command import answer
from transfer.runtime.interrupts import asked, leave, saves_when_asked

@saves_when_asked()
def train():
    child = not os.fork()
    child and print("there", flush=True)
    while not asked():
        time.sleep(0.01)
    print("child" if child else "saved", flush=True)
    time.sleep(float(sys.argv[1]))
    leave()

sys.exit(answer(train, False, "interrupted"))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("times", [1, 2])
def test_who_trains_saves_first_when_asked_to_leave(number: int, times: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING, "0" if times == 1 else "0.5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    os.killpg(process.pid, number)
    assert process.stdout.readline() == "saved\n"  # and not "child": that one ends at once
    if times == 2:  # while it saves
        os.killpg(process.pid, number)
    rest, error = process.communicate(timeout=20)
    assert not rest
    assert process.returncode == 128 + number
    assert error == f"\n{signal.Signals(number).name}: saved; type the same command again: it goes on from here\n"


LAUNCHED = """
import os, signal, sys, time
from transfer.runtime.interrupts import on_interrupt
on_interrupt("type it again")
os.write(1, b"there\\n")  # in one piece: two processes share the pipe
if os.environ["RANK"] == "1":
    sys.argv[1] == "killed" and os.kill(os.getpid(), signal.SIGKILL)
    sys.argv[1] == "refused" and sys.exit(2)
time.sleep(30)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "status", "said"),
    [
        ("interrupted", 130, ["type it again"]),
        ("refused", 2, []),
        ("killed", 137, ["error: process 1 was ended by SIGKILL", "the system does this when memory is full"]),
    ],
)
def test_every_end_of_several_processes_is_one_message(what: str, status: int, said: list[str], tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(LAUNCHED, encoding="utf-8")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "transfer.torchrun", "--standalone", "--nproc-per-node", "2"),
            *(str(tmp_path / "work.py"), what),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["there\n"] * 2
    time.sleep(0.5)
    if what == "interrupted":
        os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status
    lines = [line.strip().removeprefix("found: ") for line in error.splitlines() if line.strip()]
    assert [line for line in lines if not line.startswith("to do")] == said
