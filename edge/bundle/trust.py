"""Whose bundles run: the signature over a manifest, and the rule that accepts or refuses it.

A bundle is trusted when a key of the configuration signed its manifest, or when it is the one that came with this package, whose
manifest's SHA-256 the package pins (`edge/data/bundle.sha256`). The pin needs no key: who can change the package's data
can change its code too, so a project key would add a secret to keep and no protection.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from edge.bundle.keys import PublicKey, SigningKey
from edge.errors import BundleError

SIGNATURE_FILE = "manifest.sig"
MAX_SIGNATURE_BYTES = 256  # the one form there is has 134
SHIPPED = "hygroma"  # stands in `signed_by` for the pinned bundle
SHIPPED_BUNDLE = Path(__file__).parents[1] / "data" / "bundle"
PIN_FILE = SHIPPED_BUNDLE.with_suffix(".sha256")

# Signed together with the manifest, so that a signature made for anything else means nothing here.
_CONTEXT = b"hygroma bundle manifest 1\0"
_FORM = re.compile(rb"hygroma-signature 1 ed25519 ([0-9a-f]{16}) ([A-Za-z0-9+/]{86}==)\n")


@dataclass(frozen=True)
class Trust:
    """`keys` are those of the configuration. `allow_unsigned` also lets through what no trusted key signed."""

    keys: tuple[PublicKey, ...] = ()
    allow_unsigned: bool = False

    def signer(self, manifest: bytes, signature: bytes | None, where: str) -> str:
        """Who vouches for these bytes of a manifest: a key's id, SHIPPED, or "" for nobody (only with
        `allow_unsigned`). BundleError, which begins with `where`, when the bundle may not run. Nothing is parsed but the
        signature's one line."""
        found, fix = "it is not signed", "sign it (`hygroma bundle sign`) with a key that bundle.trusted_keys lists"
        if signature is not None:
            key_id, value = _parse(signature, where)
            key = next((k for k in self.keys if k.id == key_id), None)
            if key is not None:
                if not key.verifies(value, _CONTEXT + manifest):
                    raise BundleError(
                        f"{where}/{SIGNATURE_FILE}: key {key_id} did not sign this manifest; the bundle was altered,"
                        " fetch it again"
                    )
                return key_id
            found = f"it is signed by key {key_id}, which is not trusted here"
            fix = "add that key to bundle.trusted_keys, once its maker has confirmed it (`hygroma keys show` prints it)"
        if hashlib.sha256(manifest).hexdigest() == pinned_sha256():
            return SHIPPED
        if self.allow_unsigned:
            return ""
        raise BundleError(
            f"{where}: {found}; {fix}, or accept unsigned bundles: bundle.allow_unsigned, --allow-unsigned"
        )


# For bundles that were made here a moment ago, and for signing: hashes are checked, authorship is not.
ANYONE = Trust(allow_unsigned=True)


def make_signature(manifest: bytes, key: SigningKey) -> bytes:
    """The bytes of `manifest.sig`."""
    value = base64.b64encode(key.sign(_CONTEXT + manifest)).decode()
    return f"hygroma-signature 1 ed25519 {key.public.id} {value}\n".encode()


def words_for(signed_by: str) -> str:
    """`signed_by` for people."""
    return {SHIPPED: "shipped with hygroma", "": "UNSIGNED"}.get(signed_by, f"signed by key {signed_by}")


@lru_cache(maxsize=1)
def pinned_sha256() -> str:
    """SHA-256 (hex) of the shipped bundle's manifest; `sha256sum`'s own format, so that its -c checks the file. "" in a
    package without one."""
    try:
        words = PIN_FILE.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return ""
    return words[0] if words else ""


def _parse(signature: bytes, where: str) -> tuple[str, bytes]:
    match = _FORM.fullmatch(signature) if len(signature) <= MAX_SIGNATURE_BYTES else None
    if match is None:
        shown = signature[:40].decode("ascii", "backslashreplace")
        raise BundleError(
            f"{where}/{SIGNATURE_FILE}: found {shown!r} ({len(signature)} bytes); this version reads one line"
            " `hygroma-signature 1 ed25519 ...`; sign the bundle again, or update hygroma-edge"
        )
    return match[1].decode(), base64.b64decode(match[2])
