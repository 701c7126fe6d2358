"""The student in INT8: smoothed, quantised, with a logit offset, and mended where the gate is missed."""
