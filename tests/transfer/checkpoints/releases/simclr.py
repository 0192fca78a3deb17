"""SimCLR v1 and v2 out of TensorFlow, through the two converters that everybody uses."""

import re

from checkpoint_files import State, Tree, bare_norm, filled, linear, under, width_of

from releases import Refusal, Release
from transfer.checkpoints.backbone import InputSpec

UNNORMALISED = InputSpec("RGB", 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
LINTS = ("normalisation", "same-padding", "classifier")


def build_v1(state: State) -> Tree:
    """Each block's `downsample` before the rest of the block."""
    blocks: dict[str, list[str]] = {}
    for name in state:
        place = re.match(r"layer\d\.\d+\.", name)
        blocks.setdefault(place.group() if place else name, []).append(name)
    ordered = (sorted(names, key=lambda name: ".downsample." not in name) for names in blocks.values())
    return {"state_dict": {name: state[name] for names in ordered for name in names}}


def name_in_v2(name: str) -> str:
    stem = {"conv1.": "net.0.0.", "bn1.": "net.0.1.0."}
    inside = {"downsample.0.": "projection.shortcut.", "downsample.1.": "projection.bn.0."}
    for number in (1, 2, 3):
        inside |= {f"conv{number}.": f"net.{2 * number - 2}.", f"bn{number}.": f"net.{2 * number - 1}.0."}
    block = re.match(r"layer(\d)\.(\d+)\.", name)
    if block is None:
        start = next((theirs for theirs in stem if name.startswith(theirs)), "")
        return stem.get(start, "") + name.removeprefix(start)
    rest = name[block.end() :]
    start = next(ours for ours in inside if rest.startswith(ours))
    return f"net.{block.group(1)}.blocks.{block.group(2)}.{inside[start]}{rest.removeprefix(start)}"


def contrastive_head(width: int) -> State:
    head: State = {}
    for index, (inputs, outputs) in enumerate([(width, width), (width, width), (width, 128)]):
        place = 3 * index  # linear, normalisation, ReLU
        head |= linear(f"layers.{place}.", inputs, outputs, bias=False) | bare_norm(f"layers.{place + 1}.", outputs)
    return head


def build_v2(state: State) -> Tree:
    resnet = {name_in_v2(name): tensor for name, tensor in state.items()}
    return {"resnet": resnet, "head": contrastive_head(width_of(state))}


def conv(name: str, inputs: int, outputs: int, kernel: int) -> State:
    return {f"{name}weight": filled(outputs, inputs, kernel, kernel)}


def deep_stem(width: int) -> State:
    stem = conv("0.", 3, width // 2, 3) | conv("2.", width // 2, width // 2, 3) | conv("4.", width // 2, width, 3)
    return stem | bare_norm("1.0.", width // 2) | bare_norm("3.0.", width // 2) | bare_norm("5.0.", width)


def mixing(outputs: int) -> State:
    narrow = max(int(outputs * 0.0625), 32)
    return conv("0.", outputs, narrow, 1) | bare_norm("1.0.", narrow) | conv("2.", narrow, 2 * outputs, 1)


def build_selective(state: State) -> Tree:
    """Selective kernels: a stem of three convolutions, a pooled shortcut, two streams in the place of each 3×3."""
    kept = {name: tensor for name, tensor in state.items() if ".conv2." not in name and ".bn2." not in name}
    resnet = {name_in_v2(name): tensor for name, tensor in kept.items()}
    renamed = {
        name.replace("projection.shortcut.", "projection.shortcut.2.")
        .replace(".net.4.", ".net.3.")
        .replace(".net.5.0.", ".net.4.0."): tensor
        for name, tensor in resnet.items()
    }
    for name in [name for name in state if name.endswith("conv2.weight")]:
        stage, block = name.removeprefix("layer").split(".")[:2]
        place, outputs = f"net.{stage}.blocks.{block}.net.2.", state[name].shape[0]
        renamed |= {f"{place}main_conv.0.weight": state[name].repeat(2, 1, 1, 1)}
        renamed |= bare_norm(f"{place}main_conv.1.0.", 2 * outputs)
        renamed |= under(f"{place}mixing_conv.", mixing(outputs))
    renamed |= under("net.0.", deep_stem(64))
    return {"resnet": renamed, "head": contrastive_head(width_of(state))}


RELEASES = {
    "simclr_tonylins": Release(
        title="SimCLR v1 (simclr-converter)",
        format="simclr_tonylins",
        build=build_v1,
        place=("state_dict",),
        key=str,
        source="tonylins/simclr-converter: convert.py, resnet_wider.py, eval.py",
        input=UNNORMALISED,
        same_padding=True,
        archs=("resnet50", "resnet50w2", "resnet50w4"),
        lints=LINTS,
    ),
    "simclr_v2": Release(
        title="SimCLR v2 (SimCLRv2-Pytorch)",
        format="simclr_v2",
        build=build_v2,
        place=("resnet",),
        key=name_in_v2,
        source="Separius/SimCLRv2-Pytorch: resnet.py, convert.py, verify.py",
        input=UNNORMALISED,
        same_padding=True,
        archs=("resnet50", "resnet101", "resnet152", "resnet50w2", "resnet101w2", "resnet152w2"),
        lints=LINTS,
    ),
}
REFUSED = {
    "simclr_v2_sk": Refusal(
        title="SimCLR v2 with selective kernels",
        build=build_selective,
        says=("selective kernels", "r50_1x_sk0"),
        source="Separius/SimCLRv2-Pytorch: resnet.py",
        format="simclr_v2",
    )
}
