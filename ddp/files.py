"""Files that are there as a whole or not at all."""

import os


def replace(path, text):
    """Write a file as a whole, or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
