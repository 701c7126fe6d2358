"""The paper's systems: what they start from, and every checkpoint that does not fit."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fakes.labelled import usf_mae_state, write_checkpoint

from edge.errors import ConfigError, InputError
from export.model.vit import HygromaViT
from export.model.weights import load_backbone, read_checkpoint
from export.stages.weights import at_start
from export.training.systems import System, build, choose_system, vit_shape
from export.training.train import predict


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s, "epoch": 3}])
def test_a_checkpoint_of_usf_maes_very_form_loads(tmp_path: Path, wrap) -> None:
    state = usf_mae_state()
    torch.save(wrap(state), tmp_path / "usf.pt")
    shape = vit_shape(tmp_path / "usf.pt", 224)
    assert (shape.patch, shape.width, shape.depth, shape.heads, shape.layer_scale) == (16, 768, 12, 12, False)
    assert shape.eps == 1e-6 and shape.tap == 0
    assert len(state) == 4 + 12 * 12 + 2 + 4 + 8 * 12 + 4  # 254 tensors, decoder included
    model = HygromaViT(shape)
    load_backbone(model, tmp_path / "usf.pt")
    own = model.state_dict()
    for key in ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.11.mlp.fc2.bias", "norm.weight"):
        torch.testing.assert_close(own[key], state[key])


def test_every_weight_of_the_encoder_is_used_and_the_decoder_is_not(tmp_path: Path) -> None:
    system = choose_system("usf-mae", str(write_checkpoint(tmp_path / "c.pt")), 64)
    saved, own = torch.load(tmp_path / "c.pt", weights_only=True), started(system, 5).state_dict()
    encoder = [k for k in saved if not k.startswith(("decoder_", "mask_token"))]
    assert len(encoder) == 4 + 2 * 12 + 2
    for key in encoder:
        torch.testing.assert_close(own[key], saved[key])


def test_another_input_size_resamples_the_positions(tmp_path: Path) -> None:
    system = choose_system("usf-mae", str(write_checkpoint(tmp_path / "c.pt")), 96)
    out = predict(started(system, 0), np.zeros((2, 96, 96), np.uint8))["hygroma"]
    assert out.shape == (2,) and np.isfinite(out).all()


def started(system: System, seed: int) -> HygromaViT:
    assert system.vit is not None
    return at_start(system.vit, system.start, seed)


def without(key: str):
    return lambda s: {k: v for k, v in s.items() if k != key}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without("norm.bias"), r"missing \['norm.bias'\], unexpected none, misshapen none"),
        (lambda s: {**s, "blocks.0.gate": torch.zeros(1)}, r"unexpected \['blocks.0.gate'\]"),
        (lambda s: {**s, "norm.bias": torch.zeros(7)}, r"misshapen \['norm.bias \(7,\) != \(64,\)'\]"),
        (lambda s: {"conv1.weight": torch.zeros(1)}, "no vision transformer with timm's keys: cls_token"),
        (lambda s: {**s, "norm.bias": "text"}, r"expected names and tensors, found \['norm.bias'\]"),
        (lambda s: s["norm.bias"], "expected names and tensors, found no state dict"),
    ],
)
def test_another_architecture_is_named_key_by_key(tmp_path: Path, spoil, words: str) -> None:
    state = torch.load(write_checkpoint(tmp_path / "good.pt"), weights_only=True)
    torch.save(spoil(state), tmp_path / "c.pt")
    with pytest.raises(InputError, match=words) as error:
        choose_system("usf-mae", str(tmp_path / "c.pt"), 64)
    assert str(tmp_path / "c.pt") in str(error.value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model": s, "optimizer": {"state": {}}, "epoch": 3, "args": Namespace(lr=1e-3, output_dir="x")},
        lambda s: {"state_dict": {f"module.{key}": value for key, value in s.items()}},
    ],
)
def test_a_checkpoint_as_training_scripts_leave_it_loads(tmp_path: Path, wrap) -> None:
    """facebookresearch/mae saves its arguments beside the model; a model that trained on several GPUs has longer keys."""
    state = torch.load(write_checkpoint(tmp_path / "good.pt"), weights_only=True)
    torch.save(wrap(state), tmp_path / "c.pt")
    loaded = read_checkpoint(tmp_path / "c.pt")
    assert loaded.keys() == state.keys() and torch.equal(loaded["cls_token"], state["cls_token"])
    assert Namespace not in torch.serialization.get_safe_globals()


def test_objects_in_a_checkpoint_are_never_unpickled(tmp_path: Path) -> None:
    ran = []

    class Trap:
        def __reduce__(self):
            return ran.append, (1,)

    torch.save({"model": Trap()}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="objects are never unpickled"):
        choose_system("usf-mae", str(tmp_path / "c.pt"), 64)
    assert ran == []
    (tmp_path / "d.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match="d.pt: not "):
        choose_system("usf-mae", str(tmp_path / "d.pt"), 64)


@pytest.mark.parametrize(
    ("name", "init", "image", "shape", "words"),
    [
        ("resnet", None, 64, None, "--system: found 'resnet'; expected one of usf-mae"),
        ("usf-mae", None, 64, None, "give its checkpoint, --init FILE"),
        ("usf-mae", "random", 64, None, "its random start is --system vit-random"),
        ("usf-mae", "c.pt", 60, None, "--image: found 60; must be a multiple of the patch side, 16"),
        ("vit-random", "c.pt", 64, None, "starts at random; --shape-of FILE"),
        ("densenet169", None, 16, None, "--image: found 16; DenseNet-169 needs 32"),
        ("densenet169", None, 64, "c.pt", "--shape-of: is for --system vit-random"),
    ],
)
def test_choices_that_cannot_work(
    tmp_path: Path, name: str, init: str | None, image: int, shape: str | None, words: str
) -> None:
    write_checkpoint(tmp_path / "c.pt")
    given = str(tmp_path / init) if init and init != "random" else init
    with pytest.raises(ConfigError, match=words):
        choose_system(name, given, image, tmp_path / shape if shape else None)


def test_a_random_start_takes_the_checkpoints_shape_and_none_of_its_weights(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "c.pt")
    pretrained, random = choose_system("usf-mae", str(path), 64), choose_system("vit-random", None, 64, path)
    assert random.vit == pretrained.vit and random.described_start() == "random"
    assert "SHA-256" in pretrained.described_start()
    one, two = started(random, 1), started(random, 1)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b)  # the same seed, the same start
    saved = torch.load(path, weights_only=True)
    assert not torch.equal(one.state_dict()["blocks.0.mlp.fc1.weight"], saved["blocks.0.mlp.fc1.weight"])


@pytest.fixture(scope="module")
def torchvision_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DenseNet-169 under torchvision's names, the old dotted ones that its published file has."""
    nets = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(3)
    state = {}
    for key, value in nets.DenseNet169(spatial_dims=2, in_channels=3, out_channels=1000).state_dict().items():
        key = key.replace("class_layers.out.", "classifier.")
        for part in ("norm1", "conv1", "norm2", "conv2"):
            key = key.replace(f".layers.{part}.", f".{part[:-1]}.{part[-1]}.")
        if not key.endswith("num_batches_tracked"):
            state[key] = value
    path = tmp_path_factory.mktemp("densenet") / "densenet169.pth"
    torch.save(state, path)
    return path


def test_densenet_starts_from_torchvisions_weights(torchvision_checkpoint: Path) -> None:
    saved = torch.load(torchvision_checkpoint, weights_only=True)
    assert "features.denseblock1.denselayer1.norm.1.weight" in saved and "classifier.weight" in saved
    model = build(choose_system("densenet169", str(torchvision_checkpoint), 64), seed=9)
    own = model.cnn.state_dict()
    torch.testing.assert_close(
        own["features.denseblock4.denselayer32.layers.conv2.weight"],
        saved["features.denseblock4.denselayer32.conv.2.weight"],
    )
    assert own["class_layers.out.weight"].shape == (1, 1664)


def test_a_vits_checkpoint_is_no_densenets(tmp_path: Path) -> None:
    pytest.importorskip("monai")
    with pytest.raises(InputError, match="not a checkpoint of DenseNet-169"):
        choose_system("densenet169", str(write_checkpoint(tmp_path / "c.pt")), 64)
