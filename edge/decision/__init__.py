"""From scores over time to one latched flag per exam: `assess` for a single image, `decide` and `Exam` for a stream."""

from edge.decision.assess import REASONS, assess
from edge.decision.exam import Exam, ExamState, decide
from edge.decision.params import DecisionParams

__all__ = ["REASONS", "DecisionParams", "Exam", "ExamState", "assess", "decide"]
