"""MoCo v1 and v2, and what follows their layout."""

from checkpoint_files import State, Tree, filled, linear, mlp, slow_copy, training_state, under, width_of, without_fc

from releases import Release


def build(state: State, version: int, negatives: int = 65536) -> Tree:
    width = width_of(state)
    head = linear("fc.", width, 128) if version == 1 else mlp("fc.", width, width, 128)
    encoder = without_fc(state)
    return {
        "arch": "resnet50",
        "state_dict": {
            **under("module.encoder_q.", encoder | head),
            **under("module.encoder_k.", slow_copy(encoder) | head),
            "module.queue": filled(128, negatives),
            "module.queue_ptr": filled(1),
        },
        **training_state(state),
    }


def build_align_uniform(state: State) -> Tree:
    tree = build(state, 2)
    tree["state_dict"]["module.scalar_label"] = filled()
    return tree


def _release(title: str, build, source: str, **more) -> Release:
    return Release(
        title=title,
        format="moco",
        build=build,
        place=("state_dict",),
        key="module.encoder_q.{}".format,
        source=source,
        branch="query",
        others=("key",),
        **more,
    )


MOCO, PCL = "facebookresearch/moco: main_moco.py, moco/builder.py", "salesforce/PCL: pcl/builder.py, main_pcl.py"

RELEASES = {
    "moco_v1": _release("MoCo v1", lambda state: build(state, 1), MOCO, container="legacy"),
    "moco_v2": _release("MoCo v2", lambda state: build(state, 2), MOCO),
    "pcl_v1": _release("PCL v1", lambda state: build(state, 1, 16384), PCL, container="legacy"),
    "pcl_v2": _release("PCL v2", lambda state: build(state, 2, 16384), PCL, container="legacy"),
    "align_uniform": _release("AlignUniform", build_align_uniform, "SsnL/moco_align_uniform: moco/builder.py"),
}
