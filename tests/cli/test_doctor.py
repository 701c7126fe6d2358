"""The doctor: what is wrong with a made-up machine, each with what to do about it; a check that breaks, a configuration that is
wrong and a port that is taken are findings like any other."""

from __future__ import annotations

import dataclasses
import grp
import json
import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from edge import doctor
from edge.bundle import Bundle
from edge.bundle.manifest import ABSENT
from edge.capture import FeedStats
from edge.cli import main
from edge.config import BundleConfig, Config, EngineConfig, EventsConfig, SourceConfig, StatusConfig
from edge.doctor import Finding, System, examine
from edge.engines.health import engine_state
from edge.errors import ConfigError
from edge.status import Board, StatusServer
from edge.status.board import Snapshot
from edge.update.trial import BY_HAND, Rollback, State


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow check; tests/cli/test_cli.py runs it."""

    def _bundle(system: System, config: Config) -> Finding:
        return Finding("bundle", "ok", "not looked at")

    monkeypatch.setattr(doctor, "_bundle", _bundle)


def findings(load: Callable[[], Config], system: System | None = None) -> dict[str, Finding]:
    found = {finding.check: finding for finding in examine(load, system)}
    assert all(finding.fix or finding.level == "ok" for finding in found.values())  # each says what to do
    return found


def status(**settings: object) -> Finding:
    config = dataclasses.replace(Config(), status=StatusConfig(**settings))  # type: ignore[arg-type]
    return findings(lambda: config)["status"]


@pytest.mark.parametrize("name", ["_thermal", "_cores"])
def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def broken(*asked: object) -> Finding:
        raise ZeroDivisionError("odd machine")

    broken.__name__ = name
    monkeypatch.setattr(doctor, name, broken)
    found = findings(Config)
    assert found[name.strip("_")].level == "fail" and "odd machine" in found[name.strip("_")].found
    assert {"python", "packages", "clock", "config", "bundle", "source", "events", "status"} <= set(found)


def test_a_wrong_configuration_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("event: {}")
    assert main(["doctor", "--config", str(config), "--json"]) == 1
    found = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["config"]["level"] == "fail" and "did you mean events" in found["config"]["found"]
    assert found["python"]["level"] == "ok" and "events" not in found
    assert main(["doctor", "--config", str(config)]) == 1
    assert "did you mean events" in capsys.readouterr().out


def test_nothing_is_made_on_the_way(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    config = dataclasses.replace(Config(), events=EventsConfig(dir=str(folder), min_free_mb=0))
    found = findings(lambda: config)["events"]
    assert found.level == "ok" and "will be made" in found.found
    assert not any(tmp_path.iterdir())
    folder.mkdir(parents=True)
    assert "writable" in findings(lambda: config)["events"].found
    assert not any(folder.iterdir())


def test_a_store_under_a_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = dataclasses.replace(Config(), events=EventsConfig(dir=str(tmp_path / "file" / "e")))
    assert findings(lambda: config)["events"].level == "fail"


def test_a_port_that_another_program_has_is_found() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        other.settimeout(0)
        port = other.getsockname()[1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("edge.status.server.CLIENT_TIMEOUT_S", 0.2)
            found = status(port=port)
    assert found.level == "fail" and str(port) in found.found and "status.port" in found.fix
    assert status(port=0).level == "ok" and status(enabled=False).level == "ok"


@pytest.mark.parametrize("token", ["", "a-token-of-some-length"])
def test_a_port_that_a_hygroma_has_is_all_right(token: str) -> None:
    with StatusServer(Board(), "127.0.0.1", 0, token) as server:
        found = status(port=server.port)
    assert found.level == "ok" and "running hygroma" in found.found


@pytest.mark.requirement("H-01")
def test_what_a_running_hygroma_says_is_wrong_the_doctor_says_too() -> None:
    board = Board()
    problem = "a frozen picture cannot be told from a live one here: the source's noise is 1.9 grey levels"
    board.publish(Snapshot(
        t_mono_ns=time.monotonic_ns(), source="file:x", bundle="student 0.1.0", engine="fake", ready=True, verdict=None,
        frame_t_mono_ns=None, degraded=(problem,), frames_by_signal={}, duplicates=0, errors={}, feed=FeedStats(), latencies={},
        exams=(), events=(), history=(), noise=1.9,
    ))  # fmt: skip
    with StatusServer(board, "127.0.0.1", 0) as server:
        found = status(port=server.port)
    assert found.level == "warn" and problem in found.found and found.fix


def test_a_page_for_other_machines_wants_a_token(tmp_path: Path) -> None:
    found = status(host="0.0.0.0", port=0)
    assert found.level == "fail" and "token" in found.found
    assert status(host="0.0.0.0", port=0, token_file=str(tmp_path / "none")).level == "fail"
    (tmp_path / "token").write_text("a-token-of-some-length")
    assert status(host="0.0.0.0", port=0, token_file=str(tmp_path / "token")).level == "ok"
    assert status(host="not an address").level == "fail"


def test_a_configuration_error_names_itself() -> None:
    def load() -> Config:
        raise ConfigError("c.yaml: event: unknown section")

    found = findings(load)["config"]
    assert (found.level, found.found) == ("fail", "c.yaml: event: unknown section")


# -- a machine with one thing wrong


def machine(tmp_path: Path, **answers: Any) -> System:
    """A machine with one grabber that everybody may use, and nothing else."""
    root = tmp_path / "root"
    (root / "dev/v4l/by-id").mkdir(parents=True, exist_ok=True)
    link = root / "dev/v4l/by-id/usb-Grabber-index0"
    if not link.is_symlink():
        link.symlink_to("/dev/null")  # any character device
    return System(**{"root": root, "now": lambda: 1.8e9, "may_use": lambda device: True, "user": lambda: "nurse",
                     "free_bytes": lambda folder: 10**12, "answers": lambda host, port: "", **answers})  # fmt: skip


def source(tmp_path: Path, uri: str, **answers: Any) -> Finding:
    config = dataclasses.replace(Config(), source=SourceConfig(uri=uri))
    return findings(lambda: config, machine(tmp_path, **answers))["source"]


CAMERA = "v4l2:/dev/v4l/by-id/usb-Grabber-index0"


def test_no_camera(tmp_path: Path) -> None:
    assert source(tmp_path, CAMERA).level == "ok"
    gone = source(tmp_path, "v4l2:/dev/v4l/by-id/usb-Other-index0")
    assert gone.level == "fail" and "no such device" in gone.found and "usb-Grabber-index0" in gone.found
    assert "cable" in gone.fix and "source.uri" in gone.fix
    none = source(tmp_path, "")
    assert none.level == "warn" and none.fix == f"set source.uri to {CAMERA}"
    (tmp_path / "root/dev/v4l/by-id/usb-Grabber-index0").unlink()
    (tmp_path / "empty").mkdir()
    assert "plug in the grabber" in source(tmp_path / "empty", "", root=tmp_path / "empty").fix
    (tmp_path / "root/dev/video0").touch()
    assert "is no device" in source(tmp_path, "v4l2:/dev/video0").found


def test_the_wrong_group(tmp_path: Path) -> None:
    found = source(tmp_path, CAMERA, may_use=lambda device: False)
    group = grp.getgrgid(os.stat("/dev/null").st_gid).gr_name
    assert found.level == "fail" and f"nurse may not use it, the group {group} may" in found.found
    assert f"sudo usermod -aG {group} nurse" in found.fix and "log in again" in found.fix


def test_other_sources_that_are_not_there(tmp_path: Path) -> None:
    silent = source(tmp_path, "rtsp://user:secret@10.0.0.9/live", answers=lambda host, port: f"{host} {port} silent")
    assert silent.level == "fail" and "10.0.0.9 554 silent" in silent.found and "secret" not in silent.found
    assert source(tmp_path, "rtsp://10.0.0.9:8554/live").level == "ok"
    assert source(tmp_path, "rtsp://10.0.0.9:port/live").level == "fail"
    for uri in (f"file:{tmp_path}/none.mp4", f"dicom:{tmp_path}/none.dcm", f"images:{tmp_path}/none"):
        assert source(tmp_path, uri).level == "fail"


def test_recordings_that_cannot_be_played(tmp_path: Path) -> None:
    assert "no picture in it" in source(tmp_path, f"images:{tmp_path}").found
    for name in ("a.png", "a.mp4", "a.dcm"):
        (tmp_path / name).write_bytes(b"no picture")
    for uri in (f"file:{tmp_path}/a.mp4", f"dicom:{tmp_path}/a.dcm", f"images:{tmp_path}"):
        found = source(tmp_path, uri)
        assert found.level == "fail" and re.search("decoded|read as video|not DICOM|no picture in it|not a picture", found.found)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 20), np.uint8))
    (tmp_path / "a.dcm").unlink()
    found = source(tmp_path, f"images:{tmp_path}")
    assert found.level == "ok" and "1 pictures" in found.found


def test_what_a_pipeline_reads_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.capture.live.require_gstreamer", lambda: None)
    end = "! videoconvert ! video/x-raw,format=BGR ! appsink"
    assert source(tmp_path, f"gst:v4l2src device=/dev/v4l/by-id/usb-Grabber-index0 {end}").level == "ok"
    gone = source(tmp_path, f"gst:v4l2src device=/dev/v4l/by-id/usb-Other-index0 {end}")
    assert gone.level == "fail" and "no such device" in gone.found
    silent = source(tmp_path, f"gst:rtspsrc location=rtsp://u:secret@10.0.0.9/live ! decodebin {end}", answers=lambda *_: "x")
    assert silent.level == "fail" and "10.0.0.9 port 554" in silent.found and "secret" not in silent.found


def test_a_server_that_is_not_there_is_asked_for_real() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        assert System().answers("127.0.0.1", port)
        free.listen(1)
        assert System().answers("127.0.0.1", port) == ""


def test_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the check itself
    config = dataclasses.replace(Config(), engine=EngineConfig(bundle=str(tmp_path / "none")))
    found = findings(lambda: config, machine(tmp_path))
    assert found["bundle"].level == "fail" and str(tmp_path / "none") in found["bundle"].found
    assert "hygroma update" in found["bundle"].fix
    assert found["engine"].level == "fail" and "hygroma update" in found["engine"].fix


def test_a_bundle_that_failed_its_gate_says_so_though_it_is_unsigned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the check itself
    gate = SimpleNamespace(accepted_failing=True, reasons=("6 positives lost",))
    scorer = SimpleNamespace(
        manifest=SimpleNamespace(input=SimpleNamespace(size=8), gate=gate),
        score=lambda crop: SimpleNamespace(ms=1.0),
        label="made-up 1.0.0",
        signed_by="",
        runner_name="fake",
    )
    monkeypatch.setattr("edge.watching.open_scorer", lambda path, config: nullcontext(scorer))
    config = dataclasses.replace(Config(), bundle=BundleConfig(allow_unsigned=True))
    found = findings(lambda: config, machine(tmp_path))["bundle"]
    assert found.level == "warn" and "FAILED its gate and was accepted by hand: 6 positives lost" in found.found


@pytest.mark.parametrize(
    ("reason", "level", "fix"),
    [("it crashed 3 times", "warn", "install one that works"), (BY_HAND, "ok", "")],
)
def test_a_bundle_that_a_person_took_back_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, level: str, fix: str
) -> None:
    monkeypatch.undo()  # the check itself
    heads = SimpleNamespace(lacking=())
    manifest = SimpleNamespace(input=SimpleNamespace(size=8), gate=SimpleNamespace(accepted_failing=False), heads=heads)
    scorer = SimpleNamespace(
        manifest=manifest, score=lambda crop: SimpleNamespace(ms=1.0), label="m 1", signed_by="hygroma", runner_name="fake"
    )
    monkeypatch.setattr("edge.watching.open_scorer", lambda path, config: nullcontext(scorer))
    state = State(last=Rollback("m-2", reason, "2026-11-30T10:00:00+00:00"))
    monkeypatch.setattr("edge.update.trial.load_state", lambda slots: state)
    found = findings(lambda: Config(), machine(tmp_path))["bundle"]
    assert found.level == level and found.fix.startswith(fix) and f"m-2 was rolled back on 2026-11-30: {reason}" in found.found


@pytest.mark.requirement("M-01")
def test_a_bundle_that_cannot_tell_views_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the check itself
    manifest = SimpleNamespace(
        input=SimpleNamespace(size=8),
        gate=SimpleNamespace(accepted_failing=False),
        heads=SimpleNamespace(lacking=(ABSENT["plane"],)),
    )
    scorer = SimpleNamespace(
        manifest=manifest, score=lambda crop: SimpleNamespace(ms=1.0), label="m 1", signed_by="hygroma", runner_name="fake"
    )
    monkeypatch.setattr("edge.watching.open_scorer", lambda path, config: nullcontext(scorer))
    found = findings(lambda: Config(), machine(tmp_path))["bundle"]
    assert found.level == "warn" and "this bundle cannot tell views" in found.found and "label planes" in found.fix


def test_an_engine_that_is_missing(tmp_path: Path, fake_bundle: Bundle) -> None:
    def state(bundle: Bundle, runtime: str, cache: str) -> tuple[str, str, str]:
        return engine_state(bundle, runtime, cache, installed=lambda: False)

    engine = EngineConfig(bundle=str(tmp_path / "bundle"), runtime="tensorrt", cache=str(tmp_path / "cache"))
    config = dataclasses.replace(Config(), engine=engine, bundle=BundleConfig(allow_unsigned=True))
    found = findings(lambda: config, machine(tmp_path, engine_state=state))["engine"]
    assert found.level == "fail" and "no TensorRT here" in found.found and "tensorrt" in found.fix


def test_a_clock_that_was_never_set(tmp_path: Path) -> None:
    assert findings(Config, machine(tmp_path))["clock"].level == "ok"
    found = findings(Config, machine(tmp_path, now=lambda: 3600.0))["clock"]
    assert found.level == "warn" and "1970-01-01 01:00 UTC" in found.found and "timedatectl set-time" in found.fix


def test_a_disk_that_is_low(tmp_path: Path) -> None:
    config = dataclasses.replace(Config(), events=EventsConfig(dir=str(tmp_path / "e"), min_free_mb=512))
    found = findings(lambda: config, machine(tmp_path, free_bytes=lambda folder: 100 * 2**20))["events"]
    assert found.level == "fail" and "100 MB free" in found.found and "free 412 MB" in found.fix
    assert findings(lambda: config, machine(tmp_path))["events"].level == "ok"


def test_a_power_mode_that_holds_it_back_and_heat(jetson: Path, tmp_path: Path) -> None:
    found = findings(Config, machine(tmp_path, root=jetson))
    assert found["thermal"].level == "ok" and found["thermal"].found == "62 degrees C (tj-thermal)"
    assert found["power"].found == "mode 2, 25W" and "sudo nvpmodel -m 1` is MAXN_SUPER" in found["power"].fix
    (jetson / "sys/class/thermal/thermal_zone0/temp").write_text("91000\n")
    (jetson / "var/lib/nvpmodel/status").write_text("pmode:0001 fmode:quiet")
    found = findings(Config, machine(tmp_path, root=jetson))
    assert found["thermal"].level == "warn" and "91 degrees" in found["thermal"].found and "vents" in found["thermal"].fix
    assert found["power"] == Finding("power", "ok", "mode 1, MAXN_SUPER")
    (jetson / "var/lib/nvpmodel/status").unlink()
    assert findings(Config, machine(tmp_path, root=jetson))["power"].level == "warn"


def test_a_machine_without_sensors_or_modes(tmp_path: Path) -> None:
    found = findings(Config, machine(tmp_path))
    assert found["thermal"].level == found["power"].level == "ok"


def test_more_threads_than_cores(tmp_path: Path) -> None:
    config = dataclasses.replace(Config(), engine=EngineConfig(threads=4))
    found = findings(lambda: config, machine(tmp_path, cores=lambda: 2))["cores"]
    assert found.level == "warn" and found.fix == "set engine.threads to at most 2"


@pytest.mark.requirement("X-02")
@pytest.mark.parametrize(
    ("machine", "cpuinfo", "level", "said"),
    [
        ("x86_64", "flags\t\t: fpu avx2 avx512_vnni\n", "ok", "avx512_vnni: INT8 products are exact and fastest"),
        ("x86_64", "flags\t\t: fpu avx2 avx_vnni\n", "ok", "avx_vnni"),
        ("x86_64", "flags\t\t: fpu avx2 avx512f\n", "ok", "without VNNI"),
        ("x86_64", "flags\t\t: fpu avx2\n\nflags\t\t: fpu avx2 avx_vnni\n", "ok", "without VNNI"),  # every core must
        ("x86_64", "flags\t\t: fpu sse4_2\n", "warn", "without AVX2"),
        ("x86_64", "", "warn", "does not say"),
        ("aarch64", "Features\t: fp asimd asimddp\n", "ok", "with asimddp"),
        ("aarch64", "Features\t: fp asimd\n", "ok", "without asimddp"),
        ("riscv64", "", "warn", "riscv64: never tried"),
    ],
)
def test_the_kind_of_processor_is_named_with_what_it_means(
    tmp_path: Path, machine: str, cpuinfo: str, level: str, said: str
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(cpuinfo)
    found = findings(Config, System(root=tmp_path, machine=lambda: machine))["processor"]
    assert found.level == level and said in found.found
