"""MoCo v1 and v2, and what follows their layout."""

from checkpoint_files import State, Tree, filled, mlp, slow_copy, training_state, under, width_of, without_fc

from releases import Release


def build(state: State, version: int) -> Tree:
    width = width_of(state)
    head = {"fc.weight": filled(128, width), "fc.bias": filled(128)} if version == 1 else mlp("fc.", width, width, 128)
    encoder = without_fc(state)
    return {
        "arch": "resnet50",
        "state_dict": {
            **under("module.encoder_q.", encoder | head),
            **under("module.encoder_k.", slow_copy(encoder) | head),
            "module.queue": filled(128, 65536),
            "module.queue_ptr": filled(1),
        },
        **training_state(state),
    }


def _release(title: str, version: int, source: str, **more) -> Release:
    return Release(
        title=title,
        format="moco",
        build=lambda state: build(state, version),
        place=("state_dict",),
        key="module.encoder_q.{}".format,
        source=source,
        branch="query",
        others=("key",),
        **more,
    )


RELEASES = {
    "moco_v1": _release("MoCo v1", 1, "facebookresearch/moco: main_moco.py, moco/builder.py", container="legacy"),
    "moco_v2": _release("MoCo v2", 2, "facebookresearch/moco: main_moco.py, moco/builder.py"),
}
