"""A Backbone is complete and finite, or does not exist."""

import pytest
import torch

from transfer.checkpoints.backbone import Backbone, InputSpec, Source, random_backbone
from transfer.checkpoints.families.resnet import (
    ARCHITECTURES,
    build_resnet,
    closest_architecture,
    expected_shapes,
    gmacs_by_stage,
    stage_channels,
)
from transfer.runtime.errors import CheckpointError

SOURCE = Source("weights.pth", "0" * 64, "test")


def state(arch="resnet18"):
    return dict(random_backbone(arch, 0).state)


@pytest.mark.parametrize(("arch", "tensors"), [("resnet18", 120), ("resnet34", 216), ("resnet50", 318)])
def test_counts_are_those_of_torchvision_without_classifier(arch, tensors):
    # formats.md: 320 tensors for a ResNet-50 with fc, 318 without
    assert random_backbone(arch, 0).tensor_count == tensors


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_architecture_is_recognised_even_with_tensors_missing(arch):
    shapes = dict(expected_shapes(arch))
    assert closest_architecture(shapes) == arch
    for name in list(shapes)[-7:]:
        del shapes[name]
    assert closest_architecture(shapes) == arch


def test_stage_channels():
    assert stage_channels("resnet50") == {"layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048}
    assert stage_channels("resnet18")["layer4"] == 512


def make(tensors):
    return Backbone("resnet18", tensors, InputSpec(), SOURCE)


@pytest.mark.parametrize(
    "name", ["conv1.weight", "bn1.running_var", "layer3.0.downsample.0.weight", "layer4.1.bn2.bias"]
)
def test_missing_renamed_reshaped_and_nan_are_named(name):
    tensors = state()
    value = tensors.pop(name)
    with pytest.raises(CheckpointError) as missing:
        make(tensors)
    assert name in str(missing.value)
    with pytest.raises(CheckpointError) as renamed:
        make(tensors | {name + "x": value})
    assert name + "x" in str(renamed.value)
    with pytest.raises(CheckpointError, match="of another shape") as reshaped:
        make(tensors | {name: value[..., None]})
    assert name in str(reshaped.value)
    spoiled = value.clone()
    spoiled.view(-1)[0] = float("nan")
    with pytest.raises(CheckpointError, match="not finite") as nan:
        make(tensors | {name: spoiled})
    assert name in str(nan.value)


def test_batch_counters_are_the_only_optional_tensors():
    tensors = {name: value for name, value in state().items() if not name.endswith("num_batches_tracked")}
    backbone = make(tensors)
    torch.testing.assert_close(backbone.network().layer1[0].conv1.weight, tensors["layer1.0.conv1.weight"])


def test_other_dtypes_are_refused():
    with pytest.raises(CheckpointError, match="float32"):
        make({name: value.half() if value.is_floating_point() else value for name, value in state().items()})


def test_state_cannot_be_changed_through_the_mapping():
    with pytest.raises(TypeError):
        random_backbone("resnet18", 0).state["conv1.weight"] = torch.zeros(1)


def test_random_backbones_follow_their_seed_and_leave_the_global_stream_alone():
    torch.manual_seed(5)
    wanted = torch.rand(2)
    torch.manual_seed(5)
    first, again, other = (random_backbone("resnet18", seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(2), wanted)
    assert first.source.sha256 == again.source.sha256 != other.source.sha256


def test_forward_equals_the_source_model():
    model = build_resnet("resnet34").eval()
    backbone = Backbone("resnet34", model.state_dict(), InputSpec(), SOURCE)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone.network()(x), model(x), rtol=0, atol=0)


def test_input_in_255():
    mean, std = InputSpec().in_255()
    assert mean == [123.675, 116.28, 103.53]
    assert std == [58.395, 57.12, 57.375]
    assert InputSpec(value_range=1.0, mean=(0, 0, 0), std=(1, 1, 1)).in_255() == ([0, 0, 0], [255, 255, 255])


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnet50w2", "resnext50_32x4d", "wide_resnet50_2"])
def test_cost_is_what_the_convolutions_of_the_module_do(arch):
    counted = dict.fromkeys(("stem", "layer1", "layer2", "layer3", "layer4"), 0.0)

    def counting(part):
        def count(module, _, output):
            counted[part] += output.numel() * module.weight[0].numel() / 1e9

        return count

    with torch.device("meta"):
        model = build_resnet(arch).eval()
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(counting(name.split(".")[0] if name.startswith("layer") else "stem"))
        model(torch.empty(1, 3, 224, 224))
    assert gmacs_by_stage(arch) == pytest.approx(counted, rel=1e-12)
