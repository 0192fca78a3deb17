"""lightly: its ImageNet benchmark, then and now, and its examples; lightly-train, whose checkpoints are refused."""

from itertools import pairwise

import torchvision
from checkpoint_files import State, Tree, bare_norm, filled, linear, slow_copy, under, width_of, without_fc

from releases import Refusal, Release
from releases.lightning_files import lightning


def head(prefix: str, *sizes: int, norm: bool = True, last_norm: bool = False) -> State:
    """lightly's ProjectionHead: linear, (batch norm,) ReLU, …, linear under `layers.`; a norm replaces the bias."""
    weights: State = {}
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        place = f"{prefix}layers.{(3 if norm else 2) * index}."
        normed = last_norm if index == len(sizes) - 2 else norm
        weights |= linear(place, inputs, outputs, bias=not normed)
        if normed:
            weights |= bare_norm(f"{prefix}layers.{3 * index + 1}.", outputs)
    return weights


def benchmark(state: State, other: str = "", heads: State | None = None) -> Tree:
    backbone = without_fc(state)
    weights = under("backbone.", backbone) | (
        heads or head("projection_head.", width_of(state), 2048, 128, last_norm=True)
    )
    if other:
        weights |= under(other, slow_copy(backbone))
    weights |= linear("online_classifier.classification_head.", width_of(state), 1000)
    return lightning(weights, hparams_name="kwargs", hyper_parameters={"batch_size_per_device": 256})


def byol(state: State) -> Tree:
    width = width_of(state)
    heads = head("projection_head.", width, 4096, 256) | head("prediction_head.", 256, 4096, 256)
    return benchmark(state, "teacher_backbone.", heads | head("teacher_projection_head.", width, 4096, 256))


def old_byol(state: State) -> Tree:
    width = width_of(state)
    heads = head("projection_head.", width, 4096, 256) | head("student_projection_head.", width, 4096, 256)
    return benchmark(state, "student_backbone.", heads | head("student_prediction_head.", 256, 4096, 256))


def dino(state: State) -> Tree:
    heads: State = {"criterion.center": filled(1, 1, 65536)}
    for name in ("projection_head.", "student_projection_head."):
        heads |= head(name, width_of(state), 2048, 2048, 256, norm=False)
        heads |= {f"{name}last_layer.weight_g": filled(65536, 1), f"{name}last_layer.weight_v": filled(65536, 256)}
    return benchmark(state, "student_backbone.", heads)


def moco(state: State, other: str) -> Tree:
    width = width_of(state)
    heads: State = {}
    for name in ("projection_head.", other.replace("backbone", "projection_head")):
        heads |= head(name, width, 2048, 128, norm=False)
    return benchmark(state, other, heads)


def tico(state: State) -> Tree:
    width = width_of(state)
    heads = head("projection_head.", width, 4096, 256) | head("projection_head_momentum.", width, 4096, 256)
    return benchmark(state, "backbone_momentum.", heads)


def swav(state: State) -> Tree:
    heads = head("projection_head.", width_of(state), 2048, 128) | linear("prototypes.heads.0.", 128, 3000)
    queues = {f"queues.{i}.{kind}": filled(128, 3840) for i in (0, 1) for kind in ("bank", "bank_ptr")}
    return benchmark(state, "", heads | queues)


def child(name: str) -> str:
    """The place of a torchvision name in `nn.Sequential(*list(resnet.children())[:-1])`."""
    first, _, rest = name.partition(".")
    names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    return f"{names.index(first)}.{rest}"


def example(state: State, heads: State, taken: str = "backbone.", other: str = "") -> Tree:
    backbone = {child(name): tensor for name, tensor in without_fc(state).items()}
    weights = under(taken, backbone) | heads
    return lightning(weights | under(other, slow_copy(backbone)) if other else weights)


def example_simclr(state: State) -> Tree:
    return example(state, head("projection_head.", width_of(state), 2048, 2048, last_norm=True))


def example_moco(state: State) -> Tree:
    heads: State = {}
    for name in ("projection_head.", "projection_head_momentum."):
        heads |= head(name, width_of(state), 512, 128, norm=False)
    return example(state, heads, other="backbone_momentum.")


def example_dino(state: State) -> Tree:
    heads: State = {"criterion.center": filled(1, 1, 2048)}
    for name in ("student_head.", "teacher_head."):
        heads |= head(name, width_of(state), 512, 512, 64, norm=False)
        heads |= {f"{name}last_layer.weight_g": filled(2048, 1), f"{name}last_layer.weight_v": filled(2048, 64)}
    return example(state, heads, "teacher_backbone.", "student_backbone.")


def example_densecl(state: State) -> Tree:
    heads: State = {"criterion_global.memory_bank.bank": filled(4096, 128)}  # saved until December 2023
    for name in ("global.", "local.", "global_momentum.", "local_momentum."):
        heads |= head(f"projection_head_{name}", width_of(state), 512, 128, norm=False)
    return example(state, heads, other="backbone_momentum.")


def _release(title: str, build, source: str, branches=(), prefix="backbone.", key=str, **more) -> Release:
    return Release(
        title=f"lightly, {title}",
        format="lightly",
        build=build,
        place=("state_dict",),
        key=lambda name: prefix + key(name),
        source=f"lightly-ai/lightly: {source}.py",
        branch=branches[0] if branches else "only",
        others=tuple(branches[1:]),
        **more,
    )


_BENCH = "benchmarks/imagenet/resnet50"
_EXAMPLE = "examples/pytorch_lightning"
_R18 = {"key": child, "archs": ("resnet18",)}

RELEASES = {
    "lightly_benchmark_simclr": _release("benchmark, SimCLR and others", benchmark, f"{_BENCH}/simclr"),
    "lightly_benchmark_byol": _release("benchmark, BYOL", byol, f"{_BENCH}/byol", ("online", "momentum")),
    "lightly_benchmark_byol_2023": _release(
        "benchmark, BYOL of 2023", old_byol, f"{_BENCH}/byol", ("teacher", "student")
    ),
    "lightly_dino": _release("benchmark, DINO", dino, f"{_BENCH}/dino", ("teacher", "student")),
    "lightly_moco": _release(
        "benchmark, MoCo v2", lambda s: moco(s, "key_backbone."), f"{_BENCH}/mocov2", ("online", "momentum")
    ),
    "lightly_moco_2023": _release(
        "benchmark, MoCo v2 of 2023", lambda s: moco(s, "query_backbone."), f"{_BENCH}/mocov2", ("key", "query")
    ),
    "lightly_tico": _release("benchmark, TiCo", tico, f"{_BENCH}/tico", ("online", "momentum")),
    "lightly_swav": _release("benchmark, SwAV", swav, f"{_BENCH}/swav"),
    "lightly_example": _release("example, MoCo", example_moco, f"{_EXAMPLE}/moco", ("online", "momentum"), **_R18),
    "lightly_example_simclr": _release(
        "example, SimCLR",
        example_simclr,
        f"{_EXAMPLE}/simclr",
        key=child,
        archs=("resnet18", "resnet50"),
    ),
    "lightly_example_dino": _release(
        "example, DINO", example_dino, f"{_EXAMPLE}/dino", ("teacher", "student"), "teacher_backbone.", **_R18
    ),
    "lightly_example_densecl": _release(
        "example, DenseCL", example_densecl, f"{_EXAMPLE}/densecl", ("online", "momentum"), **_R18
    ),
    "lightly_train": Release(
        title="lightly-train, export of the state dict",
        format="torchvision",
        build=dict,
        place=(),
        key=str,
        source="lightly-ai/lightly-train: src/lightly_train/_models/torchvision/torchvision_package.py",
        lints=("classifier",),
    ),
}


def lightly_train(state: State) -> Tree:
    models = {"model": torchvision.models.resnet18()}
    weights = under("embedding_model.wrapped_model._model.", state)
    return lightning(weights, lightly_train={"version": "0.18.0", "models": models})


REFUSED = {
    "lightly_train_checkpoint": Refusal(
        title="lightly-train, checkpoint",
        build=lightly_train,
        says=("wants to import torchvision.models.resnet.ResNet", "refused and not run", "state_dict()"),
        source="lightly-ai/lightly-train: src/lightly_train/_checkpoint.py",
    ),
}
