#!/usr/bin/env python3
"""House rules that no compiler checks. Prints one line per violation and exits 1 if there is any."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Files over 700 lines say in their module doc why they are one file.
LONG = 700
REASON = re.compile(r"one file|one table|whole table|in one place", re.IGNORECASE)
# Paths of a single machine have no place in the project.
MACHINE = re.compile(r"(?<![\w.$}])/(?:work|root|home/\w+|Users/\w+)/")


def main() -> int:
    found = []
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    ignored = subprocess.run(["git", "ls-files", "-ciz", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True)
    found += [f"{name}: tracked although .gitignore names it" for name in ignored.stdout.split("\0") if name]
    for name in names.stdout.split("\0"):
        path = ROOT / name
        if not name or not path.is_file() or name in (".ci/tidy.py",):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        lines = text.splitlines()
        if name.endswith(".rs"):
            first = next((line for line in lines if line.strip()), "")
            if not first.startswith("//!"):
                found.append(f"{name}: the first line is no module doc (//!)")
            doc = "\n".join(line for line in lines[:40] if line.startswith("//!"))
            if "tests" in path.parts or path.name == "tests.rs":
                lines = []
            tests = next((i for i, line in enumerate(lines) if line.startswith("#[cfg(test)]")), len(lines))
            if tests > LONG and not REASON.search(doc):
                found.append(f"{name}: {tests} lines without a reason in the module doc")
        for number, line in enumerate(lines, 1):
            if MACHINE.search(line):
                found.append(f"{name}:{number}: a path of one machine")
    print("\n".join(found) if found else "tidy: ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
