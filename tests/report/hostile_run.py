"""A run's folder whose every file holds what may harm a page: markup, control characters, bytes that
are no UTF-8, numbers out of all range. What of it ran would say so: PWNED in the page's title."""

import json
import math
import pathlib

CODE = "document.title='PWNED'"
HOSTILE = (f"</script><script>{CODE}</script></pre></style><img src=x onerror=\"{CODE}\">"
           f"'\"><svg onload={CODE}>&lt;b&gt;\x1b[31m\x07\x00\u202e]]>--><!--")


def make(folder, steps=300):
    """The folder, filled. Returns its path."""
    folder = pathlib.Path(folder)
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(
        f"name = '{HOSTILE.splitlines()[0]}'\n{HOSTILE}\n[model]\nseq_len = 256\nheads = 2\n"
        "patterns = ['fixed(16, 4, 2)', 'local(16) | strided(16)']\n"
        f"[{HOSTILE}]\n{HOSTILE} = {HOSTILE}\n[train]\nsteps = 400\nbatch = 2\n[data]\nkind = 'text'\n",
        errors="replace")
    (folder / "run.json").write_text(json.dumps({
        "started": HOSTILE, "version": HOSTILE, "parameters": 1e300, "bytes": {"train": -5},
        "machine": {HOSTILE: HOSTILE, "gpu": HOSTILE, "deep": [[HOSTILE]]}, "ranks": "two"}))
    (folder / "last.json").write_text("[" * 100000)
    (folder / "best.json").write_text('{"step": 1, "step": 2}')
    (folder / "baselines.json").write_text(json.dumps({"test": {
        "bytes": 1e30, "model": {"checkpoint": HOSTILE, "bits_per_byte": 1.5},
        "rows": [{"name": HOSTILE, "bits_per_byte": 2.5}, {"name": 5}, [], None,
                 {"name": "gzip -9", "bits_per_byte": 1e300},
                 {"name": "xz -9", "bits_per_byte": 1.25}]}}))
    (folder / "attention.json").write_text(json.dumps({"step": 5, "windows": 2, "maps": [
        {"layer": 0, "head": 0, "pattern": HOSTILE, "kind": "matrix", "rows": 2, "columns": 2,
         "weights": [1.0, None, 0.25, 0.75]},
        {"layer": 1, "head": 0, "pattern": "dense", "kind": "query", "query": 4, "row_length": 4,
         "weights": [0.1, 0.2, 0.3, 0.2, 0.2, None, None]},
        {"layer": 1e99, "kind": "matrix", "rows": 1e9, "columns": 1e9, "weights": HOSTILE}]}))
    with open(folder / "metrics.jsonl", "wb") as file:
        for step in range(1, steps + 1):
            line = {"step": step, "loss": 3 / step, "bits_per_byte": 2 + 6 / math.sqrt(step),
                    "learning_rate": 1e-3, "gradient_norm": 1 + step % 3, "tokens_per_s": 1000.0,
                    "elapsed_s": step / 4, "memory_bytes": 1e9, "share_of_peak": 0.4,
                    "parts_s": {"step": 0.2, HOSTILE[:30]: 0.05}}
            if step % 50 == 0:
                line |= {"validation_bits_per_byte": 2.1 + 6 / math.sqrt(step), "spike": True,
                         "windows": [step * 100, HOSTILE, 2**63, None]}
            file.write(json.dumps(line).encode() + b"\n")
            if step == 100:
                file.write(b"\xff\xfe\x00 no JSON\n" + HOSTILE.encode() + b"\n{}\n[1]\nnull\n\n")
                file.write(b'{"step":101,"bits_per_byte":"' + HOSTILE[:8].encode() + b'"}\n')
                file.write(b'{"step":1e999}\n{"step":-1}\n{"step":5}\n')
        file.write(b'{"step":' + str(steps + 1).encode())  # half a line
    (folder / "samples" / "100-0.bin").write_bytes(HOSTILE.encode() + bytes(range(256)))
    (folder / "samples" / "200-0.bin").write_bytes(b"plain \xe2\x82\xac text\nand \xff\xfe broken")
    secret = folder.parent / "secret"
    secret.write_text("not to be shown")
    (folder / "samples" / "link.bin").symlink_to(secret)
    (folder / "samples.jsonl").write_text("\n".join(json.dumps(sample) for sample in [
        {"step": 100, "file": "samples/100-0.bin", "prompt_bytes": 20, "temperature": 1.0, "seed": 1},
        {"step": 200, "file": "samples/200-0.bin", "prompt_bytes": 1 << 70, "temperature": None},
        {"step": 200, "file": "../secret"}, {"step": 200, "file": "samples/../../secret"},
        {"step": 200, "file": "/etc/passwd"}, {"step": 200, "file": "samples/link.bin"},
        {"step": 200, "file": "samples/gone.bin"}, {"step": "x", "file": HOSTILE}, 7]) + "\n")
    return folder
