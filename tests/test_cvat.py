"""CVAT's own exports are read to the pixel; hostile XML is refused before anything of it is expanded."""

import json
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eomt.data.archive import Archive
from eomt.data.reader import Format, Split
from eomt.data.readers.cvat import FORMATS
from eomt.errors import DataError
from layouts import cvat
from layouts.cvat import (
    coco_rle,
    datumaro_annotation,
    datumaro_document,
    datumaro_item,
    document,
    element,
    image,
    mask_fields,
    png,
)
from scenes import SIZE, assert_read

XML, DATUMARO = FORMATS
BLANK = png(np.zeros((*SIZE, 3), np.uint8))
SQUARE = "2.00,3.00;6.00,3.00;6.00,8.00;2.00,8.00"
FLAT = [2.0, 3.0, 6.0, 3.0, 6.0, 8.0, 2.0, 8.0]


def save(root: Path, files: dict[str, Any]) -> Archive:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes):
            content = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        path.write_bytes(content)
    return Archive(root)


def one(root: Path, shapes: str) -> Split:
    """A task of one image with these shapes."""
    return XML.open(
        save(root, {"annotations.xml": document(image("a.png", shapes)), "images/a.png": BLANK}), "train"
    )


def one_datumaro(root: Path, annotations: Any) -> Split:
    content = datumaro_document([datumaro_item("a", annotations)])
    return DATUMARO.open(
        save(root, {"annotations/default.json": content, "images/default/a.png": BLANK}), "default"
    )


def box(top: int, left: int, bottom: int, right: int) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def polygon(label: str, points: str, **fields: object) -> str:
    return element("polygon", label=label, points=points, **fields)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("format", "write", "first_id"), [(XML, cvat.write, 1), (DATUMARO, cvat.write_datumaro, 0)]
)
def test_scenes(
    tmp_path: Path, format: Format, write: Callable[[Path], None], first_id: int, zipped: bool
) -> None:
    root = tmp_path / "export"
    root.mkdir()
    write(root)
    if zipped:
        root = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", root))
    archive = Archive(root)
    assert format.missing(archive) is None
    (other,) = set(FORMATS) - {format}
    assert other.missing(archive) is not None
    assert format.splits(archive) == ("train", "val")
    for split in ("train", "val"):
        dataset = pickle.loads(pickle.dumps(format.open(archive, split)))
        assert [category.name for category in dataset.categories] == ["person", "car", "sky", "road"]
        assert [category.id for category in dataset.categories] == list(range(first_id, first_id + 4))
        assert dataset.categories[0].color == (0xC0, 0x60, 0x60)
        assert dataset.left_out == ()
        assert_read(dataset, split)


def test_kinds_of_shapes(tmp_path: Path) -> None:
    shapes = (
        polygon("car", SQUARE)
        + element("mask", label="car", **mask_fields(box(3, 2, 8, 6)))
        + element("mask", label="car", rle="1, 2, 3", left=1, top=0, width=3, height=2)
        + element("ellipse", label="car", cx=12, cy=10, rx=9, ry=3, rotation=90)
    )
    masks = one(tmp_path, shapes)[0].segments.masks
    np.testing.assert_array_equal(masks.mask(0), box(3, 2, 8, 6))
    np.testing.assert_array_equal(masks.mask(1), box(3, 2, 8, 6))
    np.testing.assert_array_equal(masks.mask(2), box(0, 2, 1, 4))
    y, x = np.indices(SIZE) + 0.5
    radius = np.hypot((x - 12) / 3, (y - 10) / 9)  # turned by 90 degrees
    assert masks.mask(3)[radius < 0.75].all()
    assert not masks.mask(3)[radius > 1.25].any()


def test_order_and_groups(tmp_path: Path) -> None:
    """What has the higher z-order comes later, so lies on top; shapes of one label and group are one."""
    shapes = (
        polygon("person", SQUARE, z_order=2)
        + polygon("sky", SQUARE, z_order=-1)
        + polygon("car", SQUARE, group_id=4)
        + polygon("road", SQUARE, group_id=4)
        + polygon("car", "10,0;12,0;12,2;10,2", group_id=4)
        + polygon("car", "10,0;12,0;12,2;10,2", group_id=0)
        + polygon("car", "10,0;12,0;12,2;10,2", group_id=0)
    )
    dataset = one(tmp_path, shapes)
    segments = dataset[0].segments
    names = [dataset.categories[label].name for label in segments.labels.tolist()]
    assert names == ["sky", "car", "road", "car", "car", "person"]
    np.testing.assert_array_equal(segments.masks.mask(1), box(3, 2, 8, 6) | box(0, 10, 2, 12))


def test_splits_and_paths(tmp_path: Path) -> None:
    """Without a subset the split is `train`; images lie in folders of their subset, or where they are named."""
    images = (
        image("a.png", "", subset="val")
        + image("a.png", "", subset="train")
        + image("cam/b.png", "", subset="train")
        + image("c.png", "")
    )
    files = dict.fromkeys(("images/val/a.png", "images/train/a.png", "images/cam/b.png", "c.png"), BLANK)
    archive = save(tmp_path, {"annotations.xml": document(images), **files})
    assert XML.splits(archive) == ("train", "val")
    assert [item.image for item in XML.open(archive, "val").items] == ["images/val/a.png"]
    train = XML.open(archive, "train")
    assert [item.image for item in train.items] == ["images/train/a.png", "images/cam/b.png", "c.png"]
    assert train.image_ids == ("a", "b", "c")


@pytest.mark.parametrize(("subset", "split"), [("val", "val"), ("default", "train"), ("", "train")])
def test_subset_of_a_task(tmp_path: Path, subset: str, split: str) -> None:
    content = document(image("a.png", ""), more=f"<subset>{subset}</subset>").replace("project>", "task>")
    assert XML.splits(save(tmp_path, {"annotations.xml": content})) == (split,)


def test_labels(tmp_path: Path) -> None:
    """Parts of skeletons are no classes; without a list the labels of the shapes count."""
    labels = (
        "<labels><label><name>arm &amp; leg</name><color>red</color></label>"
        "<label><name>arm</name><parent>arm &amp; leg</parent></label></labels>"
    )
    more = image("a.png", polygon("arm & leg", SQUARE))
    content = f"<annotations><meta><task>{labels}</task></meta>{more}</annotations>"
    archive = save(tmp_path / "listed", {"annotations.xml": content, "a.png": BLANK})
    assert [category.name for category in XML.open(archive, "train").categories] == ["arm & leg"]
    content = f"<annotations>{image('a.png', polygon('b', SQUARE) + polygon('a', SQUARE))}</annotations>"
    archive = save(tmp_path / "unlisted", {"annotations.xml": content, "a.png": BLANK})
    assert [category.name for category in XML.open(archive, "train").categories] == ["a", "b"]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    skeleton = element("skeleton", label="person").replace(
        "></skel", ">" + element("points", label="eye") + "</skel"
    )
    shapes = (
        element("box", label="car", xtl=1, ytl=2, xbr=3, ybr=4) * 2
        + element("tag", label="rainy")
        + skeleton
        + polygon("car", SQUARE).replace("></poly", '><attribute name="parked">true</attribute></poly')
    )
    dataset = one(tmp_path, shapes)
    assert dataset.left_out == (
        "2 shapes without a mask (box)",
        "1 shapes without a mask (skeleton)",
        "1 shapes without a mask (tag)",
    )
    assert len(dataset[0].segments) == 1


BOMB = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (f'<!DOCTYPE annotations [<!ENTITY e0 "ha">{BOMB}]>', "&e11;"),
        ('<!DOCTYPE annotations [<!ENTITY x SYSTEM "file:///etc/passwd">]>', "&x;"),
        ('<!DOCTYPE annotations [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]>', ""),
        ('<!DOCTYPE annotations SYSTEM "http://127.0.0.1:9/evil.dtd">', ""),
        ("<!DOCTYPE annotations>", ""),
        ('<!DOCTYPE annotations [<!ATTLIST image name CDATA "a.png">]>', ""),
    ],
    ids=["billion laughs", "external entity", "parameter entity", "external DTD", "bare", "default attributes"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_document_types_are_refused(tmp_path: Path, head: str, body: str, encoding: str) -> None:
    content = f'<?xml version="1.0" encoding="{encoding}"?>{head}<annotations><meta>{body}</meta></annotations>'
    archive = save(tmp_path, {"annotations.xml": content.encode(encoding)})
    start = time.perf_counter()
    for act in (XML.splits, lambda archive: XML.open(archive, "train")):
        with pytest.raises(DataError, match=r"annotations.xml: declares a document type or entities"):
            act(archive)
    missing = XML.missing(archive)
    assert missing is not None
    assert "document type" in missing
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not well-formed"),
        ("<annotations><image>", "not well-formed"),
        ("<annotations>&x;</annotations>", "not well-formed"),
        (b"\xff\x00\x12", "not well-formed"),
        ('<?xml version="1.0" encoding="rot13"?><annotations/>', "not well-formed"),
        ("<annotation><folder>VOC</folder></annotation>", "begins with <annotation>; expected <annotations>"),
        ("<annotations>" + "<a>" * 100_000, "elements in more than 32 levels"),
        ('<annotations><track id="0" label="car"/></annotations>', "export the task from CVAT as 'CVAT for im"),
        ("<annotations></annotations>", "no images in a split 'train'; it has none"),
        (document(image("a.png", "", subset="val")), "no images in a split 'train'; it has val"),
        (document(image("a.png", polygon("cow", SQUARE))), "'a.png': shape 1, a polygon: its label 'cow' is not"),
        (document(image("a.png", element("polygon", points=SQUARE))), "its label None"),
        (document(image("b.png", "") + image("c.png", "")), "2 of 2 images of train are not there: 'b.png', 'c"),
        (document(image("../../../etc/passwd", "")), "1 of 1 images of train are not there"),
        (document(image("", "")), "1 of 1 images of train are not there"),
        (document(image("a.png", "") + image("x/a.png", "")), "'a.png' and 'x/a.png' are both images/a.png"),
        (f"<annotations>{image('a.png', '')}</annotations>", "neither labels nor shapes"),
        (document(image("a.png", ""), names=(" ",)), "a label without a name"),
    ],
)  # fmt: skip
def test_malformed_documents_are_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    archive = save(tmp_path, {"annotations.xml": content, "images/a.png": BLANK})
    with pytest.raises(DataError, match=message) as caught:
        XML.open(archive, "train")
    assert "annotations.xml" in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (polygon("car", "1,2;nan,3;4,5"), '"points" is \'nan,3\''),
        (polygon("car", "1,2;inf,3;4,5"), '"points" is \'inf,3\''),
        (polygon("car", "1,2;1e999,3;4,5"), '"points" is'),
        (polygon("car", "1,2;3;4,5"), "expected x,y;x,y"),
        (polygon("car", ""), '"points" is'),
        (polygon("car", "1,2;3,4"), "4 numbers; expected x and y of three points"),
        (polygon("car", "1,2;30000,4;5,6"), "coordinate 30000"),
        (element("polygon", label="car"), '"points" is missing'),
        (polygon("car", SQUARE, z_order="top"), '"z_order" is \'top\''),
        (polygon("car", SQUARE, group_id=1.5), '"group_id" is \'1.5\''),
        (element("mask", label="car", rle="4", left=0, top=0, width=2), '"height" is missing'),
        (element("mask", label="car", rle="4", left=31, top=0, width=2, height=2), "does not lie in the image"),
        (element("mask", label="car", rle="4", left=-1, top=0, width=2, height=2), "does not lie in the image"),
        (element("mask", label="car", rle="", left=0, top=0, width=10**9, height=10**9), "does not lie in the"),
        (element("mask", label="car", rle="1, 2", left=0, top=0, width=2, height=2), "runs of 3 pixels, but its"),
        (element("mask", label="car", rle="-4, 8", left=0, top=0, width=2, height=2), '"rle" has runs'),
        (element("mask", label="car", rle="0.5, 3.5", left=0, top=0, width=2, height=2), '"rle" has runs'),
        (element("mask", label="car", rle="x", left=0, top=0, width=2, height=2), '"rle" is \'x\''),
        (element("mask", label="car", left=0, top=0, width=2, height=2), '"rle" is missing'),
        (element("ellipse", label="car", cx="1,2", cy=1, rx=1, ry=1), '"cx" is \'1,2\'; expected one number'),
    ],
)  # fmt: skip
def test_malformed_shapes_are_named(tmp_path: Path, shape: str, message: str) -> None:
    dataset = one(tmp_path, element("box", label="car") + shape)
    with pytest.raises(DataError, match=r"annotations.xml: image a: shape 2, a \w+ \(car\): .*" + message):
        dataset[0]


def test_sizes_must_agree(tmp_path: Path) -> None:
    content = document(image("a.png", "", width=24, height=32))
    dataset = XML.open(save(tmp_path, {"annotations.xml": content, "a.png": BLANK}), "train")
    with pytest.raises(DataError, match="image a: width and height are 24 and 32"):
        dataset[0]


def test_datumaro_order_groups_and_rest(tmp_path: Path) -> None:
    annotations = [
        datumaro_annotation(0, "polygon", 1, points=FLAT, z_order=3),
        datumaro_annotation(1, "mask", 1, rle=coco_rle(box(0, 10, 2, 12)), group=5),
        datumaro_annotation(2, "polygon", 1, points=FLAT, group=5),
        datumaro_annotation(3, "bbox", 1, bbox=[1, 2, 3, 4]),
        datumaro_annotation(4, "polygon", 0, points=FLAT) | {"label_id": None},
        datumaro_annotation(5, "points", 0, points=FLAT),
    ]
    dataset = one_datumaro(tmp_path, annotations)
    masks = dataset[0].segments.masks
    np.testing.assert_array_equal(masks.mask(0), box(3, 2, 8, 6) | box(0, 10, 2, 12))
    np.testing.assert_array_equal(masks.mask(1), box(3, 2, 8, 6))
    assert dataset.left_out == (
        "1 shapes without a mask (bbox)",
        "1 shapes without a mask (points)",
        "1 shapes without a mask (polygon without a label)",
    )


def test_datumaro_image_by_id(tmp_path: Path) -> None:
    content = datumaro_document([datumaro_item("cam/a", [], image={"path": ""})])
    archive = save(tmp_path, {"annotations/val.json": content, "images/val/cam/a.png": BLANK})
    assert DATUMARO.open(archive, "val").items[0].image == "images/val/cam/a.png"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"points": None}, "polygon with id 7: polygon 1 of 1 is None"),
        ({"points": FLAT[:5]}, "polygon with id 7: polygon 1 of 1 has 5 numbers"),
        ({"points": [*FLAT[:7], "8"]}, "polygon with id 7: .*flat list of numbers"),
        ({"points": [*FLAT[:7], 1e400]}, "not valid JSON"),
        ({"type": "mask"}, 'mask with id 7: "rle" is None'),
        ({"type": "mask", "rle": {"counts": "abc", "size": [2, 2]}}, "mask with id 7: .*size"),
        ({"type": "mask", "rle": {"counts": "abc", "size": list(SIZE)}}, "mask with id 7: a run-length code"),
        ({"z_order": "top"}, "\"z_order\" is 'top'"),
        ({"group": {}}, '"group" is {}'),
        ({"label_id": 4}, r"item 'a': annotations\[0\] has the \"label_id\" 4, but there are 4 labels"),
        ({"label_id": True}, '"label_id" True'),
        ({"type": None}, r'item .a.: annotations\[0\] has no "type"'),
    ],
)
def test_malformed_datumaro_is_named(tmp_path: Path, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        one_datumaro(tmp_path, [datumaro_annotation(7, "polygon", 1, points=FLAT) | bad])[0]
    assert "annotations/default.json" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], '"items" is not a list'),
        ({"items": []}, '"categories" has no label.labels'),
        ({"items": [], "categories": {"label": {"labels": [{"name": ""}]}}}, "label 0 has the name ''"),
        (datumaro_document([]), 'no "items"'),
        (datumaro_document([3]), r'items\[0\]: no "id"'),  # type: ignore[list-item]
        (datumaro_document([datumaro_item("a", [], image=3)]), r'items\[0\]: "image" is 3'),
        (datumaro_document([datumaro_item("a", [], image={"path": 3})]), "has the path 3"),
        (datumaro_document([datumaro_item("a", 3)]), "item 'a': \"annotations\" is 3"),  # type: ignore[arg-type]
        (
            datumaro_document([datumaro_item("../../a\0", [], image=None)]),
            "1 of 1 images of default are not there",
        ),
    ],
)
def test_malformed_datumaro_documents(tmp_path: Path, content: Any, message: str) -> None:
    archive = save(tmp_path, {"annotations/default.json": content})
    with pytest.raises(DataError, match=message):
        DATUMARO.open(archive, "default")


@pytest.mark.parametrize(
    "files",
    [
        {"annotations/instances_train.json": {"images": [], "annotations": [], "categories": []}},
        {"annotations/train.json": {"images": [], "annotations": [], "categories": [], "items": []}},
        {"Annotations/a.xml": "<annotation></annotation>"},
        {"annotations.xml": "<annotation></annotation>"},
        {"annotations.xml": "<annotations></annotations>"},
        {"annotations.xml": '<annotations><track id="0"/></annotations>'},
        {"annotations/a.json": {"shapes": [], "imagePath": "a.png"}},
        {"categories.json": []},
    ],
)
def test_decoys(tmp_path: Path, files: dict[str, Any]) -> None:
    archive = save(tmp_path, files)
    assert [format.name for format in FORMATS if format.missing(archive) is None] == []


@pytest.mark.parametrize("file", ["images/val/0.png", "pictures/0.png"])
def test_no_image_of_another_split_stands_in_for_one_that_is_lost(tmp_path: Path, file: str) -> None:
    content = document(image("0.png", "", subset="train") + image("0.png", "", subset="val"))
    archive = save(tmp_path, {"annotations.xml": content, file: BLANK})
    with pytest.raises(DataError, match=r"1 of 1 images of train are not there: '0.png'"):
        XML.open(archive, "train")
