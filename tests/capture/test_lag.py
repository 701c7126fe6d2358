"""A stream's clock that runs slow or fast is followed; a queue, a stall and a jump are told from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from edge.capture.idle import Idle
from edge.capture.lag import STALE_NS, StreamClock

START_NS = 10**12


@dataclass(frozen=True)
class Seen:
    rate: float
    stale: list[float]  # seconds at which a picture seemed too old
    hidden_s: float  # by how much a picture was older than it seemed, at most
    shed: bool


def watch(
    factor: float = 1.0,
    fps: float = 25,
    seconds: float = 60,
    jitter_s: float = 0.02,
    busy_s: float = 0.0,
    delay_s: Callable[[float], float] = lambda t: 0.0,
    jump_ms: Callable[[float], float] = lambda t: 0.0,
    wrap_ms: float = 0.0,
    leaves_out: bool = False,
    seed: int = 0,
) -> Seen:
    """A camera whose clock runs at `factor` of the real time, over a network that delays, to a reader that is busy for `busy_s`
    with each picture. `leaves_out`: where the delay shrinks, pictures are lost."""
    rng, clock = np.random.default_rng(seed), StreamClock()
    free = arrived = hidden = 0.0
    stale, shed = [], False
    for n in range(round(seconds * fps)):
        t = n / fps
        if leaves_out and t + delay_s(t) < arrived:
            continue
        arrived = max(arrived, t + rng.uniform(0, jitter_s) + delay_s(t))  # in order
        now = max(arrived, free) + 0.004
        stamp_ms = 1000 * factor * t + jump_ms(t)
        now_ns = START_NS + round(now * 1e9)
        idle_ns = round(1e9 * max(0.0, arrived - free))
        age_ns = now_ns - clock.captured_ns(stamp_ms % wrap_ms if wrap_ms else stamp_ms, now_ns, idle_ns)
        assert age_ns >= 0
        free = now + busy_s
        if age_ns > STALE_NS:
            stale.append(t)
        hidden, shed = max(hidden, now - t - age_ns / 1e9), shed or clock.shed
    return Seen(clock.rate, stale, hidden, shed)


@pytest.mark.requirement("C-04")
@pytest.mark.parametrize("jitter_s", [0.0, 0.03, 0.08])
@pytest.mark.parametrize("factor", [0.84, 0.9, 0.98, 0.995, 0.9999, 1.0, 1.0001, 1.02, 1.2])
def test_no_picture_of_a_camera_with_its_own_idea_of_time_seems_old(factor: float, jitter_s: float) -> None:
    seen = watch(factor, jitter_s=jitter_s)
    assert seen.stale == [] and seen.rate == pytest.approx(factor, abs=0.007)
    assert seen.hidden_s < jitter_s + 0.02 and not seen.shed


@pytest.mark.requirement("C-04")
@pytest.mark.parametrize("fps", [1, 5, 60])
@pytest.mark.parametrize("factor", [0.5, 0.84, 0.98, 1.2, 2.0])
def test_at_any_rate_it_is_followed_within_three_seconds_or_four_pictures(factor: float, fps: float) -> None:
    seen = watch(factor, fps, seconds=max(30, 60 / fps))
    assert all(t <= max(3.0, 4 / fps) for t in seen.stale)


@pytest.mark.requirement("C-04", "T-03")
@pytest.mark.parametrize("factor", [0.84, 1.0])
@pytest.mark.parametrize("busy_s", [0.041, 0.05, 0.1])
def test_a_reader_that_is_too_slow_has_a_queue_whatever_the_clock(factor: float, busy_s: float) -> None:
    seen = watch(factor, busy_s=busy_s, seconds=30)
    assert seen.stale and seen.stale[-1] > 29 and seen.hidden_s < 0.06


@pytest.mark.requirement("C-04", "T-03")
@pytest.mark.parametrize("factor", [0.84, 0.98, 1.0, 1.2])
def test_a_stall_is_seen_while_it_lasts_and_not_after(factor: float) -> None:
    """Half a second without pictures, then all at once."""
    seen = watch(factor, seconds=40, delay_s=lambda t: max(0.0, 20.5 - t) if 20 <= t < 20.5 else 0.0)
    assert seen.stale and all(20 <= t < 20.5 for t in seen.stale) and seen.hidden_s < 0.06


@pytest.mark.requirement("T-03")
def test_a_delay_that_stays_is_no_clock() -> None:
    """Until the stream is opened anew, which its source does after two seconds."""
    seen = watch(seconds=15, delay_s=lambda t: 0.5 * (t > 8))
    assert seen.rate == 1.0 and min(seen.stale) < 8.1 and max(seen.stale) > 14.9


@pytest.mark.requirement("T-03")
def test_a_queue_that_is_emptied_slowly_is_no_fast_clock() -> None:
    seen = watch(seconds=30, delay_s=lambda t: float(np.interp(t, [10, 10.05, 13], [0, 0.6, 0])))
    assert seen.rate == 1.0 and seen.hidden_s < 0.05 and seen.stale


@pytest.mark.requirement("C-04")
@pytest.mark.parametrize("jump_s", [60.0, -5.0, -3600.0])
@pytest.mark.parametrize("factor", [0.84, 1.0, 1.2])
def test_a_clock_that_is_set_begins_again(factor: float, jump_s: float) -> None:
    seen = watch(factor, jump_ms=lambda t: 1000 * jump_s * (t > 30))
    assert seen.stale == [] and not seen.shed


@pytest.mark.requirement("C-04")
def test_stamps_that_wrap_begin_again() -> None:
    seen = watch(0.84, wrap_ms=20_000)
    assert seen.stale == []


@pytest.mark.requirement("C-04")
def test_a_camera_that_slows_down_in_dim_light_is_followed_there_and_back() -> None:
    seen = watch(seconds=90, jump_ms=lambda t: -160 * (min(t, 60) - 20) if t > 20 else 0.0)
    assert seen.stale == [] and seen.rate == pytest.approx(1.0, abs=0.01)


@pytest.mark.requirement("C-04", "T-03")
def test_a_sender_that_leaves_pictures_out_had_a_queue() -> None:
    """A network that carries .84 of the stream: ever later, until the sender's queue of 2 s is full and half of it goes."""

    def delay_s(t: float) -> float:
        grown = 0.16 * t
        return grown if grown < 2 else 1 + (grown - 2) % 1

    assert watch(delay_s=delay_s, seconds=20, leaves_out=True).shed
    assert not watch(0.84, seconds=20).shed


def test_a_thread_is_idle_while_it_waits_and_not_while_it_computes() -> None:
    import time

    idle = Idle()
    idle.begin()
    time.sleep(0.05)
    assert idle.ns() > 40e6
    idle.begin()
    until = time.monotonic() + 0.05
    while time.monotonic() < until:
        pass
    assert idle.ns() < 25e6
