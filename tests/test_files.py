"""Images are found by what an annotation file calls them: the right one, or none."""

import pytest

from eomt.data.archive import Archive
from eomt.data.files import Images, image_ids


def images(root, names, **options):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return Images(Archive(root), **options)


@pytest.mark.parametrize(
    ("path", "names", "found"),
    [
        ("0.png", ["data/0.png"], "data/0.png"),
        ("cam1/0.png", ["data/cam1/0.png", "data/cam2/0.png"], "data/cam1/0.png"),
        ("cam1/0.png", ["data/cam1/1.png", "data/cam2/0.png"], None),  # cam1 is there, the image is not
        ("/home/me/cam1/0.png", ["data/cam1/0.png", "data/cam2/0.png"], "data/cam1/0.png"),
        ("C:\\me\\cam1\\0.png", ["data/cam1/0.png", "data/cam2/0.png"], "data/cam1/0.png"),
        ("photos/0.png", ["images/0.png"], "images/0.png"),  # renamed
        ("0.png", ["train/0.png", "val/0.png"], "train/0.png"),
        ("0.png", ["val/0.png"], None),
        ("0.png", ["data/val2017/images/0.png"], None),
        ("val/0.png", ["data/val/0.png"], "data/val/0.png"),  # as the annotation says
        ("0.png", ["fold2/0.png"], None),  # called like another split
        ("0.png", ["train/val_camera/0.png"], "train/val_camera/0.png"),
        ("7.png", ["part2/7.png"], None),  # another annotation's
        ("part1/7.png", ["data/part1/7.png"], "data/part1/7.png"),  # the other one says less of it
        ("../../0.png", ["data/0.png"], "data/0.png"),
        ("..", ["data/0.png"], None),
    ],
)
def test_by_the_end_of_the_path(path, names, found, tmp_path):
    known = images(tmp_path, names, split="train", others=("val", "fold2"), claims=lambda: ["7.png"])
    assert known.find(path, ()) == found


def test_folders_come_first_and_masks_do_not_count(tmp_path):
    known = images(tmp_path, ["a/0.png", "b/0.png", "masks/1.png"], masks="masks")
    assert known.find("0.png", ("c", "b", "a")) == "b/0.png"
    assert known.find("1.png", ()) is None
    with pytest.raises(ValueError, match=r"'0.png' may be a/0.png or b/0.png"):
        known.find("0.png", ())


@pytest.mark.parametrize("split", ["", "all"])
def test_a_split_of_no_kind_takes_images_of_any(split, tmp_path):
    assert images(tmp_path, ["val/0.png"], split=split).find("0.png", ()) == "val/0.png"


@pytest.mark.parametrize(
    ("paths", "ids"),
    [
        (["a/0.png", "a/1.png"], ["0", "1"]),
        (["a/0.png", "b/0.png"], ["a/0", "b/0"]),
        (["a/0.png", "a/0.jpg"], ["a/0.png", "a/0.jpg"]),
    ],
)
def test_names_of_images(paths, ids):
    assert image_ids(paths) == ids
