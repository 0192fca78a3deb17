"""One ResNet behind a prefix that no format knows, as people's own modules and wrappers make it."""

import torch
from checkpoint_files import State, Tree, linear, slow_copy, training_state, under, width_of, without_fc

from releases import Refusal, Release
from releases.lightning_files import lightning

MODULES = "pytorch/pytorch: torch/nn/modules/module.py (state_dict: the names of attributes, joined by dots)"
FSDP = "pytorch/pytorch: torch/distributed/fsdp/_common_utils.py (FSDP_WRAPPED_MODULE)"
SWA = "pytorch/pytorch: torch/optim/swa_utils.py (AveragedModel)"
CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def numbered(name: str) -> str:
    """A backbone's name in `nn.Sequential(*resnet.children())`."""
    child, _, rest = name.partition(".")
    return f"{CHILDREN[child]}.{rest}"


def compiled_inside(name: str) -> str:
    """FSDP around the network, every stage compiled, every block checkpointed."""
    stage, _, rest = name.partition(".")
    if not stage.startswith("layer"):
        return f"net._fsdp_wrapped_module.{name}"
    block, _, rest = rest.partition(".")
    return f"net._fsdp_wrapped_module.{stage}._orig_mod.{block}._checkpoint_wrapped_module.{rest}"


def _release(title: str, build, key, branch: str, place=("state_dict",), source=MODULES, **more) -> Release:
    return Release(
        title=title, format="prefix", build=build, place=place, key=key, source=source, branch=branch, **more
    )


def _under(prefix: str):
    return lambda state: {"state_dict": under(prefix, without_fc(state)), **training_state(state)}


RELEASES = {
    "prefix_lightning": _release(
        "a private Lightning module's `model.`, with its classifier",
        lambda state: lightning(under("model.", state)),
        "model.{}".format,
        "model.",
        archs=("resnet18", "resnet50"),
        lints=("classifier",),
    ),
    "prefix_net": _release("`net.`", _under("net."), "net.{}".format, "net.", archs=("resnet18",)),
    "prefix_parallel_twice": _release(
        "`module.module.`", _under("module.module."), "module.module.{}".format, "module.module.", archs=("resnet18",)
    ),
    "prefix_of_a_key": _release(
        "a key of its own",
        lambda state: {"weights": {"encoder": without_fc(state)}, "epoch": 3},
        str,
        "weights.encoder.",
        place=("weights", "encoder"),
        archs=("resnet18",),
    ),
    "prefix_wrapped": _release(
        "FSDP, compiled stages and checkpointed blocks",
        lambda state: {"state_dict": {compiled_inside(name): value for name, value in without_fc(state).items()}},
        compiled_inside,
        "net.",
        source=FSDP,
        archs=("resnet18", "resnet50"),
    ),
    "prefix_numbered": _release(
        "`f.` over numbered children",
        lambda state: {f"f.{numbered(name)}": value for name, value in without_fc(state).items()},
        lambda name: f"f.{numbered(name)}",
        "f.",
        place=(),
        archs=("resnet18",),
    ),
    "prefix_average": _release(
        "an AveragedModel beside the module it follows",
        lambda state: {
            "net": under("encoder.", slow_copy(without_fc(state))),
            "swa": {"n_averaged": torch.tensor(5), **under("module.encoder.", without_fc(state))},
        },
        "module.encoder.{}".format,
        "swa.encoder.",
        place=("swa",),
        source=SWA,
        archs=("resnet18",),
    ),
    "averaged": Release(
        title="AveragedModel alone",
        format="torchvision",
        build=lambda state: {"n_averaged": torch.tensor(5), **under("module.", state)},
        place=(),
        key="module.{}".format,
        source=SWA,
        archs=("resnet18",),
        lints=("classifier",),
    ),
}


def two(state: State) -> Tree:
    backbone = without_fc(state)
    return {"state_dict": under("student.", backbone) | under("mean_teacher.", slow_copy(backbone))}


REFUSED = {
    "prefix_two": Refusal(
        title="two networks behind unknown prefixes",
        build=two,
        says=("several networks", "--prefix student. or --prefix mean_teacher."),
        source=MODULES,
    ),
    "prefix_and_more": Refusal(
        title="an unknown part beside the network",
        build=lambda state: {"state_dict": under("net.", without_fc(state)) | linear("adapter.", width_of(state), 128)},
        says=("adapter.weight", "take one alone with --prefix net."),
        source=MODULES,
    ),
}
