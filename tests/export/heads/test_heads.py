"""The heads fitted again on what a finished trunk shows them."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from calibration.bank import BANK_SIZE, UNKNOWN, Bank, Entry
from edge.screen.preprocess import Preprocessing, letterbox
from export.heads.features import HYGROMA, PLANE, HeadInputs
from export.heads.fit import PROBE_WEIGHTS, STEEPNESS, Reading, _ridge, _write, probe_plane_head, refit_hygroma_head
from export.heads.ood import distance_limit, fit_ood, left_out_distances
from export.model.vit import HygromaViT, ViTConfig
from export.training.train import predict

CONFIG = ViTConfig(image=48, patch=16, width=32, depth=1, heads=2, tap=1)


@pytest.fixture(scope="module")
def stripes() -> Bank:
    """Noise with a dark band as high as the entry's thickness says, in the middle."""
    rng = np.random.default_rng(0)
    crops, entries = [], []
    for i in range(240):
        mm = float(rng.uniform(0.8, 8))
        crop = rng.normal(150, 10, (BANK_SIZE, BANK_SIZE))
        middle, half = BANK_SIZE // 2, round(6 * mm)
        crop[middle - half : middle + half] = 20
        crops.append(crop.clip(0, 255).astype(np.uint8))
        entries.append(
            Entry(i, "lesion" if mm > 3.2 else "real", i % 4, 1.0, float(mm > 3.2), mm, (0.0, 0.4, 1.0, 0.6))
        )
    return Bank(np.stack(crops), entries)


def model() -> HygromaViT:
    torch.manual_seed(3)
    out = HygromaViT(CONFIG)
    for parameter in out.parameters():
        if parameter.ndim == 2 and parameter.shape[0] > 1:
            torch.nn.init.normal_(parameter, 0, 0.2)
    return out.eval()


def shown_by(m: HygromaViT, bank: Bank) -> HeadInputs:
    crops = np.stack([letterbox(crop, Preprocessing(size=CONFIG.image)) for crop in bank.crops[:16]])
    return HeadInputs.by_student(m.state_dict(), CONFIG, crops[:, None])


def correlation(m: HygromaViT, bank: Bank, keep: np.ndarray) -> float:
    crops = np.stack([letterbox(bank.crops[i], Preprocessing(size=CONFIG.image)) for i in keep])
    said = predict(m, crops)["hygroma"]
    ranks = [np.argsort(np.argsort(x)) for x in (said, [bank.entries[i].thickness_mm for i in keep])]
    return float(np.corrcoef(*ranks)[0, 1])


def test_the_head_learns_the_thickness_and_nothing_else_moves(stripes: Bank) -> None:
    m = model()
    before = {k: v.clone() for k, v in m.state_dict().items()}
    train, held = stripes.where(lambda e: e.fold > 0), stripes.where(lambda e: e.fold == 0)
    assert correlation(m, stripes, held) < 0.7
    refit_hygroma_head(m, shown_by(m, stripes), stripes, train, seed=1)
    assert correlation(m, stripes, held) > 0.8
    moved = {k for k, v in m.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {k for k in before if k.startswith("hygroma_head.")}


def test_the_second_reading_takes_over_where_it_sees_more() -> None:
    """The head says the first, and the second's excess steeply on top; the picture's mean changes nothing."""
    rng, width = np.random.default_rng(2), CONFIG.width
    head = model().hygroma_head
    first, second = (Reading(rng.normal(0, 0.1, 2 * width), b) for b in (0.3, -0.1))  # with the early tokens of the tap
    _write(head, first, second)
    nuchal = rng.normal(0, 1, (200, 2 * width))
    with torch.no_grad():
        shown = torch.from_numpy(np.hstack([nuchal, rng.normal(0, 1, (200, width))])).float()
        said = head(shown)[:, 0].numpy()
    over = second(nuchal)
    assert over.min() < -0.5 and over.max() > 0.5
    np.testing.assert_allclose(said, first(nuchal) + STEEPNESS * over.clip(min=0), atol=0.2)  # the corner is rounded
    np.testing.assert_allclose(said[over < -0.5], first(nuchal)[over < -0.5], atol=1e-3)


def test_what_the_heads_are_shown_is_the_trunks_own_and_rounding_moves_it_a_little(stripes: Bank) -> None:
    m, crops = model(), [letterbox(crop, Preprocessing(size=CONFIG.image)) for crop in stripes.crops[:9]]
    shown, given = shown_by(m, stripes), {}
    for name in (PLANE, HYGROMA):
        m.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: given.update({name: args[0]}))
    predict(m, np.stack(crops))
    for name in (PLANE, HYGROMA):
        features, rounding = shown(name, crops)
        np.testing.assert_allclose(features, given[name].float().numpy(), atol=0.05)  # `predict` is in bfloat16
        assert 0 < np.abs(rounding).mean() < 0.1 * np.abs(features).mean()


def test_heads_mind_what_rounding_changes(stripes: Bank) -> None:
    """A feature that tells the answer and is all rounding besides counts for little, one that rounding leaves alone for much."""
    rng = np.random.default_rng(7)
    aim = rng.normal(0, 1, 400)
    features = np.stack([aim, aim], 1) + rng.normal(0, 0.3, (400, 2))
    moved = np.stack([rng.normal(0, 2, 400), np.zeros(400)], 1)
    reading = _ridge(features, moved, np.exp(aim), np.ones(400), 1e-3)
    assert 0 < 4 * reading.weight[0] < reading.weight[1]
    calm = _ridge(features, 0 * moved, np.exp(aim), np.ones(400), 1e-3)
    assert calm.weight[0] == pytest.approx(calm.weight[1], rel=0.3)


def test_the_plane_head_minds_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same stills, with a rounding that is all in the features which tell most: the head leans on those less."""
    rng = np.random.default_rng(6)
    entries = [Entry(i, "real", 0, float(i % 2), UNKNOWN, UNKNOWN, None) for i in range(60)]
    bank = Bank(np.zeros((60, BANK_SIZE, BANK_SIZE), np.uint8), entries)
    features = rng.normal(0, 1, (60, 64)).astype(np.float32)
    features[:, :2] += 2 * (np.arange(60) % 2)[:, None]
    rounding = 1e-3 * rng.normal(0, 1, (60, 64)).astype(np.float32)
    rounding[:, 0] = 0.5 * rng.normal(0, 1, 60)
    weights = []
    for moved in (rounding, 0 * rounding):
        m = model()
        probe_plane_head(m, bank, np.arange(60), seed=0, shown=lambda head, crops, moved=moved: (features, moved))  # type: ignore[arg-type, misc]
        weights.append(m.plane_head.weight[0].detach().numpy())
    minding, not_minding = (abs(w[0]) / abs(w[1]) for w in weights)
    assert minding < 0.5 * not_minding


def test_rendered_frames_and_axial_heads_weigh_less_in_the_shipped_plane_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stills say one thing of a feature, phantoms the opposite: the fewer of them count, the more it goes with the stills."""
    rng, sources = np.random.default_rng(8), ["real", "phantom", "elsewhere"]
    entries = [Entry(i, sources[i % 3], 0, float(i % 2), UNKNOWN, UNKNOWN, None) for i in range(60)]
    bank = Bank(np.zeros((60, BANK_SIZE, BANK_SIZE), np.uint8), entries)
    features = np.zeros((60, 64), np.float32)
    sign = np.array([1.0 if e.source == "real" else -1.0 for e in entries])
    features[:, 0] = rng.normal(0, 1, 60) + sign * (2 * (np.arange(60) % 2) - 1)

    def weight() -> float:
        m = model()
        nothing = 1e-3 * rng.normal(0, 1, (60, 64)).astype(np.float32)
        probe_plane_head(m, bank, np.arange(60), seed=0, shown=lambda head, crops: (features, nothing))  # type: ignore[arg-type]
        return float(m.plane_head.weight[0, 0].detach())

    shipped = weight()
    monkeypatch.setattr("export.heads.fit.SHIPPED_WEIGHTS", PROBE_WEIGHTS)
    assert shipped > 0 and shipped > weight() + 0.1


def test_pictures_of_one_label_leave_the_head_alone(stripes: Bank) -> None:
    m, thin = model(), stripes.where(lambda e: e.hygroma == 0)
    before = m.hygroma_head[0].weight.clone()
    refit_hygroma_head(m, shown_by(m, stripes), stripes, thin, seed=0)
    assert torch.equal(m.hygroma_head[0].weight, before)


def test_the_same_seed_gives_the_same_head(stripes: Bank) -> None:
    heads = []
    for _ in range(2):
        m = model()
        torch.rand(5)  # what was drawn before does not matter
        refit_hygroma_head(m, shown_by(m, stripes), stripes, np.arange(40), seed=2)
        heads.append(m.hygroma_head.state_dict())
    assert all(torch.equal(heads[0][k], heads[1][k]) for k in heads[0])


def test_what_says_nothing_about_the_hygroma_is_not_looked_at(stripes: Bank) -> None:
    m, silent = model(), Entry(0, "real", 0, 0.0, UNKNOWN, UNKNOWN, None)
    before = m.hygroma_head[0].weight.clone()
    refit_hygroma_head(m, shown_by(m, stripes), Bank(stripes.crops[:2], [silent, silent]), np.arange(2), seed=0)
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
    probe_plane_head(m, bank, np.r_[0:40, 60:80], seed=0, cuts=1, shown=shown_by(m, bank))
    said = predict(m, np.stack([letterbox(bank.crops[i], Preprocessing(size=CONFIG.image)) for i in range(40, 60)]))[
        "plane"
    ]
    assert ((said > 0) == (np.arange(40, 60) % 2 == 0)).all()
    moved = {k for k, v in m.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"plane_head.weight", "plane_head.bias"}


def test_images_that_the_statistics_saw_seem_nearer_than_those_left_out() -> None:
    """Of few images in many dimensions: a limit from what was fitted on would call every new picture unfamiliar."""
    rng = np.random.default_rng(0)
    embeddings, unseen = rng.normal(size=(40, 32)).astype(np.float32), rng.normal(size=(400, 32)).astype(np.float32)
    folds = np.arange(40) % 5 - 1  # a fifth in no fold
    left_out = left_out_distances(embeddings, folds)
    ood = fit_ood(embeddings)
    assert left_out.shape == (32,)
    seen, honest = distance_limit(ood, [embeddings]), distance_limit(ood, [embeddings], left_out=left_out)
    kept = [float((ood.distance(unseen) <= limit).mean()) for limit in (seen, honest)]
    assert honest > seen and kept[1] > kept[0] and kept[1] > 0.9
