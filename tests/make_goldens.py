#!/usr/bin/env python3
"""Makes the golden of the PP-OCR text detector: one image from a seed and what onnxruntime gives for it without graph optimisations.

    pip install onnxruntime==1.31.1 numpy
    python3 tests/make_goldens.py
"""

import pathlib

import numpy as np
import onnxruntime as ort

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAME = "ppocr-v4/ch_PP-OCRv4_det_infer"
SHAPE = (1, 3, 64, 96)
SEED = 7


def main():
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(ROOT / "models" / f"{NAME}.onnx"), options, providers=["CPUExecutionProvider"])
    image = (np.random.default_rng(SEED).integers(-64, 65, SHAPE) / 64).astype(np.float32)
    arrays = {"rand.in0": image}
    for n, out in enumerate(session.run(None, {"x": image})):
        arrays[f"rand.out{n}"] = out
    np.savez_compressed(ROOT / "tests/data" / f"{NAME}.golden.npz", **arrays)


if __name__ == "__main__":
    main()
