"""The layer forms of 2013 (V0) and 2014 (V1), and how their fields map to later ones."""

from __future__ import annotations

from typing import Any

from ..errors import NetError

# V1's enum names -> today's types.
V1_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "THRESHOLD": "Threshold",
    "WINDOW_DATA": "WindowData",
}

# V0's type strings -> V1's enum names ("padding" is folded into the layer after it).
V0_TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}

# V0 field -> {V0 type: where its value goes in V1}; "*" is any other type. A dot leads into a sub-message.
_DATA = {"data": "data_param", "images": "image_data_param", "window_data": "window_data_param"}
_V0_FIELDS: dict[str, dict[str, str]] = {
    "num_output": {"conv": "convolution_param.num_output", "innerproduct": "inner_product_param.num_output"},
    "biasterm": {"conv": "convolution_param.bias_term", "innerproduct": "inner_product_param.bias_term"},
    "weight_filler": {"conv": "convolution_param.weight_filler", "innerproduct": "inner_product_param.weight_filler"},
    "bias_filler": {"conv": "convolution_param.bias_filler", "innerproduct": "inner_product_param.bias_filler"},
    "pad": {"conv": "convolution_param.pad", "pool": "pooling_param.pad"},
    "kernelsize": {"conv": "convolution_param.kernel_size", "pool": "pooling_param.kernel_size"},
    "group": {"conv": "convolution_param.group"},
    "stride": {"conv": "convolution_param.stride", "pool": "pooling_param.stride"},
    "pool": {"pool": "pooling_param.pool"},
    "dropout_ratio": {"dropout": "dropout_param.dropout_ratio"},
    "local_size": {"lrn": "lrn_param.local_size"},
    "alpha": {"lrn": "lrn_param.alpha"},
    "beta": {"lrn": "lrn_param.beta"},
    "k": {"lrn": "lrn_param.k"},
    "source": {
        **{kind: f"{param}.source" for kind, param in _DATA.items()},
        "hdf5_data": "hdf5_data_param.source",
        "infogain_loss": "infogain_loss_param.source",
    },
    "scale": {"*": "transform_param.scale"},
    "meanfile": {"*": "transform_param.mean_file"},
    "batchsize": {
        **{kind: f"{param}.batch_size" for kind, param in _DATA.items()},
        "hdf5_data": "hdf5_data_param.batch_size",
    },
    "cropsize": {"*": "transform_param.crop_size"},
    "mirror": {"*": "transform_param.mirror"},
    "rand_skip": {"data": "data_param.rand_skip", "images": "image_data_param.rand_skip"},
    "shuffle_images": {"images": "image_data_param.shuffle"},
    "new_height": {"images": "image_data_param.new_height"},
    "new_width": {"images": "image_data_param.new_width"},
    "concat_dim": {"concat": "concat_param.concat_dim"},
    "det_fg_threshold": {"window_data": "window_data_param.fg_threshold"},
    "det_bg_threshold": {"window_data": "window_data_param.bg_threshold"},
    "det_fg_fraction": {"window_data": "window_data_param.fg_fraction"},
    "det_context_pad": {"window_data": "window_data_param.context_pad"},
    "det_crop_mode": {"window_data": "window_data_param.crop_mode"},
    "hdf5_output_param": {"hdf5_output": "hdf5_output_param"},
}


def fold_padding(net: Any) -> Any:
    """A copy of a V0 net whose padding layers have become the `pad` of the convolution or pooling layer behind them."""
    out = type(net)()
    out.CopyFrom(net)
    del out.layers[:]
    padding: dict[str, Any] = {}
    for old in net.layers:
        if old.layer.type == "padding":
            if len(old.bottom) != 1 or len(old.top) != 1:
                raise NetError(f'padding layer "{old.layer.name}" must have one bottom and one top')
            padding[old.top[0]] = old
            continue
        new = out.layers.add()
        new.CopyFrom(old)
        for i, bottom in enumerate(old.bottom):
            if bottom not in padding:
                continue
            if old.layer.type not in ("conv", "pool") or len(old.bottom) != 1:
                raise NetError(
                    f'layer "{old.layer.name}" ({old.layer.type}) reads the padding layer "{bottom}": '
                    "only a conv or pool layer with one bottom may"
                )
            new.layer.pad = padding[bottom].layer.pad
            new.bottom[i] = padding[bottom].bottom[0]
        for top in old.top:
            padding.pop(top, None)
    return out


def v0_to_v1(old: Any, new: Any) -> None:
    """Fill a V1 layer from one that holds a V0 layer.

    Raises
    ------
    NetError : unknown type, or a field that the layer's type never had
    """
    if not old.HasField("layer"):
        new.CopyFrom(old)
        return
    v0 = old.layer
    new.bottom.extend(old.bottom)
    new.top.extend(old.top)
    if v0.HasField("name"):
        new.name = v0.name
    if v0.HasField("type"):
        if v0.type not in V0_TYPES:
            raise NetError(f'layer "{v0.name}": unknown V0 layer type "{v0.type}"')
        new.type = type(new).LayerType.Value(V0_TYPES[v0.type])
    for blob in v0.blobs:
        new.blobs.add().CopyFrom(blob)
    new.blobs_lr.extend(v0.blobs_lr)
    new.weight_decay.extend(v0.weight_decay)
    for field, places in _V0_FIELDS.items():
        if not v0.HasField(field):
            continue
        place = places.get(v0.type) or places.get("*")
        if place is None:
            raise NetError(f'layer "{v0.name}": a V0 layer of type "{v0.type}" has no "{field}"')
        owner_name, _, name = place.rpartition(".")
        _assign(getattr(new, owner_name) if owner_name else new, name, getattr(v0, field))


def _assign(message: Any, name: str, value: Any) -> None:
    current = getattr(message, name)
    if hasattr(current, "CopyFrom"):
        current.CopyFrom(value)
    elif hasattr(current, "append"):
        current.append(value)
    else:
        setattr(message, name, value)


_MOVED = {"DATA": "data_param", "IMAGE_DATA": "image_data_param", "WINDOW_DATA": "window_data_param"}


def move_transforms(layer: Any) -> None:
    """Move scale, mean_file, crop_size and mirror of a V1 data layer into its transform_param, in place."""
    param = _MOVED.get(type(layer).LayerType.Name(layer.type))
    if param is None or not layer.HasField(param):
        return
    source = getattr(layer, param)
    for name in ("scale", "mean_file", "crop_size", "mirror"):
        if source.HasField(name):
            setattr(layer.transform_param, name, getattr(source, name))
            source.ClearField(name)


def v1_to_v2(old: Any, new: Any) -> None:
    """Fill a layer of today from a V1 layer."""
    for field, value in old.ListFields():
        name = field.name
        if name == "type":
            new.type = V1_TYPES[type(old).LayerType.Name(value)]
        elif name == "param":
            for i, key in enumerate(value):
                _param(new, i).name = key
        elif name == "blob_share_mode":
            for i, mode in enumerate(value):
                _param(new, i).share_mode = mode
        elif name == "blobs_lr":
            for i, mult in enumerate(value):
                _param(new, i).lr_mult = mult
        elif name == "weight_decay":
            for i, mult in enumerate(value):
                _param(new, i).decay_mult = mult
        elif name != "layer":
            target = getattr(new, name)
            if hasattr(target, "CopyFrom"):
                target.CopyFrom(value)
            elif hasattr(target, "MergeFrom"):  # repeated
                target.MergeFrom(value)
            else:
                setattr(new, name, value)


def _param(layer: Any, index: int) -> Any:
    while len(layer.param) <= index:
        layer.param.add()
    return layer.param[index]
