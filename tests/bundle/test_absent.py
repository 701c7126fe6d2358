"""A bundle without a plane head, without a nuchal map, or without both: what the device then does, and that it says so."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import cv2
import numpy as np
import pytest
from fakes.runner_fake import FakeRunner

from edge.bundle import ANYONE, load_bundle, write_bundle
from edge.bundle import manifest as mf
from edge.bundle.manifest import ABSENT, NUCHAL_MAP, PLANE, dump_manifest, parse_manifest
from edge.decision.assess import NOT_PLANE, assess
from edge.decision.params import DecisionParams
from edge.engines.scorer import Scorer
from edge.errors import BundleError
from edge.events.evidence import render_evidence
from edge.records import Scores, Signal
from edge.stills import Overlays
from edge.update.rehearse import Confirmed, no_longer_called

BOTH = (PLANE, NUCHAL_MAP)


def lacking(manifest: mf.Manifest, *absent: str) -> mf.Manifest:
    heads = dataclasses.replace(manifest.heads, absent=absent)
    return dataclasses.replace(manifest, schema_version=heads.schema, heads=heads)


@pytest.mark.requirement("M-01")
@pytest.mark.parametrize("absent", [(PLANE,), (NUCHAL_MAP,), BOTH])
def test_what_is_absent_is_read_again_and_an_older_device_refuses_it(
    fake_bundle_parts: Any, tmp_path: Any, absent: tuple[str, ...]
) -> None:
    manifest, files = fake_bundle_parts
    made = write_bundle(tmp_path / "b", lacking(manifest, *absent), files)
    found = load_bundle(tmp_path / "b", ANYONE).manifest
    assert found.heads.absent == absent and found.schema_version == 3 == made.manifest.schema_version
    assert found.heads.lacking == tuple(ABSENT[name] for name in absent)


@pytest.mark.requirement("M-01")
def test_a_bundle_with_all_heads_says_nothing_of_it(fake_bundle_parts: Any, tmp_path: Any) -> None:
    manifest, files = fake_bundle_parts
    whole = write_bundle(tmp_path / "b", manifest, files).manifest
    raw = json.loads(dump_manifest(whole))
    assert raw["schema_version"] == 1 and "absent" not in raw["heads"] and whole.heads.lacking == ()


@pytest.mark.parametrize(("version", "heads", "words"), [
    (3, {}, "heads: found"),
    (1, {"absent": ["plane"]}, "heads: found"),
    (2, {"absent": ["plane"]}, "heads: found"),
    (3, {"absent": ["hygroma"]}, "heads.absent: found 'hygroma'; expected plane or nuchal_map, each once at most"),
    (3, {"absent": ["plane", "plane"]}, "heads.absent: found 'plane'"),
    (3, {"absent": "plane"}, "heads.absent: found 'plane'"),
])  # fmt: skip
def test_what_does_not_fit_the_schema_is_refused(
    fake_bundle_parts: Any, tmp_path: Any, version: int, heads: dict[str, Any], words: str
) -> None:
    manifest, files = fake_bundle_parts
    raw = json.loads(dump_manifest(write_bundle(tmp_path / "b", manifest, files).manifest))
    raw["schema_version"], raw["heads"] = version, {**raw["heads"], **heads}
    with pytest.raises(BundleError) as error:
        parse_manifest(json.dumps(raw).encode())
    assert words in str(error.value)


def scored(parts: Any, path: Any, *absent: str) -> Scores:
    manifest, files = parts
    bundle = write_bundle(path, lacking(manifest, *absent) if absent else manifest, files)
    with Scorer(bundle, FakeRunner()) as scorer:
        return scorer.score(np.full((64, 64), 90, np.uint8))


@pytest.mark.requirement("M-01")
def test_an_absent_output_is_no_score(fake_bundle_parts: Any, tmp_path: Any) -> None:
    whole, bare = (scored(fake_bundle_parts, tmp_path / f"b{n}", *absent) for n, absent in enumerate([(), BOTH]))
    assert whole.plane is not None and whole.nuchal_map is not None
    assert bare.plane is None and bare.nuchal_map is None and (bare.hygroma, bare.ood) == (whole.hygroma, whole.ood)


@pytest.mark.requirement("M-01")
def test_without_a_plane_head_every_view_passes_and_nothing_else() -> None:
    params = DecisionParams(plane_threshold=0.5, ood_threshold=2.0)
    assert assess(Signal.OK, None, 1.0, params) == (True, ())
    assert assess(Signal.OK, 0.1, 1.0, params) == (False, (NOT_PLANE,))
    assert not assess(Signal.OK, None, 3.0, params)[0] and not assess(Signal.FROZEN, None, 1.0, params)[0]
    assert not assess(Signal.OK, None, None, params)[0]  # no answer at all


@pytest.mark.requirement("M-01")
def test_the_picture_of_a_flag_says_that_there_is_no_map_and_draws_none() -> None:
    view = np.full((96, 96), 120, np.uint8)
    pictures = [
        cv2.imdecode(np.frombuffer(render_evidence(view, scores, "t", 1, "b"), np.uint8), cv2.IMREAD_COLOR)
        for scores in (Scores(0.9, 0.9, 1.0, np.ones((4, 4), np.float32)), Scores(None, 0.9, 1.0, None))
    ]
    mapped, bare = (picture[:480, 480:].astype(int) for picture in pictures)
    assert np.ptp(mapped, axis=2).max() > 20  # heat has colour
    assert np.ptp(bare, axis=2).max() == 0 and 0 < (bare > 100).mean() < 0.05  # words, and nothing else


def test_an_overlay_without_a_map_is_refused(tmp_path: Any) -> None:
    from types import SimpleNamespace

    from edge.errors import ConfigError

    bare: Any = SimpleNamespace(scores=Scores(None, 0.9, 1.0, None), crop=np.zeros((8, 8), np.uint8))
    with pytest.raises(ConfigError, match="--overlay: the bundle has no nuchal map"):
        Overlays(tmp_path / "o").write(bare)


def test_a_confirmed_flag_is_called_again_whatever_its_view(fake_bundle_parts: Any, tmp_path: Any) -> None:
    manifest, files = fake_bundle_parts
    point = dataclasses.replace(manifest.operating_point, hygroma_threshold=0.0, plane_threshold=1.0)
    far = dataclasses.replace(manifest, operating_point=point, ood=mf.Ood(1e6))
    flag = Confirmed(7, np.full((64, 64), 90, np.uint8))
    for number, (made, lost) in enumerate(((far, (7,)), (lacking(far, PLANE), ()))):
        with Scorer(write_bundle(tmp_path / f"b{number}", made, files), FakeRunner()) as scorer:
            assert no_longer_called(scorer, [flag]) == lost
