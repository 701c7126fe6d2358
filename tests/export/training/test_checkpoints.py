"""Checkpoints as people have them: compiled, from several GPUs, fine-tuned, misnamed, diverged."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from fakes.labelled import write_checkpoint  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from edge.errors import ConfigError, InputError  # noqa: E402
from export.model.vit import HygromaViT  # noqa: E402
from export.model.weights import load_backbone, read_checkpoint  # noqa: E402
from export.training.systems import DENSENET, USF_MAE, choose_system, vit_shape  # noqa: E402

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    return read_checkpoint(write_checkpoint(tmp_path_factory.mktemp("c") / "c.pt"))


PREFIXES = ["", "_orig_mod.", "module.", "model.", "backbone.", "encoder."]


@pytest.mark.requirement("P-08")
@pytest.mark.parametrize(("outer", "inner"), list(product(PREFIXES, PREFIXES)))
@pytest.mark.parametrize("wrapper", ["", "model", "state_dict", "model_state_dict"])
def test_what_stands_before_all_keys_is_left_out(tmp_path: Path, state: State, outer: str, inner: str, wrapper: str) -> None:
    named = {f"{outer}{inner}{key}": value for key, value in state.items()}
    torch.save({wrapper: named, "epoch": 3} if wrapper else named, tmp_path / "c.pt")
    assert read_checkpoint(tmp_path / "c.pt").keys() == state.keys()


@pytest.mark.requirement("P-08")
def test_a_part_that_was_compiled_is_understood(tmp_path: Path, state: State) -> None:
    named = {key.replace("blocks.1.", "blocks.1._orig_mod."): value for key, value in state.items()}
    torch.save(named, tmp_path / "c.pt")
    assert read_checkpoint(tmp_path / "c.pt").keys() == state.keys()


@pytest.mark.requirement("P-08")
@pytest.mark.parametrize("name", ["c.pt", "c.pth", "c.safetensors", "c.bin", "checkpoint"])
@pytest.mark.parametrize("form", ["safetensors", "torch", "old torch"])
def test_a_checkpoint_is_read_by_its_content(tmp_path: Path, state: State, name: str, form: str) -> None:
    path = tmp_path / name
    if form == "safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "torch")
    assert all(torch.equal(value, state[key]) for key, value in read_checkpoint(path).items())


@pytest.mark.requirement("P-08")
def test_a_model_that_was_fine_tuned_with_mean_pooling_loads(tmp_path: Path, state: State) -> None:
    tuned = {key.replace("norm.", "fc_norm.") if key.startswith("norm.") else key: v for key, v in state.items()}
    tuned["fc_norm.bias"] = torch.full_like(tuned["fc_norm.bias"], 0.5)
    tuned |= {"head.weight": torch.zeros(2, 64), "head.bias": torch.zeros(2)}
    torch.save(tuned, tmp_path / "c.pt")
    model = HygromaViT(vit_shape(tmp_path / "c.pt", 64))
    load_backbone(model, tmp_path / "c.pt")
    assert torch.equal(model.state_dict()["norm.bias"], tuned["fc_norm.bias"])


@pytest.mark.requirement("P-08")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["cls_token", "blocks.1.mlp.fc2.weight", "norm.bias"])
def test_weights_that_are_no_numbers_are_told(tmp_path: Path, state: State, key: str, value: float) -> None:
    broken = state[key].clone()
    broken.flatten()[-1] = value
    torch.save(state | {key: broken}, tmp_path / "c.pt")
    with pytest.raises(InputError, match=f"c.pt.*no numbers in {key}.*give an earlier checkpoint"):
        choose_system(USF_MAE, str(tmp_path / "c.pt"), 64)


@pytest.mark.requirement("P-08")
@pytest.mark.parametrize(
    ("fill", "told"),
    [
        (lambda folder: None, "there is none in it"),
        (lambda folder: (folder / "model.safetensors").touch(), "such as .*model.safetensors"),
    ],
)
def test_a_folder_is_no_checkpoint(tmp_path: Path, fill: Callable[[Path], None], told: str) -> None:
    fill(tmp_path)
    with pytest.raises(InputError, match=f"a folder; name the checkpoint's file.*{told}"):
        choose_system(USF_MAE, str(tmp_path), 64)


@pytest.mark.requirement("P-08")
def test_batch_norm_wants_two_pictures() -> None:
    pytest.importorskip("monai")
    system = choose_system(DENSENET, None, 32)
    system.require_batch(2)
    with pytest.raises(ConfigError, match="--batch: found 1; densenet169 normalises over .* batch: give 2 or more"):
        system.require_batch(1)
