"""The scenes as Hugging Face's `datasets` saves them: Arrow or Parquet files whose schema tells of the columns."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

from layouts.folder import NAMES, semantic
from scenes import THINGS, Scene, of

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(values: NDArray[Any], name: str | None = None) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": name}


def table(columns: dict[str, tuple[Any, list[Any], Any]]) -> pa.Table:
    """Make a table of columns, each of a type, values, and what `datasets` notes about it."""
    features = {name: feature for name, (_, _, feature) in columns.items()}
    schema = pa.schema(
        [(name, kind) for name, (kind, _, _) in columns.items()],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    return pa.table([pa.array(values, kind) for kind, values, _ in columns.values()], schema=schema)


def save(rows: pa.Table, folder: Path, shards: int = 1) -> None:
    """Write what `save_to_disk` does for one split."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{index:05}-of-{shards:05}.arrow" for index in range(shards)]
    size = -(-len(rows) // shards)
    for index, name in enumerate(names):
        part = rows.slice(index * size, size)
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
            for batch in part.to_batches(max_chunksize=1):
                writer.write_batch(batch)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "4de17b59cd5921fe"}
    state |= {"_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_split": None}
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    features = json.loads(rows.schema.metadata[b"huggingface"])["info"]["features"]
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))


def semantic_table(scenes: tuple[Scene, ...]) -> pa.Table:
    images = [picture(scene.image, f"{scene.image_id}.png") for scene in scenes]
    masks = [picture(semantic(scene)) for scene in scenes]
    return table({"image": (PICTURE, images, {"_type": "Image"}), "label": (PICTURE, masks, {"_type": "Image"})})


def objects_table(scenes: tuple[Scene, ...]) -> pa.Table:
    """The things as records of lists, polygons as COCO has them."""
    images = [picture(scene.image, f"{scene.image_id}.png") for scene in scenes]
    polygons = pa.list_(pa.list_(pa.list_(pa.float32())))
    kind = pa.struct(
        [("id", pa.list_(pa.int64())), ("category", pa.list_(pa.int64())), ("segmentation", polygons)]
    )
    values = []
    for scene in scenes:
        boxes = [shape.box for shape in scene.things]
        rings = [[[x0, y0, x1, y0, x1, y1, x0, y1]] for y0, x0, y1, x1 in boxes]
        classes = [THINGS.index(shape.name) for shape in scene.things]
        values.append({"id": list(range(len(boxes))), "category": classes, "segmentation": rings})
    note = {"category": {"feature": {"names": list(THINGS), "_type": "ClassLabel"}, "_type": "List"}}
    return table({"image": (PICTURE, images, {"_type": "Image"}), "objects": (kind, values, note)})


def write(root: Path) -> None:
    """A DatasetDict with label maps, in two files a split where there are two rows."""
    for split in ("train", "val"):
        save(semantic_table(of(split)), root / split, shards=len(of(split)))
    (root / "dataset_dict.json").write_text('{"splits": ["train", "val"]}')
    (root / "id2label.json").write_text(json.dumps({str(id): name for id, name in enumerate(NAMES)}))


def write_objects(root: Path) -> None:
    """A DatasetDict with objects and their polygons."""
    for split in ("train", "val"):
        save(objects_table(of(split)), root / split)
    (root / "dataset_dict.json").write_text('{"splits": ["train", "val"]}')


def write_parquet(root: Path) -> None:
    """A repository of the hub with objects and their polygons: a row a group."""
    (root / "data").mkdir(parents=True)
    for split in ("train", "val"):
        file = root / "data" / f"{split}-00000-of-00001-0123456789abcdef.parquet"
        parquet.write_table(objects_table(of(split)), file, row_group_size=1)
    (root / "README.md").write_text("---\ntask_categories:\n- image-segmentation\n---\n")
