"""The same tensors under three projects' names: ours, the authors' and Hugging Face's. Pure functions of states.

Files, configurations and missing weights are others' business. Our names for the backbone are timm's. Renaming
moves whole tensors and cuts or joins matrices: no number changes, so there and back is equal to the bit.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "AUTHORS",
    "AUTHORS_DINOV3",
    "DINOV3",
    "HUGGING_FACE",
    "HUGGING_FACE_DINOV3",
    "VIT",
    "Layout",
    "State",
    "from_ours",
    "to_ours",
    "with_biases",
]

State = dict[str, Tensor]
"""Weights by their names."""
VIT, BLOCK = "backbone.vit", "backbone.vit.blocks.#"
QKV = ("q", "k", "v")


@dataclass(frozen=True)
class Layout:
    """How another project names the weights of EoMT, and how it cuts them."""

    names: tuple[tuple[str, str], ...]
    """Our name and theirs of a weight, or of all that begin so; `#` is a number. The first match counts."""
    mlp: tuple[tuple[str, str], ...] = ()
    """The same for an MLP of two matrices,"""
    gated_mlp: tuple[tuple[str, str], ...] = ()
    """for one of three (SwiGLU),"""
    older: tuple[tuple[str, str], ...] = ()
    """and names that are read but no longer written."""
    dinov3: bool = False
    """The backbone is DINOv3's, which rotates: no table of positions, no bias of the keys."""
    apart: bool = True
    """Query, key and value are three matrices, gate and value of a gated MLP are two; else they are one."""
    flat_positions: bool = False
    """The table of positions has no batch axis."""
    no_weights: tuple[str, ...] = ()
    """Beginnings of what is in their files and is no weight: buffers of loss, annealing and normalisation."""


def to_ours(state: State, layout: Layout) -> State:
    """Rename another project's state. Names that it does not know stay, for the loader to complain about."""
    weights = {name: value for name, value in state.items() if not name.startswith(layout.no_weights)}
    gated = any(".mlp.gate_proj." in name for name in weights)
    rows = [(theirs, mine) for mine, theirs in (*layout.older, *_rows(layout, gated))]
    renamed = {_rename(name, rows): value for name, value in weights.items()}
    if layout.flat_positions and f"{VIT}.pos_embed" in renamed:
        renamed[f"{VIT}.pos_embed"] = renamed[f"{VIT}.pos_embed"][None]
    return _join(renamed, layout) if layout.apart else renamed


def from_ours(state: State, layout: Layout) -> State:
    """Rename our state to another project's names."""
    weights = _cut(with_biases(state) if layout.dinov3 else state, layout) if layout.apart else dict(state)
    if layout.flat_positions:
        weights[f"{VIT}.pos_embed"] = weights[f"{VIT}.pos_embed"][0]
    rows = _rows(layout, gated=any(".mlp.fc1_g." in name for name in weights))
    return {_rename(name, rows): value.contiguous() for name, value in weights.items()}


def _rows(layout: Layout, gated: bool) -> tuple[tuple[str, str], ...]:
    """Give the pairs of names that hold: `up_proj` is the first layer of a plain MLP, or half of a gated one's."""
    return (*(layout.gated_mlp if gated else layout.mlp), *layout.names)


def _rename(name: str, rows: Iterable[tuple[str, str]]) -> str:
    for old, new in rows:
        pattern = re.escape(old).replace(r"\#", r"(\d+)")
        found = re.match(rf"{pattern}(?=\.|$)", name)
        if found:
            number = found[1] if found.groups() else ""
            return new.replace("#", number) + name[found.end() :]
    return name


def _join(state: State, layout: Layout) -> State:
    """Make one matrix of query, key and value, as timm has it, and of a gated MLP's two where DINOv2's are one."""
    joined = dict(state)
    for name in state:
        block, found, kind = name.partition(".attn.q.")
        if found and all(f"{block}.attn.{part}.{kind}" in state for part in QKV):
            parts = [joined.pop(f"{block}.attn.{part}.{kind}") for part in QKV]
            joined[f"{block}.attn.qkv.{kind}"] = torch.cat(parts)
        elif found and kind == "bias" and layout.dinov3:
            for part in "qv":
                if f"{block}.attn.{part}.bias" in joined:
                    joined[f"{block}.attn.{part}_bias"] = joined.pop(f"{block}.attn.{part}.bias")
        block, found, kind = name.partition(".mlp.fc1_g.")
        if found and not layout.dinov3 and f"{block}.mlp.fc1_x.{kind}" in state:
            joined[f"{block}.mlp.fc1.{kind}"] = torch.cat(
                [joined.pop(f"{block}.mlp.fc1_{part}.{kind}") for part in "gx"]
            )
    return joined


def _cut(state: State, layout: Layout) -> State:
    """Undo `_join`."""
    cut: State = {}
    for name, value in state.items():
        block, found, kind = name.partition(".attn.qkv.")
        bias = re.fullmatch(r"(.+\.attn)\.([qv])_bias", name)
        if found:
            cut |= {f"{block}.attn.{part}.{kind}": each for part, each in zip(QKV, value.chunk(3), strict=True)}
        elif bias:
            cut[f"{bias[1]}.{bias[2]}.bias"] = value
        elif ".mlp.fc1." in name and not layout.dinov3 and _is_gated(state, name):
            gate, up = value.chunk(2)
            cut |= {name.replace(".fc1.", ".fc1_g."): gate, name.replace(".fc1.", ".fc1_x."): up}
        else:
            cut[name] = value
    return cut


def with_biases(state: State) -> State:
    """Add biases of queries and values, zeros, where timm's DINOv3 goes without: other projects' have them."""
    biases: State = {}
    for name, value in state.items():
        block, found, _ = name.partition(".attn.qkv.weight")
        if found and f"{block}.attn.q_bias" not in state:
            biases |= {f"{block}.attn.{part}_bias": torch.zeros(value.shape[1]) for part in "qv"}
    return {**state, **biases}


def _is_gated(state: State, name: str) -> bool:
    """Tell whether an MLP's first matrix is two: then it has twice the rows that the second has columns."""
    block = name.partition(".mlp.")[0]
    return len(state[f"{block}.mlp.fc1.weight"]) == 2 * state[f"{block}.mlp.fc2.weight"].shape[1]


def _heads(prefix: str) -> tuple[tuple[str, str], ...]:
    """Name what is not the backbone as the authors do."""
    kept = tuple((part, prefix + part) for part in ("class_head", "mask_head", "upscale"))
    return (("queries.weight", f"{prefix}q.weight"), *kept)


def _attention(blocks: str, projection: str) -> tuple[tuple[str, str], ...]:
    """Name the attention of a block as Hugging Face does."""
    apart = tuple((f"{BLOCK}.attn.{part}", f"{blocks}.#.attention.{part}_proj") for part in QKV)
    return (*apart, (f"{BLOCK}.attn.proj", f"{blocks}.#.attention.{projection}"))


def _gated_mlp(blocks: str) -> tuple[tuple[str, str], ...]:
    """Name a gated MLP as Hugging Face does."""
    parts = (("fc1_g", "gate_proj"), ("fc1_x", "up_proj"), ("fc2", "down_proj"))
    return tuple((f"{BLOCK}.mlp.{mine}", f"{blocks}.#.mlp.{theirs}") for mine, theirs in parts)


def _dinov3(embeddings: str, blocks: str, norm: str) -> tuple[tuple[str, str], ...]:
    """Name a DINOv3 backbone as Hugging Face does, given where its parts stand."""
    return (
        (f"{VIT}.cls_token", f"{embeddings}.cls_token"),
        (f"{VIT}.reg_token", f"{embeddings}.register_tokens"),
        (f"{VIT}.patch_embed.proj", f"{embeddings}.patch_embeddings"),
        *_attention(blocks, "o_proj"),
        *((f"{BLOCK}.gamma_{part}", f"{blocks}.#.layer_scale{part}.lambda1") for part in (1, 2)),
        (BLOCK, f"{blocks}.#"),
        (f"{VIT}.norm", norm),
    )


def _dinov3_mlp(blocks: str) -> tuple[tuple[str, str], ...]:
    return ((f"{BLOCK}.mlp.fc1", f"{blocks}.#.mlp.up_proj"), (f"{BLOCK}.mlp.fc2", f"{blocks}.#.mlp.down_proj"))


AUTHORS_VIT = "network.encoder.backbone"
AUTHORS_BLOCKS = f"{AUTHORS_VIT}.blocks"
AUTHORS = Layout(
    (*_heads("network."), (VIT, AUTHORS_VIT)),
    apart=False,
    no_weights=("network.attn_mask_probs", "network.encoder.pixel_", "criterion."),
)
AUTHORS_DINOV3 = Layout(
    (*_heads("network."), *_dinov3(f"{AUTHORS_VIT}.patch_embed", AUTHORS_BLOCKS, f"{AUTHORS_VIT}.norm")),
    mlp=_dinov3_mlp(AUTHORS_BLOCKS),
    gated_mlp=_gated_mlp(AUTHORS_BLOCKS),
    dinov3=True,
    no_weights=(*AUTHORS.no_weights, f"{AUTHORS_VIT}.rope", f"{AUTHORS_VIT}.patch_embed.mask_token"),
)
HUGGING_FACE_HEADS = (
    ("queries.weight", "query.weight"),
    ("class_head", "class_predictor"),
    *((f"mask_head.{place}", f"mask_head.fc{number}") for place, number in ((0, 1), (2, 2), (4, 3))),
    ("upscale.#.norm", "upscale_block.block.#.layernorm2d"),
    ("upscale", "upscale_block.block"),
)
HUGGING_FACE = Layout(
    (
        *HUGGING_FACE_HEADS,
        (f"{VIT}.cls_token", "embeddings.cls_token"),
        (f"{VIT}.reg_token", "embeddings.register_tokens"),
        (f"{VIT}.pos_embed", "embeddings.position_embeddings.weight"),
        (f"{VIT}.patch_embed.proj", "embeddings.patch_embeddings.projection"),
        *_attention("layers", "out_proj"),
        *((f"{BLOCK}.ls{part}.gamma", f"layers.#.layer_scale{part}.lambda1") for part in (1, 2)),
        (BLOCK, "layers.#"),
        (f"{VIT}.norm", "layernorm"),
    ),
    gated_mlp=_gated_mlp("layers"),
    older=((f"{BLOCK}.mlp.fc1", "layers.#.mlp.weights_in"), (f"{BLOCK}.mlp.fc2", "layers.#.mlp.weights_out")),
    flat_positions=True,
    no_weights=("attn_mask_probs", "criterion."),
)
HUGGING_FACE_DINOV3 = Layout(
    (*HUGGING_FACE_HEADS, *_dinov3("embeddings", "layers", "layernorm")),
    mlp=_dinov3_mlp("layers"),
    dinov3=True,
    no_weights=HUGGING_FACE.no_weights,
)
DINOV3 = Layout(
    _dinov3("embeddings", "layer", "norm"),
    mlp=_dinov3_mlp("layer"),
    gated_mlp=_gated_mlp("layer"),
    dinov3=True,
    no_weights=("embeddings.mask_token", "rope_embeddings."),
)
"""Not EoMT, but the backbone as Meta publishes it on Hugging Face, which released models are differences from."""
