"""Lints: each explains one classic mistake, and none speaks of trained weights in the usual form."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import checkpoint_files as files
import pytest
import torch

from transfer.checkpoints.backbone import Backbone, InputSpec, Source, random_backbone
from transfer.checkpoints.container import Contents
from transfer.checkpoints.inspect import examine
from transfer.checkpoints.lints import compare_channels, lints_of
from transfer.checkpoints.read import backbone_from, read_backbone

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def trained() -> Backbone:
    """Random weights that look trained: scales and statistics off their first values, filters of another spread."""
    torch.manual_seed(3)
    state = {}
    for name, tensor in files.without_fc(files.real_state("resnet18")).items():
        off = tensor.ndim == 1 and name.endswith(("weight", "bias"))
        state[name] = tensor + 0.1 * torch.randn(tensor.shape) if off else tensor.clone()
    return Backbone("resnet18", state, InputSpec(), Source("weights.pth", "0" * 64, "torchvision"))


def codes(backbone: Backbone, **changes) -> list[str]:
    return [lint.code for lint in lints_of(dataclasses.replace(backbone, **changes))]


def changed(backbone: Backbone, pattern: str, change) -> Backbone:
    state = {
        name: change(name, tensor) if re.search(pattern, name) else tensor for name, tensor in backbone.state.items()
    }
    assert any(state[name] is not backbone.state[name] for name in state)
    return dataclasses.replace(backbone, state=state)


def test_trained_weights_in_the_usual_form_are_left_alone(trained):
    assert codes(trained) == []


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (InputSpec("RGB", 255.0, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)), []),
        (InputSpec("RGB", 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), ["normalisation"]),
        (InputSpec("RGB", 1.0, (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)), ["normalisation"]),
        (InputSpec("BGR", 1.0, (0.406, 0.456, 0.485), (0.225, 0.224, 0.229)), ["bgr"]),
        (InputSpec("BGR", 255.0, (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)), ["bgr", "normalisation"]),
    ],
)
def test_input(trained, spec, expected):
    assert codes(trained, input=spec) == expected


def test_what_leaves_no_trace_in_the_weights(trained):
    assert codes(trained, stride_in_1x1=True) == ["stride-in-1x1"]
    assert codes(trained, same_padding=True) == ["same-padding"]


def test_the_text_says_what_the_normalisation_is(trained):
    (lint,) = lints_of(dataclasses.replace(trained, input=InputSpec(mean=(0, 0, 0), std=(1, 1, 1))))
    assert "mean 0 0 0, std 255 255 255" in lint.text


def test_fresh_weights_are_called_that():
    assert codes(random_backbone("resnet18", 0)) == ["statistics", "initialisation"]
    assert "untrained" in lints_of(random_backbone("resnet18", 0))[0].text


@pytest.mark.parametrize("stage", ["layer1", "layer4"])
def test_one_stage_that_was_never_filled_is_named(trained, stage):
    fresh = random_backbone("resnet18", 1).state
    mixed = {name: fresh[name] if name.startswith(f"{stage}.") else tensor for name, tensor in trained.state.items()}
    (lint,) = lints_of(dataclasses.replace(trained, state=mixed))
    assert lint.code == "initialisation"
    assert lint.text.endswith(f"not like trained weights: {stage}")


def test_zero_init_residual_counts_as_initialisation(trained):
    fresh = dict(random_backbone("resnet18", 1).state)
    for name in fresh:
        if re.fullmatch(r"layer\d\.\d\.bn2\.weight", name):
            fresh[name] = torch.zeros_like(fresh[name])
    assert codes(trained, state=fresh) == ["statistics", "initialisation"]


def test_other_spreads_are_no_initialisation(trained):
    scaled = changed(random_backbone("resnet18", 2), r"conv\d\.weight", lambda _, tensor: tensor * 1.2)
    assert codes(scaled) == ["statistics"]


def test_folded_statistics(trained):
    folded = changed(
        trained, "running_", lambda name, tensor: torch.full_like(tensor, float(name.endswith("running_var")))
    )
    (lint,) = lints_of(folded)
    assert lint.code == "statistics"
    assert "folded" in lint.text


def test_constant_convolutions(trained):
    emptied = changed(trained, r"layer3\.0\.conv1", lambda _, tensor: torch.zeros_like(tensor))
    (lint,) = lints_of(emptied)
    assert (lint.code, "layer3.0.conv1.weight" in lint.text) == ("constant", True)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnetaa50-41.pth", True),
        ("resnet50d_ra2.pth", True),
        ("resnet50_caffe.pth", True),
        ("simclr_2x.pth.tar", True),
        ("resnet50_bgr.pth", True),
        ("resnet50.tf_in1k.pth", True),
        ("resnet50_alpha0.9.pth", True),
        ("swav_800ep.pth", True),
        ("resnet34.ra4_e3600_r224_in1k.safetensors", True),
        ("resnet50_ram-a26f946b.pth", False),
        ("moco_v2_800ep_pretrain.pth.tar", False),
        ("resnet50-0676ba61.pth", False),
        ("checkpoint.pth", False),
    ],
)
def test_names_of_plain_files(trained, name, told):
    state = dict(trained.state)
    path = Path("/somewhere/caffe") / name

    def said(tree) -> bool:
        backbone = backbone_from(Contents(tree, "memory", 0, "0" * 64), path)
        return "file-name" in [lint.code for lint in backbone.lints]

    assert said(state) == told
    assert said({"state_dict": files.under("backbone.", state)}) == told
    assert not said({"state_dict": files.under("module.encoder_q.", state)})


def test_reversed_planes_show_next_to_a_reference(trained, tmp_path):
    bgr = changed(trained, r"^conv1\.weight", lambda _, tensor: tensor.flip(1))
    (lint,) = compare_channels(bgr, trained)
    assert "conv1 looks BGR" in lint.text
    assert "exchanged" in lint.text
    assert compare_channels(trained, trained) == ()
    # read as what it is
    assert compare_channels(dataclasses.replace(bgr, input=InputSpec("BGR")), trained) == ()
    # and the other way round
    (lint,) = compare_channels(dataclasses.replace(trained, input=InputSpec("BGR")), trained)
    assert "conv1 looks RGB" in lint.text


@pytest.mark.slow
def test_a_fine_tuned_relative_is_recognised_and_a_stranger_is_not(trained):
    torch.manual_seed(0)
    tuned = changed(trained, r"^conv1\.weight", lambda _, t: t.flip(1) + 0.3 * t.std() * torch.randn(t.shape))
    assert "BGR" in compare_channels(tuned, trained)[0].text
    (lint,) = compare_channels(random_backbone("resnet18", 5), trained)
    assert "cannot be told" in lint.text
    (lint,) = compare_channels(random_backbone("resnet50w2", 5), trained)
    assert "no relative" in lint.text


def test_inspect_shows_lints_and_the_reference(tmp_path):
    state = files.without_fc(files.real_state("resnet18", seed=4))
    reference = files.write(dict(state), tmp_path / "reference.pth", "zip")
    swapped = files.write(state | {"conv1.weight": state["conv1.weight"].flip(1)}, tmp_path / "resnet18_bgr.pth", "zip")
    text = examine(swapped, reference=reference).text
    assert "lint         channels: conv1 looks BGR" in text
    assert "lint         file-name: " in text


def test_lints_go_into_the_remarks_that_a_record_keeps(tmp_path):
    path = files.write(dict(files.real_state("resnet18", seed=4)), tmp_path / "file.pth", "zip")
    backbone = read_backbone(path)
    assert any(remark.startswith("classifier: ") for remark in backbone.remarks())
