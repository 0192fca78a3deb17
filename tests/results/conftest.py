"""Records to make tables of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import sample_records

import results
from transfer.record import Record, write_record

MakeRecord = Callable[..., Record]


@pytest.fixture
def record() -> MakeRecord:
    """`sample_records.record`."""
    return sample_records.record


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes records into a fresh folder and returns it."""

    def write(*records: Record) -> Path:
        for one in records:
            write_record(one, tmp_path / "records")
        return tmp_path / "records"

    return write


@pytest.fixture
def frame(folder: Callable[..., Path]) -> Callable[..., pd.DataFrame]:
    """The frame of some records."""
    return lambda *records: results.load(folder(*records))
