"""Simulated first-trimester exams with known truth: labelled cine loops and stills. numpy and OpenCV only.

`sample_exam(seed, truth)` -> ExamSpec; `render(spec)` -> frames of the exam; `render_stills` -> frames for training;
`clinic_session(seed)` -> the demonstration's exams. Everything follows from the seeds.
"""

from calibration.phantom.exam import render, render_session, render_stills
from calibration.phantom.records import FPS, TRUTHS, VIEWS, ExamSpec, Patient, PhantomExam, PhantomFrame, Preset
from calibration.phantom.sampling import clinic_session, sample_exam
from calibration.phantom.source import PhantomSource
from calibration.phantom.video import write_session, write_video

__all__ = [
    "FPS",
    "TRUTHS",
    "VIEWS",
    "ExamSpec",
    "Patient",
    "PhantomExam",
    "PhantomFrame",
    "PhantomSource",
    "Preset",
    "clinic_session",
    "render",
    "render_session",
    "render_stills",
    "sample_exam",
    "write_session",
    "write_video",
]
