#!/usr/bin/env python3
"""Times lace and what a PyTorch user has today on one GPU: one process, the same inputs, in turn.

  bench/peers.py build/cuda/lib/liblace_torch.so [--fa3 fa3.so] [--rows TEXT…] [--json FILE]
                 [--directions forward,both] [--contenders lace,fa3,fa4,cudnn,fa2,flex,flex2]
                 [--seconds 0.5] [--limit SECONDS] [--check] [--million]

Rows: layers, each under several patterns (attention_rows.py); F of packed documents, H with
learned sinks, whose gradient counts too, I with a mask of blocks in a tensor: lists of what is live
are part of lace's time, the making of FlexAttention's BlockMask is not (both are printed).
Contenders:
  lace    torch.ops.lace.attention
  fa3     FlashAttention-3, from the library that --fa3 names (torch.ops.flash_attn_3)
  fa4     FlashAttention-4, from the package flash-attn-4 where it is installed
  cudnn   scaled_dot_product_attention by cuDNN
  fa2     scaled_dot_product_attention by FlashAttention-2, and its window
  flex    FlexAttention with the pattern as its mask (compiled: some seconds a row)
  flex2   FlexAttention in two passes joined by log-sum-exp: the paper's merged heads
Dense kernels run a sparse head on a view that makes it dense without a copy, where there is one:
strided(l) is dense attention on [batch, n / l, l · heads, head_dim], block(l) on
[batch · n / l, l, heads, head_dim]. A time with * is of something simpler than the row's pattern
(two such views that are not joined, a window without its global tokens) and does not count as a
peer. Tensors are stored [batch, n, heads, head_dim]; several sets of them are used in turn.

A sample is the GPU's time by CUDA events of a few calls in a row, enqueued behind a short wait so
that the host is not timed; every contender is sampled once a round; the table has the median and
the distance of the quartiles. FLOPs are counted on live pairs: 4 · head_dim a pair forward, 3.5
times that forward + backward. "at most" is the time that lace should stay under, scaled with
FlashAttention-3 where that runs more than 5% off the time that it had when the target was set.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time

import torch

from attention_rows import Row, keep, live_pairs, rows
from contenders import (CONTENDERS, lace_attention, load_flash3, make_contender, sinks_of,
                        swap)

DIRECTIONS = ["forward", "both"]
started = time.monotonic()


# ---- timing --------------------------------------------------------------------------------------


def sample_ms(run, calls):
    """Milliseconds of a call on the GPU: `calls` calls behind a wait of about a millisecond."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(2_000_000)
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / calls


def ceilings():
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    b, c = torch.randn_like(a), torch.empty_like(a)
    source = torch.empty(2**31, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    product, copy = lambda: torch.matmul(a, b, out=c), lambda: target.copy_(source)
    median = {}
    for run in (product, copy):
        for _ in range(3):
            run()
        median[run] = statistics.median(sample_ms(run, 5) for _ in range(9))
    return {"matmul_tflops": 2 * 8192**3 / median[product] * 1e-9,
            "copy_tb_s": 2 * 2**31 / median[copy] * 1e-9}


class Inputs:
    """Sets of q, k, v and dout, taken in turn, that no cache holds together."""

    def __init__(self, row, n=None, sets=None):
        shape = lambda heads: (row.batch, n or row.n, heads, row.dim)
        bytes_of_a_set = 2 * row.batch * row.n * row.dim * (2 * row.heads + 2 * row.kv_heads)
        generator = torch.Generator("cuda").manual_seed(1)
        make = lambda heads: torch.randn(shape(heads), device="cuda", dtype=torch.bfloat16,
                                         generator=generator)
        self.sets = []
        for _ in range(sets or max(2, -(-200_000_000 // bytes_of_a_set))):
            q, k, v = make(row.heads), make(row.kv_heads), make(row.kv_heads)
            self.sets.append(([x.requires_grad_() for x in (q, k, v)], make(row.heads)))
        self.turn = 0

    def next(self):
        self.turn += 1
        return self.sets[self.turn % len(self.sets)]


def call(contender, direction, inputs):
    """Runs it once; the results: out, and with gradients dq, dk, dv."""
    (q, k, v), dout = inputs
    if direction == "forward":
        with torch.no_grad():
            return [contender.run(q, k, v)]
    out = contender.run(q, k, v)
    outs = out if isinstance(out, tuple) else (out,)
    inputs = (q, k, v, *contender.parameters)
    return [out, *torch.autograd.grad(outs, inputs, [dout] * len(outs))]


def listing_ms(run, lists, calls=5):
    """Of a call the time of the kernels that have `lists` in their names; None: there are none."""
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(calls):
            run()
        torch.cuda.synchronize()
    found = [event.device_time_total for event in profiled.key_averages() if lists in event.key]
    return sum(found) * 1e-3 / calls if found else None


def relative_error(got, want):
    got, want = got.detach().float(), want.detach().float()
    return float((got - want).norm() / want.norm())


def first_line(error):
    return f"{type(error).__name__}: {error}".strip().split("\n")[0][:300]


def measure(row, direction, contenders, inputs, seconds, progress):
    """{name: figures} of all contenders, sampled in rounds."""
    figures, running = {}, {}
    lace_results = None
    for name, contender in contenders.items():
        figures[name] = {}
        if isinstance(contender, Exception):
            figures[name]["error"] = first_line(contender)
            continue
        figures[name].update(what=contender.what, exact=contender.exact)
        progress(f"{row.name} {direction} {name}")
        try:
            results = call(contender, direction, inputs.sets[0])
            if name == "lace":
                lace_results = results
            elif lace_results is not None and contender.exact:
                figures[name]["difference"] = max(
                    relative_error(x, y) for x, y in zip(results, lace_results))
            del results
            run = lambda contender=contender: call(contender, direction, inputs.next())
            for _ in range(2):
                run()
            ms = sample_ms(run, 2)
            calls = max(1, min(20, round(4 / ms)))
            rounds = max(3, min(25, int(1e3 * seconds / (calls * ms + 1))))
            if contender.listing_kernels:
                figures[name]["listing_ms"] = listing_ms(run, contender.listing_kernels)
            if contender.make_mask:
                contender.make_mask()
                figures[name]["mask_ms"] = sample_ms(contender.make_mask, 1)
            running[name] = (run, calls, rounds, [])
        except Exception as error:
            figures[name]["error"] = first_line(error)
    lace_results = None
    for round_ in range(max((r[2] for r in running.values()), default=0)):
        for name, (run, calls, rounds, samples) in list(running.items()):
            if round_ >= rounds:
                continue
            try:
                samples.append(sample_ms(run, calls))
            except Exception as error:
                figures[name]["error"] = first_line(error)
                del running[name]
    flops = 4 * row.dim * live_pairs(row) * row.batch * (1 if direction == "forward" else 3.5)
    for name, (_, calls, _, samples) in running.items():
        quartiles = statistics.quantiles(samples, n=4)
        ms = statistics.median(samples)
        figures[name].update(time_ms=ms, spread_ms=quartiles[2] - quartiles[0],
                             tflops_live=flops / ms * 1e-9, samples=len(samples), calls=calls)
    return figures


# ---- correctness ---------------------------------------------------------------------------------


def check(row, names):
    """Relative errors of out, dq, dk, dv at a small length, against float32 on whole matrices."""
    n = max(1536, row.l + 512 if row.kind in ("local", "sinks") else 0)
    documents = (700, 1, 128, 200, n - 1029) if row.documents else ()
    small = Row(**{**row.__dict__, "n": n, "batch": 1, "documents": documents})
    (q, k, v), dout = Inputs(small, sets=1).sets[0]
    wide = [x.detach().float().requires_grad_() for x in (q, k, v)]
    at = torch.arange(n, device="cuda")
    kept = keep(small, n)(torch.arange(row.heads, device="cuda")[:, None, None], at[:, None],
                          at[None, :])
    keys, values = [swap(x).repeat_interleave(row.heads // row.kv_heads, 1) for x in wide[1:]]
    logits = (swap(wide[0]) @ keys.transpose(2, 3) / row.dim**0.5).masked_fill(
        ~kept.expand(row.heads, n, n), -torch.inf)
    if row.learned_sinks:
        sinks = sinks_of(row)
        wide.append(sinks)
        logits = torch.cat([logits, sinks.view(1, -1, 1, 1).expand(1, -1, n, 1)], -1)
    out = swap(logits.softmax(-1)[..., :n] @ values)
    want = [out, *torch.autograd.grad(out, wide, dout.float())]
    del logits
    found = {}
    for name in names:
        try:
            contender = make_contender(name, small)
            if contender is None or not contender.exact:
                continue
            got = call(contender, "both", ((q, k, v), dout))
            errors = {what: relative_error(g, w)
                      for what, g, w in zip(("out", "dq", "dk", "dv", "dsinks"), got, want)}
            found[name] = {**errors, "ok": all(e < 1e-2 for e in errors.values())}
        except Exception as error:
            found[name] = {"error": first_line(error), "ok": False}
    return found


# ---- a million tokens ----------------------------------------------------------------------------


def million(rows_measured, seconds):
    """Forward + backward at n = 2^20: one head, l = 1024; time, memory, the first call's time."""
    results = []
    shape = dict(batch=1, n=2**20, heads=1, kv_heads=1, dim=64, l=1024, c=32)
    for row in (Row("M fixed", "block(1024) | summary(1024, 32)", "fixed", **shape),
                Row("M strided-merged", "local(1024) | strided(1024)", "merged", **shape)):
        result = {"row": row.name, "pattern": row.pattern, "seq_len": row.n}
        results.append(result)
        try:
            contender, inputs = lace_attention(row), Inputs(row, sets=1)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
            free = torch.cuda.mem_get_info()[0]
            start = time.perf_counter()
            outputs = call(contender, "both", inputs.next())
            torch.cuda.synchronize()
            result["first_call_ms"] = 1e3 * (time.perf_counter() - start)
            torch_bytes = torch.cuda.max_memory_allocated() - before
            other_bytes = (free - torch.cuda.mem_get_info()[0]
                           - (torch.cuda.memory_reserved() - reserved))
            result_bytes = sum(x.nbytes for x in outputs) + 4 * row.n * row.heads  # and lse
            result["extra_memory_mb"] = (torch_bytes - result_bytes) * 1e-6
            result["memory_outside_torch_mb"] = max(0, other_bytes) * 1e-6
            del outputs
            figures = measure(row, "both", {"lace": contender}, inputs, seconds, lambda _: None)
            result.update(figures["lace"])
            base = [r["contenders"]["lace"].get("tflops_live") for r in rows_measured
                    if r["row"] == row.name.replace("M", "B") and r["direction"] == "both"
                    and "lace" in r["contenders"]]
            if base and base[0] and "time_ms" in result:
                result["tflops_at_65536"] = base[0]
                result["times_predicted"] = base[0] / result["tflops_live"]
        except Exception as error:
            result["error"] = first_line(error)
        gc.collect()
        torch.cuda.empty_cache()
    return results


# ---- the report ----------------------------------------------------------------------------------


def judge(report):
    """Best peer, ratio, target of each row, from the times of all."""
    fa3 = {(r["row"], r["direction"]): r["contenders"].get("fa3", {}).get("time_ms")
           for r in report["rows"]}
    table = {row.name: row for row in rows()}
    for result in report["rows"]:
        row, which = table[result["row"]], DIRECTIONS.index(result["direction"])
        times = {name: figures["time_ms"] for name, figures in result["contenders"].items()
                 if "time_ms" in figures and figures["exact"]}
        lace = times.pop("lace", None)
        best = min(times, key=times.get, default=None)
        target = row.at_most[which]
        speed = fa3.get((row.anchor[0], result["direction"])) if row.anchor else None
        scale = speed / row.anchor[1 + which] if speed else 1.0
        if target:
            target *= scale if abs(scale - 1) > 0.05 else 1.0
        dense = fa3.get((f"{row.group} dense", result["direction"]))
        result.update(best_peer=best, ratio=times[best] / lace if best and lace else None,
                      dense_fa3_over_lace=dense / lace if dense and lace else None,
                      at_most_ms=row.at_most[which], at_most_scaled_ms=target,
                      ok=lace <= target if lace and target else None)


def number(x, digits=3):
    return "–" if x is None else f"{x:#.{digits}g}".rstrip(".")


def cell(figures):
    if not figures:
        return "–"
    if "time_ms" not in figures:
        return "failed"
    wrong = "≠" if figures.get("difference", 0) > 2e-2 else ""
    return number(figures["time_ms"]) + ("" if figures["exact"] else "*") + wrong


def print_table(lines):
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())


def print_report(report, names):
    for row, found in report["check"].items():
        for name, errors in found.items():
            print(f"check {row} {name}:", errors.get("error") or "  ".join(
                f"{what} {number(error)}" for what, error in errors.items() if what != "ok"),
                "ok" if errors["ok"] else "WRONG")
    for result in report["rows"]:
        for name, figures in result["contenders"].items():
            if "error" in figures:
                print(f"{result['row']} {result['direction']} {name}: {figures['error']}")
            if figures.get("listing_ms"):
                print(f"{result['row']} {result['direction']} {name}: of its time "
                      f"{number(figures['listing_ms'])} ms list what is live")
            if "mask_ms" in figures:
                print(f"{result['row']} {result['direction']} {name}: its mask is made before, in "
                      f"{number(figures['mask_ms'])} ms")
    peers = [name for name in names if name != "lace"]
    lines = [["row", "direction", "lace ms", "±", "TFLOP/s", "of matmul", *peers, "best peer",
              "peer/lace", "dense fa3/lace", "at most", ""]]
    peak = report["ceilings"]["matmul_tflops"]
    for r in report["rows"]:
        lace = r["contenders"].get("lace", {})
        rate = lace.get("tflops_live")
        lines.append([r["row"], r["direction"], cell(lace), number(lace.get("spread_ms"), 2),
                      number(rate), f"{100 * rate / peak:.0f}%" if rate else "–",
                      *[cell(r["contenders"].get(name)) for name in peers], r["best_peer"] or "–",
                      number(r["ratio"]), number(r["dense_fa3_over_lace"]),
                      number(r["at_most_scaled_ms"]),
                      "–" if r["ok"] is None else "ok" if r["ok"] else "MISS"])
    print(f"\n{report['gpu']}, torch {report['torch']}: matrix product {peak:.0f} TFLOP/s bf16, "
          f"copy {report['ceilings']['copy_tb_s']:.2f} TB/s; times are ms")
    print_table(lines)
    for r in report["million"]:
        if "time_ms" not in r:
            print(f"{r['row']}: {r.get('error', 'failed')}")
            continue
        print(f"{r['row']} (n = {r['seq_len']}, forward + backward): {number(r['time_ms'])} ms, "
              f"{number(r['tflops_live'])} TFLOP/s, {number(r.get('times_predicted'))} times what "
              f"the rate at 65,536 predicts; memory beyond inputs and results "
              f"{r['extra_memory_mb']:.0f} MB from torch, {r['memory_outside_torch_mb']:.0f} MB "
              f"outside; first call {r['first_call_ms']:.0f} ms")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("library", help="liblace_torch.so of a build with CUDA")
    parser.add_argument("--fa3", help="FlashAttention-3 as a library of PyTorch operations")
    parser.add_argument("--rows", nargs="*", default=[], help="only rows with one of these texts")
    parser.add_argument("--directions", default="forward,both")
    parser.add_argument("--contenders", default="lace,fa3,cudnn,fa2",
                        help=f"of {','.join(CONTENDERS)}")
    parser.add_argument("--seconds", type=float, default=0.5,
                        help="to sample a contender in one row and direction (at least 3 samples)")
    parser.add_argument("--limit", type=float, default=1e9,
                        help="start no further row after so many seconds")
    parser.add_argument("--json", help="write the results to this file, after each row")
    parser.add_argument("--check", action="store_true",
                        help="first compare with float32 attention at a small length")
    parser.add_argument("--million", action="store_true", help="the rows of 2^20 tokens too")
    arguments = parser.parse_args()
    arguments.contenders = [name for name in CONTENDERS if name in arguments.contenders.split(",")
                            and (name != "fa3" or arguments.fa3)]
    arguments.directions = [d for d in DIRECTIONS if d in arguments.directions.split(",")]
    return arguments


def load_libraries(arguments):
    torch.ops.load_library(os.path.abspath(arguments.library))
    if "fa3" in arguments.contenders:
        load_flash3(arguments.fa3)


def main():
    arguments = parse_arguments()
    if not torch.cuda.is_available():
        sys.exit("peers.py: no GPU")
    torch.backends.cuda.matmul.allow_tf32 = False
    load_libraries(arguments)
    progress = lambda text: print(f"{time.monotonic() - started:6.1f} s  {text}", file=sys.stderr,
                                  flush=True)
    chosen = [row for row in rows()
              if not arguments.rows or any(text in row.name for text in arguments.rows)]
    report = {"benchmark": "attention_peers", "gpu": torch.cuda.get_device_name(),
              "torch": torch.__version__, "cudnn": torch.backends.cudnn.version(),
              # Files by their names: where they lie is the machine's own.
              "arguments": [os.path.basename(a) for a in sys.argv[1:]],
              "date": time.strftime("%Y-%m-%d"),
              "ceilings": ceilings(), "check": {}, "rows": [], "million": []}

    def save():
        judge(report)
        if arguments.json:
            with open(arguments.json, "w") as file:
                json.dump(report, file, indent=1)
    if arguments.check:
        names = [name for name in arguments.contenders if not name.startswith("flex")]
        for row in chosen:
            progress(f"{row.name} check")
            try:
                report["check"][row.name] = check(row, names)
            except Exception as error:
                report["check"][row.name] = {"reference": {"error": first_line(error),
                                                           "ok": False}}
            gc.collect()
            torch.cuda.empty_cache()
    for row in chosen:
        if time.monotonic() - started > arguments.limit:
            progress(f"out of time before {row.name}")
            break
        contenders = {}
        for name in arguments.contenders:
            if name.startswith("flex"):
                progress(f"{row.name} masks of {name}")
            try:
                contender = make_contender(name, row)
            except Exception as error:
                contender = error
            if contender is not None:
                contenders[name] = contender
        inputs = Inputs(row)
        for direction in arguments.directions:
            figures = measure(row, direction, contenders, inputs, arguments.seconds, progress)
            report["rows"].append({
                "row": row.name, "pattern": row.pattern, "direction": direction,
                "batch": row.batch, "seq_len": row.n, "heads": row.heads,
                "kv_heads": row.kv_heads, "head_dim": row.dim,
                "documents": list(row.documents),
                "live_pairs": live_pairs(row) * row.batch, "contenders": figures})
            save()
        del inputs, contenders
        gc.collect()
        torch.cuda.empty_cache()
    if arguments.million:
        progress("a million tokens")
        report["million"] = million(report["rows"], arguments.seconds)
    save()
    print_report(report, arguments.contenders)
    wrong = [f for found in report["check"].values() for f in found.values() if not f["ok"]]
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
