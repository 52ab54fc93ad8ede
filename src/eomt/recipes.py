"""Complete settings of training runs, one function each. Free of torch.

A variant is its difference: `dataclasses.replace(small(), steps=300)`. `small`, `base`, `large`, `giant` and
`nuclei` are for your own data. The others are the published configurations, named DATASET_TASK_SIZE_VIEW, with
`_2x` for twice the epochs and `_dinov3` for that backbone. Their scores are the authors' (arXiv 2503.19108 and its
model zoo), not measured here. So are FPS, on an H100, compiled; of DINOv3 by default and with max-autotune.
Parameters are the published ones, where there are any, and agree with a count to less than 1 M. docs/recipes.md
says where the authors' code and ours differ.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from eomt.config import AugmentConfig, DataConfig, LossConfig, ModelConfig, OptimConfig, Recipe, Thresholds

__all__ = [
    "OWN_DATA",
    "PUBLISHED",
    "RECIPES",
    "ade20k_panoptic_giant_640",
    "ade20k_panoptic_giant_1280",
    "ade20k_panoptic_large_640",
    "ade20k_panoptic_large_1280",
    "ade20k_semantic_large_512",
    "ade20k_semantic_large_512_dinov3",
    "base",
    "cityscapes_semantic_large_1024",
    "coco_instance_large_640",
    "coco_instance_large_640_dinov3",
    "coco_instance_large_1280",
    "coco_instance_large_1280_dinov3",
    "coco_panoptic_base_640",
    "coco_panoptic_base_640_2x",
    "coco_panoptic_base_640_2x_dinov3",
    "coco_panoptic_giant_640",
    "coco_panoptic_giant_1280",
    "coco_panoptic_large_640",
    "coco_panoptic_large_640_dinov3",
    "coco_panoptic_large_1280",
    "coco_panoptic_large_1280_dinov3",
    "coco_panoptic_small_640",
    "coco_panoptic_small_640_2x",
    "coco_panoptic_small_640_2x_dinov3",
    "giant",
    "large",
    "nuclei",
    "small",
    "with_batch_size",
]

# For one's own data


def large() -> Recipe:
    """EoMT-L with DINOv2, view of 640 pixels, 12 epochs, batch 16: as the paper trained on COCO panoptic."""
    return Recipe(
        epochs=12.0,
        model=ModelConfig(
            "vit_large_patch14_reg4_dinov2", image_size=(640, 640), num_queries=200, num_joint_blocks=4
        ),
    )


def small() -> Recipe:
    """EoMT-S with DINOv2: three joint blocks, otherwise as `large`."""
    return _changed(large(), model={"backbone": "vit_small_patch14_reg4_dinov2", "num_joint_blocks": 3})


def base() -> Recipe:
    """EoMT-B with DINOv2: three joint blocks, otherwise as `large`."""
    return _changed(large(), model={"backbone": "vit_base_patch14_reg4_dinov2", "num_joint_blocks": 3})


def giant() -> Recipe:
    """EoMT-g with DINOv2: five joint blocks, otherwise as `large`."""
    return _changed(large(), model={"backbone": "vit_giant_patch14_reg4_dinov2", "num_joint_blocks": 5})


def nuclei() -> Recipe:
    """Nuclei in microscope images on a processor core: docs/nuclei.md has command, cost and scores.

    Images differ in size by a factor of five, so all are shown at one magnification.
    """
    return Recipe(
        task="instance",
        steps=2900,
        evaluate_every=11.0,
        model=ModelConfig(
            "vit_small_patch14_dinov2",
            image_size=(168, 168),
            zoom=1.5,
            patch_size=14,
            depth=8,
            num_queries=64,
            num_joint_blocks=3,
            num_upscale_blocks=2,
        ),
        data=DataConfig(batch_size=4, workers=1),
        augment=AugmentConfig(vertical_flip=0.5, scale=(0.7, 1.5), color=True),
        loss=LossConfig(num_points=2048),
        optim=OptimConfig(lr=2e-4, ema=0.998),
        thresholds=Thresholds(duplicate=0.5, max_detections=500),
    )


def _changed(recipe: Recipe, **changes: Any) -> Recipe:
    """Replace settings; those of a part (model, augment, optim, ...) are named in a dictionary."""
    return replace(
        recipe,
        **{
            name: replace(getattr(recipe, name), **value) if isinstance(value, dict) else value
            for name, value in changes.items()
        },
    )


def _coco_panoptic(recipe: Recipe) -> Recipe:
    return _changed(recipe, task="panoptic", data={"format": "coco-panoptic"})


def _ade20k_panoptic(recipe: Recipe) -> Recipe:
    return _changed(recipe, epochs=31.0, augment={"color": True}, data={"format": "ade20k-panoptic"})


def _dinov3(recipe: Recipe) -> Recipe:
    """Put DINOv3 in the place of DINOv2: twice the rate, undecayed joint blocks, a longer warm-up.

    Query and value biases are trained, hence timm's `qkvb` backbones, and rotary coordinates rescaled, as in the
    authors' code.
    """
    backbone = recipe.model.backbone.replace("patch14_reg4_dinov2", "patch16_dinov3_qkvb")
    return _changed(
        recipe,
        model={"backbone": backbone, "rope_rescale": 2.0},
        optim={
            "lr": 2e-4,
            "undecayed_blocks": recipe.model.num_joint_blocks,
            "warmup": (2000, 3000),
            "anneal_first_in_warmup": recipe.task != "instance",
        },
    )


# COCO panoptic, DINOv2


def coco_panoptic_small_640() -> Recipe:
    """EoMT-S, DINOv2, COCO panoptic, view 640, 12 epochs: PQ 44.7 (paper, table 3).

    Cost: 24 M parameters, 68 GFLOPs, 330 FPS.
    No weights of this run were released.

    eomt train coco_panoptic_small_640 --data coco --out runs/coco_panoptic_small_640
    """
    return _coco_panoptic(small())


def coco_panoptic_small_640_2x() -> Recipe:
    """EoMT-S, DINOv2, COCO panoptic, view 640, 24 epochs: PQ 46.7 (model zoo).

    Cost: 24 M parameters, 68 GFLOPs, 330 FPS.

    eomt train coco_panoptic_small_640_2x --data coco --out runs/coco_panoptic_small_640_2x
    """
    return _changed(coco_panoptic_small_640(), epochs=24.0)


def coco_panoptic_base_640() -> Recipe:
    """EoMT-B, DINOv2, COCO panoptic, view 640, 12 epochs: PQ 50.6 (paper, table 3).

    Cost: 93 M parameters, 216 GFLOPs, 261 FPS.
    No weights of this run were released.

    eomt train coco_panoptic_base_640 --data coco --out runs/coco_panoptic_base_640
    """
    return _coco_panoptic(base())


def coco_panoptic_base_640_2x() -> Recipe:
    """EoMT-B, DINOv2, COCO panoptic, view 640, 24 epochs: PQ 51.6 (model zoo).

    Cost: 93 M parameters, 216 GFLOPs, 261 FPS.

    eomt train coco_panoptic_base_640_2x --data coco --out runs/coco_panoptic_base_640_2x
    """
    return _changed(coco_panoptic_base_640(), epochs=24.0)


def coco_panoptic_large_640() -> Recipe:
    """EoMT-L, DINOv2, COCO panoptic, view 640, 12 epochs: PQ 56.0 (paper, table 4).

    Cost: 316 M parameters, 669 GFLOPs, 128 FPS; the authors trained 6 hours on four H100, 26 GB each.

    eomt train coco_panoptic_large_640 --data coco --out runs/coco_panoptic_large_640
    """
    return _coco_panoptic(large())


def coco_panoptic_large_1280() -> Recipe:
    """EoMT-L, DINOv2, COCO panoptic, view 1280, 12 epochs: PQ 58.3 (paper, table 4).

    Cost: 322 M parameters, 4146 GFLOPs, 30 FPS.

    eomt train coco_panoptic_large_1280 --data coco --out runs/coco_panoptic_large_1280
    """
    return _changed(coco_panoptic_large_640(), model={"image_size": (1280, 1280)})


def coco_panoptic_giant_640() -> Recipe:
    """EoMT-g, DINOv2, COCO panoptic, view 640, 12 epochs: PQ 57.0 (paper, table 4).

    Cost: 1164 M parameters, 2261 GFLOPs, 55 FPS.

    eomt train coco_panoptic_giant_640 --data coco --out runs/coco_panoptic_giant_640
    """
    return _coco_panoptic(giant())


def coco_panoptic_giant_1280() -> Recipe:
    """EoMT-g, DINOv2, COCO panoptic, view 1280, 12 epochs: PQ 59.2 (paper, table 4).

    Cost: 1171 M parameters, 12712 GFLOPs, 12 FPS.

    eomt train coco_panoptic_giant_1280 --data coco --out runs/coco_panoptic_giant_1280
    """
    return _changed(coco_panoptic_giant_640(), model={"image_size": (1280, 1280)})


# COCO instance, DINOv2


def coco_instance_large_640() -> Recipe:
    """EoMT-L, DINOv2, COCO instance, view 640, 12 epochs: AP 45.2 (paper, table 6, by pycocotools).

    Cost: 316 M parameters, 128 FPS.

    eomt train coco_instance_large_640 --data coco --out runs/coco_instance_large_640
    """
    return _changed(
        coco_panoptic_large_640(), task="instance", evaluate_every=2.0, data={"format": "coco-instance"}
    )


def coco_instance_large_1280() -> Recipe:
    """EoMT-L, DINOv2, COCO instance, view 1280, 12 epochs: AP 48.8 (paper, table 6, by pycocotools).

    Cost: 322 M parameters, 30 FPS.

    eomt train coco_instance_large_1280 --data coco --out runs/coco_instance_large_1280
    """
    return _changed(coco_instance_large_640(), model={"image_size": (1280, 1280)})


# ADE20K panoptic, DINOv2


def ade20k_panoptic_large_640() -> Recipe:
    r"""EoMT-L, DINOv2, ADE20K panoptic, view 640, 31 epochs from COCO: PQ 50.6 (paper, table 4).

    Cost: 316 M parameters, 128 FPS.
    It starts from a COCO panoptic model, by `--init-from`, with a new class head.

    eomt train ade20k_panoptic_large_640 --data ade20k \
        --init-from runs/coco_panoptic_large_640 --out runs/ade20k_panoptic_large_640
    """
    return _ade20k_panoptic(coco_panoptic_large_640())


def ade20k_panoptic_large_1280() -> Recipe:
    r"""EoMT-L, DINOv2, ADE20K panoptic, view 1280, 31 epochs from COCO: PQ 51.7 (paper, table 4).

    Cost: 322 M parameters, 30 FPS.
    It starts from a COCO panoptic model, by `--init-from`, with a new class head.

    eomt train ade20k_panoptic_large_1280 --data ade20k \
        --init-from runs/coco_panoptic_large_1280 --out runs/ade20k_panoptic_large_1280
    """
    return _changed(ade20k_panoptic_large_640(), model={"image_size": (1280, 1280)})


def ade20k_panoptic_giant_640() -> Recipe:
    r"""EoMT-g, DINOv2, ADE20K panoptic, view 640, 31 epochs from COCO: PQ 51.3 (paper, table 4).

    Cost: 1164 M parameters, 55 FPS.
    It starts from a COCO panoptic model, by `--init-from`, with a new class head.

    eomt train ade20k_panoptic_giant_640 --data ade20k \
        --init-from runs/coco_panoptic_giant_640 --out runs/ade20k_panoptic_giant_640
    """
    return _ade20k_panoptic(coco_panoptic_giant_640())


def ade20k_panoptic_giant_1280() -> Recipe:
    r"""EoMT-g, DINOv2, ADE20K panoptic, view 1280, 31 epochs from COCO: PQ 52.8 (paper, table 4).

    Cost: 1171 M parameters, 12 FPS.
    It starts from a COCO panoptic model, by `--init-from`, with a new class head.

    eomt train ade20k_panoptic_giant_1280 --data ade20k \
        --init-from runs/coco_panoptic_giant_1280 --out runs/ade20k_panoptic_giant_1280
    """
    return _changed(ade20k_panoptic_giant_640(), model={"image_size": (1280, 1280)})


# Semantic, DINOv2


def ade20k_semantic_large_512() -> Recipe:
    """EoMT-L, DINOv2, ADE20K semantic, view 512, 31 epochs: mIoU 58.4 (paper, table 5).

    Cost: 316 M parameters, 721 GFLOPs, 92 FPS.
    Scales follow the shortest side, as prediction does; `--augment.fit contain` is what was published.

    eomt train ade20k_semantic_large_512 --data ade20k --out runs/ade20k_semantic_large_512
    """
    return _changed(
        large(),
        task="semantic",
        epochs=31.0,
        model={"image_size": (512, 512), "num_queries": 100},
        data={"format": "ade20k-semantic"},
        augment={"scale": (0.5, 2.0), "color": True},
    )


def cityscapes_semantic_large_1024() -> Recipe:
    """EoMT-L, DINOv2, Cityscapes semantic, view 1024, 107 epochs: mIoU 84.2 (paper, table 5).

    Cost: 319 M parameters, 4350 GFLOPs, 25 FPS.
    Scales follow the shortest side, as prediction does; `--augment.fit contain` is what was published.

    eomt train cityscapes_semantic_large_1024 --data cityscapes --out runs/cityscapes_semantic_large_1024
    """
    return _changed(
        ade20k_semantic_large_512(),
        epochs=107.0,
        model={"image_size": (1024, 1024)},
        data={"format": "cityscapes"},
    )


# DINOv3


def coco_panoptic_small_640_2x_dinov3() -> Recipe:
    """EoMT-S, DINOv3, COCO panoptic, view 640, 24 epochs: PQ 47.2 (model zoo).

    Cost: 23 M parameters, 246 / 570 FPS.

    eomt train coco_panoptic_small_640_2x_dinov3 --data coco --out runs/coco_panoptic_small_640_2x_dinov3
    """
    return _dinov3(coco_panoptic_small_640_2x())


def coco_panoptic_base_640_2x_dinov3() -> Recipe:
    """EoMT-B, DINOv3, COCO panoptic, view 640, 24 epochs: PQ 53.1 (model zoo).

    Cost: 92 M parameters, 240 / 347 FPS.

    eomt train coco_panoptic_base_640_2x_dinov3 --data coco --out runs/coco_panoptic_base_640_2x_dinov3
    """
    return _dinov3(coco_panoptic_base_640_2x())


def coco_panoptic_large_640_dinov3() -> Recipe:
    """EoMT-L, DINOv3, COCO panoptic, view 640, 12 epochs: PQ 56.8 (model zoo).

    Cost: 315 M parameters, 137 / 157 FPS.

    eomt train coco_panoptic_large_640_dinov3 --data coco --out runs/coco_panoptic_large_640_dinov3
    """
    return _dinov3(coco_panoptic_large_640())


def coco_panoptic_large_1280_dinov3() -> Recipe:
    """EoMT-L, DINOv3, COCO panoptic, view 1280, 12 epochs: PQ 58.9 (model zoo).

    Cost: 315 M parameters, 33 / 34 FPS.
    The authors' file left out the view and so trained at 640; here it is 1280.

    eomt train coco_panoptic_large_1280_dinov3 --data coco --out runs/coco_panoptic_large_1280_dinov3
    """
    return _dinov3(coco_panoptic_large_1280())


def coco_instance_large_640_dinov3() -> Recipe:
    """EoMT-L, DINOv3, COCO instance, view 640, 12 epochs: AP 45.9 (model zoo).

    Cost: 315 M parameters, 133 / 157 FPS.

    eomt train coco_instance_large_640_dinov3 --data coco --out runs/coco_instance_large_640_dinov3
    """
    return _dinov3(coco_instance_large_640())


def coco_instance_large_1280_dinov3() -> Recipe:
    """EoMT-L, DINOv3, COCO instance, view 1280, 12 epochs: AP 49.9 (model zoo).

    Cost: 315 M parameters, 33 / 34 FPS.
    The authors' file left out the view and so trained at 640; here it is 1280.

    eomt train coco_instance_large_1280_dinov3 --data coco --out runs/coco_instance_large_1280_dinov3
    """
    return _dinov3(coco_instance_large_1280())


def ade20k_semantic_large_512_dinov3() -> Recipe:
    """EoMT-L, DINOv3, ADE20K semantic, view 512, 16 epochs: mIoU 59.5 (model zoo).

    Cost: 315 M parameters, 137 / 200 FPS.
    The published factor of 0.1 on the backbone's rate had no effect in the authors' code. Here it acts;
    `--optim.backbone-lr-factor 1` is what their code did. Scales follow the shortest side, as prediction does;
    `--augment.fit contain` is what was published.

    eomt train ade20k_semantic_large_512_dinov3 --data ade20k --out runs/ade20k_semantic_large_512_dinov3
    """
    return _changed(
        _dinov3(ade20k_semantic_large_512()),
        epochs=16.0,
        optim={"layer_decay": 1.0, "backbone_lr_factor": 0.1, "warmup_limit": 0.3},
    )


def with_batch_size(recipe: Recipe, batch_size: int) -> Recipe:
    """Change the images a step, and the learning rate with the square root of their ratio.

    A recipe states its rate for its own batch. With Adam's normalised updates the noise of a step falls with the
    root of the batch, and so the rate may rise: Malladi et al. 2022 (arXiv 2205.10287) derive it and find it to
    hold; proportional rates are SGD's rule. Betas and epsilon stay. The command line does this where
    `--data.batch-size` is given without `--optim.lr`.

    >>> with_batch_size(small(), 4).optim.lr  # 1e-4 at 16
    5e-05
    """
    factor = (batch_size / recipe.data.batch_size) ** 0.5
    return _changed(recipe, data={"batch_size": batch_size}, optim={"lr": recipe.optim.lr * factor})


OWN_DATA: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe for recipe in (small, base, large, giant, nuclei)
}
"""Recipes for one's own data, by the name that the command line knows them by."""

PUBLISHED: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe
    for recipe in (
        coco_panoptic_small_640,
        coco_panoptic_small_640_2x,
        coco_panoptic_base_640,
        coco_panoptic_base_640_2x,
        coco_panoptic_large_640,
        coco_panoptic_large_1280,
        coco_panoptic_giant_640,
        coco_panoptic_giant_1280,
        coco_instance_large_640,
        coco_instance_large_1280,
        ade20k_panoptic_large_640,
        ade20k_panoptic_large_1280,
        ade20k_panoptic_giant_640,
        ade20k_panoptic_giant_1280,
        ade20k_semantic_large_512,
        cityscapes_semantic_large_1024,
        coco_panoptic_small_640_2x_dinov3,
        coco_panoptic_base_640_2x_dinov3,
        coco_panoptic_large_640_dinov3,
        coco_panoptic_large_1280_dinov3,
        coco_instance_large_640_dinov3,
        coco_instance_large_1280_dinov3,
        ade20k_semantic_large_512_dinov3,
    )
}
"""The published configurations."""

RECIPES: dict[str, Callable[[], Recipe]] = OWN_DATA | PUBLISHED
"""All recipes."""
