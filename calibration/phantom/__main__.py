"""`python -m calibration.phantom --seed 7 --out DIR`: write a clinic session as clinic.mp4 and session.json."""

from __future__ import annotations

import argparse
from pathlib import Path

from calibration.phantom.sampling import clinic_session
from calibration.phantom.video import CRF, write_session

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m calibration.phantom", description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--crf", type=int, default=CRF, help="x264 constant quality, lower is better and larger")
    parser.add_argument("--preset", default="medium", help="x264 speed preset")
    options = parser.parse_args()
    for exam in write_session(options.out, clinic_session(options.seed), crf=options.crf, preset=options.preset):
        print(f"{exam.first_frame:5d}-{exam.last_frame:5d}  {exam.truth:10s} {exam.name}")
