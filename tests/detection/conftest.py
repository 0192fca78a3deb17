import shutil

import pytest


@pytest.fixture
def voc(toy, tmp_path):
    """A private copy of the toy detection set, its validation split cut to four images to predict on."""
    copy = tmp_path / "my voc"  # a space: paths must be quoted everywhere
    shutil.copytree(toy / "voc", copy)
    val = copy / "ImageSets" / "Main" / "val.txt"
    val.write_text("\n".join(val.read_text(encoding="utf-8").split()[:4]) + "\n", encoding="utf-8")
    return copy
