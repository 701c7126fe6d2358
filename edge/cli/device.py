"""Commands of the device that watches: `demo`, `run`, `score`, `doctor`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.cli.common import Parser, Progress, config_of, positive, require_writable
from edge.errors import ConfigError
from edge.kinds import CLIPS, DICOMS, STILLS

if TYPE_CHECKING:
    from edge.capture.source import Source
    from edge.config import Config
    from edge.demo import DemoResult
    from edge.loop import Summary
    from edge.records import Verdict
    from edge.stills import Scored


def _add_demo(demo: Parser) -> None:
    demo.add_json()
    demo.add_flag("--realtime", "play the clip at its own rate (72 s) instead of as fast as possible")
    demo.add_flag("--serve", "real time with the status page; begins again whenever it ends, until Ctrl-C")
    demo.add_bundle("another bundle than the shipped one")
    demo.add_argument(
        "--out", metavar="DIR", help="where events and evidence images go (default: a new temporary folder)"
    )
    demo.set_defaults(handler=_demo)


def _add_run(run: Parser) -> None:
    from edge.capture.build import KNOWN

    clips, stills = (" ".join(sorted(kinds)) for kinds in (CLIPS, STILLS))
    run.epilog = f"file: plays {clips}, and whatever else FFmpeg does. images: takes {stills}."
    run.description = f"Watch a source until it ends or SIGTERM. URI: {KNOWN}"
    run.add_argument("--source", metavar="URI", help="what to watch (else source.uri of the configuration)")
    run.add_bundle("a bundle's folder or .tar (else the configuration's, else the shipped one)")
    run.add_config()
    run.add_store()
    run.add_argument(
        "--as-fast-as-possible", action="store_true", dest="fast", help="play a file without waiting for its clock"
    )
    run.add_flag("--no-status", "no status page")
    run.add_json("print the summary as one JSON object")
    run.set_defaults(handler=_run)


def _add_score(score: Parser) -> None:
    score.description = (
        "One line a frame. Every picture that decodes gets probabilities; `assessable` says if they mean anything."
    )
    score.epilog = (
        f"Clips: {' '.join(sorted(CLIPS))}; stills: {' '.join(sorted(STILLS))}; DICOM: {' '.join(sorted(DICOMS))}; "
        "files with another ending, or none, by their content."
    )
    score.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files, or folders of them")
    score.add_json("one JSON object a line")
    score.add_daemons_bundle()
    score.add_argument(
        "--every", type=positive, default=1, metavar="N", help="of clips, score every Nth frame (default 1)"
    )
    score.add_path("--overlay", "DIR", "also write each frame with its nuchal map")
    score.set_defaults(handler=_score)


def _add_doctor(doctor: Parser) -> None:
    doctor.add_config()
    doctor.add_bundle("another bundle than the configured one")
    doctor.add_json("print one JSON array")
    doctor.set_defaults(handler=_doctor)


def _demo(args: argparse.Namespace) -> int:
    from edge.demo import run_demo, to_json
    from edge.status.server import port_problem

    folder = require_writable(Path(args.out) if args.out else Path(tempfile.mkdtemp(prefix="hygroma-demo-")), "--out")
    config = config_of(args).but(events={"dir": str(folder), "min_free_mb": 0}, status={"enabled": args.serve})
    if args.serve and (problem := port_problem(config.status.host, config.status.port)):
        print(f"port {config.status.port} cannot be had ({problem}): the page goes to a free one", file=sys.stderr)
        config = config.but(status={"port": 0})
    progress = Progress()
    if not args.json:
        print("The daemon watches a simulated clinic session (phantom). Not real patients.")

    def note(done: int, total: int, verdict: Verdict) -> None:
        progress("frame", done, total, _state(verdict))

    def end(result: DemoResult) -> None:
        progress.clear()
        if args.json:
            print(json.dumps(to_json(result)), flush=True)
        else:
            _print_demo(result, folder)
        if args.serve:
            print("the session begins again, and the status page stays up; Ctrl-C ends it", file=sys.stderr, flush=True)

    def show(url: str) -> None:
        print(f"status page: {url}", file=sys.stderr, flush=True)

    result = run_demo(config, args.realtime, args.serve, note, show, end)
    return 1 if result.summary.lost_events else 0


def _state(verdict: Verdict) -> str:
    return "FLAGGED" if verdict.flagged else ", ".join(verdict.reasons) or "assessing"


def _print_demo(result: DemoResult, folder: Path) -> None:
    print(f"\n{'exam':<6}{'simulated':<11}{'flagged':<9}{'after':<9}{'best':<7}{'assessable':<14}the screen was mostly")
    for exam in result.exams:
        after = f"{exam.seconds_to_flag:.1f} s" if exam.seconds_to_flag is not None else "-"
        best = f"{exam.best_hygroma:.2f}" if exam.best_hygroma is not None else "-"
        counted = f"{exam.assessable_frames}/{exam.frames}"
        said = exam.said + (f"; {exam.dropped} pictures dropped" if exam.dropped else "")
        print(
            f"{exam.exam_id or '-':<6}{exam.truth:<11}{'YES' if exam.flagged else 'no':<9}{after:<9}{best:<7}{counted:<14}{said}"
        )
    if result.dropped:
        print(
            f"\nthis machine dropped {result.dropped} pictures of the session: it is too slow, or busy. An exam that lost many "
            "may be missed; without --serve and --realtime every picture is looked at"
        )
    for event in result.events:
        print(
            f"\nsuspected nuchal collection: refer. Exam {event.exam_id}, p {event.hygroma:.2f}, evidence {event.evidence:.1f}"
        )
        print(f"  {folder / event.image_path}")
    t = result.latency_ms
    print(
        f"\na frame took p50 {t.p50:.1f}, p95 {t.p95:.1f}, p99 {t.p99:.1f} ms from memory to verdict (n = {t.count}); "
        f"{result.fps:.0f} frames a second, {result.dropped} dropped"
    )
    print(f"bundle {result.bundle} on {result.engine}; events in {folder}")
    _say_lost(result.summary)


def _say_lost(summary: Summary) -> None:
    if summary.lost_events:
        flags = "1 flag" if summary.lost_events == 1 else f"{summary.lost_events} flags"
        print(f"{flags} raised but NOT WRITTEN: {summary.store_problem or 'the store failed for too long'}")


def _run(args: argparse.Namespace) -> int:
    from edge.watching import open_watching

    config = config_of(args, at_home=True)
    if args.source:
        config = config.but(source={"uri": args.source})
    if args.no_status:
        config = config.but(status={"enabled": False})
    if not config.source.uri:
        raise ConfigError("source.uri: nothing to watch; give --source URI or set source.uri in the configuration")
    source = _open_source(config, args.fast)
    progress = Progress()

    def note(verdict: Verdict) -> None:
        if not source.live:
            done = verdict.frame_id + 1
            progress("frame", done, max(done, getattr(source, "pictures", 0)), _state(verdict))

    with open_watching(config, source, note) as watching:
        if watching.url and not args.json:
            print(f"watching {source.name}; status page: {watching.url}", file=sys.stderr)
        summary = watching.watch.run()
        label = watching.scorer.label
    total = summary.latencies["verdict"]
    if args.json:
        print(json.dumps({
            "source": source.name, "bundle": label, "frames": summary.frames, "seconds": round(summary.seconds, 2),
            "signal": summary.frames_by_signal, "not_assessable": summary.not_assessable,
            "duplicates": summary.duplicates, "dropped": summary.feed.dropped, "decode_errors": summary.feed.decode_errors,
            "errors": summary.errors, "store": str(watching.store.root), "store_problem": summary.store_problem,
            "lost_events": summary.lost_events,
            "exams": [asdict(exam) for exam in summary.exams],
            "events": [asdict(event) for event in summary.events],
            "latency_ms": {"p50": total.p50, "p95": total.p95, "p99": total.p99, "max": total.max},
        }))  # fmt: skip
        return 1 if summary.lost_events else 0
    states = ", ".join(f"{n} {state}" for state, n in sorted(summary.frames_by_signal.items()))
    assessed = sum(exam.assessable_frames for exam in summary.exams)
    progress.clear()
    print(
        f"{source.name}: {summary.frames} frames ({states or 'none'}), {assessed} assessable, {summary.feed.dropped} dropped, "
        f"{len(summary.events) + summary.lost_events} flagged; p50 {total.p50:.1f}, p99 {total.p99:.1f} ms a frame"
    )
    if summary.not_assessable:
        why = ", ".join(f"{n} {reason}" for reason, n in sorted(summary.not_assessable.items(), key=lambda item: -item[1]))
        print(f"not assessable, by reason: {why}")
    if summary.events:
        print(f"events in {watching.store.root}")
    _say_lost(summary)
    return 1 if summary.lost_events else 0


def _open_source(config: Config, fast: bool) -> Source:
    """The source that is configured. The phantom is made here: `edge` does not know it."""
    from edge.capture.build import SCHEMES, open_source, parse_uri
    from edge.capture.recorded import FramesSource

    if SCHEMES[parse_uri(config.source.uri).scheme].open is not None:
        return open_source(config.source.uri, config.capture, fast)
    try:
        from calibration.phantom import PhantomSource
    except ImportError:
        raise ConfigError(
            "phantom: needs the `calibration` package, which this installation lacks; `hygroma demo` plays a clip"
        ) from None
    phantom = PhantomSource()

    def images() -> Iterator[Any]:
        while (image := phantom.read()) is not None:
            yield image

    return FramesSource("phantom", images(), phantom.fps, fast)


def _score(args: argparse.Namespace) -> int:
    from edge.bundle.manifest import NUCHAL_MAP
    from edge.stills import Overlays, Unscored, score_paths
    from edge.update.slots import bundle_path
    from edge.watching import open_scorer

    overlays = Overlays(args.overlay) if args.overlay else None
    failed, config = False, config_of(args, at_home=True)
    with open_scorer(bundle_path(config), config) as scorer:
        if overlays is not None and NUCHAL_MAP in scorer.manifest.heads.absent:
            raise ConfigError(f"--overlay: {scorer.label} has no nuchal map; leave it out, or name a bundle with one")
        for text in scorer.manifest.heads.lacking:
            print(f"hygroma: {scorer.label}: {text}", file=sys.stderr)
        for result in score_paths(args.paths, scorer, args.every, overlays):
            if not isinstance(result, Unscored):
                print(json.dumps(_scored_json(result)) if args.json else _scored_line(result), flush=True)
                continue
            failed = True
            if args.json:
                print(json.dumps({"path": str(result.path), "error": result.error}), flush=True)
            else:
                print(f"hygroma: {result.error}", file=sys.stderr)
    return 1 if failed else 0


def _scored_json(scored: Scored) -> dict[str, object]:
    return {
        "path": str(scored.path), "frame": scored.frame, "signal": scored.reading.signal.value, "assessable": scored.assessable,
        "reasons": list(scored.reasons), "plane": None if scored.scores.plane is None else round(scored.scores.plane, 6),
        "hygroma": round(scored.scores.hygroma, 6), "ood": round(scored.scores.ood, 4), "ms": round(scored.ms, 2),
    }  # fmt: skip


def _scored_line(scored: Scored) -> str:
    s = scored.scores
    state = "assessable" if scored.assessable else f"not assessable ({', '.join(scored.reasons)})"
    plane = "no plane head" if s.plane is None else f"plane {s.plane:.2f}"
    return f"{scored.path} frame {scored.frame}: {state}; {plane}, hygroma {s.hygroma:.2f}, ood {s.ood:.2f}"


def _doctor(args: argparse.Namespace) -> int:
    from edge.doctor import examine

    findings = list(examine(lambda: config_of(args, at_home=True)))
    if args.json:
        print(json.dumps([asdict(f) for f in findings]))
    else:
        for f in findings:
            print(f"{f.level.upper():<5} {f.check:<9} {f.found}" + (f"\n      -> {f.fix}" if f.fix else ""))
    return 1 if any(f.level == "fail" for f in findings) else 0


COMMANDS = {"demo": _add_demo, "run": _add_run, "score": _add_score, "doctor": _add_doctor}
