"""A separator as an ONNX graph, which separates conditioned samples without Python.

The graph is `Separator.separate_conditioned`: mixture [B, T] -> voices [B, n_speakers, T], with B
and T free. `spikesep.separation.audio.conditioning` stays outside of it.
"""

from pathlib import Path
from typing import Any

import numpy as np

from spikesep import __version__
from spikesep.files import atomic_path
from spikesep.separation.model.separator import Separator
from spikesep.spiking.export.onnx_nodes import OnnxGraph, add_network

OPSET = 17
"""Version of the operators; runtimes since 2022 know it."""
IR_VERSION = 8
LAST = np.iinfo(np.int64).max


def save_onnx(model: Separator, path: Path) -> None:
    """Write a separator as an ONNX file.

    Raises:
        SpikeSepError: it spikes, and not as deferred neurons in fixed-point form; or the package
            `onnx` is not installed.
    """
    made = to_onnx(model)
    with atomic_path(path) as temporary:
        temporary.write_bytes(made.SerializeToString())


def to_onnx(model: Separator) -> Any:
    """Make an `onnx.ModelProto` of a separator.

    A spiking separator encodes in float64, as in `Separator.encode_in_float64`; an analog one in
    float32.

    Raises:
        SpikeSepError: see `save_onnx`.
    """
    graph = OnnxGraph()
    features, encoded, n_samples = _encode(graph, model)
    potential = add_network(graph, model.network, features)
    _decode(graph, model, potential, encoded, n_samples)
    helper, single = graph.onnx.helper, graph.onnx.TensorProto.FLOAT
    mixture = helper.make_tensor_value_info("mixture", single, ["B", "T"])
    shape = ["B", model.config.n_speakers, "T"]
    voices = helper.make_tensor_value_info("voices", single, shape)
    made = helper.make_model(
        helper.make_graph(graph.nodes, "separator", [mixture], [voices], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="spikesep",
        producer_version=__version__,
    )
    helper.set_model_props(
        made,
        {
            "sample_rate": str(model.sample_rate),
            "n_speakers": str(model.config.n_speakers),
            "stride": str(model.stride),
            "context": str(model.context),
            "look_ahead": str(model.look_ahead),
            "conditioning_cells": str(model.conditioner().look_ahead),
            "kind": model.kind,
        },
    )
    return made


def _encode(graph: OnnxGraph, model: Separator) -> tuple[str, str, str]:
    """Append encoder and norm: features and encoded mixture [B, N, K], and T [1]."""
    stride, dtype = model.stride, np.float64 if model.kind == "snn" else np.float32
    n_samples = graph.op("Shape", "mixture", start=1)
    size, zero = graph.constant([stride]), graph.constant([0])
    tail = graph.op("Mod", graph.op("Neg", n_samples), size)
    pads = graph.op("Concat", zero, size, zero, graph.op("Add", size, tail), axis=0)
    padded = graph.op("Pad", "mixture", pads)
    halves = graph.op("Reshape", padded, graph.constant([0, -1, stride]))
    pairs = [_slice(graph, halves, 1, *ends) for ends in ((0, -1), (1, LAST))]
    frames = graph.op("Concat", *pairs, axis=2)
    if model.kind == "snn":
        frames = graph.cast(frames, "DOUBLE")
    filters = model.encoder.filterbank.filters()[:, 0].T
    encoded = graph.op("Relu", graph.op("MatMul", frames, graph.constant(filters, dtype)))
    normed = _normalize(graph, model, encoded, dtype)
    features, encoded = (
        graph.op("Transpose", graph.cast(x, "FLOAT"), perm=[0, 2, 1]) for x in (normed, encoded)
    )
    return features, encoded, n_samples


def _normalize(graph: OnnxGraph, model: Separator, x: str, dtype: type) -> str:
    """Append the channel norm of [B, K, N]."""
    centred = graph.op("Sub", x, graph.op("ReduceMean", x, axes=[2]))
    variance = graph.op("ReduceMean", graph.op("Mul", centred, centred), axes=[2])
    variance = graph.op("Add", variance, graph.constant(model.norm.eps, dtype))
    normed = graph.op("Div", centred, graph.op("Sqrt", variance))
    gain, bias = (graph.constant(v[:, 0], dtype) for v in (model.norm.gain, model.norm.bias))
    return graph.op("Add", graph.op("Mul", normed, gain), bias)


def _decode(
    graph: OnnxGraph, model: Separator, potential: str, encoded: str, n_samples: str
) -> None:
    """Append masks, decoder and overlap-add: the output `voices`, [B, n_speakers, T]."""
    stride, n_speakers = model.stride, model.config.n_speakers
    shape = graph.constant([0, n_speakers, model.config.n_filters, -1])
    masks = graph.op("Reshape", graph.op("Sigmoid", potential), shape)
    masked = graph.op("Mul", masks, graph.op("Unsqueeze", encoded, graph.constant([1])))
    masked = graph.op("Transpose", masked, perm=[0, 1, 3, 2])
    filters = model.decoder.filterbank.filters()[:, 0]
    frames = graph.op("MatMul", masked, graph.constant(filters))
    late = [0, 0, 0, 0, 0, 0, 1, 0]  # a half frame of zeros behind the first halves
    early = [0, 0, 1, 0, 0, 0, 0, 0]
    halves = [
        graph.op("Pad", _slice(graph, frames, 3, *ends), graph.constant(pads))
        for ends, pads in (((0, stride), late), ((stride, LAST), early))
    ]
    samples = graph.op("Reshape", graph.total(halves), graph.constant([0, n_speakers, -1]))
    begin = graph.constant([stride])
    end = graph.op("Add", begin, n_samples)
    graph.op("Slice", samples, begin, end, graph.constant([2]), name="voices")


def _slice(graph: OnnxGraph, x: str, axis: int, begin: int, end: int) -> str:
    return graph.op("Slice", x, *(graph.constant([number]) for number in (begin, end, axis)))
