"""What `manifest.json` holds: everything about a model that is not a tensor. One frozen record per section.

The manifest is the only place where thresholds, tolerances and decision parameters live: code has no defaults for them.
It names every other file of the bundle with its SHA-256, so that one hash (or signature) over the manifest vouches for
all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from edge.bundle.trust import SIGNATURE_FILE
from edge.errors import BundleError
from edge.schema import Decoder, encode, rule
from edge.screen.preprocess import Preprocessing

# Raised when an older reader would misread a newer manifest. The second has heads besides plane and hygroma, the third says which
# outputs mean nothing; each is written for such bundles alone: whoever reads the first reads all others.
SCHEMA_VERSION, WITH_OTHER_HEADS, WITH_ABSENT_HEADS = 1, 2, 3
PLANE, NUCHAL_MAP = "plane", "nuchal_map"
ABSENT = {  # an output that nothing was learned for -> what the device says as long as it watches
    PLANE: "this bundle cannot tell views: every picture of the fan is scored; hold the mid-sagittal nuchal plane yourself",
    NUCHAL_MAP: "this bundle has no nuchal map: pictures show no heat",
}

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.qdq.onnx"  # the canonical INT8 graph
GOLDEN_FILE = "golden.npz"  # self-test inputs and outputs
OOD_FILE = "ood.npz"  # embedding statistics
CARD_FILE = "MODEL_CARD.md"
REQUIRED_FILES = (MODEL_FILE, GOLDEN_FILE, OOD_FILE, CARD_FILE)

EVIDENCE_KINDS = ("phantom", "simulated_lesion", "real")  # never mixed in one table

_PROBABILITY = rule(low=0.0, high=1.0)
_TEXT = rule(low=1, high=4000)  # characters; a manifest is read by people
_NAME = rule(low=1, high=200)  # characters


@dataclass(frozen=True)
class ModelInfo:
    """`id` names the model line, `version` (semantic) the release; `architecture` is words for people."""

    id: str = field(
        metadata=rule(pattern=r"[a-z0-9][a-z0-9-]{0,63}", hint="lower-case letters, digits and dashes, at most 64")
    )
    version: str = field(
        metadata=rule(
            pattern=r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z.-]+)?",
            high=64,  # characters; it becomes part of a folder's name
            hint="a semantic version such as 1.2.0",
        )
    )
    architecture: str = field(metadata=_NAME)


@dataclass(frozen=True)
class InputSpec:
    """The graph's input: `dtype` [N,1,size,size], grey, values 0..255; `size` in pixels."""

    name: str = field(metadata=rule(choices=("image",)))
    dtype: str = field(metadata=rule(choices=("uint8",)))
    size: int = field(
        metadata=rule(low=16, high=1024)
    )  # pixels; beyond 1024 a ViT has > 4096 tokens: a mistake, not a model


@dataclass(frozen=True)
class Heads:
    """Sizes of the graph's outputs: `embedding` is D of [N,D], `map_grid` is G of the nuchal map [N,G,G].
    `others`: the heads besides plane and hygroma, by the names of their outputs, [N] each: the probability from which on each
    says yes. Schemas 2 and 3 have it. `absent`: the outputs, of ABSENT, that are in the graph and mean nothing. Schema 3 has
    it."""

    embedding: int = field(metadata=rule(low=1, high=8192))
    map_grid: int = field(metadata=rule(low=1, high=256))
    others: dict[str, float] = field(default_factory=dict, metadata=rule(low=0, high=16))  # heads, not thresholds
    absent: tuple[str, ...] = field(default=(), metadata=rule(low=0, high=len(ABSENT)))

    @property
    def schema(self) -> int:
        """The manifest's version that such heads need."""
        return WITH_ABSENT_HEADS if self.absent else WITH_OTHER_HEADS if self.others else SCHEMA_VERSION

    @property
    def lacking(self) -> tuple[str, ...]:
        """What the device cannot do without the absent outputs, in words."""
        return tuple(ABSENT[name] for name in self.absent)


@dataclass(frozen=True)
class OperatingPoint:
    """Probabilities at or above which a frame counts as hygroma, and as an assessable plane."""

    hygroma_threshold: float = field(metadata=_PROBABILITY)
    plane_threshold: float = field(metadata=_PROBABILITY)


@dataclass(frozen=True)
class Calibration:
    """Probability = sigmoid(logit / temperature), per head; 1.0 leaves the logits as they are."""

    plane_temperature: float = field(metadata=rule(low=0.01, high=100.0))
    hygroma_temperature: float = field(metadata=rule(low=0.01, high=100.0))


@dataclass(frozen=True)
class Ood:
    """`threshold`: out-of-distribution distance (see `edge.bundle.arrays.OodStats`) above which a frame is not
    assessable."""

    threshold: float = field(metadata=rule(low=0.0, high=1e6))


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted difference over the golden images: `probability` and `map` absolute, after sigmoid, over both
    heads and all patches; `embedding` as L2 norm of the difference over L2 norm of the recorded embedding, per
    image."""

    probability: float = field(metadata=_PROBABILITY)
    embedding: float = field(metadata=rule(low=0.0, high=2.0))
    map: float = field(metadata=_PROBABILITY)


@dataclass(frozen=True)
class Golden:
    """`count` images; an engine must be within `fp32` of PyTorch's outputs and within `qdq` of the canonical
    graph's."""

    count: int = field(metadata=rule(low=64, high=4096))
    fp32: Tolerance
    qdq: Tolerance


@dataclass(frozen=True)
class DataSource:
    """One data set that went in. `use` says for what, `images` how many of its images, `changes` what was done to them
    (CC BY asks)."""

    name: str = field(metadata=_NAME)
    use: str = field(metadata=_TEXT)
    images: int = field(metadata=rule(low=0, high=1e9))
    licence: str = field(metadata=_NAME)
    citation: str = field(metadata=_TEXT)
    changes: str = field(metadata=_TEXT)


@dataclass(frozen=True)
class Provenance:
    """Where the weights come from. `initialisation` is the teacher's starting checkpoint, `teacher` what it was
    fine-tuned on and how; `limits` are the sentences that a user must read before trusting the model."""

    data: tuple[DataSource, ...] = field(metadata=rule(low=1, high=64))
    initialisation: str = field(metadata=_TEXT)
    teacher: str = field(metadata=_TEXT)
    recipe: str = field(metadata=_TEXT)
    seeds: tuple[int, ...] = field(metadata=rule(low=1, high=64))
    quantisation: str = field(metadata=_TEXT)
    limits: tuple[str, ...] = field(metadata=rule(low=1, high=64))


@dataclass(frozen=True)
class EvidenceRow:
    """One figure: `value` of `metric` over `n` images or exams of `split`, with its 95 % interval [low, high] where one
    was computed."""

    metric: str = field(metadata=_NAME)
    split: str = field(metadata=_NAME)
    n: int = field(metadata=rule(low=1, high=1e9))
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class EvidenceTable:
    """Figures of one kind of evidence; `description` says on what, in plain words."""

    name: str = field(metadata=_NAME)
    kind: str = field(metadata=rule(choices=EVIDENCE_KINDS))
    description: str = field(metadata=_TEXT)
    rows: tuple[EvidenceRow, ...] = field(metadata=rule(low=1, high=1000))


@dataclass(frozen=True)
class GateResult:
    """What the conversion PyTorch FP32 -> canonical graph lost on `n` held-out images, and whether that was within the
    gate.

    `flipped` names the images whose decision changed; `accepted_failing` is true when a person shipped it all the same.
    """

    passed: bool
    accepted_failing: bool
    n: int = field(metadata=rule(low=1, high=1e9))
    positives: int = field(metadata=rule(low=0, high=1e9))
    positives_lost: int = field(metadata=rule(low=0, high=1e9))
    flips: int = field(metadata=rule(low=0, high=1e9))
    auc_drop: float = field(metadata=rule(low=-1.0, high=1.0))
    max_dp: float = field(metadata=_PROBABILITY)
    p99_dp: float = field(metadata=_PROBABILITY)
    reasons: tuple[str, ...]
    flipped: tuple[str, ...]


@dataclass(frozen=True)
class FileInfo:
    """SHA-256 (lower-case hex) and size of one file of the bundle."""

    sha256: str = field(metadata=rule(pattern=r"[0-9a-f]{64}", hint="64 lower-case hexadecimal digits"))
    bytes: int = field(metadata=rule(low=0, high=2**31))


@dataclass(frozen=True)
class Manifest:
    """The whole of `manifest.json`. `decision` holds the decision stage's parameters by name; that stage checks the
    names."""

    schema_version: int
    model: ModelInfo
    input: InputSpec
    preprocessing: Preprocessing
    heads: Heads
    operating_point: OperatingPoint
    calibration: Calibration
    decision: dict[str, float] = field(metadata=rule(low=0, high=64))
    ood: Ood
    golden: Golden
    provenance: Provenance
    evidence: tuple[EvidenceTable, ...] = field(metadata=rule(low=0, high=64))
    gate: GateResult
    files: dict[str, FileInfo] = field(metadata=rule(low=1, high=32))


def parse_manifest(data: bytes, file: str = "manifest.json") -> Manifest:
    """The bytes of `manifest.json` -> Manifest. BundleError names `file`, field path, value found and fix."""
    decoder = Decoder(file, BundleError)
    raw = decoder.parse(data, "the file is damaged, fetch the bundle again")
    if not isinstance(raw, dict):
        raise decoder.fail("", raw, "expected an object")
    version = raw.get("schema_version")
    if (
        type(version) is not int or version not in (SCHEMA_VERSION, WITH_OTHER_HEADS, WITH_ABSENT_HEADS)
    ):  # before all else: another schema's fields would only confuse
        raise decoder.fail(
            "schema_version",
            version,
            f"this version reads {SCHEMA_VERSION} to {WITH_ABSENT_HEADS}; update hygroma-edge or the bundle",
        )
    manifest = decoder.dataclass(Manifest, raw)
    heads = manifest.heads
    for name in heads.absent:
        if name not in ABSENT or heads.absent.count(name) > 1:
            raise decoder.fail("heads.absent", name, f"expected {' or '.join(ABSENT)}, each once at most")
    if heads.schema != version:
        raise decoder.fail(
            "heads", {"others": sorted(heads.others), "absent": list(heads.absent)},
            f"schema {WITH_ABSENT_HEADS} names absent outputs, schema {WITH_OTHER_HEADS} further heads, schema {SCHEMA_VERSION} "
            "neither; build the bundle again",
        )  # fmt: skip
    for name, threshold in manifest.heads.others.items():
        if not is_plain_name(name) or not 0 <= threshold <= 1:
            raise decoder.fail(f"heads.others.{name}", threshold, "expected a plain name, and a probability in [0, 1]")
    spec = manifest.preprocessing
    if spec.size != manifest.input.size:
        raise decoder.fail("preprocessing.size", spec.size, f"must equal input.size, which is {manifest.input.size}")
    if not 0 <= spec.pad <= 255:
        raise decoder.fail("preprocessing.pad", spec.pad, "expected a grey value in [0, 255]")
    for name in REQUIRED_FILES:
        if name not in manifest.files:
            raise decoder.fail(f"files.{name}", None, "every bundle lists this file; rebuild the bundle")
    for name in manifest.files:
        if not is_plain_name(name):
            raise decoder.fail(
                f"files.{name}", name, "expected a plain file name: letters, digits, dot, dash, underscore; no folder"
            )
        if name in (MANIFEST_FILE, SIGNATURE_FILE):
            raise decoder.fail(
                f"files.{name}", name, "a manifest cannot hold its own hash or signature; remove the entry"
            )
    for i, table in enumerate(manifest.evidence):
        for j, row in enumerate(table.rows):
            where = f"evidence[{i}].rows[{j}]"
            if (row.low is None) != (row.high is None):
                raise decoder.fail(f"{where}.low", row.low, "give both ends of the interval, or null for both")
            if row.low is not None and row.high is not None and not row.low <= row.high:
                raise decoder.fail(f"{where}.low", row.low, f"must not exceed high, which is {row.high:g}")
    gate = manifest.gate
    if not gate.passed and not gate.accepted_failing:
        raise decoder.fail(
            "gate.passed", False, "the conversion failed its gate and nobody accepted that; rebuild the bundle"
        )
    for name, count, limit in (("positives", gate.positives, gate.n), ("flips", gate.flips, gate.n),
                               ("positives_lost", gate.positives_lost, min(gate.positives, gate.flips))):  # fmt: skip
        if count > limit:
            raise decoder.fail(f"gate.{name}", count, f"expected at most {limit}")
    return manifest


def dump_manifest(manifest: Manifest) -> bytes:
    """Manifest -> the bytes of `manifest.json`: UTF-8, indented, keys in the records' order, so that equal manifests
    give equal bytes."""
    content = encode(manifest)
    for name in ("others", "absent"):
        if not content["heads"][name]:
            del content["heads"][name]
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def is_plain_name(name: str) -> bool:
    """True for a file name that cannot leave its folder, nor hide: no separator, no leading dot, ASCII letters, digits,
    '.', '-', '_'."""
    return 0 < len(name) <= 100 and name[0] != "." and all(c.isascii() and (c.isalnum() or c in ".-_") for c in name)
