#!/usr/bin/env python3
"""Writes the committed archive of chosen tests, tests/data/conformance/subset.zip, from models/onnx-tests.

Of every operator of the core list the two smallest tests, of the pytorch suites every sixth. The same tests give the same bytes.
"""

import pathlib
import re
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DATA = ROOT / "tests/data/conformance"
FROM = ROOT / "models/onnx-tests"
MOST_BYTES = 20_000


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main():
    groups = {}
    for name in (DATA / "core_tests.txt").read_text().split():
        folder = FROM / "node" / name
        if size(folder) <= MOST_BYTES:
            # Tests of one operator share the first word of their name and whether they are expanded.
            key = re.sub(r"^test_", "", name).split("_")[0], "_expanded" in name
            groups.setdefault(key, []).append((size(folder), name, folder))
    chosen = [folder for group in groups.values() for _, _, folder in sorted(group)[:2]]
    for suite in ("pytorch-converted", "pytorch-operator"):
        chosen += sorted(path for path in (FROM / suite).iterdir() if path.is_dir() and size(path) <= MOST_BYTES)[::6]
    # The test that an expanded one expands says which inputs decide a shape.
    chosen += [path for path in {folder.parent / folder.name.split("_expanded")[0] for folder in chosen} if path.is_dir()]
    files = sorted({path for folder in chosen for path in folder.rglob("*") if path.is_file()})
    with zipfile.ZipFile(DATA / "subset.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.writestr(zipfile.ZipInfo(path.relative_to(FROM).as_posix()), path.read_bytes(), zipfile.ZIP_DEFLATED)
    print(f"{len(set(chosen))} tests, {(DATA / 'subset.zip').stat().st_size} bytes")


if __name__ == "__main__":
    main()
