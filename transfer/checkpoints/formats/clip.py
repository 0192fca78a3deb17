"""CLIP's image and text towers, which are refused.

Layout: a state dict, bare or under `state_dict`, perhaps with `module.`; `visual.` is the image tower and
`transformer.` the text tower, both of blocks called `resblocks.N` with `ln_1`, `attn.in_proj_weight`, `mlp.c_fc`
(openai/CLIP: clip/model.py; mlfoundations/open_clip: src/open_clip/transformer.py), or `vision_model.` and
`text_model.` (huggingface/transformers: models/clip/modeling_clip.py). A norm stands before the first block, patches
have no bias, and which of two activations it was (GELU, or x · sigmoid(1.702 x)) leaves no trace in the tensors. The
ResNets among them end in an attention over positions, `visual.attnpool.`.
"""

from transfer.checkpoints.rules import Match, Mismatch, Tree, key_name, refused, weights_under

_SIGNS = ("resblocks.0.ln_1.", "visual.attnpool.", "vision_model.encoder.layers.0.layer_norm1.")


def recognise(tree: Tree) -> Match | Mismatch:
    """A block of either tower, at the top or under a usual key."""
    for weights in (tree, *(weights_under(tree, key) or {} for key in ("state_dict", "model"))):
        if any(sign in key_name(name) for name in weights for sign in _SIGNS):
            return Match("CLIP")
    return Mismatch(f"no name has {' or '.join(_SIGNS)} in it")


FORMAT = refused(
    "clip",
    recognise,
    "is a CLIP model: its image tower has a norm before the first block, or an attention behind the last, and an "
    "activation that no tensor shows, and no network here has these",
    "CLIP is not supported; docs/checkpoints.md lists the files that are",
)
