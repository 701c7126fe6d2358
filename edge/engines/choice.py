"""Which runner a bundle gets: TensorRT from the cache, ONNX Runtime, or OpenVINO. Nothing is built: a daemon starts in seconds.

`auto` on a machine without TensorRT is ONNX Runtime and no news. `auto` on a machine with TensorRT but without a verified
engine is ONNX Runtime too, said in the log and counted: see `Choice.fallback`. So is another engine in the place of one that
failed on held-out images. OpenVINO is taken only when asked for.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edge.bundle.bundle import Bundle
from edge.engines.runner import Runner
from edge.engines.runtimes import AUTO, DEFAULT, PORTABLE, TENSORRT, require_heads
from edge.engines.selftest import run_selftest
from edge.engines.tensorrt.cache import EngineCache, Entry, Stored, by_speed, candidates_of
from edge.engines.tensorrt.host import Host, this_host
from edge.engines.tensorrt.key import sha256
from edge.engines.tensorrt.race import result_name
from edge.engines.tensorrt.runner import TensorRTRunner, engine_name
from edge.engines.validated import failed, record_of
from edge.errors import EngineError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """`fallback` says why another engine runs than this machine should use, "" when nothing was fallen back from."""

    runner: Runner
    fallback: str = ""


def has_tensorrt() -> bool:
    """Whether `tensorrt` is installed. It is not imported: that takes a second."""
    return importlib.util.find_spec("tensorrt") is not None


def choose(
    bundle: Bundle,
    runtime: str,
    threads: int,
    cache_folder: str = "",
    find_host: Callable[[], Host] = this_host,
    installed: Callable[[], bool] = has_tensorrt,
) -> Choice:
    """The bundle's runner, not entered, for `runtime` auto or one of RUNTIMES. cache_folder: "" for the default.

    For `auto` an engine from the cache passes the golden self-test here, since one that does not must not keep the machine
    from watching. EngineError for runtime tensorrt when there is no engine that works, and for a portable one when it is not
    installed or does not give the bundle's heads, saying what to do.
    """
    if portable := PORTABLE.get(runtime):
        if not portable.installed():
            raise EngineError(f"engine.runtime {runtime}: {portable.title} is not installed; {portable.install}")
        require_heads(runtime, bundle)
        return Choice(portable.open(bundle.model, threads))
    if runtime == AUTO and not installed():
        return Choice(DEFAULT.open(bundle.model, threads))
    try:
        runner, instead = _engine_choice(bundle, EngineCache(cache_folder or None), find_host())
        if runtime == AUTO:
            with runner:
                run_selftest(runner, bundle.golden(), bundle.manifest.golden, bundle.manifest.calibration)
        if instead:
            log.warning("engine.runtime %s: %s", runtime, instead)
        return Choice(runner, instead)
    except EngineError as error:
        if runtime == TENSORRT:
            raise
        log.warning("engine.runtime auto: falls back to %s: %s", DEFAULT.title, error)
        return Choice(DEFAULT.open(bundle.model, threads), f"TensorRT is not used: {error}")


def find_engine(bundle: Bundle, cache: EngineCache, host: Host) -> tuple[Stored | None, list[Stored]]:
    """The first of `engines_in_line` that did not fail on held-out images (edge/engines/validated.py), None where there is none,
    and those before it, which failed."""
    failures: list[Stored] = []
    for stored in engines_in_line(bundle, cache, host):
        if not failed(record_of(cache, stored)):
            return stored, failures
        failures.append(stored)
    return None, failures


def engines_in_line(bundle: Bundle, cache: EngineCache, host: Host) -> Iterator[Stored]:
    """The race's winner for this bundle and machine, then what else passed it, the fastest first; without a race, or where nobody
    won it, what did not run in it, the newest first. Verified, and of batch 1."""
    fitting = _fitting(bundle, cache, host)
    raced = cache.read_json(result_name(sha256(bundle.model), host.platform)) or {}
    if order := by_speed(raced):
        there = {entry.key.digest: entry for entry in fitting}
        # where the winner is damaged or gone another race is due, not another engine
        fitting = [there[digest] for digest in order if digest in there] if order[0] in there else []
    else:
        out = {candidate.get("digest") for candidate in candidates_of(raced)}
        fitting = [entry for entry in fitting if entry.key.digest not in out]
    for entry in fitting:
        if (stored := cache.get(entry.key)) is not None:
            yield stored


def open_engine(bundle: Bundle, cache_folder: str = "") -> TensorRTRunner:
    """This machine's engine for the bundle, not entered. EngineError when there is none."""
    return _engine_choice(bundle, EngineCache(cache_folder or None), this_host())[0]


def engine_to_validate(bundle: Bundle, cache: EngineCache, precision: str = "") -> tuple[TensorRTRunner, bytes]:
    """The engine that this machine would take had none failed on held-out images, or the newest of `precision`, and its plan."""
    host = this_host()
    if precision:
        newest = (cache.get(e.key) for e in _fitting(bundle, cache, host) if e.key.precision == precision)
        stored = next(filter(None, newest), None)
    else:
        stored = next(engines_in_line(bundle, cache, host), None)
    if stored is None:
        what, build = (f" {precision}", f"engine build --precision {precision}") if precision else ("", "engine race")
        raise _no_engine(what, build, cache, host)
    return _runner_of(stored, host), stored.plan


def _fitting(bundle: Bundle, cache: EngineCache, host: Host) -> list[Entry]:
    """What the daemon could run here of this bundle, the newest first. EngineError for one with heads that no engine gives."""
    require_heads(TENSORRT, bundle)
    onnx = sha256(bundle.model)
    return [
        entry
        for entry in cache.entries()
        if entry.key.onnx_sha256 == onnx and entry.key.platform == host.platform and entry.key.daemons
    ]


def _engine_choice(bundle: Bundle, cache: EngineCache, host: Host) -> tuple[TensorRTRunner, str]:
    """The engine's runner, not entered, and what it stands in for, "" for nothing."""
    stored, failures = find_engine(bundle, cache, host)
    names = ", ".join(engine_name(f.entry.key.precision) for f in failures)
    if stored is not None:
        runner = _runner_of(stored, host)
        return runner, f"{runner.name} runs, since {names} failed on held-out images" if failures else ""
    if failures:
        raise EngineError(
            f"{cache.root}: every engine for this bundle on {host.platform} failed on held-out images ({names}); judge it again "
            "with `hygroma validate --engine`, or build another with `hygroma engine build --force`"
        )
    raise _no_engine("", "engine race", cache, host)


def _runner_of(stored: Stored, host: Host) -> TensorRTRunner:
    return TensorRTRunner(stored.plan, stored.entry.key.precision, host.api, host.cuda)


def _no_engine(what: str, build: str, cache: EngineCache, host: Host) -> EngineError:
    return EngineError(
        f"{cache.root}: no verified{what} engine for this bundle on {host.platform}; build one with `hygroma {build}`"
    )
