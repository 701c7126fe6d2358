"""Which of a camera's pixel formats to take: the cheapest to decode, measured, that reaches the wanted size and rate."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge.capture.pixels import BYTES_PER_PIXEL, decode
from edge.capture.v4l2 import Device, Negotiated
from edge.config import CaptureConfig
from edge.errors import SourceError

log = logging.getLogger(__name__)

BUFFERS = 4  # the driver's queue: two to fill, one to decode, one for a late thread; beyond, pictures only grow older
WARM_UP = 2  # pictures not counted: the first come late, and cv2 sets itself up
TRIAL_PICTURES = 8  # pictures decoded for a format's median cost; a quarter of a second at 30 fps
TRIAL_S = 1.0  # seconds for one format's trial: three formats must not keep a screen unwatched for long
RATE_SLACK = 0.9  # of the wanted rate that counts as reached: 29.97 for 30, and the jitter of eight pictures


@dataclass(frozen=True)
class Mode:
    """What to ask a camera for. fps in frames per second, 0 when the driver lists none."""

    fourcc: str
    size: tuple[int, int]
    fps: float


@dataclass(frozen=True)
class Trial:
    """What a mode turned out to be: milliseconds to decode a picture, and the rate at which pictures came."""

    mode: Mode
    cost_ms: float
    fps: float


def candidates(device: Device, config: CaptureConfig) -> list[Mode]:
    """One mode for each format that can be decoded. SourceError, saying what there is, when there is none."""
    offered = list(dict.fromkeys(device.fourccs()))
    wanted = (config.width, config.height)
    modes = []
    for fourcc in offered:
        if fourcc not in BYTES_PER_PIXEL or config.pixel_format not in ("auto", fourcc):
            continue
        size = nearest_size(device.sizes(fourcc, wanted), wanted)
        modes.append(Mode(fourcc, size, nearest_rate(device.rates(fourcc, size), config.fps)))
    if not modes:
        kinds = ", ".join(BYTES_PER_PIXEL) if config.pixel_format == "auto" else config.pixel_format
        raise SourceError(
            f"offers {', '.join(offered) or 'no pixel format'}, needed is {kinds}; set capture.pixel_format to auto, or"
            " read it through gst: with a conversion"
        )
    return modes


def nearest_size(sizes: list[tuple[int, int]], wanted: tuple[int, int]) -> tuple[int, int]:
    """The wanted size, else the smallest that holds it, else the largest; what was wanted when none is listed."""
    if not sizes or wanted in sizes:
        return wanted
    holding = [size for size in sizes if size[0] >= wanted[0] and size[1] >= wanted[1]]
    return min(holding, key=_area) if holding else max(sizes, key=_area)


def nearest_rate(rates: list[float], wanted: float) -> float:
    """The lowest rate that reaches the wanted one, else the highest; 0 when none is listed."""
    reaching = [rate for rate in rates if rate >= RATE_SLACK * wanted]
    return min(reaching) if reaching else max(rates, default=0.0)


def apply(device: Device, mode: Mode, config: CaptureConfig) -> tuple[Negotiated, float]:
    """Sets a mode; what the driver made of it, and its rate in frames per second (0: it does not say)."""
    format = device.set_format(mode.fourcc, mode.size)
    if format.fourcc not in BYTES_PER_PIXEL:
        raise SourceError(f"gives {format.fourcc} when asked for {mode.fourcc}; set capture.pixel_format to another")
    return format, device.set_rate(mode.fps or config.fps)


def measure(
    device: Device, mode: Mode, config: CaptureConfig, clock_ns: Callable[[], int] = time.monotonic_ns
) -> Trial | None:
    """Streams a few pictures and decodes them; None when the mode gives too few good ones within TRIAL_S."""
    format, _ = apply(device, mode, config)
    costs: list[float] = []
    stamps: list[int] = []
    until = clock_ns() + round(TRIAL_S * 1e9)
    device.start(BUFFERS)
    try:
        while len(costs) < WARM_UP + TRIAL_PICTURES and (left_ns := until - clock_ns()) > 0:
            filled = device.take(left_ns / 1e9)
            if filled is None:
                continue
            started_ns = clock_ns()
            good = not filled.damaged and decode(filled.data, format, config.grey) is not None
            if good:
                costs.append((clock_ns() - started_ns) / 1e6)
                stamps.append(filled.stamp_ns or started_ns)
            device.release(filled.index)
    finally:
        device.stop()
    if len(costs) <= WARM_UP + 1:
        return None
    span_s = (stamps[-1] - stamps[WARM_UP]) / 1e9
    fps = (len(stamps) - WARM_UP - 1) / span_s if span_s > 0 else 0.0
    return Trial(mode, statistics.median(costs[WARM_UP:]), fps)


def choose(device: Device, config: CaptureConfig, name: str) -> Mode:
    """The mode to use, by trial of each format that there is; the trials are logged. SourceError when none works."""
    modes = candidates(device, config)
    if len(modes) == 1:
        return modes[0]
    trials = []
    for mode in modes:
        try:
            trial = measure(device, mode, config)
        except (OSError, SourceError) as error:  # one format that a driver lists and cannot do is not the end
            log.warning("%s: %s cannot be used: %s", name, mode.fourcc, error)
            continue
        if trial is None:
            log.warning("%s: %s gave no good pictures within %g s", name, mode.fourcc, TRIAL_S)
            continue
        trials.append(trial)
        size = f"{mode.size[0]}x{mode.size[1]}"
        log.info("%s: %s %s at %.1f fps takes %.2f ms a picture", name, mode.fourcc, size, trial.fps, trial.cost_ms)
    if not trials:
        raise SourceError(f"gives no good pictures in any of {', '.join(mode.fourcc for mode in modes)}")
    return best(trials, config).mode


def best(trials: list[Trial], config: CaptureConfig) -> Trial:
    """The cheapest that reaches size and rate; where none does, size counts before rate and rate before cost."""

    def rank(trial: Trial) -> tuple[float, float, float]:
        width, height = trial.mode.size
        short_of_size = max(0, config.width - width) * config.height + max(0, config.height - height) * config.width
        return short_of_size, max(0.0, RATE_SLACK * config.fps - trial.fps), trial.cost_ms

    return min(trials, key=rank)


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
