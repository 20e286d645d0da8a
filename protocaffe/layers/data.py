"""Data: batches from an LMDB or LevelDB of Datum messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..data.datum_feed import DatumFeed
from ..data.feed import BatchLayer, Feed
from ..layer import register


@register("Data")
class Data(BatchLayer):
    """Items and labels from an LMDB or LevelDB, in the order of the keys, over and over.

    ``top[0]`` = (crop(resize(item)) - mean) * scale, of shape (N, C, H, W) or (N, C, crop_size, crop_size);
    ``top[1]``, if it is there, the labels, (N,). N is batch_size; a batch that meets the end goes on with the first
    item. Encoded items (PNG, JPEG) come as B, G, R.

    data_param: source (folder), batch_size, backend (LEVELDB, Caffe's default, or LMDB), rand_skip (0; start after a
    random number of items below it), prefetch (4 batches ahead; 0: none, no thread), shuffle (false; a new order in
    each pass), force_encoded_color, cache (AUTO; see below).

    transform_param: scale (1), mirror (false; every second item on average), crop_size (0; at random in TRAIN, in the
    middle in TEST), resize_param (none; height and width of every item before it is cropped; interp_mode LINEAR or
    NEAREST), mean_file, mean_value (one, or one for each channel), force_color, force_gray (encoded items).

    ``cache`` says where decoded items are kept, so that none is read twice: NONE, HOST (the host's memory, whatever the
    set's size, if all items have one shape) or DEVICE. AUTO is HOST for sets below 512 MiB, else NONE; but on a device
    with memory of its own DEVICE for sets of up to 1 GiB (bytes as bytes) that take no more than a quarter of what is
    free there, have one shape and no resize_param. DEVICE reads the whole set before the first batch, once for all nets
    that use it, and is an error where it cannot be done. On the CPU, whose memory is the host's, it means HOST.

    On such a device nothing in a step waits for the host: batches are made by kernels from the items that it keeps, or
    come through a ring that is filled beside its work. All draws depend on seed, layer name and position only, so each
    way gives the same batches, bit for bit.

    Example::

        layer { name: "mnist" type: "Data" top: "data" top: "label"
          transform_param { scale: 0.00390625 }
          data_param { source: "mnist_train_lmdb" batch_size: 64 backend: LMDB } }

    Raises DataError for a source that cannot be read. Source: Caffe's data_layer.cpp.
    """

    max_tops: ClassVar[int | None] = 2

    def open(self, tops: Sequence[str]) -> tuple[Feed, int]:
        """Return the feed, and how many batches are prepared ahead."""
        feed = DatumFeed(self.param, self.phase, self.rng_seed, labels=len(tops) > 1)
        return feed, int(self.param.data_param.prefetch)
