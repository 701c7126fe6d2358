"""A stage a file: each is handed the artefacts that it reads, and nothing larger. The order is export/pipeline.py's."""
