"""Every way in which a manifest can be wrong is refused with a message that names file, field, value and fix."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from edge.bundle.manifest import Manifest, dump_manifest, parse_manifest
from edge.errors import BundleError
from edge.schema import encode

_DELETE = "<delete>"


@pytest.fixture
def raw(fake_bundle: Any) -> dict[str, Any]:
    out = encode(fake_bundle.manifest)
    assert isinstance(out, dict)
    return out


def spoiled(raw: dict[str, Any], path: str, value: object) -> bytes:
    """`raw` with the field at `path` ("a.b.0.c") set to `value`, or removed."""
    out = copy.deepcopy(raw)
    node: Any = out
    *parents, last = path.split("/")
    for key in parents:
        node = node[int(key)] if isinstance(node, list) else node[key]
    if value == _DELETE:
        del node[last]
    else:
        node[int(last) if isinstance(node, list) else last] = value
    return json.dumps(out).encode()


def test_a_manifest_survives_the_round_trip(fake_bundle: Any) -> None:
    data = dump_manifest(fake_bundle.manifest)
    assert parse_manifest(data) == fake_bundle.manifest
    assert dump_manifest(parse_manifest(data)) == data


WRONG = [
    ("schema_version", 4, "schema_version: found 4; this version reads 1 to 3"),
    ("schema_version", 2, "schema 3 names absent outputs, schema 2 further heads, schema 1 neither"),
    ("schema_version", True, "schema_version: found True"),
    ("schema_version", _DELETE, "schema_version: found None"),
    ("surprise", 1, "surprise: found 1; unknown field"),
    ("model", [], "model: found []; expected an object"),
    ("model/id", "Has Spaces", "model.id: found 'Has Spaces'; expected lower-case letters"),
    ("model/id", 7, "model.id: found 7; expected a string"),
    ("model/version", "1.2", "model.version: found '1.2'; expected a semantic version"),
    ("model/version", "01.2.3", "model.version: found '01.2.3'; expected a semantic version"),
    ("model/version", "1.2.3\n", "model.version"),
    ("model/architecture", "", "model.architecture: found ''; expected 1 to 200 characters"),
    ("model/extra", 1, "model.extra: found 1; unknown field; known here: id, version, architecture"),
    ("input/name", "x", "input.name: found 'x'; expected one of: image"),
    ("input/dtype", "float32", "input.dtype: found 'float32'; expected one of: uint8"),
    ("input/size", 8, "input.size: found 8; expected a whole number in [16, 1024]"),
    ("input/size", 64.0, "input.size: found 64.0; expected a whole number"),
    ("preprocessing/size", 32, "preprocessing.size: found 32; must equal input.size, which is 64"),
    ("preprocessing/pad", 256, "preprocessing.pad: found 256; expected a grey value"),
    ("heads/embedding", 0, "heads.embedding: found 0"),
    ("heads/map_grid", "4", "heads.map_grid: found '4'; expected a whole number"),
    (
        "operating_point/hygroma_threshold",
        1.5,
        "operating_point.hygroma_threshold: found 1.5; expected a finite number in [0, 1]",
    ),
    ("operating_point/plane_threshold", None, "operating_point.plane_threshold: found None; expected a finite number"),
    (
        "operating_point/plane_threshold",
        _DELETE,
        "operating_point.plane_threshold: found None; required field is missing",
    ),
    ("calibration/plane_temperature", 0, "calibration.plane_temperature: found 0"),
    ("decision/enter", "four", "decision.enter: found 'four'; expected a finite number"),
    ("decision/enter", True, "decision.enter: found True; expected a finite number"),
    ("decision", [1], "decision: found [1]; expected an object of name: a finite number"),
    ("ood/threshold", -1, "ood.threshold: found -1"),
    ("golden/count", 63, "golden.count: found 63; expected a whole number in [64, 4096]"),
    ("golden/fp32/probability", 2, "golden.fp32.probability: found 2"),
    ("golden/qdq", _DELETE, "golden.qdq: found None; required field is missing; add it (an object)"),
    ("provenance/data", [], "provenance.data: found []; expected 1 to 64 entries, found 0"),
    ("provenance/data/0/images", -1, "provenance.data[0].images: found -1"),
    ("provenance/seeds", [0, 0.5], "provenance.seeds[1]: found 0.5; expected a whole number"),
    ("provenance/seeds", "0", "provenance.seeds: found '0'; expected a list of a whole number"),
    ("provenance/limits", [], "provenance.limits: found []"),
    ("evidence/0/kind", "paper", "evidence[0].kind: found 'paper'; expected one of: phantom, simulated_lesion, real"),
    ("evidence/0/rows/0/n", 0, "evidence[0].rows[0].n: found 0"),
    ("evidence/0/rows/0/low", None, "evidence[0].rows[0].low: found None; give both ends"),
    ("evidence/0/rows/0/low", 0.995, "evidence[0].rows[0].low: found 0.995; must not exceed high"),
    ("gate/passed", False, "gate.passed: found False; the conversion failed its gate and nobody accepted that"),
    ("gate/passed", 1, "gate.passed: found 1; expected true or false"),
    ("gate/flips", 101, "gate.flips: found 101; expected at most 100"),
    ("gate/positives", 101, "gate.positives: found 101; expected at most 100"),
    ("gate/positives_lost", 1, "gate.positives_lost: found 1; expected at most 0"),
    ("gate/flipped", [3], "gate.flipped[0]: found 3; expected a string"),
    ("files/golden.npz", _DELETE, "files.golden.npz: found None; every bundle lists this file"),
    ("files/golden.npz/sha256", "AB", "files.golden.npz.sha256: found 'AB'; expected 64 lower-case hexadecimal digits"),
    ("files/golden.npz/bytes", -1, "files.golden.npz.bytes: found -1"),
    ("files/..", {"sha256": "0" * 64, "bytes": 0}, "files...: found '..'; expected a plain file name"),
    ("files/manifest.json", {"sha256": "0" * 64, "bytes": 0}, "a manifest cannot hold its own hash"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=[f"{p}={v!r:.20}" for p, v, _ in WRONG])
def test_a_wrong_field_is_named(raw: dict[str, Any], path: str, value: object, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse_manifest(spoiled(raw, path, value), "some/where/manifest.json")
    assert str(caught.value).startswith("some/where/manifest.json: ")
    assert message in str(caught.value)


def test_every_required_section_is_missed(raw: dict[str, Any]) -> None:
    for name in Manifest.__dataclass_fields__:
        with pytest.raises(BundleError, match=f"{name}: found None"):
            parse_manifest(spoiled(raw, name, _DELETE))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "expected an object"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a": 1, "a": 2}', "the key is given twice"),
        (b'{"a": NaN}', "only finite numbers"),
        (b'{"schema_version": -Infinity}', "only finite numbers"),
        (b'{"schema_version": ' + b"1" * 100_000 + b"}", "at most 19 digits"),
    ],
    ids=["empty", "not UTF-8", "a list", "cut off", "nested", "key twice", "NaN", "infinity", "digits"],
)
def test_text_that_is_not_a_manifest(data: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        parse_manifest(data)


@pytest.mark.parametrize("number", ["1e999", "1e308", "-1e999"])
def test_numbers_that_overflow_are_refused(raw: dict[str, Any], number: str) -> None:
    data = spoiled(raw, "decision/enter", "@").replace(b'"@"', number.encode())
    with pytest.raises(BundleError, match="decision.enter"):
        parse_manifest(data)


def test_a_failing_gate_can_be_accepted_and_says_so(raw: dict[str, Any]) -> None:
    raw["gate"] |= {
        "passed": False,
        "accepted_failing": True,
        "flips": 3,
        "reasons": ["too many"],
        "flipped": ["a", "b", "c"],
    }
    manifest = parse_manifest(json.dumps(raw).encode())
    assert manifest.gate.accepted_failing and manifest.gate.flipped == ("a", "b", "c")
