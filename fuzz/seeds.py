#!/usr/bin/env python3
"""Fills the corpus of the importer's fuzz target with small real models: the committed archive of the ONNX backend suite, the shipped
silero-vad, and whatever tests/fetch_models.py has put into models/."""

import hashlib
import pathlib
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
MOST_BYTES = 400_000


def models():
    with zipfile.ZipFile(ROOT / "tests/data/conformance/subset.zip") as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".onnx"):
                yield archive.read(name)
    for folder in ("examples/data", "tests/data", "models"):
        for path in sorted((ROOT / folder).rglob("*.onnx")):
            if path.stat().st_size <= MOST_BYTES:
                yield path.read_bytes()


def main():
    corpus = ROOT / "fuzz/corpus/import_onnx"
    corpus.mkdir(parents=True, exist_ok=True)
    count = 0
    for data in models():
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        count += 1
    print(f"{count} models in {corpus}")


if __name__ == "__main__":
    main()
