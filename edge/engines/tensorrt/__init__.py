"""Whatever is TensorRT's alone: its names over versions 8.6 to 11, CUDA, building, the cache of engines, the race."""
