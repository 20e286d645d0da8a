"""The exceptions of protocaffe, one tree.

    ProtocaffeError
    ├── ParseError        text that is no valid prototxt (file:line:column)
    ├── FileFormatError   a binary file that is damaged or of another kind
    ├── NetError          a net that does not fit together
    ├── ShapeError        blobs whose shapes a layer cannot take
    ├── ParameterError    a parameter of a layer or solver with an impossible value
    ├── WeightsError      weights that do not fit a net
    ├── DataError         a data source that cannot be read
    ├── SolverError       a solver that cannot run
    ├── DivergedError     a loss that became NaN or infinite
    ├── KernelError       a kernel that does not compile, or is called wrongly
    └── BackendError      a device that is not there

Messages name who (layer, blob, file), what was expected and what came:
``ShapeError: layer "conv2" (Convolution): bottom "pool1" must have 4 axes (N, C, H, W), got (64, 1024)``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ProtocaffeError(Exception):
    """Base of all errors that protocaffe raises on purpose."""


class ParseError(ProtocaffeError):
    """Text that is no valid prototxt.

    Attributes
    ----------
    source : file name, or a name for text that came from elsewhere
    line, column : where, from 1; 0 if unknown
    """

    def __init__(self, message: str, source: str = "", line: int = 0, column: int = 0):
        self.source, self.line, self.column = source, line, column
        where = source + (f":{line}:{column}" if line else "")
        super().__init__(f"{where}: {message}" if where else message)


class FileFormatError(ProtocaffeError):
    """A binary file that is truncated, damaged or of another kind; the message names it."""


class NetError(ProtocaffeError):
    """A net that does not fit together: unknown layer type, missing bottom, duplicate top."""


class ShapeError(ProtocaffeError):
    """Blobs whose shapes a layer cannot take."""


class ParameterError(ProtocaffeError):
    """A parameter of a layer or solver with a missing or impossible value."""


class WeightsError(ProtocaffeError):
    """Weights whose number or shapes do not fit the net that loads them."""


class DataError(ProtocaffeError):
    """A data source that is missing, empty or malformed."""


class SolverError(ProtocaffeError):
    """A solver that cannot run or resume."""


class DivergedError(ProtocaffeError):
    """A loss that became NaN or infinite; the message names the first layer where it shows."""


class KernelError(ProtocaffeError):
    """A kernel that does not compile, or is called with wrong arguments."""


class BackendError(ProtocaffeError):
    """A device that is not there or cannot be used."""


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known ones, or nothing.

    >>> did_you_mean("Convolutoin", ["Convolution", "Pooling"])
    '; did you mean "Convolution"?'
    >>> did_you_mean("xyz", ["Convolution"])
    ''
    """
    known = {c.lower(): c for c in candidates}
    begun = [n for n in known if len(name) > 2 and n.startswith(name.lower())]
    close = difflib.get_close_matches(name.lower(), list(known), n=2, cutoff=0.6)
    near = [known[n] for n in dict.fromkeys([*begun, *close])][:2]
    return "; did you mean " + " or ".join(f'"{n}"' for n in near) + "?" if near else ""
