"""What most tests of the engines need: one thread, and a few pictures of rectangles."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    from mmdet_toy import toy_dataset

    return toy_dataset(tmp_path_factory.mktemp("images"))
