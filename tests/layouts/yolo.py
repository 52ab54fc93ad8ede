"""The things of the scenes as Ultralytics takes them: polygons as shares of the image's sides."""

from pathlib import Path

from PIL import Image

from scenes import SCENES, SIZE, THINGS, Scene, Shape

YAML = """\
# Train/val/test sets
path: ../datasets/scenes  # dataset root dir
train: images/train
val: images/val
test:  # test images (optional)

names:
  0: person
  1: car
"""
ROBOFLOW = """\
train: ../train/images
val: ../valid/images
test: ../test/images

nc: 2
names: ['person', 'car']

roboflow:
  workspace: streets
  project: scenes
  version: 1
"""


def line(shape: Shape) -> str:
    top, left, bottom, right = shape.box
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    shares = [f"{x / SIZE[1]:.6f} {y / SIZE[0]:.6f}" for x, y in corners]
    return f"{THINGS.index(shape.name)} {' '.join(shares)}"


def save(scene: Scene, images: Path, labels: Path) -> None:
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(images / f"{scene.image_id}.png")
    text = "".join(line(shape) + "\n" for shape in scene.things)
    (labels / f"{scene.image_id}.txt").write_text(text)


def write(root: Path) -> None:
    """images/SPLIT beside labels/SPLIT; the root is named as on another machine."""
    for scene in SCENES:
        save(scene, root / "images" / scene.split, root / "labels" / scene.split)
    (root / "data.yaml").write_text(YAML)


def write_roboflow(root: Path) -> None:
    """SPLIT/images beside SPLIT/labels; the YAML file names them as if it lay in a folder of its own."""
    for scene in SCENES:
        folder = root / {"train": "train", "val": "valid"}[scene.split]
        save(scene, folder / "images", folder / "labels")
    (root / "data.yaml").write_text(ROBOFLOW)


def write_lists(root: Path) -> None:
    """Text files that list the images, in two ways of writing them; the YAML file has a name of its own."""
    for scene in SCENES:
        save(scene, root / "images", root / "labels")
    for split, start in (("train", "./images"), ("val", "images")):
        names = [f"{start}/{scene.image_id}.png\n" for scene in SCENES if scene.split == split]
        (root / f"{split}.txt").write_text("".join(names))
    (root / "scenes.yml").write_text("path: .\ntrain: train.txt\nval: val.txt\nnames: [person, car]\n")
