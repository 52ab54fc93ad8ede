"""New splits have every class on each side and no image on both; a sample shows all classes."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eomt.cli import main
from eomt.data.convert import convert, views
from eomt.data.detect import find_format
from eomt.data.subsets import Group, by_class, divide, few, sample, split, survey
from eomt.errors import ConfigError, DataError
from layouts import coco, folder
from scenes import SCENES
from test_data_convert import CAT, SKY, Made, Piece, Shot, box, picture, read, write_coco

QUICK = settings(max_examples=100, deadline=None, derandomize=True)
HALVES = {"train": 0.5, "val": 0.5}


def groups(*shown: str) -> list[Group]:
    """Make groups of one image each, of the classes that letters stand for."""
    return [Group((place,), frozenset(classes)) for place, classes in enumerate(shown)]


@pytest.mark.parametrize(
    ("shown", "shares", "classes"),
    [
        (("a", "a", "b", "b"), HALVES, {"train": "ab", "val": "ab"}),
        (("a", "a", *"bbbbbbbb"), {"train": 0.9, "val": 0.1}, {"train": "ab", "val": "ab"}),  # a rare class too
        (("a", *"bbb"), {"train": 0.5, "val": 0.5}, {"train": "ab", "val": "b"}),  # a single image: to train on
        (("ab", "bc", "ca", "ab", "bc", "ca"), HALVES, {"train": "abc", "val": "abc"}),
        (("a", "a", "a", ""), {"train": 0.5, "val": 0.25, "test": 0.25}, {"train": "a", "val": "a", "test": "a"}),
        (("", "", ""), {"train": 0.7, "val": 0.3}, {"train": "", "val": ""}),  # nothing annotated
    ],
)
def test_each_class_is_on_both_sides(shown, shares, classes):
    for seed in range(5):
        made = groups(*shown)
        given_to = divide(made, shares, seed)
        found = {name: set() for name in shares}
        for group, name in zip(made, given_to, strict=True):
            found[name] |= group.classes
        assert {name: "".join(sorted(some)) for name, some in found.items()} == classes
        assert set(given_to) == set(shares)


@QUICK
@given(st.lists(st.frozensets(st.sampled_from("abc")), min_size=40, max_size=120), st.integers(0, 9))
def test_shares_are_kept(shown: list[frozenset[str]], seed: int) -> None:
    made = [Group((place,), classes) for place, classes in enumerate(shown)]
    given_to = divide(made, {"train": 0.8, "val": 0.2}, seed)
    assert given_to == divide(made, {"train": 0.8, "val": 0.2}, seed)
    assert abs(given_to.count("val") / len(made) - 0.2) < 0.1
    total = Counter(name for classes in shown for name in classes)
    in_val = Counter(
        name for classes, split in zip(shown, given_to, strict=True) if split == "val" for name in classes
    )
    for name, count in total.items():
        if count >= 10:
            assert 0 < in_val[name] < count


def test_groups_that_count_more() -> None:
    """Nine images with one file go together, and the share still holds."""
    made = [Group(tuple(range(9)), frozenset("a")), *(Group((9 + n,), frozenset("a")) for n in range(9))]
    given_to = divide(made, HALVES)
    sizes = Counter[str]()
    for group, name in zip(made, given_to, strict=True):
        sizes[name] += len(group.members)
    assert set(sizes) == {"train", "val"}


@pytest.mark.parametrize(
    ("shown", "images", "classes"),
    [
        (("a", "b", "c", "abc"), 1, "abc"),  # one image shows all
        (("a", "a", "a", "b"), 2, "ab"),  # the rare one is taken
        (("ab", "bc", "cd", "d", "a"), 2, "abcd"),
        (("a", "b", "c"), 2, None),  # not possible: two of three
        (("a", "b"), 9, "ab"),  # no more than there are
        (("", ""), 1, ""),
    ],
)
def test_few_images_show_all_classes(shown, images, classes):
    for seed in range(5):
        chosen = few([frozenset(each) for each in shown], images, seed)
        assert chosen == sorted(set(chosen))
        assert len(chosen) == min(images, len(shown))
        found = {name for place in chosen for name in shown[place]}
        assert len(found) == images if classes is None else found == set(classes)


def equal_files(root: Path) -> Path:
    """Write twelve images in two splits; 0, 1 and 2 have the same file, and 1 is in the other split."""
    cat, sky = Piece(4, box(0, 0, 2, 2)), Piece(9, box(6, 0, 8, 10))
    shots = [
        Shot(f"{n}.png", picture((8, 10), max(n, 2)), (cat, sky) if n in (1, 5) else (cat,)) for n in range(12)
    ]
    odd = tuple(shot for n, shot in enumerate(shots) if n % 2)
    return write_coco(root, Made((CAT, SKY), {"train": tuple(shots[::2]), "val": odd}))


@pytest.mark.parametrize("seed", range(6))
def test_equal_files_stay_together(seed, tmp_path):
    seen = survey(read(equal_files(tmp_path / "source")))
    assert seen.duplicates == 2
    assert seen.closest == "coco"
    plan = split(seen, {"val": 0.3, "test": 0.2}, seed)
    assert sum(map(len, plan.values())) == 12
    names = {
        name: {each.view.split.items[each.place].image_id for each in chosen} for name, chosen in plan.items()
    }
    assert sum({"0", "1", "2"} <= some for some in names.values()) == 1
    counts = by_class(plan, seen)
    assert counts["cat"].keys() == {"train", "val", "test"}
    assert all(counts["cat"].values())
    assert sum(bool(count) for count in counts["sky"].values()) == 2  # in two groups, so on two sides
    assert plan.keys() == split(seen, {"val": 0.3, "test": 0.2}, seed).keys()
    assert [len(some) for some in plan.values()] == [
        len(some) for some in split(survey(read(tmp_path / "source")), {"val": 0.3, "test": 0.2}, seed).values()
    ]


@pytest.mark.parametrize("shares", [{"val": 0.0}, {"val": 1.0}, {"val": 0.6, "test": 0.4}, {"val": -0.1}])
def test_shares_that_cannot_be(shares, tmp_path):
    seen = survey(read(equal_files(tmp_path / "source")))
    with pytest.raises(ConfigError, match="each share is above 0, all together are below 1"):
        split(seen, shares)


def test_too_few_images(tmp_path: Path) -> None:
    cat = Piece(4, box(0, 0, 2, 2))
    write_coco(tmp_path, Made((CAT,), {"train": (Shot("a.png", picture((8, 10)), (cat,)),)}))
    with pytest.raises(DataError, match="1 different images are too few for 2 splits"):
        split(survey(read(tmp_path)), {"val": 0.1})


@pytest.mark.parametrize(("images", "expected"), [(2, [1, 1]), (5, [3, 2]), (12, [6, 6]), (40, [6, 6])])
def test_samples_of_each_split(images, expected, tmp_path):
    seen = survey(read(equal_files(tmp_path / "source")))
    plan = sample(seen, images)
    assert sorted((len(some) for some in plan.values()), reverse=True) == expected
    assert all(sum(counts.values()) for counts in by_class(plan, seen).values())
    with pytest.raises(ConfigError, match="each needs one image at least"):
        sample(seen, 1)


def test_the_layout_that_holds_all(tmp_path: Path) -> None:
    folder.write(tmp_path / "folder")
    coco.write(tmp_path / "coco")
    assert survey(views(find_format(tmp_path / "folder"))).closest == "masks"
    assert survey(views(find_format(tmp_path / "coco"))).closest == "coco"


def test_what_is_split_is_all_there(tmp_path: Path) -> None:
    """Images of two splits with one name, and a table of images."""
    source = read(equal_files(tmp_path / "source"))
    table = "image_id,split\n" + "".join(f"{n},old\n" for n in range(12))
    (tmp_path / "source" / "images.csv").write_text(table)
    plan = split(survey(source), {"val": 0.5})
    report = convert(plan, "masks", tmp_path / "split")
    back = read(tmp_path / "split")
    assert {name: len(view.split) for name, view in back.items()} == {n: len(c) for n, c in plan.items()}
    assert sum(counts["images"] for counts in report.written.values()) == 12
    rows = (tmp_path / "split" / "images.csv").read_text().splitlines()[1:]
    said = dict(row.split(",") for row in rows)
    assert said == {image_id: name for name, view in back.items() for image_id in view.split.image_ids}


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(equal_files(tmp_path / "source"))
    assert main(["data", "split", source, str(tmp_path / "split"), "--val", "0.3", "--by-class"]) == 0
    captured = capsys.readouterr()
    assert "Images that show a class" in captured.out
    assert "taken together: the splits train, val" in captured.err
    assert "2 images have the same file as another" in captured.err
    assert set(read(tmp_path / "split")) == {"train", "val"}
    assert main(["data", "split", source, str(tmp_path / "again"), "--test", "0.2", "--seed", "3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(said["written"]) == {"train", "val", "test"}
    assert said["duplicates"] == 2
    assert main(["data", "sample", source, str(tmp_path / "few"), "--images", "4", "--to", "yolo", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sum(counts["images"] for counts in said["written"].values()) == 4
    assert said["classes_not_shown"] == []
    assert find_format(tmp_path / "few").format.name == "yolo"
    assert main(["data", "sample", source, str(tmp_path / "all"), "--images", "13"]) == 0
    assert "--images 13: there are no more than 12 images; all were taken" in capsys.readouterr().err
    assert main(["data", "sample", source, str(tmp_path / "none"), "--images", "1"]) == 2
    assert main(["data", "split", source, str(tmp_path / "none"), "--val", "2"]) == 2
    assert not (tmp_path / "none").exists()


def test_the_scenes_in_new_splits(tmp_path: Path) -> None:
    folder.write(tmp_path / "source")
    seen = survey(views(find_format(tmp_path / "source")))
    convert(split(seen, {"val": 0.34}), seen.closest, tmp_path / "split")
    assert sum(len(view.split) for view in read(tmp_path / "split").values()) == len(SCENES)
