"""Checkpoints, augmentation and the training loop on a model small enough for a test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from calibration.bank import BANK_SIZE, Bank, Entry
from edge.errors import InputError
from export.model.vit import HygromaViT, ViTConfig
from export.model.weights import _OURS, load_backbone, student_from_teacher
from export.training.augment import augment, cut_anew, map_target
from export.training.train import Schedule, distillation_loss, fit, label_loss, make_batch, predict

TINY = ViTConfig(image=48, patch=16, width=64, depth=2, heads=2, tap=1)


def bank(n: int = 24) -> Bank:
    """Bright centres are lesions, dark ones are not: something that a few steps can learn."""
    rng = np.random.default_rng(0)
    crops = rng.integers(60, 90, (n, BANK_SIZE, BANK_SIZE)).astype(np.uint8)
    entries = []
    for i in range(n):
        sick = i % 2
        crops[i, 80:160, 80:160] = 230 if sick else 10
        entries.append(Entry(i, ("real", "lesion")[sick], i % 4, 1.0, float(sick), -1.0, (0.33, 0.33, 0.67, 0.67)))
    return Bank(crops, entries)


def backbone(config: ViTConfig) -> dict[str, object]:
    return {k: v for k, v in HygromaViT(config).state_dict().items() if not k.startswith(_OURS)}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s}])
def test_a_checkpoint_loads_in_every_form_and_the_decoder_is_dropped(tmp_path: Path, wrap) -> None:
    state = backbone(TINY)
    torch.save(wrap({**state, "mask_token": torch.zeros(1), "decoder_embed.weight": torch.zeros(2)}), tmp_path / "c.pt")
    model = HygromaViT(TINY)
    load_backbone(model, tmp_path / "c.pt")
    torch.testing.assert_close(model.state_dict()["norm.weight"], state["norm.weight"])


def test_a_wrong_checkpoint_names_every_key(tmp_path: Path) -> None:
    state = backbone(TINY)
    del state["norm.bias"]
    state["extra"] = torch.zeros(1)
    state["cls_token"] = torch.zeros(1, 1, 7)
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(InputError, match=r"missing \['norm.bias'\].*unexpected \['extra'\].*cls_token"):
        load_backbone(HygromaViT(TINY), tmp_path / "c.pt")


def test_patch_and_positions_are_resampled(tmp_path: Path) -> None:
    other = ViTConfig(image=56, patch=14, width=64, depth=2, heads=2)
    state = backbone(other)
    torch.save(state, tmp_path / "c.pt")
    model = HygromaViT(TINY)
    load_backbone(model, tmp_path / "c.pt")
    source = state["patch_embed.proj.weight"]
    # a constant picture must give the same embedding at either patch size (FlexiViT's criterion holds for resized inputs)
    torch.testing.assert_close(model.patch_embed.proj.weight.sum((2, 3)), source.sum((2, 3)), rtol=1e-3, atol=1e-3)


def test_a_student_of_all_blocks_is_its_teacher() -> None:
    teacher, student = HygromaViT(TINY), HygromaViT(TINY)
    student_from_teacher(student, teacher, (0, 1))
    crops = np.random.default_rng(0).integers(0, 255, (2, 48, 48)).astype(np.uint8)
    np.testing.assert_array_equal(predict(student, crops)["hygroma"], predict(teacher, crops)["hygroma"])


def test_a_student_of_the_wrong_depth_is_refused() -> None:
    with pytest.raises(InputError, match="student.blocks"):
        student_from_teacher(HygromaViT(TINY), HygromaViT(TINY), (0,))


def test_training_learns_and_resumes_to_the_same_weights(tmp_path: Path) -> None:
    data, keep = bank(), np.arange(24)
    losses: list[float] = []

    def train(epochs: int, checkpoint: Path) -> HygromaViT:
        torch.manual_seed(0)
        model = HygromaViT(TINY)
        fit(
            model,
            data,
            keep,
            Schedule(epochs, batch=6, lr=3e-3),
            checkpoint,
            on_epoch=lambda e, loss: losses.append(loss),
        )
        return model

    class Stop(Exception):
        pass

    def stop(epoch: int, loss: float) -> None:
        raise Stop

    whole = train(6, tmp_path / "whole.pt")
    assert losses[-1] < losses[0]
    torch.manual_seed(0)
    cut = HygromaViT(TINY)
    with pytest.raises(Stop):  # killed after the first epoch
        fit(cut, data, keep, Schedule(6, batch=6, lr=3e-3), tmp_path / "cut.pt", on_epoch=stop)
    resumed = train(6, tmp_path / "cut.pt")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_distillation_pulls_the_student_to_its_teacher() -> None:
    torch.manual_seed(0)
    teacher = HygromaViT(TINY)
    from export.model.vit import normalise
    from export.training.train import make_batch

    batch = make_batch(bank(), np.arange(8), 48, 3, np.random.default_rng(0))
    x = normalise(batch.crops)
    loss = distillation_loss(teacher)
    stranger = HygromaViT(TINY)
    with torch.no_grad():
        assert loss(teacher(x), batch, x) < loss(stranger(x), batch, x)


def test_augmentation_is_deterministic_and_carries_the_box() -> None:
    crop = np.full((BANK_SIZE, BANK_SIZE), 20, np.uint8)
    crop[100:140, 100:140] = 255
    box = (100 / BANK_SIZE, 100 / BANK_SIZE, 140 / BANK_SIZE, 140 / BANK_SIZE)
    for seed in range(20):
        one, moved = augment(crop, box, 160, np.random.default_rng(seed))
        two, _ = augment(crop, box, 160, np.random.default_rng(seed))
        np.testing.assert_array_equal(one, two)
        assert moved is not None and one.shape == (160, 160)
        assert 0 <= moved[0] < moved[2] <= 1
        x0, y0, x1, y1 = (int(v * 160) for v in moved)
        inside = one[y0:y1, x0:x1].astype(float)
        if inside.size > 100:
            assert inside.mean() > one.mean()


def test_a_still_that_is_cut_anew_does_not_tell_how_it_was_cut() -> None:
    aspects: dict[str, np.ndarray] = {}
    for name, (height, width) in {"wide": (150, 240), "tall": (240, 200)}.items():
        crop = np.zeros((BANK_SIZE, BANK_SIZE), np.uint8)
        top, left = (BANK_SIZE - height) // 2, (BANK_SIZE - width) // 2
        crop[top : top + height, left : left + width] = 60
        cuts = [cut_anew(crop, np.random.default_rng(seed)) > 0 for seed in range(200)]
        assert all(max(seen.any(0).sum(), seen.any(1).sum()) == BANK_SIZE for seen in cuts)  # it fills the square again
        aspects[name] = np.log([seen.any(0).sum() / seen.any(1).sum() for seen in cuts])
    wide, tall = aspects.values()
    assert abs(wide.mean() - tall.mean()) < 0.05 and wide.std() > 0.2
    assert cut_anew(np.zeros((BANK_SIZE, BANK_SIZE), np.uint8), np.random.default_rng(0)).sum() == 0


def test_map_target_is_the_covered_share() -> None:
    target = map_target((0.25, 0.0, 0.75, 0.5), 4)
    assert target.sum() == pytest.approx(4.0)
    assert target[0, 1] == pytest.approx(1.0)
    assert map_target(None, 4).sum() == 0


def test_the_hygroma_head_reads_where_it_is_shown() -> None:
    torch.manual_seed(0)
    model, grid = HygromaViT(TINY).eval(), TINY.grid
    x = torch.randn(2, 3, 48, 48)
    plain = model(x)
    assert plain.hygroma_shown is None
    own = model(x, plain.nuchal_map.flatten(1).softmax(1).reshape(2, grid, grid))
    torch.testing.assert_close(own.hygroma_shown, plain.hygroma)  # shown its own map it says the same
    corner = torch.zeros(2, grid, grid)
    corner[:, 0, 0] = 3.0  # of any height
    torch.testing.assert_close(model(x, corner).hygroma_shown, model(x, corner / 3).hygroma_shown)
    assert not torch.allclose(model(x, corner).hygroma_shown, plain.hygroma, atol=1e-6)


def test_the_map_is_taught_to_put_its_mass_in_the_box() -> None:
    data = bank(4)
    batch = make_batch(data, np.arange(4), 48, TINY.grid, np.random.default_rng(0))
    inside = torch.logit(batch.nuchal_map.clamp(0.02, 0.98))
    out = HygromaViT(TINY)(torch.zeros(4, 3, 48, 48))
    right, wrong = (label_loss(replace(out, nuchal_map=m), batch) for m in (inside, inside.flip(1).roll(1, 2)))
    assert right < wrong
    nowhere = replace(batch, has_map=torch.zeros(4, dtype=torch.bool))  # no box: the map is not judged
    torch.testing.assert_close(*(label_loss(replace(out, nuchal_map=m), nowhere) for m in (inside, -inside)))
