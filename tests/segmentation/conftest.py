import pytest
from coco_runs import small_copy


@pytest.fixture
def coco(toy, tmp_path):
    """A private copy of the toy set with masks, with four images to predict on."""
    return small_copy(toy, tmp_path)
