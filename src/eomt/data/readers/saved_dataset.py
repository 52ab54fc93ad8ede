"""Read data sets that Hugging Face's `datasets` saved: Arrow files of `save_to_disk`, or Parquet files of the hub.

No code of a data set is run and nothing is fetched. It needs pyarrow (the extra `datasets`). An image lies in a
column `image`, its annotation in one of two forms:

- A column `label`, `annotation`, `mask` or `segmentation` holds a mask as a picture. Its numbers are classes,
  named in `id2label.json` beside the data, in the files that `mask_code` knows, or by the one column that is a
  list of class labels.
- A column `objects` holds, for each object, `category` and `segmentation`: polygons in pixels or a run-length
  code, as COCO has them, or a mask as a picture; and perhaps `iscrowd`. All classes are things.

Arrow files in a folder are read in place, so that any row is at hand. Those in a zip or tar are read into memory,
at most 2 GiB. Parquet files are read by groups of rows: slower where rows are drawn by chance.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch

from eomt.categories import Category, distinct_color
from eomt.data.archive import Archive
from eomt.data.images import read_label_map
from eomt.data.parts import require_size
from eomt.data.problems import each, of_file
from eomt.data.reader import Format, Item, Split
from eomt.data.readers.mask_code import CATEGORY_FILES, MaskCode, read_code
from eomt.data.readers.shapes import require_pixels, run_lengths, union
from eomt.errors import DataError
from eomt.masks import Rle, RleMasks, encode_rle
from eomt.types import Segments

__all__ = ["FORMAT"]

_IMAGES = ("image", "pixel_values", "img", "picture")
_MASKS = ("label", "annotation", "mask", "segmentation", "labels", "segmentation_mask", "label_map", "semantic")
_OBJECTS = ("objects", "annotations")
_CLASSES = ("category", "category_id", "label", "class", "class_id", "labels", "categories")
_OUTLINES = ("segmentation", "segments", "mask", "masks", "rle", "polygons", "polygon")
_CROWDS = ("iscrowd", "is_crowd")
_IDS = ("image_id", "id", "file_name")
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?")
_SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test")
_MAX_MEMORY = 2 << 30  # bytes


class _Columns(NamedTuple):
    """Where a row has what."""

    image: str
    mask: str | None = None
    objects: str | None = None
    category: str = ""
    outline: str = ""
    crowd: str | None = None


class _Shard:
    """The rows of one file. Arrow files are mapped into memory; of Parquet files, the last group read is kept."""

    def __init__(self, archive: Archive, name: str):
        self.where = archive.where(name)
        pyarrow = _pyarrow(archive)
        path = archive.path / name
        packed = None if archive.exists(name) and path.is_file() else archive.read(name)  # inside the archive only
        self.in_memory = len(packed or b"")
        try:
            source = pyarrow.memory_map(str(path)) if packed is None else pyarrow.BufferReader(packed)
            if name.endswith(".parquet"):
                from pyarrow import parquet

                self._file = parquet.ParquetFile(source)
                self.schema = self._file.schema_arrow
                sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
            else:
                self._table = pyarrow.ipc.open_stream(source).read_all()
                self._table.validate(full=True)  # damaged offsets would be followed anywhere
                self._file, self.schema, sizes = None, self._table.schema, [self._table.num_rows]
            _check_names(self.schema)
        except (pyarrow.ArrowException, OSError, ValueError, RecursionError) as error:
            raise DataError(f"{self.where}: cannot be read ({error}); fetch or save the data set again") from error
        self._starts = np.cumsum([0, *sizes])
        self._group = -1
        self.rows = int(self._starts[-1])

    def value(self, row: int, column: str) -> Any:
        """Give one value as plain Python objects. Raises DataError where the file is damaged."""
        if self._file is None:
            return self._table.column(column)[row].as_py()
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if group != self._group:
            self._table, self._group = self._read(group, None), group
        return self._table.column(column)[row - int(self._starts[group])].as_py()

    def values(self, *path: str) -> list[Any]:
        """Give a column, or a field of a column, of all rows."""
        import pyarrow.compute

        groups = range(self._file.num_row_groups) if self._file else ()
        tables = (self._read(group, path) for group in groups) if self._file else [self._table]
        found: list[Any] = []
        for table in tables:
            column = table.column(path[0])
            for field in path[1:]:
                column = pyarrow.compute.struct_field(column, field)
            found += column.to_pylist()
        return found

    def _read(self, group: int, path: tuple[str, ...] | None) -> Any:
        import pyarrow

        try:
            columns = None if path is None else [".".join(path)]
            table = self._file.read_row_group(group, columns=columns, use_threads=False)
            table.validate(full=True)
            if table.num_rows != self._starts[group + 1] - self._starts[group]:
                raise ValueError("rows are missing")
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{self.where}: damaged ({error}); fetch the data set again") from error
        return table


def _check_names(fields: Iterable[Any]) -> None:
    """Raise UnicodeDecodeError where a name of a column or field is no text: pyarrow finds out when it is read."""
    for field in fields:
        _ = field.name
        _check_names(field.type.field(index) for index in range(field.type.num_fields))


@lru_cache(maxsize=256)
def _shard(archive: Archive, name: str) -> _Shard:
    with of_file(name):
        return _Shard(archive, name)


def _pyarrow(archive: Archive) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(
            f"{archive.path}: Arrow and Parquet files are read by pyarrow, which is not installed: "
            "pip install eomt[datasets]"
        ) from error
    return pyarrow


def _files(archive: Archive) -> dict[str, list[str]]:
    """Map splits to their files, in order. Raises DataError where a list of files is damaged."""
    if archive.exists("dataset_dict.json"):
        names = _json(archive, "dataset_dict.json", "splits", list)
        return {str(name): _saved(archive, f"{name}/") for name in names}
    if archive.exists("state.json"):
        return {str(_json(archive, "state.json", "_split", object) or "train"): _saved(archive, "")}
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in archive.names():
        path = PurePosixPath(name)
        if path.suffix == ".parquet":
            shard = _SHARD.fullmatch(path.stem)
            named = [shard[1]] if shard else [part for part in (path.stem, path.parent.name) if part in _SPLITS]
            found[named[0] if named else "train", str(path.parent)].append(name)
    places = Counter(split for split, _ in found)
    return {split if places[split] == 1 else f"{place}/{split}": names for (split, place), names in found.items()}


def _saved(archive: Archive, folder: str) -> list[str]:
    files = _json(archive, f"{folder}state.json", "_data_files", list)
    return [f"{folder}{file['filename']}" for file in files if isinstance(file, dict) and file.get("filename")]


def _json(archive: Archive, name: str, field: str, kind: type) -> Any:
    try:
        value = json.loads(archive.read(name))[field]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        words = f"{archive.where(name)}: not as `datasets` writes it ({error}); save it again"
        raise DataError(words, file=name) from error
    if not isinstance(value, kind):
        raise DataError(f"{archive.where(name)}: {field} is {value!r:.60}; save the data set again", file=name)
    return value


def _splits(archive: Archive) -> tuple[str, ...]:
    return tuple(_files(archive))


def _open(archive: Archive, split: str) -> Split:
    files = _files(archive)
    if split not in files:
        raise DataError(f"{archive.path}: no split {split!r}; it has {', '.join(files)}")
    if not files[split]:
        raise DataError(f"{archive.path}: {split} has no files; fetch or save the data set again")
    shards: dict[str, _Shard] = {}
    for name in files[split]:
        shards[name] = _shard(archive, name)
        if sum(shard.in_memory for shard in shards.values()) > _MAX_MEMORY:
            raise DataError(
                f"{archive.path}: {split} is larger than 2 GiB; unpack it, so that it is read in place"
            )
    schema = next(iter(shards.values())).schema
    for name, shard in shards.items():
        if not shard.schema.equals(schema):
            words = f"{shard.where}: has other columns than the first file of {split}; save the data set again"
            raise DataError(words, file=name)
    columns = _columns(schema, archive)
    image_ids = iter(_image_ids(list(shards.values()), columns, schema))
    items = tuple(
        Item(next(image_ids), name, name, row) for name, shard in shards.items() for row in range(shard.rows)
    )
    if columns.mask:
        code = _mask_code(archive, schema)
        return Split(
            archive,
            code.categories,
            items,
            partial(_read_mask, code, columns.mask),
            read_bytes=partial(_read_bytes, columns.image),
        )
    categories = _object_classes(archive, schema, columns)
    label_of = {category.id: label for label, category in enumerate(categories)}
    return Split(
        archive,
        categories,
        items,
        partial(_read_objects, label_of, columns),
        _left_out(shards, columns),
        partial(_read_bytes, columns.image),
    )


def _columns(schema: Any, archive: Archive) -> _Columns:
    """Tell by names and types where images and annotations are."""
    image = next((name for name in _IMAGES if _is_picture(_type(schema, name))), None)
    mask = next((name for name in _MASKS if _is_picture(_type(schema, name))), None)
    found = f"; its columns are {', '.join(schema.names)}"
    if image is None:
        raise DataError(f"{archive.path}: no column of images called {' or '.join(_IMAGES)}{found}")
    for name in _OBJECTS:
        fields = _fields(_type(schema, name))
        category = next((field for field in _CLASSES if field in fields), None)
        outline = next((field for field in _OUTLINES if field in fields), None)
        if category and outline:
            crowd = next((field for field in _CROWDS if field in fields), None)
            return _Columns(image, None, name, category, outline, crowd)
    if mask is None:
        raise DataError(
            f"{archive.path}: no column of masks called {', '.join(_MASKS[:4])}, and none called objects that has "
            f"category and segmentation{found}"
        )
    return _Columns(image, mask)


def _type(schema: Any, name: str) -> Any:
    return schema.field(name).type if schema.names.count(name) == 1 else None


def _is_picture(kind: Any) -> bool:
    return "bytes" in _fields(kind) or str(kind) in ("binary", "large_binary")


def _fields(kind: Any) -> list[str]:
    """Name the fields of a record or of a list of records; nothing else has any."""
    kind = getattr(kind, "value_type", kind)
    return [kind.field(index).name for index in range(kind.num_fields)] if str(kind).startswith("struct") else []


def _image_ids(shards: list[_Shard], columns: _Columns, schema: Any) -> list[str]:
    """Name the images by a column of ids, else by their files, else by their rows: whatever is unique."""
    paths = [(name,) for name in _IDS if str(_type(schema, name)) in ("string", "int64", "int32", "large_string")]
    if "path" in _fields(_type(schema, columns.image)):
        paths.append((columns.image, "path"))  # type: ignore[arg-type]
    for path in paths:
        values = [value for shard in shards for value in shard.values(*path)]
        names = [PurePosixPath(value).stem if isinstance(value, str) else str(value) for value in values]
        if None not in values and all(names) and len(set(names)) == len(names):
            return names
    return [f"{row:06}" for row in range(sum(shard.rows for shard in shards))]


def _features(schema: Any) -> dict[str, Any]:
    """Give what `datasets` noted about the columns, if anything."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(feature: Any) -> list[str] | None:
    """Give the names of a class label, or of a list of class labels."""
    for _ in range(3):
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            names = feature.get("names")
            return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
        feature = feature.get("feature") if isinstance(feature, dict) else None
    return None


def _id2label(archive: Archive) -> dict[int, str] | None:
    name = next((name for name in ("id2label.json", "data/id2label.json") if archive.exists(name)), None)
    if name is None:
        return None
    try:
        table = json.loads(archive.read(name).decode("utf-8-sig"))
        pairs = [(int(id), label) for id, label in table.items()]
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f'{archive.where(name)}: not a table like {{"0": "sky"}} ({error}); correct it') from error
    if not pairs or any(id < 0 or not isinstance(label, str) or not label.strip() for id, label in pairs):
        raise DataError(f'{archive.where(name)}: write numbers from 0 and names, like {{"0": "sky"}}')
    twice = [label for label, count in Counter(label for _, label in pairs).items() if count > 1]
    if twice or len({id for id, _ in pairs}) < len(pairs):
        raise DataError(f"{archive.where(name)}: {twice[0] if twice else 'a number'!r} stands twice; correct it")
    return dict(sorted(pairs))


def _named(names: dict[int, str], is_thing: bool) -> tuple[Category, ...]:
    return tuple(Category(name, is_thing, id, distinct_color(n)) for n, (id, name) in enumerate(names.items()))


def _mask_code(archive: Archive, schema: Any) -> MaskCode:
    code = read_code(archive)
    if code is not None:
        return code
    names = _id2label(archive)
    if names is None:
        features = _features(schema)
        lists = [feature for feature in features.values() if isinstance(feature, dict) and "feature" in feature]
        known = [names for names in map(_class_names, lists) if names]
        if len(known) != 1:
            raise DataError(
                f"{archive.path}: nothing names the classes of the masks; write id2label.json with a name for "
                'each of their numbers, like {"0": "sky", "1": "road"} (255 is void), or one of '
                f"{', '.join(CATEGORY_FILES)}"
            )
        names = dict(enumerate(known[0]))
    categories = _named(names, is_thing=False)
    return MaskCode(categories, (None,) * len(categories), "semantic")


def _object_classes(archive: Archive, schema: Any, columns: _Columns) -> tuple[Category, ...]:
    code = read_code(archive)
    if code is not None:
        return code.categories
    names = _id2label(archive)
    if names is None:
        feature = _features(schema).get(columns.objects or "")
        if isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
            feature = feature["feature"]  # a list of records
        elif isinstance(feature, list) and feature:
            feature = feature[0]  # the same, as older versions note it
        known = _class_names(feature.get(columns.category)) if isinstance(feature, dict) else None
        if known is None:
            raise DataError(
                f"{archive.path}: nothing names the classes of {columns.objects}.{columns.category}; write "
                'id2label.json with a name for each number, like {"0": "cat", "1": "dog"}, or categories.json'
            )
        names = dict(enumerate(known))
    return _named(names, is_thing=True)


def _read_bytes(column: str, archive: Archive, item: Item) -> bytes:
    return _picture(
        _shard(archive, item.image).value(item.content, column), f"row {item.content}: {column}", archive, item
    )


def _picture(value: Any, what: str, archive: Archive, item: Item) -> bytes:
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        held = (
            f"only the path {value['path']!r:.100}" if isinstance(value, dict) and value.get("path") else "nothing"
        )
        raise DataError(
            f"{archive.where(item.image)}: {what} holds {held}; save the data set again with its images embedded "
            "(save_to_disk and push_to_hub do so)"
        )
    return data


def _read_mask(code: MaskCode, column: str, archive: Archive, item: Item, size: tuple[int, int]) -> Segments:
    what = f"row {item.content}: {column}"
    data = _picture(_shard(archive, item.annotation).value(item.content, column), what, archive, item)
    return code.read(data, f"{archive.where(item.annotation)}: {what}", size)


def _read_objects(
    label_of: dict[int, int], columns: _Columns, archive: Archive, item: Item, size: tuple[int, int]
) -> Segments:
    rles, labels, crowds = [], [], []
    value = _shard(archive, item.annotation).value(item.content, columns.objects or "")
    for number, entry in enumerate(_entries(value)):
        outline = entry.get(columns.outline)
        if not outline:  # a box only, counted when the split was opened
            continue
        with each():
            category, crowd = entry.get(columns.category), entry.get(columns.crowd or "")
            if not isinstance(category, int) or category not in label_of:
                raise ValueError(
                    f"row {item.content}, object {number}: category {category!r:.60} is not among the classes; "
                    "add it to id2label.json or categories.json"
                )
            try:
                rles.append(_rle(outline, size))
            except ValueError as error:
                raise ValueError(f"row {item.content}, object {number}: {columns.outline}: {error}") from error
            labels.append(label_of[category])
            crowds.append(bool(crowd))
    return Segments(
        RleMasks(size, tuple(rles)), torch.tensor(labels, dtype=torch.int64), torch.tensor(crowds).bool()
    )


def _entries(value: Any) -> Iterator[dict[str, Any]]:
    """Go through a list of records, or a record of lists. Raises ValueError where the lists differ in length."""
    if isinstance(value, dict):
        lists = {key: some for key, some in value.items() if isinstance(some, list)}
        if len({len(some) for some in lists.values()}) > 1:
            lengths = ", ".join(f"{key} {len(some)}" for key, some in lists.items())
            raise ValueError(f"the lists of its objects differ in length: {lengths}; correct them")
        yield from (dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True))
    else:
        yield from (entry for entry in value or () if isinstance(entry, dict))


def _rle(outline: Any, size: tuple[int, int]) -> Rle:
    if isinstance(outline, dict) and "counts" in outline:
        return run_lengths(outline["counts"], outline.get("size"), size)
    data = outline.get("bytes") if isinstance(outline, dict) else outline
    if isinstance(data, bytes):
        values = read_label_map(data).values
        require_size(values, size)
        rle = encode_rle(values != 0)
        require_pixels(rle)
        return rle
    if isinstance(outline, list) and not isinstance(outline[0], list):
        outline = [outline]
    return union(outline, size)


def _left_out(shards: dict[str, _Shard], columns: _Columns) -> tuple[str, ...]:
    """Count the objects that are boxes only."""
    count = 0
    for shard in shards.values():
        for value in shard.values(columns.objects or ""):
            outlines = value.get(columns.outline) if isinstance(value, dict) else None
            records = (
                outlines if outlines is not None else [entry[columns.outline] for entry in value or () if entry]
            )
            count += sum(not outline for outline in records)
    return (f"{count} objects without {columns.outline}",) if count else ()


def _missing(archive: Archive) -> str | None:
    names = archive.names()
    described = archive.exists("dataset_dict.json") or archive.exists("state.json")
    if not described and any(name.endswith(".parquet") for name in names):
        return _missing_column(archive)
    if not any(name.endswith(".arrow") for name in names):
        return "SPLIT/*.arrow or data/SPLIT-*.parquet"
    return None if described else "dataset_dict.json or state.json"


def _missing_column(archive: Archive) -> str | None:
    """Look for a column of images in the first file of each split: other tables may lie beside other data."""
    first = [files[0] for files in _files(archive).values()]
    for name in first:
        try:
            schema = _shard(archive, name).schema
        except DataError:  # damaged, or pyarrow is not there: to be told when it is opened, if it is all there is
            if len(archive.names()) == 1 or find_spec("pyarrow") is None:
                return None
            continue
        if any(_is_picture(_type(schema, column)) for column in _IMAGES):
            return None
    return f"column of images called {' or '.join(_IMAGES)} in {first[0]}"


FORMAT = Format(
    "datasets",
    "dataset_dict.json beside SPLIT/*.arrow (save_to_disk), or data/SPLIT-*.parquet, with images and masks",
    _missing,
    _splits,
    _open,
)
"""What Hugging Face's `datasets` saves."""
