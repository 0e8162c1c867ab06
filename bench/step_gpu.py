"""bench/step_vs_pytorch.py --device cuda: a recipe's step in lace and in PyTorch on one GPU.

PyTorch runs what its user has today: blocks compiled by torch.compile, bf16 autocast, fused AdamW,
clipping by global norm, dropout and recomputation as the recipe has them. Rows:
  lace       the recipe's patterns, dense, and each --pattern
  dense      PyTorch, dense causal attention by FlashAttention-3 where --fa3 gives it and it takes
             the head dims as they are, else by the fastest that does (in the row's name)
  flex       PyTorch, FlexAttention with the same patterns as lace
  none       PyTorch without attention: what its user cannot get below
Contenders run in rounds, one after the other, each alone in the GPU's memory but for weights and
optimiser states; a row has the median of its samples. lace's are means of groups of steps, in which
the host runs ahead; PyTorch's are steps between CUDA events, in which it does too.
"""

import gc
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from contenders import Flex, load_flash3
from step_model import Model, differs_by_head, is_dense, keep

WARM_UP = 3


# ---- dense attention: (q, k, v) [batch, heads, n, head_dim] -> out -------------------------------


def flash3(path):
    """FlashAttention-3 as an operation that torch.compile takes whole."""
    load_flash3(path)

    def options(scale):
        return {"is_causal": True, **({} if scale is None else {"softmax_scale": scale})}

    @torch.library.custom_op("peer::fa3", mutates_args=())
    def forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                scale: float | None) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse, *_ = torch.ops.flash_attn_3.fwd(q, k, v, num_splits=1, **options(scale))
        return out, lse

    @forward.register_fake
    def _(q, k, v, scale):
        batch, n, heads, _ = q.shape
        return (q.new_empty(batch, n, heads, v.shape[3]),
                q.new_empty(batch, heads, n, dtype=torch.float32))

    @torch.library.custom_op("peer::fa3_backward", mutates_args=())
    def backward(dout: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                 out: torch.Tensor, lse: torch.Tensor,
                 scale: float | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        torch.ops.flash_attn_3.bwd(dout.contiguous(), q, k, v, out, lse, dq, dk, dv,
                                   **options(scale))
        return dq, dk, dv

    @backward.register_fake
    def _(dout, q, k, v, out, lse, scale):
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)

    def keep_for_backward(ctx, inputs, output):  # called by these names
        ctx.save_for_backward(*inputs[:3], *output)
        ctx.scale = inputs[3]

    forward.register_autograd(
        lambda ctx, dout, _: (*backward(dout, *ctx.saved_tensors, ctx.scale), None),
        setup_context=keep_for_backward)

    def attend(q, k, v, scale=None):
        swapped = [x.transpose(1, 2) for x in (q, k, v)]
        return forward(*swapped, scale)[0].transpose(1, 2)
    return attend


def sdpa(backend):
    def attend(q, k, v, scale=None):
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale,
                                                  enable_gqa=q.shape[1] != k.shape[1])
    return attend


def padded(attend, qk_dim, v_dim):
    """For a kernel whose q, k and v have one head dim."""
    width = max(qk_dim, v_dim)

    def run(q, k, v):
        q, k = (F.pad(x, (0, width - qk_dim)) for x in (q, k))
        return attend(q, k, F.pad(v, (0, width - v_dim)), qk_dim**-0.5)[..., :v_dim]
    return run


def dense_kernels(config, fa3):
    """{name: attend} of all that might take the model's heads, as they are and padded."""
    kernels = {"cuDNN": sdpa(SDPBackend.CUDNN_ATTENTION),
               "FlashAttention-2": sdpa(SDPBackend.FLASH_ATTENTION)}
    if fa3:
        kernels = {"FlashAttention-3": flash3(fa3), **kernels}
    qk_dim, v_dim = config["qk_dim"] // config["heads"], config["v_dim"] // config["heads"]
    if qk_dim != v_dim:
        kernels.update({f"{name}, padded": padded(attend, qk_dim, v_dim)
                        for name, attend in list(kernels.items())})
    return kernels


def attention_inputs(config, batch, n):
    heads, kv_heads = config["heads"], config["kv_heads"]
    qk_dim, v_dim = config["qk_dim"] // heads, config["v_dim"] // heads
    def make(heads, dim):
        return torch.randn(batch, n, heads, dim, device="cuda", dtype=torch.bfloat16).transpose(
            1, 2).requires_grad_()
    return make(heads, qk_dim), make(kv_heads, qk_dim), make(kv_heads, v_dim)


def with_gradients(attend, inputs):
    out = attend(*inputs)
    return [out, *torch.autograd.grad(out, inputs, torch.ones_like(out))]


def wrong(attend, config):
    """The largest relative error of out, dq, dk, dv at a small length, against float32."""
    inputs = attention_inputs(config, 1, 512)
    wide = [x.detach().float().requires_grad_() for x in inputs]
    want = with_gradients(sdpa(SDPBackend.MATH), wide)
    got = with_gradients(attend, inputs)
    return max(((g.float() - w).norm() / w.norm()).item() for g, w in zip(got, want))


def choose_dense(config, batch, fa3):
    """The kernel of PyTorch's dense rows, and what became of each of them."""
    tried, runs = {}, {}
    for name, attend in dense_kernels(config, fa3).items():
        try:
            error = wrong(attend, config)
            if error > 2e-2:
                raise ArithmeticError(f"relative error {error:.3f}")
            inputs = attention_inputs(config, batch, config["seq_len"])
            samples = time_steps(lambda: with_gradients(attend, inputs), 5)
            tried[name] = {"time_ms": statistics.median(samples)}
            runs[name] = attend
        except Exception as error:
            tried[name] = {"error": first_line(error)}
    if not runs:
        raise RuntimeError("no dense kernel takes this model's heads")
    best = min(runs, key=lambda name: tried[name]["time_ms"])
    if "FlashAttention-3" in runs:
        best = "FlashAttention-3"
    return best, runs[best], tried


def first_line(error):
    return (str(error).strip() or repr(error)).splitlines()[0][:300]


def free_memory():
    gc.collect()
    torch.cuda.empty_cache()


def time_steps(step, count):
    """Milliseconds of each of `count` steps between CUDA events, after two more."""
    for _ in range(2):
        step()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in zip(events, events[1:])]


# ---- contenders ----------------------------------------------------------------------------------


class Lace:
    what = "lace"

    def __init__(self, run_lace, patterns):
        self.run_lace = run_lace
        self.overrides = [] if patterns is None else [f"model.patterns={json.dumps(patterns)}"]
        self.figures = {}

    def sample(self, steps):
        more = ["--no-profile"] if self.figures else []
        result = self.run_lace(self.overrides, ["--steps", str(steps), *more])
        if not self.figures:
            self.figures = {key: result[key] for key in
                            ("memory_bytes", "parts_ms", "share_of_matmul", "commit")}
        return result["times_ms"]


class PyTorch:
    def __init__(self, config, batch, accumulate, attends, what):
        self.what = what
        self.figures = {}
        self.config, self.attends = config, attends
        self.batch, self.accumulate = batch // accumulate, accumulate
        self.model = None

    def build(self):
        torch.manual_seed(1)
        self.model = Model(self.config, self.attends).cuda()
        for block in self.model.blocks:
            block.compile(dynamic=False)  # one graph for all layers of a kind
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.tokens = torch.randint(0, self.config["vocab"],
                                    (self.batch, self.config["seq_len"]), device="cuda")

    def step(self):
        for _ in range(self.accumulate):
            with torch.autocast("cuda", torch.bfloat16):
                logits = self.model(self.tokens)
            loss = F.cross_entropy(logits.float().flatten(0, 1), self.tokens.flatten())
            (loss / self.accumulate).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def sample(self, steps):
        start = time.monotonic()
        if self.model is None:
            self.build()
            for _ in range(WARM_UP):
                self.step()
            torch.cuda.synchronize()
            self.figures["first_steps_s"] = time.monotonic() - start
        torch.cuda.reset_peak_memory_stats()
        try:
            samples = time_steps(self.step, steps)
            self.figures["memory_bytes"] = torch.cuda.max_memory_allocated()
            return samples
        finally:
            self.optimizer.zero_grad(set_to_none=True)


def flex_attends(config, patterns):
    flex = Flex.load()
    n = config["seq_len"]

    def attend(pattern):
        mask = flex.mask(keep(pattern), config["heads"] if differs_by_head(pattern) else None, n, n)
        grouped = config["heads"] != config["kv_heads"]
        return lambda q, k, v: flex.compiled(q, k, v, block_mask=mask, enable_gqa=grouped)
    return [attend(pattern) for pattern in patterns]


def no_attention(q, k, v):
    return v.repeat_interleave(q.shape[1] // v.shape[1], 1) if q.shape[1] != v.shape[1] else v


# ---- the comparison ------------------------------------------------------------------------------


def make_rows(arguments, run_lace, shape, dense):
    """[{"contender", "pattern", "runs"}], the functions that make them not called yet."""
    config, batch, accumulate = shape["model"], shape["batch"], shape["accumulate"]
    name, attend = dense
    kinds = {"recipe": config["patterns"], "dense": ["dense"],
             **{text: [text] for text in arguments.pattern}}
    if all(is_dense(pattern) for pattern in config["patterns"]):
        del kinds["recipe"]
    rows = []

    def add(contender, kind, make):
        if contender in arguments.contenders.split(","):
            rows.append({"contender": contender, "pattern": kind, "make": make, "samples": []})

    def pytorch(attends, what):
        return PyTorch(config, batch, accumulate, attends, what)
    for kind, patterns in kinds.items():
        add("lace", kind,
            lambda kind=kind, patterns=patterns: Lace(
                run_lace, None if kind == "recipe" else patterns))
    add("dense", "dense", lambda: pytorch([attend], name))
    for kind, patterns in kinds.items():
        if kind != "dense":
            add("flex", kind,
                lambda patterns=patterns: pytorch(flex_attends(config, patterns),
                                                  "FlexAttention"))
    add("none", "none", lambda: pytorch([no_attention], "no attention"))
    return rows


def take_rounds(rows, arguments, progress):
    for round_ in range(arguments.rounds):
        for row in rows:
            if "error" in row:
                continue
            progress(f"round {round_ + 1}, {row['contender']} {row['pattern']}")
            try:
                if round_ == 0:
                    row["runs"] = row["make"]()
                row["samples"] += row["runs"].sample(arguments.steps)
            except Exception as error:
                row["error"] = first_line(error)
                row["runs"] = None
            free_memory()


def report_rows(rows, tokens):
    peer = next((statistics.median(row["samples"]) for row in rows
                 if row["contender"] == "dense" and "error" not in row), None)
    found = []
    for row in rows:
        result = {"contender": row["contender"], "pattern": row["pattern"],
                  "error": row.get("error")}
        found.append(result)
        if "error" in row:
            continue
        ms = statistics.median(row["samples"])
        many = len(row["samples"]) > 1
        quartiles = statistics.quantiles(row["samples"], n=4) if many else [ms] * 3
        result.update(what=row["runs"].what, time_ms=round(ms, 3),
                      spread_ms=round(quartiles[2] - quartiles[0], 3),
                      tokens_per_s=round(1e3 * tokens / ms), samples=len(row["samples"]),
                      speedup=round(peer / ms, 3) if peer else None, **row["runs"].figures)
    return found


def compare(arguments, run_lace):
    """The report. run_lace(overrides, options) -> what one process of lace prints."""
    started = time.monotonic()

    def progress(text):
        print(f"{time.monotonic() - started:6.1f} s  {text}", file=sys.stderr, flush=True)
    if not torch.cuda.is_available():
        sys.exit("step_vs_pytorch: no GPU")
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.cache_size_limit = torch._dynamo.config.recompile_limit = 512
    progress("lace, a step to see the recipe's shape")
    shape = run_lace([], ["--steps", "1", "--no-profile"])
    config = shape["model"]
    progress("dense attention alone")
    name, attend, tried = choose_dense(config, shape["batch"] // shape["accumulate"],
                                       arguments.fa3)
    free_memory()
    rows = make_rows(arguments, run_lace, shape, (name, attend))
    take_rounds(rows, arguments, progress)
    return {"benchmark": "step_peers", "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__, "cudnn": torch.backends.cudnn.version(),
            "commit": shape["commit"], "date": time.strftime("%Y-%m-%d"),
            "recipe": arguments.recipe, "set": arguments.set, "batch": shape["batch"],
            "accumulate": shape["accumulate"], "model": config,
            "matmul_tflops": shape["matmul_tflops"], "dense_attention": tried,
            "rows": report_rows(rows, shape["batch"] * config["seq_len"])}


def print_report(report):
    config = report["model"]
    print(f"{report['gpu']}, torch {report['torch']}: a training step of {report['recipe']}, batch "
          f"{report['batch']} x {config['seq_len']}, dropout {config['dropout']:g}, "
          f"recompute {'on' if config['recompute'] else 'off'}")
    print("dense attention alone, ms: " + ", ".join(
        f"{name} " + (f"{tried['time_ms']:.2f}" if "time_ms" in tried else f"({tried['error']})")
        for name, tried in report["dense_attention"].items()))
    line = "{:6} {:30} {:24} {:>8} {:>6} {:>10} {:>6} {:>8}".format
    print(line("", "pattern", "by", "ms", "±", "tokens/s", "GB", "speedup"))
    for row in report["rows"]:
        if row["error"]:
            print(line(row["contender"], row["pattern"], "failed", *["–"] * 5).rstrip())
            continue
        speedup = row["speedup"]
        print(line(row["contender"], row["pattern"], row["what"], f"{row['time_ms']:.1f}",
                   f"{row['spread_ms']:.1f}", f"{row['tokens_per_s']:,}",
                   f"{row['memory_bytes'] * 1e-9:.1f}", f"{speedup:.2f}" if speedup else "–"))
    print("speedup: PyTorch's dense step over this one's time")
    for row in report["rows"]:
        if row["error"]:
            print(f"{row['contender']} {row['pattern']}: {row['error']}")
