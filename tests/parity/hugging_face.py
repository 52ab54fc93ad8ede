"""Names of Hugging Face's EoMT weights for ours: the oracle and the model under test get the same numbers."""

import torch
from torch import Tensor

PAIRS = (
    ("query.weight", "queries.weight"),
    ("class_predictor.", "class_head."),
    ("mask_head.fc1.", "mask_head.0."),
    ("mask_head.fc2.", "mask_head.2."),
    ("mask_head.fc3.", "mask_head.4."),
    ("upscale_block.block.", "upscale."),
    (".layernorm2d.", ".norm."),
    ("embeddings.cls_token", "backbone.vit.cls_token"),
    ("embeddings.register_tokens", "backbone.vit.reg_token"),
    ("embeddings.position_embeddings.weight", "backbone.vit.pos_embed"),
    ("embeddings.patch_embeddings.projection.", "backbone.vit.patch_embed.proj."),  # DINOv2
    ("embeddings.patch_embeddings.", "backbone.vit.patch_embed.proj."),  # DINOv3
    ("layernorm.", "backbone.vit.norm."),
    ("layers.", "backbone.vit.blocks."),
    (".attention.out_proj.", ".attn.proj."),
    (".attention.o_proj.", ".attn.proj."),
    (".mlp.up_proj.", ".mlp.fc1."),
    (".mlp.down_proj.", ".mlp.fc2."),
)


def ours(state: dict[str, Tensor], rotary: bool) -> dict[str, Tensor]:
    """Rename a Hugging Face state and fuse its query, key and value projections."""
    scale = ("gamma_1", "gamma_2") if rotary else ("ls1.gamma", "ls2.gamma")
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in ("attn_mask_probs", "criterion.empty_weight"):
            continue
        for theirs, our in (
            *PAIRS,
            (".layer_scale1.lambda1", f".{scale[0]}"),
            (".layer_scale2.lambda1", f".{scale[1]}"),
        ):
            name = name.replace(theirs, our, 1) if theirs[0] == "." or name.startswith(theirs) else name
        out[name] = value[None] if name.endswith("pos_embed") else value
    for name in [name for name in out if ".attention.q_proj." in name]:
        q, k, v = (out.pop(name.replace("q_proj", f"{part}_proj"), None) for part in "qkv")
        if rotary and name.endswith("bias"):
            out[name.replace("attention.q_proj.bias", "attn.q_bias")] = q
            out[name.replace("attention.q_proj.bias", "attn.v_bias")] = v
        else:
            out[name.replace("attention.q_proj", "attn.qkv")] = torch.cat([q, k, v])
    return out
