"""HDF5Data: batches of rows from HDF5 files."""

from __future__ import annotations

from collections.abc import Sequence

from ..data.feed import BatchLayer, Feed
from ..data.hdf5_source import Hdf5Source
from ..errors import ParameterError
from ..layer import register

PREFETCH = 4


@register("HDF5Data")
class HDF5Data(BatchLayer):
    """Rows of HDF5 files; each top is the data set of its name, (rows, ...), and gets the shape (N, ...).

    Rows come file after file, over and over; a batch may span files. Several tops take the same rows.

    hdf5_data_param: source (a text file with the names of the HDF5 files), batch_size (N), shuffle (false; the files,
    and the rows of each, in a new order in each pass).

    Example::

        layer { name: "rows" type: "HDF5Data" top: "data" top: "label"
          hdf5_data_param { source: "train.txt" batch_size: 10 } }

    Raises DataError for files that cannot be read or do not agree. Source: Caffe's hdf5_data_layer.cpp.
    """

    def open(self, tops: Sequence[str]) -> tuple[Feed, int]:
        """Return the feed, and how many batches are prepared ahead."""
        if self.param.HasField("transform_param"):
            raise ParameterError("HDF5Data does not transform data: remove transform_param")
        param = self.param.hdf5_data_param
        if not param.source:
            raise ParameterError("hdf5_data_param.source must name a text file, got nothing")
        if not param.batch_size:
            raise ParameterError("hdf5_data_param.batch_size must be 1 or more, got 0")
        feed = Hdf5Source(param.source, tops, int(param.batch_size), param.shuffle, (self.name,), self.rng_seed)
        return feed, PREFETCH
