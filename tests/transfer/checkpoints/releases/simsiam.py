"""SimSiam."""

from checkpoint_files import State, Tree, bare_norm, linear, training_state, under, width_of, without_fc

from releases import Release


def build(state: State) -> Tree:
    width = width_of(state)
    projector = linear("0.", width, width, bias=False) | bare_norm("1.", width)
    projector |= linear("3.", width, width, bias=False) | bare_norm("4.", width)
    projector |= linear("6.", width, 2048) | bare_norm("7.", 2048, affine=False)
    predictor = linear("0.", 2048, 512, bias=False) | bare_norm("1.", 512) | linear("3.", 512, 2048)
    return {
        "arch": "resnet50",
        "state_dict": {
            **under("module.encoder.", without_fc(state) | under("fc.", projector)),
            **under("module.predictor.", predictor),
        },
        **training_state(state),
    }


RELEASES = {
    "simsiam": Release(
        title="SimSiam",
        format="simsiam",
        build=build,
        place=("state_dict",),
        key="module.encoder.{}".format,
        source="facebookresearch/simsiam: main_simsiam.py, simsiam/builder.py",
    )
}
