"""What this process is doing, and where in the user's code."""

import sys
import threading
import time

from allgrad.ddp.comm import user_location


def test_the_place_is_that_of_the_users_code():
    assert user_location().startswith(f"{__file__}:") and user_location().endswith(
        "in test_the_place_is_that_of_the_users_code"
    )
    stop = threading.Event()

    def wait():
        stop.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    for _ in range(1000):  # until it waits
        found = user_location(sys._current_frames()[thread.ident or 0], whole=True)
        if "in wait, in " in found:
            break
        time.sleep(0.01)
    stop.set()
    thread.join()
    assert found.startswith(f"{__file__}:") and " in wait, in " in found and "threading.py:" in found
