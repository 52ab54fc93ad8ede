"""Complete settings of training runs, one function each. Free of torch.

A variant is its difference: `dataclasses.replace(small(), steps=300)`. Settings are the paper's (appendix A).
"""

from collections.abc import Callable
from dataclasses import replace

from eomt.config import AugmentConfig, DataConfig, LossConfig, ModelConfig, OptimConfig, Recipe, Thresholds

__all__ = ["RECIPES", "base", "giant", "large", "nuclei", "small"]


def large() -> Recipe:
    """EoMT-L with DINOv2, view of 640 pixels, 12 epochs, batch 16: the paper's COCO panoptic run."""
    return Recipe(
        task="panoptic",
        epochs=12.0,
        model=ModelConfig(
            "vit_large_patch14_reg4_dinov2", image_size=(640, 640), num_queries=200, num_joint_blocks=4
        ),
    )


def small() -> Recipe:
    """EoMT-S with DINOv2: three joint blocks, otherwise as `large`."""
    return _sized("vit_small_patch14_reg4_dinov2", num_joint_blocks=3)


def base() -> Recipe:
    """EoMT-B with DINOv2: three joint blocks, otherwise as `large`."""
    return _sized("vit_base_patch14_reg4_dinov2", num_joint_blocks=3)


def giant() -> Recipe:
    """EoMT-g with DINOv2: five joint blocks, otherwise as `large`."""
    return _sized("vit_giant_patch14_reg4_dinov2", num_joint_blocks=5)


def nuclei() -> Recipe:
    """Nuclei in microscope images on two processor cores: docs/nuclei.md has command, cost and scores."""
    return Recipe(
        task="instance",
        steps=4200,
        evaluate_every=2.5,
        model=ModelConfig(
            "vit_small_patch14_dinov2",
            image_size=(336, 336),
            depth=6,
            num_queries=150,
            num_joint_blocks=2,
        ),
        data=DataConfig(batch_size=2, workers=1),
        augment=AugmentConfig(vertical_flip=0.5, scale=(0.8, 1.6), color=True),
        loss=LossConfig(num_points=2048),
        optim=OptimConfig(lr=2e-4),
        thresholds=Thresholds(max_detections=500),
    )


def _sized(backbone: str, num_joint_blocks: int) -> Recipe:
    recipe = large()
    return replace(recipe, model=replace(recipe.model, backbone=backbone, num_joint_blocks=num_joint_blocks))


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe for recipe in (small, base, large, giant, nuclei)
}
"""Recipes by the name that the command line knows them by."""
