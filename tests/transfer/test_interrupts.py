"""Ctrl-C as a terminal sends it, to every process of a command: one line, exit status 130, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

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
    begin = "from transfer.interrupts import on_interrupt; on_interrupt('type it again')"
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
