"""The heads fitted again on what a finished trunk shows them."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from calibration.bank import BANK_SIZE, UNKNOWN, Bank, Entry
from edge.screen.preprocess import Preprocessing, letterbox
from export.heads import probe_plane_head, retrain_hygroma_head
from export.train import predict
from export.vit import HygromaViT, ViTConfig

CONFIG = ViTConfig(image=48, patch=16, width=32, depth=1, heads=2, tap=1)


@pytest.fixture(scope="module")
def stripes() -> Bank:
    """Noise with a dark band as high as the entry's thickness says, in the middle."""
    rng = np.random.default_rng(0)
    crops, entries = [], []
    for i in range(96):
        mm = float(rng.uniform(0.8, 10))
        crop = rng.normal(150, 10, (BANK_SIZE, BANK_SIZE))
        middle, half = BANK_SIZE // 2, round(5 * mm)
        crop[middle - half : middle + half] = 20
        crops.append(crop.clip(0, 255).astype(np.uint8))
        entries.append(Entry(i, "lesion", i % 4, 1.0, float(mm > 3.2), mm, (0.0, 0.4, 1.0, 0.6)))
    return Bank(np.stack(crops), entries)


def model() -> HygromaViT:
    torch.manual_seed(3)
    out = HygromaViT(CONFIG)
    for parameter in out.parameters():
        if parameter.ndim == 2 and parameter.shape[0] > 1:
            torch.nn.init.normal_(parameter, 0, 0.2)
    return out.eval()


def correlation(m: HygromaViT, bank: Bank, keep: np.ndarray) -> float:
    crops = np.stack([letterbox(bank.crops[i], Preprocessing(size=CONFIG.image)) for i in keep])
    said = predict(m, crops)["hygroma"]
    return float(np.corrcoef(said, np.log([bank.entries[i].thickness_mm for i in keep]))[0, 1])


def test_the_head_learns_the_thickness_and_nothing_else_moves(stripes: Bank) -> None:
    m = model()
    before = {k: v.clone() for k, v in m.state_dict().items()}
    train, held = stripes.where(lambda e: e.fold > 0), stripes.where(lambda e: e.fold == 0)
    assert correlation(m, stripes, held) < 0.7
    retrain_hygroma_head(m, stripes, train, seed=1)
    assert correlation(m, stripes, held) > 0.9
    moved = {k for k, v in m.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {k for k in before if k.startswith("hygroma_head.")}


def test_the_same_seed_gives_the_same_head(stripes: Bank) -> None:
    heads = []
    for _ in range(2):
        m = model()
        torch.rand(5)  # what was drawn before does not matter
        retrain_hygroma_head(m, stripes, np.arange(40), seed=2)
        heads.append(m.hygroma_head.state_dict())
    assert all(torch.equal(heads[0][k], heads[1][k]) for k in heads[0])


def test_what_says_nothing_about_the_hygroma_is_not_looked_at(stripes: Bank) -> None:
    m, silent = model(), Entry(0, "real", 0, 0.0, UNKNOWN, UNKNOWN, None)
    before = m.hygroma_head[0].weight.clone()
    retrain_hygroma_head(m, Bank(stripes.crops[:2], [silent, silent]), np.arange(2), seed=0)
    assert torch.equal(m.hygroma_head[0].weight, before)


def test_the_plane_head_tells_untouched_stills_apart_and_nothing_else_moves() -> None:
    """Stills with a bright lower half are standard planes; edited ones, labelled the other way round, are not looked at."""
    rng = np.random.default_rng(5)
    crops = rng.normal(90, 20, (80, BANK_SIZE, BANK_SIZE))
    crops[::2, BANK_SIZE // 2 :] += 90
    entries = [Entry(i, "real", 0, float(i % 2 == 0), UNKNOWN, UNKNOWN, None) for i in range(80)]
    entries[60:] = [Entry(i, "lesion", 0, float(i % 2 == 1), UNKNOWN, UNKNOWN, None) for i in range(60, 80)]
    bank, m = Bank(crops.clip(0, 255).astype(np.uint8), entries), model()
    before = {k: v.clone() for k, v in m.state_dict().items()}
    probe_plane_head(m, bank, np.r_[0:40, 60:80])
    said = predict(m, np.stack([letterbox(bank.crops[i], Preprocessing(size=CONFIG.image)) for i in range(40, 60)]))[
        "plane"
    ]
    assert ((said > 0) == (np.arange(40, 60) % 2 == 0)).all()
    moved = {k for k, v in m.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"plane_head.weight", "plane_head.bias"}
