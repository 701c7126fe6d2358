"""Only bundles that somebody trusted signed are loaded, and until that is known nothing of them reaches a parser."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge.bundle import ANYONE, Bundle, Trust, load_bundle, sign_bundle, tar
from edge.bundle.keys import (
    PublicKey,
    SigningKey,
    find_public_key,
    is_key_text,
    new_key,
    parse_public_key,
    read_signing_key,
)
from edge.bundle.trust import PIN_FILE, SHIPPED, SIGNATURE_FILE, make_signature, pinned_sha256
from edge.errors import BundleError, ConfigError
from edge.watching import SHIPPED_BUNDLE


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return read_signing_key(new_key(tmp_path / "keys")[0])


@pytest.fixture
def stranger(tmp_path: Path) -> SigningKey:
    return read_signing_key(new_key(tmp_path / "stranger")[0])


@pytest.fixture
def signed(fake_bundle: Bundle, key: SigningKey) -> Path:
    sign_bundle(fake_bundle.path, key)
    return fake_bundle.path


# -- keys


def test_a_new_key_is_private_and_its_text_is_its_public_half(tmp_path: Path) -> None:
    private, public, key = new_key(tmp_path / "k")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert parse_public_key(public.read_text().strip()) == key == read_signing_key(private).public
    assert find_public_key(str(public)) == find_public_key(key.text) == key
    assert key.text not in repr(read_signing_key(private)) and len(key.id) == 16


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    private, public, _ = new_key(tmp_path)
    before = private.read_bytes()
    with pytest.raises(ConfigError, match="hygroma.pub: cannot be written"):
        new_key(tmp_path)
    public.unlink()
    with pytest.raises(ConfigError, match="hygroma.key: cannot be written"):
        new_key(tmp_path)
    assert private.read_bytes() == before


def test_a_private_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    private, _, _ = new_key(tmp_path)
    private.chmod(0o640)
    with pytest.raises(ConfigError, match="mode 0640.*chmod 600"):
        read_signing_key(private)


def test_other_kinds_of_keys_are_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    encrypted = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")
    )
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    short = b"MC4CAQAwBQYDK2VvBCIEIJCnNjhQDdjF7Q/5mTJqBj4LVQwcJmtSAZFbDqSaQrfj"
    short = b"-----BEGIN PRIVATE KEY-----\n" + short + b"\n-----END PRIVATE KEY-----\n"
    for data in (encrypted, other, short, b"", b"garbage", b"\xff" * 100_000):  # short: 32 bytes, and says it is X448
        path = tmp_path / "x.key"
        path.write_bytes(data)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match="not an unencrypted Ed25519 private key"):
            read_signing_key(path)


@pytest.mark.parametrize(
    "text", ["", "ed25519:", "rsa:AAAA", "ed25519:" + "A" * 44, "ed25519:" + "A" * 42 + "B=", "x" * 999]
)
def test_what_is_no_public_key_says_what_one_looks_like(text: str) -> None:
    assert not is_key_text(text)
    with pytest.raises(ConfigError, match=r"public key: found .*must be ed25519:"):
        find_public_key(text)


# -- whose bundles load


@pytest.mark.requirement("B-01")
def test_a_signed_bundle_says_who_signed_it(signed: Path, key: SigningKey) -> None:
    assert load_bundle(signed, Trust((key.public,))).signed_by == key.public.id
    assert load_bundle(signed, ANYONE).signed_by == ""  # a signature by nobody we know vouches for nothing


def test_signing_packs_for_travel_and_changes_nothing_else(
    fake_bundle: Bundle, key: SigningKey, tmp_path: Path
) -> None:
    packed = sign_bundle(fake_bundle.path, key, tmp_path / "b.tar")
    assert not (fake_bundle.path / SIGNATURE_FILE).exists()
    assert (packed.signed_by, packed.files, packed.sha256) == (key.public.id, fake_bundle.files, fake_bundle.sha256)
    with pytest.raises(BundleError, match="already exists"):
        sign_bundle(fake_bundle.path, key, tmp_path / "b.tar")


def test_signing_again_replaces_the_signature(signed: Path, stranger: SigningKey, tmp_path: Path) -> None:
    assert sign_bundle(signed, stranger).signed_by == stranger.public.id
    sign_bundle(signed, stranger, tmp_path / "b.tar")
    assert sign_bundle(tmp_path / "b.tar", stranger).signed_by == stranger.public.id


@pytest.mark.requirement("B-01")
def test_the_shipped_bundle_is_pinned() -> None:
    """When the bundle was replaced: cd edge/data && sha256sum bundle/manifest.json > bundle.sha256"""
    manifest = (SHIPPED_BUNDLE / "manifest.json").read_bytes()
    assert PIN_FILE.read_text().split() == [hashlib.sha256(manifest).hexdigest(), "bundle/manifest.json"]
    assert load_bundle(SHIPPED_BUNDLE).signed_by == SHIPPED
    subprocess.run(["sha256sum", "-c", PIN_FILE.name], cwd=PIN_FILE.parent, check=True, capture_output=True, timeout=30)


def test_no_pin_trusts_nothing(fake_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.bundle.trust.PIN_FILE", tmp_path / "none")
    pinned_sha256.cache_clear()
    try:
        with pytest.raises(BundleError, match="not signed"):
            load_bundle(SHIPPED_BUNDLE)
    finally:
        pinned_sha256.cache_clear()


def resigned(path: Path, old: str, new: str) -> None:
    line = (path / SIGNATURE_FILE).read_text()
    assert old in line
    (path / SIGNATURE_FILE).write_text(line.replace(old, new))


def spoil_edit(path: Path) -> None:
    """The attack: a lower threshold in a signed manifest that is valid otherwise."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["operating_point"]["hygroma_threshold"] = 0.99
    (path / "manifest.json").write_text(json.dumps(manifest))


def spoil_model(path: Path) -> None:
    """The attack: another model, its hash put into the manifest."""
    manifest = json.loads((path / "manifest.json").read_text())
    data = b"another model"
    (path / "model.qdq.onnx").write_bytes(data)
    manifest["files"]["model.qdq.onnx"] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (path / "manifest.json").write_text(json.dumps(manifest))


HOSTILE: list[tuple[Callable[[Path], object], str]] = [
    (lambda p: (p / SIGNATURE_FILE).unlink(), "it is not signed"),
    (lambda p: (p / SIGNATURE_FILE).write_bytes(b""), r"manifest.sig: found '' \(0 bytes\)"),
    (lambda p: (p / SIGNATURE_FILE).write_bytes(b"\xff" * 2**20), r"manifest.sig: found .*\(1048576 bytes\)"),
    (lambda p: resigned(p, "signature 1", "signature 2"), "manifest.sig: found 'hygroma-signature 2"),
    (lambda p: resigned(p, "ed25519", "rsa4096"), "manifest.sig: found"),
    (lambda p: resigned(p, "\n", "\n\n"), "manifest.sig: found"),
    (spoil_edit, "did not sign this manifest"),
    (spoil_model, "did not sign this manifest"),
]


@pytest.fixture
def parsers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every call of something that parses the contents of a bundle, in order."""
    import onnxruntime

    from edge.bundle import bundle as module
    from edge.engines import onnxruntime_runner

    calls: list[str] = []

    def recorded(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **named: object) -> object:
            calls.append(name)
            return real(*args, **named)

        return call

    monkeypatch.setattr(onnxruntime, "InferenceSession", recorded("onnx", onnxruntime.InferenceSession))
    monkeypatch.setattr(onnxruntime_runner, "fuse", recorded("onnx", onnxruntime_runner.fuse))
    monkeypatch.setattr(np, "load", recorded("np.load", np.load))
    monkeypatch.setattr(zipfile, "ZipFile", recorded("zipfile", zipfile.ZipFile))
    monkeypatch.setattr(module, "parse_manifest", recorded("manifest", module.parse_manifest))
    return calls


def open_whole(path: Path, trust: Trust) -> None:
    """What the daemon does with a bundle, up to its first inference."""
    from edge.engines.onnxruntime_runner import OnnxRuntimeRunner
    from edge.engines.scorer import Scorer

    bundle = load_bundle(path, trust)
    with Scorer(bundle, OnnxRuntimeRunner(bundle.model)):
        pass


def as_tar(folder: Path) -> Path:
    path = folder.with_suffix(".tar")
    path.write_bytes(tar.pack({p.name: p.read_bytes() for p in sorted(folder.iterdir())}))
    return path


@pytest.mark.parametrize("form", [lambda p: p, as_tar], ids=["folder", "tar"])
@pytest.mark.parametrize(("spoil", "message"), HOSTILE, ids=[m for _, m in HOSTILE])
def test_a_forgery_is_refused_before_anything_is_parsed(
    signed: Path,
    key: SigningKey,
    spoil: Callable[[Path], object],
    message: str,
    form: Callable[[Path], Path],
    parsers: list[str],
) -> None:
    spoil(signed)
    path = form(signed)
    with pytest.raises(BundleError, match=message):
        open_whole(path, Trust((key.public,)))
    assert parsers == []


def test_a_bundle_that_a_stranger_signed_is_refused(
    signed: Path, key: SigningKey, stranger: SigningKey, parsers: list[str]
) -> None:
    words = f"signed by key {key.public.id}, which is not trusted here; add that key to bundle.trusted_keys"
    with pytest.raises(BundleError, match=words):
        open_whole(signed, Trust((stranger.public,)))
    # claiming to be a trusted key does not help
    resigned(signed, key.public.id, stranger.public.id)
    with pytest.raises(BundleError, match=f"key {stranger.public.id} did not sign this manifest"):
        open_whole(signed, Trust((stranger.public,)))
    with pytest.raises(BundleError, match="did not sign"):  # nor is a forged name let through as merely unsigned
        load_bundle(signed, Trust((stranger.public,), allow_unsigned=True))
    assert parsers == []


def test_a_signature_over_something_else_is_none(signed: Path, key: SigningKey) -> None:
    raw = (signed / "manifest.json").read_bytes()
    bare = make_signature(raw, key).split()
    import base64

    bare[-1] = base64.b64encode(key.sign(raw))  # the manifest without its context
    (signed / SIGNATURE_FILE).write_bytes(b" ".join(bare) + b"\n")
    with pytest.raises(BundleError, match="did not sign"):
        load_bundle(signed, Trust((key.public,)))


@pytest.mark.parametrize("form", [lambda p: p, as_tar], ids=["folder", "tar"])
def test_a_flipped_bit_in_any_file_is_refused(
    signed: Path, key: SigningKey, form: Callable[[Path], Path], parsers: list[str], tmp_path: Path
) -> None:
    names = sorted(p.name for p in signed.iterdir())
    assert len(names) == 6
    for name in names:
        size = (signed / name).stat().st_size
        for position in {0, size // 3, size // 2, size - 1}:
            spoiled = tmp_path / "spoiled"
            shutil.copytree(signed, spoiled)
            data = bytearray((spoiled / name).read_bytes())
            data[position] ^= 0x10
            (spoiled / name).write_bytes(data)
            with pytest.raises(BundleError):
                open_whole(form(spoiled), Trust((key.public,)))
            shutil.rmtree(spoiled)
    assert set(parsers) <= {"manifest"}  # parsed only where the signature over it held


def test_what_is_trusted_is_parsed(signed: Path, key: SigningKey, parsers: list[str]) -> None:
    """The recorder of the tests above records."""
    from edge.errors import EngineError

    with pytest.raises(EngineError, match="cannot load the model"):  # "not a model"
        open_whole(signed, Trust((key.public,)))
    assert parsers[0] == "manifest" and {"np.load", "zipfile", "onnx"} <= set(parsers)


def test_bytes_that_are_no_key_verify_nothing() -> None:
    for raw in (b"", b"\xff" * 32, b"\0" * 31):
        assert not PublicKey(raw).verifies(b"\0" * 64, b"message")
