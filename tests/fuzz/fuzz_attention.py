#!/usr/bin/env python3
"""Random calls of torch.ops.lace.attention against its definition in float64.

  fuzz_attention.py PATH/liblace_torch.so --kernel NAME [--seconds S] [--cases N] [--seed N]
                    [--first CASE] [--small] [--masked] [--jobs J] [--failures N] [--under COMMAND]
                    [--json]

Case k of a seed is always the same call: a pattern (all atoms with small, large and odd arguments,
`|`, `&`, parentheses, heads(…), both directions; mostly ones that need several passes), lengths of
1 to 1,700 around the edges of tiles, grouped heads, head dims of q and v drawn apart, dtypes,
layouts (transposed, fused, padded, odd offsets and strides, stride 0, overlapping rows, shared
storage), values (normal, rows of large ones, constants, tiny and large ones), scales, softcaps, masks
of blocks, determinism,
forward alone or with gradients. cases.py and pattern_draw.py draw them; reference.py computes what is
expected, by dense masked attention from docs/design.md's definitions alone, and how far roundings
may lead.

A case fails if a result is further off than that or not a number, if a second call (deterministic
on a GPU; with other threads on a CPU) differs in a bit, if inputs or guards around the results
changed, if an unrelated product of torch changes, or if the call throws, dies or hangs. Memory that
a call may get is filled with NaN beforehand. A kernel that refuses a case with a reason skips it;
more than MOST_SKIPPED of all is a failure too.

The seed is taken from the clock unless it is given, and printed; a failure prints the command that
repeats it. Exit code 1: a fault; 77: the kernel cannot run here.
"""

import argparse
import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import time

KERNELS = ["cuda_sm90", "cuda_portable", "cpu_avx512_bf16", "cpu_avx512", "cpu_avx2",
           "cpu_portable", "reference"]  # fmt: skip
MOST_SKIPPED = 0.25
UNAVAILABLE = 77
LINES_SHOWN = 60  # of what runs a worker says
# Of a worker on a CPU: malloc fills what it hands out with 0xfe, which as floating point numbers is
# NaN or huge, and takes large blocks from the same place as small ones.
POISONED_MALLOC = {
    "MALLOC_PERTURB_": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog="See the first lines of the file."
    )
    parser.add_argument("library")
    parser.add_argument("--kernel", required=True, choices=KERNELS)
    parser.add_argument(
        "--seconds", type=float, help="stop after so long (10 if no cases are given)"
    )
    parser.add_argument("--cases", type=int, help="stop after so many")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--small", action="store_true", help="other cases, a sixteenth of the size")
    parser.add_argument(
        "--masked", action="store_true", help="other cases, all with masks of blocks"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the cases")
    parser.add_argument("--under", default="", help="what runs them, such as compute-sanitizer")
    parser.add_argument("--failures", type=int, default=1, help="stop after so many")
    parser.add_argument(
        "--hung", type=float, default=300, help="seconds after which a case has hung"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", metavar="PROGRESS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.seconds is None and options.cases is None:
        options.seconds = 10
    if options.seed is None:
        options.seed = int(time.time())
    return options


def repeat_command(options, number):
    return (
        f"{sys.executable} {os.path.relpath(__file__)} {options.library} --kernel {options.kernel} "
        f"--seed {options.seed} --first {number} --cases 1"
        + (" --small" if options.small else "")
        + (" --masked" if options.masked else "")
        + (f" --under {shlex.quote(options.under)}" if options.under else "")
    )


def report_failure(options, case, fault):
    command = repeat_command(options, case.number)
    return f"case {case.number}: {fault}\n{case.text()}\nrepeat:   {command}"


# ---- a worker: runs every jobs-th case ----------------------------------------------------------


class Refused(Exception):
    pass


class Fault(Exception):
    pass


class Worker:
    def __init__(self, options):
        import torch

        import cases

        self.torch, self.options = torch, options
        self.profile = cases.PROFILES[options.kernel]
        self.device = torch.device(self.profile.device)
        # What watches a GPU's launches makes the reference's hundreds slow: then a CPU computes it.
        self.reference_device = torch.device("cpu") if options.under else self.device
        torch.ops.load_library(options.library)
        torch.set_num_threads(1)
        torch.backends.cuda.matmul.allow_tf32 = False
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise Refused("there is no GPU")
        gen = torch.Generator(self.device).manual_seed(1)
        self.canary = torch.randn(192, 192, generator=gen, device=self.device)
        self.probe()

    def probe(self):
        """Throws Refused with the reason if the kernel cannot run here at all."""
        dtype = self.profile.dtypes[0]
        row = self.torch.ones(1, 1, 1, 64, dtype=dtype, device=self.device)
        self.call(row, row, row, "dense")

    def call(self, q, k, v, pattern, **options):
        try:
            return self.torch.ops.lace.attention(q, k, v, pattern, **options)
        except RuntimeError as error:
            refusal = re.search(r"LACE_KERNEL=\S+ cannot run: (.*)", str(error))
            if refusal:
                raise Refused(refusal[1]) from None
            raise

    def fill_free_memory(self, case):
        """Writes NaN to blocks of the sizes that the call will want, each between two guards, and
        frees them: whoever reads what was never written gets NaN, whoever writes past an end hits a
        guard. Returns the guards."""
        torch = self.torch
        b, h, n, m, kv = case.batch, case.heads, case.q_len, case.k_len, case.kv_heads
        width = torch.finfo(case.dtype).bits // 8
        rows = [b * h * n * case.v_dim, b * h * n * case.qk_dim, b * kv * m * case.qk_dim,
                b * kv * m * case.v_dim]  # fmt: skip
        sizes = [b * h * n * 4] + [width * size for size in rows] + [4 * size for size in rows]
        guards, blocks = [self.new_guard()], []
        for size in sizes:
            blocks.append(torch.full((size,), 0xFF, dtype=torch.uint8, device=self.device))
            guards.append(self.new_guard())
        return guards

    def new_guard(self):
        return self.torch.full((4096,), 0x5A, dtype=self.torch.uint8, device=self.device)

    def attend(self, case, tensors, threads):
        """The results of one call by name."""
        torch = self.torch
        q, k, v = (tensors[name].detach() for name in "qkv")
        options = {"scale": case.scale, "deterministic": case.deterministic == "argument"}
        options["softcap"] = case.softcap
        if case.block_mask:
            live, size = case.block_mask
            options |= {"block_mask": live.to(self.device), "block_size": size}
        packed = case.sequences is not None and case.sequences.packed
        if case.sequences:
            table = case.sequences.table(torch.ops.lace, case.q_len, case.k_len, self.device)
            options |= {"sequences": table, "max_len": case.sequences.max_len}
        sinks = None
        if case.sinks:
            sinks = options["sinks"] = self.sinks(case)

        def attend(q, k, v):
            if packed:
                q, k, v = (tensor[0].transpose(0, 1) for tensor in (q, k, v))
            out, lse = self.call(q, k, v, case.pattern.text(), **options)
            return (out.transpose(0, 1)[None], lse[None]) if packed else (out, lse)

        if self.device.type == "cpu":
            torch.set_num_threads(threads)
        # As torch.use_deterministic_algorithms(…), which imports a compiler first.
        torch._C._set_deterministic_algorithms(case.deterministic == "global")
        try:
            if not case.backward:
                out, lse = attend(q, k, v)
                return {"out": out, "lse": lse}
            inputs = {"q": q, "k": k, "v": v}
            for name in case.wanted:
                inputs[name].requires_grad_()
            names = list(case.wanted)
            if case.sinks:
                inputs["sinks"] = sinks.requires_grad_()
                names.append("sinks")
            out, lse = attend(q, k, v)
            results, given = [out], [tensors["dout"]]
            if case.of_lse:
                results.append(lse)
                given.append(self.gradient_of_lse(case, lse))
            gradients = torch.autograd.grad(results, [inputs[name] for name in names], given)
            named = {f"d{name}": gradient for name, gradient in zip(names, gradients)}
            return {"out": out.detach(), "lse": lse.detach(), **named}
        finally:
            torch._C._set_deterministic_algorithms(False)
            torch.set_num_threads(1)

    def sinks(self, case):
        dtypes = self.torch.float64, self.torch.float32
        dtype = dtypes[case.dtype != self.torch.float64]
        return self.torch.tensor(case.sinks, dtype=dtype, device=self.device)

    def gradient_of_lse(self, case, lse):
        gen = self.torch.Generator(self.device).manual_seed(case.values_seed + 1)
        given = self.torch.randn(lse.shape, generator=gen, device=self.device)
        return given.to(lse.dtype)

    def expect(self, case, tensors):
        from reference import attention64

        device = self.reference_device
        q, k, v = (tensors[name].to(device).double() for name in "qkv")
        dout = tensors["dout"].to(device).double() if case.backward else None
        if case.sequences:
            live, of_q, of_k = case.sequences.live(case, device)
            q, k, v = q.masked_fill(~of_q, 0), k.masked_fill(~of_k, 0), v.masked_fill(~of_k, 0)
            dout = dout.masked_fill(~of_q, 0) if case.backward else None
        else:
            live = case.pattern.mask(case.heads, case.q_len, case.k_len, device)
            if case.block_mask:
                pairs = case.block_pairs(case.k_len)[:, case.k_len - case.q_len :]
                live = live & pairs.to(device)
            of_q = self.torch.ones((1, 1, case.q_len, 1), dtype=bool, device=device)
        sinks = dlse = None
        if case.sinks:
            sinks = self.sinks(case).to(device).double().view(1, -1, 1, 1)
            sinks = sinks.masked_fill(~of_q, -self.torch.inf)
        if case.of_lse:
            dlse = self.gradient_of_lse(case, q[..., 0]).to(device).double()
            if case.dtype != self.torch.float64:
                dlse = dlse.float().double()
        inputs = (q, k, v, live, case.actual_scale(), dout)
        kernel = self.options.kernel
        more = {"sinks": sinks, "dlse": dlse, "softcap": case.softcap, "device": self.device.type}
        return attention64(*inputs, case.dtype, case.independent(), kernel, **more)

    def run(self, case):
        """Measures by name of result; throws Fault or Refused."""
        from reference import measure, sizes, worst_element
        from sequences import poison

        torch = self.torch
        for mask in case.pattern.masks:
            mask.write()
        tensors, storages = case.build(self.device)
        if case.sequences:
            poison(tensors, case, *case.sequences.live(case, self.reference_device)[1:])
        copies = [storage.clone() for storage in storages]
        before = self.canary @ self.canary
        guards = self.fill_free_memory(case)
        got = self.attend(case, tensors, case.threads)
        whole = {
            "a guard beside the results": [(guard == 0x5A).all() for guard in guards],
            "an input": [self.same_bits(a, b) for a, b in zip(storages, copies)],
        }
        if case.again and (self.device.type == "cpu" or case.deterministic != "no"):
            second = self.attend(case, tensors, case.other_threads)
            whole["the second call"] = [self.same_bits(got[name], second[name]) for name in got]
        whole["an unrelated product"] = [self.same_bits(before, self.canary @ self.canary)]
        expected = self.expect(case, tensors)
        got = {name: result.to(self.reference_device) for name, result in got.items()}
        for name, result in got.items():
            if result.shape != expected[name].value.shape:
                raise Fault(f"{name} has the shape {list(result.shape)}")
        size = sizes(expected)
        numbers = [measure(got[name], expected[name], case.dtype, *size[name]) for name in got]
        intact = [
            torch.stack(flags).all().to(self.reference_device) for flags in whole.values()
        ]
        numbers = torch.cat([*numbers, torch.stack(intact).double()]).tolist()
        for name, fine in zip(whole, numbers[-len(whole) :]):
            if not fine:
                raise Fault(f"{name} changed")
        measured = {name: numbers[4 * r : 4 * r + 4] for r, name in enumerate(got)}
        for name, (ratio, spread, _, _) in measured.items():
            if ratio > 1:
                raise Fault(f"{name} {worst_element(got[name], expected[name])}")
            if spread > 1:
                raise Fault(
                    f"{name}: the root mean square of its errors is {spread:.3g} times its bound"
                )
        return measured

    def same_bits(self, a, b):
        whole = {1: self.torch.uint8, 2: self.torch.int16, 4: self.torch.int32, 8: self.torch.int64}
        kind = whole[a.element_size()]
        return (a.view(kind) == b.view(kind)).all()

    def work(self, step, offset, progress, folder):
        """folder: for the files of masks."""
        from cases import SHORT_NAMES, draw_case

        options = self.options
        summary = {"cases": 0, "skipped": {}, "largest": {}, "failures": []}
        start = time.monotonic()
        number = options.first + offset
        while options.cases is None or number < options.first + options.cases:
            if options.seconds is not None and time.monotonic() - start > options.seconds:
                break
            os.pwrite(progress, struct.pack("<qd", number, time.time()), 0)
            if options.under:
                print("case", number, flush=True)
            case = draw_case(
                options.kernel, options.seed, number, folder, options.small, options.masked
            )
            number += step
            try:
                measured = self.run(case)
            except Refused as refused:
                reason = re.sub(r"\d+", "N", str(refused))
                summary["skipped"][reason] = summary["skipped"].get(reason, 0) + 1
            except Exception as error:
                kind = "" if isinstance(error, Fault) else f"{type(error).__name__}: "
                fault = f"{kind}{error}"
                summary["failures"].append(report_failure(options, case, fault))
                if len(summary["failures"]) >= options.failures or self.is_lost(error):
                    break
            else:
                summary["cases"] += 1
                if not case.independent():  # errors over values that may be nearly 0
                    measured = {name: [*numbers[:2], 0, 0] for name, numbers in measured.items()}
                merge_largest(summary["largest"], {SHORT_NAMES[case.dtype]: measured})
            for mask in case.pattern.masks:
                os.remove(mask.file)
        return summary

    def is_lost(self, error):
        """Whether the GPU will answer nothing any more."""
        return self.device.type == "cuda" and not isinstance(error, Fault)


def merge_largest(largest, more):
    for dtype, results in more.items():
        for name, numbers in results.items():
            old = largest.setdefault(dtype, {}).setdefault(name, [0.0] * len(numbers))
            largest[dtype][name] = [max(a, b) for a, b in zip(old, numbers)]


def worker(options):
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    path, offset = options.worker.rsplit(":", 1)
    try:
        job = Worker(options)
    except Refused as refused:
        print(json.dumps({"unavailable": str(refused)}))
        return
    progress = os.open(path, os.O_WRONLY)
    print(json.dumps(job.work(options.jobs, int(offset), progress, os.path.dirname(path))))


# ---- the parent: starts workers, adds up what they say ------------------------------------------


class Job:
    def __init__(self, options, offset, folder):
        self.progress = os.path.join(folder, f"progress-{offset}")
        with open(self.progress, "wb") as file:
            file.write(struct.pack("<qd", -1, time.time()))
        environment = {
            **os.environ,
            "LACE_KERNEL": options.kernel,
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # else cuBLAS refuses to be deterministic
        }
        if not options.kernel.startswith("cuda"):
            environment.update(POISONED_MALLOC)
        command = [*shlex.split(options.under), sys.executable, os.path.abspath(__file__)]
        command.append(options.library)
        command += ["--kernel", options.kernel, "--seed", str(options.seed)]
        command += ["--first", str(options.first), "--jobs", str(options.jobs)]
        command += ["--failures", str(options.failures), "--under", options.under]
        command += ["--worker", f"{self.progress}:{offset}"]
        command += ["--small"] * options.small + ["--masked"] * options.masked
        if options.seconds is not None:
            command += ["--seconds", str(options.seconds)]
        if options.cases is not None:
            command += ["--cases", str(options.cases)]
        self.output = open(os.path.join(folder, f"output-{offset}"), "w+")
        self.process = subprocess.Popen(command, env=environment, stdout=self.output)

    def current(self):
        with open(self.progress, "rb") as file:
            return struct.unpack("<qd", file.read(16))

    def watch(self, hung):
        """Kills the worker if its case has not ended in time; whether it has ended."""
        if self.process.poll() is not None:
            return True
        if time.time() - self.current()[1] > hung:
            self.process.kill()
        return False

    def summary(self, options):
        self.output.seek(0)
        lines = self.output.read().splitlines()
        summaries = [json.loads(line) for line in lines if line.startswith("{")]
        if self.process.returncode == 0 and summaries:
            return summaries[-1]
        said = [line for line in lines if not line.startswith("{")]
        code = self.process.returncode
        how = f"ended with exit code {code}"
        if code < 0:
            how = f"died of {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how = f"was killed, perhaps because the case took more than {options.hung:g} s"
        number = reported_case(said)
        if number is None:
            number = self.current()[0]
        failure = f"a worker {how} before its first case"
        if number >= 0:
            sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
            from cases import draw_case

            case = draw_case(
                options.kernel, options.seed, number, "FOLDER", options.small, options.masked
            )
            failure = report_failure(options, case, f"the process {how}")
        said = [line for line in said if not line.startswith("case ")]
        none = {"cases": 0, "skipped": {}, "largest": {}, "failures": []}
        summary = summaries[-1] if summaries else none
        summary["failures"].append("\n".join([failure, *said[:LINES_SHOWN]]))
        return summary


def reported_case(lines):
    """The case after whose announcement something else was said first, or None."""
    number = None
    for line in lines:
        if line.startswith("case "):
            number = int(line.split()[1])
        elif number is not None:
            return number
    return None


def run_jobs(options):
    """The summaries of all workers as one."""
    total = {"kernel": options.kernel, "seed": options.seed, "first": options.first, "cases": 0,
             "skipped": {}, "largest": {}, "failures": []}  # fmt: skip
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lace-fuzz-") as folder:
        jobs = [Job(options, offset, folder) for offset in range(options.jobs)]
        try:
            while not all([job.watch(options.hung) for job in jobs]):
                time.sleep(0.05)
        finally:
            for job in jobs:
                job.process.kill()
                job.process.wait()
        for job in jobs:
            summary = job.summary(options)
            if "unavailable" in summary:
                return summary
            total["cases"] += summary["cases"]
            for reason, count in summary["skipped"].items():
                total["skipped"][reason] = total["skipped"].get(reason, 0) + count
            merge_largest(total["largest"], summary["largest"])
            total["failures"] += summary["failures"]
    total["seconds"] = round(time.monotonic() - start, 1)
    return total


def print_summary(total):
    for failure in total["failures"]:
        print(failure + "\n")
    print(
        f"{total['kernel']}: {total['cases']} cases from {total['first']} of seed {total['seed']} "
        f"in {total['seconds']:.0f} s, {len(total['failures'])} failed"
    )
    for reason, count in sorted(total["skipped"].items()):
        print(f"  skipped {count}: {reason}")
    if total["largest"]:
        print(
            "  largest errors: of an element over its bound, all over theirs; of the largest value;"
        )
        print("  of the root mean square")
    for dtype, results in sorted(total["largest"].items()):
        for name, numbers in results.items():
            print(f"  {dtype:<9} {name:<4} " + " ".join(f"{number:9.2e}" for number in numbers))


def main():
    options = arguments()
    if options.worker:
        return worker(options)
    total = run_jobs(options)
    if "unavailable" in total:
        print(f"{options.kernel} cannot run here: {total['unavailable']}")
        return UNAVAILABLE
    skipped = sum(total["skipped"].values())
    if skipped > MOST_SKIPPED * (total["cases"] + skipped) and total["cases"] + skipped >= 100:
        total["failures"].append(f"{skipped} of {total['cases'] + skipped} cases were skipped")
    if options.json:
        print(json.dumps(total))
    else:
        print_summary(total)
    return 1 if total["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
