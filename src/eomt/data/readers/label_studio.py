"""Read Label Studio's export "JSON": a list of tasks, in one file or several, beside the images.

An export does not hold the images. They are matched by the path that a task names (`/data/local-files/?d=...`,
`/data/upload/1/1a2b3c4d-name.jpg`, URLs): by the longest end of it that fits, with or without the eight
characters that uploading puts in front. A file in a folder belongs to the split of the folder's name; one called
`train.json`, `val.json`, ... to that split; others to `train`.

**Annotations.** Cancelled (skipped) ones do not count. Of several, the one marked as ground truth is read, else
the one that was changed last. Tasks without any are left out: they were not looked at. An empty one is a negative.

**Regions.** Polygons (in percent) and brush masks are segments, which lie on each other as listed. Rectangles,
ellipses, key points, ..., regions without a label and polygons that were not closed are left out and counted.
What is said of regions and images (choices, texts) is ignored. Classes, all things, are the labels of all files,
sorted, with ids from 1: the export does not list them.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from eomt.categories import Category, distinct_color
from eomt.data.archive import Archive
from eomt.data.files import Images, image_ids
from eomt.data.finite_json import parse_json
from eomt.data.images import IMAGE_SUFFIXES
from eomt.data.problems import each, of_file
from eomt.data.reader import Format, Item, Split
from eomt.data.readers.shapes import (
    COCO_FILES,
    Drawn,
    check_size,
    joined,
    looked_at,
    number,
    require_pixels,
    union,
)
from eomt.errors import DataError
from eomt.masks import Rle, encode_rle
from eomt.types import Segments

__all__ = ["FORMAT"]

_EXPECTED = "*.json (Label Studio's export 'JSON') and the images"
_KINDS = {"polygonlabels": "polygon", "polygon": "polygon", "brushlabels": "brush", "brush": "brush"}
_NO_REGIONS = ("choices", "textarea", "rating", "number", "taxonomy", "datetime", "relation", "pairwise", "ranker")
_SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "test", "testing")
_NO_SPLIT = ("images", "annotations", "json", "ann", "labels")
_UPLOAD_PREFIX = re.compile("[0-9a-f]{8}-(?=.)")


def _missing(archive: Archive) -> str | None:
    files = [name for name in _json_files(archive) if not PurePosixPath(name).name.startswith(COCO_FILES)]
    if not files:
        return "*.json"
    kinds = set()
    for content in looked_at(archive, files):
        kinds.add(_kind_of(content))
        if "full" in kinds:
            return None
    if "min" in kinds:
        return '"annotations" of each task (this is JSON-MIN: export as "JSON" instead)'
    return f'tasks with "annotations" and "data" in {files[0]}'


def _json_files(archive: Archive) -> list[str]:
    """List the JSON files that may be exports: at the top or one folder down."""
    return [name for name in archive.names() if name.lower().endswith(".json") and name.count("/") < 2]


def _kind_of(content: bytes) -> str | None:
    """Tell an export from other JSON without parsing it."""
    if not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        return None
    if b'"data"' in content and (b'"annotations"' in content or b'"completions"' in content):
        return "full"
    return "min" if b'"annotation_id"' in content and b'"annotator"' in content else None


def _split_of(name: str) -> str:
    path = PurePosixPath(name)
    if len(path.parts) > 1 and path.parts[0].lower() not in _NO_SPLIT:
        return path.parts[0]
    return path.stem if path.stem.lower() in _SPLIT_NAMES else "train"


def _splits(archive: Archive) -> tuple[str, ...]:
    return tuple(
        sorted({_split_of(name) for name in _json_files(archive) if _kind_of(archive.read(name)) == "full"})
    )


def _open(archive: Archive, split: str) -> Split:
    """Read all files once: the classes are those of all splits."""
    files = [file for file in _json_files(archive) if _kind_of(archive.read(file)) == "full"]
    splits = {_split_of(file) for file in files}
    strangers = [file for file in files if _split_of(file) != split]
    images = Images(archive, split, splits - {split}, partial(_claims, archive, strangers))
    labels: set[str] = set()
    left_out: Counter[str] = Counter()
    found: dict[str, tuple[str, str, bytes]] = {}  # image -> its file of tasks, its task, its regions
    for file in files:
        for task, where in _tasks(archive, file):
            told: Counter[str] = Counter()
            with of_file(file), each():
                results = _results(task, where, told)
                regions = [] if results is None else _regions(results, where, told)
                labels.update(region["label"] for region in regions)
                if _split_of(file) != split:
                    continue
                left_out += told
                if results is None:
                    continue
                image = _image_of(task, images, where)
                if image in found:
                    raise DataError(
                        f"{where}: its image {image} is that of {found[image][1]} too; remove one of them"
                    )
                found[image] = file, where, json.dumps(regions).encode()
    if split not in splits:
        raise DataError(f"{archive.path}: no split {split!r}; it has {', '.join(sorted(splits)) or 'none'}")
    if not found:
        raise DataError(f"{archive.path}: no annotated task in {split}; annotate some, and export again")
    categories = tuple(
        Category(name, True, index + 1, distinct_color(index)) for index, name in enumerate(sorted(labels))
    )
    items = tuple(
        Item(id, image, file, regions)
        for id, (image, (file, _, regions)) in zip(image_ids(list(found)), found.items(), strict=True)
    )
    numbers = {category.name: label for label, category in enumerate(categories)}
    told_all = tuple(f"{count} {reason}" for reason, count in sorted(left_out.items()))
    return Split(archive, categories, items, partial(_read_segments, numbers), told_all)


def _tasks(archive: Archive, file: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Give the tasks of a file, each with its place for messages."""
    where, seen = archive.where(file), set()
    document: Sequence[Any] = ()
    with of_file(file), each():
        document = parse_json(archive.read(file), where)
    for index, task in enumerate(document):
        place = ""
        with of_file(file), each():
            if not isinstance(task, dict):
                raise DataError(f"{where}: task at place {index} is {task!r:.60}; expected an object")
            id = task.get("id", f"at place {index}")
            place = f"{where}: task {id!r:.60} at place {index}"  # stays where faults are collected
            if not isinstance(id, int | str) or id in seen:
                raise DataError(f'{where}: task at place {index}: "id" is {id!r:.60}; each task needs its own')
            seen.add(id)
            place = f"{where}: task {id}"
        if place:
            yield task, place


def _results(task: Mapping[str, Any], where: str, told: Counter[str]) -> Sequence[Any] | None:
    """Choose the annotation of a task, and give its results; None without one."""
    annotations = task.get("annotations", task.get("completions"))  # before version 1.0
    if not isinstance(annotations, list):
        raise DataError(
            f'{where}: "annotations" is {annotations!r:.60}; expected a list: export as "JSON" (not JSON-MIN)'
        )
    for annotation in annotations:
        if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
            raise DataError(f'{where}: an annotation without a list "result"; export it again')
    valid = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    if len(valid) < len(annotations):
        told["cancelled (skipped) annotations"] += len(annotations) - len(valid)
    if not valid:
        told["tasks without an annotation"] += 1
        return None
    if len(valid) > 1:
        told["further annotations of tasks that have several"] += len(valid) - 1
    chosen = max(enumerate(valid), key=lambda entry: (*_standing(entry[1]), entry[0]))[1]
    results: list[Any] = chosen["result"]
    return results


def _standing(annotation: Mapping[str, Any]) -> tuple[bool, str]:
    """Rank annotations of a task: the ground truth first, then by the time of the last change (ISO 8601)."""
    changed = annotation.get("updated_at") or annotation.get("created_at") or ""
    return bool(annotation.get("ground_truth")), str(changed)


def _regions(results: Sequence[Any], where: str, told: Counter[str]) -> list[dict[str, Any]]:
    """Give the regions that are segments, each with its one label."""
    typed = []
    for result in results:
        with each():
            if not isinstance(result, dict) or not isinstance(result.get("type"), str):
                raise DataError(f'{where}: a result {result!r:.60} without a "type"; export it again')
            typed.append(result)
    labels_by_id = {
        str(result.get("id")): result["value"].get("labels")
        for result in typed
        if result["type"] == "labels" and isinstance(result.get("value"), dict)
    }
    regions = []
    for index, result in enumerate(typed):
        with each():
            region = _region(result, str(result.get("id", f"at place {index}")), labels_by_id, where, told)
            if region is not None:
                regions.append(region)
    return regions


def _region(
    result: Mapping[str, Any], id: str, labels_by_id: Mapping[str, Any], where: str, told: Counter[str]
) -> dict[str, Any] | None:
    """Give a region with its one label; None where it is no segment."""
    kind = _KINDS.get(result["type"])
    place = f"{where}: region {id:.40} ({result['type']:.40})"
    if result["type"] == "labels" or result["type"] in _NO_REGIONS:  # they say more of an image or a region
        return None
    if kind is None:
        told[f"regions that are neither polygons nor brush masks ({result['type']:.40})"] += 1
        return None
    value = result.get("value")
    if not isinstance(value, dict):
        raise DataError(f'{place}: "value" is {value!r:.60}; expected an object')
    labels = value.get(result["type"]) or value.get("labels") or labels_by_id.get(id) or []
    if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
        raise DataError(f"{place}: its labels are {labels!r:.60}; expected a list of names")
    if len(labels) > 1:
        raise DataError(f"{place}: has the labels {', '.join(labels):.80}; a segment has one: correct it")
    if not labels:
        told["regions without a label"] += 1
        return None
    if kind == "polygon" and value.get("closed") is False:
        told["polygons that were not closed"] += 1
        return None
    if result.get("image_rotation") not in (None, 0):
        raise DataError(
            f'{place}: "image_rotation" is {result["image_rotation"]!r:.20}: it was drawn on a turned image, '
            "which cannot be read; turn the image back in Label Studio, or the file itself, and label it anew"
        )
    size = result.get("original_width"), result.get("original_height")
    content = {key: value.get(key) for key in (("points",) if kind == "polygon" else ("format", "rle"))}
    return {"id": id, "kind": kind, "label": labels[0], "size": size, **content}


def _claims(archive: Archive, files: Iterable[str]) -> Iterator[str]:
    """List the paths of images that files of tasks name, as far as they can be read."""
    for file in files:
        with suppress(ValueError, RecursionError):
            for task in json.loads(archive.read(file)):
                with suppress(DataError):
                    yield from _paths(task, file) if isinstance(task, dict) else ()


def _paths(task: Mapping[str, Any], where: str) -> list[str]:
    """Give the paths by which the image of a task may be found: as named, and without what uploading added."""
    named = _image_path(task, where)
    folder, _, base = named.rpartition("/")
    return [named] + ([f"{folder}/{_UPLOAD_PREFIX.sub('', base, count=1)}"] if _UPLOAD_PREFIX.match(base) else [])


def _image_of(task: Mapping[str, Any], images: Images, where: str) -> str:
    """Find the image of a task in the archive. Raises DataError where none, or more than one, may be it."""
    candidates = _paths(task, where)
    for path in candidates:
        try:
            image = images.find(path, ())
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
        if image is not None:
            return image
    base = candidates[0].rpartition("/")[2]
    raise DataError(
        f"{where}: its image {base!r:.80} is not there; Label Studio's JSON holds no images: put them into a "
        "folder images/ beside it, under the names that they had"
    )


def _image_path(task: Mapping[str, Any], where: str) -> str:
    """Give the path that a task names: of the field `image`, else of the one field that names an image."""
    data = task.get("data")
    texts = {key: value for key, value in data.items() if isinstance(value, str)} if isinstance(data, dict) else {}
    paths = {key: _path(value) for key, value in texts.items()}
    named = [path for path in paths.values() if path.lower().endswith(IMAGE_SUFFIXES)]
    if "image" in paths:
        return paths["image"]
    if len(set(named)) != 1:
        raise DataError(
            f'{where}: "data" names {len(set(named))} images ({", ".join(map(repr, texts))[:60]}); expected one, '
            'as "image"'
        )
    return named[0]


def _path(address: str) -> str:
    """Give the path of an image from a URL or path, without host and escapes."""
    try:
        parts = urlsplit(address)
        local = parse_qs(parts.query).get("d") if parts.path.rstrip("/").endswith("local-files") else None
    except ValueError:  # a host in square brackets that is none
        return address
    return local[0] if local else unquote(parts.path)


def _read_segments(labels: Mapping[str, int], archive: Archive, item: Item, size: tuple[int, int]) -> Segments:
    return joined(_drawn(json.loads(item.content), labels, size), size)


def _drawn(
    regions: Iterable[Mapping[str, Any]], labels: Mapping[str, int], size: tuple[int, int]
) -> Iterator[Drawn]:
    for region in regions:
        drawn = None
        with each():
            try:
                check_size((region["size"][0], region["size"][1]), size, '"original_width" and "original_height"')
                mask = _polygon(region["points"], size) if region["kind"] == "polygon" else _brush(region, size)
                drawn = Drawn(labels[region["label"]], None, mask)
            except ValueError as error:
                kind, id, label = region["kind"], region["id"], region["label"]
                raise ValueError(f"{kind} region {id:.40} ({label:.80}): {error}") from error
        if drawn is not None:
            yield drawn


def _polygon(points: object, size: tuple[int, int]) -> Rle:
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise ValueError(f'"points" is {points!r:.60}; expected a list of [x, y], in percent')
    height, width = size
    ring = [(number(x, "points") * width / 100, number(y, "points") * height / 100) for x, y in points]
    return union([[value for point in ring for value in point]], size)


def _brush(region: Mapping[str, Any], size: tuple[int, int]) -> Rle:
    rle = region["rle"]
    if region["format"] not in (None, "rle") or not isinstance(rle, list):
        raise ValueError(f'"format" is {region["format"]!r:.40} and "rle" {rle!r:.40}; expected "rle" and bytes')
    if not all(type(byte) is int and 0 <= byte <= 255 for byte in rle):
        raise ValueError('"rle" holds what is no byte; expected a list of whole numbers from 0 to 255')
    mask = encode_rle(_decode_brush(bytes(rle), size))
    require_pixels(mask)
    return mask


def _decode_brush(code: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode a brush mask to the pixels [h w] whose alpha is not 0.

    A stream of bits, highest first, in the form of thi.ng's rle-pack: how many values (32 bits), their bits less 1
    (5), four sizes less 1 (4 each); then blocks: whether one value is repeated (1), which size the count has (2),
    the count less 1 (of that size), and the value, or as many values. The values are the bytes R, G, B, A of the
    pixels, row by row. Raises ValueError for a stream that is cut short or does not fit the image.
    """
    height, width = size
    bits = _Bits(code)
    total, value_bits = bits.read(32), bits.read(5) + 1
    sizes = [bits.read(4) + 1 for _ in range(4)]
    if total != 4 * height * width:
        raise ValueError(
            f'"rle" holds {total} values, but an image of {width} x {height} has {4 * height * width} '
            "(four a pixel); export it again"
        )
    mask = np.zeros(height * width, dtype=np.bool_)
    place = 0
    while place < total:
        repeated = bits.read(1)
        end = place + bits.read(sizes[bits.read(2)]) + 1
        if end > total:
            raise ValueError(f'"rle" holds more values than the {total} that it announces; export it again')
        # Pixel p has its alpha at place 4 p + 3: those between are p in [place // 4, end // 4).
        if repeated:
            mask[place // 4 : end // 4] = bits.read(value_bits) > 0
        else:
            values = bits.read_many(end - place, value_bits)
            mask[place // 4 : end // 4] = values[(3 - place) % 4 :: 4]
        place = end
    return mask.reshape(height, width)


class _Bits:
    """Reads numbers from a stream of bits, highest first."""

    def __init__(self, data: bytes):
        self._data, self._place, self._end = data, 0, 8 * len(data)

    def read(self, count: int) -> int:
        """Read one number of so many bits."""
        first, place = self._advance(count), self._place
        last = (place + 7) // 8
        window = int.from_bytes(self._data[first // 8 : last], "big")
        return (window >> (8 * last - place)) & ((1 << count) - 1)

    def read_many(self, count: int, width: int) -> NDArray[np.bool_]:
        """Read numbers of so many bits each, and tell which are not 0."""
        first = self._advance(count * width)
        window = np.frombuffer(self._data, np.uint8)[first // 8 : (self._place + 7) // 8]
        bits = np.unpackbits(window)[first % 8 : first % 8 + count * width]
        found: NDArray[np.bool_] = bits.reshape(count, width).max(1) > 0
        return found

    def _advance(self, count: int) -> int:
        first, self._place = self._place, self._place + count
        if self._place > self._end:
            raise ValueError('"rle" is cut short; export it again')
        return first


FORMAT = Format("label-studio", _EXPECTED, _missing, _splits, _open)
