"""Fine-tuning of a transformer with a rate for every block, held against its description in MAE's code."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from classification_runs import run, write_images
from PIL import Image
from sgd_processes import coloured, rows
from torch import Tensor

from transfer.checkpoints.backbone import random_backbone
from transfer.classification.sgd.data import Batch
from transfer.classification.sgd.fit import SgdMachine, evaluate, fine_tune_layerwise
from transfer.classification.sgd.layerwise import LayerwiseTuned, LayerwiseTuner, groups, pooled
from transfer.classification.sgd.layerwise_recipe import LayerwiseRecipe, _posterized
from transfer.classification.sgd.seeds import drawn_by
from transfer.runtime.errors import EngineError, TrainingError, UserError
from transfer.runtime.world import World
from transfer.task import load_task

CPU, ARCH = torch.device("cpu"), "vit_64x3_patch8_32"
VIT = random_backbone(ARCH, 0)
MAE: LayerwiseRecipe = load_task("transfer.imagenet_finetune").protocols["mae_base"].tuning
SMALL = replace(MAE, epochs=2, batch=4, lr=1e-3, warmup_epochs=1, crop=32, resize=36)
PLAIN = replace(SMALL, mixup=0.0, cutmix=0.0, erasing=0.0, drop_path=0.0, smoothing=0.0, augment="")


def test_rates_fall_from_block_to_block_and_vectors_have_no_decay() -> None:
    model = LayerwiseTuned(VIT, 3, MAE, 0, CPU)
    found = {
        name: (group["scale"], group["weight_decay"])
        for group in groups(model, MAE)
        for name, parameter in model.network.named_parameters()
        if any(parameter is each for each in group["params"])
    }
    assert found.keys() == dict(model.network.named_parameters()).keys()
    last = 4  # util/lr_decay.py: blocks + 1
    assert found["head.weight"] == (1.0, 0.05)
    assert found["fc_norm.weight"] == (1.0, 0.0)
    assert found["blocks.2.mlp.fc1.weight"] == (pytest.approx(0.65), 0.05)
    assert found["blocks.0.attn.qkv.bias"] == (pytest.approx(0.65**3), 0.0)
    for name in ("patch_embed.proj.weight", "cls_token", "pos_embed"):
        assert found[name][0] == pytest.approx(0.65**last)
    assert [found[name][1] for name in ("patch_embed.proj.weight", "cls_token", "pos_embed")] == [0.05, 0.0, 0.0]


def test_the_rate_rises_and_falls_to_its_lowest() -> None:
    images = 5 * MAE.batch
    assert MAE.share(0, images) == 0
    assert MAE.share(5 * 5, images) == 1
    assert MAE.share(100 * 5, images) == pytest.approx(1e-6 / 0.002)
    assert MAE.share(3, images) == pytest.approx(3 / 5 / 5)


def test_a_step_is_that_of_adamw_on_soft_labels() -> None:
    recipe = replace(PLAIN, smoothing=0.1)
    model = LayerwiseTuned(VIT, 3, recipe, 0, CPU)
    learner = LayerwiseTuner(model, recipe, 3, 0, World())
    other = LayerwiseTuned(VIT, 3, recipe, 0, CPU)
    views = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 1])
    optimizer = torch.optim.AdamW(groups(other, recipe), lr=1e-3, betas=(0.9, 0.999))
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * 0.5 * group["scale"]
    loss = torch.nn.functional.cross_entropy(other(views), labels, label_smoothing=0.1)
    loss.backward()
    optimizer.step()
    batch = Batch(views, torch.arange(4), torch.zeros(4, dtype=torch.int64))
    assert float(learner.step(batch, labels, 0.5, 4, 1)) == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, tensor in other.network.state_dict().items():
        torch.testing.assert_close(model.network.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_the_norm_of_tokens_is_left_out_and_one_of_the_average_starts_anew() -> None:
    found = pooled(VIT, "patches")
    assert found.arch == f"{ARCH}.fcnorm"
    assert torch.equal(found.state["fc_norm.weight"], torch.ones(64))
    assert found.dropped[-1].names == ("norm.weight", "norm.bias")
    assert pooled(VIT, "cls") is VIT
    with pytest.raises(UserError, match="no CLS token"):
        pooled(random_backbone(f"{ARCH}.nocls", 0), "cls")
    with pytest.raises(UserError, match="vision transformer"):
        pooled(random_backbone("resnet18", 0), "cls")


def tuned(folder: Path, recipe: LayerwiseRecipe, **machine: object) -> dict[str, Tensor]:
    here = SgdMachine(**({"save_every": 2, "log_every": 1} | machine))
    model = fine_tune_layerwise(VIT, coloured(10, side=40), recipe, seed=3, folder=folder, machine=here)
    return dict(model.network.state_dict())


def test_a_training_that_stops_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = tuned(tmp_path / "whole", SMALL)
    data = coloured(10, side=40, fails_after=14)
    with pytest.raises(RuntimeError, match="power"):
        fine_tune_layerwise(VIT, data, SMALL, seed=3, folder=tmp_path / "cut", machine=SgdMachine(save_every=1))
    assert 0 < torch.load(tmp_path / "cut" / "fit.pth", weights_only=True)["step"] < 6
    cut = tuned(tmp_path / "cut", SMALL)
    assert all(torch.equal(cut[name], tensor) for name, tensor in whole.items())
    losses = [row["loss"] for row in rows(tmp_path / "whole")]
    assert len(losses) == 6
    assert all(math.isfinite(loss) for loss in losses)


def test_random_parts_are_drawn_anew_in_every_step_and_leave_other_generators_alone(tmp_path: Path) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()
    with drawn_by(1, 2):
        first = random.random(), np.random.rand(), float(torch.rand(()))
    with drawn_by(1, 3):
        assert (random.random(), np.random.rand(), float(torch.rand(()))) != first
    with drawn_by(1, 2):
        assert (random.random(), np.random.rand(), float(torch.rand(()))) == first
    tuned(tmp_path, SMALL)
    assert before == (random.getstate(), np.random.get_state()[1].tolist())


def test_it_learns_three_colours(tmp_path: Path) -> None:
    recipe = replace(PLAIN, epochs=12, lr=3e-3, warmup_epochs=2, layer_decay=1.0)
    data = coloured(24, side=36)
    model = fine_tune_layerwise(VIT, data, recipe, seed=0, folder=tmp_path)
    predicted = evaluate(model, data, recipe.evaluation_view()).argmax(1).numpy()
    assert (predicted == data.labels).mean() > 0.9
    assert model.proof is not None
    assert model.proof["tensors"] == len(VIT.state)


def test_a_changed_network_is_refused_before_its_first_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build = LayerwiseTuned.__init__

    def damaged(model: LayerwiseTuned, *given: object) -> None:
        build(model, *given)
        with torch.no_grad():
            model.network.get_parameter("blocks.1.mlp.fc1.weight")[3, 2] += 1e-4

    monkeypatch.setattr(LayerwiseTuned, "__init__", damaged)
    with pytest.raises((EngineError, TrainingError), match=r"blocks\.1\.mlp\.fc1\.weight"):
        tuned(tmp_path, SMALL)


def test_the_task_runs_by_maes_protocol_and_says_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = ["--image-folder", str(write_images(tmp_path / "images"))]
    options = ["--protocol", "mae_base", "--tuning.epochs", "2", "--tuning.warmup-epochs", "1", "--tuning.batch", "8"]
    options += ["--tuning.crop", "32", "--tuning.resize", "36"]
    (record,) = run("transfer.imagenet_finetune", f"random:{ARCH}", *images, *options, runs=tmp_path)
    assert record.status == "finished"
    assert any("norm.weight" in note and "starts anew" in note for note in record.notes)
    assert not {"architecture", "start of the classifier"} & {each["what"] for each in record.differences}
    run("transfer.imagenet_finetune", "random:resnet18", *images, *options, runs=tmp_path / "other", status=2)
    assert "--protocol vissl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arch", "typed", "words"),
    [
        (ARCH, ["--tuning.crop", "30", "--tuning.resize", "36"], "no multiple of the patches of 8"),
        (f"{ARCH}.nocls", ["--tuning.pooling", "cls"], "no CLS token"),
    ],
)
def test_what_a_checkpoint_cannot_be_fine_tuned_by_is_refused_before_anything_is_trained(
    arch: str, typed: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = ["--image-folder", str(write_images(tmp_path / "images"))]
    options = ["--protocol", "mae_base", "--tuning.crop", "32", "--tuning.resize", "36", *typed]
    run("transfer.imagenet_finetune", f"random:{arch}", *images, *options, runs=tmp_path / "runs", status=2)
    assert words in capsys.readouterr().err
    assert not (tmp_path / "runs" / "work").exists()


def test_posterising_to_no_bits_leaves_a_black_image() -> None:
    image = Image.fromarray(np.full((8, 8, 3), 77, np.uint8))
    assert not np.asarray(_posterized(image, 0)).any()
    assert np.asarray(_posterized(image, 1)).max() == 0
    assert np.asarray(_posterized(image, 2)).max() == 64
