"""Models that transformers saved, read here, and models that we write, loaded by transformers.

Tolerance: logits to 1e-5 of the largest one, weights and panoptic maps equal in every bit and pixel. All weights
are random, of real shapes; depth is cut where that changes no kind of tensor.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    EomtConfig,
    EomtDinov3Config,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
    EomtImageProcessor,
)

from eomt.categories import class_table
from eomt.inference.segmenter import Segmenter
from eomt.weights import authors, checkpoint, hugging_face
from eomt.weights.source import Told, load

TOLERANCE = 1e-5
SIZE = 96
SIZES = {
    "S": (EomtConfig, {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}),
    "g": (
        EomtConfig,
        {"hidden_size": 1536, "num_hidden_layers": 1, "num_attention_heads": 24, "use_swiglu_ffn": True},
    ),
    "S, DINOv3": (
        EomtDinov3Config,
        {  # the epsilon of DINOv3's own configuration
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
            "layer_norm_eps": 1e-5,
        },
    ),
}
BACKBONES = {
    "S": "vit_small_patch14_reg4_dinov2",
    "g": "vit_giant_patch14_reg4_dinov2",
    "S, DINOv3": "vit_small_patch16_dinov3_qkvb",
}


def saved_by_transformers(
    size: str, folder: Path, joint: int = 1, classes: int = 133, depth: int | None = None, **others: object
) -> nn.Module:
    """Save a random model as transformers does, with a processor, and give it."""
    kind, settings = SIZES[size]
    torch.manual_seed(0)
    settings = {**settings, **others} | ({} if depth is None else {"num_hidden_layers": depth})
    config = kind(**settings, image_size=SIZE, num_blocks=joint, num_queries=20, num_labels=classes)
    dinov3 = isinstance(config, EomtDinov3Config)
    model = (EomtDinov3ForUniversalSegmentation if dinov3 else EomtForUniversalSegmentation)(config).eval()
    for name, parameter in model.named_parameters():
        std = 0.3 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
        nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight")), std=std)
    with torch.no_grad():  # some queries are sure of themselves, so that there is something to see
        model.class_predictor.weight.mul_(6)
        model.attn_mask_probs.zero_()
    model.save_pretrained(folder)
    EomtImageProcessor(size={"shortest_edge": SIZE, "longest_edge": SIZE}, do_pad=True).save_pretrained(folder)
    return model


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def logits_of(model: nn.Module, folder: Path) -> tuple[Tensor, Tensor]:
    pixels = EomtImageProcessor.from_pretrained(folder)(images=picture(), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = model(pixel_values=pixels)
    return output.masks_queries_logits, output.class_queries_logits


def same(mine: Tensor, theirs: Tensor) -> bool:
    return mine.shape == theirs.shape and float((mine - theirs).abs().max() / theirs.abs().max()) <= TOLERANCE


@pytest.mark.parametrize("size", SIZES)
def test_a_model_of_transformers_is_read(size, tmp_path):
    theirs = saved_by_transformers(size, tmp_path)
    segmenter = Segmenter.from_pretrained(tmp_path, device="cpu")
    assert segmenter.info.model.backbone == BACKBONES[size]
    assert segmenter.info.model.image_size == (SIZE, SIZE)
    assert (segmenter.task, segmenter.categories) == ("panoptic", class_table("coco_panoptic"))
    masks, classes = logits_of(theirs, tmp_path)
    with torch.no_grad():
        (mine,) = segmenter.model(torch.from_numpy(picture()).permute(2, 0, 1)[None])
    assert same(mine.mask_logits, masks)
    assert same(mine.class_logits, classes)


@pytest.mark.parametrize("size", ["S", "S, DINOv3"])
def test_panoptic_maps_are_equal_to_the_pixel(size, tmp_path):
    """At an image of the view's size: elsewhere transformers resizes otherwise, which is no matter of weights."""
    theirs = saved_by_transformers(size, tmp_path)
    processor = EomtImageProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        output = theirs(**processor(images=picture(), return_tensors="pt"))
    (expected,) = processor.post_process_panoptic_segmentation(
        output,
        [(SIZE, SIZE)],
        threshold=0.3,
        overlap_mask_area_threshold=0.1,
        stuff_classes=[
            label for label, category in enumerate(class_table("coco_panoptic")) if not category.is_thing
        ],
    )
    segmenter = Segmenter.from_pretrained(tmp_path, device="cpu")
    thresholds = type(segmenter.thresholds)(score=0.3, overlap=0.1)
    prediction = segmenter.predict(picture(), thresholds=thresholds, precision="fp32")
    assert len(prediction) > 2
    assert np.array_equal(prediction.id_map().ids, expected["segmentation"].numpy() + 1)  # their void is -1
    assert [segment.label for segment in prediction] == [part["label_id"] for part in expected["segments_info"]]


@pytest.mark.parametrize("size", ["S", "S, DINOv3"])
def test_authors_to_ours_to_transformers_to_ours_is_lossless(size, tmp_path):
    """Every tensor comes back with every bit, and transformers finds all it expects and nothing else."""
    saved_by_transformers(size, tmp_path / "first")
    model, info = load(tmp_path / "first")
    authors.write(model.state_dict(), info, tmp_path / "authors.bin")
    told = Told(image_size=(SIZE, SIZE), kind="absolute" if "DINOv3" in size else "auto")
    second, info_2 = load(tmp_path / "authors.bin", told)
    assert info_2 == info
    checkpoint.save(second, info_2, tmp_path / "ours")
    third, info_3 = load(tmp_path / "ours")
    hugging_face.write(third.state_dict(), info_3, tmp_path / "theirs")
    fourth, info_4 = load(tmp_path / "theirs")
    assert info_4 == info_3 == info
    for name, value in model.state_dict().items():
        assert torch.equal(fourth.state_dict()[name], value), name

    kind = EomtDinov3ForUniversalSegmentation if "DINOv3" in size else EomtForUniversalSegmentation
    loaded, report = kind.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(report.values()), report
    masks, classes = logits_of(loaded.eval(), tmp_path / "theirs")
    with torch.no_grad():
        (mine,) = fourth(torch.from_numpy(picture()).permute(2, 0, 1)[None])
    assert same(mine.mask_logits, masks)
    assert same(mine.class_logits, classes)


def test_masked_models_of_transformers_stay_masked(tmp_path):
    """transformers masks attention in prediction while its buffer is not 0, as in a model that it made anew."""
    theirs = saved_by_transformers("S", tmp_path, joint=3)
    unmasked = logits_of(theirs, tmp_path)[0]
    theirs.attn_mask_probs.fill_(1)
    theirs.save_pretrained(tmp_path)
    model, info = load(tmp_path)
    assert info.model.masked_inference
    masks, classes = logits_of(theirs, tmp_path)
    with torch.no_grad():
        (mine,) = model(torch.from_numpy(picture()).permute(2, 0, 1)[None])
    assert same(mine.mask_logits, masks)
    assert same(mine.class_logits, classes)
    assert not same(unmasked, masks)


def test_another_epsilon_is_kept(tmp_path):
    """EomtDinov3Config has 1e-6 by default, DINOv3 itself 1e-5; the difference shows in the logits."""
    theirs = saved_by_transformers("S, DINOv3", tmp_path, depth=1, layer_norm_eps=1e-2)
    model, info = load(tmp_path)
    assert info.model.norm_eps == 1e-2
    with torch.no_grad():
        (mine,) = model(torch.from_numpy(picture()).permute(2, 0, 1)[None])
    assert same(mine.mask_logits, logits_of(theirs, tmp_path)[0])
    assert hugging_face.their_config(info, 133)["layer_norm_eps"] == 1e-2


@pytest.mark.parametrize(
    ("processor", "classes", "task", "table"),
    [
        ({"do_split_image": True}, 150, "semantic", "ade20k_panoptic"),
        ({"do_split_image": False}, 150, None, "ade20k_panoptic"),  # two tasks have these classes
        ({"do_split_image": False}, 80, "instance", "coco_instance"),
        ({"do_split_image": False}, 7, None, None),
    ],
)
def test_what_configurations_leave_open_stays_open(tmp_path, processor, classes, task, table):
    saved_by_transformers("S, DINOv3", tmp_path, classes=classes, depth=1)
    settings = {"size": {"shortest_edge": SIZE, "longest_edge": SIZE}, **processor}
    EomtImageProcessor(**settings).save_pretrained(tmp_path)
    info = load(tmp_path)[1]
    assert info.task == task
    assert info.categories == (class_table(table) if table else ())


def test_a_folder_that_transformers_saved_anew_is_read(tmp_path):
    """Our key stays in its configuration: its sum is no longer that of the weights, its classes may be others."""
    saved_by_transformers("S", tmp_path / "first", depth=1)
    model, info = load(tmp_path / "first")
    hugging_face.write(model.state_dict(), info, tmp_path / "ours")
    theirs = EomtForUniversalSegmentation.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        theirs.class_predictor.bias.add_(1)
    theirs.save_pretrained(tmp_path / "anew")
    again, told = load(tmp_path / "anew")
    assert torch.equal(again.class_head.bias, model.class_head.bias + 1)
    assert told.categories == info.categories
    theirs.config.id2label = {label: f"organ {label}" for label in range(133)}
    theirs.save_pretrained(tmp_path / "other")
    assert load(tmp_path / "other")[1].categories[5].name == "organ 5"


def test_the_bundled_model_is_loaded_by_transformers(tmp_path):
    """Its backbone has no registers, but a position of the class token, which is added to the token."""
    mine, info = load("bundled")
    hugging_face.write(mine.state_dict(), info, tmp_path)
    theirs = EomtForUniversalSegmentation.from_pretrained(tmp_path).eval()
    image = np.random.default_rng(0).integers(0, 256, (*info.model.image_size, 3), dtype=np.uint8)
    pixels = EomtImageProcessor.from_pretrained(tmp_path)(images=image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = theirs(pixel_values=pixels)
        (logits,) = mine(torch.from_numpy(image).permute(2, 0, 1)[None])
    assert same(logits.mask_logits, expected.masks_queries_logits)
    assert same(logits.class_logits, expected.class_queries_logits)
    assert load(tmp_path)[1] == info
