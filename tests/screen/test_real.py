"""Real stills and clips, read from outside the repository. No screen here may be lost, whatever its fan."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.records import Frame, Signal
from edge.screen.preprocess import Preprocessing
from edge.screen.reader import ScreenReader
from edge.screen.still import read_still

DATA = Path(__file__).parents[3] / "shared/data/ultrasound"
STILLS = ("fetus_framework_nt/original_size", "fetus_framework_nt/trainval", "hc18_fetal_head/train", "mmotu_ovary",
          "nhbs_infant_hip", "pocus_lung", "vendor_screens")
CLIPS = ("pocus_Reg_pat2Image_133824.mpeg", "pocus_Reg_pat4Image_140606.mpeg", "itkpocus_butterfly-ocular-phantom.mp4")
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"real images are not here: {DATA}")


@pytest.mark.parametrize("folder", STILLS)
def test_real_stills_are_ok_and_keep_their_picture(folder):
    files = sorted(path for path in (DATA / folder).rglob("*") if path.suffix in {".png", ".jpg"})
    assert files
    for path in files[:: max(1, len(files) // 12)]:
        image = cv2.imread(str(path))
        reading = read_still(image, Preprocessing())
        assert reading.signal is Signal.OK and reading.fan is not None, path
        x0, y0, x1, y1 = reading.fan.box
        kept = image[y0:y1, x0:x1].astype(np.float64).sum() / max(1.0, image.astype(np.float64).sum())
        assert kept > (0.7 if folder == "vendor_screens" else 0.93), path  # the rest is lettering and grey bars


@pytest.mark.parametrize("name", CLIPS)
def test_real_clips_are_live_and_keep_their_layout(name):
    clip, reader = cv2.VideoCapture(str(DATA / "videos" / name)), ScreenReader(Preprocessing())
    readings = []
    while len(readings) < 75:
        there, image = clip.read()
        if not there:
            break
        readings.append(reader.read(Frame(len(readings), int(len(readings) / 25 * 1e9), image)))
    assert len(readings) > 50
    assert {r.signal for r in readings} == {Signal.OK}
    assert not any(r.layout_changed for r in readings)
    assert np.mean([r.duplicate for r in readings]) < 0.1


def test_a_frozen_real_clip_is_frozen():
    """The SonoSite clip holds one still picture throughout."""
    clip = cv2.VideoCapture(str(DATA / "videos/itkpocus_sonosite-anon-eye1-video.mp4"))
    reader = ScreenReader(Preprocessing())
    signals = [reader.read(Frame(i, int(i / 25 * 1e9), clip.read()[1])).signal for i in range(40)]
    assert signals[-1] is Signal.FROZEN and signals[10] is Signal.OK
