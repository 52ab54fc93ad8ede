"""The things of the scenes as one binary mask each."""

from hashlib import md5
from pathlib import Path

import numpy as np

from layouts.folder import save
from scenes import SCENES


def write(root: Path) -> None:
    """images/SPLIT/ID.png beside masks/SPLIT/ID/CLASS/*.png."""
    for scene in SCENES:
        save(root / "images" / scene.split / f"{scene.image_id}.png", scene.image)
        for number, (shape, (name, mask)) in enumerate(zip(scene.shapes, scene.masks(), strict=True)):
            if shape.is_thing:
                folder = root / "masks" / scene.split / scene.image_id / name
                save(folder / f"{number}.png", mask.astype(np.uint8) * np.uint8(255))


def write_bowl(root: Path, names: tuple[str, ...] = ("person",)) -> None:
    """SPLIT/ID/images/ID.png beside SPLIT/ID/masks/*.png, named by hashes; and images to be judged elsewhere."""
    for scene in SCENES:
        folder = root / f"stage1_{scene.split}" / scene.image_id
        save(folder / "images" / f"{scene.image_id}.png", scene.image)
        for number, (name, mask) in enumerate(scene.masks()):
            if name in names:
                code = md5(f"{scene.image_id}{number}".encode()).hexdigest()
                save(folder / "masks" / f"{code}.png", mask.astype(np.uint8) * np.uint8(255))
    save(root / "stage1_test" / "secret" / "images" / "secret.png", SCENES[0].image)
