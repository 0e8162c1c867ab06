#!/usr/bin/env python3
"""A transformers model end to end: prefill and a training step with each attention implementation.

The model has gpt-oss's attention (64 query and 8 key heads of 64, windows of 128 in every other
layer, learned sinks, width 2,880), cut to 4 layers, 4 experts and a vocabulary of 8,192, with
random weights in bfloat16. lace stands beside the implementations that transformers has: eager,
sdpa, flex_attention. One that refuses the model, or that runs out of memory, has a row that says
so. Before anything is timed the logits of all are compared with eager's on --check-tokens.

  PYTHONPATH=python LACE_LIBRARY=build/cuda/lib/liblace_torch.so bench/transformers_step.py
  bench/transformers_step.py --tokens 8192 --contenders lace,sdpa --json
  bench/transformers_step.py --device cpu --layers 2 --hidden 128 --heads 4 --tokens 512 \\
      --check-tokens 128 --rounds 1

A training step is forward, cross-entropy on the next byte, backward and fused AdamW on one row of
tokens; prefill is forward without gradients and without a cache. Times are medians of --rounds
calls after two that warm up; the first call, which compiles what is compiled, is told apart.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import GptOssConfig, GptOssForCausalLM

import lace

CONTENDERS = ["lace", "eager", "sdpa", "flex_attention"]
WARM_UP = 2


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--tokens", type=int, default=32_768, help="of the timed row")
    parser.add_argument("--check-tokens", type=int, default=4_096, help="of the compared row")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=2_880, help="width of the model")
    parser.add_argument("--heads", type=int, default=64, help="query heads; key heads are an 8th")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    arguments.contenders = arguments.contenders.split(",")
    for name in arguments.contenders:
        if name not in CONTENDERS:
            parser.error(f"--contenders takes {', '.join(CONTENDERS)}, got {name!r}")
    for name in ("tokens", "check_tokens", "layers", "hidden", "heads", "rounds"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, "
                         f"got {getattr(arguments, name)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    return arguments


def make_model(arguments):
    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=8_192,
        hidden_size=arguments.hidden,
        intermediate_size=arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        num_key_value_heads=max(1, arguments.heads // 8),
        head_dim=64,
        sliding_window=128,
        num_local_experts=4,
        num_experts_per_tok=4,
        max_position_embeddings=131_072,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        use_cache=False,
        attn_implementation="eager",
    )
    model = GptOssForCausalLM(config).to(torch.bfloat16).to(arguments.device)
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.sinks)
    return model


class Clock:
    """Milliseconds of calls, by CUDA events where there is a GPU."""

    def __init__(self, device):
        self.cuda = device == "cuda"

    def ms(self, run):
        if not self.cuda:
            begin = time.perf_counter()
            run()
            return 1e3 * (time.perf_counter() - begin)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)


def reason(error):
    """The first line of what went wrong; short where memory did."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "out of memory"
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:100]}"


def free(device):
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def prefill(model, tokens):
    with torch.no_grad():
        return model(tokens, logits_to_keep=1).logits


def train(model, optimizer, tokens):
    model(tokens, labels=tokens).loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def measure(arguments, run):
    """First call, median and distance of the quartiles of the others, peak memory."""
    clock = Clock(arguments.device)
    free(arguments.device)
    first = clock.ms(run)
    for _ in range(WARM_UP - 1):
        run()
    times = sorted(clock.ms(run) for _ in range(arguments.rounds))
    spread = times[(3 * len(times)) // 4] - times[len(times) // 4]
    peak = torch.cuda.max_memory_allocated() if arguments.device == "cuda" else None
    return {"first_ms": first, "ms": statistics.median(times), "spread_ms": spread,
            "peak_bytes": peak}


def agreement(arguments, model, tokens):
    """Of each contender: the norm of its logits' difference from eager's, relatively."""
    results, expected = {}, None
    for name in ["eager", *[n for n in arguments.contenders if n != "eager"]]:
        try:
            model.set_attn_implementation(name)
            with torch.no_grad():
                logits = model(tokens).logits.float()
            expected = logits if name == "eager" else expected
            results[name] = ((logits - expected).norm() / expected.norm()).item()
        except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
            results[name] = reason(error)
        free(arguments.device)
    return results


def time_contender(arguments, name, tokens):
    row = {"contender": name}
    model = None
    try:
        model = make_model(arguments)
        model.set_attn_implementation(name)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return {**row, "prefill": reason(error), "train": reason(error)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=arguments.device == "cuda")
    work = {"prefill": lambda: prefill(model.eval(), tokens),
            "train": lambda: train(model.train(), optimizer, tokens)}
    for what, run in work.items():
        try:
            row[what] = measure(arguments, run)
        except (RuntimeError, ValueError, NotImplementedError, TypeError) as error:
            row[what] = reason(error)
            model.zero_grad(set_to_none=True)
        print(f"  {name}: {what} measured", file=sys.stderr)
    del model, optimizer
    free(arguments.device)
    return row


def print_table(result):
    print(f"{result['device']}, torch {result['torch']}, transformers {result['transformers']}: "
          f"{result['layers']} layers of gpt-oss, {result['parameters'] / 1e6:.0f}M parameters, "
          f"{result['tokens']} tokens, bfloat16")
    print(f"{'':<16}{'prefill ms':>12}{'±':>7}{'first':>10}{'train ms':>12}{'±':>7}{'first':>10}"
          f"{'GB':>7}  logits beside eager's, {result['check_tokens']} tokens")
    for row in result["rows"]:
        line, notes = f"{row['contender']:<16}", []
        for what in ("prefill", "train"):
            one = row[what]
            if isinstance(one, str):
                line += f"{'–':>12}{'':>17}"
                notes.append(one)
            else:
                line += f"{one['ms']:>12.1f}{one['spread_ms']:>7.1f}{one['first_ms']:>10.0f}"
        peak = row["train"]["peak_bytes"] if isinstance(row["train"], dict) else None
        line += f"{peak / 1e9:>7.1f}" if peak else f"{'–':>7}"
        close = result["agreement"].get(row["contender"])
        if isinstance(close, float):
            line += f"  {close:.1e}"
        else:
            notes.append(close)
        print("  ".join([line, *dict.fromkeys(notes)]))


def main():
    arguments = parse_arguments()
    transformers.logging.set_verbosity_error()
    lace.hf.register()
    generator = torch.Generator().manual_seed(1)
    draw = lambda n: torch.randint(3, 8_192, (1, n), generator=generator).to(arguments.device)
    model = make_model(arguments).eval()
    parameters = sum(p.numel() for p in model.parameters())
    close = agreement(arguments, model, draw(arguments.check_tokens))
    del model
    tokens = draw(arguments.tokens)
    result = {
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokens": arguments.tokens,
        "check_tokens": arguments.check_tokens,
        "layers": arguments.layers,
        "parameters": parameters,
        "agreement": close,
        "rows": [time_contender(arguments, name, tokens) for name in arguments.contenders],
    }
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        print_table(result)


if __name__ == "__main__":
    main()
