#!/usr/bin/env python3
"""Memory and time of a training step with blocks kept and recomputed, over depth: one row each of
`lace bench step`, on random bytes.

  bench/recompute.py build/cuda/bin/lace recipes/enwik8.toml --device cuda --layers 6 12 24 48 96 \\
      --set train.batch=4 train.accumulate=1 model.dropout=0 --json recompute.json
  bench/recompute.py build/cuda/bin/lace recipes/music_1048576.toml --device cuda \\
      --json million.json                      # the million-token step, at the recipe's depth

A row that does not fit says so. Prints a table in Markdown.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

from lace_cli import lace_json


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lace", help="the lace program")
    parser.add_argument("recipe")
    parser.add_argument("--layers", type=int, nargs="+", help="default: the recipe's")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=10, help="of a row")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=540, metavar="SECONDS",
                        help="rows that have not begun by then are left out")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


def measure(arguments, layers, recompute, seconds):
    settings = [*arguments.set, f"model.layers={layers}",
                f"model.recompute={'true' if recompute else 'false'}"]
    try:
        result = lace_json(arguments.lace, [
            "bench", "step", arguments.recipe, "--device", arguments.device, "--steps",
            str(arguments.steps), "--no-profile"], settings, seconds=seconds)
    except subprocess.TimeoutExpired:
        result = {"error": f"not done after {seconds:.0f} s"}
    except RuntimeError as error:
        result = {"error": str(error)}
    return {"layers": layers, "recompute": recompute, **result}


def cell(row, key, factor, form):
    if row is None or row.get(key) is None:
        return "–"
    return form.format(row[key] * factor)


def table(rows):
    lines = ["| layers | parameters | kept: ms | tokens/s | GB | recomputed: ms | tokens/s | GB |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for layers in dict.fromkeys(row["layers"] for row in rows):
        cells = [f"{layers}"]
        pair = [next((row for row in rows if row["layers"] == layers
                      and row["recompute"] == recompute), None) for recompute in (False, True)]
        known = [row for row in pair if row and row.get("parameters")]
        cells.append(f"{known[0]['parameters']:,}" if known else "–")
        for row in pair:
            cells += [cell(row, "time_ms", 1, "{:.1f}"), cell(row, "tokens_per_s", 1, "{:,.0f}"),
                      cell(row, "memory_bytes", 1e-9, "{:.2f}")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    arguments = parse_arguments()
    end = time.monotonic() + arguments.limit
    layers = arguments.layers or [
        lace_json(arguments.lace, ["model", arguments.recipe], arguments.set)["layers"]]
    rows = []
    for count in layers:
        for recompute in (True, False):  # what needs less first
            left = end - time.monotonic()
            if left <= 0:
                print(f"left out: {count} layers, recompute {recompute}", file=sys.stderr)
                continue
            rows.append(measure(arguments, count, recompute, left))
            if "error" in rows[-1]:
                print(f"{count} layers, recompute {recompute}: {rows[-1]['error'][:500]}",
                      file=sys.stderr)
            if arguments.json:  # what there is comes back, whatever happens to the next row
                pathlib.Path(arguments.json).write_text(json.dumps(
                    {"benchmark": "recompute", "recipe": arguments.recipe,
                     "settings": arguments.set, "rows": rows}, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
