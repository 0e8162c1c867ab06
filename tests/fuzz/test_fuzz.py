"""The fuzzer's own tests: its reference against autograd, its faults found, its cases repeatable.

Usage: test_fuzz.py PATH/liblace_torch.so [unittest options]
"""

import argparse
import math
import os
import struct
import sys
import tempfile
import unittest

import torch

import cases
import fuzz_attention
from patterns import Local, Pattern, Positions, Random, Strided, Union, philox
from reference import attention64, measure, root_mean_square, sizes

LIBRARY = ""


def masked_attention(q, k, v, live, scale, softcap=None):
    """As the definition says it, through autograd and one row at a time where there are no keys."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    logits = scale * q @ k.transpose(2, 3)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits.masked_fill(~live, -math.inf)
    empty = ~live.any(-1, keepdim=True)
    weights = logits.masked_fill(empty, 0).softmax(-1).masked_fill(empty, 0)
    return weights @ v, logits.logsumexp(-1)


def worker(kernel="reference", seed=3):
    os.environ["LACE_KERNEL"] = kernel
    options = argparse.Namespace(
        library=LIBRARY, kernel=kernel, seed=seed, first=0, jobs=1, under=""
    )
    return fuzz_attention.Worker(options)


class ReferenceTest(unittest.TestCase):
    def test_equals_autograd(self):
        for number in range(40):
            with tempfile.TemporaryDirectory() as folder, self.subTest(number=number):
                case = cases.draw_case("reference", 8, number, folder)
                tensors, _ = case.build("cpu")
                q, k, v, dout = (
                    tensors[name].double() if name in tensors else None
                    for name in ("q", "k", "v", "dout")
                )
                dout = torch.ones(*q.shape[:3], v.shape[3], dtype=q.dtype) if dout is None else dout
                live = case.pattern.mask(case.heads, case.q_len, case.k_len, "cpu")
                scale = case.actual_scale()
                expected = attention64(
                    q, k, v, live, scale, dout, torch.float64, False, softcap=case.softcap
                )
                inputs = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
                out, lse = masked_attention(*inputs, live, scale, case.softcap)
                got = {"out": out, "lse": lse}
                got.update(zip(("dq", "dk", "dv"), torch.autograd.grad(out, inputs, dout)))
                for name, one in expected.items():
                    self.assertLessEqual(
                        measure(got[name].detach(), one, torch.float64, 1, 1)[0].item(), 1, name
                    )

    def test_philox_gives_the_known_answers(self):
        # Of the authors' library, Random123: counters, keys, results.
        ones = 0xFFFFFFFF
        known = [
            ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
            ((ones,) * 4, (ones,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
            (
                (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
                (0xA4093822, 0x299F31D0),
                (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
            ),
        ]
        for counter, key, result in known:
            words = philox([torch.tensor([word]) for word in counter], key)
            self.assertEqual(tuple(word.item() for word in words), result)

    def test_random_draws_distinct_blocks_at_or_before_its_own(self):
        blocks = Random(3, 8, 7).mask(Positions([0, 1], 100, 100, False, "cpu"))[:, ::8, ::8]
        drawn = blocks.sum(-1)
        expected = torch.arange(1, 14).clamp(max=3).expand(2, -1)
        self.assertTrue(torch.equal(drawn, expected))
        self.assertFalse((blocks & ~torch.ones(13, 13, dtype=torch.bool).tril()).any())


class BoundsTest(unittest.TestCase):
    """One pair too few, or arithmetic a little too coarse, is found; what a kernel does is not."""

    def setUp(self):
        gen = torch.Generator().manual_seed(0)
        self.q, self.k, self.v, self.dout = (
            torch.randn(1, 2, 300, 64, generator=gen).bfloat16() for _ in range(4)
        )
        self.live = Pattern([(None, Union([Local(100), Strided(7)]))], False).mask(
            2, 300, 300, "cpu"
        )

    def expected(self, live, dtype=torch.bfloat16, softcap=None):
        tensors = [tensor.double() for tensor in (self.q, self.k, self.v)]
        return attention64(
            *tensors, live, 0.125, self.dout.double(), dtype, True, softcap=softcap
        )

    def faults(self, got, expected, dtype=torch.bfloat16):
        size = sizes(expected)
        measures = {name: measure(got[name], expected[name], dtype, *size[name]) for name in got}
        return {name for name, (ratio, spread, _, _) in measures.items() if ratio > 1 or spread > 1}

    def rounded(self, results, dtype=torch.bfloat16):
        return {
            name: r.value.to(dtype if name != "lse" else torch.float32)
            for name, r in results.items()
        }

    def test_rounded_results_are_right(self):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            expected = self.expected(self.live, dtype)
            self.assertEqual(self.faults(self.rounded(expected, dtype), expected, dtype), set())

    def test_one_pair_too_few_is_found(self):
        live = self.live.clone()
        row = 200
        live[1, row, row - 50] = False
        faults = self.faults(self.rounded(self.expected(live)), self.expected(self.live))
        self.assertEqual(faults, {"out", "lse", "dq", "dk", "dv"})

    def test_a_softcap_that_is_left_out_is_found(self):
        capped, plain = self.expected(self.live, softcap=4.0), self.expected(self.live)
        self.assertEqual(self.faults(self.rounded(capped), capped), set())
        self.assertEqual(self.faults(self.rounded(plain), capped), {"out", "lse", "dq", "dk", "dv"})
        # Its slope alone left out of backward.
        q, k, v, dout = (tensor.double() for tensor in (self.q, self.k, self.v, self.dout))
        logits = 4 * torch.tanh(0.125 * q @ k.transpose(2, 3) / 4)
        p = logits.masked_fill(~self.live, -math.inf).softmax(-1)
        ds = p * (dout @ v.transpose(2, 3) - (dout * (p @ v)).sum(-1, keepdim=True))
        got = self.rounded(capped)
        got["dq"] = (0.125 * ds @ k).bfloat16()
        self.assertEqual(self.faults(got, capped), {"dq"})

    def test_one_element_of_garbage_is_found(self):
        expected = self.expected(self.live)
        for garbage in (math.nan, math.inf, 1.0):
            got = self.rounded(expected)
            got["dk"][0, 1, 2, 3] = garbage
            self.assertEqual(self.faults(got, expected), {"dk"})

    def test_coarser_arithmetic_is_found(self):
        expected = self.expected(self.live)
        gen = torch.Generator().manual_seed(1)
        got = self.rounded(expected)
        for name in ("out", "dq", "dk", "dv"):
            noise = torch.randn(got[name].shape, generator=gen) * root_mean_square(
                got[name].float()
            )
            got[name] = (got[name].float() + 0.02 * noise).bfloat16()
        self.assertEqual(self.faults(got, expected), {"out", "dq", "dk", "dv"})

    def test_denormal_operands_count_as_zero_for_one_kernel_alone(self):
        q, k, v, dout = (tensor.double() for tensor in (self.q, self.k, self.v, self.dout))
        q, scale = 30 * q, 0.01
        logits = (scale * q @ k.transpose(2, 3)).masked_fill(~self.live, -math.inf)
        p = logits.softmax(-1)

        def faults(kernel, dout, smallest):
            """Of dk if every scale · dS below `smallest` counts as 0."""
            delta = (dout * (p @ v)).sum(-1, keepdim=True)
            operand = scale * p * (dout @ v.transpose(2, 3) - delta)
            operand = operand.masked_fill(operand.abs() < smallest, 0)
            got = {"dk": (operand.transpose(2, 3) @ q).bfloat16()}
            inputs = (q, k, v, self.live, scale, dout)
            return self.faults(got, attention64(*inputs, torch.bfloat16, False, kernel))

        self.assertEqual(faults("cpu_avx512_bf16", 1e-36 * dout, 2**-126), set())
        self.assertEqual(faults("cpu_avx512", 1e-36 * dout, 2**-126), {"dk"})
        self.assertEqual(faults("cpu_avx512_bf16", 1e-33 * dout, 2**-118), {"dk"})


class WorkerTest(unittest.TestCase):
    def test_a_case_is_a_function_of_seed_and_number(self):
        with tempfile.TemporaryDirectory() as folder:
            for kernel in cases.PROFILES:
                for number in range(10):
                    one, two = (cases.draw_case(kernel, 5, number, folder) for _ in range(2))
                    self.assertEqual(one.text(), two.text())
                    if kernel.startswith("cuda"):
                        continue
                    a, b = one.build("cpu")[0], two.build("cpu")[0]
                    for name in a:
                        self.assertTrue(torch.equal(a[name], b[name]))

    def test_faults_are_found(self):
        """Each kind of fault, put in on purpose into what the library returned."""
        job = worker()
        attend, make_guards, guards = job.attend, job.fill_free_memory, []

        def with_fault(fault):
            def call(case, tensors, threads):
                got = attend(case, tensors, threads)
                fault(got, tensors, threads)
                return got

            return call

        def change_input(got, tensors, threads):
            tensors["q"][0, 0, 0, 0] += 1

        def change_canary(got, tensors, threads):
            job.canary[3, 4] += 1

        def change_second(got, tensors, threads):
            if threads == case.other_threads:
                lse = got["lse"][0, 0, 0]
                lse.copy_(lse.nextafter(torch.full_like(lse, math.inf)))

        def change_guard(got, tensors, threads):
            guards[-1][4095] = 0

        def keep_guards(case):
            guards[:] = make_guards(case)
            return guards

        job.fill_free_memory = keep_guards
        with tempfile.TemporaryDirectory() as folder:
            drawn = (cases.draw_case("reference", 3, number, folder) for number in range(10**6))
            case = next(case for case in drawn if case.again and case.pattern.masks == [])
            self.assertIn("out", job.run(case))
            for fault, message in [
                (change_input, "an input changed"),
                (change_canary, "an unrelated product changed"),
                (change_second, "the second call changed"),
                (change_guard, "a guard beside the results changed"),
                (lambda got, *_: got["out"].fill_(math.nan), "out at"),
            ]:
                job.attend = with_fault(fault)
                with self.assertRaisesRegex(fuzz_attention.Fault, message):
                    job.run(case)

    def test_a_worker_that_dies_names_its_case(self):
        options = argparse.Namespace(
            library=LIBRARY,
            kernel="reference",
            seed=3,
            first=0,
            jobs=1,
            small=False,
            masked=False,
            under="",
            hung=9,
        )
        with tempfile.TemporaryDirectory() as folder:
            job = fuzz_attention.Job.__new__(fuzz_attention.Job)
            job.progress = os.path.join(folder, "progress")
            job.output = open(os.path.join(folder, "output"), "w+")
            job.output.write("a greeting\ncase 16\ncase 17\nwhat a sanitizer says\ncase 18\n")
            job.process = argparse.Namespace(returncode=-11)
            with open(job.progress, "wb") as file:
                file.write(struct.pack("<qd", 18, 0))
            (failure,) = job.summary(options)["failures"]
            job.output.close()
        self.assertIn("case 17: the process died of SIGSEGV", failure)
        self.assertIn(cases.draw_case("reference", 3, 17, "FOLDER").pattern.text(), failure)
        self.assertIn("--kernel reference --seed 3 --first 17 --cases 1", failure)
        self.assertIn("what a sanitizer says", failure)


if __name__ == "__main__":
    LIBRARY = sys.argv.pop(1)
    torch.set_num_threads(1)
    unittest.main()
