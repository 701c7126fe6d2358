"""Ed25519 keys: made on a workstation, the private half in a PEM file, the public half as text that fits into a YAML list."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from edge.errors import ConfigError
from edge.schema import shown

PRIVATE_FILE, PUBLIC_FILE = "hygroma.key", "hygroma.pub"
MAX_KEY_BYTES = 16 * 1024  # bytes of a key file; an Ed25519 PEM has 119
ID_DIGITS = 16  # hexadecimal, of SHA-256: a name for people; what is verified is the key
KEY_FORM = "ed25519: followed by 44 characters of base64, as `hygroma keys new` prints it"
_KEY_TEXT = re.compile(r"ed25519:([A-Za-z0-9+/]{43}=)")  # 32 bytes


@dataclass(frozen=True)
class PublicKey:
    """The 32 bytes that a signature is checked with."""

    raw: bytes

    @property
    def id(self) -> str:
        """The first 16 hexadecimal digits of the key's SHA-256."""
        return hashlib.sha256(self.raw).hexdigest()[:ID_DIGITS]

    @property
    def text(self) -> str:
        """What goes into `bundle.trusted_keys`."""
        return "ed25519:" + base64.b64encode(self.raw).decode()

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether the private half made `signature` (64 bytes) over exactly `message`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):  # ValueError: bytes that are no point of the curve
            return False
        return True


@dataclass(frozen=True)
class SigningKey:
    """The private half, in memory; it has no text form and no repr."""

    _private: Ed25519PrivateKey

    def __repr__(self) -> str:
        return f"SigningKey({self.public.id})"

    @property
    def public(self) -> PublicKey:
        return PublicKey(self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._private.sign(message)


def is_key_text(text: str) -> bool:
    """Whether `parse_public_key` would take it: one spelling for each key."""
    match = _KEY_TEXT.fullmatch(text)
    return match is not None and base64.b64encode(base64.b64decode(match[1])).decode() == match[1]


def parse_public_key(text: str) -> PublicKey:
    """`ed25519:BASE64` -> PublicKey. ConfigError for anything else."""
    if not is_key_text(text):
        raise ConfigError(f"public key: found {shown(text)}, must be {KEY_FORM}")
    return PublicKey(base64.b64decode(text.partition(":")[2]))


def find_public_key(text_or_file: str) -> PublicKey:
    """A key's text, or the path of a file whose first word is one -> PublicKey. ConfigError as `parse_public_key`."""
    if is_key_text(text_or_file):
        return parse_public_key(text_or_file)
    if not os.path.isfile(text_or_file):
        return parse_public_key(text_or_file)
    path = Path(text_or_file)
    words = _read(path).decode("ascii", "replace").split()
    try:
        return parse_public_key(words[0] if words else "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def new_key(folder: str | Path) -> tuple[Path, Path, PublicKey]:
    """A fresh pair in `folder` (made if needed): private file (mode 0600), public file, public key.

    ConfigError when either file exists (a key is never overwritten: devices trust it) or the folder cannot be written.
    """
    folder = Path(folder)
    private, public = folder / PRIVATE_FILE, folder / PUBLIC_FILE
    key = SigningKey(Ed25519PrivateKey.generate())
    pem = key._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if public.exists():
            raise FileExistsError(17, "File exists", str(public))
        _write_new(private, pem, 0o600)
        _write_new(public, (key.public.text + "\n").encode(), 0o644)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder}: cannot be written ({error.strerror}); choose an empty folder of your own"
        ) from error
    return private, public, key.public


def read_signing_key(path: str | Path) -> SigningKey:
    """A private key file -> SigningKey. ConfigError when it is not one, is encrypted, or others may read it."""
    path = Path(path)
    data = _read(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(f"{path}: mode {mode:04o}: others may read this private key; chmod 600 {path}")
    try:
        key = load_pem_private_key(data, password=None)
    except Exception:  # ValueError, TypeError (it wants a password), and what OpenSSL says of keys that are odd elsewhere
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"{path}: not an unencrypted Ed25519 private key in PEM; make one with `hygroma keys new DIR`"
        )
    return SigningKey(key)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the key ({error.strerror})") from error


def _write_new(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
