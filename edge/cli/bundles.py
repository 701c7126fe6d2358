"""Commands that deal in bundles: `update`, `keys`, `bundle`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge.cli.common import Parser, config_of, tell
from edge.cli.stages import add_stage
from edge.errors import ConfigError

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.bundle.keys import PublicKey
    from edge.config import Config
    from edge.update.install import Installed

RESTART = "Restart the daemon: systemctl restart hygroma@NAME"
ACTIONS = ("build", "sign", "verify")


def _add_update(update: Parser) -> None:
    update.description = (
        "Verifies, unpacks beside the running bundle, builds the engine, self-tests, and makes it current for the "
        "next start. A bundle that then fails goes by itself: docs/updates.md."
    )
    what = update.add_mutually_exclusive_group(required=True)
    what.add_argument("file", nargs="?", metavar="FILE.tar", help="from a USB stick, for example")
    what.add_argument("--inbox", type=Path, metavar="DIR", help="every .tar in a folder, as the systemd unit does")
    what.add_argument("--rollback", action="store_true", help="go back to the bundle before this one")
    update.add_config("the daemon's YAML file: trusted keys and places")
    update.add_store()
    update.add_flag("--allow-downgrade", "an earlier version too, or another model")
    update.add_json()
    update.set_defaults(handler=_update)


def _add_keys(keys: Parser) -> None:
    actions = keys.add_subparsers(title="actions", required=True, metavar="ACTION")
    new = actions.add_parser("new", help="a new key pair in a folder; the private file stays with you")
    new.add_argument("folder", type=Path, metavar="DIR", help="where hygroma.key and hygroma.pub go")
    new.set_defaults(handler=_new_key)
    show = actions.add_parser("show", help="the public half of a key file, as bundle.trusted_keys takes it")
    show.add_path("file", "FILE", "hygroma.key or hygroma.pub")
    show.set_defaults(handler=_show_key)
    for action in (new, show):
        action.add_json()


def _add_bundle(bundle: Parser) -> None:
    bundle.description = "`bundle RECIPE.yaml` means `bundle build RECIPE.yaml`."
    actions = bundle.add_subparsers(title="actions", required=True, metavar="ACTION")
    add_stage(actions.add_parser("build", help="the bundle of a recipe, unless its conversion fails the gate"), "bundle")
    sign = actions.add_parser("sign", help="sign a bundle's manifest, which vouches for every file")
    sign.add_argument("bundle", metavar="BUNDLE", help="a folder or .tar")
    sign.add_argument("--key", required=True, metavar="FILE", help="the private key that `hygroma keys new` made")
    sign.add_path("--out", "FILE.tar", "leave BUNDLE alone and write a signed .tar of it")
    sign.set_defaults(handler=_sign)
    verify = actions.add_parser("verify", help="check the signature and every file; exit code 65 if it may not run")
    verify.add_argument("bundle", metavar="BUNDLE", help="a folder or .tar")
    verify.add_argument("--trust", nargs="+", default=[], metavar="KEY", help="public keys: their text, or .pub files")
    verify.add_config("trust also what the daemon with this file trusts")
    verify.set_defaults(handler=_verify)
    for action in (sign, verify):
        action.add_json()


def recipe_means_build(argv: list[str]) -> list[str]:
    """`bundle RECIPE.yaml`, as it was before bundles were signed -> `bundle build RECIPE.yaml`."""
    words = [i for i, word in enumerate(argv) if not word.startswith("-")]
    if len(words) < 2 or argv[words[0]] != "bundle" or argv[words[1]] in ACTIONS:
        return argv
    return [*argv[: words[0] + 1], "build", *argv[words[0] + 1 :]]


def _new_key(args: argparse.Namespace) -> int:
    from edge.bundle.keys import new_key

    private, public, key = new_key(args.folder)
    return tell(args, _key_json(key) | {"private_file": str(private), "public_file": str(public)}, lambda: (
        f"private key: {private} (who has this file can sign bundles: keep a copy safe, and off every device)\n"
        f"public key:  {public}\n{_key_text(key)}"
    ))  # fmt: skip


def _show_key(args: argparse.Namespace) -> int:
    from edge.bundle.keys import find_public_key, read_signing_key

    try:
        key = find_public_key(str(args.file))
    except ConfigError:
        key = read_signing_key(args.file).public
    return tell(args, _key_json(key), lambda: _key_text(key))


def _key_json(key: PublicKey) -> dict[str, str]:
    return {"id": key.id, "public_key": key.text}


def _key_text(key: PublicKey) -> str:
    return f"key {key.id}; for bundle.trusted_keys of every device that shall trust it:\n  - {key.text}"


def _sign(args: argparse.Namespace) -> int:
    from edge.bundle import sign_bundle
    from edge.bundle.keys import read_signing_key

    return _tell_bundle(args, sign_bundle(args.bundle, read_signing_key(args.key), args.out))


def _verify(args: argparse.Namespace) -> int:
    from edge.bundle import load_bundle
    from edge.bundle.keys import find_public_key

    trust = config_of(args).bundle.trust()
    trust = dataclasses.replace(trust, keys=(*trust.keys, *(find_public_key(key) for key in args.trust)))
    return _tell_bundle(args, load_bundle(args.bundle, trust))


def _tell_bundle(args: argparse.Namespace, bundle: Bundle) -> int:
    from edge.bundle.trust import words_for

    model = bundle.manifest.model
    return tell(args, {
        "bundle": str(bundle.path), "model": model.id, "version": model.version, "sha256": bundle.sha256,
        "signed_by": bundle.signed_by, "files": len(bundle.files),
    }, lambda: f"{bundle.path}: {bundle.label}, {words_for(bundle.signed_by)}, {len(bundle.files)} files as listed")  # fmt: skip


def _update(args: argparse.Namespace) -> int:
    from edge.update.inbox import process_inbox
    from edge.update.install import install
    from edge.watching import open_scorer

    config = config_of(args, at_home=True)
    if args.rollback:
        return _roll_back(args, config)

    def bring(file: str | Path) -> Installed:
        return install(file, config, open_scorer, args.allow_downgrade)

    if args.inbox is None:
        return _tell_installed(args, bring(args.file))
    processed = process_inbox(args.inbox, bring)
    changed = any(p.installed is not None and p.installed.changed for p in processed)
    for p in processed:
        if p.installed is not None:
            _tell_installed(args, p.installed)
        elif args.json:
            print(json.dumps({"file": str(p.file), "error": p.error}))
        else:
            print(f"hygroma: {p.file.name}: {p.error}", file=sys.stderr)
    return 0 if changed else 1  # the unit restarts the daemon after 0


def _roll_back(args: argparse.Namespace, config: Config) -> int:
    from edge.update.slots import Slots, bundles_folder
    from edge.update.trial import BY_HAND, roll_back

    slots = Slots(bundles_folder(config))
    failed = slots.current()
    slot = roll_back(slots, failed, BY_HAND)
    return tell(args, {"rolled_back": failed, "current": slot or "shipped"}, lambda: (
        f"back from {failed} to {slot or 'the shipped bundle'}; {RESTART}"
    ))  # fmt: skip


def _confirmed(done: Installed) -> str:
    """What the new bundle says of the flags that were confirmed on this device; "" where there are none."""
    if not done.confirmed:
        return ""
    if not done.lost:
        return f"it calls all {done.confirmed} confirmed flags of this device\n"
    events = ", ".join(str(event) for event in done.lost)
    return (
        f"it NO LONGER CALLS {len(done.lost)} of {done.confirmed} confirmed flags of this device: events {events}. Look at them"
        " (`hygroma events show`), and go back with `hygroma update --rollback` if they are right\n"
    )


def _tell_installed(args: argparse.Namespace, done: Installed) -> int:
    from edge.bundle.trust import words_for

    said = f"{done.label} is current already" if not done.changed else (
        f"{done.label}, {words_for(done.signed_by)}: self-test passed, {done.pictures} evidence images rehearsed\n"
        f"{_confirmed(done)}"
        f"current from the next start; before it: {done.previous or 'the shipped bundle'}. {RESTART}"
    )  # fmt: skip
    return tell(args, dataclasses.asdict(done), lambda: said)


COMMANDS = {"update": _add_update, "keys": _add_keys, "bundle": _add_bundle}
