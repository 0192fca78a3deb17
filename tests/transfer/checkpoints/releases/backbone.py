"""A network called `backbone.` that no toolkit has signed."""

from checkpoint_files import State, Tree, linear, slow_copy, under, width_of, without_fc

from releases import Refusal, Release
from releases.lightning_files import lightning, projector

FAMILY = "this project: transfer/checkpoints/declared.py"


def private(state: State) -> Tree:
    """Somebody's own Lightning module."""
    heads = projector("projector.", width_of(state), 2048, 128) | linear("fc.", width_of(state), 10)
    return lightning(under("backbone.", without_fc(state)) | heads)


def two_networks(state: State) -> Tree:
    backbone = without_fc(state)
    return {"state_dict": under("backbone.", backbone) | under("ema_backbone.", slow_copy(backbone))}


def _release(title: str, build, key: str = "backbone.", place=("state_dict",), **more) -> Release:
    return Release(
        title=title, format="backbone", build=build, place=place, key=f"{key}{{}}".format, source=FAMILY, **more
    )


RELEASES = {
    "backbone_private": _release("a private Lightning module", private, archs=("resnet50", "resnet18")),
    "backbone_parallel": _release(
        "a private script, in parallel",
        lambda state: {"state_dict": under("module.backbone.", without_fc(state))},
        "module.backbone.",
    ),
    "backbone_alone": _release(
        "backbone. alone",
        lambda state: under("backbone.", without_fc(state)),
        place=(),
        container="safetensors",
    ),
}

REFUSED = {
    "backbone_two": Refusal(
        title="backbone. beside an unknown second network",
        build=two_networks,
        says=("neither part of the backbone nor known to be dispensable", "ema_backbone."),
        source=FAMILY,
        format="backbone",
    )
}
