"""The daemon's configuration: one frozen dataclass per concern, loaded from YAML, wrong in no way once loaded.

Every field carries its own rule (bounds), so that the loader, the error message and `config.example.yaml` cannot
disagree about what is allowed. A problem names the file, the full key path, the value found, and what would be right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.bundle.keys import KEY_FORM, is_key_text, parse_public_key
from edge.bundle.trust import Trust
from edge.decision.params import BOUNDS, DecisionParams
from edge.engines.runtimes import AUTO, RUNTIMES
from edge.errors import BundleError, ConfigError, HygromaError
from edge.schema import Decoder, Rule, T, did_you_mean, rule, shown
from edge.yaml_file import parse_yaml

EXAMPLE = Path(__file__).with_name("config.example.yaml")
MAX_BYTES = 256 * 1024  # bytes; a hundred times the example: anything larger is not a configuration


def _number(default: float | None, low: float, high: float, unit: str, kind: str = "a number") -> Any:
    expected = f"{kind} from {low:g} to {high:g} ({unit})" + (", or leave the key out" if default is None else "")
    return field(default=default, metadata=rule(low=low, high=high, expected=expected))


def _whole(default: int, low: int, high: int, unit: str) -> Any:
    return _number(default, low, high, unit, "a whole number")


def _override(name: str, unit: str) -> Any:
    """A key that may change one of the bundle's decision parameters."""
    return _number(None, *BOUNDS[name], unit)


def _text(default: str, expected: str, max_chars: int = 1024) -> Any:
    return field(default=default, metadata=rule(high=max_chars, allows=str.isprintable, expected=expected))


def _choice(default: str, *options: str) -> Any:
    return field(default=default, metadata=rule(choices=options, expected="one of " + ", ".join(options)))


def _keys(most: int) -> Any:
    expected = f"a list of at most {most} public keys, each {KEY_FORM}"
    return field(default=(), metadata=rule(high=most, allows=is_key_text, expected=expected))


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
    grey: bool = False
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
    runtime: str = _choice(AUTO, AUTO, *RUNTIMES)
    threads: int = _whole(1, 1, 64, "threads")
    cache: str = _text("", "a directory of TensorRT engines; empty for the service's own, or the user's")


@dataclass(frozen=True)
class BundleConfig:
    """Whose bundles run, and where updates are kept. The bundle that came with hygroma is trusted by its hash."""

    trusted_keys: tuple[str, ...] = _keys(16)
    allow_unsigned: bool = False
    dir: str = _text("", "a directory that the daemon may write; empty for `bundles` in events.dir")
    ready_s: float = _number(60.0, 1, 3600, "seconds")

    def trust(self) -> Trust:
        """The rule that `load_bundle` takes."""
        return Trust(tuple(parse_public_key(text) for text in self.trusted_keys), self.allow_unsigned)


@dataclass(frozen=True)
class DecisionConfig:
    """Overrides of the bundle's decision parameters. Empty is right: they were fitted together with the model."""

    plane_threshold: float | None = _override("plane_threshold", "probability")
    ood_threshold: float | None = _override("ood_threshold", "distance")
    flag_threshold: float | None = _override("flag_threshold", "evidence")
    gap_s: float | None = _override("gap_s", "seconds")
    menu_s: float | None = _override("menu_s", "seconds")

    def apply(self, params: DecisionParams) -> DecisionParams:
        """The bundle's parameters with those overridden that were given."""
        try:
            return dataclasses.replace(params, **self.given())
        except BundleError as error:
            raise ConfigError(f"{error}; leave {', '.join(self.given())} out of the configuration's `decision`") from None

    def overrides(self, params: DecisionParams) -> tuple[str, ...]:
        """What differs from the bundle's parameters, in words: no figure of the bundle's card holds for it."""
        return tuple(
            f"{key} {value!r} instead of {getattr(params, key)!r}"
            for key, value in self.given().items()
            if value != getattr(params, key)
        )

    def given(self) -> dict[str, float]:
        """The overrides, by key."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


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

    enabled: bool = True
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

    def but(self, **sections: dict[str, Any]) -> Config:
        """It with some keys changed: `config.but(status={"enabled": False})`."""
        changed = {name: dataclasses.replace(getattr(self, name), **keys) for name, keys in sections.items()}
        return dataclasses.replace(self, **changed)


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
        return parse_config(parse_yaml(raw), str(path))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_config(data: Any, where: str) -> Config:
    """Plain data (None, or nested dicts) -> Config. `where` names its origin in messages. ConfigError as
    `load_config`."""
    return _Decoder(where, ConfigError).dataclass(Config, data)


class _Decoder(Decoder):
    whole, mapping = "the file", f"keys and values, as in {EXAMPLE}"

    def dataclass(self, kind: type[T], value: object, path: str = "") -> T:
        return super().dataclass(kind, {} if value is None else value, path)  # empty, or every key is commented out

    def wrong(self, path: str, found: object, what: str, limits: Rule) -> HygromaError:
        must = f"must be {limits.expected or what}"
        return self.error(f"{self.file}: {path or self.whole}: found {shown(found)} ({type(found).__name__}), {must}")

    def unknown(self, path: str, found: object, known: Iterable[str]) -> HygromaError:
        close = did_you_mean(path.rpartition(".")[2], known)
        hint = f"did you mean {close}?" if close else f"known here: {', '.join(known)}"
        return self.error(f"{self.file}: {path}: unknown {'key' if '.' in path else 'section'}; {hint}")
