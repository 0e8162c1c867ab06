#!/usr/bin/env python3
"""Draws the README's chart of attention on a GPU from the JSON of bench/peers.py.

  bench/chart.py RESULT.json [RESULT2.json …] -o docs/attention_gpu.svg [--direction both]

A group of bars a row, lace's first: time as a share of dense FlashAttention-3 (or of lace's own dense
attention where that was not timed) on the same layer, so that 1 is what leaving the pattern out
costs. Bars are labelled with milliseconds. Contenders that compute something simpler than the row's
pattern are left out. Of several files, later ones replace rows of earlier ones.
"""

import argparse
import json
import sys
from xml.sax.saxutils import escape

DIRECTIONS = {"forward": "forward", "both": "forward + backward"}
NAMES = {"lace": "lace", "fa3": "FlashAttention-3", "fa4": "FlashAttention-4", "cudnn": "cuDNN",
         "fa2": "FlashAttention-2", "flex": "FlexAttention",
         "flex2": "FlexAttention, two passes joined"}
COLOURS = {"lace": "#0b6e4f", "fa3": "#6c7a89", "fa4": "#4f5d6b", "cudnn": "#95a5b5",
           "fa2": "#bcc6cf", "flex": "#d9a441", "flex2": "#b97a1e"}
WIDTH, LEFT, RIGHT, TOP, BAR, GAP = 860, 262, 96, 96, 13, 16
TITLE = 26  # the height of a row's two lines of text
LIMIT = 2.0  # bars beyond so many times dense are cut, and say so


def read_rows(paths, direction):
    """Rows of one direction by name, and the GPU that they were measured on."""
    rows, gpus = {}, set()
    for path in paths:
        with open(path) as file:
            report = json.load(file)
        if report.get("benchmark") != "attention_peers":
            sys.exit(f"chart.py: {path} is not from bench/peers.py")
        gpus.add(report["gpu"])
        rows.update({r["row"]: r for r in report["rows"] if r["direction"] == direction})
    if len(gpus) > 1:
        sys.exit(f"chart.py: the files are of different GPUs: {', '.join(sorted(gpus))}")
    return rows, gpus.pop()


def times(row):
    """Milliseconds of every contender that computes the row's pattern."""
    return {name: figures["time_ms"] for name, figures in row["contenders"].items()
            if "time_ms" in figures and figures["exact"] and name in NAMES}


def dense_ms(rows, row):
    dense = rows.get(row["row"].split()[0] + " dense")
    found = times(dense) if dense else {}
    return found.get("fa3") or found.get("lace")


def title(row):
    return row["row"].split(" ", 1)[1].replace("-", " ")


def subtitle(row):
    heads = f"{row['heads']} heads"
    if row["kv_heads"] != row["heads"]:
        heads = f"{row['heads']}/{row['kv_heads']} heads"
    return f"{row['batch']} × {row['seq_len']:,}, {heads}, head_dim {row['head_dim']}"


class Svg:
    def __init__(self):
        self.parts = []

    def text(self, x, y, text, size=12, anchor="start", colour="#222", weight="normal"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" '
                          f'text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>')

    def bar(self, x, y, width, height, colour):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" '
                          f'fill="{colour}"/>')

    def line(self, x, y1, y2, colour, dash=""):
        self.parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" '
                          f'stroke="{colour}"{dash}/>')

    def document(self, height, label):
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
                f'font-family="system-ui, sans-serif" role="img" aria-label="{escape(label)}">\n'
                f'<rect width="{WIDTH}" height="{height:.0f}" fill="#fff"/>\n'
                + "\n".join(self.parts) + "\n</svg>\n")


def draw(rows, gpu, direction):
    svg = Svg()
    shown = [row for row in rows.values() if times(row) and dense_ms(rows, row)]
    if not shown:
        sys.exit("chart.py: no row can be drawn: each needs its layer's dense row beside it")
    scale = (WIDTH - LEFT - RIGHT) / LIMIT
    label = f"Attention, {DIRECTIONS[direction]}, bf16, {gpu}: time relative to dense attention"
    svg.text(16, 26, label, 15, weight="600")
    x = 16
    used = [name for name in NAMES if any(name in times(row) for row in shown)]
    for name in used:
        svg.bar(x, 42, 11, 11, COLOURS[name])
        svg.text(x + 16, 52, NAMES[name], 11)
        x += 28 + 6.3 * len(NAMES[name])
    y, layer = TOP, None
    body = []  # bars come after the lines behind them
    for row in shown:
        if subtitle(row) != layer:
            layer = subtitle(row)
            body.append(lambda y=y, layer=layer: svg.text(16, y + 2, layer, 11, colour="#777"))
            y += 18
        found = times(row)
        names = [name for name in used if name in found]
        y += max(0, TITLE - len(names) * BAR) / 2
        middle = y + len(names) * BAR / 2 + 4
        body.append(lambda middle=middle, row=row: (
            svg.text(LEFT - 10, middle - 5, title(row), 12, "end", weight="600"),
            svg.text(LEFT - 10, middle + 8, row["pattern"] if len(row["pattern"]) <= 40
                     else row["pattern"][:39] + "…", 9.5, "end", "#777")))
        for name in names:
            ratio = found[name] / dense_ms(rows, row)
            width = min(ratio, LIMIT) * scale
            cut = f" ({ratio:.1f} times dense)" if ratio > LIMIT else ""
            body.append(lambda y=y, width=width, name=name, ms=found[name], cut=cut: (
                svg.bar(LEFT, y, width, BAR - 2, COLOURS[name]),
                svg.text(LEFT + width + 4, y + BAR - 3.5, f"{ms:#.3g} ms".replace(". ", " ") + cut,
                         10, weight="600" if name == "lace" else "normal")
                if not cut else
                svg.text(LEFT + width - 6, y + BAR - 3.5,
                         f"{ms:#.3g} ms".replace(". ", " ") + cut, 10, "end",
                         "#222" if name in ("cudnn", "fa2") else "#fff")))
            y += BAR
        y += GAP + max(0, TITLE - len(names) * BAR) / 2
    for step in range(int(LIMIT) + 1):
        svg.line(LEFT + step * scale, TOP - 16, y - GAP + 4, "#ccc",
                 "" if step else ' stroke-width="1.5"')
        svg.text(LEFT + step * scale, TOP - 20, ["0", "dense", "2 × dense"][step], 10, "middle",
                 "#777")
    for part in body:
        part()
    svg.text(16, y + 8, "Drawn by bench/chart.py from the JSON of bench/peers.py; bf16, tensors "
             "stored [batch, n, heads, head_dim].", 10, colour="#777")
    return svg.document(y + 20, label)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", nargs="+", help="JSON of bench/peers.py")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--direction", choices=DIRECTIONS, default="both")
    arguments = parser.parse_args()
    rows, gpu = read_rows(arguments.results, arguments.direction)
    with open(arguments.output, "w") as file:
        file.write(draw(rows, gpu, arguments.direction))


if __name__ == "__main__":
    main()
