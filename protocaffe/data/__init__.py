"""Where batches come from: sources (LMDB, HDF5), the transformer, prefetching, and data sets that can be fetched.

============== ==================================================================
module         what it does
============== ==================================================================
datasets       fetch MNIST and Fashion-MNIST, check them, write LMDBs
catalogue      what is known of those sets: files, sizes, SHA-256, mirrors
fetch          the places they are fetched from, tried in turn
idx            the file format of MNIST
lmdb_source    read and write LMDBs of Datum messages
datum          one Datum message to an array and a label
datum_source   items by index, decoded once and then kept in memory
hdf5_source    rows of the HDF5 files in a list
order          which item comes at which position, and all random draws
transformer    crop, mirror, mean, scale over a whole batch
prefetch       one thread that prepares batches ahead
feed           what the source layers share: batches at a position, seek
============== ==================================================================

Everything that a batch holds is a pure function of (seed, layer name, position), so a run that goes on from a
snapshot sees the batches that the uninterrupted run would have seen.
"""

from __future__ import annotations
