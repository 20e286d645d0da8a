"""Where batches come from: sources (LMDB, LevelDB, HDF5), transformer, prefetching, data sets that can be fetched.

============ ======================================================================
module       what it does
============ ======================================================================
datasets     MNIST and Fashion-MNIST as LMDBs; MNIST's sample inside the package
catalogue    what is known of those sets: files, sizes, SHA-256, mirrors
fetch        the places they are fetched from, tried in turn
mirrors, deb HTTP downloads that give up quickly; Debian packages without dpkg
idx          the file format of MNIST
lmdb_source  read and write LMDBs
leveldb_*    read LevelDBs: the pieces of their files (format), records by index (source)
datum        one Datum message to an array and a label, and back
datum_source items of a Datum database by index, decoded once, then kept in memory
hdf5_source  rows of the HDF5 files in a list
order        which item comes at which position, and all random draws
transformer  crop, mirror, mean, scale over a whole batch
datum_feed   source, order and transformer together, for the Data layer
prefetch     a thread that prepares batches ahead
feed         base of the source layers: batches at a position, seek
============ ======================================================================

Everything that a batch holds is a pure function of (seed, layer name, position), so a run that goes on from a
snapshot sees the batches that the uninterrupted run would have seen.
"""

from __future__ import annotations
