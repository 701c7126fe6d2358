"""The page, in a real browser, against a running daemon that watches phantom exams: what a nurse sees and touches."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
expect = playwright.expect

from edge.capture import FeedStats, FramesSource
from edge.config import Config
from edge.decision.assess import NOT_PLANE, SIGNAL_REASONS, UNFAMILIAR
from edge.demo import CLIP, read_session
from edge.events import EventStore
from edge.metrics import LatencySummary
from edge.records import Event, Signal, Verdict
from edge.screen.view import SIDE, View
from edge.status import Board, ExamRow, Snapshot, StatusServer
from edge.status.board import NewExamRequest
from edge.watching import Watching, open_watching

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here (apt install chromium)")

SCREEN = {"width": 1024, "height": 600}  # pixels of the 7-inch screen that the page is made for
INCHES = 7.0  # diagonal
PATIENCE_MS = 60_000  # far more than any of these needs, so that a busy machine fails no test
TEXT_MIN, TOUCH_MIN = 16, 52  # pixels; see page.css


def frames(exam: int, last: int) -> list[np.ndarray]:
    """The last frames of an exam of the shipped session."""
    _, _, exams = read_session()
    clip = cv2.VideoCapture(str(CLIP))
    clip.set(cv2.CAP_PROP_POS_FRAMES, exams[exam].last_frame - last + 1)
    return [clip.read()[1] for _ in range(last)]


class Scanner:
    """Shows what it is told to, back and forth, for as long as it is told to."""

    def __init__(self) -> None:
        healthy, sick = frames(0, 60), frames(6, 60)
        self.scenes = {"healthy": healthy, "sick": sick, "still": sick[:1], "off": [np.zeros_like(sick[0])]}
        self.scene = "healthy"

    def images(self) -> Iterator[np.ndarray]:
        while self.scene:
            shown = self.scene
            for image in itertools.chain(self.scenes[shown], reversed(self.scenes[shown])):
                if self.scene == shown:
                    yield image


class Daemon:
    """The whole daemon on a thread of its own; every frame is looked at, so that a busy machine changes nothing."""

    def __init__(self, folder: Path) -> None:
        self.scanner, self.folder = Scanner(), folder
        self.ready = threading.Event()
        self.watching: Watching | None = None
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        config = Config()
        config = dataclasses.replace(
            config,
            events=dataclasses.replace(config.events, dir=str(self.folder), min_free_mb=0),
            status=dataclasses.replace(config.status, port=0),
        )
        source = FramesSource("phantom", self.scanner.images(), 25, fast=True)
        with open_watching(config, source) as self.watching:
            self.ready.set()
            self.watching.watch.run()

    def stop(self) -> None:
        self.scanner.scene = ""
        self.thread.join(20)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    daemon.thread.start()
    assert daemon.ready.wait(60)
    yield daemon
    daemon.stop()


@pytest.fixture
def page() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has no sandbox to go into
        browser = engine.chromium.launch(executable_path=BROWSER, args=options)
        page = browser.new_page(viewport=SCREEN)
        page.set_default_timeout(PATIENCE_MS)
        yield page
        browser.close()


def style(page: Any, selector: str, name: str, pseudo: str = "") -> str:
    script = "([s, n, p]) => getComputedStyle(document.querySelector(s), p || null)[n]"
    return page.evaluate(script, [selector, name, pseudo])


def loudness(page: Any) -> tuple[str, float]:
    """(frame of the page in pixels, height of the state's bar in pixels), after checking that the bar is filled."""
    assert style(page, "#state", "backgroundColor") == style(page, "body", "borderTopColor", "::after")
    return style(page, "body", "borderTopWidth", "::after"), page.locator("#state").bounding_box()["height"]


SMALL_TEXT = """() => [...document.querySelectorAll("body *")].filter(e => e.checkVisibility() && e.textContent.trim() &&
  !e.children.length && parseFloat(getComputedStyle(e).fontSize) < MIN).map(e => e.outerHTML)""".replace(
    "MIN", str(TEXT_MIN)
)
LOW_BUTTONS = """() => [...document.querySelectorAll("button, input")].filter(e => e.checkVisibility() &&
  e.getBoundingClientRect().height < MIN).map(e => e.outerHTML)""".replace("MIN", str(TOUCH_MIN))
SPILLS = """() => [document.body, ...document.querySelectorAll("#words, #why, #figures div, .row, .buttons")].filter(e =>
  e.checkVisibility() && (e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > Math.max(e.clientHeight, 600))
  && getComputedStyle(e).display !== "inline").map(e => e.outerHTML.slice(0, 200))"""


def has_picture(page: Any, selector: str, width: int) -> None:
    """Waits until a picture has loaded; the page's policy forbids the polling that a browser would do itself."""
    until = time.monotonic() + PATIENCE_MS / 1000
    while page.evaluate("s => document.querySelector(s)?.naturalWidth", selector) != width:
        assert time.monotonic() < until, f"{selector}: no picture"
        page.wait_for_timeout(100)


def legible(page: Any) -> None:
    assert page.evaluate(SMALL_TEXT) == []
    assert page.evaluate(LOW_BUTTONS) == []
    assert page.evaluate(SPILLS) == []


def test_an_exam_as_a_nurse_sees_it(daemon: Daemon, page: Any) -> None:
    assert daemon.watching is not None
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.goto(daemon.watching.url)

    page.wait_for_selector("body.assessing")
    assert page.inner_text("#words") == "ASSESSING"
    has_picture(page, "#picture img", 480)
    assert len(page.get_attribute("#fan", "points").split()) >= 4
    assert page.inner_text("#events") == "no flag so far"
    legible(page)

    daemon.scanner.scene = "sick"
    page.wait_for_selector("body.flagged")
    assert page.inner_text("#words") == "SUSPECTED NUCHAL COLLECTION: REFER"
    has_picture(page, "#events .row img", 960)
    page.wait_for_selector("body.flagged #why:not(.also)", state="attached")  # the flag alone, without a second line
    flag_loudness = loudness(page)
    legible(page)

    daemon.scanner.scene = "still"  # a flag does not hide that it has stopped looking
    # before it is known to be frozen, the same picture may be told for what it shows
    page.wait_for_selector("#why.also:has-text('NOW NOT ASSESSING: frozen')")

    page.click("#events .row")
    page.fill("#by", "nurse A")
    legible(page)
    page.click("#confirm")
    expect(page.locator("#told")).to_have_text("Confirmed by nurse A", timeout=PATIENCE_MS)
    with EventStore(daemon.folder, create=False) as store:
        assert [(event.review, event.reviewed_by) for event in store.events()] == [("confirmed", "nurse A")]
    page.click("#clip")  # its seconds are over: the clip is there
    has_picture(page, "#shown img", 320)
    legible(page)
    page.click("#reopen")
    page.wait_for_selector("#confirm:not([hidden])")
    page.click("#close")

    page.click("#new")
    assert page.inner_text("#new") == "Tap again: new exam"
    assert page.inner_text("#exam") == "1"  # one slip of a finger ends no exam
    page.click("#new")
    expect(page.locator("#exam")).to_have_text("2", timeout=PATIENCE_MS)
    page.wait_for_selector("body.not-assessing")
    assert page.inner_text("#words") == "NOT ASSESSING" and "unfreeze" in page.inner_text("#why")
    assert loudness(page) == flag_loudness
    legible(page)
    for tab, words in (("exams", "FLAGGED"), ("device", "read")):
        page.click(f"#tab-{tab}")
        expect(page.locator(f"#{tab}")).to_contain_text(words, timeout=PATIENCE_MS)
        legible(page)

    daemon.scanner.scene = "off"
    page.wait_for_selector("body.no-signal")
    assert page.inner_text("#words") == "NO SIGNAL" and loudness(page) == flag_loudness
    assert page.locator("#picture img").count() == 0

    daemon.stop()
    page.wait_for_selector("body.stopped")
    assert page.inner_text("#words") == "NOT WATCHING"
    assert broken == []
    assert all(url.startswith((daemon.watching.url, "data:")) for url in asked), "the page asked another machine"


@pytest.mark.requirement("S-04")
def test_a_browser_whose_token_is_no_longer_good_says_so_and_keeps_nobody_out(page: Any) -> None:
    """It asked five times a second: the limit of wrong tokens then shut out everybody behind its address."""
    asked: list[int] = []
    with StatusServer(Board(), port=0, token="a" * 20) as server:
        page.goto(server.url + "?token=" + "a" * 20)
        page.wait_for_selector("body.stopped")
    page.on("response", lambda answer: asked.append(answer.status))
    with StatusServer(Board(), port=server.port, token="b" * 20):
        expect(page.locator("#why")).to_contain_text("open the page with its token again", timeout=PATIENCE_MS)
        page.wait_for_timeout(1500)  # seven times it would have asked
        assert asked.count(401) == 1
        page.goto(server.url + "?token=" + "b" * 20)
        expect(page.locator("#why")).to_contain_text("stopped looking", timeout=PATIENCE_MS)


@pytest.mark.requirement("S-04")
def test_a_daemon_that_takes_connections_and_never_answers_is_said_to_give_no_answer(page: Any) -> None:
    """The page showed its last picture for ever: it waited for the one answer."""
    with StatusServer(Board(), port=0, token="a" * 20) as server:
        page.goto(server.url + "?token=" + "a" * 20)
        page.wait_for_selector("body.stopped")
    with socket.create_server(("127.0.0.1", server.port)):
        expect(page.locator("#why")).to_contain_text("no answer from the daemon", timeout=PATIENCE_MS)


# -- every state, on both screens that seven inches come with; no daemon runs

NOW_NS = 10**12  # the server's clock stands still: a browser that starts slowly sees no daemon that has stopped
SURE = Verdict(7, 0, 3, Signal.OK, True, (), 0.95, 0.31, 0.1, 1.2, 6.3, False, False)
FLAGGED = dataclasses.replace(SURE, flagged=True, evidence=11.1, hygroma=0.97)
FULL = (
    "source away: v4l2:/dev/v4l/by-id/usb-MACROSILICON_USB3_Video-video-index0: cannot be opened, the device is not there;"
    " check the cable, and the name with `ls /dev/v4l/by-id`",
    "events cannot be written: /var/lib/hygroma/room1/events.db: cannot be written (database or disk is full); check the disk's"
    " space and health. If the file is damaged, move it aside and keep it: a new store is made",
    "2 flags wait to be written",
)


def cannot(verdict: Verdict, *reasons: str, signal: Signal = Signal.OK) -> Verdict:
    return dataclasses.replace(verdict, signal=signal, assessable=False, reasons=reasons)


# name -> (body's class, verdict, problems)
STATES: dict[str, tuple[str, Verdict | None, tuple[str, ...]]] = {
    "waiting": ("waiting", None, ()),
    "assessing": ("assessing", SURE, ()),
    "flagged": ("flagged", FLAGGED, ()),
    "flagged and degraded": ("flagged", cannot(FLAGGED, "frozen", signal=Signal.FROZEN), FULL),
    "another plane": ("not-assessing", cannot(SURE, NOT_PLANE, UNFAMILIAR), ()),
    "unfamiliar": ("not-assessing", cannot(SURE, UNFAMILIAR), ()),
    "degraded": ("no-signal", cannot(SURE, "no signal", signal=Signal.NO_SIGNAL), FULL),
    **{
        signal.value: (
            "no-signal" if signal is Signal.NO_SIGNAL else "not-assessing",
            cannot(SURE, reason, signal=signal),
            (),
        )
        for signal, reason in SIGNAL_REASONS.items()
    },
}


def shown(verdict: Verdict | None, problems: tuple[str, ...]) -> Snapshot:
    events = tuple(
        Event(n, n, "room 1", 3, f"2026-11-25T15:0{n}:10.250+00:00", 40.0, 0.97, 6.5, "student 0.3.0", "e.png", "00", review)
        for n, review in ((3, "open"), (2, "open"), (1, "confirmed"))
    )
    return Snapshot(
        t_mono_ns=NOW_NS,
        source="room 1",
        bundle="student 0.3.0",
        engine="ONNX Runtime 1.23 CPU",
        ready=True,
        verdict=verdict,
        frame_t_mono_ns=NOW_NS,
        degraded=problems,
        frames_by_signal={"OK": 8},
        duplicates=112,
        errors={},
        feed=FeedStats(read=900_211, dropped=1, format="YUYV 1280x720 at 30 fps"),
        latencies={"verdict": LatencySummary(8, 15.0, 18.0, 29.0, 48.0, 40.0)},
        exams=tuple(ExamRow(n, "2026-11-25T15:01:10+00:00", 1211, n < 3, 0.8) for n in (3, 2, 1)),
        events=events,
        history=tuple((60 - i / 2, 6.3, 0.5 if i % 40 < 30 else None) for i in range(120)),
        view=View(np.full((SIDE, SIDE), 90, np.uint8), ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9))),
    )


# Text of the page and of its chart that goes beyond the screen's sides, or lies on other text of the chart.
CUT = """() => [...document.querySelectorAll("body *")].filter(e => e.checkVisibility() && !e.children.length &&
  e.textContent.trim()).filter(e => { const r = document.createRange(); r.selectNodeContents(e);
  const b = r.getBoundingClientRect(); return b.left < 0 || b.right > innerWidth; }).map(e => e.outerHTML)"""
PILED = """() => { const boxes = [...document.querySelectorAll("#chart text")].map(e => e.getBoundingClientRect());
  return boxes.some((a, i) => boxes.some((b, j) => i < j && a.left < b.right && b.left < a.right && a.top < b.bottom &&
  b.top < a.bottom)); }"""
BELOW = """() => [...document.querySelectorAll(".buttons, #tabs, #chart")].filter(e => e.checkVisibility() &&
  e.getBoundingClientRect().bottom > innerHeight).map(e => e.outerHTML)"""
LOWEST = """() => Math.min(...[...document.querySelectorAll("button, input")].filter(e => e.checkVisibility()).map(e =>
  e.getBoundingClientRect().height))"""


@pytest.mark.parametrize("size", [(1024, 600), (800, 480)])
def test_every_state_is_legible_on_seven_inches(page: Any, size: tuple[int, int]) -> None:
    mm = INCHES * 25.4 / (size[0] ** 2 + size[1] ** 2) ** 0.5  # of a pixel
    board = Board()
    with StatusServer(board, port=0, clock_ns=lambda: NOW_NS) as server:
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.goto(server.url)
        heights = set()
        for exam_id, (name, (state, verdict, problems)) in enumerate(STATES.items()):
            if verdict is None:
                board.publish(shown(verdict, problems))
            else:
                board.publish(shown(dataclasses.replace(verdict, exam_id=exam_id), problems))
                expect(page.locator("#exam")).to_have_text(str(exam_id), timeout=PATIENCE_MS)
            page.wait_for_selector(f"body.{state}")
            assert page.evaluate(SMALL_TEXT) == page.evaluate(CUT) == page.evaluate(BELOW) == [], name
            assert not page.evaluate(PILED), name
            assert page.evaluate(LOWEST) * mm >= 7.7, name  # millimetres: a finger in a glove
            words = page.locator("#words").bounding_box()["height"]
            assert 6.0 <= words * mm <= 10.0, name  # one line, to be read from an arm's length
            if state != "assessing":
                heights.add(round(page.locator("#state").bounding_box()["height"]))
        assert max(heights) - min(heights) <= 3, heights  # all are as loud as a flag
        board.publish(shown(FLAGGED, FULL))
        page.click("#tab-device")
        expect(page.locator("#device")).to_contain_text("a new store is made", timeout=PATIENCE_MS)  # all of it is here


# What is to be touched or read, and lies beyond a side of the screen.
OUTSIDE = """() => [...document.querySelectorAll("button, input, #figures div, .tag, #words, #why")].filter(e =>
  e.checkVisibility()).filter(e => { const b = e.getBoundingClientRect();
  return b.left < -1 || b.right > innerWidth + 1; }).map(e => e.outerHTML)"""
CLIPPED = """() => [...document.querySelectorAll("#figures div, .tag, .row, .buttons, #tabs button")].filter(e =>
  e.checkVisibility() && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline").map(e => e.outerHTML)"""


@pytest.mark.requirement("F-02")
@pytest.mark.parametrize("size", [(390, 844), (800, 480), (1280, 800), (1920, 1080)])
def test_nothing_is_cut_on_a_telephone_or_a_monitor(page: Any, size: tuple[int, int]) -> None:
    board = Board()
    with StatusServer(board, port=0, clock_ns=lambda: NOW_NS) as server:
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.goto(server.url)
        for exam_id, (name, (state, verdict, problems)) in enumerate(STATES.items()):
            if verdict is not None:
                verdict = dataclasses.replace(verdict, exam_id=exam_id)
            board.publish(shown(verdict, problems))
            page.wait_for_selector(f"body.{state}")
            if verdict is not None:
                expect(page.locator("#exam")).to_have_text(str(exam_id), timeout=PATIENCE_MS)
            for tab in ("events", "exams", "device"):
                page.click(f"#tab-{tab}")
                for script in (SMALL_TEXT, CUT, OUTSIDE, CLIPPED):
                    assert page.evaluate(script) == [], (name, tab)
            assert not page.evaluate(PILED), name
        page.click("#tab-events")
        for row in (0, 2):  # one that is open, one that was confirmed
            page.locator("#events .row").nth(row).click()
            for script in (OUTSIDE, CLIPPED):
                assert page.evaluate(script) == []
            close = page.locator("#close").bounding_box()
            assert close["y"] + close["height"] <= size[1]
            page.click("#close")
        if size[0] >= 1200:  # the picture takes its part of a large screen
            assert page.locator("#view").bounding_box()["width"] >= 0.35 * size[0]


@pytest.mark.requirement("F-02")
def test_a_picture_whose_edge_is_being_found_is_not_said_to_be_missing(page: Any) -> None:
    board = Board()
    with StatusServer(board, port=0, clock_ns=lambda: NOW_NS) as server:
        page.goto(server.url)
        for name, words in (("another plane", "finding the edge of the picture"), ("degraded", "no picture: no signal")):
            _, verdict, problems = STATES[name]
            board.publish(dataclasses.replace(shown(verdict, problems), view=None))
            expect(page.locator("#nopicture")).to_have_text(words, timeout=PATIENCE_MS)


def test_without_its_token_the_page_says_what_to_do_in_the_dark(page: Any) -> None:
    with StatusServer(Board(), port=0, token="a" * 20) as server:
        page.goto(server.url)
        assert "?token=TOKEN" in page.inner_text("body") and "{" not in page.inner_text("body")
        picture = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_GRAYSCALE)
        assert np.median(picture) < 40  # levels: a bright page blinds who has been looking at a scanner


def test_a_press_that_was_not_taken_says_so(page: Any) -> None:
    board = Board()
    board.publish(shown(FLAGGED, ()))
    while board.ask(NewExamRequest()):
        pass  # nobody obeys
    with StatusServer(board, port=0, clock_ns=lambda: NOW_NS) as server:
        page.goto(server.url)
        page.wait_for_selector("body.flagged")
        page.click("#new")
        page.click("#new")
        expect(page.locator("#new")).to_have_text("Not done: no new exam", timeout=PATIENCE_MS)
        page.click("#events .row >> nth=0")
        page.click("#confirm")
        expect(page.locator("#told")).to_contain_text("NOT RECORDED: the daemon is not taking", timeout=PATIENCE_MS)


def test_a_picture_that_was_withheld_is_shown_once_it_may_be(page: Any) -> None:
    board, withheld = Board(), shown(FLAGGED, ())
    board.publish(withheld)
    with StatusServer(board, port=0, clock_ns=lambda: NOW_NS) as server:
        page.goto(server.url)
        page.click("#events .row >> nth=0")
        expect(page.locator("#shown img")).to_have_attribute("src", "events/3.png?00", timeout=PATIENCE_MS)
        event = dataclasses.replace(withheld.events[0], image_sha256="11")
        board.publish(dataclasses.replace(withheld, events=(event, *withheld.events[1:])))
        expect(page.locator("#shown img")).to_have_attribute("src", "events/3.png?11", timeout=PATIENCE_MS)
        expect(page.locator("#events img").first).to_have_attribute("src", "events/3.png?11", timeout=PATIENCE_MS)
