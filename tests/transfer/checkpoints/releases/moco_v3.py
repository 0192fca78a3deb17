"""MoCo v3 with a ResNet."""

from checkpoint_files import State, Tree, bare_norm, linear, slow_copy, training_state, under, width_of, without_fc

from releases import Release


def _head(inputs: int) -> State:
    return linear("0.", inputs, 4096, bias=False) | bare_norm("1.", 4096) | linear("3.", 4096, 256, bias=False)


def build(state: State) -> Tree:
    encoder = without_fc(state)
    projector = under("fc.", _head(width_of(state)) | bare_norm("4.", 256, affine=False))
    return {
        "arch": "resnet50",
        "state_dict": {
            **under("module.base_encoder.", encoder | projector),
            **under("module.momentum_encoder.", slow_copy(encoder) | projector),
            **under("module.predictor.", _head(256)),
        },
        **training_state(state),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000},
    }


RELEASES = {
    "moco_v3": Release(
        title="MoCo v3",
        format="moco_v3",
        build=build,
        place=("state_dict",),
        key="module.base_encoder.{}".format,
        source="facebookresearch/moco-v3: main_moco.py, moco/builder.py",
        branch="base",
        others=("momentum",),
    )
}
