#!/usr/bin/env python3
"""Decode speed of SmolLM2-135M on this CPU: lockstep beside llama.cpp, and both beside what the memory can deliver.

    cargo build --release
    python3 tests/fetch_models.py
    python3 benches/decode.py [--format f32,bf16,int8,int4] [--threads 2] [--tokens 64] [--rounds 5] [--json]

Makes a virtual environment in target/decode-venv with llama-cpp-python and numpy from PyPI (llama.cpp is compiled there for this
CPU, which takes minutes; --update installs newer ones). llama.cpp's own quantizer makes the files of each format from the model's
GGUF: F32, BF16, Q8_0, Q4_0; lockstep reads the same GGUF and keeps its weights as f32, bf16, int8, int4.

One token multiplies every weight once, so the bytes of the weights times the tokens per second is the bandwidth that a program
makes use of. It is stated beside that of reading a large array with the same number of threads. Both sides run by turns; rates
are the best and the median of the rounds. A ratio above 1 says that lockstep is faster.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "smollm2-135m" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGES = ["llama-cpp-python", "numpy"]
PROMPT = "The sea was calm and the light on the water"

# What lockstep is told, and the file type of llama.cpp with the same precision.
FORMATS = {
    "f32": ([], "LLAMA_FTYPE_ALL_F32"),
    "bf16": (["--weights", "bf16"], "LLAMA_FTYPE_MOSTLY_BF16"),
    "int8": (["--weights", "int8"], "LLAMA_FTYPE_MOSTLY_Q8_0"),
    "int4": (["--weights", "int4"], "LLAMA_FTYPE_MOSTLY_Q4_0"),
}


def inside_venv(update):
    """Runs this script again with the Python of the virtual environment, which is made where it is missing."""
    home = ROOT / "target" / "decode-venv"
    python = home / "bin" / "python"
    if pathlib.Path(sys.prefix) == home:
        return
    fresh = not python.exists()
    if fresh:
        venv.create(home, with_pip=True)
    if fresh or update:
        subprocess.run([python, "-m", "pip", "install", "-q", "-U", *PACKAGES], check=True)
    os.execv(python, [str(python), *sys.argv])


def bandwidth(threads):
    """Bytes per second that this many threads read from memory together: the best of ten passes over 512 MiB."""
    import numpy as np

    parts = np.array_split(np.ones(512 << 17, np.float32), threads)
    size = sum(p.nbytes for p in parts)
    best = 0.0
    for _ in range(10):
        workers = [threading.Thread(target=np.max, args=(p,)) for p in parts]
        start = time.perf_counter()
        for w in workers:
            w.start()
        for w in workers:
            w.join()
        best = max(best, size / (time.perf_counter() - start))
    return best


def quantized(kind, folder):
    """The model in a file type of llama.cpp."""
    import llama_cpp

    out = folder / f"{kind}.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, kind)
    params.allow_requantize = True
    if llama_cpp.llama_model_quantize(str(MODEL).encode(), str(out).encode(), params):
        raise RuntimeError(f"llama.cpp cannot make {kind}")
    return out


class Llama:
    """llama.cpp, loaded once."""

    def __init__(self, file, threads, context):
        import llama_cpp

        self.model = llama_cpp.Llama(str(file), n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False)

    def rate(self, tokens):
        """Tokens per second after the first of a greedy continuation."""
        self.model.reset()
        prompt = self.model.tokenize(PROMPT.encode())
        made = self.model.generate(prompt, temp=0.0)
        next(made)
        start = time.perf_counter()
        for _ in range(tokens - 1):
            next(made)
        return (tokens - 1) / (time.perf_counter() - start)


class Lockstep:
    """An artifact, compiled once."""

    def __init__(self, args, flags, folder):
        self.args, self.file = args, folder / "model.lks"
        command = [args.lockstep, "compile", MODEL, "--target", args.target, "--chips", "1", "--context", str(args.context)]
        command += ["--prefill-chunks", "16", *flags, "-o", self.file]
        done = subprocess.run(command, capture_output=True, text=True)
        self.error = (done.stderr.strip().splitlines() or ["no reason"])[0] if done.returncode else None

    def rate(self, tokens):
        """Tokens per second after the first of a greedy continuation."""
        command = [self.args.lockstep, "generate", self.file, "--prompt", PROMPT, "--max-tokens", str(tokens)]
        command += ["--temperature", "0", "--threads", str(self.args.threads), "--json"]
        done = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        return done["tokens_per_second"]


def measure(name, args, folder):
    """Rates of both sides for one format, or the reason why there are none."""
    flags, kind = FORMATS[name]
    ours = Lockstep(args, flags, folder)
    if ours.error:
        return {"format": name, "error": f"lockstep: {ours.error}"}
    file = quantized(kind, folder)
    twin = Llama(file, args.threads, args.context)
    rates = {"lockstep": [], "llama.cpp": []}
    for _ in range(args.rounds):
        rates["lockstep"].append(ours.rate(args.tokens))
        rates["llama.cpp"].append(twin.rate(args.tokens))
    best = {who: max(all) for who, all in rates.items()}
    median = {who: statistics.median(all) for who, all in rates.items()}
    # The embedding is tied to the head, so that a token reads all of the file.
    size = file.stat().st_size
    return {
        "format": name,
        "threads": args.threads,
        "weight_bytes": size,
        "tokens_per_second": {who: {"best": best[who], "median": median[who]} for who in rates},
        "bytes_per_second": {who: size * best[who] for who in rates},
        "ratio": {"best": best["lockstep"] / best["llama.cpp"], "median": median["lockstep"] / median["llama.cpp"]},
    }


def show(record, memory):
    if "error" in record:
        print(f"{record['format']:<6} {record['error']}")
        return
    for who, rate in record["tokens_per_second"].items():
        used = record["bytes_per_second"][who]
        share = f"{used / 1e9:6.1f} GB/s of weights, {used / memory * 100:3.0f} % of memory"
        print(f"{record['format']:<6} {who:<10} {rate['best']:8.1f} {rate['median']:8.1f} tokens/s  {share}")
    print(f"{'':<6} {'ratio':<10} {record['ratio']['best']:8.2f} {record['ratio']['median']:8.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", default=",".join(FORMATS), type=lambda s: s.split(","))
    parser.add_argument("--threads", default=2, type=int)
    parser.add_argument("--tokens", default=64, type=int)
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--context", default=256, type=int)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--lockstep", default=str(ROOT / "target" / "release" / "lockstep"))
    parser.add_argument("--update", action="store_true", help="install the newest packages")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    unknown = [f for f in args.format if f not in FORMATS]
    if unknown:
        parser.error(f"format {unknown[0]} is unknown; allowed are {', '.join(FORMATS)}")
    if not MODEL.exists():
        sys.exit(f"{MODEL.relative_to(ROOT)} is missing: run tests/fetch_models.py")
    inside_venv(args.update)
    import llama_cpp

    memory, records = bandwidth(args.threads), []
    if not args.json:
        print(f"llama.cpp of llama-cpp-python {llama_cpp.__version__}; {args.threads} threads read {memory / 1e9:.1f} GB/s")
        print(f"{args.rounds} rounds of {args.tokens} tokens      best   median")
    for name in args.format:
        with tempfile.TemporaryDirectory() as folder:
            records.append(measure(name, args, pathlib.Path(folder)))
        if not args.json:
            show(records[-1], memory)
    if args.json:
        print(json.dumps({"llama_cpp": llama_cpp.__version__, "memory_bytes_per_second": memory, "records": records}, indent=2))


if __name__ == "__main__":
    main()
