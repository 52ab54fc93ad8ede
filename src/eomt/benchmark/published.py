"""What the paper measured (arXiv 2503.19108, tables 1 and 3): COCO val, DINOv2, 640 x 640 pixels.

Parameters in millions, multiply-adds in G, images a second on an H100 (compiled, batch 1), PQ in percent.
None of it was measured here.
"""

from typing import NamedTuple

from eomt.config import Kind

__all__ = ["SIZES", "STEPS", "Figures", "Step"]


class Figures(NamedTuple):
    """One model's; None where the paper gives no number."""

    parameters: float | None
    multiply_adds: float
    fps: float
    pq: float


class Step(NamedTuple):
    """A rung of the paper's ladder."""

    name: str
    kind: Kind
    is_masked: bool
    """Whether attention is masked in prediction."""
    large: Figures
    """Of ViT-L."""


STEPS = (
    Step("0 ViT-Adapter + Mask2Former", "mask2former_vit_adapter", True, Figures(349, 830, 29, 57.1)),
    Step("1 without ViT-Adapter", "mask2former", True, Figures(342, 700, 36, 56.7)),
    Step("2 without pixel decoder", "mask2former_no_pixel_decoder", True, Figures(337, 685, 61, 56.9)),
    Step("3 single scale", "mask2former_single_scale", True, Figures(328, 673, 64, 56.7)),
    Step("4 EoMT, masked", "eomt", True, Figures(316, 828, 61, 56.2)),
    Step("5 EoMT", "eomt", False, Figures(316, 669, 128, 56.0)),
)

SIZES = {
    "small": (Figures(47, 165, 33, 50.5), Figures(None, 68, 330, 44.7)),
    "base": (Figures(121, 347, 32, 54.4), Figures(None, 216, 261, 50.6)),
    "large": (Figures(349, 830, 29, 57.1), Figures(316, 669, 128, 56.0)),
    "giant": (Figures(1209, 2510, 20, 57.7), Figures(None, 2261, 55, 57.0)),
}
"""Of each size, steps 0 and 5."""
