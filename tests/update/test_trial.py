"""A bundle that fails goes by itself, one that works stays, and a power cut is nobody's fault. On a fake clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from device import CRASH, CUT, HANG, READY, READY_S, STOP, Device, open_fake

from edge.config import Config
from edge.engines.scorer import Scorer
from edge.errors import BundleError, ConfigError, EngineError, StoreError
from edge.update.semver import precedence
from edge.update.trial import BY_HAND, MAX_STATE_BYTES, PROVE_S, load_state, roll_back


def test_without_an_update_the_shipped_bundle_runs_and_nothing_is_written(device: Device) -> None:
    assert device.running() == "1.2.3"
    assert (device.state.signed_by, device.state.previous, device.state.on_trial) == ("hygroma", "", False)
    assert not device.slots.root.exists()


def test_an_update_runs_and_says_so(device: Device) -> None:
    device.update("1.3.0")
    assert device.running() == "1.3.0"
    state = device.state
    assert (state.version, state.signed_by, state.previous) == ("1.3.0", device.key.public.id, "shipped")
    assert state.on_trial and not state.problems


@pytest.mark.requirement("U-03")
def test_three_crashes_and_the_old_one_is_back(device: Device) -> None:
    device.update("1.3.0")
    device.update("1.4.0")
    assert [device.start(CRASH) for _ in range(3)] == ["1.4.0"] * 3
    assert device.running() == "1.3.0"
    assert device.state.rollbacks == 1 and device.state.previous == "shipped"
    (problem,) = device.state.problems
    assert "1.4.0" in problem and "crashed 3 times" in problem
    assert device.running() == "1.3.0"  # and stays
    assert device.state.rollbacks == 1


def test_back_to_the_shipped_bundle_when_there_was_no_other(device: Device) -> None:
    device.update("1.3.0")
    for _ in range(3):
        assert device.start(CRASH) == "1.3.0"
    assert device.running() == "1.2.3"
    assert device.current() == "" and device.state.signed_by == "hygroma" and device.state.rollbacks == 1


def test_crashes_at_start_and_later_count_together_and_clean_ends_not_at_all(device: Device) -> None:
    device.update("1.3.0")
    endings = [HANG, STOP, CRASH, STOP, STOP]  # HANG for 1 s: died before it was ready
    assert [device.start(ending) for ending in endings] == ["1.3.0"] * 5
    assert device.start(CRASH) == "1.3.0"
    assert device.running() == "1.2.3"


@pytest.mark.requirement("U-02")
def test_a_start_that_is_not_ready_in_time_is_enough(device: Device) -> None:
    device.update("1.3.0")
    assert device.start(HANG, READY_S - 1) == "1.3.0"  # died within its time: one crash
    assert device.start(STOP) == "1.3.0"
    assert device.start(HANG, READY_S) == "1.3.0"
    assert device.running() == "1.2.3"
    assert "not ready within 60 s" in device.state.problems[0]


def test_power_cuts_are_no_crashes_once_the_daemon_was_ready(device: Device) -> None:
    device.update("1.3.0")
    assert [device.start(CUT) for _ in range(10)] == ["1.3.0"] * 10
    assert device.running() == "1.3.0"


def test_power_cuts_before_it_was_ready_count(device: Device) -> None:
    """A bundle that makes the box brown out as it loads must not do so for ever."""
    device.update("1.3.0")
    for i in range(3):
        assert device.start(HANG, 30) == "1.3.0"
        device.boot, device.now_ns = f"next {i}", 10**9
    assert device.running() == "1.2.3"


def test_a_bundle_that_watched_long_enough_is_proven(device: Device) -> None:
    device.update("1.3.0")
    assert device.start(CRASH) == device.start(CRASH) == "1.3.0"
    assert device.start(READY, PROVE_S) == "1.3.0"
    assert device.read_state()["proven"] == [device.slots.current()]
    for _ in range(10):
        assert device.start(CRASH) == "1.3.0"
        assert not device.state.on_trial


def test_just_short_of_it_is_not(device: Device) -> None:
    device.update("1.3.0")
    device.start(READY, PROVE_S - 1)
    assert device.read_state()["proven"] == []
    assert device.running() == "1.3.0" and device.state.on_trial


def broken(version: str, error: Exception):  # type: ignore[no-untyped-def]
    def open_scorer(path: str | Path, config: Config) -> Scorer:
        scorer = open_fake(path, config)
        if scorer.manifest.model.version == version:
            raise error
        return scorer

    return open_scorer


def test_one_that_refuses_to_run_is_rolled_back_within_the_same_start(device: Device) -> None:
    device.update("1.3.0")
    assert device.start(STOP, open_scorer=broken("1.3.0", EngineError("self-test failed"))) == "1.2.3"
    assert device.current() == "" and device.state.rollbacks == 1
    assert "self-test failed" in device.state.problems[0]


def test_a_damaged_update_gives_way(device: Device) -> None:
    device.update("1.3.0")
    path = device.slots.path(device.slots.current()) / "model.qdq.onnx"
    path.write_bytes(b"another mod")
    assert device.running() == "1.2.3"


def test_a_proven_bundle_that_cannot_run_is_passed_over_but_not_given_up(device: Device) -> None:
    device.update("1.3.0")
    device.start(READY, PROVE_S)
    busy = broken("1.3.0", EngineError("GPU busy"))
    assert device.start(STOP, open_scorer=busy) == "1.2.3"
    assert "cannot run (GPU busy); an older one runs instead" in device.state.problems[0]
    assert device.running() == "1.3.0" and not device.state.problems and device.state.rollbacks == 0


def test_when_nothing_runs_the_error_is_the_last_ones(device: Device) -> None:
    device.update("1.3.0")

    def nothing(path: str | Path, config: Config) -> Scorer:
        raise EngineError(f"no engine for {path}")

    with pytest.raises(EngineError, match="shipped"):
        device.start(open_scorer=nothing)


@pytest.mark.requirement("B-01")
def test_a_withdrawn_key_takes_its_bundles_along(device: Device) -> None:
    device.update("1.3.0")
    device.start(READY, PROVE_S)
    device.config = replace(device.config, bundle=replace(device.config.bundle, trusted_keys=()))
    assert device.running() == "1.2.3"
    assert "not trusted here" in device.state.problems[0]


def test_errors_that_are_not_the_bundles_do_not_count(device: Device) -> None:
    device.update("1.3.0")
    for _ in range(5):
        with pytest.raises(ConfigError):
            device.start(open_scorer=broken("1.3.0", ConfigError("no such runtime")))
    assert device.running() == "1.3.0"


@pytest.mark.requirement("B-04")
def test_an_unsigned_bundle_runs_only_where_it_is_allowed_and_the_page_says_so(device: Device) -> None:
    device.update("1.3.0")
    (device.slots.path(device.slots.current()) / "manifest.sig").unlink()
    allowed = replace(device.config.bundle, allow_unsigned=True)
    device.config = replace(device.config, bundle=allowed)
    assert device.running() == "1.3.0"
    assert device.state.signed_by == "" and device.state.allow_unsigned
    assert device.state.problems == ("the bundle is UNSIGNED (bundle.allow_unsigned)",)
    device.config = replace(device.config, bundle=replace(allowed, allow_unsigned=False))
    assert device.running() == "1.2.3"


@pytest.mark.requirement("B-05")
def test_a_bundle_whose_failing_gate_was_accepted_runs_and_says_so(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, files = device.parts
    gate = replace(manifest.gate, passed=False, accepted_failing=True, reasons=("6 positives lost",))
    device.parts = (replace(manifest, gate=gate), files)
    device.update("1.3.0")
    assert device.running() == "1.3.0"
    said = "INT8 conversion FAILED its gate and was accepted by hand: 6 positives lost"
    assert device.state.problems == (f"the bundle's {said}",)
    assert "6 positives lost" in caplog.text


def test_a_configured_bundle_goes_before_all_and_has_no_fallback(device: Device) -> None:
    device.update("1.3.0")
    device.config = replace(device.config, engine=replace(device.config.engine, bundle=str(device.make("1.4.0"))))
    assert device.running() == "1.4.0" and not device.state.on_trial
    device.make("1.4.0").write_bytes(b"")
    with pytest.raises(BundleError):
        device.running()


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"proven": [1]}', b'{"schema_version": 2}', b"\xff" * (MAX_STATE_BYTES + 9)]
)
def test_a_damaged_record_keeps_nothing_from_starting(device: Device, data: bytes) -> None:
    device.update("1.3.0")
    (device.slots.root / "state.json").write_bytes(data)
    assert [device.start(CRASH) for _ in range(3)] == ["1.3.0"] * 3
    assert device.running() == "1.2.3"


@pytest.mark.parametrize("target", ["/etc", "../../keys", ".", "", "a\n-0123456789ab", "1.3.0-0123456789ab"])
def test_a_link_that_leads_elsewhere_is_not_followed(device: Device, target: str) -> None:
    device.update("1.3.0")
    current = device.slots.root / "current"
    current.unlink()
    if target:
        current.symlink_to(target)
    else:
        current.mkdir()
    assert device.running() == "1.2.3"


def test_a_record_that_cannot_be_written_keeps_nothing_from_starting(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.update("1.3.0")

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(device.slots.disk, "write_durable", full)
    monkeypatch.setattr("edge.update.disk.SlotDisk.write_durable", lambda self, path, data: full(path, data))
    assert [device.start(CRASH) for _ in range(5)] == ["1.3.0"] * 5


def test_an_update_in_the_middle_of_a_run_has_a_trial_of_its_own(device: Device) -> None:
    device.update("1.3.0")
    from edge.update.startup import open_start

    with open_start(device.config, open_fake, device.trial) as start:
        start.notifier.ready()
        device.update("1.4.0")
        device.now_ns += round(PROVE_S * 1e9)
        start.notifier.watchdog()  # 1.3.0 has watched long enough; 1.4.0 has not watched at all
    assert device.read_state()["proven"] == []
    assert device.running() == "1.4.0" and device.state.on_trial


def test_a_person_can_go_back(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    device.update("1.3.0")
    device.update("1.4.0")
    with caplog.at_level("INFO"):
        assert roll_back(device.slots, device.slots.current(), BY_HAND)
    assert [r.levelname for r in caplog.records if "is rolled back" in r.message] == ["INFO"]  # nothing failed
    assert device.running() == "1.3.0" and not [p for p in device.state.problems if "rolled back" in p]
    assert roll_back(device.slots, device.slots.current(), "again") == ""
    assert device.running() == "1.2.3"
    with pytest.raises(StoreError, match="nothing to go back from"):
        roll_back(device.slots, device.slots.current(), "and again")


def test_an_update_forgets_the_rollback_before_it_but_not_the_count(device: Device) -> None:
    device.update("1.3.0")
    roll_back(device.slots, device.slots.current(), "bad")
    device.update("1.3.1")
    assert device.running() == "1.3.1"
    assert device.state.problems == () and device.state.rollbacks == 1
    assert load_state(device.slots).last is None


def test_a_failing_update_is_not_kept_to_go_back_to(device: Device) -> None:
    device.update("1.3.0")
    device.start(READY, PROVE_S)
    device.update("1.4.0")
    device.start(CRASH)
    device.start(CRASH)  # judged at the start of it: one crash so far
    device.update("1.4.1")
    assert (device.current(), device.previous()) == ("1.4.1", "1.3.0")


def test_versions_are_ordered_as_semver_says() -> None:
    ordered = ["0.9.0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11",
               "1.0.0-rc.1", "1.0.0", "1.0.1", "1.2.0", "1.10.0", "2.0.0-0", "2.0.0"]  # fmt: skip
    assert sorted(reversed(ordered), key=precedence) == ordered
