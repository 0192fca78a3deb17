"""The networks of a VISSL checkpoint beside the trunk: where a loss keeps its own, and that a missing one is said."""

from __future__ import annotations

import checkpoint_files as files
import pytest
import torch
from checkpoint_files import filled, under, without_fc
from releases import all_releases

from transfer.runtime.errors import CheckpointError


def test_a_network_that_the_file_lacks_is_named():
    tree = all_releases()["vissl_simclr"].build(files.cheap_state("resnet50"))
    for branch in ("ema", "momentum"):
        with pytest.raises(CheckpointError, match=f"no {branch} network"):
            files.in_memory(tree, branch=branch)


@pytest.mark.parametrize("slow", ["momentum_encoder.module.", "momentum_teacher.", "moco_encoder."])
def test_the_momentum_network_is_found_in_the_loss(slow):
    """Each method's own name for it, with DistributedDataParallel's or without, among queues of any number."""
    state = files.cheap_state("resnet50")
    tree = all_releases()["vissl_simclr"].build(state)
    blocks = under(f"{slow}trunk._feature_blocks.", files.slow_copy(without_fc(state)))
    head = {f"{slow}heads.0.clf.0.weight": filled(128, 2048)}
    tree["classy_state_dict"]["loss"] = blocks | head | {"local_queue0": filled(2, 3840, 128)}
    backbone = files.in_memory(tree, branch="momentum")
    assert torch.equal(backbone.state["bn1.weight"], torch.full((64,), 2.0))
    dropped = {name for group in backbone.dropped for name in group.names}
    assert {f"classy_state_dict.loss.{slow}heads.0.clf.0.weight", "classy_state_dict.loss.local_queue0"} <= dropped
    tree["classy_state_dict"]["loss"][f"{slow}surprise.weight"] = filled(1)
    with pytest.raises(CheckpointError, match=r"surprise\.weight"):
        files.in_memory(tree, branch="momentum")
