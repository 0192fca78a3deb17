"""Every kind of protocol with a vision transformer: features by token, proofs block by block, fine-tuning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from classification_runs import FROZEN, SMALL, TUNED, run, write_images
from sgd_processes import coloured
from torch import nn

from transfer.checkpoints.backbone import Backbone, random_backbone
from transfer.classification.features import extract
from transfer.classification.trunk import Trunk
from transfer.classification.views import WholeView
from transfer.datasets.toy import ToySizes, make_toy
from transfer.runtime.errors import EngineError, UserError

CPU, ARCH = torch.device("cpu"), "vit_64x4_patch8_32.reg2.offset"
VIT = random_backbone(ARCH, 0)
ALL = ("cls", "patches", "cls4+patches", "cls-raw", "patches4-raw")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return ["--image-folder", str(write_images(tmp_path_factory.mktemp("images")))]


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("toy") / "toy"
    make_toy(folder, sizes=ToySizes(60, 1, 2, 1, 1, 1, 1, (64, 72)))
    return ["--image-folder", str(folder / "voc"), "--train", "train", *SMALL]


@pytest.mark.parametrize("kind", FROZEN | TUNED)
def test_every_kind_of_protocol_takes_a_vit(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    task, data, options = (FROZEN | TUNED)[kind]
    (record,) = run(task, f"random:{ARCH}", *request.getfixturevalue(data), *options, runs=tmp_path)
    assert record.status == "finished", record.failure
    assert record.verification["tensors"] == len(VIT.state)
    assert {stage.partition(" at ")[0] for stage in record.verification["stage_error"]} == {
        *("patch_embed", "norm"),
        *(f"blocks.{number}" for number in range(4)),
    }
    told = {each["what"]: (each["protocol"], each["run"]) for each in record.differences}
    if task == "transfer.knn":  # DINO published it for ViTs too
        assert not told.keys() & {"pooling", "architecture"}
    else:
        assert told["architecture"] == ("resnet50", ARCH)
    if "pooling" in record.recipe and task != "transfer.knn":
        assert told["pooling"][1] == "cls"


def pixels(side: int, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def test_features_of_one_pass_are_those_of_the_tokens() -> None:
    found = Trunk(VIT, ALL, CPU)(pixels(32))
    network, mean, std = VIT.network(), *(torch.tensor(each).view(3, 1, 1) for each in (VIT.input.mean, VIT.input.std))
    with torch.no_grad():
        tokens = network.tokens((pixels(32) / 255 - mean) / std, range(len(network.blocks) - 4, len(network.blocks)))
        normed = [network.norm(each) for each in tokens]
        whole = network((pixels(32) / 255 - mean) / std)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found["cls"], whole, **close)
    torch.testing.assert_close(found["cls-raw"], tokens[-1][:, 0], **close)
    torch.testing.assert_close(found["patches"], normed[-1][:, 3:].mean(1), **close)  # neither CLS nor registers
    wanted = torch.cat([*(each[:, 0] for each in normed), normed[-1][:, 3:].mean(1)], 1)
    torch.testing.assert_close(found["cls4+patches"], wanted, **close)
    torch.testing.assert_close(found["patches4-raw"], torch.cat([each[:, 3:].mean(1) for each in tokens], 1), **close)
    assert {name: each.shape[1] for name, each in found.items()} == {
        "cls": 64, "patches": 64, "cls4+patches": 320, "cls-raw": 64, "patches4-raw": 256,
    }  # fmt: skip


def test_the_proof_is_made_at_the_size_that_is_used_and_at_the_training_size() -> None:
    trunk = Trunk(VIT, ("cls",), CPU)
    assert not any(" at " in stage for stage in trunk.proof.stage_error)
    trunk(pixels(48))
    assert "blocks.3 at 48 × 48" in trunk.proof.stage_error
    trunk(pixels(32))
    assert max(trunk.proof.stage_error.values()) < 1e-5


class Antialiased(nn.Module):
    """A network whose positions are resized by another rule than its checkpoint's."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.other = random_backbone(ARCH.replace("offset", "antialias"), 0).network()
        self.other.load_state_dict(backbone.state)


def test_positions_resized_by_another_rule_are_seen_at_the_used_size_alone() -> None:
    trunk = Trunk(VIT, ("cls",), CPU)
    trunk.network = Antialiased(VIT).other
    assert trunk(pixels(32))["cls"].shape == (3, 64)  # where both rules are one
    with pytest.raises(EngineError, match=r"patch_embed|blocks\.0"):
        trunk(pixels(16))


@pytest.mark.parametrize("name", ["blocks.3.attn.qkv.bias", "pos_embed", "reg_token", "norm.weight"])
def test_one_changed_number_is_seen(name: str) -> None:
    trunk = Trunk(VIT, ("cls",), CPU)
    parameter = trunk.network.get_parameter(name)
    with torch.no_grad():
        parameter.view(-1)[5] = torch.nextafter(parameter.view(-1)[5], torch.tensor(9.0))
    with pytest.raises(EngineError, match=name):
        trunk(pixels(32))


def test_a_size_that_the_patch_does_not_divide_is_refused_before_images_are_read(tmp_path: Path) -> None:
    data = coloured(4, fails_after=0)
    with pytest.raises(UserError, match="30 × 30 pixels are no multiple of the patches of 8") as caught:
        extract(VIT, data, WholeView(30, 30), ("cls",), cache=tmp_path, device=CPU)
    assert "24 or 32" in str(caught.value)


def test_poolings_are_kept_apart_in_the_cache(tmp_path: Path) -> None:
    data = coloured(6)
    one = extract(VIT, data, WholeView(32, 32), ("cls",), cache=tmp_path, device=CPU)
    other = extract(VIT, data, WholeView(32, 32), ("cls-raw", "cls"), cache=tmp_path, device=CPU)
    assert np.array_equal(one.arrays["cls"], other.arrays["cls"])
    assert not np.allclose(other.arrays["cls"], other.arrays["cls-raw"])
    poolings = [
        json.loads(path.read_text(encoding="utf-8"))["identity"]["pooling"] for path in tmp_path.glob("*/meta.json")
    ]
    assert sorted(poolings) == ["cls", "cls-raw"]
