"""Augment Your Batch: checkpoints of convNet.pytorch, plain ResNets."""

from checkpoint_files import State, Tree, training_state, under

from releases import Release


def build(state: State) -> Tree:
    return {
        "epoch": 90,
        "model": "resnet",
        "config": "{'depth': 50}",
        "state_dict": under("module.", state),
        "optim_state_dict": training_state(state)["optimizer"],
        "best_prec1": 76.0,
    }


RELEASES = {
    "augment_your_batch": Release(
        title="Augment Your Batch",
        format="torchvision",
        build=build,
        place=("state_dict",),
        key="module.{}".format,
        source="eladhoffer/convNet.pytorch: main.py, models/resnet.py",
        lints=("classifier",),
    )
}
