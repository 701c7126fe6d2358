"""`make torture`: every fault many times, the figures into a Markdown file. `python torture.py OUT [SCALE [PART ...]]`."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import campaigns
import numpy as np

KILLS, OUTAGES, STOPS = 1000, 100, 20
SOAKS = (("loop", 200_000, False), ("with screen reading", 5_000, True))  # that costs some 10 ms a frame
JUMPS = ((365, "wall clock jumps by a year, to and fro"), (20_000, "no clock at boot (before 1990), then set"))
PARTS = ("kills", "outages", "stops", "hangs", "disks", "clocks", "limits", "soaks")


def spread(values: list[float], unit: str) -> str:
    """Median, 95th percentile and the largest."""
    p95 = float(np.percentile(values, 95))
    return f"median {statistics.median(values):.2f}, p95 {p95:.2f}, largest {max(values):.2f} {unit} (n {len(values)})"


def slope(samples: list[list[float]], column: int) -> str:
    """Of the second half, per 100,000 frames, with its 95 % interval: the first half warms up."""
    half = np.array(samples[len(samples) // 2 :], float)
    x, y = half[:, 0] / 1e5, half[:, column]
    design = np.stack([x, np.ones_like(x)], 1)
    (k, _), _, _, _ = np.linalg.lstsq(design, y, rcond=None)
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    error = np.sqrt(residual @ residual / max(len(x) - 2, 1) / max(float(((x - x.mean()) ** 2).sum()), 1e-12))
    return f"{k:+.1f} ({k - 1.96 * error:+.1f} to {k + 1.96 * error:+.1f})"


def main(out: Path, scale: float, parts: list[str]) -> None:
    def n(whole: int) -> int:
        return max(2, round(whole * scale))

    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="hygroma-torture-") as name:
        folder = Path(name)

        def row(what: str, times: str, figure: str) -> None:
            lines.append(f"| {what} | {times} | {figure} |")
            print(f"{time.strftime('%H:%M:%S')} {lines[-1]}", flush=True)
            write(out, lines)

        def place(what: str) -> Path:
            (folder / what).mkdir()
            return folder / what

        if "kills" in parts:
            k = campaigns.kills(place("kills"), n(KILLS))
            row("`kill -9` at a random moment of flagging", str(k["kills"]),
                f"{k['lost']} of {k['acknowledged']} acknowledged flags lost, {k['corrupt']} corrupt stores, {k['without image']}"
                f" of {k['rows']} rows without their image")  # fmt: skip
        if "outages" in parts:
            o = campaigns.outages(place("outages"), n(OUTAGES))
            row("source killed, or hung, and back: reported after", str(o["outages"]), spread(o["reported_s"], "s"))
            row("... pictures again after its return", str(o["outages"]), spread(o["returned_s"], "s"))
            row(
                "... age of the newest frame when a flag was committed",
                str(o["outages"]),
                spread(o["latency_ms"], "ms"),
            )
        if "stops" in parts:
            s = campaigns.stops(place("stops"), n(STOPS))
            row("daemon stopped for 1.5 s (SIGSTOP): age at commit", str(s["stops"]), spread(s["latency_ms"], "ms"))
        for what in ("engine", "disk") if "hangs" in parts else ():
            h = campaigns.hang(place(what), **{f"hang_{what}": 40 if what == "engine" else 5})
            row(f"{what} that never returns", "1",
                f"watchdog starved, page said so; {h['lost']} of {h['acknowledged']} lost")  # fmt: skip
        for kind in ("full", "read-only") if "disks" in parts else ():
            if not campaigns.can_mount():
                row(f"{kind} disk", "0", "not run: needs root and mount")
                continue
            b = campaigns.bad_disk(place(kind), kind)
            row(f"{kind} disk", "1", f"on the page after {b['said_s']:.1f} s; {b['lost']} of {b['rows']} flags lost")
        for days, what in JUMPS if "clocks" in parts else ():
            c = campaigns.clock(place(f"clock{days}"), days)
            row(what, "1", f"{c['lost']} of {c['rows']} flags lost")
        for what in ("descriptors", "memory") if "limits" in parts else ():
            m = campaigns.limited(place(f"limit-{what}"), what)
            how = "ended, started again" if m["ended"] else "went on"
            row(f"no more {what}", "1", f"{how}; {m['lost']} of {m['rows']} flags lost")
        for what, frames, screen in SOAKS if "soaks" in parts else ():
            f = campaigns.soak(place(f"soak {what}"), n(frames), screen)
            row(f"soak, {what}: RSS, kB per 100,000 frames (second half)", str(f["frames"]), slope(f["samples"], 1))
            row("... threads; descriptors, per 100,000 frames", str(f["frames"]),
                f"{slope(f['samples'], 2)}; {slope(f['samples'], 3)}")  # fmt: skip
            row("... decisions of a replay", str(f["replayed"]), "identical")


def write(out: Path, lines: list[str]) -> None:
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    load = os.getloadavg()[1]
    head = (
        f"`make torture`, {when}, {os.cpu_count()} cores, load average {load:.1f}. Processes of the real loop, store and page.",
        "The camera is a process of ours, the model a fake that flags every exam; screen reading is a fake too but for the last",
        "soak, which has the shipped clip's pictures (simulated). Where the load is above the cores the machine was busy",
        "with other work: the times are then that work's too, and the counts are what to read. A process",
        "stopped in the middle of a commit commits that flag late; its age is stored with it.",
    )
    table = ("| fault | n | figure |", "|---|---:|---|", *lines, "")
    out.write_text("\n".join(("# Faults", "", *head, "", *table)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 1.0, sys.argv[3:] or list(PARTS))
