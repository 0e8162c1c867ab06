"""Padding, packed documents and queries anywhere in the keys: torch.ops.lace with `sequences`.

Usage: test_sequences.py PATH/liblace_torch.so [unittest options]
"""

import itertools
import sys
import unittest

import torch

LACE = torch.ops.lace
PATTERNS = [
    "dense",
    "local(16) | strided(8)",
    "fixed(16, 4, 2)",
    "heads(1*local(9) | sinks(2), 1*random(2, 8, 3) | global(3))",
    "bidirectional(local(20) | global(2))",
]


def rows(count, heads, dim, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, heads, dim, generator=generator, dtype=torch.float64).to(dtype)


def gradients(results, leaves):
    """Of a loss of everything, each element with a weight of its own; lse of −∞ left out."""
    loss = 0
    for result in results:
        kept = torch.where(result.isfinite(), result, 0)
        loss = loss + (kept * torch.linspace(-1, 1, kept.numel()).view(kept.shape)).sum()
    return torch.autograd.grad(loss, leaves)


class SequencesTest(unittest.TestCase):
    def assert_close(self, got, expected, tolerance=1e-5):
        for a, b in zip(got, expected, strict=True):
            self.assertEqual(a.shape, b.shape)
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(1, b.abs().max().item()))

    # lens: (queries, keys) of each document. Loss and results of all, each document called alone.
    def alone(self, q, k, v, lens, pattern, sinks):
        outs, lses, at_q, at_k = [], [], 0, 0
        for q_len, k_len in lens:
            part = [
                t[at : at + length].transpose(0, 1)[None]
                for t, at, length in [(q, at_q, q_len), (k, at_k, k_len), (v, at_k, k_len)]
            ]
            at_q, at_k = at_q + q_len, at_k + k_len
            if q_len == 0:
                continue
            out, lse = LACE.attention(*part, pattern, sinks=sinks)
            outs.append(out[0].transpose(0, 1))
            lses.append(lse[0])
        return torch.cat(outs), torch.cat(lses, 1)

    def test_each_document_alone_equals_its_rows_in_the_pack(self):
        lens = [(90, 90), (1, 1), (20, 33), (0, 4), (64, 64), (7, 7)]
        cu_q = torch.tensor([0, *itertools.accumulate(q for q, _ in lens)], dtype=torch.int32)
        cu_k = torch.tensor([0, *itertools.accumulate(k for _, k in lens)])
        for pattern in PATTERNS:
            for sunk in (False, True):
                with self.subTest(pattern=pattern, sinks=sunk):
                    q, k, v = rows(182, 2, 16, 0), rows(199, 1, 16, 1), rows(199, 1, 24, 2)
                    leaves = [t.requires_grad_() for t in (q, k, v)]
                    sinks = torch.tensor([0.5, -1.0], requires_grad=True) if sunk else None
                    leaves += [sinks] if sunk else []
                    places = LACE.packed_sequences(cu_q, cu_k)
                    got = LACE.attention(q, k, v, pattern, sinks=sinks, sequences=places)
                    expected = self.alone(q, k, v, lens, pattern, sinks)
                    self.assert_close(got, expected)
                    self.assertTrue(got[0].is_contiguous())
                    self.assert_close(gradients(got, leaves), gradients(expected, leaves), 2e-5)

    def test_padding_changes_nothing_and_is_never_read(self):
        lens, n = [40, 96, 1, 0], 96
        q, k, v = (rows(n * 4, 2, 16, seed).view(4, n, 2, 16).transpose(1, 2) for seed in range(3))
        for pattern in PATTERNS:
            for left, sunk in itertools.product((False, True), (False, True)):
                with self.subTest(pattern=pattern, left=left, sinks=sunk):
                    starts = [n - length if left else 0 for length in lens]
                    sinks = torch.tensor([0.5, -1.0], requires_grad=True) if sunk else None
                    padded = [t.clone() for t in (q, k, v)]
                    for tensor, (b, length) in itertools.product(padded, enumerate(lens)):
                        tensor[b, :, : starts[b]] = torch.nan
                        tensor[b, :, starts[b] + length :] = torch.nan
                    leaves = [t.requires_grad_() for t in padded]
                    places = LACE.padded_sequences(
                        4, n, n,
                        k_lens=torch.tensor(lens) if not left else None,
                        k_start=-torch.tensor(starts) if left else None,
                    )  # fmt: skip
                    out, lse = LACE.attention(*padded, pattern, sinks=sinks, sequences=places)
                    # A loss that gives padded rows gradients too.
                    weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
                    all_leaves = leaves + ([sinks] if sunk else [])
                    got = torch.autograd.grad((out * weights).sum(), all_leaves)
                    expected_sinks = 0
                    for b, (length, start) in enumerate(zip(lens, starts)):
                        live = slice(start, start + length)
                        dead = [i for i in range(n) if not start <= i < start + length]
                        self.assertEqual(out[b][:, dead].abs().sum().item(), 0)
                        self.assertTrue(lse[b][:, dead].isneginf().all())
                        for gradient in got[:3]:
                            self.assertEqual(gradient[b][:, dead].abs().sum().item(), 0)
                        if length == 0:
                            continue
                        part = [
                            t[b : b + 1, :, live].detach().requires_grad_() for t in padded
                        ] + ([sinks] if sunk else [])
                        one, _ = LACE.attention(*part[:3], pattern, sinks=sinks)
                        want = torch.autograd.grad((one * weights[b, :, live]).sum(), part)
                        self.assert_close([out[b, :, live]], [one[0]])
                        self.assert_close([g[b : b + 1, :, live] for g in got[:3]], want[:3], 2e-5)
                        expected_sinks = expected_sinks + (want[3] if sunk else 0)
                    if sunk:
                        self.assert_close(got[3:], [expected_sinks], 5e-5)

    def test_masks_of_keys_leave_all_queries(self):
        n, bounds = 96, torch.tensor([[0, 96], [0, 50], [33, 96], [20, 21], [40, 40], [-5, 200]])
        i, j = torch.arange(n)[:, None], torch.arange(n)
        inside = (j >= bounds[:, :1]) & (j < bounds[:, 1:])  # [batch, n]
        for pattern, band in [
            ("bidirectional(dense)", i >= 0),
            ("dense", i >= j),
            ("local(20)", (i >= j) & (i - j < 20)),
            ("bidirectional(local(30))", (i - j).abs() <= 15),
        ]:
            for q_len in (n, 40):
                with self.subTest(pattern=pattern, q_len=q_len):
                    q, k, v = (rows(n * 6, 2, 16, s).unflatten(0, (6, n)) for s in range(3))
                    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
                    q = q[:, :, n - q_len :]
                    live = (band[n - q_len :] & inside[:, None])[:, None]
                    some = live.any(-1, keepdim=True)
                    plain = [t.clone().requires_grad_() for t in (q, k, v)]
                    expected = torch.nn.functional.scaled_dot_product_attention(*plain, live | ~some)
                    expected = expected.where(some, 0)
                    hidden = ~inside[:, None, :, None]
                    masked = [q.clone(), *[t.masked_fill(hidden, torch.nan) for t in (k, v)]]
                    leaves = [t.requires_grad_() for t in masked]
                    places = LACE.padded_sequences(
                        6, q_len, n, k_first=bounds[:, 0], k_end=bounds[:, 1].int()
                    )
                    out, lse = LACE.attention(*leaves, pattern, sequences=places)
                    self.assert_close([out], [expected])
                    self.assertTrue((lse.isneginf() == ~some[..., 0]).all())
                    self.assert_close(gradients([out], leaves), gradients([expected], plain), 2e-5)

    def test_queries_anywhere_and_caches_that_lost_their_past(self):
        n, pattern = 120, "block(16) | summary(16, 4) | sinks(3)"
        q, k, v = (rows(n, 2, 16, seed).transpose(0, 1)[None] for seed in range(3))
        whole, _ = LACE.attention(q, k, v, pattern)
        # Queries 50 to 69 of all keys; the length of a static cache lies behind them.
        places = LACE.padded_sequences(
            1, 20, n, q_start=torch.tensor([50]), k_lens=torch.tensor([70], dtype=torch.int32)
        )
        part, _ = LACE.attention(q[:, :, 50:70], k, v, pattern, sequences=places)
        self.assert_close([part], [whole[:, :, 50:70]])
        # The window's keys only: the first 64 are gone, which local(48) reads no more.
        window, _ = LACE.attention(q, k, v, "local(48)")
        places = LACE.padded_sequences(1, 8, n - 64, k_start=torch.tensor([64]))
        part, _ = LACE.attention(
            q[:, :, 112:], k[:, :, 64:], v[:, :, 64:], "local(48)", sequences=places
        )
        self.assert_close([part], [window[:, :, 112:]])

    def test_gradcheck(self):
        q, k, v = (rows(9, 2, 4, seed, torch.float64).requires_grad_() for seed in range(3))
        cu = torch.tensor([0, 3, 3, 8])
        sinks = torch.zeros(2, dtype=torch.float64, requires_grad=True)

        def attend(q, k, v, sinks):
            places = LACE.packed_sequences(cu, cu)
            out, lse = LACE.attention(q, k, v, "local(2) | strided(3)", sinks=sinks, sequences=places)
            return out, lse[:, :8]

        self.assertTrue(torch.autograd.gradcheck(attend, [q, k, v, sinks]))

    def test_max_len_cuts_what_lies_behind_it(self):
        q = rows(60, 2, 16, 0)
        places = LACE.packed_sequences(*2 * [torch.tensor([0, 50, 60])])
        out, lse = LACE.attention(q, q, q, "dense", sequences=places, max_len=32)
        whole, _ = LACE.attention(q, q, q, "dense", sequences=places, max_len=200)
        live = [*range(32), *range(50, 60)]
        self.assert_close([out[live]], [whole[live]])
        self.assertEqual(out[32:50].abs().sum().item(), 0)
        self.assertTrue(lse[:, 32:50].isneginf().all())

    def test_opcheck_and_compile(self):
        cu = torch.tensor([0, 30, 34, 96], dtype=torch.int32)
        packed = [rows(96, 2, 16, seed).requires_grad_() for seed in range(3)]
        padded = [
            rows(96, 2, 16, seed).view(3, 32, 2, 16).transpose(1, 2).requires_grad_()
            for seed in range(3)
        ]
        lens = torch.tensor([32, 5, 20])
        of_pack, of_padded = (
            LACE.packed_sequences(cu, cu),
            LACE.padded_sequences(3, 32, 32, k_lens=lens),
        )
        for tensors, places in [(packed, of_pack), (padded, of_padded)]:
            torch.library.opcheck(
                LACE.attention.default, (*tensors, PATTERNS[1]), {"sequences": places}
            )
            plain = [t.detach() for t in tensors]
            out, lse = LACE.attention(*plain, PATTERNS[1], sequences=places)
            torch.library.opcheck(
                LACE.attention_backward.default,
                (torch.ones_like(out), *plain, out, lse, PATTERNS[1]),
                {"sequences": places},
            )

        def of_documents(q, k, v, cu):
            places = LACE.packed_sequences(cu, cu)
            return LACE.attention(q, k, v, PATTERNS[1], sequences=places, max_len=96)

        def of_batch(q, k, v, lens):
            places = LACE.padded_sequences(q.shape[0], q.shape[2], k.shape[2], k_lens=lens)
            return LACE.attention(q, k, v, PATTERNS[1], sequences=places)

        for function, tensors, lengths in [
            (of_documents, packed, cu),
            (of_batch, padded, lens),
        ]:
            torch._dynamo.reset()
            compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
            got, expected = compiled(*tensors, lengths), function(*tensors, lengths)
            self.assert_close(got, expected, 1e-6)
            self.assert_close(gradients(got, tensors), gradients(expected, tensors), 1e-6)

    def test_max_len_may_be_a_symbol(self):
        """One graph for all lengths, also where max_len is one of them."""

        def attend(q, cu):
            places = LACE.packed_sequences(cu, cu)
            return LACE.attention(q, q, q, PATTERNS[1], sequences=places, max_len=q.shape[0])

        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        compiled = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=True)
        for length in (20, 90, 51):
            q = rows(length, 2, 16, 0).requires_grad_()
            cu = torch.tensor([0, 8, length])
            got, expected = compiled(q, cu), attend(q, cu)
            self.assert_close(got, expected, 1e-6)
            self.assert_close(gradients(got, [q]), gradients(expected, [q]), 1e-6)
        self.assertEqual(torch._dynamo.utils.counters["stats"]["unique_graphs"], 1)

    def test_errors_name_the_argument(self):
        q = rows(20, 2, 16, 0)
        cu = torch.tensor([0, 8, 20])
        places = LACE.packed_sequences(cu, cu)
        batch = q.transpose(0, 1)[None]
        for pattern in ("global{-1}", "bidirectional(random(1, 8, 0))"):
            with self.assertRaisesRegex(RuntimeError, "counts from the end of the keys"):
                LACE.attention(q, q, q, pattern, sequences=places)
        with self.assertRaisesRegex(RuntimeError, "must have the shape .batch, heads"):
            LACE.attention(q, q, q, "dense")
        with self.assertRaisesRegex(RuntimeError, "k must have the shape .rows, heads, head_dim"):
            LACE.attention(q, batch, batch, "dense", sequences=places)
        with self.assertRaisesRegex(RuntimeError, "sequences must be what padded_sequences"):
            LACE.attention(batch, batch, batch, "dense", sequences=places)
        with self.assertRaisesRegex(RuntimeError, "sequence 1 must lie in the 19 rows of q"):
            LACE.attention(q[:19], q, q, "dense", sequences=places)
        with self.assertRaisesRegex(RuntimeError, "sequence 1 .* behind the one before"):
            overlapping = places.clone()
            overlapping[1, 2] = 7
            LACE.attention(q, q, q, "dense", sequences=overlapping)
        with self.assertRaisesRegex(RuntimeError, "max_len must be positive, got 0"):
            LACE.attention(q, q, q, "dense", sequences=places, max_len=0)
        with self.assertRaisesRegex(RuntimeError, "k_lens must have the shape .2., got .3."):
            LACE.padded_sequences(2, 8, 8, k_lens=torch.tensor([1, 2, 3]))
        with self.assertRaisesRegex(RuntimeError, "k_lens must be int32 or int64"):
            LACE.padded_sequences(2, 8, 8, k_lens=torch.tensor([1.0, 2]))
        with self.assertRaisesRegex(RuntimeError, "k_end must have the shape .2., got .3."):
            LACE.padded_sequences(2, 8, 8, k_end=torch.tensor([1, 2, 3]))
        with self.assertRaisesRegex(RuntimeError, "cu_seqlens_k must have the shape .3., got .2."):
            LACE.packed_sequences(cu, cu[:2])
        with self.assertRaisesRegex(RuntimeError, "needs k_lens, .* k_first or k_end, got none"):
            LACE.padded_sequences(2, 8, 8)


if __name__ == "__main__":
    torch.ops.load_library(sys.argv.pop(1))
    torch.set_num_threads(2)
    unittest.main(verbosity=2)
