"""A folder of nine small images, and an encoder that stands in for a ResNet where its size does not matter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torchvision
from tiny_encoder import TinyEncoder, write_nine


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: TinyEncoder())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_nine(tmp_path / "images")
