"""The student in INT8: smoothed, quantised, leaning, and mended where the gate is missed."""
