"""A net's weights: copied in, saved, shared; masks from zeros."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from .blob import Blob
from .errors import WeightsError

if TYPE_CHECKING:
    from .arena import Arena
    from .io.caffemodel import LayerWeights
    from .layer import Layer

logger = logging.getLogger("protocaffe.net")

#: above this share of exact zeros, weights without a mask look pruned
ZEROS_WARNING = 0.3


def read_any(path: str | os.PathLike[str]) -> list[LayerWeights]:
    """The layers of a weights file of any form: caffemodel, HDF5 or compressed model (.pcz)."""
    from .io.caffemodel import read_caffemodel
    from .io.compressed import is_compressed, read_compressed
    from .io.hdf5 import is_hdf5, read_weights

    read = read_weights if is_hdf5(path) else read_compressed if is_compressed(path) else read_caffemodel
    return list(read(path))


class WeightFiles:
    """The part of Net that deals with weights in files and in other nets."""

    layers: list[Layer]
    learnable_params: list[Blob]
    arena: Arena
    name: str
    param: Any
    #: weights that came from a file and may be pruned without saying so
    _check_zeros_of: str | None = None
    #: layer name -> fields that the schema does not know, of the weights that were copied to it last
    _unknown_fields: Mapping[str, bytes] = MappingProxyType({})

    def copy_from(self, path: str | os.PathLike[str], keep_masks: bool = True) -> None:
        """Copy weights, and masks where the file has them, from a caffemodel (binary or HDF5) or a compressed model to
        the layers of the same names.

        Layers that this net lacks are ignored, layers that the file lacks keep their values. A file with masks leaves
        the net masked; a mask that the net has and the file lacks stays, and the weights under it are 0, unless
        ``keep_masks`` is False: then all masks are dropped before those of the file are taken. Raises, before
        anything changes, WeightsError where counts or shapes differ or no layer is found by its name, and
        FileFormatError for a damaged file.
        """
        copy_to([self], path, keep_masks)

    def _copy_file(self, path: str | os.PathLike[str], keep_masks: bool) -> int:
        """Copy from a file; returns how many layers with parameters it had weights for."""
        path = os.fspath(path)
        logger.info("Copying weights from %s", path)
        return self.copy_weights(read_any(path), path, keep_masks)

    def copy_weights(self, weights: Iterable[LayerWeights], source: str = "weights", keep_masks: bool = True) -> int:
        """Copy what a file held, see copy_from; returns the number of layers that got weights, which may be 0."""
        own: dict[str, list[Layer]] = {}
        matched: list[tuple[Layer, LayerWeights]] = []
        unknown = dict(self._unknown_fields)
        for layer in self.layers:
            own.setdefault(layer.name, []).append(layer)
        for stored in weights:
            if stored.name not in own:
                if stored.blobs:
                    logger.info("Ignoring source layer %s", stored.name)
                continue
            queue = own[stored.name]
            layer = queue.pop(0) if len(queue) > 1 else queue[0]
            if stored.unknown and stored.type == layer.type:
                unknown[stored.name] = stored.unknown
            if stored.blobs or layer.blobs:
                stored = self._with_shared(layer, _with_surgery(layer, stored))
                self._check_layer(layer, stored, source)
                matched.append((layer, stored))
        self._unknown_fields = unknown
        if not keep_masks:
            self.drop_masks()
        for layer, stored in matched:
            parts = zip(layer.blobs, stored.blobs, stored.masks, stored.tied, strict=True)
            for blob, values, keep, tied in parts:
                if values is None:
                    continue
                blob.values.tied = tied
                blob.data = values.reshape(blob.shape)
                if keep is not None:
                    blob.mask = keep.reshape(blob.shape)
                blob.apply_mask()
        self._check_zeros_of = source
        return len(matched)

    def _owned(self, blob: Blob) -> bool:
        return any(blob is owner for owner in self.learnable_params)

    def _with_shared(self, layer: Layer, stored: LayerWeights) -> LayerWeights:
        """With None for parameters at the end that another layer owns: HDF5 files hold those once, with the owner."""
        missing = layer.blobs[len(stored.blobs) :]
        if not missing or any(self._owned(blob) for blob in missing):
            return stored
        pad = [None] * len(missing)
        blobs, masks, diffs = ([*part, *pad] for part in (stored.blobs, stored.masks, stored.diffs))
        return replace(stored, blobs=blobs, masks=masks, diffs=diffs, tied=[*stored.tied, *[False] * len(missing)])

    def _check_layer(self, layer: Layer, stored: LayerWeights, source: str) -> None:
        if len(stored.blobs) != len(layer.blobs):
            raise WeightsError(
                f'"{source}": {layer.describe()} has {len(layer.blobs)} parameters, '
                f"but the file holds {len(stored.blobs)}"
            )
        for i, (blob, values) in enumerate(zip(layer.blobs, stored.blobs, strict=True)):
            if values is None and not self._owned(blob):
                continue
            if values is None:
                raise WeightsError(f'"{source}": {layer.describe()}: the file holds no parameter {i}')
            if not _same_shape(blob.shape, values.shape):
                raise WeightsError(
                    f'"{source}": {layer.describe()}: parameter {i} must have shape {blob.shape}, got {values.shape}; '
                    "to train it afresh, give the layer another name"
                )

    def warn_of_zeros(self) -> None:
        """Warn, once after weights were copied, if they look pruned but have no masks: training would fill them in."""
        source, self._check_zeros_of = self._check_zeros_of, None
        if source is None:
            return
        blobs = [b for b in self.prunable() if b.mask is None]
        count = sum(b.count for b in blobs)
        zeros = sum(b.count - int(np.count_nonzero(b.data)) for b in blobs)
        if count and zeros > ZEROS_WARNING * count:
            logger.warning(
                "%s: %.1f %% of the prunable weights are exactly 0, but no masks are stored: training will fill "
                "them in. Give --mask-from-zeros (net.masks_from_zeros()) to keep them 0.",
                source,
                100 * zeros / count,
            )

    def layer_weights(self, diffs: bool = False) -> list[LayerWeights]:
        """The weights and masks of every layer that has some, as files hold them."""
        from .io.caffemodel import LayerWeights

        out = []
        for layer in self.layers:
            if not layer.blobs:
                continue
            for blob in layer.blobs:
                blob.apply_mask()
            out.append(
                LayerWeights(
                    layer.name,
                    layer.type,
                    [b.data for b in layer.blobs],
                    [b.mask for b in layer.blobs],
                    [b.diff for b in layer.blobs] if diffs else [],
                    tied=[b.values.tied for b in layer.blobs],
                )
            )
        return out

    def save(self, path: str | os.PathLike[str], write_diff: bool = False) -> None:
        """Write a caffemodel, readable by BVLC Caffe, in HDF5 if the name ends in .h5.

        Pruned weights are +0 in it, masks lie where Caffe does not look. Fields of layers that only another Caffe
        knows, in the weights that were copied, are kept (not in HDF5, which holds no options).
        """
        from .io.caffemodel import write_caffemodel
        from .passes import insert_splits

        if os.fspath(path).endswith(".h5"):
            self.save_hdf5(path, write_diff)
            return
        write_caffemodel(
            path, insert_splits(self.param), self.layer_weights(write_diff), write_diff, self._unknown_fields
        )

    def save_hdf5(self, path: str | os.PathLike[str], write_diff: bool = False) -> None:
        """Write the weights in HDF5, whatever the name; a shared parameter once, with the layer that owns it."""
        from .io.hdf5 import write_weights

        weights = self.layer_weights(write_diff)
        for layer, entry in zip([x for x in self.layers if x.blobs], weights, strict=True):
            entry.blobs = [b if self._owned(own) else None for b, own in zip(entry.blobs, layer.blobs, strict=True)]
        write_weights(path, weights, write_diff, [layer.name for layer in self.layers if layer.name])

    def load_hdf5(self, path: str | os.PathLike[str]) -> None:
        """Copy weights from an HDF5 file (pycaffe's name); copy_from reads it too."""
        self.copy_from(path)

    def share_with(self, other: WeightFiles) -> None:
        """Use the parameters of ``other``'s layers of the same names, masks too, but not diffs: test nets do.

        A solver trains the parameters of its own net, so it is the other nets that have to share with that one.
        """
        theirs = {layer.name: layer for layer in reversed(other.layers)}  # of one name, the first
        for layer in self.layers:
            source = theirs.get(layer.name)
            if source is None or not source.blobs:
                continue
            if [b.shape for b in source.blobs] != [b.shape for b in layer.blobs]:
                raise WeightsError(
                    f"{layer.describe()} has parameters of shapes {[b.shape for b in layer.blobs]} and cannot "
                    f'share those of net "{other.name}": {[b.shape for b in source.blobs]}'
                )
            for mine, its in zip(layer.blobs, source.blobs, strict=True):
                mine.share_weights(its)
        self.arena.version += 1

    # ---------------------------------------------------------------------------------------------------------- masks
    def prunable(self) -> list[Blob]:
        """The parameters that their layers declare prunable, each once."""
        found: list[Blob] = []
        for layer in self.layers:
            for blob in layer.blobs:
                if blob.prunable and all(blob.values.data is not b.values.data for b in found):
                    found.append(blob)
        return found

    def masks_from_zeros(self) -> int:
        """Mask every weight that is exactly 0 in the prunable parameters; returns how many.

        A parameter without zeros is left without a mask.
        """
        total = 0
        self._check_zeros_of = None
        for blob in self.prunable():
            keep = blob.data != 0
            zeros = blob.count - int(np.count_nonzero(keep))
            if zeros:
                blob.mask = keep if blob.mask is None else keep & blob.mask
            total += zeros
        return total

    def drop_masks(self) -> None:
        """Forget all masks; weights that were pruned start from 0 and are free to move."""
        self._check_zeros_of = None
        for layer in self.layers:
            for blob in layer.blobs:
                blob.mask = None


def _with_surgery(layer: Layer, stored: LayerWeights) -> LayerWeights:
    """With the second half of the blobs as masks of the first, as Dynamic Network Surgery keeps them.

    Where a file tells the type its reader does that; HDF5 files do not, and names alone decide what fits a layer.
    """
    count = len(layer.blobs)
    values, keep = stored.blobs[:count], stored.blobs[count:]
    if not count or len(keep) != count or any(m is not None for m in stored.masks) or any(b is None for b in keep):
        return stored
    fits = all(v is not None and v.shape == k.shape for v, k in zip(values, keep, strict=True))
    if not fits or any(np.any((k != 0) & (k != 1)) for k in keep):
        return stored
    return replace(
        stored, blobs=values, masks=[k != 0 for k in keep], diffs=stored.diffs[:count], tied=stored.tied[:count]
    )


def copy_to(nets: Sequence[WeightFiles], path: str | os.PathLike[str], keep_masks: bool = True) -> None:
    """Copy a file's weights to the layers of the same names of several nets; see WeightFiles.copy_from.

    Raises WeightsError where the nets have parameters and no layer of any of them is found in the file.
    """
    found = sum([net._copy_file(path, keep_masks) for net in nets])
    wanted = dict.fromkeys(layer.name for net in nets for layer in net.layers if layer.blobs)
    if wanted and not found:
        names = ", ".join(list(wanted)[:5]) + (", ..." if len(wanted) > 5 else "")
        raise WeightsError(f'"{os.fspath(path)}": holds weights for none of the net\'s layers ({names})')


def _same_shape(want: tuple[int, ...], stored: tuple[int, ...]) -> bool:
    """Equal, or equal but for the leading ones of an old four-axis shape (a bias stored as 1 x 1 x 1 x N)."""
    if want == stored:
        return True
    if len(stored) != 4 or len(want) > 4:
        return False
    return (1,) * (4 - len(want)) + want == stored
