"""OBoW: student in torchvision's layout, feature extractor, and whole checkpoints."""

from checkpoint_files import State, Tree, bare_norm, filled, linear, slow_copy, under, width_of, without_fc

from releases import Release


def block_name(name: str) -> str:
    """torchvision's name → OBoW's."""
    for ours, theirs in (("conv1.", "0.Conv."), ("bn1.", "0.bn."), ("layer", "")):
        if name.startswith(ours):
            return "_feature_blocks." + theirs + name.removeprefix(ours)
    raise AssertionError(name)


def blocks(state: State) -> State:
    return {block_name(name): tensor for name, tensor in without_fc(state).items()}


def build_torchvision(state: State) -> Tree:
    return {"network": without_fc(state) | linear("fc.", width_of(state), 8192)}


def build_extractor(state: State) -> Tree:
    return {"epoch": 200, "network": blocks(state), "meters": None}


def build_whole(state: State) -> Tree:
    width = width_of(state)
    network = under("feature_extractor.", blocks(state))
    network |= under("feature_extractor_teacher.", blocks(slow_copy(state)))
    for level, channels in enumerate((width // 2, width)):
        words = f"bow_extractor.bow_extractor.{level}._"
        network |= {f"{words}embedding": filled(8192, channels), f"{words}embedding_ptr": filled(1)}
        network |= {f"{words}track_num_batches": filled(1), f"{words}min_distance_mean": filled(1)}
        weights = f"bow_predictor.layers_w.{level}.b{level}_"
        network |= linear(f"{weights}fc.", channels, 2 * width, bias=False) | bare_norm(f"{weights}bn.", 2 * width)
        network |= linear(f"{weights}last_layer.", 2 * width, width)
    network |= {"bow_predictor.scale": filled(2), "_alpha": filled(1), "_iteration": filled(1)}
    network |= bare_norm("linear_classifier.layers.batch_norm.", width, affine=False)
    network |= linear("linear_classifier.layers.prediction_layer.", width, 1000)
    return {"epoch": 200, "network": under("module.", network), "meters": None}


RELEASES = {
    "obow": Release(
        title="OBoW, feature extractor as released",
        format="obow",
        build=build_torchvision,
        place=("network",),
        key=str,
        source="valeoai/obow: obow/builder_obow.py, save_feature_extractor_in_torchvision_format",
        container="legacy",
    ),
    "obow_extractor": Release(
        title="OBoW, feature extractor as trained",
        format="obow",
        build=build_extractor,
        place=("network",),
        key=block_name,
        source="valeoai/obow: obow/builder_obow.py, obow/feature_extractor.py",
    ),
    "obow_full": Release(
        title="OBoW, whole checkpoint",
        format="obow",
        build=build_whole,
        place=("network",),
        key=lambda name: "module.feature_extractor." + block_name(name),
        source="valeoai/obow: obow/builder_obow.py, obow/solver.py, obow/classification.py",
        branch="student",
        others=("teacher",),
        container="legacy",
    ),
}
