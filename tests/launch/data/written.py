"""Small tables, written as files."""

import numpy as np


def csv_file(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def table(rows, header=None, separator=",", end="\n"):
    lines = [separator.join(map(str, row)) for row in ([header] if header else []) + list(rows)]
    return end.join(lines) + end


SAMPLES = [[i, (i * 7) % 11 / 2] for i in range(20)]


KINDS = [i % 3 for i in range(20)]


NAMED = [["ant", "bee", "cat"][k] for k in KINDS]


LAST = [[*x, k] for x, k in zip(SAMPLES, KINDS)]


NAMED_LAST = [[*x, k] for x, k in zip(SAMPLES, NAMED)]


FIRST = [[k, *x] for x, k in zip(SAMPLES, NAMED)]


def npz_file(tmp_path, **arrays):
    np.savez(tmp_path / "arrays.npz", **arrays)
    return tmp_path / "arrays.npz"
