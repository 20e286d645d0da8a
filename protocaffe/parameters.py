"""The learnable parameters of a net: multipliers, and which layers share one (Caffe's rules, Net::AppendParam)."""

from __future__ import annotations

from typing import Any

from .blob import Blob
from .errors import NetError
from .layer import Layer


class Parameters:
    """Collects parameters layer by layer.

    ``owners`` holds each distinct parameter once, in order; ``lr_mults`` and ``decay_mults`` go with it.
    """

    def __init__(self) -> None:
        self.owners: list[Blob] = []
        self.lr_mults: list[float] = []
        self.decay_mults: list[float] = []
        self._named: dict[str, tuple[int, Layer, Any]] = {}

    @staticmethod
    def specs(layer: Layer) -> list[Any]:
        """A ParamSpec for each of the layer's parameters; defaults where the prototxt gives none."""
        from .io import schema

        given = list(layer.param.param)
        if len(given) > len(layer.blobs):
            layer.fail(NetError, f"has {len(layer.blobs)} parameters, but {len(given)} param entries are given")
        return given + [schema.ParamSpec() for _ in range(len(layer.blobs) - len(given))]

    def add(self, layer: Layer) -> None:
        """Take a layer's parameters in; one whose name is known shares the first one's values."""
        for blob, spec in zip(layer.blobs, self.specs(layer), strict=True):
            known = self._named.get(spec.name) if spec.name else None
            if known is None:
                if spec.name:
                    self._named[spec.name] = (len(self.owners), layer, spec)
                self.owners.append(blob)
                self.lr_mults.append(spec.lr_mult)
                self.decay_mults.append(spec.decay_mult)
            else:
                self._share(layer, blob, spec, *known)

    def _share(self, layer: Layer, blob: Blob, spec: Any, index: int, owner_layer: Layer, owner_spec: Any) -> None:
        owner = self.owners[index]
        who = f'parameter "{spec.name}" shared with {owner_layer.describe()}'
        permissive = spec.share_mode == 1 or owner_spec.share_mode == 1
        if (blob.count != owner.count) if permissive else (blob.shape != owner.shape):
            same = "as many values as" if permissive else "the shape of"
            layer.fail(NetError, f"{who} must have {same} its owner {owner.shape}, got {blob.shape}")
        for field, kept in (("lr_mult", self.lr_mults), ("decay_mult", self.decay_mults)):
            if not spec.HasField(field):
                continue
            value = getattr(spec, field)
            if owner_spec.HasField(field) and value != getattr(owner_spec, field):
                layer.fail(NetError, f"{who} has {field} {getattr(owner_spec, field)} there and {value} here")
            kept[index] = value
            setattr(owner_spec, field, value)
        keep = blob.mask
        blob.share(owner)
        if keep is not None and owner.mask is None:
            owner.mask = keep.reshape(owner.shape)
