"""The command `events`: what was flagged, and what a person said of it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edge.cli.common import Parser, config_of
from edge.clock import SYNCHRONISED
from edge.records import REVIEWS

SELDOM = ("boundary", "overrides", "clock", "boot", "t_mono_ns")  # fields that `show` leaves out where they say nothing

if TYPE_CHECKING:
    from edge.events.store import EventStore
    from edge.records import Event


def _add_events(events: Parser) -> None:
    actions = events.add_subparsers(title="actions", required=True, metavar="ACTION")

    def add(name: str, run: Callable[[argparse.Namespace, EventStore], int], text: str, one: bool = False) -> Parser:
        """one: it is about one event."""
        action: Parser = actions.add_parser(name, help=text)
        action.add_argument(
            "--store", "--events", metavar="DIR", help="the event store's folder (default: where `hygroma run` keeps it)"
        )
        action.add_json()
        if one:
            action.add_argument("id", type=int, help="its number, as `events list` shows it")
        action.set_defaults(handler=lambda args: _with_store(args, run))
        return action

    add("list", _list, "newest first").add_argument("--review", choices=REVIEWS, help="only those")
    add("show", _show, "one event", one=True)
    export = add("export", _export, "images, clips, events.json and events.csv into a folder")
    export.add_argument("folder", type=Path, help="where they go; made if it is not there")
    export.add_flag("--dicom", "also as DICOM Secondary Capture, without a patient")
    export.add_argument("ids", type=int, nargs="*", help="events (default: all)")
    review = add("review", _review, "record what a person decided", one=True)
    review.add_argument("review", choices=REVIEWS, help="open takes a decision back")
    review.add_argument("--by", required=True, help="who decided")
    pin = add("pin", _pin, "never remove an event, whatever its age and the disk's space", one=True)
    pin.add_flag("--off", "removable again")


def _with_store(args: argparse.Namespace, run: Callable[[argparse.Namespace, EventStore], int]) -> int:
    from edge.events.store import EventStore

    with EventStore(Path(config_of(args, at_home=True).events.dir), create=False) as store:
        return run(args, store)


def _list(args: argparse.Namespace, store: EventStore) -> int:
    return _print_many(args, store, store.events(args.review, limit=-1))


def _show(args: argparse.Namespace, store: EventStore) -> int:
    event, reviews = store.show(args.id), store.reviews(args.id)
    shown: dict[str, object] = asdict(event)
    if not args.json:
        shown |= {name: store.root / str(shown[name]) for name in ("image_path", "clip_path") if shown[name]}
        told = {name: value for name, value in shown.items() if value or name not in SELDOM}
        print("\n".join(f"{name:<14}{value}" for name, value in told.items()))
        for review in reviews:
            print(f"{'decided':<14}{review.reviewed_at}  {review.review} by {review.reviewed_by}")
    else:
        print(json.dumps({**shown, "reviews": [asdict(review) for review in reviews]}))
    return 0


def _export(args: argparse.Namespace, store: EventStore) -> int:
    from edge.events.export import export

    done = export(store, args.folder, args.ids or None, args.dicom)
    for problem in done.problems:
        print(f"hygroma: {problem}; not exported", file=sys.stderr)
    _print_many(args, store, list(done.events))
    if not args.json:
        print(f"written to {args.folder}")
    return 1 if done.problems else 0


def _review(args: argparse.Namespace, store: EventStore) -> int:
    return _print_one(args, store, store.review(args.id, args.review, args.by))


def _pin(args: argparse.Namespace, store: EventStore) -> int:
    return _print_one(args, store, store.pin(args.id, not args.off))


def _print_one(args: argparse.Namespace, store: EventStore, event: Event) -> int:
    print(json.dumps(asdict(event)) if args.json else _line(event, store))
    return 0


def _print_many(args: argparse.Namespace, store: EventStore, events: list[Event]) -> int:
    if args.json:
        print(json.dumps([asdict(event) for event in events]))
    else:
        print("\n".join(_line(event, store) for event in events) or "no events")
    return 0


def _line(e: Event, store: EventStore) -> str:
    reviewer = (f" by {e.reviewed_by}" if e.reviewed_by else "") + (", pinned" if e.pinned else "")
    reviewer += f"  [boundary not sure: {e.boundary}]" if e.boundary else ""
    reviewer += f"  [decision overridden: {e.overrides}]" if e.overrides else ""
    reviewer += f"  [clock: {e.clock}]" if e.clock not in ("", SYNCHRONISED) else ""
    return (
        f"{e.id:>5}  {e.t_wall}  exam {e.exam_id}  p {e.hygroma:.2f}  evidence {e.evidence:.1f}  {e.review}{reviewer}  "
        f"{store.root / e.image_path}"
    )


COMMANDS = {"events": _add_events}
