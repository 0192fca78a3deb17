"""Records to make tables of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sample_records

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
