"""What a source is, what its files leave open, and files that lie: each one clear error, nothing executed."""

import json
import os
import pickle
import struct
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from eomt.categories import Category, class_table
from eomt.cli import main
from eomt.config import ModelConfig
from eomt.errors import ConfigError, ModelError
from eomt.inference.segmenter import Segmenter
from eomt.models.blank import Blank
from eomt.models.eomt import EoMT
from eomt.weights import authors, checkpoint, hugging_face
from eomt.weights.checkpoint import ModelInfo
from eomt.weights.source import Told, load
from eomt.weights.tensors import read_tensors
from memory import peak_memory

DINOV2 = ModelConfig(
    "vit_small_patch14_reg4_dinov2",
    "none",
    (64, 64),
    depth=2,
    num_queries=6,
    num_joint_blocks=1,
    num_upscale_blocks=2,
)
DINOV3 = replace(DINOV2, backbone="vit_small_patch16_dinov3_qkvb")
CATEGORIES = tuple(Category(f"class {label}", True, label, (0, 0, 0)) for label in range(7))


def random_model(config: ModelConfig, classes: int, seed: int = 0) -> EoMT:
    torch.manual_seed(seed)
    with Blank():  # all parameters are drawn below
        model = EoMT(config, classes).eval()
    for name, value in model.named_parameters():
        torch.nn.init.normal_(value, mean=float("norm" in name and name.endswith("weight")), std=0.2)
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the authors' kind: DINOv2 with 7, 133 and 150 classes, DINOv3 absolute and as a delta, its base."""
    root = tmp_path_factory.mktemp("files")
    for classes in (7, 133, 150):
        model = random_model(DINOV2, classes)
        authors.write(model.state_dict(), ModelInfo(None, (), DINOV2), root / f"{classes}.bin")
    model = random_model(DINOV3, 7)
    info = ModelInfo(None, (), DINOV3)
    authors.write(model.state_dict(), info, root / "absolute.bin")
    base = {name: value + 0.02 * torch.randn_like(value) for name, value in model.state_dict().items()}
    names = {name for name in base if name.startswith("backbone.")}
    save_file({name.removeprefix("backbone.vit."): base[name] for name in names}, root / "base.safetensors")
    delta = {name: value - base[name] if name in names else value for name, value in model.state_dict().items()}
    authors.write(delta, info, root / "delta.bin")
    theirs = torch.load(root / "delta.bin", weights_only=True)
    theirs["network.encoder.pixel_mean"].zero_()
    torch.save(theirs, root / "delta.bin")
    return root


@pytest.mark.parametrize(
    ("classes", "table", "task"),
    [(133, "coco_panoptic", "panoptic"), (150, "ade20k_panoptic", None), (7, None, None)],
)
def test_a_bare_file_tells_what_its_shapes_tell(files, classes, table, task):
    segmenter = Segmenter.from_pretrained(files / f"{classes}.bin", device="cpu")
    assert segmenter.info.model == DINOV2  # heads, view, patches, queries, joint blocks, doublings
    assert segmenter.info.task == task
    assert segmenter.info.categories == (class_table(table) if table else ())
    (logits,) = segmenter.model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))  # works at once
    assert logits.class_logits.shape == (1, 6, classes + 1)


def test_what_a_bare_file_leaves_open_is_asked_for(files):
    image = Image.new("RGB", (64, 64))
    segmenter = Segmenter.from_pretrained(files / "150.bin", device="cpu")
    with pytest.raises(ConfigError, match="give --task"):
        segmenter.predict(image)
    assert segmenter.predict(image, task="semantic").label_map().shape == (64, 64)
    segmenter = Segmenter.from_pretrained(files / "7.bin", device="cpu", task="instance")
    with pytest.raises(ConfigError, match="what its 7 classes are: give --classes"):
        segmenter.predict(image)
    segmenter = Segmenter.from_pretrained(files / "7.bin", device="cpu", task="instance", classes=CATEGORIES)
    assert segmenter.predict(image).categories == CATEGORIES
    with pytest.raises(ConfigError, match=r"knows 7 classes, but --classes .* has 80"):
        Segmenter.from_pretrained(files / "7.bin", device="cpu", classes="coco-instance")


def test_classes_come_from_a_file(files, tmp_path):
    (tmp_path / "classes.txt").write_text("\n".join("abcdefg"))
    segmenter = Segmenter.from_pretrained(files / "7.bin", device="cpu", classes=tmp_path / "classes.txt")
    assert [category.name for category in segmenter.categories] == list("abcdefg")


def test_positions_of_the_class_token_are_no_patches(tmp_path):
    """DINOv2 without registers has 1 + 16 positions at 4x4 patches; transformers has no place for the first."""
    config = replace(DINOV2, backbone="vit_small_patch14_dinov2")
    model = random_model(config, 7)
    authors.write(model.state_dict(), ModelInfo(None, (), config), tmp_path / "model.bin")
    again, info = load(tmp_path / "model.bin")
    assert info.model == config
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    hugging_face.write(model.state_dict(), ModelInfo("instance", CATEGORIES, config), tmp_path / "theirs")
    theirs, info = load(tmp_path / "theirs")
    assert (info.model, info.categories) == (config, CATEGORIES)
    assert not theirs.backbone.vit.pos_embed[:, 0].any()  # it went into the token
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(model(images)[0].mask_logits, theirs(images)[0].mask_logits, atol=1e-4)


def test_a_file_that_names_no_view_is_square(files, tmp_path):
    """32x128 pixels are 2x8 patches: as many as 4x4. The view that is told is the one to resample to."""
    hugging_face.write(load(files / "133.bin")[0].state_dict(), load(files / "133.bin")[1], tmp_path / "theirs")
    checkpoint.save(*load(files / "133.bin"), tmp_path / "ours")
    square = load(files / "133.bin")[0].backbone.vit.pos_embed
    tables = [
        load(source, Told(image_size=(32, 128)))[0].backbone.vit.pos_embed
        for source in (files / "133.bin", tmp_path / "theirs", tmp_path / "ours")
    ]
    assert all(torch.equal(table, tables[0]) for table in tables)
    assert not torch.allclose(tables[0], square, atol=0.1)
    with pytest.raises(ConfigError, match="does not tell its view, which is taken for a square"):
        authors.write({}, ModelInfo(None, (), replace(DINOV2, image_size=(32, 128))), tmp_path / "model.bin")


def test_a_lightning_checkpoint_is_read(files, tmp_path):
    state = torch.load(files / "7.bin", weights_only=True)
    compiled = {name.replace("network.", "network._orig_mod.", 1): value for name, value in state.items()}
    torch.save({"epoch": 3, "global_step": 7, "state_dict": compiled}, tmp_path / "last.ckpt")
    first, second = load(files / "7.bin")[0].state_dict(), load(tmp_path / "last.ckpt")[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_view_resamples(files):
    model, info = load(files / "7.bin", Told(image_size=(96, 128), patch_size=8))
    assert (info.model.image_size, info.model.patch_size) == ((96, 128), 8)
    assert model.backbone.vit.pos_embed.shape[1] == 12 * 16
    assert model(torch.zeros(1, 3, 96, 128, dtype=torch.uint8))[0].features.shape[2:] == (48, 64)


# DINOv3's files: which they are is measured, and never guessed.


def test_delta_and_absolute_are_the_same_model(files):
    view = (64, 64)
    absolute, info = load(files / "absolute.bin", Told(image_size=view))  # by its norms and its pixels' mean
    assert info.model == DINOV3
    with_base, _ = load(files / "absolute.bin", Told(image_size=view, base=str(files / "base.safetensors")))
    delta, _ = load(files / "delta.bin", Told(image_size=view, base=str(files / "base.safetensors")))
    for name, value in absolute.state_dict().items():
        assert torch.equal(value, with_base.state_dict()[name]), name
        assert torch.allclose(value, delta.state_dict()[name], atol=1e-6), name


def test_a_delta_alone_is_refused(files):
    with pytest.raises(ModelError, match="differences from DINOv3's own, which are needed too: eomt convert"):
        load(files / "delta.bin", Told(image_size=(64, 64)))


def test_an_ambiguous_file_is_refused(files, tmp_path):
    """Weights of another length and direction than the base's, neither near to it nor small beside it."""
    other = random_model(DINOV3, 7, seed=1)
    authors.write(other.state_dict(), ModelInfo(None, (), DINOV3), tmp_path / "other.bin")
    told = Told(image_size=(64, 64), base=str(files / "base.safetensors"))
    with pytest.raises(ModelError, match="not clear whether its weights are absolute or differences"):
        load(tmp_path / "other.bin", told)
    stated, _ = load(tmp_path / "other.bin", replace(told, kind="absolute"))
    assert torch.equal(stated.class_head.weight, other.class_head.weight)
    theirs = torch.load(files / "absolute.bin", weights_only=True)
    del theirs["network.encoder.pixel_mean"]
    torch.save(theirs, tmp_path / "bare.bin")  # without the base and without the pixels' mean
    with pytest.raises(ModelError, match="not clear whether"):
        load(tmp_path / "bare.bin", Told(image_size=(64, 64)))


def test_a_base_of_another_size_is_refused(files, tmp_path):
    state = load_file(files / "base.safetensors")
    state = {name: value for name, value in state.items() if not name.startswith("blocks.1.")}
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(ModelError, match="--base is another backbone: backbone"):
        load(files / "delta.bin", Told(image_size=(64, 64), base=str(tmp_path / "short.safetensors")))


def test_the_view_of_dinov3_is_asked_for(files):
    with pytest.raises(ModelError, match="do not tell the size of its view"):
        load(files / "absolute.bin")


# Files that lie.


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def pickled_code(path: Path, files: Path) -> None:
    torch.save({"network.q.weight": torch.ones(2), "run": Canary(path.parent / "canary")}, path)


def pickled_code_without_zip(path: Path, files: Path) -> None:
    path.write_bytes(pickle.dumps(Canary(path.parent / "canary")))


def truncated(path: Path, files: Path) -> None:
    whole = (files / "7.bin").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def huge_header(path: Path, files: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**30) + b"{" * 100)


def huge_tensor(path: Path, files: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**28], "data_offsets": [0, 2**30]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"0000")


def huge_view(path: Path, files: Path) -> None:
    torch.save({"network.q.weight": torch.ones(1).expand(2**20, 2**10)}, path)


def one_storage_under_many_names(path: Path, files: Path) -> None:
    """2 MB as half precision; 1.6 GB when each name is given its own full precision."""
    table = torch.ones(1_000_000, dtype=torch.float16)
    torch.save({f"network.encoder.backbone.blocks.{index}": table for index in range(400)}, path)


def long_byte_array(path: Path, files: Path) -> None:
    """A program that weights_only allows: bytearray(1_500_000_000)."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02c__builtin__\nbytearray\nJ\x00\x2f\x68\x59\x85R.")
        archive.writestr("archive/version", b"3\n")


def zip_bomb(path: Path, files: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 2**28)


def no_tensors(path: Path, files: Path) -> None:
    torch.save({"epoch": 3}, path)


def empty(path: Path, files: Path) -> None:
    path.write_bytes(b"")


def another_model(path: Path, files: Path) -> None:
    torch.save({"fc.weight": torch.ones(2)}, path)


def no_data(path: Path, files: Path) -> None:
    torch.save({"network.q.weight": torch.ones(3, device="meta")}, path)


def scalars(path: Path, files: Path) -> None:
    state = torch.load(files / "7.bin", weights_only=True)
    torch.save({name: torch.tensor(1.0) for name in state}, path)


def without_joint_blocks(path: Path, files: Path) -> None:
    state = torch.load(files / "7.bin", weights_only=True)
    torch.save(state | {"network.attn_mask_probs": torch.zeros(100_000)}, path)


def other_pixels(path: Path, files: Path) -> None:
    state = torch.load(files / "7.bin", weights_only=True)
    torch.save(state | {"network.encoder.pixel_std": torch.ones(1, 3, 1, 1)}, path)


def memo_that_is_not_there(path: Path, files: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02h\x07.")
        archive.writestr("archive/version", b"3\n")


@pytest.mark.parametrize(
    ("lie", "suffix", "message"),
    [
        (pickled_code, ".bin", "more than tensors"),
        (pickled_code_without_zip, ".bin", "not a zip file"),
        (truncated, ".ckpt", "cut short|damaged"),
        (huge_header, ".safetensors", "damaged or of another kind"),
        (huge_tensor, ".safetensors", "damaged or of another kind"),
        (huge_view, ".pt", "claims to be larger than its data"),
        (one_storage_under_many_names, ".bin", "claim to be larger than the file, as they share"),
        (long_byte_array, ".bin", r"more than tensors.*__builtin__\.bytearray"),
        (zip_bomb, ".pth", "a compressed archive"),
        (no_tensors, ".bin", "no plain tensor"),
        (empty, ".bin", "not a zip file"),
        (empty, ".safetensors", "damaged or of another kind"),
        (another_model, ".bin", "no weights of EoMT"),
        (no_data, ".bin", "has no data in the file"),
        (scalars, ".bin", "it cannot be read"),
        (without_joint_blocks, ".bin", "100000 joint blocks"),
        (other_pixels, ".bin", "normalises pixels by a std of"),
        (memo_that_is_not_there, ".bin", "damaged or of another kind|more than tensors"),
    ],
)
def test_a_hostile_file_is_one_clear_error(lie, suffix, message, files, tmp_path):
    path = tmp_path / f"model{suffix}"
    lie(path, files)
    with peak_memory() as peak, pytest.raises(ModelError, match=message) as error:
        load(path)
    assert peak() < 50e6
    assert str(path) in str(error.value)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("layout", ["authors", "hf", "eomt"])
def test_a_flipped_byte_is_noticed(files, tmp_path, layout):
    model, info = load(files / "133.bin")
    if layout == "authors":
        authors.write(model.state_dict(), info, tmp_path / "model.bin")
    elif layout == "hf":
        hugging_face.write(model.state_dict(), info, tmp_path)
    else:
        checkpoint.save(model, info, tmp_path)
    (path,) = (path for path in tmp_path.iterdir() if path.suffix in (".bin", ".safetensors"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is not what"):
        load(path if layout == "authors" else tmp_path)


def test_no_file_is_run_by_reading_it(tmp_path):
    """Prefixes and flipped bytes of a file with code are refused without running it."""
    pickled_code(tmp_path / "model.bin", tmp_path)
    whole = (tmp_path / "model.bin").read_bytes()
    for place in range(0, len(whole), 37):
        for content in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]):
            (tmp_path / "changed.bin").write_bytes(content)
            with pytest.raises(ModelError):
                read_tensors(tmp_path / "changed.bin")
    assert not (tmp_path / "canary").exists()


def test_what_does_not_fit_is_listed_by_name(files, tmp_path):
    state = torch.load(files / "7.bin", weights_only=True)
    del state["network.mask_head.2.bias"]
    state["network.strange"] = torch.ones(1)
    state["network.class_head.bias"] = torch.ones(3)
    torch.save(state, tmp_path / "odd.bin")
    with pytest.raises(ModelError) as error:
        load(tmp_path / "odd.bin")
    for part in (
        "missing: mask_head.2.bias",
        "not of this model: network.strange",
        "class_head.bias 3 instead of 8",
    ):
        assert part in str(error.value)


# Where things are.


def test_sources_that_are_nothing(tmp_path):
    with pytest.raises(ModelError, match="did you mean coco_panoptic_large_640"):
        load("coco_panoptic_large_64")
    with pytest.raises(ModelError, match="no such folder or file"):
        load(tmp_path / "absent")
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="model_type bert; known are eomt and eomt_dinov3"):
        load(tmp_path)


def test_a_folder_with_one_file_is_that_file(files, tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes((files / "133.bin").read_bytes())
    assert load(tmp_path)[1].task == "panoptic"


def test_hub_parts_are_joined(files, tmp_path):
    """Large models come as several files and an index; a name in it that leads elsewhere is refused."""
    model, info = load(files / "133.bin")
    hugging_face.write(model.state_dict(), info, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    parts = {name: f"part-{index % 2}.safetensors" for index, name in enumerate(state)}
    for part in set(parts.values()):
        save_file({name: value for name, value in state.items() if parts[name] == part}, tmp_path / part)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    joined = load(tmp_path)[0].state_dict()
    assert all(torch.equal(joined[name], value) for name, value in model.state_dict().items())
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(ModelError, match="names no files beside it"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("hidden_act", "silu"),
        ("num_attention_heads", 12),
        ("num_channels", 4),
        ("rope_theta", 10000.0),
        ("use_gated_mlp", True),
    ],
)
def test_settings_that_are_not_known_are_refused(files, tmp_path, setting, value):
    model, info = load(files / "133.bin")
    hugging_face.write(model.state_dict(), info, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, setting: value}))
    with pytest.raises(ModelError, match="width of a head" if "heads" in setting else f"another {setting}"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("image_mean", [0.5, 0.5, 0.5]), ("image_std", 1), ("do_rescale", False), ("rescale_factor", 1 / 127.5)],
)
def test_other_normalisation_is_refused(files, tmp_path, setting, value):
    model, info = load(files / "133.bin")
    hugging_face.write(model.state_dict(), info, tmp_path)
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**processor, setting: value}))
    with pytest.raises(ModelError, match=setting):
        load(tmp_path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("model", "image_size"), [2**40, 2**40]),
        (("model", "image_size"), [2**62, 2**62]),
        (("model", "num_queries"), 2**50),
        (("model", "patch_size"), 64),
        (("model", "num_joint_blocks"), 10**9),
        (("model", "backbone"), "vit_7b_patch16_dinov3"),
        (("weights",), []),
        (("thresholds",), {"score": 1e999}),
        (("categories",), [{"name": "a"}] * 7),
        (("task",), ["panoptic"]),
    ],
)
def test_a_configuration_that_lies_costs_no_memory(files, tmp_path, place, value):
    checkpoint.save(*load(files / "133.bin"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    part = config if len(place) == 1 else config[place[0]]
    part[place[-1]] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with peak_memory() as peak, pytest.raises(ModelError, match=str(tmp_path)):
        load(tmp_path)
    assert peak() < 50e6


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("rope_parameters", [1]),
        ("id2label", None),
        ("num_blocks", "many"),
        ("num_blocks", 1e999),
        ("image_size", {}),
        ("image_size", 65),
        ("layer_norm_eps", None),
        ("eomt", "abc"),
        ("eomt", {"categories": [3]}),
        ("eomt", {"task": "bogus"}),
        ("eomt", {"thresholds": {"wings": 2}}),
        ("eomt", {"model": {"wings": 2}}),
        ("num_hidden_layers", 11),
        ("num_queries", "x"),
        ("hidden_size", []),
    ],
)
def test_any_values_in_a_foreign_configuration_raise_nothing_else(files, tmp_path, setting, value):
    hugging_face.write(load(files / "133.bin")[0].state_dict(), load(files / "133.bin")[1], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if setting == "eomt" and isinstance(value, dict):
        value = config["eomt"] | value
    (tmp_path / "config.json").write_text(json.dumps({**config, setting: value}))
    with suppress(ModelError):
        load(tmp_path)


def test_a_file_beside_its_configuration_is_asked_for_by_its_folder(files, tmp_path):
    checkpoint.save(*load(files / "133.bin"), tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    with pytest.raises(ModelError, match=f"give their folder, {tmp_path}"):
        load(weights)


@pytest.mark.parametrize("told", [Told(image_size=(60, 64)), Told(patch_size=0), Told(patch_size=-4)])
def test_a_view_that_patches_do_not_tile_is_a_wrong_option(files, told):
    with pytest.raises(ConfigError):
        load(files / "7.bin", told)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": (64, 96)}, "sees squares"),
        (
            {"backbone": "vit_small_patch16_224", "num_upscale_blocks": None},
            "has no backbone vit_small_patch16_224",
        ),
        ({"backbone": "vit_small_plus_patch16_dinov3_qkvb"}, "cannot hold vit_small_plus"),
    ],
)
def test_what_transformers_cannot_hold_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        hugging_face.their_config(ModelInfo("panoptic", CATEGORIES, replace(DINOV2, **change)), 7)


@pytest.mark.parametrize("layout", ["hf", "authors"])
def test_dinov3_without_biases_goes_out_with_zeros(files, tmp_path, layout):
    """timm's own DINOv3 has no biases of queries and values; the other projects' has."""
    config = replace(DINOV3, backbone="vit_small_patch16_dinov3.lvd1689m", rope_rescale=2.0, drop_path=0.1)
    model, info = random_model(config, 7), ModelInfo("instance", CATEGORIES, config)
    if layout == "hf":
        hugging_face.write(model.state_dict(), info, tmp_path)
        again, told = load(tmp_path)
        assert told == replace(info, model=replace(config, backbone="vit_small_patch16_dinov3_qkvb.lvd1689m"))
    else:
        authors.write(model.state_dict(), info, tmp_path / "model.bin")
        again, told = load(tmp_path / "model.bin", Told(image_size=config.image_size))
    mine, theirs = model.state_dict(), again.state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in mine.items())
    assert all(not theirs[name].any() for name in theirs.keys() - mine.keys())
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(model(images)[0].mask_logits, again.eval()(images)[0].mask_logits, atol=1e-4)


def test_what_the_authors_cannot_hold_is_refused(tmp_path):
    config = replace(DINOV2, norm_eps=1e-5)
    with pytest.raises(ConfigError, match="no place for the epsilon"):
        authors.write(random_model(config, 7).state_dict(), ModelInfo(None, (), config), tmp_path / "model.bin")


def test_a_file_saved_with_masked_attention_keeps_it(files, tmp_path):
    state = torch.load(files / "7.bin", weights_only=True)
    torch.save(state | {"network.attn_mask_probs": torch.ones(1)}, tmp_path / "masked.bin")
    assert load(tmp_path / "masked.bin")[1].model == replace(DINOV2, masked_inference=True)


def test_a_configuration_of_another_model_is_refused(files, tmp_path):
    hugging_face.write(load(files / "133.bin")[0].state_dict(), load(files / "133.bin")[1], tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name, value in {"num_hidden_layers": 3, "num_queries": 7, "num_register_tokens": 0}.items():
        (tmp_path / "config.json").write_text(json.dumps({**config, name: value}))
        with pytest.raises(ModelError, match=f"config.json says {name} {value}, its weights"):
            load(tmp_path)


def test_the_pixels_of_a_tagged_backbone_come_back(tmp_path):
    """DINOv3 for satellite images has another mean of the pixels, which its shapes do not tell."""
    config = replace(DINOV3, backbone="vit_large_patch16_dinov3_qkvb.sat493m", depth=1)
    hugging_face.write(random_model(config, 7).state_dict(), ModelInfo("instance", CATEGORIES, config), tmp_path)
    again, info = load(tmp_path)
    assert info.model == config
    (tmp_path / "preprocessor_config.json").unlink()
    assert load(tmp_path)[0].backbone.pixel_mean.flatten().tolist() == again.backbone.pixel_mean.flatten().tolist()
    assert again.backbone.pixel_mean.flatten()[0] == pytest.approx(0.43 * 255)


def test_the_bundled_model_by_any_spelling():
    assert load("Bundled")[1] == load("bundled")[1]


@pytest.mark.parametrize("source", ["/dev/null", "a" * 5000, "", "a/b/c"])
def test_what_is_no_model_is_a_model_error(source):
    with pytest.raises(ModelError):
        load(source)


# The command.


def test_convert(files, tmp_path, capsys):
    arguments = ["--task", "semantic", "--classes", "ade20k-semantic", "--json"]
    assert main(["convert", str(files / "150.bin"), str(tmp_path / "ours"), *arguments]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["task"], summary["classes"], summary["view"]) == ("semantic", 150, "64x64")
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to", "hf"]) == 0
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "back"), "--to", "authors"]) == 0
    first = torch.load(files / "150.bin", weights_only=True)
    last = torch.load(tmp_path / "back" / "pytorch_model.bin", weights_only=True)
    assert first.keys() == last.keys()
    assert all(torch.equal(first[name], last[name]) for name in first)
    assert checkpoint.read(tmp_path / "ours")[0].categories == class_table("ade20k-semantic")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["7.bin", "OUT"], 2, "give task= and classes="),
        (["absent.bin", "OUT"], 4, "no such folder or file"),
        (["7.bin", "."], 2, "not an empty folder"),
        (["7.bin", "OUT", "--classes", "coco"], 2, "no class table is named"),
        (["7.bin", "OUT", "--to", "hf", "--storage", "int8"], 2, "only with --to eomt"),
    ],
)
def test_convert_says_what_is_wrong(files, tmp_path, capsys, arguments, code, message):
    source, out, *options = arguments
    destination = tmp_path if out == "." else tmp_path / "out"
    (tmp_path / "something").touch()
    assert main(["convert", str(files / source), str(destination), *options]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_card_is_read_by_the_hub(files, tmp_path):
    from huggingface_hub import ModelCard

    model, info = load(files / "133.bin")
    hugging_face.write(model.state_dict(), info, tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "image-segmentation"
    assert "80: person, bicycle" in card.text
