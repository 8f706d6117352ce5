"""For all tests."""

import gc


def pytest_collection_finish() -> None:
    # transformers' Trainer collects garbage at every start. The modules imported by now are millions of objects, none
    # of them garbage, that it would look at each time.
    gc.collect()
    gc.freeze()
