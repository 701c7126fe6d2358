"""An update changes what runs as a whole or not at all, whatever is brought and whenever the power goes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from device import Device, RecordingDisk, open_fake
from fakes.bundle_parts import fake_manifest
from fakes.runner_fake import FakeRunner

from edge.bundle import Bundle, load_bundle, sign_bundle, tar, write_bundle
from edge.bundle.keys import new_key, read_signing_key
from edge.cli.bundles import _confirmed
from edge.config import Config
from edge.engines.scorer import Scorer
from edge.errors import BundleError, ConfigError, EngineError, HygromaError, StoreError
from edge.events.evidence import render_evidence
from edge.events.store import EventStore, NewEvent
from edge.records import RawOutputs, Scores
from edge.update.disk import SlotDisk
from edge.update.engine import build_engine
from edge.update.install import STEPS, install
from edge.update.rehearse import confirmed_pictures, evidence_pictures, no_longer_called

HERE = Path(__file__).parent


def snapshot(device: Device) -> dict[str, bytes | str]:
    """Everything under the bundles' folder but the locks."""
    root = device.slots.root
    return {
        str(p.relative_to(root)): os.readlink(p) if p.is_symlink() else p.read_bytes()
        for p in sorted(root.rglob("*"))
        if (p.is_symlink() or p.is_file()) and not p.name.endswith("lock")
    }


def test_an_update_goes_through_its_steps(device: Device) -> None:
    steps: list[str] = []
    done = device.update("1.3.0", step=steps.append)
    assert tuple(steps) == STEPS
    assert (done.changed, done.previous, done.signed_by) == (True, "", device.key.public.id)
    assert device.current() == "1.3.0" and device.running() == "1.3.0"
    done = device.update("1.4.0")
    assert (device.current(), device.previous(), done.previous) == ("1.4.0", "1.3.0", device.slots.previous())
    device.update("1.5.0")
    assert [name.rpartition("-")[0] for name in device.slots.names()] == ["1.4.0", "1.5.0"]  # the rest is gone


def test_the_same_bundle_again_changes_nothing(device: Device) -> None:
    device.update("1.3.0")
    before = snapshot(device)
    assert not device.update("1.3.0").changed
    assert snapshot(device) == before


def test_a_damaged_current_slot_is_replaced_by_the_same_bundle(device: Device) -> None:
    device.update("1.3.0")
    (device.slots.path(device.slots.current()) / "ood.npz").write_bytes(b"bit rot")
    assert device.update("1.3.0").changed
    assert device.running() == "1.3.0" and not device.state.problems


@pytest.mark.requirement("U-04")
def test_no_downgrade_unless_it_is_meant(device: Device) -> None:
    device.update("1.4.0")
    for version in ("1.3.9", "1.4.0-rc.1", "0.9.0"):
        with pytest.raises(BundleError, match=f"found {version}, 1.4.0 is current; say --allow-downgrade"):
            device.update(version)
    device.update("1.3.9", allow_downgrade=True)
    assert (device.current(), device.previous()) == ("1.3.9", "1.4.0")
    device.update("1.10.0")
    assert device.running() == "1.10.0"


def test_the_shipped_bundle_counts_too(device: Device) -> None:
    with pytest.raises(BundleError, match="found 1.2.2, 1.2.3 is current"):
        device.update("1.2.2")
    assert not device.slots.names()


def test_a_current_bundle_that_cannot_be_read_still_has_its_version(device: Device) -> None:
    device.update("1.4.0")
    (device.slots.path(device.slots.current()) / "manifest.json").unlink()
    with pytest.raises(BundleError, match="1.4.0 is current"):
        device.update("1.3.0")


def test_another_model_is_never_taken_for_a_newer_version(device: Device) -> None:
    other = device.make("9.0.0", id="other-model")
    with pytest.raises(BundleError, match="'other-model', 'fake-student' is current"):
        install(other, device.config, open_fake)
    assert install(other, device.config, open_fake, allow_downgrade=True).changed


def test_a_configured_bundle_makes_updates_pointless(device: Device) -> None:
    device.config = replace(device.config, engine=replace(device.config.engine, bundle="/somewhere"))
    with pytest.raises(ConfigError, match="engine.bundle: found '/somewhere'"):
        device.update("1.3.0")


def test_two_updates_at_once_do_not_mix(device: Device) -> None:
    def second(step: str) -> None:
        if step == "rehearsed":
            with pytest.raises(StoreError, match="an update is under way"):
                device.update("1.4.0")

    device.update("1.3.0", step=second)
    assert device.current() == "1.3.0"


# -- what may be brought


@pytest.fixture
def parsers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every call of something that parses what is in a bundle."""
    calls: list[str] = []

    def recorded(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            calls.append(name)
            return real(*args, **named)

        return call

    monkeypatch.setattr(np, "load", recorded("np.load", np.load))
    monkeypatch.setattr(zipfile, "ZipFile", recorded("zipfile", zipfile.ZipFile))
    monkeypatch.setattr(FakeRunner, "__enter__", recorded("runner", FakeRunner.__enter__))
    return calls


def with_member(add: Callable[[tarfile.TarFile], None]) -> Callable[[Device, Path], None]:
    def spoil(device: Device, path: Path) -> None:
        with tarfile.open(path, "a") as archive:
            add(archive)

    return spoil


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> Callable[..., None]:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, target, size
        archive.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))  # type: ignore[union-attr]
        archive.offset += 512

    return with_member(add)


def sign_with_stranger(device: Device, path: Path) -> None:
    sign_bundle(path, read_signing_key(new_key(device.root / "stranger")[0]))


def drop_signature(device: Device, path: Path) -> None:
    contents = load_bundle(path, device.config.bundle.trust()).contents
    path.write_bytes(tar.pack({name: data for name, data in contents.items() if name != "manifest.sig"}))


def borrow_signature(device: Device, path: Path) -> None:
    """A true signature, but of another bundle."""
    contents = dict(load_bundle(path, device.config.bundle.trust()).contents)
    contents["manifest.sig"] = device.bundle("1.9.0").contents["manifest.sig"]
    path.write_bytes(tar.pack(contents))


def other_schema(device: Device, path: Path) -> None:
    from edge.bundle.trust import make_signature

    contents = dict(load_bundle(path, device.config.bundle.trust()).contents)
    manifest = json.loads(contents["manifest.json"]) | {"schema_version": 9}
    contents["manifest.json"] = json.dumps(manifest).encode()
    contents["manifest.sig"] = make_signature(contents["manifest.json"], device.key)
    path.write_bytes(tar.pack(contents))


def cut(device: Device, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30_000])


HOSTILE: list[tuple[str, Callable[[Device, Path], None], str]] = [
    ("unsigned", drop_signature, "it is not signed"),
    ("wrong key", sign_with_stranger, "which is not trusted here"),
    ("another's signature", borrow_signature, "did not sign this manifest"),
    ("unknown schema", other_schema, "schema_version: found 9"),
    ("truncated", cut, "not a readable .tar"),
    ("extra file", member("extra.bin"), "a file that the manifest does not list"),
    ("symlink", member("a", tarfile.SYMTYPE, "/etc/shadow"), "a symbolic link"),
    ("hard link", member("a", tarfile.LNKTYPE, "manifest.json"), "a hard link"),
    ("path escape", member("../../../keys/hygroma.pub"), "plain file names only"),
    ("absolute path", member("/etc/hygroma/x.yaml"), "plain file names only"),
    ("device node", member("a", tarfile.BLKTYPE), "a block device"),
    ("sparse", member("a", tarfile.GNUTYPE_SPARSE, size=2**30), "a sparse file"),
    ("huge member", member("a", size=2**32), "holds more than"),
    ("duplicate name", member("model.qdq.onnx"), "packed twice"),
    ("pax header", member("a", tarfile.XHDTYPE), "an extended header"),
]


@pytest.mark.parametrize(("spoil", "message"), [(s, m) for _, s, m in HOSTILE], ids=[name for name, _, _ in HOSTILE])
@pytest.mark.requirement("B-02", "B-03")
def test_what_is_not_trusted_is_neither_parsed_nor_kept(
    device: Device, spoil: Callable[[Device, Path], None], message: str, parsers: list[str]
) -> None:
    device.update("1.3.0")
    path = device.make("1.4.0")
    spoil(device, path)
    before, everything = snapshot(device), sorted(p for p in device.root.rglob("*"))
    parsers.clear()
    with pytest.raises(BundleError, match=message):
        install(path, device.config, open_fake)
    assert parsers == []
    assert snapshot(device) == before and sorted(p for p in device.root.rglob("*")) == everything
    assert device.running() == "1.3.0"


def test_a_flipped_bit_anywhere_in_the_file_is_refused_or_changes_nothing(device: Device, parsers: list[str]) -> None:
    device.update("1.3.0")
    path, whole = device.make("1.4.0"), device.bundle("1.4.0").contents
    good = path.read_bytes()
    parsers.clear()
    for position in range(0, len(good), len(good) // 200):
        data = bytearray(good)
        data[position] ^= 0x40
        path.write_bytes(data)
        try:
            assert load_bundle(path, device.config.bundle.trust()).contents == whole  # an owner's name in a header
        except BundleError:
            continue
    assert parsers == []


# -- what must work before it is relied on


class Spoiled(FakeRunner):
    """As FakeRunner on the golden images, something else on anything that comes after."""

    def __init__(self, spoil: Callable[[RawOutputs], RawOutputs]) -> None:
        super().__init__()
        self.spoil, self.seen = spoil, 0

    def infer(self, crops: np.ndarray) -> RawOutputs:
        self.seen += len(crops)
        outputs = super().infer(crops)
        return self.spoil(outputs) if self.seen > 64 else outputs


def opener(make_runner: Callable[[], Any]) -> Callable[[str | Path, Config], Scorer]:
    return lambda path, config: Scorer(load_bundle(path, config.bundle.trust()), make_runner())


def fail(outputs: RawOutputs) -> RawOutputs:
    raise IndexError("a kernel that was never tried")


@pytest.mark.parametrize(
    ("runner", "message"),
    [
        (lambda: FakeRunner(respond=lambda crop: (9.0, 9.0)), "self-test of fake"),
        (lambda: Spoiled(lambda o: replace(o, plane=o.plane * np.nan)), "not finite"),
        (lambda: Spoiled(lambda o: replace(o, embedding=o.embedding * 1e30)), "not finite"),
        (lambda: Spoiled(fail), "the pipeline fails with this bundle: IndexError"),
    ],
    ids=["golden vectors", "NaN", "infinite distance", "crash"],
)
@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.requirement("U-05")
def test_a_bundle_that_does_not_work_here_changes_nothing(
    device: Device, runner: Callable[[], Any], message: str
) -> None:
    device.update("1.3.0")
    before = snapshot(device)
    with pytest.raises(EngineError, match=message):
        install(device.make("1.4.0"), device.config, opener(runner))
    assert snapshot(device) == before
    assert device.running() == "1.3.0"


def test_an_engine_is_built_before_the_rehearsal(device: Device) -> None:
    seen: list[str] = []

    def build(bundle: Bundle, config: Config) -> None:
        seen.append(f"engine for {bundle.manifest.model.version}")

    device.update("1.3.0", build=build, step=seen.append)
    at = seen.index("engine for 1.3.0")
    assert seen[at - 1 : at + 3] == ["placed", "engine for 1.3.0", "built", "rehearsed"]

    def cannot(bundle: Bundle, config: Config) -> None:
        raise EngineError("no candidate passed")

    before = snapshot(device)
    with pytest.raises(EngineError, match="no candidate passed"):
        device.update("1.4.0", build=cannot)
    assert snapshot(device) == before


@pytest.mark.parametrize(
    ("runtime", "installed", "usable", "outcome"),
    [
        ("onnxruntime", True, True, "none"),
        ("auto", False, False, "none"),
        ("auto", True, False, "none"),
        ("auto", True, True, "raced"),
        ("tensorrt", True, True, "raced"),
        ("tensorrt", True, False, "refused"),
        ("tensorrt", False, False, "refused"),
    ],
)
def test_an_engine_is_built_where_the_daemon_would_use_one(
    device: Device, runtime: str, installed: bool, usable: bool, outcome: str
) -> None:
    raced: list[object] = []
    config = replace(device.config, engine=replace(device.config.engine, runtime=runtime, cache=str(device.root / "c")))

    def find_host() -> Any:
        if not usable:
            raise EngineError("no GPU")
        return "host"

    def go() -> None:
        bundle = device.bundle("1.3.0")
        build_engine(
            bundle, config, find_host, lambda: installed, lambda host, cache, what, options: raced.append(what)
        )

    if outcome == "refused":
        with pytest.raises(EngineError, match="no GPU"):
            go()
    else:
        go()
    assert [b.manifest.model.version for b in raced] == (["1.3.0"] if outcome == "raced" else [])  # type: ignore[attr-defined]


def test_decision_parameters_that_the_daemon_would_refuse_are_refused_now(device: Device) -> None:
    manifest = replace(device.parts[0], decision={"enter": 1.0})
    write_bundle(
        device.root / "odd.tar", replace(manifest, model=replace(manifest.model, version="2.0.0")), device.parts[1]
    )
    sign_bundle(device.root / "odd.tar", device.key)
    with pytest.raises(BundleError, match="decision.cap: missing"):
        install(device.root / "odd.tar", device.config, open_fake)
    assert not device.slots.names()


def flag(store: EventStore, crop: np.ndarray) -> None:
    scores = Scores(0.9, 0.9, 0.5, np.full((4, 4), 0.5, np.float32))
    image = render_evidence(crop, scores, "2026-11-24T00:00:00Z", 1, "old")
    store.commit(NewEvent(1, "test", 1, 0, "2026-11-24T00:00:00Z", 0.9, 7.0, "old", image))


@pytest.mark.requirement("U-05")
def test_the_devices_own_evidence_is_rehearsed(device: Device, pictures: Callable[..., np.ndarray]) -> None:
    assert evidence_pictures(device.config.events.dir) == []
    crops = [cv2.GaussianBlur(crop, (9, 9), 0) for crop in pictures(4, 64)[:, 0]]
    with EventStore(device.config.events.dir) as store:
        for crop in crops:
            flag(store, crop)
        Path(store.root, store.events()[0].image_path).write_bytes(b"altered")
    seen: list[np.ndarray] = []

    class Seeing(FakeRunner):
        def infer(self, crops: np.ndarray) -> RawOutputs:
            seen.extend(crops[:, 0])
            return super().infer(crops)

    done = install(device.make("1.3.0"), device.config, opener(Seeing))
    assert done.pictures == 3
    for crop, shown in zip(crops[2::-1], seen[-3:], strict=True):  # newest first, as the model saw them then
        assert cv2.norm(crop, shown, cv2.NORM_L1) / crop.size < 2


@pytest.mark.requirement("U-09")
def test_confirmed_flags_that_a_new_bundle_no_longer_calls_are_named(
    device: Device, pictures: Callable[..., np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    crops = [cv2.GaussianBlur(crop, (9, 9), 0) for crop in pictures(4, 64)[:, 0]]
    with EventStore(device.config.events.dir) as store:
        for crop in crops:
            flag(store, crop)
        for event_id, review in ((1, "confirmed"), (2, "confirmed"), (3, "dismissed")):
            store.review(event_id, review, "A")
    confirmed = confirmed_pictures(device.config.events.dir)
    assert [found.event_id for found in confirmed] == [2, 1]
    answers = iter([(0.9, 0.9, 0.5), (0.9, 0.1, 0.5), (0.1, 0.9, 0.5), (0.9, 0.9, 9.0)])  # plane, hygroma, distance
    scorer = SimpleNamespace(
        manifest=fake_manifest(), score=lambda crop: Scores(*next(answers), np.zeros((4, 4), np.float32))
    )
    assert no_longer_called(scorer, confirmed) == (1,)  # the score is too low
    assert no_longer_called(scorer, confirmed) == (2, 1)  # called no standard plane; called unfamiliar
    found = install(device.make("1.3.0"), device.config, opener(FakeRunner))
    assert found.confirmed == 2 and (not found.lost or "no longer calls" in caplog.text)
    said = _confirmed(replace(found, lost=(1,)))
    assert "NO LONGER CALLS 1 of 2 confirmed flags of this device: events 1" in said and "--rollback" in said
    assert _confirmed(replace(found, confirmed=0, lost=())) == ""


@pytest.mark.requirement("U-04")
def test_a_withdrawn_keys_bundle_sets_no_version(device: Device) -> None:
    """It does not run any more: what was signed by a key that is trusted need not be newer than it."""
    device.update("1.3.0")
    stranger = device.make("9.9.9")
    sign_with_stranger(device, stranger)
    slot = device.slots.root / "9.9.9-0123456789ab"
    shutil.copytree(stranger, slot) if stranger.is_dir() else tar_into(stranger, slot)
    device.slots.keep()
    device.slots.switch(slot.name)
    done = install(device.make("1.4.0"), device.config, open_fake)
    assert done.changed
    with pytest.raises(BundleError, match="1.3.0, 1.4.0 is current"):  # of those that are trusted the order holds
        install(device.make("1.3.0"), device.config, open_fake)


def tar_into(file: Path, folder: Path) -> None:
    with tarfile.open(file) as archive:
        archive.extractall(folder, filter="data")


# -- the disk


def test_a_full_disk_changes_nothing(device: Device) -> None:
    device.update("1.3.0")
    before = snapshot(device)

    class Full(SlotDisk):
        def free_bytes(self, path: Path) -> int:
            return 2**20

    class Filling(SlotDisk):
        def write(self, path: Path, data: bytes) -> None:
            raise OSError(28, "No space left on device", str(path))

    for disk, message in ((Full(), "1 MB free"), (Filling(), "No space left")):
        with pytest.raises(StoreError, match=message):
            device.update("1.4.0", disk=disk)
        assert {name: data for name, data in snapshot(device).items() if ".incoming" not in name} == before
    assert device.running() == "1.3.0" and device.update("1.4.0").changed


def test_everything_is_durable_before_it_is_relied_on(device: Device) -> None:
    """A power cut may forget whatever was not synced: a folder's names until the folder is, a link until its folder is."""
    device.update("1.3.0")
    calls: list[tuple[str, str]] = []
    device.update("1.4.0", disk=RecordingDisk(lambda what, path: calls.append((what, path.name))))
    slot, root = device.slots.current(), device.slots.root.name

    def at(*call: str) -> int:
        return calls.index(call)  # type: ignore[arg-type]

    written = [name for what, name in calls if what == "write" and name != "state.json.tmp"]
    assert sorted(written) == sorted(device.bundle("1.4.0").contents)  # `write` syncs each: tests/events
    assert max(at("write", name) for name in written) < at("sync", ".incoming") < at("rename", slot)
    placed = at("rename", slot)
    assert calls[placed + 1] == ("sync", root)
    kept, switched = at("link", "previous"), at("link", "current")
    assert placed + 1 < kept < switched
    assert calls[kept : kept + 3] == [("link", "previous"), ("rename", "previous"), ("sync", root)]
    assert calls[switched : switched + 3] == [("link", "current"), ("rename", "current"), ("sync", root)]


@pytest.mark.parametrize(
    ("scenario", "halves"), [("first", "before"), ("second", "both"), ("bring_back", "before"), ("failing", "both")]
)
@pytest.mark.timeout(900)
@pytest.mark.requirement("U-01")
def test_killed_anywhere_the_old_or_the_new_bundle_runs(tmp_path: Path, scenario: str, halves: str) -> None:
    command = [sys.executable, str(HERE / "walk.py"), str(tmp_path), scenario, halves]
    done = subprocess.run(command, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stderr[-3000:]
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    rollback = scenario == "failing"
    assert len(kills) >= (20 if scenario in ("first", "second") else 9)
    assert [k["killed"] for k in kills if not k["halfway"]] == [True] * (sum(not k["halfway"] for k in kills) - 1) + [
        False
    ]
    ran = []
    for kill in kills:
        old, new, after, finally_ = kill["old"], kill["new"], kill["after"], kill["finally"]
        assert after["runs"] == new if rollback else after["runs"] in (old, new), kill
        # Once more, and it is as if nothing had happened.
        assert finally_["runs"] == new, kill
        if rollback:
            assert finally_["rollbacks"] == after["rollbacks"] == 1 and "crashed 3 times" in after["problems"][0], kill
        else:
            assert finally_["leftovers"] == [] and not after["problems"], kill
        if not kill["halfway"]:
            ran.append(after["runs"])
    assert ran == sorted(ran, key=lambda version: version == kills[0]["new"])  # old up to one moment, new from then on


def test_a_start_that_hangs_is_ended_even_while_it_keeps_python_from_running(tmp_path: Path) -> None:
    script = (
        "import ctypes\n"
        "from edge.update.startup import Deadline\n"
        "Deadline().arm(0.3)\n"
        "ctypes.PyDLL(None).sleep(30)\n"  # holds the interpreter's lock, as an engine that hangs may
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=HERE.parents[1], capture_output=True, timeout=25)
    assert done.returncode == 1 and b"Timeout" in done.stderr and b"File" in done.stderr


def test_every_refusal_is_one_of_ours(device: Device) -> None:
    """Garbage of many kinds: never anything but a HygromaError."""
    rng = np.random.default_rng(0)
    good = bytearray(device.make("1.4.0").read_bytes())
    path = device.root / "garbage.tar"
    for _ in range(150):
        data = bytearray(good)
        for position in rng.integers(0, len(data), 20):
            data[position] = rng.integers(256)
        start = int(rng.integers(len(data)))
        del data[start : start + int(rng.integers(2000))]
        path.write_bytes(data)
        with pytest.raises(HygromaError):
            install(path, device.config, open_fake)


def test_a_folder_will_do(device: Device, tmp_path: Path) -> None:
    bundle: Bundle = device.bundle("1.4.0")
    (tmp_path / "unpacked").mkdir()
    for name, data in bundle.contents.items():
        (tmp_path / "unpacked" / name).write_bytes(data)
    assert install(tmp_path / "unpacked", device.config, open_fake).changed


@pytest.mark.parametrize("name", ["lock", "update.lock", "state.json.tmp", ".incoming", ".current.new"])
@pytest.mark.requirement("U-07")
def test_an_update_writes_through_no_link(device: Device, name: str) -> None:
    """The folder is the daemon's, and root may be who updates: a link in it must lead root nowhere."""
    precious = device.root / "precious"
    precious.write_text("precious")
    device.slots.root.mkdir(parents=True)
    (device.slots.root / name).symlink_to(precious)
    with suppress(StoreError):
        device.update("1.3.0")
    assert precious.read_text() == "precious" and not precious.is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
@pytest.mark.requirement("U-07")
def test_what_root_installs_belongs_to_the_daemon(device: Device) -> None:
    events = Path(device.config.events.dir)
    events.mkdir()
    os.chown(events, 12345, 12345)
    device.update("1.3.0")
    device.update("1.4.0")
    assert device.start("crash") == "1.4.0"  # counts, so state.json is there too
    paths = [device.slots.root, *device.slots.root.rglob("*")]
    assert len(paths) > 12 and {(p.lstat().st_uid, p.lstat().st_gid) for p in paths} == {(12345, 12345)}


def test_a_builder_that_breaks_changes_nothing(device: Device) -> None:
    device.update("1.3.0")
    before = snapshot(device)

    def broken(bundle: Bundle, config: Config) -> None:
        raise RuntimeError("cudaErrorUnknown")

    with pytest.raises(EngineError, match="no engine can be built from it: RuntimeError"):
        device.update("1.4.0", build=broken)
    assert snapshot(device) == before
