"""Caffe's log lines with glog's prefix, so that parse_log.py and friends read our logs.

The library logs with the standard ``logging`` module (loggers "protocaffe.solver", "protocaffe.net", ...) and is silent
by default; the commands install this handler on standard error.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

LEVELS = {logging.DEBUG: "I", logging.INFO: "I", logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}


class GlogFormatter(logging.Formatter):
    """``I0210 13:39:22.381027 25210 solver.cpp:204] text``: level, month and day, time, thread, source, text."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%m%d %H:%M:%S", time.localtime(record.created))
        micro = int(record.created % 1 * 1e6)
        source = record.name.rsplit(".", 1)[-1] + ".cpp"
        level = LEVELS.get(record.levelno, "I")
        prefix = f"{level}{stamp}.{micro:06d} {threading.get_native_id():5d} {source}:{record.lineno}] "
        return prefix + record.getMessage()


@contextmanager
def log_lines() -> Iterator[None]:
    """While inside, send the package's log to standard error in glog's form; on a terminal only the warnings, as text.

    (A terminal gets a progress bar instead, see progress.py.)
    """
    terminal = sys.stderr.isatty()
    root = logging.getLogger("protocaffe")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s") if terminal else GlogFormatter())
    before = root.level, root.propagate
    root.addHandler(handler)
    root.setLevel(logging.WARNING if terminal else logging.INFO)
    root.propagate = False
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before[0])
        root.propagate = before[1]
