"""What could keep this machine from watching, and what to do about it. Every check is read-only but for one test file.

Nothing beyond Python itself is imported before a check wants it: a package that is missing is then a finding. What is asked of
the machine goes through one `System`, so that tests can make up another.
"""

from __future__ import annotations

import grp
import importlib
import os
import platform
import pwd
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edge.clock import kernel_is_synchronised
from edge.errors import BundleError, HygromaError
from edge.hardware import THROTTLE_C, VNNI, cpu_flags, is_jetson, power_mode, temperatures, usable_cores

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.config import Config

CLOCK_FLOOR = 1_750_000_000  # seconds since 1970, June 2025: an earlier clock was never set
FRAME_BUDGET_MS = 33.0  # a 30 fps source
REINSTALL = "install the package again, from its folder: pip install ."
PROBES = 20  # inferences timed; enough for a median
CONNECT_S = 2.0  # seconds that a stream's server may take to answer: more than any on the same network does
RTSP_PORTS = {"rtsp": 554, "rtsps": 322}
OTHER_BUNDLE = "take one that works: `hygroma update FILE.tar`, --bundle or engine.bundle"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a user of a container has no name
        return str(os.geteuid())


def _answers(host: str, port: int) -> str:
    """Why nobody answers there; "" when somebody does."""
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _engine_state(bundle: Bundle, runtime: str, cache: str) -> tuple[str, str, str]:
    from edge.engines.health import engine_state

    return engine_state(bundle, runtime, cache)


def _free_files(folder: Path) -> int:
    from edge.events.disk import Disk

    return Disk().free_files(folder)


@dataclass(frozen=True)
class System:
    """The machine as the doctor sees it. `root`: where /dev, /etc, /sys and /var begin."""

    root: Path = Path("/")
    now: Callable[[], float] = time.time  # seconds since 1970
    may_use: Callable[[Path], bool] = lambda device: os.access(device, os.R_OK | os.W_OK)
    user: Callable[[], str] = _user
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
    free_files: Callable[[Path], int] = _free_files
    answers: Callable[[str, int], str] = _answers
    cores: Callable[[], int] = usable_cores
    machine: Callable[[], str] = platform.machine
    engine_state: Callable[[Bundle, str, str], tuple[str, str, str]] = _engine_state

    def path(self, name: str | Path) -> Path:
        """An absolute path under `root`; any other as it is."""
        return self.root / Path(name).relative_to("/") if Path(name).is_absolute() else Path(name)


@dataclass(frozen=True)
class Finding:
    """`level` is "ok", "warn" or "fail"; `fix` says what to do, always when it is not ok."""

    check: str
    level: str
    found: str
    fix: str = ""


def examine(load: Callable[[], Config], system: System | None = None) -> Iterator[Finding]:
    """Every check, in order, as it finishes. A check that breaks is itself a finding, and so is a configuration that
    `load` cannot give: what depends on it is then left out."""
    system = system or System()
    for check in (_python, _processor, _packages, _clock, _thermal, _power):
        yield _guarded(check.__name__, partial(check, system))
    loaded: list[Config] = []
    yield _guarded("config", lambda: _config(load, loaded))
    for config in loaded:
        for of_config in (_bundle, _engine, _source, _events, _status, _cores):
            yield _guarded(of_config.__name__, partial(of_config, system, config))


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except BundleError as error:
        return Finding(name.strip("_"), "fail", str(error), OTHER_BUNDLE)
    except HygromaError as error:  # such a message ends with what to do
        return Finding(name.strip("_"), "fail", str(error), "do what the message says, then ask again")
    except ImportError as error:
        return Finding(name.strip("_"), "fail", str(error), REINSTALL)
    except Exception as error:  # whatever breaks, the other checks still tell
        return Finding(
            name.strip("_"), "fail", f"{type(error).__name__}: {error}", "this check broke: please report it"
        )


def _config(load: Callable[[], Config], loaded: list[Config]) -> Finding:
    loaded.append(load())
    return Finding("config", "ok", "every key is known and in range")


def _python(system: System) -> Finding:
    found = f"Python {platform.python_version()} on {platform.machine()}"
    return Finding("python", "ok", found)


def _processor(system: System) -> Finding:
    """What INT8 means on this kind of processor. Figures: docs/performance.md."""
    flags, machine = cpu_flags(system.path("/proc/cpuinfo")), system.machine()
    if machine in ("x86_64", "AMD64"):
        if found := sorted(flags & VNNI):
            return Finding("processor", "ok", f"x86-64 with {', '.join(found)}: INT8 products are exact and fastest")
        if "avx2" in flags:
            exact = "ONNX Runtime's INT8 products are exact by another kernel, and take .75 of float's time, not .4"
            return Finding("processor", "ok", f"x86-64 with AVX2, without VNNI: {exact}; OpenVINO computes in float32 here")
        unknown = "x86-64 without AVX2" if flags else "x86-64, and /proc/cpuinfo does not say what it can do"
        fix = "watch with it only if the bundle's finding says less than 33 ms a frame; AVX2 or newer was tried, nothing older"
        return Finding("processor", "warn", unknown, fix)
    if machine == "aarch64":
        if "asimddp" in flags:
            return Finding("processor", "ok", "aarch64 with asimddp: INT8 products are exact")
        return Finding("processor", "ok", "aarch64 without asimddp: INT8 products are exact, and slower than they could be")
    return Finding("processor", "warn", f"{machine}: never tried", "use x86-64 with AVX2, or aarch64")


def _packages(system: System) -> Finding:
    versions = []
    for name in ("numpy", "cv2", "onnxruntime", "yaml", "pydicom", "cryptography"):
        try:
            versions.append(f"{name} {importlib.import_module(name).__version__}")
        except ImportError as error:
            return Finding("packages", "fail", str(error), REINSTALL)
    return Finding("packages", "ok", ", ".join(versions))


def _bundle(system: System, config: Config) -> Finding:
    import numpy as np

    from edge.bundle.trust import words_for
    from edge.decision.params import DecisionParams
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
    if scorer.manifest.gate.accepted_failing:  # first: such a bundle tends to be unsigned too
        return Finding(
            "bundle",
            "warn",
            f"{found}; its conversion FAILED its gate and was accepted by hand: {'; '.join(scorer.manifest.gate.reasons)}",
            "use a bundle that passed: `hygroma update FILE.tar`",
        )
    if config.decision.given():
        overrides = config.decision.overrides(DecisionParams.from_manifest(scorer.manifest))
        text = f"{found}; the configuration overrides its decision: {', '.join(overrides) or 'to what it was'}"
        return Finding("bundle", "warn", text, "leave `decision` out of the configuration: no figure of the card holds for it")
    if lacking := scorer.manifest.heads.lacking:
        fix = "label planes, or draw nuchal boxes, in the data set and export again; or name a `given` bundle in the recipe"
        return Finding("bundle", "warn", f"{found}; {'; '.join(lacking)}", fix)
    if config.bundle.allow_unsigned:
        fix = "list the signer's key in bundle.trusted_keys and set bundle.allow_unsigned: false"
        return Finding("bundle", "warn", found + "; unsigned bundles are allowed", fix)
    if not config.engine.bundle and (last := load_state(Slots(bundles_folder(config))).last) is not None:
        text = f"{found}; bundle {last.slot} was rolled back on {last.t_wall[:10]}: {last.reason}"
        if not last.by_hand:
            return Finding("bundle", "warn", text, "install one that works: `hygroma update`")
        found = text
    if median > FRAME_BUDGET_MS:
        return Finding(
            "bundle",
            "warn",
            found,
            f"slower than {FRAME_BUDGET_MS:.0f} ms: frames will be dropped; try engine.threads: 2",
        )
    return Finding("bundle", "ok", found)


def _engine(system: System, config: Config) -> Finding:
    from edge.bundle import load_bundle
    from edge.update.slots import bundle_path

    bundle = load_bundle(bundle_path(config), config.bundle.trust())
    return Finding("engine", *system.engine_state(bundle, config.engine.runtime, config.engine.cache))


def _source(system: System, config: Config) -> Finding:
    from edge.capture.build import SCHEMES, feed_for, open_source, parse_uri

    cameras = sorted(f"/dev/v4l/by-id/{link.name}" for link in system.path("/dev/v4l/by-id").glob("*"))
    if not config.source.uri:
        if cameras:
            fix = f"set source.uri to v4l2:{cameras[0]}"
            return Finding("source", "warn", f"none configured; cameras here: {', '.join(cameras)}", fix)
        what, fix = "none configured, and no camera under /dev/v4l/by-id", "plug in the grabber, then set source.uri"
        return Finding("source", "warn", what, fix)
    parsed = parse_uri(config.source.uri)
    scheme = SCHEMES[parsed.scheme]
    scheme.needs()
    if scheme.open is not None and not scheme.live:
        with feed_for(open_source(config.source.uri, config.capture, fast=True), config.capture) as feed:
            feed.next(0)  # raises what the daemon would
            return Finding("source", "ok", f"{parsed.name}: {feed.stats().format}")
    behind = scheme.behind(parsed)
    if "://" in behind:
        return _stream(system, parsed.name, behind)
    if behind:
        return _camera(system, parsed.name, system.path(behind), cameras)
    return Finding("source", "ok", parsed.name)


def _camera(system: System, name: str, device: Path, cameras: list[str]) -> Finding:
    try:
        found = device.stat()
    except FileNotFoundError:
        there = f"cameras here: {', '.join(cameras)}" if cameras else "and no other camera is here"
        fix = "check the grabber's cable; `ls /dev/v4l/by-id` lists what is there, and source.uri names one of it"
        return Finding("source", "fail", f"{name}: no such device; {there}", fix)
    if not stat.S_ISCHR(found.st_mode):
        return Finding("source", "fail", f"{name}: is no device", "name a camera: `ls /dev/v4l/by-id` lists them")
    if not system.may_use(device):
        try:
            group = grp.getgrgid(found.st_gid).gr_name
        except KeyError:
            group = str(found.st_gid)
        user = system.user()
        fix = f"`sudo usermod -aG {group} {user}`, then log in again (the service is in the group `video` by itself)"
        return Finding("source", "fail", f"{name}: {user} may not use it, the group {group} may", fix)
    return Finding("source", "ok", name)


def _stream(system: System, name: str, uri: str) -> Finding:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "", parts.port or RTSP_PORTS[parts.scheme.lower()]
    except ValueError:
        return Finding("source", "fail", f"{name}: its port is no number", "correct source.uri: rtsp://HOST[:PORT]/PATH")
    if problem := system.answers(host, port):
        fix = "check the server's address, its cable and the unit's IPAddressAllow= (docs/install.md)"
        return Finding("source", "fail", f"{name}: nobody answers at {host} port {port} ({problem})", fix)
    return Finding("source", "ok", f"{name}: {host} port {port} answers")


def _events(system: System, config: Config) -> Finding:
    from edge.events.disk import why_unwritable
    from edge.events.store import FILES_MIN

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
    today = folder / "evidence" / time.strftime("%Y-%m-%d", time.gmtime(system.now()))
    if folder.is_dir() and (problem := why_unwritable(today)):
        fix = f"sudo chown -R --reference={folder} {folder}/evidence: another user's hygroma made it"
        return Finding("events", "fail", problem, fix)
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    free_mb, wanted = system.free_bytes(there) // 2**20, config.events.min_free_mb
    if free_mb < wanted:
        fix = f"free {wanted - free_mb} MB: `hygroma events export` elsewhere and dismiss what is settled, or remove other files"
        return Finding("events", "fail", f"{folder}: {free_mb} MB free, events.min_free_mb is {wanted}", fix)
    if (files := system.free_files(there)) < FILES_MIN:
        fix = "remove small files that nobody needs: the disk has room for bytes, and for no more files"
        return Finding("events", "fail", f"{folder}: {files} more files can be made (inodes)", fix)
    state = "writable" if there == folder.absolute() else "will be made"
    return Finding("events", "ok", f"{folder}: {state}, {free_mb} MB free")


def _status(system: System, config: Config) -> Finding:
    from edge.status.server import check_host, is_hygroma, port_problem, read_token, running_problems

    if not config.status.enabled:
        return Finding("status", "ok", "switched off")
    host, port = config.status.host, config.status.port
    check_host(host, read_token(config.status.token_file))
    problem = port_problem(host, port)
    if not problem:
        return Finding("status", "ok", f"{host} port {port or 'any'}: free")
    if is_hygroma(host, port):
        if problems := running_problems(host, port):
            found = f"{host} port {port}: a running hygroma says: {'; '.join(problems)}"
            return Finding("status", "warn", found, "do what it says")
        return Finding(
            "status", "ok", f"{host} port {port}: a running hygroma has it; another instance needs another port"
        )
    return Finding("status", "fail", f"{host} port {port}: {problem}", "set status.port to a free one")


def _clock(system: System) -> Finding:
    now = system.now()
    text = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < CLOCK_FLOOR:
        fix = "`sudo timedatectl set-time 'YYYY-MM-DD HH:MM'`; flags work without, under wrong dates. Look at the clock's battery"
        return Finding("clock", "warn", f"{text}: it was never set", fix)
    known = "kept by a time service" if kernel_is_synchronised() else "no time service keeps it: events say so"
    return Finding("clock", "ok", f"{text}, {known}")


def _cores(system: System, config: Config) -> Finding:
    cores = system.cores()
    if config.engine.threads > cores:
        return Finding(
            "cores",
            "warn",
            f"{cores} cores, engine.threads is {config.engine.threads}",
            f"set engine.threads to at most {cores}",
        )
    return Finding("cores", "ok", f"{cores} cores, {config.engine.threads} for the engine")


def _thermal(system: System) -> Finding:
    zones = temperatures(system.root)
    if not zones:
        return Finding("thermal", "ok", "no temperature sensor to read")
    name, hottest = max(zones.items(), key=lambda zone: zone[1])
    found = f"{hottest:.0f} degrees C ({name})"
    if hottest > THROTTLE_C:
        return Finding("thermal", "warn", found, "clear the vents and look at the fan; the module throttles soon")
    return Finding("thermal", "ok", found)


def _power(system: System) -> Finding:
    if not is_jetson(system.root):
        return Finding("power", "ok", "no Jetson: no power modes")
    mode = power_mode(system.root)
    if mode is None:
        return Finding("power", "warn", "the power mode cannot be read", "run `sudo nvpmodel -q`")
    found = f"mode {mode.number}{f', {mode.name}' if mode.name else ''}"
    faster = [name for name in mode.others if name.startswith("MAXN")]
    if faster and not mode.name.startswith("MAXN"):
        fix = f"if frames are dropped and the supply allows it: `sudo nvpmodel -m {mode.others[faster[0]]}` is {faster[0]}"
        return Finding("power", "ok", found, fix)
    return Finding("power", "ok", found)
