#!/usr/bin/env python3
"""Makes the quantised models of tests/quantised.rs and their goldens: tests/data/quantised/.

The first blocks of the PP-OCR direction classifier (models/ppocr-v4, see tests/fetch_models.py) and a small convolutional network from a
seed, quantised by onnxruntime's static quantiser as QDQ and as QOperator. A golden has the inputs of two runs and the outputs of onnxruntime
without graph optimisations: the QDQ export in floats with rounding nodes between.

    pip install onnx==1.22.0 onnxruntime==1.31.1 numpy
    python3 tests/quantised/make.py
"""

import pathlib
import tempfile

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/data/quantised"
SEED = 20


class Calibration(CalibrationDataReader):
    def __init__(self, name, arrays):
        self.left = iter([{name: a} for a in arrays])

    def get_next(self):
        return next(self.left, None)


def small_network(rng):
    """Two convolutions, a residual sum, a pool and a product."""
    weights = []

    def tensor(name, *shape):
        fan = int(np.prod(shape[1:])) or 1
        weights.append(numpy_helper.from_array(rng.normal(0, fan**-0.5, shape).astype(np.float32), name))
        return name

    nodes = [
        helper.make_node("Conv", ["x", tensor("w0", 16, 3, 3, 3), tensor("b0", 16)], ["a"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["ar"]),
        helper.make_node("Conv", ["ar", tensor("w1", 16, 16, 3, 3), tensor("b1", 16)], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "ar"], ["s"]),
        helper.make_node("Relu", ["s"], ["sr"]),
        helper.make_node("Conv", ["sr", tensor("w2", 32, 16, 1, 1), tensor("b2", 32)], ["c"]),
        helper.make_node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["p", "flat"], ["f"]),
        helper.make_node("Gemm", ["f", tensor("w3", 512, 10), tensor("b3", 10)], ["y"]),
    ]
    weights.append(numpy_helper.from_array(np.array([1, 512], np.int64), "flat"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])
    p = helper.make_tensor_value_info("p", TensorProto.FLOAT, [1, 32, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])
    graph = helper.make_graph(nodes, "small", [x], [p, y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def first_blocks():
    """The classifier down to its sixth sum of a block and its input."""
    model = onnx.load(ROOT / "models/ppocr-v4/ch_ppocr_mobile_v2.0_cls_infer.onnx")
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, value in zip(dims, (1, 3, 48, 192)):
        dim.Clear()
        dim.dim_value = value
    del model.graph.value_info[:]
    model = onnx.shape_inference.infer_shapes(model)
    shapes = {v.name: v.type.tensor_type.shape.dim for v in model.graph.value_info}
    convs = [n for n in model.graph.node if n.op_type == "Conv" and len(shapes.get(n.output[0], [])) == 4]
    end = convs[9].output[0]
    part = onnx.utils.Extractor(model).extract_model([model.graph.input[0].name], [end])
    # Weights have a scale per channel, which the model's opset 11 does not know.
    return onnx.version_converter.convert_version(part, 13)


def quantise(name, model, shape, rng):
    data = [(rng.integers(-40, 41, shape) / 16).astype(np.float32) for _ in range(6)]
    port = model.graph.input[0].name
    with tempfile.TemporaryDirectory() as folder:
        plain = str(pathlib.Path(folder) / "plain.onnx")
        ready = str(pathlib.Path(folder) / "ready.onnx")
        onnx.save(model, plain)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        for kind, form, activation in (
            ("qdq", QuantFormat.QDQ, QuantType.QUInt8),
            ("qoperator", QuantFormat.QOperator, QuantType.QUInt8),
        ):
            path = OUT / f"{name}_{kind}.onnx"
            quantize_static(
                ready,
                str(path),
                Calibration(port, data[:4]),
                quant_format=form,
                activation_type=activation,
                weight_type=QuantType.QInt8,
                per_channel=True,
            )
            options = ort.SessionOptions()
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            arrays = {}
            for case, x in enumerate(data[4:]):
                arrays[f"run{case}.in0"] = x
                for n, out in enumerate(session.run(None, {port: x})):
                    arrays[f"run{case}.out{n}"] = out
            np.savez_compressed(OUT / f"{name}_{kind}.golden.npz", **arrays)
            steps = last_steps(onnx.load(path))
            print(path.name, path.stat().st_size, "bytes; steps of the outputs:", steps)


def last_steps(model):
    """Scale of the quantisation of each output."""
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    made = {o: n for n in model.graph.node for o in n.output}
    return {o.name: [float(values[made[o.name].input[1]])] for o in model.graph.output if made[o.name].op_type == "DequantizeLinear"}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    quantise("small", small_network(rng), (1, 3, 16, 16), rng)
    quantise("classifier", first_blocks(), (1, 3, 48, 192), rng)


if __name__ == "__main__":
    main()
