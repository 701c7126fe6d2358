"""MAE pretraining: masks, loss, resumption to the last bit, what its checkpoint is good for, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge.errors import ConfigError, InputError
from export.model.mae import MaskedAutoencoder, load_autoencoder, masked_loss, patchify, random_masking, sine_positions
from export.model.vit import HygromaViT, ViTConfig
from export.model.weights import _OURS, load_backbone
from export.training import pretrain as loop
from export.training.frames import contents_of, find_frames
from export.training.pretrain import Settings, pretrain

SHAPE = ViTConfig(image=32, patch=8, width=64, depth=2, heads=1, layer_scale=False)
SETTINGS = Settings(image=32, epochs=4, batch=4, lr=1e-3, threads=1)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "frames"
    (folder / "deeper").mkdir(parents=True)
    for number in range(10):
        image = cv2.GaussianBlur(rng.normal(90, 60, (96, 120)).astype(np.float32), (0, 0), 4)
        image[40:52, 20:100] += 60
        name = f"deeper/{number}.png" if number % 2 else f"{number}.png"
        cv2.imwrite(str(folder / name), np.clip(image, 0, 255).astype(np.uint8))
    return folder


@pytest.fixture
def init(tmp_path: Path) -> Path:
    """A checkpoint of MAE's form: encoder and decoder, flat."""
    torch.manual_seed(1)
    torch.save(MaskedAutoencoder(SHAPE, 32, 1).state_dict(), tmp_path / "mae.pt")
    return tmp_path / "mae.pt"


def test_exactly_the_ratio_is_masked_in_every_sample_and_each_its_own_way() -> None:
    tokens = torch.arange(16.0)[None, :, None].expand(5, -1, 3)
    noise = torch.rand(5, 16, generator=torch.Generator().manual_seed(0))
    kept, mask, restore = random_masking(tokens, noise, 0.75)
    assert kept.shape == (5, 4, 3) and mask.sum(1).tolist() == [12] * 5
    assert len({tuple(m.tolist()) for m in mask}) > 1
    assert torch.equal(mask == 0, noise <= noise.kthvalue(4, 1, keepdim=True).values)  # the four smallest
    for sample in range(5):
        assert sorted(kept[sample, :, 0].tolist()) == torch.nonzero(mask[sample] == 0).flatten().tolist()
        shuffled = torch.cat([kept[sample, :, 0], torch.full((12,), -1.0)])
        assert torch.equal(shuffled[restore[sample]], torch.where(mask[sample] == 0, torch.arange(16.0), -1.0))


def test_only_masked_patches_count_and_the_target_is_normalised() -> None:
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 16)
    mask[:, :12] = 1
    target = patchify(x, 8)
    perfect = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    assert float(masked_loss(perfect, mask, x, 8)) < 1e-8
    visible, hidden = perfect.clone(), perfect.clone()
    visible[:, 12:] += 5
    hidden[:, 0] += 5
    assert float(masked_loss(visible, mask, x, 8)) < 1e-8
    assert float(masked_loss(hidden, mask, x, 8)) == pytest.approx(25 / 12)
    assert float(masked_loss(perfect, mask, 3 * x + 1, 8)) < 1e-6  # gain does not matter


def test_hidden_pixels_do_not_reach_the_prediction() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(SHAPE, 32, 1).eval()
    x, noise = torch.rand(1, 3, 32, 32), torch.rand(1, 16)
    before, mask = model(x, noise)
    hidden = int(torch.nonzero(mask[0])[0])
    row, column = divmod(hidden, 4)
    changed = x.clone()
    changed[..., 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 9
    assert torch.equal(before, model(changed, noise)[0])
    seen = int(torch.nonzero(mask[0] == 0)[0])
    row, column = divmod(seen, 4)
    x[..., 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 9
    assert not torch.equal(before, model(x, noise)[0])


def test_patches_and_positions_are_maes() -> None:
    x = torch.arange(3 * 4 * 4.0).reshape(1, 3, 4, 4)
    assert patchify(x, 2)[0, 1].tolist() == [x[0, c, r, k] for r in (0, 1) for k in (2, 3) for c in range(3)]
    table = sine_positions(8, 3)[0]
    assert table[0].abs().sum() == 0
    assert torch.allclose(table[1 + 3 * 1 + 2, :2], torch.tensor([2.0, 0.02]).sin(), atol=1e-6)  # column 2 first
    assert torch.allclose(table[1 + 3 * 1 + 2, 4:6], torch.tensor([1.0, 0.01]).sin(), atol=1e-6)  # then row 1


def test_the_keys_are_those_of_usf_mae() -> None:
    """mae_vit_base_patch16_dec512d8b: 150 keys of the encoder, 102 of the decoder and its mask token."""
    with torch.device("meta"):
        base = ViTConfig(224, 16, 768, 12, 12, layer_scale=False)
        own = MaskedAutoencoder(base).state_dict()
    assert tuple(own["pos_embed"].shape) == (1, 197, 768) and tuple(own["decoder_pos_embed"].shape) == (1, 197, 512)
    assert tuple(own["decoder_pred.weight"].shape) == (768, 512) and tuple(own["mask_token"].shape) == (1, 1, 512)
    assert {k.split(".")[0] for k in own} == {
        "cls_token", "pos_embed", "mask_token", "decoder_pos_embed", "patch_embed", "blocks", "norm",
        "decoder_embed", "decoder_blocks", "decoder_norm", "decoder_pred",
    }  # fmt: skip
    assert sum(k.startswith(("decoder_", "mask_")) for k in own) == 8 * 12 + 8 and len(own) == 150 + 8 * 12 + 8


def test_the_loss_falls_and_the_checkpoint_starts_a_teacher(frames: Path, init: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    result = pretrain(frames, init, out, dataclasses.replace(SETTINGS, epochs=12))
    assert np.mean(result["losses"][-3:]) < 0.95 * result["losses"][0]
    assert result["frames"] == 10 and result["decoder"] == "kept from mae.pt"
    assert not (tmp_path / "out.pt.work/frames.npy").exists()  # no image stays behind
    state = torch.load(out, weights_only=True)["model"]
    assert state.keys() == torch.load(init, weights_only=True).keys()
    teacher = HygromaViT(SHAPE)
    load_backbone(teacher, out)
    trained = teacher.state_dict()
    assert all(torch.equal(trained[k], state[k]) for k in trained if not k.startswith(_OURS))
    assert not torch.equal(state["blocks.0.mlp.fc1.weight"], torch.load(init)["blocks.0.mlp.fc1.weight"])
    assert torch.equal(state["pos_embed"], torch.load(init)["pos_embed"])


@pytest.mark.requirement("P-15")
def test_a_table_gives_all_frames_but_those_that_it_holds_out(frames: Path, init: Path, tmp_path: Path) -> None:
    names = sorted(path.relative_to(tmp_path).as_posix() for path in frames.rglob("*.png"))
    rows = [f"{name},{'holdout' if number < 3 else number % 4},standard" for number, name in enumerate(names)]
    table = tmp_path / "site.csv"
    table.write_text("\n".join(["path,split,plane", *rows]))
    assert find_frames(table) == [tmp_path / name for name in names[3:]]
    assert pretrain(table, init, tmp_path / "table.pt", SETTINGS)["frames"] == len(names) - 3
    assert contents_of(find_frames(table), table) != contents_of(find_frames(frames), frames)
    table.write_text("path,split\n" + f"{names[0]},holdout\n")
    with pytest.raises(InputError, match=r"site\.csv: all images are held out"):
        find_frames(table)
    table.write_text("path,split\nnone.png,0\n")
    with pytest.raises(InputError, match="names files that are not there"):
        find_frames(table)


def test_a_run_that_was_cut_ends_in_the_same_weights(
    frames: Path, init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(frames, init, tmp_path / "whole.pt", SETTINGS)
    real, calls = loop.masked_loss, []

    def dying(*args: object) -> object:
        calls.append(1)
        if len(calls) == 8:  # the second batch of the third epoch
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "masked_loss", dying)
        pretrain(frames, init, tmp_path / "cut.pt", SETTINGS)
    assert not (tmp_path / "cut.pt").exists()
    assert len(torch.load(tmp_path / "cut.pt.work/state.pt", weights_only=True)["losses"]) == 2
    with pytest.raises(ConfigError, match="begun with other settings: seed: found 0, now 1"):
        pretrain(frames, init, tmp_path / "cut.pt", dataclasses.replace(SETTINGS, seed=1))
    pretrain(frames, init, tmp_path / "cut.pt", SETTINGS)
    whole, cut = (torch.load(tmp_path / name, weights_only=True)["model"] for name in ("whole.pt", "cut.pt"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[k], cut[k]) for k in whole)
    before = (tmp_path / "cut.pt").stat().st_mtime_ns
    pretrain(frames, init, tmp_path / "cut.pt", SETTINGS)  # done: nothing is trained again
    assert (tmp_path / "cut.pt").stat().st_mtime_ns == before


def test_a_decoder_that_is_missing_or_does_not_fit_starts_fresh_and_says_so(init: Path, tmp_path: Path) -> None:
    state = torch.load(init, weights_only=True)
    encoder = {k: v for k, v in state.items() if not k.startswith(("decoder_", "mask_token"))}
    torch.save({"state_dict": encoder}, tmp_path / "encoder.pt")
    model, said = load_autoencoder(tmp_path / "encoder.pt", SHAPE, 0)
    assert said == "fresh: encoder.pt holds none" and len(model.decoder_blocks) == 8
    assert torch.equal(model.state_dict()["norm.weight"], encoder["norm.weight"])
    torch.save({"model": {**state, "decoder_pred.bias": torch.zeros(7)}}, tmp_path / "odd.pt")
    model, said = load_autoencoder(tmp_path / "odd.pt", SHAPE, 0)
    assert "does not fit" in said and "decoder_pred.bias (7,) != (192,)" in said and len(model.decoder_blocks) == 8
    model, said = load_autoencoder(init, dataclasses.replace(SHAPE, image=48), 0)  # positions are resampled
    assert said.startswith("kept") and model.decoder_pos_embed.shape == (1, 37, 32)


def test_frames_that_do_not_decode_are_named_before_training(frames: Path, init: Path, tmp_path: Path) -> None:
    (frames / "broken.png").write_bytes(b"no picture")
    (frames / "empty.jpg").write_bytes(b"")
    with pytest.raises(InputError) as error:
        pretrain(frames, init, tmp_path / "out.pt", SETTINGS)
    assert str(frames / "broken.png") in str(error.value) and str(frames / "empty.jpg") in str(error.value)
    assert not (tmp_path / "out.pt.work/state.pt").exists() and not (tmp_path / "out.pt.work/frames.npy").exists()


def test_bad_input(frames: Path, init: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="nothing: holds no picture"):
        pretrain(tmp_path / "nothing", init, out, SETTINGS)
    with pytest.raises(InputError, match="absent: no such folder"):
        pretrain(tmp_path / "absent", init, out, SETTINGS)
    with pytest.raises(InputError, match="no such checkpoint"):
        pretrain(frames, tmp_path / "none.pt", out, SETTINGS)
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "cnn.pt")
    with pytest.raises(InputError, match="no vision transformer with timm's keys"):
        pretrain(frames, tmp_path / "cnn.pt", out, SETTINGS)
    for change, words in (
        ({"mask_ratio": 1.0}, "--mask-ratio: found 1.0"),
        ({"mask_ratio": 0.99}, "leaves at least one"),
        ({"batch": 0}, "--batch: found 0"),
        ({"image": 33}, "--image: found 33"),
        ({"lr": float("nan")}, "--lr: found nan"),
    ):
        with pytest.raises(ConfigError, match=words):
            pretrain(frames, init, out, dataclasses.replace(SETTINGS, **change))  # type: ignore[arg-type]
    out.write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"out.pt: exists, and no run of this command made it"):
        pretrain(frames, init, out, SETTINGS)
    assert out.read_bytes() == b"mine"
