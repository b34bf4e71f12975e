"""What both Python programs print: a line for each check."""

import contextlib


class Checks:
    """Prints `ok CLIENT NAME`, or `FAIL CLIENT NAME: why` and goes on."""

    def __init__(self, client):
        self.client = client

    @contextlib.contextmanager
    def __call__(self, name):
        try:
            yield
        except Exception as error:  # any failure is a line of the report
            print(f"FAIL {self.client} {name}: {error!r}", flush=True)
        else:
            print(f"ok {self.client} {name}", flush=True)


def equal(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {got!r}, wanted {wanted!r}")
