"""Which engine computes which convolution or product: measured once, kept in memory and in a file of the cache folder.

``<PROTOCAFFE_CACHE>/engines.json`` maps a key (GPU, library versions, maths, step, shape) to a choice: "CAFFE", or
"CUDNN " and what names the plan; of products to "CUBLAS" or "LT <number>", and key and choice of the latter to the
algorithm. A file that is damaged or cannot be written costs the time of measuring again. Algorithms are bytes that a
library takes as they are: they are read from this file alone, never from a solver state, which may be anybody's.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import build

logger = logging.getLogger("protocaffe.engines")

CAFFE = "CAFFE"
_FORMAT = 1
#: how the key of an algorithm ends
_ALGORITHM = re.compile(r": LT \d+\Z")


def shape_key(step: str, shape: Any, bias: bool = False, relu: bool = False) -> str:
    """A convolution step in one line.

    >>> from protocaffe.layers.convolution import ConvShape
    >>> shape = ConvShape(64, 1, 20, 1, (28, 28), (24, 24), (5, 5), (1, 1), (0, 0), (1, 1))
    >>> shape_key("forward", shape, bias=True)
    'forward+bias 64x1x28x28 to 20x24x24 kernel 5x5 stride 1x1 pad 0x0 dilation 1x1 group 1'
    """

    def by(dims: tuple[int, ...]) -> str:
        return "x".join(map(str, dims))

    s = shape
    name = step + "+bias" * bias + "+relu" * relu
    window = f"kernel {by(s.kernel)} stride {by(s.stride)} pad {by(s.pad)} dilation {by(s.dilation)} group {s.group}"
    return f"{name} {by((s.images, s.channels, *s.in_dims))} to {by((s.num_output, *s.out_dims))} {window}"


def algorithm_key(key: str, number: int) -> str:
    """What the bytes of algorithm ``number`` for ``key`` are kept as.

    >>> algorithm_key("product", 3)
    'product: LT 3'
    """
    return f"{key}: LT {number}"


def tuning() -> bool:
    """Whether to measure what has no choice yet: unless PROTOCAFFE_TUNE is 0."""
    return os.environ.get("PROTOCAFFE_TUNE", "1") != "0"


class Choices:
    """The table. ``used``: what plans of this process were recorded with, which is what a solver state keeps."""

    def __init__(self) -> None:
        self.used: dict[str, str] = {}
        self._known: dict[str, str] | None = None
        #: choices of a solver state that was resumed: they come before all others
        self._adopted: dict[str, str] = {}

    @property
    def path(self) -> Path:
        """The file."""
        return build.cache_folder() / "engines.json"

    def find(self, key: str) -> str | None:
        """The choice for ``key``, if there is one; without tuning what was once measured does not count."""
        return self._adopted[key] if key in self._adopted else self._find_own(key)

    def find_algorithm(self, key: str, number: int) -> str | None:
        """The bytes of algorithm ``number`` for ``key``, where this process or the file has them."""
        return self._find_own(algorithm_key(key, number))

    def _find_own(self, key: str) -> str | None:
        if not tuning():
            return None
        if self._known is None:
            self._known = self._read()
        return self._known.get(key)

    def use(self, key: str, choice: str) -> str:
        """Note that a plan is recorded with ``choice``."""
        self.used[key] = choice
        return choice

    def add(self, key: str, choice: str) -> None:
        """Keep a choice that was measured."""
        self._known = self._read() | (self._known or {}) | {key: choice}
        self._adopted.pop(key, None)  # it was there, and of no use
        text = json.dumps({"format": _FORMAT, "choices": self._known}, indent=0, sort_keys=True) + "\n"
        partial = ""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.path.parent, prefix=".engines-", delete=False) as file:
                partial = file.name
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.path)
        except OSError as error:
            logger.debug("engines are not kept: %s", error)
            if partial:
                Path(partial).unlink(missing_ok=True)

    def adopt(self, choices: Mapping[str, str]) -> bool:
        """Prefer ``choices`` from now on; whether a plan that is there was recorded with another one.

        Algorithms among them are left out.
        """
        choices = {str(key): str(choice) for key, choice in choices.items() if not _ALGORITHM.search(str(key))}
        self._adopted.update(choices)
        return any(self.used.get(key, choice) != choice for key, choice in choices.items())

    def _read(self) -> dict[str, str]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["format"] == _FORMAT:
                return {str(key): str(choice) for key, choice in content["choices"].items()}
        except OSError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            logger.warning("%s is damaged (%s: %s): engines are measured again", self.path, type(error).__name__, error)
        return {}
