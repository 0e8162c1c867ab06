"""Runs every Python block of a document, in order, in one namespace.

Usage: test_docs.py DOCUMENT, on an interpreter that has lace and transformers.
"""

import os
import re
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

path = sys.argv[1]
with open(path, encoding="utf-8") as file:
    text = file.read()
namespace = {"__name__": "__main__"}
blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
assert blocks, f"{path} has no block of Python"
for block in blocks:
    line = text.count("\n", 0, block.start(1))
    exec(compile("\n" * line + block.group(1), path, "exec"), namespace)
print(f"{len(blocks)} blocks of {path} ran")
