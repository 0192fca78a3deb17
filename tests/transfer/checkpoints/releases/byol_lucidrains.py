"""BYOL by lucidrains: the state dict of the package's wrapper, bare and inside its Lightning example."""

from checkpoint_files import State, Tree, bare_norm, linear, slow_copy, training_state, under, width_of

from releases import Release


def head(prefix: str, inputs: int) -> State:
    layers = linear("0.", inputs, 4096) | bare_norm("1.", 4096) | linear("3.", 4096, 256)
    return under(prefix, layers)


def wrapper(state: State, prefix: str = "") -> State:
    """One storage has two names, as in the module; a test that spoils one name spoils that name alone."""
    width = width_of(state)
    projector = head("projector.", width)
    return under(
        prefix,
        {
            **under("net.", state),
            **under("online_encoder.", under("net.", state) | projector),
            **under("target_encoder.", under("net.", slow_copy(state)) | projector),
            **head("online_predictor.", 256),
        },
    )


def _release(title: str, prefix: str, source: str) -> Release:
    def build(state: State) -> Tree:
        if not prefix:
            return dict(wrapper(state))
        return {"state_dict": wrapper(state, prefix), "global_step": 5, **training_state(state)}

    return Release(
        title=title,
        format="byol_lucidrains",
        build=build,
        place=("state_dict",) if prefix else (),
        key=f"{prefix}net.{{}}".format,
        source=source,
        branch="online",
        others=("target",),
        archs=("resnet50", "resnet18"),
        lints=("supervised-start",),
    )


RELEASES = {
    "byol_lucidrains": _release("BYOL (lucidrains)", "", "lucidrains/byol-pytorch: byol_pytorch/byol_pytorch.py"),
    "byol_lucidrains_lightning": _release(
        "BYOL (lucidrains), Lightning example", "learner.", "lucidrains/byol-pytorch: examples/lightning/train.py"
    ),
}
