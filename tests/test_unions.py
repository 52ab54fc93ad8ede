"""A split is left out only where it is others together; an image is taken once only where it says the same."""

import json
from pathlib import Path

import pytest

from eomt.cli import main
from eomt.data.convert import views
from eomt.data.detect import find_format
from eomt.data.subsets import survey
from eomt.data.unions import identities, unions
from layouts import coco, voc
from test_data_convert import CAT, Made, Piece, Shot, box, picture, write_coco

WHOLE, PART = Piece(4, box(0, 0, 4, 4)), Piece(4, box(0, 0, 2, 2))


def lists(root: Path, splits: dict[str, dict[str, Piece]]) -> Path:
    """Write COCO files that list images of one folder, with a segment each."""
    shots = tuple(Shot(name, picture((8, 10), seed), ()) for seed, name in enumerate(("a.png", "b.png", "c.png")))
    write_coco(root, Made((CAT,), {"images": shots}))
    (root / "annotations" / "instances_images.json").unlink()
    for split, pieces in splits.items():
        made = Made((CAT,), {split: tuple(Shot(name, b"", (piece,)) for name, piece in pieces.items())})
        write_coco(root / "aside", made)
        content = json.loads((root / "aside" / "annotations" / f"instances_{split}.json").read_text())
        coco.save(root / "annotations" / f"instances_{split}.json", content)
    for file in sorted((root / "aside").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (root / "aside").rmdir()
    return root


A, B, C = "a.png", "b.png", "c.png"
CASES = {
    "two splits together": ({"all": {A: WHOLE, B: WHOLE}, "train": {A: WHOLE}, "val": {B: WHOLE}}, ("all",)),
    "and one image more": ({"all": {A: WHOLE, B: WHOLE, C: WHOLE}, "train": {A: WHOLE}, "val": {B: WHOLE}}, ()),
    "annotated otherwise": ({"all": {A: PART, B: WHOLE}, "train": {A: WHOLE}, "val": {B: WHOLE}}, ()),
    "a part of another": ({"train": {A: WHOLE, B: WHOLE}, "val": {B: WHOLE}}, ()),
    "the same list twice": ({"train": {A: WHOLE, B: WHOLE}, "val": {A: WHOLE, B: WHOLE}}, ()),
    "three together, and two of them": (
        {
            "all": {A: WHOLE, B: WHOLE, C: PART},
            "fit": {A: WHOLE, B: WHOLE},
            "train": {A: WHOLE},
            "val": {B: WHOLE},
            "x": {C: PART},
        },
        ("all", "fit"),
    ),
}


@pytest.mark.parametrize(("splits", "expected"), CASES.values(), ids=CASES)
def test_what_is_a_union(splits, expected, tmp_path, caplog):
    found = find_format(lists(tmp_path / "source", splits))
    assert unions({name: found.open(name) for name in found.splits}) == expected
    with caplog.at_level("WARNING", "eomt"):
        assert set(views(found)) == set(splits) - set(expected)
    assert [name for name in splits if f"split {name}: left out" in caplog.text] == sorted(expected)
    assert set(views(found, list(splits))) == set(splits)  # what is named is taken


def test_annotations_are_not_read_where_files_tell(tmp_path: Path) -> None:
    """VOC's lists name the same masks: one of them need not be readable to know that trainval is the others."""
    voc.write(tmp_path)
    masks = tmp_path / voc.TOP / "SegmentationClass"
    (masks / "street_000001.png").write_bytes(b"")
    found = find_format(tmp_path)
    assert unions({name: found.open(name) for name in found.splits}) == ("trainval",)


def test_images_of_two_splits_are_taken_once_where_they_say_the_same(tmp_path: Path) -> None:
    source = lists(tmp_path / "source", {"train": {A: WHOLE, B: WHOLE, C: WHOLE}, "val": {A: WHOLE, B: PART}})
    opened = views(find_format(source))
    known = identities({name: view.split for name, view in opened.items()})
    assert [each in known["train"] for each in known["val"]] == [True, False]
    seen = survey(opened)
    assert [(chosen.view.name, chosen.place) for chosen in seen.images] == [
        ("train", 0),
        ("train", 1),
        ("train", 2),
        ("val", 1),
    ]
    assert (seen.repeated, seen.duplicates) == (1, 1)


def test_the_commands_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = lists(tmp_path / "source", {"train": {A: WHOLE, B: WHOLE, C: WHOLE}, "val": {A: WHOLE, B: PART}})
    for action in (["split", "--val", "0.4"], ["sample", "--images", "3"]):
        assert main(["data", action[0], str(source), str(tmp_path / action[0]), *action[1:]]) == 0
        said = capsys.readouterr().err
        assert "1 image in several splits, with the same segments: taken once" in said
    assert main(["data", "split", str(source), str(tmp_path / "json"), "--val", "0.4", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["repeated"], said["duplicates"]) == (1, 1)
