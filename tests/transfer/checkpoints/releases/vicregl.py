"""VICRegL's full checkpoints with a ResNet-50."""

from checkpoint_files import State, Tree, bare_norm, linear, training_state, under, width_of, without_fc

from releases import Release
from transfer.checkpoints.backbone import InputSpec


def _expander(inputs: int, size: int) -> State:
    layers: State = {}
    for index, wide in ((0, inputs), (3, size)):
        layers |= linear(f"{index}.", wide, size) | bare_norm(f"{index + 1}.", size)
    return layers | linear("6.", size, size, bias=False)


def build(state: State, heads: tuple[str, ...]) -> Tree:
    width = width_of(state)
    model = under("module.backbone.", without_fc(state)) | linear("module.classifier.", width, 1000)
    for head in heads:
        model |= under(f"module.{head}.", _expander(width, 512 if head.startswith("maps") else 8192))
    return {"model": model, **training_state(state)}


def _release(title: str, heads: tuple[str, ...]) -> Release:
    return Release(
        title=title,
        format="vicregl",
        build=lambda state: build(state, heads),
        place=("model",),
        key="module.backbone.{}".format,
        source="facebookresearch/VICRegL: main_vicregl.py, utils.py, transforms.py",
        input=InputSpec(std=(0.228, 0.224, 0.225)),
        lints=("normalisation",),
    )


RELEASES = {
    "vicregl": _release("VICRegL, full checkpoint", ("maps_projector", "projector")),
    "vicregl_global": _release("VICRegL trained with alpha 1", ("projector",)),
}
