#!/usr/bin/env python3
"""Draws time and memory of decoding over the length from `lace bench decode --lengths --json`.

  bench/decode_chart.py RESULT.json [RESULT2.json …] -o docs/decoding_cpu.svg

Two panels, both axes logarithmic: milliseconds a byte, and megabytes that the caches hold, a line a
pattern. A point is the fastest step, of several runs on the same machine the fastest of all: what
disturbs a machine only ever adds.
"""

import argparse
import json
import math
import sys
from xml.sax.saxutils import escape

COLOURS = {"dense": "#6c7a89", "fixed": "#0b6e4f", "strided": "#b97a1e", "local": "#2f6db3"}
WIDTH, HEIGHT = 880, 400
PANEL, LEFT, TOP, BOTTOM, GAP = 320, 62, 84, 316, 110


def read_rows(paths):
    rows, reports = {}, []
    for path in paths:
        with open(path) as file:
            report = json.load(file)
        if report.get("benchmark") != "decode_lengths":
            sys.exit(f"decode_chart.py: {path} is not from lace bench decode --lengths")
        reports.append(report)
        for row in report["rows"]:
            row["time_ms"] = row["fastest"]["time_ms"]
            best = rows.get(row["name"])
            if best is None or row["time_ms"] < best["time_ms"]:
                rows[row["name"]] = row
    machines = {report.get("gpu") or f"{report['processor']}, {report['threads']} threads, "
                f"{report['kernel']}" for report in reports}
    if len(machines) > 1:
        sys.exit("decode_chart.py: the files are of different machines")
    return list(rows.values()), machines.pop()


def length(n):
    return f"{n // 1024}k"


class Panel:
    """A panel from x on; values of rows by `key` times `factor`."""

    def __init__(self, x, title, rows, key, factor):
        self.x, self.title, self.rows = x, title, rows
        self.value = lambda row: row[key] * factor
        self.lengths = sorted({row["n"] for row in rows})
        values = [self.value(row) for row in rows]
        self.low = math.floor(math.log10(min(values)))
        self.high = math.ceil(math.log10(max(values)))

    def place(self, n, value):
        across = math.log2(n / self.lengths[0]) / max(1, math.log2(self.lengths[-1] /
                                                                   self.lengths[0]))
        up = (math.log10(value) - self.low) / max(1, self.high - self.low)
        return self.x + across * PANEL, BOTTOM - up * (BOTTOM - TOP)

    def draw(self):
        yield text(self.x, TOP - 16, self.title, 12, weight=600)
        for power in range(self.low, self.high + 1):
            y = self.place(self.lengths[0], 10 ** power)[1]
            yield f'<line x1="{self.x}" x2="{self.x + PANEL}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
            yield text(self.x - 8, y + 4, f"{10 ** power:g}", 10, "end", "#777")
        for n in self.lengths[::2]:
            x = self.place(n, 10 ** self.low)[0]
            yield text(x, BOTTOM + 18, length(n), 10, "middle", "#777")
        ends = []
        for name, colour in COLOURS.items():
            points = [(row["n"], self.value(row)) for row in self.rows
                      if row["name"].startswith(name + "-")]
            if not points:
                continue
            places = [self.place(n, value) for n, value in sorted(points)]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
            for x, y in places:
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>'
            ends.append([places[-1][1], name, colour])
        ends.sort()
        for above, below in zip(ends, ends[1:]):  # labels that would touch move apart
            below[0] = max(below[0], above[0] + 13)
        for y, name, colour in ends:
            yield text(self.x + PANEL + 6, y + 4, name, 11, fill=colour, weight=600)


def text(x, y, words, size, anchor="start", fill="#222", weight=400):
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
            f'fill="{fill}" font-weight="{weight}">{escape(words)}</text>')


def draw(rows, machine):
    label = "What a byte costs to draw, and what the caches hold, over the bytes before it"
    body = [text(LEFT, 24, label, 14, weight=600),
            text(LEFT, 42, "8 layers, width 512, 8 heads, rotary, bf16, random weights; " + machine,
                 10.5, fill="#777")]
    body += Panel(LEFT, "ms a byte", rows, "time_ms", 1).draw()
    body += Panel(LEFT + PANEL + GAP, "MB of keys and values", rows, "cache_bytes", 1e-6).draw()
    patterns = {row["name"].rsplit("-", 1)[0]: row["pattern"] for row in rows}
    body.append(text(LEFT, HEIGHT - 36, "; ".join(f"{name}: {pattern}" for name, pattern in
                                                  patterns.items() if name != pattern), 10,
                     fill="#777"))
    body.append(text(LEFT, HEIGHT - 18, "Drawn by bench/decode_chart.py from the JSON of "
                     "lace bench decode --lengths.", 10, fill="#777"))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(label)}" font-family="system-ui, sans-serif">'
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>' + "\n".join(body) + "</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", nargs="+", help="JSON of lace bench decode --lengths")
    parser.add_argument("-o", "--output", required=True)
    arguments = parser.parse_args()
    with open(arguments.output, "w") as file:
        file.write(draw(*read_rows(arguments.results)))


if __name__ == "__main__":
    main()
