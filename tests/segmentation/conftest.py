import pytest
from coco_runs import small_copy


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """The toy sets, made once."""
    from transfer.toy import make_toy

    folder = tmp_path_factory.mktemp("toy") / "toy"
    make_toy(folder, seed=0)
    return folder


@pytest.fixture
def coco(toy, tmp_path):
    """A private copy of the toy set with masks, with four images to predict on."""
    return small_copy(toy, tmp_path)
