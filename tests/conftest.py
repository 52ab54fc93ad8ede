"""Small things that many tests use. One thread: on busy cores, small models are many times faster with one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from eomt.config import ModelConfig

torch.set_num_threads(1)

TOY = ModelConfig("test_vit", "none", image_size=(64, 64), patch_size=16, num_queries=12, num_joint_blocks=2)
"""A ViT of 64 channels and 6 blocks, under half a million parameters."""


def draw_shapes(rng: np.random.Generator, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Draw bright squares on a dark ground: an image [h w 3] and its instance map [h w] (0 is ground)."""
    height, width = size
    image = rng.integers(0, 40, (height, width, 3)).astype(np.uint8)
    ids = np.zeros(size, dtype=np.uint16)
    for index in range(1, 4):
        side = int(rng.integers(12, 20))
        top, left = int(rng.integers(0, height - side)), int(rng.integers(0, width - side))
        image[top : top + side, left : left + side] = rng.integers(150, 256, 3)
        ids[top : top + side, left : left + side] = index
    return image, ids


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in the folder layout: 24 images to train on and 6 to judge on, one thing and the ground."""
    root = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 6)):
        (root / "images" / split).mkdir(parents=True)
        (root / "masks" / split).mkdir(parents=True)
        for index in range(count):
            image, ids = draw_shapes(rng, (64, 64 + 16 * (index % 2)))
            Image.fromarray(image).save(root / "images" / split / f"{index:02}.png")
            Image.fromarray(ids).save(root / "masks" / split / f"{index:02}.png")
    (root / "categories.json").write_text(
        '[{"name": "square", "is_thing": true}, {"name": "ground", "is_thing": false, "pixel_value": 0}]'
    )
    return root
