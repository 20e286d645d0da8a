"""Bring old forms of nets and solvers to today's, as Caffe does when it reads them."""

from __future__ import annotations

import logging
from typing import Any

from ..errors import NetError
from . import legacy

logger = logging.getLogger("protocaffe.net")

_SOLVER_TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}

#: Dynamic Network Surgery's types: the plain type, the field of its options, the field of the surgery's own, and the
#: one that has its number (140, 141) in today's Caffe: binary files have the surgery's options there
_SURGERY = {
    "CConvolution": ("Convolution", "convolution_param", "cconvolution_param", "elu_param"),
    "CInnerProduct": ("InnerProduct", "inner_product_param", "cinner_product_param", "bias_param"),
}


def upgrade_net(net: Any) -> Any:
    """A copy of a NetParameter in today's form.

    In Caffe's order: V0 layers to V1, transformation fields of data layers to ``transform_param``, V1 layers to
    today's, ``input`` fields to an Input layer, and the learning rates of BatchNorm's three statistics to 0. Beyond
    Caffe: the masked layers of Dynamic Network Surgery become the plain ones with masks.

    Raises
    ------
    NetError : the net mixes ``layer`` and ``layers``, or an old layer is not valid
    """
    out = type(net)()
    out.CopyFrom(net)
    if any(layer.HasField("layer") for layer in out.layers):
        out = _upgrade_v0(out)
    if out.layers:
        if out.layer:
            raise NetError('the net has both "layer" (today\'s form) and "layers" (the form of 2014) fields: use one')
        for old in out.layers:
            legacy.move_transforms(old)
            legacy.v1_to_v2(old, out.layer.add())
        del out.layers[:]
    if out.input:
        out = _upgrade_inputs(out)
    for layer in out.layer:
        if layer.type in _SURGERY:
            _upgrade_surgery(layer)
        if layer.type == "BatchNorm" and len(layer.param) == 3:
            for param in layer.param:
                param.lr_mult = param.decay_mult = 0.0
    return out


def _upgrade_surgery(layer: Any) -> None:
    """A layer of Dynamic Network Surgery as the plain layer with a mask.

    Its mask fillers begin the masks; the schedule that changes masks in training (gamma, power, iter_stop, c_rate) is
    not followed: masks stay as they are.
    """
    from google.protobuf.message import DecodeError

    name = layer.type
    layer.type, field, own, same_number = _SURGERY[name]
    if layer.HasField(same_number):
        try:
            getattr(layer, own).MergeFromString(getattr(layer, same_number).SerializeToString())
        except DecodeError as error:
            raise NetError(f'layer "{layer.name}" ({name}): its {own} is damaged ({error})') from error
        layer.ClearField(same_number)
    if not layer.HasField(own):
        return
    surgery = getattr(layer, own)
    for kind in ("weight_mask_filler", "bias_mask_filler"):
        filler = getattr(surgery, kind)
        if not surgery.HasField(kind) or (filler.type == "constant" and filler.value == 1):
            continue  # nothing is masked
        if kind == "bias_mask_filler":
            raise NetError(f'layer "{layer.name}" ({name}): a bias_mask_filler other than constant 1 is not supported')
        getattr(layer, field).mask_filler.CopyFrom(filler)
    layer.ClearField(own)
    logger.info(
        'layer "%s" (%s) is read as %s: its masks are kept, its schedule of surgery is not followed',
        layer.name, name, layer.type,
    )  # fmt: skip


def _upgrade_v0(net: Any) -> Any:
    padded = legacy.fold_padding(net)
    out = type(net)()
    out.CopyFrom(padded)
    del out.layers[:]
    for old in padded.layers:
        legacy.v0_to_v1(old, out.layers.add())
    return out


def _upgrade_inputs(net: Any) -> Any:
    """Replace `input` with `input_shape` or `input_dim` by an Input layer in front."""
    out = type(net)()
    out.CopyFrom(net)
    for name in ("input", "input_shape", "input_dim", "layer"):
        out.ClearField(name)
    count = len(net.input)
    if net.input_shape:
        if len(net.input_shape) != count:
            raise NetError(f"the net has {count} input fields but {len(net.input_shape)} input_shape")
        shapes = [list(shape.dim) for shape in net.input_shape]
    else:
        dims = list(net.input_dim)
        if dims and len(dims) != 4 * count:
            raise NetError(f"the net has {count} input fields but {len(dims)} input_dim, expected {4 * count}")
        shapes = [dims[i : i + 4] for i in range(0, len(dims), 4)]
    if shapes:
        layer = out.layer.add(name="input", type="Input", top=list(net.input))
        for shape in shapes:
            layer.input_param.shape.add(dim=shape)
    for layer in net.layer:
        out.layer.add().CopyFrom(layer)
    return out


def upgrade_solver(solver: Any) -> Any:
    """A copy of a SolverParameter whose enum `solver_type` has become the string `type`, and whose nets are upgraded.

    Raises
    ------
    NetError : it has both, and they differ
    """
    out = type(solver)()
    out.CopyFrom(solver)
    if out.HasField("solver_type"):
        name = _SOLVER_TYPES[type(out).SolverType.Name(out.solver_type)]
        if out.HasField("type") and out.type != name:
            raise NetError(f'the solver has both type "{out.type}" and the older solver_type {name.upper()}: use type')
        out.type = name
        out.ClearField("solver_type")
    for field in ("train_net_param", "net_param"):
        if out.HasField(field):
            getattr(out, field).CopyFrom(upgrade_net(getattr(out, field)))
    for net in out.test_net_param:
        net.CopyFrom(upgrade_net(net))
    return out
