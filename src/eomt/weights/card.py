"""The README of a saved model, as model hubs show it: what the model is, what it knows, how it is used."""

from typing import Literal

from eomt.config import num_masked_layers
from eomt.weights.checkpoint import ModelInfo

__all__ = ["card"]

USE = {
    "eomt": """\
import eomt

segmenter = eomt.Segmenter.from_pretrained("PATH")
prediction = segmenter.predict("image.jpg")""",
    "transformers": """\
from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation

processor = AutoImageProcessor.from_pretrained("PATH")
model = AutoModelForUniversalSegmentation.from_pretrained("PATH")""",
}
PAPER = "([arXiv 2503.19108](https://arxiv.org/abs/2503.19108))"
EOMT = f"An Encoder-only Mask Transformer {PAPER}: a plain ViT with queries."
BASELINE = (
    f"A step of the Encoder-only Mask Transformer's paper {PAPER}, table 1: queries that look at maps of a ViT."
)
LICENSES = {
    "dinov2": "DINOv2 (Apache-2.0)",
    "dinov3": "DINOv3 (Meta's DINOv3 licence, which binds models made of it)",
}


def card(info: ModelInfo, library: Literal["eomt", "transformers"]) -> str:
    """Write the card of a model: a header in YAML for hubs, then Markdown for people."""
    model = info.model
    family = next((name for name in LICENSES if name in model.backbone), "")
    things = [category.name for category in info.categories if category.is_thing]
    stuff = [category.name for category in info.categories if not category.is_thing]
    height, width = model.image_size
    is_eomt, layers = model.kind == "eomt", num_masked_layers(model)
    where = f"the last {layers} blocks" if is_eomt else f"{layers} decoder layers"
    return f"""\
---
library_name: {library}
pipeline_tag: image-segmentation
license: other
tags:
- eomt
- {info.task or "image"}-segmentation
---

# {"EoMT" if is_eomt else "Mask2Former on a plain ViT"}, {info.task or "any"} segmentation

{EOMT if is_eomt else BASELINE}

| | |
|---|---|
| kind | {model.kind} |
| backbone | {model.backbone}{"" if model.depth is None else f", its first {model.depth} blocks"} |
| view | {height}x{width} pixels, patches of {model.patch_size} |
| queries | {model.num_queries}, in {where} |
| things | {_listed(things)} |
| stuff | {_listed(stuff)} |

```python
{USE[library]}
```

## Licence

The weights are derived from {LICENSES.get(family, "the backbone named above")}; its terms hold for them, and so
may those of the training data. Put the licence of this model here.

## Training data, scores, limits

Not recorded in the files that this card was made of: say on what the model was trained, how it was measured and
where it fails.
"""


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:12])
    return f"{len(names)}: {shown}{', ...' if len(names) > 12 else ''}" if names else "none known"
