"""`make torture`: every fault many times, the figures into a Markdown file. `python torture.py OUT [SCALE [PART ...]]`."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import campaigns
import numpy as np
import rollbacks
from sections import Rows, load, write_section

KILLS, OUTAGES, STOPS, HANGS, DISKS, CLOCKS, LIMITS, CRASHES = 1000, 100, 20, 5, 5, 5, 60, 5
FRAMES = 200_000  # of each soak
JUMPS = ((365, "wall clock jumps by a year, to and fro"), (20_000, "no clock at boot (before 1990), then set"))
READY_S = 60.0  # the default of bundle.ready_s

Times = Callable[[int], int]  # how often -> how often at this scale
Campaign = Callable[[Callable[[str], Path], Times], Rows]  # given a maker of fresh folders


def spread(values: list[float], unit: str, promised: float | None = None) -> str:
    """Median, 95th percentile and the largest, and how many are beyond what is promised."""
    p95 = float(np.percentile(values, 95))
    beyond = "" if promised is None else f"; {sum(v > promised for v in values)} beyond {promised:g} {unit}"
    return (
        f"median {statistics.median(values):.2f}, p95 {p95:.2f}, largest {max(values):.2f} {unit} (n {len(values)}){beyond}"
    )


def slope(samples: list[list[float]], column: int) -> str:
    """Of the second half, per 100,000 frames, with its 95 % interval: the first half warms up."""
    half = np.array(samples[len(samples) // 2 :], float)
    x, y = half[:, 0] / 1e5, half[:, column]
    design = np.stack([x, np.ones_like(x)], 1)
    (k, _), _, _, _ = np.linalg.lstsq(design, y, rcond=None)
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    error = np.sqrt(residual @ residual / max(len(x) - 2, 1) / max(float(((x - x.mean()) ** 2).sum()), 1e-12))
    return f"{k:+.1f} ({k - 1.96 * error:+.1f} to {k + 1.96 * error:+.1f})"


def kills(place: Callable[[str], Path], n: Times) -> Rows:
    k = campaigns.kills(place("kills"), n(KILLS))
    return [
        ("`kill -9` at a random moment of flagging", str(k["kills"]),
         f"{k['lost']} of {k['acknowledged']} acknowledged flags lost, {k['corrupt']} corrupt stores, {k['without image']}"
         f" of {k['rows']} rows without their image")
    ]  # fmt: skip


def outages(place: Callable[[str], Path], n: Times) -> Rows:
    o = campaigns.outages(place("outages"), n(OUTAGES))
    times = str(o["outages"])
    return [
        ("source killed, or hung, and back: reported after", times, spread(o["reported_s"], "s", 1)),
        ("... pictures again after its return", times, spread(o["returned_s"], "s", 2)),
        ("... age of the newest frame when a flag was committed", times, spread(o["latency_ms"], "ms", 500)),
    ]


def stops(place: Callable[[str], Path], n: Times) -> Rows:
    s = campaigns.stops(place("stops"), n(STOPS))
    return [("daemon stopped for 1.5 s (SIGSTOP): age at commit", str(s["stops"]), spread(s["latency_ms"], "ms"))]


def hangs(place: Callable[[str], Path], n: Times) -> Rows:
    rows: Rows = []
    for what, after in (("engine", 40), ("disk", 5)):
        done = [campaigns.hang(place(f"{what}{i}"), **{f"hang_{what}": after + i}) for i in range(n(HANGS))]
        lost, acknowledged = (sum(h[name] for h in done) for name in ("lost", "acknowledged"))
        figure = f"watchdog starved, page said so; {lost} of {acknowledged} flags lost"
        rows.append((f"{what} that never returns", str(len(done)), figure))
    return rows


def disks(place: Callable[[str], Path], n: Times) -> Rows:
    if not campaigns.can_mount():
        return [("full disk; read-only disk", "0", "not run: needs root and mount")]
    rows: Rows = []
    for kind in ("full", "read-only"):
        done = [campaigns.bad_disk(place(f"{kind}{i}"), kind) for i in range(n(DISKS))]
        lost, flags = (sum(d[name] for d in done) for name in ("lost", "rows"))
        said = spread([d["said_s"] for d in done], "s")
        rows.append((f"{kind} disk: on the page after", str(len(done)), f"{said}; {lost} of {flags} flags lost"))
    return rows


def clocks(place: Callable[[str], Path], n: Times) -> Rows:
    rows: Rows = []
    for days, what in JUMPS:
        done = [campaigns.clock(place(f"clock{days}-{i}"), days) for i in range(n(CLOCKS))]
        lost, flags = (sum(c[name] for c in done) for name in ("lost", "rows"))
        rows.append((what, str(len(done)), f"{lost} of {flags} flags lost"))
    return rows


def limits(place: Callable[[str], Path], n: Times) -> Rows:
    rows: Rows = []
    for what, needs_mb in (("descriptors", 0), ("memory", 0), ("memory", 64)):
        done = [
            campaigns.limited(place(f"{what}{needs_mb}-{i}"), what, (0.5, 1.0, 2.0, 4.0)[i % 4], needs_mb)
            for i in range(n(LIMITS))
        ]
        lost, flags, ended = (sum(m[name] for m in done) for name in ("lost", "rows", "ended"))
        how = f"went on {len(done) - ended} times, ended and started again {ended} times"
        what += f", of which each frame wants {needs_mb} MB" if needs_mb else ""
        rows.append((f"no more {what}, for 0.5 to 4 s", str(len(done)), f"{how}; {lost} of {flags} flags lost"))
    return rows


def bad_bundles(place: Callable[[str], Path], n: Times) -> Rows:
    slow = rollbacks.too_slow(place("too slow"), READY_S)
    rows: Rows = [
        (f"new bundle not ready within {READY_S:.0f} s", "1", f"start ended after {slow['ended_after_s']:.1f} s (with the"
         f" interpreter's own); the next watched with the old bundle after {slow['shipped_ready_s']:.1f} s")
    ]  # fmt: skip
    for how in ("error", "SIGSEGV", "SIGKILL"):
        done = [rollbacks.crashing(place(f"{how}{i}"), how) for i in range(n(CRASHES))]
        what = "its engine fails on every picture" if how == "error" else how
        figure = f"the old one watched at the fourth start, after {spread([d['shipped_ready_s'] for d in done], 's')}"
        rows.append((f"new bundle that crashes three times ({what})", str(len(done)), figure))
    return rows


def soak(place: Callable[[str], Path], n: Times, screen: bool) -> Rows:
    f = campaigns.soak(place(f"soak{screen}"), n(FRAMES), screen)
    frames = str(f["frames"])
    return [
        ("RSS, kB per 100,000 frames (second half)", frames, slope(f["samples"], 1)),
        ("threads; descriptors, per 100,000 frames", frames, f"{slope(f['samples'], 2)}; {slope(f['samples'], 3)}"),
        ("RSS at its half and its end, MB", frames,
         f"{f['samples'][len(f['samples']) // 2][1] / 1024:.1f}; {f['samples'][-1][1] / 1024:.1f}"),
        ("decisions of a replay", str(f["replayed"]), "identical"),
        ("frames a second", frames, f"{f['frames'] / f['seconds']:.0f}"),
    ]  # fmt: skip


PARTS: dict[str, tuple[str, Campaign]] = {
    "kills": ("Killed", kills),
    "outages": ("Camera away", outages),
    "stops": ("Stopped", stops),
    "hangs": ("Hung", hangs),
    "disks": ("Bad disks", disks),
    "clocks": ("Bad clocks", clocks),
    "limits": ("Nothing left", limits),
    "rollbacks": ("Bad bundles", bad_bundles),
    "soak": ("Soak of the loop", lambda place, n: soak(place, n, False)),
    "soak-screen": ("Soak with screen reading", lambda place, n: soak(place, n, True)),
}
FUZZED = "Fuzzed"  # tests/fuzz/campaign.py writes it
ORDER = (*(title for title, _ in PARTS.values()), FUZZED)


def main(out: Path, scale: float, parts: list[str]) -> None:
    for part in parts:
        title, campaign = PARTS[part]
        with tempfile.TemporaryDirectory(prefix="hygroma-torture-") as name:

            def place(what: str, folder: Path = Path(name)) -> Path:
                (folder / what).mkdir()
                return folder / what

            before = load()
            rows = campaign(place, lambda often: max(2, round(often * scale)))
        for row in rows:
            print(time.strftime("%H:%M:%S"), *row, sep=" | ", flush=True)
        write_section(out, title, rows, before, ORDER)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 1.0, sys.argv[3:] or list(PARTS))
