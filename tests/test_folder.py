"""A folder or zip of images and masks becomes samples as its categories say; what does not fit is told."""

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eomt.categories import Category, distinct_color
from eomt.data.archive import Archive
from eomt.data.reader import Split
from eomt.data.readers.folder import FORMAT, open_folder, read_categories, splits
from eomt.errors import DataError
from eomt.masks import IdMap
from layouts import folder as layout
from scenes import SCENES, assert_read, of

CELL = {"name": "cell", "is_thing": True}
DIRT = {"name": "dirt", "is_thing": True}
GLASS = {"name": "glass", "is_thing": False}
EMPTY = np.zeros((2, 3), np.uint8)
COLORED = {"categories": [CELL | {"color": [9, 0, 0]}, GLASS | {"color": [0, 9, 0]}], "masks": "color"}
PAINTED = np.array([[[9, 0, 0], [0, 9, 0], [0, 9, 0]]] * 2, np.uint8)


def png(values: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", **options)
    return file.getvalue()


def save(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, np.ndarray):
            content = png(content)
        if not isinstance(content, bytes):
            content = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        path.write_bytes(content)
    return root


def one_mask(root: Path, categories: object, mask: object) -> Split:
    """A data set of one image and this mask; categories as JSON, or as lines of text."""
    file = "classes.txt" if isinstance(categories, str) else "categories.json"
    picture = np.zeros((2, 3, 3), np.uint8)
    return open_folder(save(root, {"images/a/x.png": picture, "masks/a/x.png": mask, file: categories}), "a")


def grid(values: list[list[int]], bits: int) -> np.ndarray:
    return np.array(values, dtype=np.uint8 if bits == 8 else np.uint16)


@pytest.mark.parametrize(
    ("categories", "mask", "labels", "ids"),
    [
        # 8 bits: classes, by place; 255 is void; a class that is absent is no segment
        ("sky\nroad\ncar\n", grid([[0, 0, 2], [255, 2, 2]], 8), [0, 2], [[1, 1, 2], [0, 2, 2]]),
        ("sky\r\nroad\r\n", grid([[255] * 3] * 2, 8), [], [[0] * 3] * 2),
        # by id, by pixel_value
        ([CELL | {"id": 7}, GLASS], grid([[7, 1, 1]] * 2, 8), [1, 0], [[2, 1, 1]] * 2),
        ([CELL | {"pixel_value": 9, "id": 7}, GLASS], grid([[9, 1, 1]] * 2, 8), [1, 0], [[2, 1, 1]] * 2),
        ([CELL, GLASS | {"pixel_value": 255}], grid([[0, 255, 255]] * 2, 8), [0, 1], [[1, 2, 2]] * 2),
        # 16 bits: objects of the one class of things; 0 is void
        ([CELL], grid([[0, 5, 300], [255, 5, 5]], 16), [0, 0, 0], [[0, 1, 3], [2, 1, 1]]),
        ([CELL, GLASS], grid([[0, 5, 5]] * 2, 16), [0], [[0, 1, 1]] * 2),
        # ... unless 0 is declared
        ([CELL, GLASS | {"pixel_value": 0}], grid([[0, 5, 5], [0, 0, 6]], 16), [1, 0, 0], [[1, 2, 2], [1, 1, 3]]),
        ([CELL, GLASS | {"pixel_value": 0}], grid([[0] * 3] * 2, 16), [1], [[1] * 3] * 2),
        # several classes of things: id * divisor + number; stuff is one segment
        (
            {"categories": [CELL | {"id": 1}, DIRT | {"id": 2}, GLASS | {"id": 3}], "label_divisor": 1000},
            grid([[1001, 1002, 2001], [3000, 3001, 0]], 16),
            [0, 0, 1, 2],
            [[1, 2, 3], [4, 4, 0]],
        ),
        # the options overrule the bits, and what is void
        ({"categories": [CELL], "masks": "instance"}, grid([[0, 1, 255]] * 2, 8), [0, 0], [[0, 1, 2]] * 2),
        ({"categories": [CELL, DIRT], "masks": "semantic"}, grid([[0, 1, 255]] * 2, 16), [0, 1], [[1, 2, 0]] * 2),
        ({"categories": [CELL | {"id": 1}], "void": [0, 9]}, grid([[0, 1, 9]] * 2, 8), [0], [[0, 1, 0]] * 2),
        ({"categories": [CELL], "void": [0, 65535]}, grid([[0, 1, 65535]] * 2, 16), [0], [[0, 1, 0]] * 2),
    ],
)
def test_what_the_values_mean(tmp_path, categories, mask, labels, ids):
    dataset = one_mask(tmp_path, categories, mask)
    segments = dataset[0].segments
    assert isinstance(segments.masks, IdMap)
    assert segments.labels.tolist() == labels
    assert segments.masks.ids.tolist() == ids
    assert not segments.is_crowd.any()


def test_null_is_as_if_left_out(tmp_path):
    given = [CELL | {"id": None, "color": None, "pixel_value": None}]
    (tmp_path / "categories.json").write_text(json.dumps(given))
    (category,) = read_categories(tmp_path / "categories.json")
    assert (category.id, category.color) == (0, distinct_color(0))


def test_32_bit_ids(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 70_000, 2_000_000_000]] * 2, np.int32)).save(file, "TIFF")
    picture = np.zeros((2, 3, 3), np.uint8)
    root = save(tmp_path, {"images/a/x.png": picture, "masks/a/x.tif": file.getvalue(), "categories.json": [CELL]})
    assert open_folder(root, "a")[0].segments.masks.ids.tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize(
    ("categories", "mask", "words"),
    [
        ("sky\nroad", grid([[0, 1, 7]] * 2, 8), "value 7 belongs to no category"),
        ([CELL, GLASS | {"pixel_value": 0}], grid([[0, 1, 7]] * 2, 8), "value 0 would be both cell and glass"),
        (
            {"categories": [CELL | {"id": 1}], "label_divisor": 1000},
            grid([[0, 1001, 5003]] * 2, 16),
            "value 5003 is object 3 of category id 5",
        ),
        ([CELL], PAINTED, "mode RGB"),
        ([CELL], np.zeros((3, 2), np.uint8), "mask is 2 x 3, its image upright 3 x 2"),
        ([CELL], b"broken", "give a PNG"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(tmp_path, categories, mask, words):
    dataset = one_mask(tmp_path, categories, mask)
    with pytest.raises(DataError, match=words) as caught:
        dataset[0]
    assert "masks/a/x.png" in str(caught.value)


@pytest.mark.parametrize(
    ("categories", "words"),
    [
        ("[1, 2", "not valid JSON"),
        ([], "no categories"),
        ({}, "no categories"),
        ([3], "category 0 is 3"),
        ([{"is_thing": True}], "no name"),
        ([{"name": "cell"}], "is_thing"),
        ([CELL | {"is_thing": "yes"}], "is_thing"),
        ([CELL | {"pixelvalue": 3}], "unknown field pixelvalue"),
        ([CELL | {"pixel_value": -1}], "pixel_value"),
        ([CELL | {"id": 1.5}], '"id" is 1.5'),
        ([CELL | {"color": [1, 2, 300]}], "color"),
        ([CELL | {"color": 3}], "color"),
        ([CELL, CELL], "the name 'cell'"),
        ([CELL | {"id": 1}, DIRT], "the id 1"),
        ([CELL | {"pixel_value": 4}, DIRT | {"pixel_value": 4}], "the pixel_value 4"),
        ({"categories": [CELL], "mask": "semantic"}, "unknown field mask"),
        ({"categories": [CELL], "masks": "objects"}, "objects"),
        ({"categories": [CELL], "void": 3}, "void"),
        ({"categories": [CELL], "label_divisor": 1}, "label_divisor"),
    ],
)
def test_wrong_categories_are_told_at_the_door(tmp_path, categories, words):
    root = save(tmp_path, {"images/a/x.png": b"", "masks/a/x.png": b"", "categories.json": categories})
    with pytest.raises(DataError, match=words) as caught:
        open_folder(root, "a")
    assert "categories.json" in str(caught.value)


def test_categories_have_defaults(tmp_path):
    entries = [CELL, {"name": "glass", "isthing": 0, "id": 9, "color": [1, 2, 3], "supercategory": "x"}]
    assert one_mask(tmp_path, entries, grid([[0, 1, 2]] * 2, 16)).categories == (
        Category("cell", True, 0, distinct_color(0)),
        Category("glass", False, 9, (1, 2, 3)),
    )


def test_text_files_may_have_a_byte_order_mark(tmp_path):
    assert one_mask(tmp_path, "\ufeffsky\nroad", EMPTY).categories[0].name == "sky"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"readme.txt": ""}, "no images in a split; expected images/SPLIT"),
        ({"images/x.png": EMPTY, "masks/x.png": EMPTY}, "no split 'a'; it has train"),
        ({"images/b/x.png": EMPTY, "images/c/y.png": EMPTY}, "no split 'a'; it has b, c"),
        ({"images/a/x.png": EMPTY, "masks/a/x.png": EMPTY}, "neither categories.json nor classes.txt"),
        (
            {f"images/a/{i}.png": EMPTY for i in range(5)} | {"masks/a/0.png": EMPTY, "classes.txt": "sky"},
            r"4 of 5 images of a have no mask: images/a/1\.png, images/a/2\.png, images/a/3\.png, \.\.\.;",
        ),
        (
            {"images/a/x.png": EMPTY, "masks/a/x.jpg": EMPTY, "classes.txt": "sky"},
            "1 of 1 images of a have no mask",
        ),
        ({"images/a/x.png": EMPTY, "images/a/x.JPG": EMPTY, "classes.txt": "sky"}, "have one stem"),
        (
            {"images/a/x.png": EMPTY, "masks/a/x.png": EMPTY, "classes.txt": "sky\n\nroad"},
            "category 1 has no name",
        ),
        ({"images/a/x.png": EMPTY, "masks/a/x.png": EMPTY, "classes.txt": b"\xff\xfe"}, "not UTF-8"),
    ],
)
def test_a_wrong_layout_is_told_at_the_door(tmp_path, files, words):
    with pytest.raises(DataError, match=words):
        open_folder(save(tmp_path, files), "a")


def test_a_zip_reads_as_its_folder_does(tmp_path):
    picture = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    files = {
        "images/train/x.png": picture,
        "images/train/deep/y.PNG": picture,
        "images/train/notes.csv": "a,b",
        "images/test set/z.png": picture,
        "masks/test set/z.png": EMPTY,
        "images/unmarked/z.png": picture,
        "masks/train/x.png": EMPTY,
        "masks/train/deep/y.png": EMPTY,
        "masks/train/of no image.png": EMPTY,
        "classes.txt": "sky",
        "images.csv": "x",
    }
    root = save(tmp_path / "data", files)
    shutil.make_archive(str(tmp_path / "data"), "zip", tmp_path, "data")
    for place in (root, tmp_path / "data.zip", str(root)):
        assert splits(place) == ("test set", "train")
        dataset = pickle.loads(pickle.dumps(open_folder(place, "train")))
        assert dataset.image_ids == ("deep/y", "x")
        assert dataset.left_out == ("1 masks of no image",)
        sample = dataset[1]
        assert sample.image_id == "x"
        np.testing.assert_array_equal(sample.image.permute(1, 2, 0).numpy(), picture)
        assert sample.segments.labels.tolist() == [0]


def packed(root: Path) -> Path:
    return Path(shutil.make_archive(str(root), "zip", root.parent, root.name))


def test_the_scenes(tmp_path):
    layout.write(tmp_path / "data")
    for place in (tmp_path / "data", packed(tmp_path / "data")):
        archive = Archive(place)
        assert FORMAT.missing(archive) is None
        assert FORMAT.splits(archive) == ("train", "val")
        for split in ("train", "val"):
            assert_read(FORMAT.open(archive, split), split)


@pytest.mark.parametrize("write", [layout.write_semantic, layout.write_colored, layout.write_beside])
def test_the_scenes_as_classes(tmp_path, write):
    write(tmp_path / "data")
    for place in (tmp_path / "data", packed(tmp_path / "data")):
        archive = Archive(place)
        assert FORMAT.missing(archive) is None
        for split in FORMAT.splits(archive):
            dataset = FORMAT.open(archive, split)
            names = [category.name.lower() for category in dataset.categories]
            if "void" in names:  # a class like others: what to do with it is the user's to say
                for index in range(len(dataset)):
                    segments = dataset[index].segments
                    scene = next(scene for scene in of(split) if dataset.image_ids[index] == scene.image_id)
                    maps = layout.semantic(scene)
                    labels = segments.labels.numpy()[segments.masks.ids - 1]
                    found = np.array(names)[labels]
                    assert (found == np.array([*layout.NAMES, "void"])[np.minimum(maps, len(layout.NAMES))]).all()
            else:
                assert_read(dataset, split, merged=layout.NAMES)


def test_without_splits_all_is_for_training(tmp_path):
    for scene in SCENES:
        layout.save(tmp_path / "images" / f"{scene.image_id}.png", scene.image)
        layout.save(tmp_path / "labels" / f"{scene.image_id}.png", layout.semantic(scene))
    (tmp_path / "classes.txt").write_text("\n".join(layout.NAMES))
    assert splits(tmp_path) == ("train",)
    assert open_folder(tmp_path, "train").image_ids == tuple(scene.image_id for scene in SCENES)


def palette(colors: list[int], values: list[list[int]]) -> bytes:
    image = Image.fromarray(np.array(values, np.uint8), "L").convert("P")
    image.putdata(np.array(values, np.uint8).ravel().tolist())
    image.putpalette(colors)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("categories", "mask", "labels"),
    [
        (COLORED, PAINTED, [0, 1]),
        (COLORED, palette([9, 0, 0, 0, 9, 0], [[0, 1, 1]] * 2), [0, 1]),  # by the colours, not by the indices
        (COLORED | {"categories": COLORED["categories"][1:], "void": [[9, 0, 0]]}, PAINTED, [0]),
    ],
)
def test_colors(tmp_path, categories, mask, labels):
    assert one_mask(tmp_path, categories, mask)[0].segments.labels.tolist() == labels


def test_a_color_of_no_class_is_named_with_a_pixel(tmp_path):
    painted = PAINTED.copy()
    painted[1, 2] = 1, 2, 3
    with pytest.raises(DataError, match=r"x 2, y 1: the colour \[1, 2, 3\] belongs to no category"):
        one_mask(tmp_path, COLORED, painted)[0]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "first line is ''"),
        ("class,red", "name the columns name,r,g,b"),
        ("name,r,g,b\nsky,1,2", "line 2 is 'sky,1,2'"),
        ("name,r,g,b\nsky,1,2,x", "line 2"),
        ("name,r,g,b\nsky,1,2,300", "color"),
        ("name,r,g,b\nsky,1,2,3\nroad,1,2,3", r"the color '\[1, 2, 3\]'"),
        ("name,r,g,b\n", "no categories"),
    ],
)
def test_wrong_tables_are_told_at_the_door(tmp_path, table, words):
    root = save(tmp_path, {"images/a/x.png": EMPTY, "masks/a/x.png": PAINTED, "classes.csv": table})
    with pytest.raises(DataError, match=words):
        open_folder(root, "a")


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (grid([[0, 1, 2]] * 2, 8), r"1 of 1 masks hold the values 0, 1, 2\. .* with 3 lines"),
        (grid([[0, 1, 255]] * 2, 8), r"values 0, 1, 255\. .* with 2 lines.*\(255 is void\)"),
        (grid([[0, 255, 255]] * 2, 8), '"pixel_value": 255'),
        (PAINTED, r"2 colours\. Write classes\.csv.*\nname,r,g,b\nCLASS0,9,0,0\nCLASS1,0,9,0"),
    ],
)
def test_what_to_write_where_nothing_names_the_classes(tmp_path, mask, words):
    root = save(tmp_path, {"images/a/x.png": EMPTY, "masks/a/x.png": mask})
    with pytest.raises(DataError, match=words):
        open_folder(root, "a")


def test_maps_of_objects_need_no_list_of_classes(tmp_path):
    root = save(tmp_path, {"images/a/x.png": EMPTY, "masks/a/x.png": grid([[0, 5, 700]] * 2, 16)})
    dataset = open_folder(root, "a")
    assert dataset.categories == (Category("object", True, 1, distinct_color(0)),)
    assert dataset[0].segments.masks.ids.tolist() == [[0, 1, 2]] * 2


def test_masks_with_endings(tmp_path):
    names = ("x.png", "x_mask.png", "y_seg.png", "z_mask.png", "z-label.png")
    root = save(tmp_path, {f"images/a/{name}.png": EMPTY for name in "xyz"} | {"classes.txt": "sky"})
    save(root, {f"masks/a/{name}": EMPTY for name in names})
    with pytest.raises(DataError, match=r"z\.png has several masks: masks/a/z_mask\.png, masks/a/z-label\.png"):
        open_folder(root, "a")
    (root / "masks/a/z_mask.png").unlink()
    found = [item.annotation for item in open_folder(root, "a").items]
    assert found == ["masks/a/x.png", "masks/a/y_seg.png", "masks/a/z-label.png"]


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({"x.png": EMPTY}, "images/SPLIT"),
        ({"images/train/x.png": EMPTY, "labels/train/x.txt": "0 0.5 0.5 1 1"}, "masks/SPLIT"),  # YOLO
        ({"images/train/x.png": EMPTY, "masks/train/x/0.png": EMPTY}, "named as the images"),  # a mask an object
        ({"x/images/x.png": EMPTY, "x/masks/0.png": EMPTY}, "named as the images"),  # the same
        ({"images/training/x.png": EMPTY, "annotations/training/x.png": EMPTY}, "ADE20K"),
        ({"images/a/x.png": EMPTY, "annotations/a/x.png": EMPTY, "annotations/a.json": "{}"}, "another format"),
    ],
)
def test_what_is_another_layout(tmp_path, files, missing):
    assert missing in str(FORMAT.missing(Archive(save(tmp_path, files))))


def test_the_mask_must_fit_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = png(
        np.zeros((3, 2, 3), np.uint8), exif=exif
    )  # 3 high and 2 wide in the file, 2 high and 3 wide upright
    root = save(tmp_path, {"images/a/x.png": lying, "masks/a/x.png": EMPTY, "classes.txt": "sky"})
    assert open_folder(root, "a")[0].image.shape == (3, 2, 3)


REAL = Path(os.environ.get("EOMT_REAL_DATA", ""))
needs_real_data = pytest.mark.skipif("EOMT_REAL_DATA" not in os.environ, reason="set EOMT_REAL_DATA to a folder")


@needs_real_data
def test_nuclei():
    train, val = (open_folder(REAL / "dsb2018.zip", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (530, 67)
    assert [category.name for category in train.categories] == ["nucleus", "background"]
    nuclei = sum(int((val[index].segments.labels == 0).sum()) for index in range(len(val)))
    assert nuclei == 2885
    sample = val[0]
    assert sample.segments.masks.areas().sum() == sample.image[0].numel()  # no void: background is a category


@needs_real_data
def test_street_scenes():
    dataset = open_folder(REAL / "camvid11.zip", "val")
    assert len(dataset) == 101
    assert len(dataset.categories) == 11
    sample = dataset[0]
    assert sample.image.shape == (3, 360, 480)
    with zipfile.ZipFile(REAL / "camvid11.zip") as archive:
        mask = np.array(Image.open(archive.open(f"masks/val/{sample.image_id}.png")))
    labels = np.append(sample.segments.labels.numpy(), 255)  # last: void, which id 0 - 1 points at
    np.testing.assert_array_equal(labels[sample.segments.masks.ids - 1], mask)


@pytest.mark.parametrize(
    ("categories", "mask", "words"),
    [
        # binary masks, of which all objects would be void
        ("background\ncell", grid([[0, 255, 255]] * 2, 8), r'classes.txt: .* 0 and 255 only.* "pixel_value": 255'),
        ("cell", grid([[0, 255, 255]] * 2, 8), '"pixel_value": 255'),
        ([GLASS, CELL], np.dstack([grid([[0, 255, 255]] * 2, 8)] * 3), r'"void": \[255\]'),
        # masks of objects, of which it is not said what they are
        (
            "sky\nroad",
            grid([[0, 1, 7]] * 2, 16),
            r'2 classes, none of them things.* 16 bits .*"masks": "semantic"',
        ),
        ([CELL, DIRT], grid([[0, 1, 7]] * 2, 16), "2 classes, 2 of them things.*label_divisor"),
        ({"categories": [CELL, DIRT], "masks": "instance"}, grid([[0, 1, 7]] * 2, 8), "masks of 8 bits number"),
    ],
)
def test_masks_that_are_not_what_the_classes_say_are_told_at_the_door(tmp_path, categories, mask, words):
    with pytest.raises(DataError, match=words):
        one_mask(tmp_path, categories, mask)


@pytest.mark.parametrize(
    ("categories", "mask"),
    [
        ({"categories": [GLASS, CELL], "void": [255]}, grid([[0, 255, 255]] * 2, 8)),  # as is said
        ([GLASS, CELL | {"pixel_value": 255}], grid([[0, 255, 255]] * 2, 8)),
        ("sky\nroad\n", grid([[0, 1, 255]] * 2, 8)),
        ([CELL | {"pixel_value": 1}, DIRT | {"pixel_value": 7}], grid([[0, 1, 7]] * 2, 16)),  # one object of each
        ({"categories": [CELL, DIRT], "masks": "semantic"}, grid([[0, 1, 1]] * 2, 16)),
    ],
)
def test_masks_that_are_what_the_classes_say(tmp_path, categories, mask):
    assert len(one_mask(tmp_path, categories, mask)[0].segments) > 0


def test_one_rare_class_is_looked_for_in_more_masks(tmp_path):
    void, found = grid([[0, 255, 255]] * 2, 8), grid([[0, 1, 255]] * 2, 8)
    masks = {f"masks/a/{i:02}.png": found if i == 7 else void for i in range(40)}
    images = {name.replace("masks", "images"): np.zeros((2, 3, 3), np.uint8) for name in masks}
    assert len(open_folder(save(tmp_path, images | masks | {"classes.txt": "sky\nbird"}), "a")) == 40


def test_a_list_of_one_name_says_what_the_objects_are(tmp_path):
    dataset = one_mask(tmp_path, "cell\n", grid([[0, 1, 7]] * 2, 16))
    assert dataset.categories == (Category("cell", True, 0, distinct_color(0)),)
    assert dataset[0].segments.labels.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("categories", "mask", "things"),
    [
        ([CELL, GLASS], grid([[0, 1, 0]] * 2, 8), 0),  # two cells, and nothing tells them apart
        (COLORED, PAINTED, 0),
        ({"categories": [CELL, GLASS], "masks": "semantic"}, grid([[0, 1, 0]] * 2, 16), 0),
        ({"categories": [CELL, GLASS], "masks": "instance"}, grid([[0, 1, 0]] * 2, 8), 1),  # the user says so
        ([CELL, GLASS], grid([[0, 1, 0]] * 2, 16), 1),
    ],
)
def test_masks_without_objects_are_of_stuff(tmp_path, categories, mask, things):
    dataset = one_mask(tmp_path, categories, mask)
    assert sum(category.is_thing for category in dataset.categories) == things
    assert [text[:31] for text in dataset.left_out] == ["which classes are things, as ma"] * (not things)


def test_colours_that_are_all_grey_are_numbers(tmp_path):
    dataset = one_mask(tmp_path, "sky\nroad", np.dstack([grid([[0, 1, 1]] * 2, 8)] * 3))
    assert dataset[0].segments.masks.ids.tolist() == [[1, 2, 2]] * 2
