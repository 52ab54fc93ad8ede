"""The two real images of COCO's panoptic sample, whole and damaged, against what panopticapi printed (opt-in)."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eomt.data.annotations import open_annotations
from eomt.evaluation.predictions import judge_files, open_predictions

REAL = Path(os.environ.get("EOMT_REAL_DATA", ""))


def write_damaged(truth: Path, out: Path, seed: int) -> None:
    """Move the segments by some pixels, take some away, and call some by another one's class."""
    rng = np.random.default_rng(seed)
    content = json.loads(truth.read_text())
    folder = out.with_suffix("")
    folder.mkdir()
    annotations = []
    for annotation in content["annotations"]:
        colors = np.asarray(Image.open(truth.with_suffix("") / annotation["file_name"])).astype(np.int64)
        ids = np.roll(colors @ [1, 256, 65536], rng.integers(-9, 10, size=2), (0, 1))
        segments = [dict(segment) for segment in annotation["segments_info"] if rng.random() < 0.8]
        classes = [segment["category_id"] for segment in segments]
        for segment in segments:
            if rng.random() < 0.2:
                segment["category_id"] = int(rng.choice(classes))
        ids[~np.isin(ids, [segment["id"] for segment in segments])] = 0
        seen = np.unique(ids)
        png = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
        Image.fromarray(png).save(folder / annotation["file_name"])
        annotations.append(annotation | {"segments_info": [s for s in segments if s["id"] in seen]})
    out.write_text(json.dumps({"annotations": annotations}))


@pytest.mark.skipif("EOMT_REAL_DATA" not in os.environ, reason="set EOMT_REAL_DATA to a folder")
@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (None, (1.0, 1.0, 1.0)),
        (0, (0.3885280713259921, 0.5824171177268068, 0.5841450216450216)),
        (1, (0.38717324703202505, 0.5927309480817948, 0.4858156028368794)),
        (2, (0.30601826590654324, 0.44446144605817733, 0.42333333333333334)),
        (3, (0.47665603353801944, 0.6047145127035881, 0.5833333333333334)),
    ],
)
def test_real_images_score_what_panopticapi_printed(tmp_path: Path, seed, expected) -> None:
    """Written down from panopticapi 7bb4655 for the same files: PQ, SQ, RQ."""
    with zipfile.ZipFile(REAL / "coco-panoptic-sample.zip") as sample:
        sample.extractall(tmp_path)
    truth = found = tmp_path / "sample_data" / "panoptic_examples.json"
    if seed is not None:
        found = tmp_path / "damaged.json"
        write_damaged(truth, found, seed)
    annotations = open_annotations(truth, "val")
    figures = judge_files(annotations, open_predictions(found, annotations)).figures
    assert [figures[name] for name in ("PQ", "SQ", "RQ")] == pytest.approx(expected, rel=0, abs=1e-12)
