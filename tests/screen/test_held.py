"""A held picture is frozen whatever noise lies over it, and a loop of few pictures is evidence once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
from held import NOISES, PARAMS, SICK, camera, clean, exam, gain, gauss, watch

from edge.decision import Exam
from edge.decision.memory import LAYOUTS, PICTURES, Layouts, Seen
from edge.records import Fan, Fingerprint, Reading, Signal
from edge.screen.held import NOISE_MAX, Changes
from edge.screen.layout import SECOND
from edge.screen.likeness import Cells, Fingerprinter

WELL = 60  # pictures of a live exam before what is tried


@pytest.mark.requirement("H-01")
@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_a_held_picture_is_frozen_and_flags_nothing(noise) -> None:
    told = watch([*exam()[:WELL], *[exam()[100]] * 70], noise, WELL)[WELL:]
    assert not any(verdict.flagged for _, verdict in told)
    if noise is not camera:  # one that shakes and recompresses makes the fan itself doubtful, now and then (MENU)
        assert Counter(reading.signal for reading, _ in told[50:])[Signal.FROZEN] >= 18  # of 20, from 2 s on


def pointer(image: np.ndarray, turn: int) -> None:
    x, y = int(600 + 220 * np.cos(turn / 2)), int(350 + 150 * np.sin(turn / 1.5))
    arrow = np.array([[x, y], [x, y + 56], [x + 16, y + 42], [x + 38, y + 38]], np.int32)
    cv2.fillPoly(image, [arrow], (255, 255, 255))


def ellipse(image: np.ndarray, turn: int) -> None:
    cv2.ellipse(image, (600, 360), (100 + turn, 60 + turn), 0, 0, 360, (0, 255, 255), 2)


def colour_box(image: np.ndarray, turn: int) -> None:
    cv2.rectangle(image, (400 + 4 * turn, 220), (600 + 4 * turn, 440), (0, 220, 0), 2)


def annotation(image: np.ndarray, turn: int) -> None:
    cv2.putText(image, "RIGHT LATERAL NECK VIEW"[: turn // 3], (380, 200), 0, 1, (255, 255, 255), 2)


@pytest.mark.requirement("H-01")
@pytest.mark.parametrize("draw", [pointer, ellipse, colour_box, annotation])
def test_what_the_operator_draws_on_a_held_picture_does_not_bring_it_to_life(draw) -> None:
    held = [exam()[100].copy() for _ in range(55)]
    for turn, image in enumerate(held):
        draw(image, turn)
    told = watch([*exam()[:40], *held], gauss(0.5), 40)[40:]
    assert not any(verdict.flagged for _, verdict in told)
    assert {reading.signal for reading, _ in told[-15:]} == {Signal.FROZEN}


@pytest.mark.requirement("H-01")
@pytest.mark.parametrize("fps", [5.0, 12.0])
def test_so_it_is_of_a_slow_source(fps: float) -> None:
    live = exam()[:180:15] if fps == 5 else exam()[:180:4]
    told = watch([*live, *[exam()[100]] * 30], gauss(1), len(live), fps)[len(live) :]
    assert {reading.signal for reading, _ in told[-8:]} == {Signal.FROZEN} and not any(v.flagged for _, v in told)


@pytest.mark.requirement("H-01")
@pytest.mark.parametrize("noise", [clean, gauss(2), gain(0.4), camera], ids=["clean", "sigma 2", "low gain", "camera"])
def test_a_live_exam_is_not_frozen_and_is_flagged(noise) -> None:
    told = watch(exam()[:150], noise)
    assert Signal.FROZEN not in {reading.signal for reading, _ in told}
    flag = next(turn for turn, (_, verdict) in enumerate(told) if verdict.newly_flagged)
    assert flag < 60  # 2.4 s; without noise and with nothing refused it is .6 s
    assert sum(verdict.repeats for _, verdict in told) <= 15  # a tenth


@pytest.mark.requirement("H-01")
@pytest.mark.parametrize("every", [2, 3, 4])  # 12.5, 8.3 and 6.3 pictures a second
def test_a_slow_live_source_is_not_taken_for_noise(every: int) -> None:
    told = watch(exam()[::every], fps=25 / every)
    assert Signal.FROZEN not in {reading.signal for reading, _ in told}
    assert sum(reading.duplicate for reading, _ in told) <= 0.25 * len(told)
    assert any(verdict.flagged for _, verdict in told)


@pytest.mark.requirement("H-01")
def test_interference_on_a_held_picture_is_forgotten_when_it_is_over() -> None:
    """The noise that stays known is at most what neighbours differ by in a second."""
    pictures, changes = Pictures(40), Changes()
    for turn in range(60):
        changes.see(pictures.show(0, 1.2), turn * 40_000_000)
    assert changes.noise > 1
    told = [changes.see(pictures.show(0, 0.05), turn * 40_000_000) for turn in range(60, 92)]
    assert changes.noise < 0.2 and told[-1][2] <= 0.4


@pytest.mark.requirement("H-02")
@pytest.mark.parametrize("noise", ["clean", "dither", "sigma 3", "jpeg 20", "camera"])
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_loop_of_few_pictures_flags_nothing(noise: str, length: int) -> None:
    few = [exam()[90 + 6 * i] for i in range(length)]
    told = watch([*exam()[:WELL], *[few[i % length] for i in range(70)]], NOISES[noise], WELL)
    assert not any(verdict.flagged for _, verdict in told)


@pytest.mark.requirement("H-02")
@pytest.mark.parametrize("length", [11, 34, 61])
@pytest.mark.parametrize("way", ["around", "to and fro"])
def test_a_loop_of_any_length_is_evidence_once(length: int, way: str) -> None:
    cine = list(exam()[60 : 60 + length])
    turn = cine if way == "around" else [*cine, *cine[-2:0:-1]]
    reader_images = [*exam()[:50], *turn, *turn, *turn[: max(0, 90 - len(turn))]]
    told = watch(reader_images, gauss(0.5), len(reader_images))  # healthy: evidence is no limit to what counts
    later = [verdict for reading, verdict in told[50 + length + 4 :] if reading.signal is Signal.OK and not reading.duplicate]
    assert sum(not verdict.repeats for verdict in later) <= 5  # what came too soon to count the first time may, once


@pytest.mark.requirement("H-02")
def test_the_fields_of_a_frozen_interlaced_picture_flag_nothing() -> None:
    still = exam()[100]
    fields = [np.repeat(still[first::2], 2, axis=0) for first in (0, 1)]
    told = watch([*exam()[:WELL], *[fields[i % 2] for i in range(70)]], gauss(0.5), WELL)
    assert not any(verdict.flagged for _, verdict in told)


class Pictures:
    """Fingerprints drawn at random: `count` that differ from each other by far more than noise."""

    def __init__(self, count: int, side: int = 12) -> None:
        self.rng = np.random.default_rng(0)
        self.inside = np.ones((side, side), bool)
        self.all = [self.rng.normal(60, 20, (side, side)).astype(np.float32) for _ in range(count)]

    def show(self, index: int, noise: float = 0.1) -> Fingerprint:
        values = self.all[index] + self.rng.normal(0, noise, self.inside.shape).astype(np.float32)
        return Fingerprint(values, self.inside, np.zeros((2, *self.inside.shape), np.float32), alike=0.4)


@pytest.mark.requirement("H-02")
def test_what_an_exam_has_counted_it_knows_again_as_far_back_as_it_remembers() -> None:
    pictures, seen = Pictures(PICTURES + 50), Seen()
    for index in range(PICTURES + 50):
        seen.counted(pictures.show(index))
    assert seen.repeats(pictures.show(PICTURES // 2)) and seen.repeats(pictures.show(60))
    assert not seen.repeats(pictures.show(10))  # memory has an end, and a size
    assert seen._values.shape[0] == PICTURES


@pytest.mark.requirement("H-02")
@pytest.mark.parametrize("length", [2, 3, 7, 60, 300])
def test_a_loop_counts_its_length_however_often_it_is_played(length: int) -> None:
    pictures, running = Pictures(length), Exam(PARAMS)
    for turn in range(4 * length):
        shown = Reading(turn, turn * 40_000_000, Signal.OK, None, fingerprint=pictures.show(turn % length))
        running.step(shown, SICK)
    assert running.state.counted <= -(-length // 3) + 1  # one in .12 s of the first time round


def test_another_exam_counts_it_anew() -> None:
    pictures, running = Pictures(4), Exam(PARAMS)
    for turn in range(40):
        if turn == 20:
            assert running.state.counted == 4 and running.new_exam() == 2
        running.step(Reading(turn, turn * 10**8, Signal.OK, None, fingerprint=pictures.show(turn % 4)), SICK)
    assert running.state.counted == 4


@pytest.mark.requirement("H-02")
@pytest.mark.parametrize("others", [1, 2, LAYOUTS - 1])
def test_a_layout_that_is_back_knows_what_it_showed(others: int) -> None:
    """The same cine after a change of depth and back, however often."""
    pictures, running = Pictures(40), Exam(PARAMS)
    halves = [np.roll(np.arange(144).reshape(12, 12) % 12 < 6, 3 * turn, 1 - turn // 4) for turn in range(others + 1)]
    counted, last = [], -1
    for turn in range(3 * (others + 1) * 10):
        layout = turn // 10 % (others + 1)
        shown = replace(pictures.show(10 * (layout % 4) + turn % 10), inside=halves[layout])
        reading = Reading(turn, turn * 10**8, Signal.OK, None, fingerprint=shown, layout_changed=layout != last)
        verdict = running.step(reading, SICK)
        counted.append(not verdict.repeats)
        last = layout
    assert all(counted[: 10 * (others + 1)]) and not any(counted[10 * (others + 1) :])
    assert len(running._seen._all) <= LAYOUTS


@pytest.mark.requirement("H-02")
def test_the_number_of_layouts_that_are_remembered_is_bounded() -> None:
    pictures, seen = Pictures(1), Layouts()
    for turn in range(3 * LAYOUTS):
        shown = replace(pictures.show(0), inside=np.arange(144).reshape(12, 12) // 12 == turn)
        seen.enter(shown)
        seen.seen.counted(shown)
        assert len(seen._all) <= LAYOUTS


@pytest.mark.requirement("H-02")
def test_the_fields_of_a_cine_that_was_played_before_flag_nothing() -> None:
    cine = list(exam()[60:110])
    fields = [np.repeat(image[first::2], 2, axis=0) for image in cine[::3] for first in (0, 1) for _ in (0, 1)]
    told = watch([*cine, *fields], gauss(0.5), 50)[50:]
    assert sum(not (verdict.repeats or reading.duplicate) for reading, verdict in told) <= 4  # of 68


def test_pictures_of_another_layout_start_the_evidence_again() -> None:
    pictures, running = Pictures(8), Exam(PARAMS)
    for turn in range(3):
        running.step(Reading(turn, turn * 10**8, Signal.OK, None, fingerprint=pictures.show(turn)), SICK)
    half = pictures.inside.copy()
    half[:, :3] = False
    better = replace(pictures.show(1), inside=half)  # a better estimate of the fan: what was counted is known
    assert running.step(Reading(3, 3 * 10**8, Signal.OK, None, fingerprint=better), SICK).repeats
    other = replace(pictures.show(4), inside=np.roll(half, 5, 1) & (np.arange(12) < 5))
    verdict = running.step(Reading(4, 4 * 10**8, Signal.OK, None, fingerprint=other), SICK)
    assert not verdict.repeats and running.state.counted == 1


@pytest.mark.requirement("H-01")
def test_noise_that_hides_a_freeze_is_told_and_still_gives_no_evidence() -> None:
    """Noise of 2.2 grey levels a cell, as of the worst camera: no FROZEN is claimed, and nothing counts twice."""
    pictures, changes = Pictures(1), Changes()
    pictures.all[0] *= 1.5  # a contrast of 30, of which noise may be a tenth
    told = [changes.see(pictures.show(0, 1.6), turn * 40_000_000) for turn in range(60)]
    assert changes.noise > NOISE_MAX and not changes.tells
    assert sum(duplicate for duplicate, *_ in told[20:]) >= 38 and told[-1][2] > 1.4 * NOISE_MAX


def test_what_a_lamp_or_a_loose_camera_does_is_no_difference() -> None:
    rng, shape = np.random.default_rng(1), (12, 20)
    values = rng.normal(60, 20, shape).astype(np.float32)
    slopes = np.stack(np.gradient(values))[::-1].astype(np.float32)
    now = Fingerprint(values, np.ones(shape, bool), slopes)
    row = np.linspace(0.9, 1.1, 12, dtype=np.float32)[:, None]
    others = np.stack([values * row + 3, values + 0.3 * slopes[0] - 0.2 * slopes[1], values + rng.normal(0, 2, shape)])
    found = Cells(now.inside).differences(now, others.reshape(3, -1).astype(np.float32))
    assert found[0] < 0.05 and found[1] < 0.05 and 1.5 < found[2] < 2.2


@pytest.mark.requirement("H-01")
@pytest.mark.parametrize("level", [0, 40, 255])
def test_a_picture_that_comes_back_after_an_even_one_is_live(level: int) -> None:
    """An even picture has no contrast: a gain would make any other of it."""
    rng = np.random.default_rng(level)
    fan = Fan("rect", (100, 60, 1180, 660))
    prints = Fingerprinter(fan, (720, 1280), 192)
    changes = Changes()

    def see(crop: np.ndarray, i: int) -> tuple[bool, bool]:
        return changes.see(prints.take(crop), i * SECOND // 25)[:2]

    for i in range(30):
        see(np.full((192, 192), level, np.uint8), i)
    moving = [cv2.resize(rng.integers(0, 256, (24, 24)).astype(np.uint8), (192, 192)) for _ in range(30)]
    told = [see(crop, 30 + i) for i, crop in enumerate(moving)]
    assert all(not duplicate and moves for duplicate, moves in told)
