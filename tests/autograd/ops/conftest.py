"""Runs what is in `table.py`, `kinks.py`, `large.py` and `values.py` on the tables of the file that imports it."""

TABLES = {
    "case": "TABLE",
    "kink": "KINKS",
    "large": "LARGE",
    "value": "VALUES",
}  # argument of a test: where its values stand


def pytest_generate_tests(metafunc):
    for argument in TABLES.keys() & {*metafunc.fixturenames}:
        metafunc.parametrize(argument, getattr(metafunc.module, TABLES[argument]), ids=str)
