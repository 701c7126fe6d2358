"""Built engines on disk. Each is a folder named by its key's digest, written whole or not at all, verified before it is used.

An engine is executable code: its SHA-256 is checked before TensorRT sees it, and the cache must not be writable by
everyone. A damaged entry is set aside under `quarantine/`, for a person to look at, and counts as missing.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.engines.tensorrt.key import EngineKey, Platform, sha256
from edge.engines.tensorrt.layers import LayerSummary
from edge.errors import EngineError
from edge.home import home
from edge.schema import Decoder, encode, rule

log = logging.getLogger(__name__)

PLAN_FILE, ENTRY_FILE, LAYERS_FILE, SUMS_FILE = "engine.plan", "entry.json", "layers.json", "SHA256SUMS"
QUARANTINE = "quarantine"
SYSTEM_CACHE = Path("/var/cache/hygroma")  # the service's CacheDirectory
PARTIAL_S = 3600.0  # seconds; a younger partial entry may still be written
MAX_PLAN_BYTES = 2 * 2**30  # bytes; the ViT-B/16 teacher in FP32 is 0.35 GB


@dataclass(frozen=True)
class Entry:
    """What is known about a built engine. `built_s` seconds since 1970; `took_s` seconds; `layers` None when it was not
    inspected."""

    key: EngineKey
    bundle: str = field(metadata=rule(low=0, high=300))
    built_s: float
    took_s: float
    bytes: int
    layers: LayerSummary | None


@dataclass(frozen=True)
class Stored:
    """An entry with its verified plan."""

    entry: Entry
    plan: bytes = field(repr=False)


@dataclass(frozen=True)
class Pruned:
    """Names of what `prune` removed and kept, and the bytes that were freed."""

    removed: tuple[str, ...]
    kept: tuple[str, ...]
    freed: int


def default_folder() -> Path:
    """$CACHE_DIRECTORY (a service's), /var/cache/hygroma for root, else $XDG_CACHE_HOME/hygroma or ~/.cache/hygroma; in
    it, `engines`."""
    if given := os.environ.get("CACHE_DIRECTORY"):
        return Path(given.split(":")[0]) / "engines"
    if os.geteuid() == 0:
        return SYSTEM_CACHE / "engines"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else home("engine.cache") / ".cache") / "hygroma" / "engines"


class EngineCache:
    """Reads and writes the folder `root`, which is made when something is first stored."""

    def __init__(self, root: str | Path | None = None):
        """root: None for `default_folder()`. EngineError for what is no folder, cannot be looked at, or could be written by
        everyone."""
        self.root = Path(root) if root else default_folder()
        try:
            mode = self.root.stat().st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            raise EngineError(
                f"{self.root}: cannot be looked at ({error.strerror}); name a folder for engines with --cache, or engine.cache"
            ) from None
        if not stat.S_ISDIR(mode):
            raise EngineError(f"{self.root}: is a file; name a folder for engines with --cache, or engine.cache")
        if stat.S_IMODE(mode) & stat.S_IWOTH:
            raise EngineError(
                f"{self.root}: every user may write here, and engines are code: `chmod o-w` it, or name a folder of your own"
            )

    def require_writable(self) -> None:
        """EngineError when nothing can be stored here: to be asked before minutes of building."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o755)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise EngineError(
                f"{self.root}: cannot be written ({error.strerror}); name another with --cache"
            ) from error

    def get(self, key: EngineKey) -> Stored | None:
        """The verified engine for exactly this key, or None. A damaged entry is quarantined, with a log line."""
        folder = self.root / key.digest
        if not folder.is_dir():
            return None
        try:
            entry, files = self._read(folder)
            if entry.key != key:
                raise EngineError(f"{folder}/{ENTRY_FILE}: is of another key")
        except (EngineError, OSError) as error:
            self._quarantine(folder, str(error))
            return None
        return Stored(entry, files[PLAN_FILE])

    def set_aside(self, key: EngineKey, why: str) -> None:
        """Quarantine an engine that does not compute what was validated, so that nobody takes it for the newest."""
        self._quarantine(self.root / key.digest, why)

    def put(self, entry: Entry, plan: bytes, layers: str) -> None:
        """Store an engine in place of what was there. layers: the inspector's JSON ("" for none). EngineError when the
        disk refuses."""
        files = {
            PLAN_FILE: plan,
            ENTRY_FILE: (json.dumps(encode(entry), indent=1) + "\n").encode(),
            LAYERS_FILE: layers.encode(),
        }
        files[SUMS_FILE] = "".join(f"{sha256(data)}  {name}\n" for name, data in files.items()).encode()
        final = self.root / entry.key.digest
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o755)
            partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.root))
            try:
                for name, data in files.items():
                    _write_synced(partial / name, data)
                partial.chmod(0o755)  # the daemon is another user than the one who built
                _sync_folder(partial)
                if final.exists():  # a folder cannot be renamed onto another
                    old = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.root))
                    final.rename(old / "old")
                    partial.rename(final)
                    shutil.rmtree(old)
                else:
                    partial.rename(final)
                _sync_folder(self.root)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        except OSError as error:
            raise EngineError(
                f"{self.root}: cannot store the engine ({error.strerror}); name another with --cache"
            ) from error

    def entries(self) -> list[Entry]:
        """Every entry whose files verify, newest first. Damaged ones are quarantined."""
        found = []
        for folder in self._folders():
            try:
                found.append(self._read(folder)[0])
            except (EngineError, OSError) as error:
                self._quarantine(folder, str(error))
        return sorted(found, key=lambda entry: -entry.built_s)

    def prune(self, platform: Platform, onnx_sha256: str) -> Pruned:
        """Keep the newest engine of each precision that the daemon may take on this machine for this graph, and those that passed
        the latest race, with what was validated of them and of the graph; remove every other engine, race result, validation,
        timing cache, leftover and quarantined entry. EngineError for what cannot be removed."""
        keep: set[str] = set()
        records = [record_prefix(onnx_sha256)]
        seen: set[str] = set()
        timing = f"timing-{platform_digest(platform)}"
        for entry in self.entries():
            if entry.key.platform != platform or entry.key.onnx_sha256 != onnx_sha256:
                continue
            raced = entry.key.digest in by_speed(self.read_json(f"race-{entry.key.scope}.json") or {})
            newest = entry.key.daemons and entry.key.precision not in seen
            if newest or raced:
                keep |= {entry.key.digest, f"race-{entry.key.scope}.json", timing}
                if stored := self.get(entry.key):
                    records.append(record_prefix(sha256(stored.plan)))
            if newest:
                seen.add(entry.key.precision)
        removed, kept, freed = [], [], 0
        for path in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if path.name in keep or path.name.startswith(tuple(records)) or _in_work(path):
                kept.append(path.name)
                continue
            size = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
            try:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise EngineError(
                    f"{path}: cannot be removed ({error.strerror}); prune as the user who built the engines"
                ) from error
            freed += size
            removed.append(path.name)
        return Pruned(tuple(removed), tuple(kept), freed)

    def write_json(self, name: str, value: Mapping[str, Any]) -> Path:
        """Write `value` to the file `name` beside the engines, at once. EngineError when the disk refuses."""
        self._write(name, (json.dumps(value, indent=1) + "\n").encode())
        return self.root / name

    def read_json(self, name: str) -> dict[str, Any] | None:
        """An object written by `write_json`, or None when there is none or it is damaged."""
        try:
            value = json.loads((self.root / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def timing(self, platform: Platform) -> bytes:
        """The tactic timings of earlier builds on this machine, b"" for none or damaged ones."""
        try:
            raw = (self.root / f"timing-{platform_digest(platform)}").read_bytes()
        except OSError:
            return b""
        digest, _, data = raw.partition(b"\n")
        if sha256(data).encode() != digest:
            log.warning("%s: the timing cache is damaged; building without it", self.root)
            return b""
        return data

    def put_timing(self, platform: Platform, data: bytes) -> None:
        self._write(f"timing-{platform_digest(platform)}", sha256(data).encode() + b"\n" + data)

    def _write(self, name: str, data: bytes) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o755)
            partial = self.root / f".partial-{os.getpid()}-{name}"
            _write_synced(partial, data)
            partial.rename(self.root / name)
            _sync_folder(self.root)
        except OSError as error:
            raise EngineError(
                f"{self.root}/{name}: cannot be written ({error.strerror}); name another with --cache"
            ) from error

    def _folders(self) -> Iterator[Path]:
        if self.root.is_dir():
            for path in sorted(self.root.iterdir()):
                if path.is_dir() and path.name != QUARANTINE and not path.name.startswith("."):
                    yield path

    def _read(self, folder: Path) -> tuple[Entry, dict[str, bytes]]:
        """EngineError or OSError for anything but the files that `put` wrote."""
        sums: dict[str, str] = {}
        for line in _read_file(folder / SUMS_FILE).decode("ascii", "replace").splitlines():
            digest, _, name = line.partition("  ")
            sums[name] = digest
        files = {}
        for name in (PLAN_FILE, ENTRY_FILE, LAYERS_FILE):
            files[name] = _read_file(folder / name)
            if sha256(files[name]) != sums.get(name):
                raise EngineError(f"{folder}/{name}: SHA-256 differs from {SUMS_FILE}")
        decoder = Decoder(str(folder / ENTRY_FILE), EngineError)
        entry = decoder.dataclass(Entry, decoder.parse(files[ENTRY_FILE], "the file is damaged"))
        if entry.key.digest != folder.name:
            raise EngineError(f"{folder}/{ENTRY_FILE}: its key is that of {entry.key.digest}")
        return entry, files

    def _quarantine(self, folder: Path, why: str) -> None:
        aside = self.root / QUARANTINE / f"{folder.name}-{time.time_ns()}"
        try:
            aside.parent.mkdir(exist_ok=True)
            folder.rename(aside)
            log.error("engine cache: %s; set aside as %s: build it again with `hygroma engine race`", why, aside)
        except OSError as error:  # the daemon may only read here
            log.error("engine cache: %s; not used (and not set aside: %s)", why, error.strerror)


def record_prefix(sha256: str) -> str:
    """How the names of the files begin that hold what was validated (edge/engines/validated.py) of the plan or graph with this
    SHA-256."""
    return f"validated-{sha256[:24]}-"


def candidates_of(raced: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What took part in a race, of its result; of one that someone changed, what can be read of it."""
    found = raced.get("candidates")
    return [candidate for candidate in found if isinstance(candidate, dict)] if isinstance(found, list) else []


def by_speed(raced: Mapping[str, Any]) -> list[str]:
    """A race's result (race.py) -> digests of the candidates that passed, the winner first; none where nobody won.
    Of a result that someone changed, what can be read of it."""
    times = [
        (c["device_p50_ms"], c["digest"])
        for c in candidates_of(raced)
        if c.get("passed")
        and isinstance(c.get("digest"), str)
        and isinstance(c.get("device_p50_ms"), (int, float))
    ]
    winner = raced.get("winner")
    if not isinstance(winner, str) or not winner:
        return []
    return [winner, *(digest for _, digest in sorted(times) if digest != winner)]


def platform_digest(platform: Platform) -> str:
    """12 hex digits."""
    return sha256(repr(platform).encode())[:12]


def _in_work(path: Path) -> bool:
    """Whether a build may still be writing this."""
    return path.name.startswith(".partial-") and time.time() - path.stat().st_mtime < PARTIAL_S


def _read_file(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as handle:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_PLAN_BYTES:
            raise EngineError(f"{path}: not a regular file of at most {MAX_PLAN_BYTES} bytes")
        return handle.read()


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    path.chmod(0o644)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
