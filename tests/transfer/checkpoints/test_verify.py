"""Verification must catch every way in which weights fail to arrive, and pass when they did."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from transfer.checkpoints.backbone import random_backbone
from transfer.checkpoints.families.resnet import STAGES, is_optional
from transfer.checkpoints.verify import probe_image, reference_stages, verify
from transfer.runtime.errors import EngineError


@pytest.fixture(scope="module")
def backbone():
    return random_backbone("resnet18", 0)


def placed(backbone, **changes):
    inside = {name: (tensor.clone(), "backbone") for name, tensor in backbone.state.items() if not is_optional(name)}
    inside.update(changes)
    return inside


def test_a_faithful_engine_passes(backbone):
    result = verify(backbone, "test", placed(backbone), lambda image: reference_stages(backbone, image))
    assert result.tensors == result.expected == 100  # ResNet-18: 20 convolutions, 20 norms × 4
    assert result.by_part == {"backbone": 100}
    assert set(result.stage_error) == set(STAGES)
    assert max(result.stage_error.values()) == 0


def test_one_absent_tensor_is_refused(backbone):
    inside = placed(backbone)
    del inside["layer4.1.bn2.running_var"]
    with pytest.raises(EngineError, match=r"layer4\.1\.bn2\.running_var"):
        verify(backbone, "test", inside, lambda image: reference_stages(backbone, image))


def test_the_smallest_change_of_one_value_is_refused(backbone):
    name = "layer2.0.conv1.weight"
    changed = backbone.state[name].clone()
    changed.view(-1)[5] = torch.nextafter(changed.view(-1)[5], torch.tensor(9.0))
    with pytest.raises(EngineError, match=name):
        verify(
            backbone,
            "test",
            placed(backbone, **{name: (changed, "backbone")}),
            lambda image: reference_stages(backbone, image),
        )


def test_swapped_channels_are_refused_although_all_tensors_agree(backbone):
    def swapped(image):
        return reference_stages(backbone, np.ascontiguousarray(image[..., ::-1]))

    with pytest.raises(EngineError, match="computes something else"):
        verify(backbone, "test", placed(backbone), swapped)


def test_nan_outputs_are_refused(backbone):
    def broken(image):
        return {stage: output * float("nan") for stage, output in reference_stages(backbone, image).items()}

    with pytest.raises(EngineError, match="computes something else"):
        verify(backbone, "test", placed(backbone), broken)


def test_weights_that_overflow_are_no_fault_of_the_engine(backbone):
    huge = {f"layer4.1.bn{number}.weight": torch.full((512,), 1e30) for number in (1, 2)}
    overflowing = replace(backbone, state=dict(backbone.state) | huge)
    reference = reference_stages(overflowing, probe_image())
    assert not reference["layer4"].isfinite().all()
    verify(overflowing, "test", placed(overflowing), lambda image: reference)
    with pytest.raises(EngineError, match="layer1 differs"):
        verify(overflowing, "test", placed(overflowing), lambda image: reference | {"layer1": reference["layer1"] + 1})


def test_another_stride_is_refused_by_its_shape(backbone):
    def subsampled(image):
        return {stage: output[..., ::2] for stage, output in reference_stages(backbone, image).items()}

    with pytest.raises(EngineError, match="another shape"):
        verify(backbone, "test", placed(backbone), subsampled)


def test_reference_is_torchvisions_forward_pass(backbone):
    image = probe_image()
    model = backbone.network()
    seen = {}
    for stage in STAGES:
        getattr(model, stage).register_forward_hook(lambda _m, _i, out, stage=stage: seen.__setitem__(stage, out))
    model.fc = nn.Identity()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (torch.from_numpy(image).float() / 255 - mean) / std
    with torch.no_grad():
        model(x.permute(2, 0, 1)[None])
    for stage, output in reference_stages(backbone, image).items():
        torch.testing.assert_close(output, seen[stage], rtol=1e-5, atol=1e-5)
