"""The engine cache: exact keys, whole entries, nothing unverified handed out."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from edge.engines.tensorrt.cache import (
    ENTRY_FILE,
    LAYERS_FILE,
    PLAN_FILE,
    QUARANTINE,
    SUMS_FILE,
    EngineCache,
    Entry,
    default_folder,
)
from edge.engines.tensorrt.key import EngineKey, Platform
from edge.engines.tensorrt.layers import LayerSummary
from edge.errors import EngineError

PLATFORM = Platform("10.3.0", "12.6", "Orin", "8.7")
KEY = EngineKey("a" * 64, PLATFORM, "int8", "weak batch=1")
LAYERS = LayerSummary(3, 1, 1, 0, 1, 0, 2, 1)


def entry(key: EngineKey = KEY, built_s: float = 1.0) -> Entry:
    return Entry(key, "b 1.0.0", built_s, 2.0, 4, LAYERS)


def test_what_was_put_comes_back(cache: EngineCache) -> None:
    assert cache.get(KEY) is None and cache.entries() == []
    cache.put(entry(), b"plan", "{}")
    stored = cache.get(KEY)
    assert stored is not None and stored.plan == b"plan" and stored.entry == entry()
    assert cache.entries() == [entry()]


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(KEY, onnx_sha256="b" * 64),
        dataclasses.replace(KEY, precision="fp16"),
        dataclasses.replace(KEY, flags="weak batch=2"),
        dataclasses.replace(KEY, builder=KEY.builder + 1),
        *(
            dataclasses.replace(KEY, platform=dataclasses.replace(PLATFORM, **{f.name: "other"}))
            for f in dataclasses.fields(Platform)
        ),
    ],
    ids=["graph", "precision", "flags", "builder", "tensorrt", "cuda", "gpu", "compute capability"],
)
def test_any_other_key_is_a_miss(cache: EngineCache, other: EngineKey) -> None:
    cache.put(entry(), b"plan", "")
    assert other.digest != KEY.digest and cache.get(other) is None


def test_an_entry_replaces_the_one_before(cache: EngineCache) -> None:
    cache.put(entry(), b"old", "")
    cache.put(entry(built_s=2.0), b"new", "")
    stored = cache.get(KEY)
    assert stored is not None and stored.plan == b"new"
    assert [p.name for p in cache.root.iterdir()] == [KEY.digest]


@pytest.mark.parametrize("file", [PLAN_FILE, ENTRY_FILE, LAYERS_FILE, SUMS_FILE])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "link"])
def test_a_damaged_entry_is_set_aside_with_a_log_line(
    cache: EngineCache, caplog: pytest.LogCaptureFixture, file: str, damage: str
) -> None:
    cache.put(entry(), b"plan", "{}")
    path = cache.root / KEY.digest / file
    data = path.read_bytes()
    if damage == "flip":
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif damage == "truncate":
        path.write_bytes(data[:-5])
    else:
        path.unlink()
        if damage == "link":
            (cache.root / "elsewhere").write_bytes(data)
            path.symlink_to(cache.root / "elsewhere")
    assert cache.get(KEY) is None
    assert not (cache.root / KEY.digest).exists()
    assert len(list((cache.root / QUARANTINE).iterdir())) == 1
    assert "set aside" in caplog.text and "hygroma engine race" in caplog.text
    cache.put(entry(), b"plan", "{}")  # built again
    assert cache.get(KEY) is not None


def test_an_entry_moved_under_another_name_is_refused(cache: EngineCache) -> None:
    """A correct hash of the wrong engine: what a key of anything less would hand out."""
    other = dataclasses.replace(KEY, onnx_sha256="b" * 64)
    cache.put(entry(), b"plan", "")
    (cache.root / KEY.digest).rename(cache.root / other.digest)
    assert cache.get(other) is None and cache.entries() == []


def test_a_build_that_dies_leaves_nothing_that_counts(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dies)
        with pytest.raises(EngineError, match="No space left on device.*--cache"):
            cache.put(entry(), b"plan", "")
    assert cache.get(KEY) is None and cache.entries() == [] and list(cache.root.iterdir()) == []


def test_everything_is_synced_before_it_has_its_name(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("sync"), sync(fd))[1])
    monkeypatch.setattr(Path, "rename", lambda self, to: (done.append("rename"), rename(self, to))[1])
    cache.put(entry(), b"plan", "")
    assert done == ["sync"] * 5 + ["rename", "sync"]  # four files and their folder, the name, the folder above


def test_the_daemon_may_read_what_root_built(cache: EngineCache) -> None:
    before = os.umask(0o077)
    try:
        cache.put(entry(), b"plan", "")
    finally:
        os.umask(before)
    folder = cache.root / KEY.digest
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o644}


def test_a_cache_that_everyone_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(EngineError, match="engines are code: `chmod o-w`"):
        EngineCache(tmp_path / "open")


def test_timings_come_back_unless_damaged(cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    assert cache.timing(PLATFORM) == b""
    cache.put_timing(PLATFORM, b"tactics\n\x00")
    assert cache.timing(PLATFORM) == b"tactics\n\x00"
    assert cache.timing(dataclasses.replace(PLATFORM, gpu="other")) == b""
    path = next(cache.root.glob("timing-*"))
    path.write_bytes(path.read_bytes() + b"x")
    assert cache.timing(PLATFORM) == b"" and "damaged" in caplog.text


def test_prune_keeps_the_newest_of_each_precision_and_the_winner(cache: EngineCache) -> None:
    raced = dataclasses.replace(KEY, flags="weak batch=8")
    newest = dataclasses.replace(KEY, precision="fp16")
    strangers = [
        dataclasses.replace(KEY, onnx_sha256="b" * 64),
        dataclasses.replace(KEY, platform=dataclasses.replace(PLATFORM, tensorrt="10.16.1")),
        dataclasses.replace(KEY, flags="weak batch=4"),
    ]
    for built_s, key in (
        (1.0, raced),
        (3.0, KEY),
        (2.0, newest),
        (2.0, strangers[0]),
        (2.0, strangers[1]),
        (2.5, strangers[2]),
    ):
        cache.put(entry(key, built_s), b"plan", "")
    cache.write_json(f"race-{KEY.scope}.json", {"winner": raced.digest})
    cache.write_json(f"race-{strangers[0].scope}.json", {"winner": strangers[0].digest})
    cache.put_timing(PLATFORM, b"t")
    cache.put_timing(strangers[1].platform, b"t")
    (cache.root / QUARANTINE / "x").mkdir(parents=True)
    (cache.root / ".partial-old").mkdir()
    os.utime(cache.root / ".partial-old", (1, 1))
    (cache.root / ".partial-new").mkdir()
    pruned = cache.prune(PLATFORM, KEY.onnx_sha256)
    assert {e.key.digest for e in cache.entries()} == {KEY.digest, newest.digest, raced.digest}
    assert {*pruned.removed} >= {
        *(s.digest for s in strangers),
        QUARANTINE,
        ".partial-old",
        f"race-{strangers[0].scope}.json",
    }
    assert {*pruned.kept} >= {f"race-{KEY.scope}.json", ".partial-new"} and pruned.freed > 0
    assert cache.timing(PLATFORM) == b"t" and cache.timing(strangers[1].platform) == b""


def test_prune_keeps_the_daemons_engine_where_a_larger_batch_is_newer(cache: EngineCache) -> None:
    larger = dataclasses.replace(KEY, flags="weak batch=8")
    for built_s, key in ((1.0, KEY), (2.0, larger)):
        cache.put(entry(key, built_s), b"plan", "")
    assert cache.prune(PLATFORM, KEY.onnx_sha256).removed == (larger.digest,)


def test_prune_does_not_call_removed_what_stayed(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(KEY, onnx_sha256="b" * 64)
    cache.put(entry(other, 1.0), b"plan", "")

    def refuses(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "unlink", refuses)
    with pytest.raises(EngineError, match=f"{other.digest}: cannot be removed .Permission denied.; prune as the user"):
        cache.prune(PLATFORM, KEY.onnx_sha256)


def test_prune_of_a_cache_that_is_not_there(cache: EngineCache) -> None:
    assert cache.prune(PLATFORM, KEY.onnx_sha256).removed == ()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/hygroma")
    assert default_folder() == Path("/var/cache/hygroma/engines")
    monkeypatch.delenv("CACHE_DIRECTORY")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_folder() == Path("/var/cache/hygroma/engines")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_folder() == Path("/x/hygroma/engines")
