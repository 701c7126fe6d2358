"""From a frame of the scanner's screen to a model input: signal state, fan geometry, crop."""
