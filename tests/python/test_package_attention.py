"""lace.attention and lace.varlen_attention.

Usage: test_package_attention.py [unittest options], on an interpreter that has the package.
"""

import math
import unittest

import torch
import torch.nn.functional as F

import lace

from package_case import PackageTest, tensors


class AttentionTest(PackageTest):
    def test_equals_masked_attention(self):
        pattern = lace.Pattern("local(16) | strided(8)")
        for sizes in ({}, {"q_len": 40, "k_len": 96}, {"kv_heads": 2}):
            q, k, v = tensors(**sizes)
            mask = pattern.mask(q.shape[2], k.shape[2])
            expected = F.scaled_dot_product_attention(q, k, v, mask, scale=0.3, enable_gqa=True)
            out, lse = lace.attention(q, k, v, pattern, scale=0.3, return_lse=True)
            self.assert_close(out, expected)
            self.assertEqual(lse.shape, q.shape[:3])
            self.assert_close(lace.attention(q, k, v, str(pattern), scale=0.3), expected)

    def test_kernel_is_named(self):
        self.assertRegex(lace.attention_kernel(*tensors()), "^(cpu_|reference)")

    def test_any_head_dim(self):
        pattern = lace.Pattern("local(16) | strided(8)")
        for head_dim in (1, 7, 12, 33):
            q, k, v = tensors(head_dim=head_dim)
            expected = F.scaled_dot_product_attention(q, k, v, pattern.mask(96))
            self.assert_close(lace.attention(q, k, v, pattern), expected)

    def test_softcap(self):
        pattern = lace.Pattern("local(16) | strided(8)")

        def peer(q, k, v, cap):
            logits = cap * torch.tanh(q @ k.transpose(2, 3) / math.sqrt(32) / cap)
            return logits.masked_fill(~pattern.mask(96), -math.inf).softmax(-1) @ v

        for cap in (0.7, 30.0):
            ours, theirs = tensors(grad=True), tensors(grad=True)
            out, expected = lace.attention(*ours, pattern, softcap=cap), peer(*theirs, cap)
            self.assert_close(out, expected)
            for got, want in zip(
                torch.autograd.grad(out.square().sum(), ours),
                torch.autograd.grad(expected.square().sum(), theirs),
                strict=True,
            ):
                self.assert_close(got, want, 1e-4)
        with self.assertRaisesRegex(RuntimeError, r"\[attention\] softcap must be positive"):
            lace.attention(*tensors(), "dense", softcap=0.0)

    def test_errors_name_the_argument(self):
        q, k, v = tensors()
        with self.assertRaisesRegex(RuntimeError, r"\[attention\] head_dim of k is 16, q has 32"):
            lace.attention(q, k[..., :16], v, "dense")
        with self.assertRaisesRegex(lace.Error, "pattern must be a text or a lace.Pattern"):
            lace.attention(q, k, v, None)

    def test_compiles_whole(self):
        pattern = lace.Pattern("local(16)")
        call = torch.compile(
            lambda q, k, v: lace.attention(q, k, v, pattern), backend="aot_eager", fullgraph=True
        )
        q, k, v = tensors(grad=True)
        call(q, k, v).square().sum().backward()
        got = q.grad.clone()
        q.grad = None
        lace.attention(q, k, v, pattern).square().sum().backward()
        self.assert_close(got, q.grad, 1e-6)


class TransformsTest(PackageTest):
    """torch.func: each mapped element as if it were alone."""

    PATTERN = "local(5) | strided(4)"

    def inputs(self):
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(3, 2, 2, 12, 4, generator=generator) for _ in range(3)]

    def assert_all_close(self, got, expected):
        for a, b in zip(got, expected, strict=True):
            self.assert_close(a, b)

    def loss(self, q, k, v, sinks=None):
        out, lse = lace.attention(q, k, v, self.PATTERN, sinks=sinks, softcap=3.0, return_lse=True)
        return out.square().sum() + lse.sum()

    def gradients(self, *leaves):
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        return torch.autograd.grad(self.loss(*leaves), leaves)

    def test_grad(self):
        q, k, v = (t[0] for t in self.inputs())
        expected = self.gradients(q, k, v)
        self.assert_all_close(torch.func.grad(self.loss, (0, 1, 2))(q, k, v), expected)
        _, pull = torch.func.vjp(self.loss, q, k, v)
        self.assert_all_close(pull(torch.ones(())), expected)
        of_lse = torch.func.grad(
            lambda q: lace.attention(q, k, v, "dense", return_lse=True)[1].sum()
        )
        self.assertGreater(of_lse(q).abs().max().item(), 0)

    def test_vmap(self):
        q, k, v = self.inputs()
        call = torch.func.vmap(lambda q, k, v: lace.attention(q, k, v, self.PATTERN))
        alone = torch.stack([lace.attention(*t, self.PATTERN) for t in zip(q, k, v)])
        self.assert_close(call(q, k, v), alone)
        shared = torch.func.vmap(
            lambda q: lace.attention(q, k[0], v[0], self.PATTERN), in_dims=1, out_dims=1
        )
        alone = torch.stack([lace.attention(t, k[0], v[0], self.PATTERN) for t in q], 1)
        self.assert_close(shared(q.movedim(0, 1)), alone)
        nested = torch.func.vmap(torch.func.vmap(lambda q: lace.attention(q, q, q, "dense")))
        five = q.unflatten(2, (1, 2))  # [3, 2, 1, 2, 12, 4]
        self.assert_close(nested(five), lace.attention(*3 * [q.flatten(0, 1)], "dense").view(five.shape))

    def test_vmap_of_lengths_and_documents(self):
        q, k, v = self.inputs()
        lens = torch.tensor([[5, 12], [7, 3], [12, 1]])

        def padded(q, lens):
            return lace.attention(q, k[0], v[0], self.PATTERN, k_lens=lens)

        alone = torch.stack([padded(*t) for t in zip(q, lens)])
        self.assert_close(torch.func.vmap(padded)(q, lens), alone)
        bounds, rows = torch.tensor([0, 5, 12]), q[:, 0].transpose(1, 2)

        def packed(x):
            return lace.varlen_attention(x, x, x, self.PATTERN, bounds)

        alone = torch.stack([packed(x) for x in rows])
        self.assert_close(torch.func.vmap(packed)(rows), alone)

    def test_gradients_of_each_sample(self):
        q, k, v = self.inputs()
        sinks = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
        grad = torch.func.grad
        for inputs, in_dims in [
            ((q, k, v), 0),
            ((q, k[0], v[0]), (0, None, None)),
            ((q, k[0], v[0], sinks[0]), (0, None, None, None)),
            ((q, k, v, sinks), 0),
        ]:
            dims = in_dims if in_dims else len(inputs) * (0,)
            numbers = tuple(range(len(inputs)))
            got = torch.func.vmap(grad(self.loss, numbers), dims)(*inputs)
            rows = [
                self.gradients(*(t if d is None else t[i] for t, d in zip(inputs, dims)))
                for i in range(3)
            ]
            self.assert_all_close(got, [torch.stack(column) for column in zip(*rows)])
        # The other way about, and plain autograd around it.
        def whole(q):
            return torch.func.vmap(self.loss, (0, None, None))(q, k[0], v[0]).sum()

        expected = torch.stack([self.gradients(x, k[0], v[0])[0] for x in q])
        self.assert_close(grad(whole)(q), expected)
        leaf = q.clone().requires_grad_()
        whole(leaf).backward()
        self.assert_close(leaf.grad, expected)

    def test_what_is_not_computed_says_so(self):
        q, k, v = (t[0] for t in self.inputs())
        grad = torch.func.grad
        with self.assertRaisesRegex(lace.Error, "attention can be differentiated once"):
            grad(lambda q: grad(self.loss)(q, k, v).sum())(q)
        with self.assertRaisesRegex(lace.Error, r"jvp, jacfwd\) are not computed: use those"):
            torch.func.jvp(lambda q: self.loss(q, k, v), (q,), (q,))
        message = "work on lace.attention of the Python package where it is not compiled"
        with self.assertRaisesRegex(RuntimeError, message):
            grad(lambda q: torch.ops.lace.attention(q, k, v, "dense")[0].sum())(q)
        compiled = torch.compile(lambda q: grad(self.loss)(q, k, v), backend="aot_eager")
        with self.assertRaisesRegex(RuntimeError, message):
            compiled(q)


class SequencesTest(PackageTest):
    """Padding, packed documents and queries anywhere in the keys: as each sequence alone."""

    PATTERNS = ["local(16) | sinks(2)", "block(24)", "bidirectional(local(16) | sinks(2))", "dense"]

    def test_right_padding(self):
        lens = torch.tensor([70, 96])
        for pattern in self.PATTERNS:
            q, k, v = tensors(grad=True)
            with torch.no_grad():
                for t in (q, k, v):
                    t[0, :, 70:] = math.nan
            out, lse = lace.attention(q, k, v, pattern, k_lens=lens, return_lse=True)
            out.square().sum().backward()
            self.assertTrue((out[0, :, 70:] == 0).all() and (lse[0, :, 70:] == -math.inf).all())
            for b, n in enumerate(lens.tolist()):
                one = [t[b : b + 1, :, :n].detach().clone().requires_grad_() for t in (q, k, v)]
                expected = lace.attention(*one, pattern)
                expected.square().sum().backward()
                self.assert_close(out[b : b + 1, :, :n], expected)
                for whole, alone in zip((q, k, v), one, strict=True):
                    self.assert_close(whole.grad[b : b + 1, :, :n], alone.grad, 1e-4)
                    self.assertTrue((whole.grad[b, :, n:] == 0).all())

    def test_left_padding(self):
        q, k, v = tensors()
        for pattern in self.PATTERNS:
            out = lace.attention(q, k, v, pattern, k_start=torch.tensor([-26, 0]))
            self.assert_close(
                out[:1, :, 26:], lace.attention(*(t[:1, :, 26:] for t in (q, k, v)), pattern)
            )
            self.assert_close(out[1:], lace.attention(q[1:], k[1:], v[1:], pattern))
            self.assertTrue((out[0, :, :26] == 0).all())

    def test_queries_anywhere(self):
        """A static cache of 96 rows, of which 40 and 60 are written, and 5 queries."""
        q, k, v = tensors()
        ends = torch.tensor([40, 60])
        rows = ends[:, None] + torch.arange(-5, 0)
        some = torch.stack([q[b][:, rows[b]] for b in range(2)])
        for pattern in self.PATTERNS[:2]:
            out = lace.attention(some, k, v, pattern, k_lens=ends, q_start=ends - 5)
            for b, n in enumerate(ends.tolist()):
                alone = [some[b : b + 1], *(t[b : b + 1, :, :n] for t in (k, v))]
                self.assert_close(out[b : b + 1], lace.attention(*alone, pattern))

    def test_a_cache_that_dropped_its_first_keys(self):
        q, k, v = tensors()
        whole = lace.attention(q[:, :, -5:], k, v, "block(24)")
        kept = lace.attention(q[:, :, -5:], k[:, :, 40:], v[:, :, 40:], "block(24)", k_start=40)
        self.assert_close(kept, whole)

    def test_packed(self):
        lens = [20, 3, 96, 1, 40]
        bounds = torch.tensor([0, *lens]).cumsum(0)
        generator = torch.Generator().manual_seed(0)
        packed = [torch.randn(160, h, 32, generator=generator).requires_grad_() for h in (4, 2, 2)]
        sinks = torch.randn(4, generator=generator)
        for pattern in self.PATTERNS:
            out, lse = lace.varlen_attention(*packed, pattern, bounds, sinks=sinks, return_lse=True)
            grads = torch.autograd.grad(out.square().sum(), packed)
            self.assertEqual(lse.shape, (4, 160))
            for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                one = [t[begin:end].detach().clone().requires_grad_() for t in packed]
                heads_first = [t.transpose(0, 1)[None] for t in one]
                expected = lace.attention(*heads_first, pattern, sinks=sinks)
                alone = torch.autograd.grad(expected.square().sum(), one)
                self.assert_close(out[begin:end], expected[0].transpose(0, 1))
                for whole, grad in zip(grads, alone, strict=True):
                    self.assert_close(whole[begin:end], grad, 1e-4)

    def test_packed_as_flash_attention(self):
        """Its published sizes: queries are the last of each document's keys, and where there are
        more of them than keys, those that see none give 0."""
        generator = torch.Generator().manual_seed(0)
        sizes = [(1, 147), (113, 203), (128, 217), (113, 211), (108, 256), (256, 512), (512, 256)]
        for number, (q_len, k_len) in enumerate(sizes):
            kv_heads = (6, 2, 1)[number % 3]
            q_lens = torch.randint(max(1, q_len - 20), q_len + 1, (3,), generator=generator)
            k_lens = torch.randint(max(1, k_len - 20), k_len + 1, (3,), generator=generator)
            q_bounds, k_bounds = (F.pad(lens.cumsum(0), (1, 0)) for lens in (q_lens, k_lens))
            q = torch.randn(int(q_bounds[-1]), 6, 64, generator=generator)
            k, v = torch.randn(2, int(k_bounds[-1]), kv_heads, 64, generator=generator)
            for text in ("dense", "local(57)", "bidirectional(local(80))"):
                if "bidirectional" in text and q_len > k_len:
                    continue
                with self.subTest(q_len=q_len, k_len=k_len, kv_heads=kv_heads, pattern=text):
                    out = lace.varlen_attention(q, k, v, text, q_bounds.int(), k_bounds.int())
                    for d in range(3):
                        rows = slice(int(q_bounds[d]), int(q_bounds[d + 1]))
                        keys = slice(int(k_bounds[d]), int(k_bounds[d + 1]))
                        i = torch.arange(q_lens[d])[:, None] + k_lens[d] - q_lens[d]
                        j = torch.arange(k_lens[d])
                        live = {
                            "dense": j <= i,
                            "local(57)": (j <= i) & (i - j < 57),
                            "bidirectional(local(80))": (i - j).abs() <= 40,
                        }[text]
                        one = [t.transpose(0, 1)[None] for t in (q[rows], k[keys], v[keys])]
                        expected = F.scaled_dot_product_attention(
                            *one, attn_mask=live, enable_gqa=True
                        )[0].transpose(0, 1)
                        seen = live.any(-1)[:, None, None]
                        self.assert_close(out[rows], torch.where(seen, expected, 0))

    def test_layer(self):
        torch.manual_seed(0)
        layer = lace.nn.SparseSelfAttention(64, 4, "local(8) | sinks(1)", rotary=True)
        x = torch.randn(1, 60, 64)
        bounds = torch.tensor([0, 20, 23, 60])
        whole = layer(x, cu_seqlens=bounds)
        padded = torch.zeros(3, 40, 64)
        for b, (begin, end) in enumerate(((0, 20), (20, 23), (23, 60))):
            padded[b, : end - begin] = x[0, begin:end]
        rows = layer(padded, k_lens=bounds.diff())
        for b, (begin, end) in enumerate(((0, 20), (20, 23), (23, 60))):
            alone = layer(x[:, begin:end])
            self.assert_close(whole[:, begin:end], alone)
            self.assert_close(rows[b : b + 1, : end - begin], alone)

    def test_errors(self):
        q, k, v = tensors()
        table = lace.padded_sequences(2, 96, 96, k_lens=50)
        with self.assertRaisesRegex(lace.Error, "sequences and k_lens, q_start or k_start exclude"):
            lace.attention(q, k, v, "dense", k_lens=torch.tensor([3, 4]), sequences=table)
        with self.assertRaisesRegex(
            RuntimeError, r"\[padded_sequences\] k_lens must have the shape"
        ):
            lace.attention(q, k, v, "dense", k_lens=torch.tensor([3, 4, 5]))
        with self.assertRaisesRegex(lace.Error, r"\[varlen_attention\] q, k and v must have"):
            lace.varlen_attention(q, k, v, "dense", torch.tensor([0, 96]))


if __name__ == "__main__":
    unittest.main(verbosity=2)
