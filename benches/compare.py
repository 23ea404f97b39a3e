#!/usr/bin/env python3
"""CPU speed of lockstep beside onnxruntime: the same models, the same shapes, in one run on this machine.

    cargo build --release
    python3 tests/fetch_models.py
    python3 benches/compare.py [--model NAME]... [--threads 1,2] [--rounds 7] [--runs 20] [--json]

Makes a virtual environment in target/bench-venv with onnxruntime, onnx and numpy from PyPI (--update installs newer ones).
Both sides run by turns, round after round, so that what else the machine does falls on both; min and median are over the
rounds, of the least and the median run of each round. A ratio above 1 says that lockstep is faster.

minilm is the float32 BERT of models/minilm. It has no ONNX file, so the script writes two from the same safetensors: one of
standard operators (LayerNormalization, Gelu), and one of the fused operators that onnxruntime's own transformer optimizer makes
(Attention, SkipLayerNormalization, BiasGelu). The ratio is against the faster one. The outputs of both sides are compared
before anything is timed.
"""

import argparse
import json
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODELS = ROOT / "models"
PACKAGES = ["onnxruntime", "onnx", "numpy"]

# name -> what lockstep compiles, its flags, the file that onnxruntime loads (None: written by `bert`)
CASES = {
    "minilm": ("minilm", ["--dim", "batch=1", "--dim", "sequence=128"], None),
    "ppocr-rec": (
        "ppocr-v4/ch_PP-OCRv4_rec_infer.onnx",
        ["--shape", "x=1x3x48x320"],
        "ppocr-v4/ch_PP-OCRv4_rec_infer.onnx",
    ),
    "ppocr-cls": (
        "ppocr-v4/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        ["--shape", "x=1x3x48x192"],
        "ppocr-v4/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    ),
    "resnet50": ("onnx-tests/light/light_resnet50.onnx", [], "onnx-tests/light/light_resnet50.onnx"),
}


def inside_venv(update):
    """Runs this script again with the Python of the virtual environment, which is made where it is missing."""
    home = ROOT / "target" / "bench-venv"
    python = home / "bin" / "python"
    if pathlib.Path(sys.prefix) == home:
        return
    fresh = not python.exists()
    if fresh:
        venv.create(home, with_pip=True)
    if fresh or update:
        subprocess.run([python, "-m", "pip", "install", "-q", "-U", *PACKAGES], check=True)
    os.execv(python, [str(python), *sys.argv])


def safetensors(path):
    """Tensors of a safetensors file, float32 ones, by name."""
    import numpy as np

    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, info in header.items():
        if info.get("dtype") == "F32":
            begin, end = (8 + length + at for at in info["data_offsets"])
            tensors[name] = np.frombuffer(data[begin:end], np.float32).reshape(info["shape"])
    return tensors


def bert(folder, batch, sequence, fused):
    """The encoder of a BERT directory as an ONNX model: standard operators, or those of com.microsoft."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    config = json.loads((folder / "config.json").read_text())
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    eps, width = config["layer_norm_eps"], config["hidden_size"] // config["num_attention_heads"]
    w = safetensors(folder / "model.safetensors")
    nodes, constants = [], []

    def const(name, array):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(op, inputs, **attributes):
        out = f"t{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [out], **attributes))
        return out

    def norm(x, skip, name, bias=None):
        g, b = const(name + ".g", w[name + ".weight"]), const(name + ".b", w[name + ".bias"])
        if fused:
            inputs = [x, skip, g, b] + ([bias] if bias else [])
            return node("SkipLayerNormalization", inputs, epsilon=eps, domain="com.microsoft")
        return node("LayerNormalization", [node("Add", [x, skip]), g, b], axis=-1, epsilon=eps)

    def matmul(x, name):
        return node("MatMul", [x, const(name + ".w", w[name + ".weight"].T)])

    def linear(x, name):
        return node("Add", [matmul(x, name), const(name + ".c", w[name + ".bias"])])

    words = node("Gather", [const("words", w["embeddings.word_embeddings.weight"]), "input_ids"])
    kinds = node("Gather", [const("kinds", w["embeddings.token_type_embeddings.weight"]), "token_type_ids"])
    places = const("places", w["embeddings.position_embeddings.weight"][None, :sequence])
    x = norm(node("Add", [words, kinds]), places, "embeddings.LayerNorm")
    if fused:
        mask = node("Cast", ["attention_mask"], to=TensorProto.INT32)
    else:
        mask = node("Cast", ["attention_mask"], to=TensorProto.FLOAT)
        mask = node("Unsqueeze", [mask, const("axes", np.array([1, 2]))])
        mask = node("Sub", [const("one", np.float32(1)), mask])
        mask = node("Mul", [mask, const("low", np.float32(np.finfo(np.float32).min))])
        split = const("split", np.array([batch, sequence, heads, width]))
        join = const("join", np.array([batch, sequence, hidden]))
        scale = const("scale", np.float32(width**0.5))
    for i in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{i}."
        parts = [at + "attention.self." + p for p in ("query", "key", "value")]
        if fused:
            qkv = const(at + "qkv.w", np.concatenate([w[p + ".weight"].T for p in parts], 1))
            biases = const(at + "qkv.b", np.concatenate([w[p + ".bias"] for p in parts]))
            a = node("Attention", [x, qkv, biases, mask], num_heads=heads, domain="com.microsoft")
        else:
            q, k, v = (node("Reshape", [linear(x, p), split]) for p in parts)
            q = node("Transpose", [q], perm=[0, 2, 1, 3])
            k, v = node("Transpose", [k], perm=[0, 2, 3, 1]), node("Transpose", [v], perm=[0, 2, 1, 3])
            scores = node("Add", [node("Div", [node("MatMul", [q, k]), scale]), mask])
            a = node("MatMul", [node("Softmax", [scores], axis=-1), v])
            a = node("Reshape", [node("Transpose", [a], perm=[0, 2, 1, 3]), join])
        for name, up in (("attention.output.", None), ("output.", "intermediate.dense")):
            residual = x if up is None else a
            if up and fused:
                bias = const(at + up + ".c", w[at + up + ".bias"])
                a = node("BiasGelu", [matmul(residual, at + up), bias], domain="com.microsoft")
            elif up:
                a = node("Gelu", [linear(residual, at + up)])
            if fused:
                bias = const(at + name + "c", w[at + name + "dense.bias"])
                a = norm(matmul(a, at + name + "dense"), residual, at + name + "LayerNorm", bias)
            else:
                a = norm(linear(a, at + name + "dense"), residual, at + name + "LayerNorm")
        x = a
    nodes.append(helper.make_node("Identity", [x], ["last_hidden_state"]))
    names = ["input_ids", "attention_mask", "token_type_ids"]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, [batch, sequence]) for n in names]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [batch, sequence, hidden])
    graph = helper.make_graph(nodes, "bert", inputs, [output], constants)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


class Lockstep:
    """An artifact, compiled once."""

    def __init__(self, program, model, flags, target, folder):
        self.program, self.file = program, folder / "model.lks"
        command = [program, "compile", model, *flags, "--target", target, "--chips", "1", "-o", self.file]
        done = subprocess.run(command, capture_output=True, text=True)
        self.error = done.stderr.strip().splitlines()[:1] if done.returncode else None

    def shapes(self):
        text = subprocess.run([self.program, "inspect", self.file, "--section", "io", "--json"], capture_output=True, check=True)
        return json.loads(text.stdout)

    def outputs(self, feeds, folder):
        import numpy as np

        np.savez(folder / "in.npz", **feeds)
        command = [self.program, "run", self.file, "--inputs", folder / "in.npz", "-o", folder / "out.npz", "--json"]
        subprocess.run(command, capture_output=True, check=True)
        return dict(np.load(folder / "out.npz"))

    def bench(self, threads, runs):
        """Microseconds of the least and the median run, and of loading."""
        command = [self.program, "bench", self.file, "--threads", str(threads), "--runs", str(runs), "--warmup", "3", "--json"]
        done = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        us = done["microseconds"]
        return us["min"], us["p50"], done["load_microseconds"]


def session(model, threads):
    """A session of onnxruntime with all its optimizations and this many threads."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def ort_bench(model, feeds, threads, runs):
    """Microseconds of the least and the median run. The session ends with it, so that none of its threads spins on."""
    import time

    made = session(model, threads)
    times = []
    for _ in range(3):
        made.run(None, feeds)
    for _ in range(runs):
        start = time.perf_counter()
        made.run(None, feeds)
        times.append((time.perf_counter() - start) * 1e6)
    return min(times), statistics.median(times)


def random_feeds(model, flags):
    """Inputs by name for a model: floats of a standard normal, integers 0 or 1."""
    import numpy as np

    given = dict(f.split("=") for f in flags if "x" in f.partition("=")[2])
    random, feeds = np.random.default_rng(0), {}
    for i in session(model, 1).get_inputs():
        shape = [int(n) for n in given[i.name].split("x")] if i.name in given else i.shape
        if i.type == "tensor(float)":
            feeds[i.name] = random.standard_normal(shape, np.float32)
        else:
            feeds[i.name] = random.integers(0, 2, shape).astype(np.int64)
    return feeds


def compare(name, args, folder):
    """Times one model at every thread count; gives one record per count, or the reason why there is none."""
    import numpy as np

    path, flags, other = CASES[name]
    if not (MODELS / path).exists():
        return [{"model": name, "error": f"models/{path} is missing: run tests/fetch_models.py"}]
    ours = Lockstep(args.lockstep, MODELS / path, flags, args.target, folder)
    if ours.error:
        return [{"model": name, "error": f"does not compile: {' '.join(ours.error)}"}]
    if other:
        twins = {"onnxruntime": str(MODELS / other)}
    else:
        twins = {f"onnxruntime {kind}": bert(MODELS / path, 1, 128, kind == "fused") for kind in ("standard", "fused")}
    feeds = random_feeds(next(iter(twins.values())), flags)
    mine = list(ours.outputs(feeds, folder).values())
    difference = 0.0
    for model in twins.values():
        wanted = session(model, 1).run(None, feeds)
        difference = max([difference, *(float(np.abs(a - b).max()) for a, b in zip(mine, wanted))])
    records = []
    for threads in args.threads:
        times = {who: [] for who in ["lockstep", *twins]}
        loads = []
        for _ in range(args.rounds):
            *time, load = ours.bench(threads, args.runs)
            times["lockstep"].append(time)
            loads.append(load)
            for who, model in twins.items():
                times[who].append(ort_bench(model, feeds, threads, args.runs))
        table = {who: (min(t[0] for t in all), statistics.median(t[1] for t in all)) for who, all in times.items()}
        least, median = table.pop("lockstep")
        records.append(
            {
                "model": name,
                "threads": threads,
                "difference": difference,
                "load_us": min(loads),
                "lockstep_us": {"min": least, "median": median},
                "onnxruntime_us": {who: {"min": t[0], "median": t[1]} for who, t in table.items()},
                "ratio": {
                    "min": min(t[0] for t in table.values()) / least,
                    "median": min(t[1] for t in table.values()) / median,
                },
            }
        )
    return records


def show(record):
    if "error" in record:
        print(f"{record['model']:<10} {record['error']}")
        return
    ms = lambda t: f"{t['min'] / 1e3:8.2f} {t['median'] / 1e3:8.2f}"
    head = f"{record['model']:<10} {record['threads']} threads"
    print(f"{head}  {'lockstep':<22} {ms(record['lockstep_us'])} ms   loaded in {record['load_us'] / 1e3:.1f} ms")
    for who, times in record["onnxruntime_us"].items():
        print(f"{'':<{len(head)}}  {who:<22} {ms(times)} ms")
    ratio = record["ratio"]
    print(f"{'':<{len(head)}}  {'ratio':<22} {ratio['min']:8.2f} {ratio['median']:8.2f}      largest difference {record['difference']:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=CASES, help="default: all")
    parser.add_argument("--threads", default="1,2", type=lambda s: [int(n) for n in s.split(",")])
    parser.add_argument("--rounds", default=7, type=int)
    parser.add_argument("--runs", default=20, type=int, help="runs per round")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--lockstep", default=str(ROOT / "target" / "release" / "lockstep"))
    parser.add_argument("--update", action="store_true", help="install the newest packages")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    inside_venv(args.update)
    import onnxruntime

    records = []
    if not args.json:
        print(f"onnxruntime {onnxruntime.__version__}, {args.rounds} rounds of {args.runs} runs      min   median")
    for name in args.model or CASES:
        with tempfile.TemporaryDirectory() as folder:
            for record in compare(name, args, pathlib.Path(folder)):
                records.append(record)
                if not args.json:
                    show(record)
    if args.json:
        print(json.dumps({"onnxruntime": onnxruntime.__version__, "records": records}, indent=2))


if __name__ == "__main__":
    main()
