"""ONNX graphs in onnxruntime, with the counts of all layers among their outputs."""

import numpy as np


def session(made):
    """An onnxruntime session of a model, and the names of its outputs; counts come last."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(made, full_check=True)
    counts = [node.name for node in made.graph.node if node.name.startswith("count_")]
    for name in counts:
        kind = onnx.TensorProto.INT32
        made.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    runner = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=providers)
    return runner, [output.name for output in runner.get_outputs()]


def run_onnx(made, **inputs):
    """The outputs of a model by name."""
    runner, names = session(made)
    fed = {name: np.asarray(value, np.float32) for name, value in inputs.items()}
    return dict(zip(names, runner.run(None, fed), strict=True))
