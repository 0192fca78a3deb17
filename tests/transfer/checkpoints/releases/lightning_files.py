"""The container that Lightning's trainer writes, for the toolkits that are built on it; no releases of its own."""

from itertools import pairwise

from checkpoint_files import State, Tree, bare_norm, filled, linear, training_state


def lightning(state_dict: State, **more: object) -> Tree:
    """A checkpoint of Lightning 2, as `trainer.save_checkpoint` makes it (trainer/connectors/checkpoint_connector.py).

    ModelCheckpoint keeps its best score as a tensor.
    """
    progress = {"total": {"ready": 10, "completed": 10}, "current": {"ready": 0, "completed": 0}}
    scores = {"monitor": "loss", "best_model_score": filled(), "best_k_models": {"last.ckpt": filled()}}
    return {
        "epoch": 99,
        "global_step": 500400,
        "pytorch-lightning_version": "2.0.2",
        "state_dict": state_dict,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": progress}, "validate_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": scores, "LearningRateMonitor": {}},
        "optimizer_states": [training_state(state_dict)["optimizer"]],
        "lr_schedulers": [{"last_epoch": 99, "_last_lr": [0.0]}],
        **more,
    }


def projector(prefix: str, *sizes: int, last_norm: bool = False, affine: bool = True) -> State:
    """Linear, batch norm, ReLU, …, linear, as nn.Sequential numbers it; `last_norm` ends it with a batch norm."""
    head: State = {}
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        last = index == len(sizes) - 2
        head |= linear(f"{prefix}{3 * index}.", inputs, outputs)
        if not last or last_norm:
            head |= bare_norm(f"{prefix}{3 * index + 1}.", outputs, affine=affine or not last)
    return head
