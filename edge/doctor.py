"""What could keep this machine from watching, and what to do about it. Every check is read-only but for one test file.

Nothing beyond Python itself is imported before a check wants it: a package that is missing is then a finding.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import HygromaError
from edge.hardware import THROTTLE_C, is_jetson, power_mode, temperatures, usable_cores

if TYPE_CHECKING:
    from edge.config import Config

CLOCK_FLOOR = 1_750_000_000  # seconds since 1970, June 2025: an earlier clock was never set
FRAME_BUDGET_MS = 33.0  # a 30 fps source
REINSTALL = "install the package again, from its folder: pip install ."
PROBES = 20  # inferences timed; enough for a median


@dataclass(frozen=True)
class Finding:
    """`level` is "ok", "warn" or "fail"; `fix` says what to do ("" when ok)."""

    check: str
    level: str
    found: str
    fix: str = ""


def examine(load: Callable[[], Config]) -> Iterator[Finding]:
    """Every check, in order, as it finishes. A check that breaks is itself a finding, and so is a configuration that
    `load` cannot give: what depends on it is then left out."""
    for check in (_python, _packages, _clock, _thermal, _power):
        yield _guarded(check.__name__, check)
    loaded: list[Config] = []
    yield _guarded("config", lambda: _config(load, loaded))
    for config in loaded:
        for of_config in (_bundle, _engine, _source, _events, _status, _cores):
            yield _guarded(of_config.__name__, partial(of_config, config))


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except HygromaError as error:
        return Finding(name.strip("_"), "fail", str(error), "see the message")
    except ImportError as error:
        return Finding(name.strip("_"), "fail", str(error), REINSTALL)
    except Exception as error:  # whatever breaks, the other checks still tell
        return Finding(
            name.strip("_"), "fail", f"{type(error).__name__}: {error}", "this check broke: please report it"
        )


def _config(load: Callable[[], Config], loaded: list[Config]) -> Finding:
    loaded.append(load())
    return Finding("config", "ok", "every key is known and in range")


def _python() -> Finding:
    found = f"Python {platform.python_version()} on {platform.machine()}"
    return Finding("python", "ok", found)


def _packages() -> Finding:
    versions = []
    for name in ("numpy", "cv2", "onnxruntime", "yaml", "pydicom", "cryptography"):
        try:
            versions.append(f"{name} {importlib.import_module(name).__version__}")
        except ImportError as error:
            return Finding("packages", "fail", str(error), REINSTALL)
    return Finding("packages", "ok", ", ".join(versions))


def _bundle(config: Config) -> Finding:
    import numpy as np

    from edge.bundle.trust import words_for
    from edge.update.slots import Slots, bundle_path, bundles_folder
    from edge.update.trial import load_state
    from edge.watching import open_scorer

    with open_scorer(bundle_path(config), config) as scorer:
        size = scorer.manifest.input.size
        crop = np.zeros((size, size), np.uint8)
        times = sorted(scorer.score(crop).ms for _ in range(PROBES))
    median = times[PROBES // 2]
    found = f"{scorer.label}, {words_for(scorer.signed_by)}, on {scorer.runner_name}: self-test passed, "
    found += f"{median:.1f} ms a frame (median of {PROBES})"
    if config.bundle.allow_unsigned:
        fix = "list the signer's key in bundle.trusted_keys and set bundle.allow_unsigned: false"
        return Finding("bundle", "warn", found + "; unsigned bundles are allowed", fix)
    if not config.engine.bundle and (last := load_state(Slots(bundles_folder(config))).last) is not None:
        text = f"{found}; bundle {last.slot} was rolled back on {last.t_wall[:10]}: {last.reason}"
        return Finding("bundle", "warn", text, "install one that works: `hygroma update`")
    if scorer.manifest.gate.accepted_failing:
        return Finding(
            "bundle",
            "warn",
            found + "; its conversion FAILED its gate and was accepted by hand",
            "use a bundle that passed",
        )
    if median > FRAME_BUDGET_MS:
        return Finding(
            "bundle",
            "warn",
            found,
            f"slower than {FRAME_BUDGET_MS:.0f} ms: frames will be dropped; try engine.threads: 2",
        )
    return Finding("bundle", "ok", found)


def _engine(config: Config) -> Finding:
    from edge.bundle import load_bundle
    from edge.engines.health import engine_state
    from edge.update.slots import bundle_path

    bundle = load_bundle(bundle_path(config), config.bundle.trust())
    level, found, fix = engine_state(bundle, config.engine.runtime, config.engine.cache)
    return Finding("engine", level, found, fix)


def _source(config: Config) -> Finding:
    from edge.capture.uri import parse_uri

    if not config.source.uri:
        cameras = sorted(str(p) for p in Path("/dev/v4l/by-id").glob("*")) if Path("/dev/v4l/by-id").is_dir() else []
        if cameras:
            return Finding(
                "source", "warn", f"none configured; cameras here: {', '.join(cameras)}", "set source.uri to v4l2:PATH"
            )
        return Finding(
            "source",
            "warn",
            "none configured, and no camera under /dev/v4l/by-id",
            "plug in the grabber, set source.uri",
        )
    parsed = parse_uri(config.source.uri)
    if parsed.scheme == "v4l2":
        if not Path(parsed.target).exists():
            return Finding(
                "source",
                "fail",
                f"{parsed.name}: no such device",
                "plug in the grabber; `ls /dev/v4l/by-id` lists them",
            )
        if not os.access(parsed.target, os.R_OK | os.W_OK):
            return Finding("source", "fail", f"{parsed.name}: no permission", "add this user to the group `video`")
    if parsed.scheme == "file" and not Path(parsed.target).is_file():
        return Finding("source", "fail", f"{parsed.name}: no such file", "correct source.uri")
    return Finding("source", "ok", parsed.name)


def _events(config: Config) -> Finding:
    from edge.events.disk import why_unwritable

    folder = Path(config.events.dir)
    problem = why_unwritable(folder)
    if not problem and folder.is_dir():
        try:
            with tempfile.NamedTemporaryFile(dir=folder):
                pass
        except OSError as error:
            problem = f"{folder}: {error.strerror}"
    if problem:
        return Finding("events", "fail", problem, "set events.dir to a folder that this user may write")
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    free_mb = shutil.disk_usage(there).free // 2**20
    if free_mb < config.events.min_free_mb:
        return Finding(
            "events", "fail", f"{folder}: {free_mb} MB free", f"free at least {config.events.min_free_mb} MB"
        )
    state = "writable" if there == folder.absolute() else "will be made"
    return Finding("events", "ok", f"{folder}: {state}, {free_mb} MB free")


def _status(config: Config) -> Finding:
    from edge.status.server import check_host, is_hygroma, port_problem, read_token

    if not config.status.enabled:
        return Finding("status", "ok", "switched off")
    host, port = config.status.host, config.status.port
    check_host(host, read_token(config.status.token_file))
    problem = port_problem(host, port)
    if not problem:
        return Finding("status", "ok", f"{host} port {port or 'any'}: free")
    if is_hygroma(host, port):
        return Finding(
            "status", "ok", f"{host} port {port}: a running hygroma has it; another instance needs another port"
        )
    return Finding("status", "fail", f"{host} port {port}: {problem}", "set status.port to a free one")


def _clock() -> Finding:
    now = time.time()
    text = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < CLOCK_FLOOR:
        return Finding(
            "clock", "warn", text, "the clock was never set: events will carry wrong dates (flags still work)"
        )
    return Finding("clock", "ok", text)


def _cores(config: Config) -> Finding:
    cores = usable_cores()
    if config.engine.threads > cores:
        return Finding(
            "cores",
            "warn",
            f"{cores} cores, engine.threads is {config.engine.threads}",
            f"set engine.threads to at most {cores}",
        )
    return Finding("cores", "ok", f"{cores} cores, {config.engine.threads} for the engine")


def _thermal() -> Finding:
    zones = temperatures()
    if not zones:
        return Finding("thermal", "ok", "no temperature sensor to read")
    name, hottest = max(zones.items(), key=lambda zone: zone[1])
    found = f"{hottest:.0f} degrees C ({name})"
    if hottest > THROTTLE_C:
        return Finding("thermal", "warn", found, "clear the vents; the module throttles soon")
    return Finding("thermal", "ok", found)


def _power() -> Finding:
    if not is_jetson():
        return Finding("power", "ok", "no Jetson: no power modes")
    mode = power_mode()
    if mode is None:
        return Finding("power", "warn", "the power mode cannot be read", "run `sudo nvpmodel -q`")
    found = f"mode {mode.number}{f', {mode.name}' if mode.name else ''}"
    faster = [name for name in mode.others if name.startswith("MAXN")]
    if faster and not mode.name.startswith("MAXN"):
        fix = f"if frames are dropped and the supply allows it, choose {faster[0]} with `sudo nvpmodel -m`"
        return Finding("power", "ok", f"{found}; {fix}")
    return Finding("power", "ok", found)
