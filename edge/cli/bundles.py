"""The part of the command line that deals in bundles: `keys`, `bundle sign|verify`, `update`. It composes and
prints."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import ConfigError

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.bundle.keys import PublicKey
    from edge.config import Config
    from edge.update.install import Installed

RESTART = "Restart the daemon: systemctl restart hygroma@NAME"
ACTIONS = ("build", "sign", "verify")


def add_commands(commands: Any) -> Any:
    """Adds them to the parser's commands; returns the actions of `bundle`, where its stage belongs too."""
    update = commands.add_parser(
        "update",
        help="install a signed bundle, or go back to the one before it",
        description="Verifies, unpacks beside the running bundle, builds the engine, self-tests, and makes it current for the "
        "next start. A bundle that then fails goes by itself: docs/updates.md.",
    )
    what = update.add_mutually_exclusive_group(required=True)
    what.add_argument("file", nargs="?", metavar="FILE.tar", help="from a USB stick, for example")
    what.add_argument("--inbox", type=Path, metavar="DIR", help="every .tar in a folder, as the systemd unit does")
    what.add_argument("--rollback", action="store_true", help="go back to the bundle before this one")
    update.add_argument("--config", type=Path, metavar="C", help="the daemon's YAML file: trusted keys and places")
    update.add_argument("--events", metavar="DIR", help="the event store (else events.dir of the configuration)")
    update.add_argument("--allow-downgrade", action="store_true", help="an earlier version too, or another model")
    update.add_argument("--json", action="store_true", help="print one JSON object")
    update.set_defaults(handler=_update)

    keys = commands.add_parser("keys", help="workstation: keys that sign bundles")
    actions = keys.add_subparsers(title="actions", required=True, metavar="ACTION")
    new = actions.add_parser("new", help="a new key pair in a folder; the private file stays with you")
    new.add_argument("folder", type=Path, metavar="DIR")
    new.set_defaults(handler=_new_key)
    show = actions.add_parser("show", help="the public half of a key file, as bundle.trusted_keys takes it")
    show.add_argument("file", type=Path, metavar="FILE", help="hygroma.key or hygroma.pub")
    show.set_defaults(handler=_show_key)

    bundle = commands.add_parser(
        "bundle",
        help="build, sign and verify bundles",
        description="`bundle RECIPE.yaml` means `bundle build RECIPE.yaml`.",
    )
    stages = bundle.add_subparsers(title="actions", required=True, metavar="ACTION")
    sign = stages.add_parser("sign", help="sign a bundle's manifest, which vouches for every file")
    sign.add_argument("bundle", metavar="BUNDLE", help="a folder or .tar")
    sign.add_argument("--key", required=True, metavar="FILE", help="the private key that `hygroma keys new` made")
    sign.add_argument("--out", type=Path, metavar="FILE.tar", help="leave BUNDLE alone and write a signed .tar of it")
    sign.set_defaults(handler=_sign)
    verify = stages.add_parser("verify", help="check the signature and every file; exit code 65 if it may not run")
    verify.add_argument("bundle", metavar="BUNDLE", help="a folder or .tar")
    verify.add_argument("--trust", nargs="+", default=[], metavar="KEY", help="public keys: their text, or .pub files")
    verify.add_argument("--config", metavar="C", type=Path, help="trust also what the daemon with this file trusts")
    verify.set_defaults(handler=_verify)
    for action in (new, show, sign, verify):
        action.add_argument("--json", action="store_true", help="print one JSON object")
    return stages


def allow_unsigned(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-unsigned", action="store_true", help="run a bundle that nobody trusted signed")


def recipe_means_build(argv: list[str]) -> list[str]:
    """`bundle RECIPE.yaml`, as it was before bundles were signed -> `bundle build RECIPE.yaml`."""
    words = [i for i, word in enumerate(argv) if not word.startswith("-")]
    if len(words) < 2 or argv[words[0]] != "bundle" or argv[words[1]] in ACTIONS:
        return argv
    return [*argv[: words[0] + 1], "build", *argv[words[0] + 1 :]]


def _new_key(args: argparse.Namespace) -> int:
    from edge.bundle.keys import new_key

    private, public, key = new_key(args.folder)
    if args.json:
        _print_key(key, True, private_file=str(private), public_file=str(public))
        return 0
    print(f"private key: {private} (who has this file can sign bundles: keep a copy safe, and off every device)")
    print(f"public key:  {public}")
    _print_key(key, False)
    return 0


def _show_key(args: argparse.Namespace) -> int:
    from edge.bundle.keys import find_public_key, read_signing_key

    try:
        key = find_public_key(str(args.file))
    except ConfigError:
        key = read_signing_key(args.file).public
    _print_key(key, args.json)
    return 0


def _print_key(key: PublicKey, as_json: bool, **files: str) -> None:
    if as_json:
        print(json.dumps({"id": key.id, "public_key": key.text, **files}))
    else:
        print(f"key {key.id}; for bundle.trusted_keys of every device that shall trust it:\n  - {key.text}")


def _sign(args: argparse.Namespace) -> int:
    from edge.bundle import sign_bundle
    from edge.bundle.keys import read_signing_key

    return _print_bundle(sign_bundle(args.bundle, read_signing_key(args.key), args.out), args.json)


def _verify(args: argparse.Namespace) -> int:
    from edge.bundle import load_bundle
    from edge.bundle.keys import find_public_key
    from edge.config import Config, load_config

    config: Config = load_config(args.config) if args.config else Config()
    trust = config.bundle.trust()
    trust = dataclasses.replace(trust, keys=(*trust.keys, *(find_public_key(key) for key in args.trust)))
    return _print_bundle(load_bundle(args.bundle, trust), args.json)


def _print_bundle(bundle: Bundle, as_json: bool) -> int:
    from edge.bundle.trust import words_for

    model = bundle.manifest.model
    if as_json:
        print(json.dumps({
            "bundle": str(bundle.path), "model": model.id, "version": model.version, "sha256": bundle.sha256,
            "signed_by": bundle.signed_by, "files": len(bundle.files),
        }))  # fmt: skip
    else:
        print(f"{bundle.path}: {bundle.label}, {words_for(bundle.signed_by)}, {len(bundle.files)} files as listed")
    return 0


def _update(args: argparse.Namespace) -> int:
    from edge.config import Config, load_config
    from edge.update.inbox import process_inbox
    from edge.update.install import install
    from edge.watching import keep_at_home, open_scorer

    config: Config = load_config(args.config) if args.config else Config()
    if args.events:
        config = dataclasses.replace(config, events=dataclasses.replace(config.events, dir=args.events))
    elif not args.config:
        config = keep_at_home(config)
    if args.rollback:
        return _roll_back(config, args.json)

    def bring(file: str | Path) -> Installed:
        return install(file, config, open_scorer, args.allow_downgrade)

    if args.inbox is None:
        return _print_installed(bring(args.file), args.json)
    processed = process_inbox(args.inbox, bring)
    changed = any(p.installed is not None and p.installed.changed for p in processed)
    for p in processed:
        if p.installed is not None:
            _print_installed(p.installed, args.json)
        elif args.json:
            print(json.dumps({"file": str(p.file), "error": p.error}))
        else:
            print(f"hygroma: {p.file.name}: {p.error}", file=sys.stderr)
    return 0 if changed else 1  # the unit restarts the daemon after 0


def _roll_back(config: Config, as_json: bool) -> int:
    from edge.update.slots import Slots, bundles_folder
    from edge.update.trial import roll_back

    slots = Slots(bundles_folder(config))
    failed = slots.current()
    slot = roll_back(slots, failed, "a person asked for it")
    if as_json:
        print(json.dumps({"rolled_back": failed, "current": slot or "shipped"}))
    else:
        print(f"back from {failed} to {slot or 'the shipped bundle'}; {RESTART}")
    return 0


def _print_installed(done: Installed, as_json: bool) -> int:
    from edge.bundle.trust import words_for

    if as_json:
        print(json.dumps(dataclasses.asdict(done)))
    elif not done.changed:
        print(f"{done.label} is current already")
    else:
        print(f"{done.label}, {words_for(done.signed_by)}: self-test passed, {done.pictures} evidence images rehearsed")
        print(f"current from the next start; before it: {done.previous or 'the shipped bundle'}. {RESTART}")
    return 0
