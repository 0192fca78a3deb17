"""Barlow Twins and VICReg: training checkpoints; their released backbones are plain ResNets."""

from checkpoint_files import State, Tree, filled, mlp, training_state, under, width_of, without_fc

from releases import Release


def build(state: State, method: str) -> Tree:
    model = under("module.backbone.", without_fc(state))
    model |= mlp("module.projector.", width_of(state), 8192, 8192, 8192, bias=method == "vicreg", between_bn=True)
    if method == "barlow":
        model |= {f"module.bn.{name}": filled(8192) for name in ("running_mean", "running_var")}
    return {"model": model, **training_state(state)}


def _release(title: str, format: str, method: str, source: str) -> Release:
    return Release(
        title=title,
        format=format,
        build=lambda state: build(state, method),
        place=("model",),
        key="module.backbone.{}".format,
        source=source,
    )


RELEASES = {
    "barlow": _release(
        "Barlow Twins, training checkpoint", "barlow_twins", "barlow", "facebookresearch/barlowtwins: main.py"
    ),
    "vicreg": _release("VICReg, training checkpoint", "vicreg", "vicreg", "facebookresearch/vicreg: main_vicreg.py"),
}
