"""The daemon's configuration: one frozen dataclass per concern, loaded from YAML, wrong in no way once loaded.

Every field carries its own rule (kind, bounds), so that the loader, the error message and `config.example.yaml` cannot
disagree about what is allowed. A problem names the file, the full key path, the value found, and what would be right.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from edge.bundle.keys import KEY_FORM, is_key_text, parse_public_key
from edge.bundle.trust import Trust
from edge.decision.params import DecisionParams
from edge.errors import ConfigError

EXAMPLE = Path(__file__).with_name("config.example.yaml")
MAX_BYTES = 256 * 1024  # bytes; a hundred times the example: anything larger is not a configuration


class _Rule(Protocol):
    expected: str

    def allows(self, value: Any) -> bool: ...


@dataclass(frozen=True)
class _Number:
    """A bounded number. Python counts True as an int; a configuration does not."""

    low: float
    high: float
    unit: str
    whole: bool
    optional: bool = False

    @property
    def expected(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        text = f"{kind} from {self.low:g} to {self.high:g}" + (f" ({self.unit})" if self.unit else "")
        return text + (", or leave the key out" if self.optional else "")

    def allows(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return math.isfinite(value) and self.low <= value <= self.high


@dataclass(frozen=True)
class _Text:
    max_chars: int
    expected: str

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and len(value) <= self.max_chars and value.isprintable()


@dataclass(frozen=True)
class _Choice:
    options: tuple[str, ...]

    @property
    def expected(self) -> str:
        return "one of " + ", ".join(self.options)

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.options


@dataclass(frozen=True)
class _Keys:
    max_keys: int

    @property
    def expected(self) -> str:
        return f"a list of at most {self.max_keys} public keys, each {KEY_FORM}"

    def allows(self, value: Any) -> bool:
        if not isinstance(value, list) or len(value) > self.max_keys:
            return False
        return all(isinstance(item, str) and is_key_text(item) for item in value)


@dataclass(frozen=True)
class _Flag:
    expected: str = "true or false"

    def allows(self, value: Any) -> bool:
        return isinstance(value, bool)


def _number(default: float | None, low: float, high: float, unit: str) -> Any:
    return field(default=default, metadata={"rule": _Number(low, high, unit, whole=False, optional=default is None)})


def _whole(default: int | None, low: int, high: int, unit: str) -> Any:
    return field(default=default, metadata={"rule": _Number(low, high, unit, whole=True, optional=default is None)})


def _text(default: str, expected: str, max_chars: int = 1024) -> Any:
    return field(default=default, metadata={"rule": _Text(max_chars, expected)})


def _choice(default: str, *options: str) -> Any:
    return field(default=default, metadata={"rule": _Choice(options)})


def _flag(default: bool) -> Any:
    return field(default=default, metadata={"rule": _Flag()})


@dataclass(frozen=True)
class SourceConfig:
    """What is watched. Credentials in `uri` are removed from everything that is shown, logged or stored."""

    uri: str = _text("", "a source URI such as v4l2:/dev/v4l/by-id/NAME, rtsp://HOST/PATH or file:clip.mp4")
    name: str = _text("", "a short name to show, for example the room", max_chars=64)


@dataclass(frozen=True)
class CaptureConfig:
    """How a source is read. Sizes and rates are what is asked of a V4L2 device; it may give others."""

    width: int = _whole(1280, 160, 3840, "pixels")
    height: int = _whole(720, 120, 2160, "pixels")
    fps: int = _whole(30, 1, 120, "frames per second")
    pixel_format: str = _choice("auto", "auto", "YUYV", "UYVY", "NV12", "MJPG", "GREY")
    grey: bool = _flag(False)
    pixel_aspect: float | None = _number(None, 0.25, 4, "width of a pixel over its height")
    open_timeout_s: float = _number(5.0, 0.5, 60, "seconds")
    read_timeout_s: float = _number(2.0, 0.5, 30, "seconds")
    # The upper bound keeps the promise that a source which returns is back within 2 s: it takes up to a second to open.
    backoff_max_s: float = _number(0.5, 0.1, 1.0, "seconds")
    # The upper bound keeps the promise that an unplugged camera is reported within 1 s.
    stall_s: float = _number(0.6, 0.1, 0.75, "seconds")


@dataclass(frozen=True)
class EngineConfig:
    """`threads` is per source: beside a busy process two threads were slower than one (31 against 15 ms, measured).
    `cache` holds TensorRT engines; a daemon reads it and builds nothing."""

    bundle: str = _text("", "a bundle's directory or .tar; empty for the one that came with hygroma")
    runtime: str = _choice("auto", "auto", "onnxruntime", "openvino", "tensorrt")
    threads: int = _whole(1, 1, 64, "threads")
    cache: str = _text("", "a directory of TensorRT engines; empty for the service's own, or the user's")


@dataclass(frozen=True)
class BundleConfig:
    """Whose bundles run, and where updates are kept. The bundle that came with hygroma is trusted by its hash."""

    trusted_keys: tuple[str, ...] = field(default=(), metadata={"rule": _Keys(16)})
    allow_unsigned: bool = _flag(False)
    dir: str = _text("", "a directory that the daemon may write; empty for `bundles` in events.dir")
    ready_s: float = _number(60.0, 1, 3600, "seconds")

    def trust(self) -> Trust:
        """The rule that `load_bundle` takes."""
        return Trust(tuple(parse_public_key(text) for text in self.trusted_keys), self.allow_unsigned)


@dataclass(frozen=True)
class DecisionConfig:
    """Overrides of the bundle's decision parameters. Empty is right: they were fitted together with the model."""

    plane_threshold: float | None = _number(None, 0, 1, "probability")
    ood_threshold: float | None = _number(None, 0, 1e6, "distance")
    flag_threshold: float | None = _number(None, 0.1, 1000, "evidence")
    gap_s: float | None = _number(None, 0.5, 3600, "seconds")
    menu_s: float | None = _number(None, 0.1, 3600, "seconds")

    def apply(self, params: DecisionParams) -> DecisionParams:
        """The bundle's parameters with those overridden that were given."""
        given = {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
        return dataclasses.replace(params, **given)


@dataclass(frozen=True)
class EventsConfig:
    """Where flags are kept and for how long. Confirmed and pinned events are never removed."""

    dir: str = _text("/var/lib/hygroma", "a directory that the daemon may write")
    retention_days: int = _whole(365, 1, 3650, "days")
    max_mb: int = _whole(2048, 16, 1_000_000, "megabytes")
    min_free_mb: int = _whole(512, 0, 1_000_000, "megabytes")


@dataclass(frozen=True)
class StatusConfig:
    """The local page. Beyond loopback it wants a token, which lives in a file of its own and never in this one."""

    enabled: bool = _flag(True)
    host: str = _text("127.0.0.1", "an IP address of this machine, usually 127.0.0.1", max_chars=64)
    port: int = _whole(8600, 0, 65535, "port; 0 takes a free one")
    token_file: str = _text("", "a file holding a token of at least 16 characters; empty on loopback")


@dataclass(frozen=True)
class Config:
    """All of it. `Config()` is the default; `load_config(path)` reads a file."""

    source: SourceConfig = field(default_factory=SourceConfig)
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    bundle: BundleConfig = field(default_factory=BundleConfig)
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    events: EventsConfig = field(default_factory=EventsConfig)
    status: StatusConfig = field(default_factory=StatusConfig)


def load_config(path: str | Path) -> Config:
    """Read and check a YAML file. ConfigError for anything that is not exactly a configuration."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration ({error.strerror}); start from {EXAMPLE}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: {len(raw)} bytes is no configuration; at most {MAX_BYTES} are read")
    try:
        # ValueError: PyYAML lets an impossible date such as 2001-99-99 through as one. RecursionError: deep nesting.
        data = yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    return parse_config(data, str(path))


def parse_config(data: Any, where: str) -> Config:
    """Plain data (None, or nested dicts) -> Config. `where` names its origin in messages. ConfigError as
    `load_config`."""
    sections = {item.name: item for item in dataclasses.fields(Config)}
    built = {}
    for name, content in _mapping(data, where, "the file").items():
        if name not in sections:
            raise ConfigError(f"{where}: {name}: unknown section{_did_you_mean(name, sections)}")
        built[name] = _section(type(getattr(_DEFAULTS, name)), content, where, name)
    return Config(**built)


def _section(kind: type, content: Any, where: str, name: str) -> Any:
    rules = {item.name: item.metadata["rule"] for item in dataclasses.fields(kind)}
    values = _mapping(content, where, name)
    for key, value in values.items():
        if key not in rules:
            raise ConfigError(f"{where}: {name}.{key}: unknown key{_did_you_mean(key, rules)}")
        rule: _Rule = rules[key]
        if not rule.allows(value):
            raise ConfigError(f"{where}: {name}.{key}: found {_shown(value)}, must be {rule.expected}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _mapping(content: Any, where: str, what: str) -> dict[str, Any]:
    if content is None:  # an empty file, or a section whose keys are all commented out
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: {what}: found {_shown(content)}, must be keys and values, as in {EXAMPLE}")
    return {str(key): value for key, value in content.items()}


def _shown(value: Any) -> str:
    text = repr(value)
    return (text if len(text) <= 80 else text[:77] + "...") + f" ({type(value).__name__})"


def _did_you_mean(found: str, known: dict[str, Any]) -> str:
    close = difflib.get_close_matches(found, known, n=1)
    return f"; did you mean {close[0]}?" if close else "; known here: " + ", ".join(known)


_DEFAULTS = Config()
