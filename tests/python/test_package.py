"""The package `lace`, as installed from its wheel: everything but lace.hf.

Usage: test_package.py [unittest options], on an interpreter that has the package.
"""

import copy
import importlib.metadata
import math
import os
import pickle
import sys
import unittest
import warnings

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask

import lace


def tensors(batch=2, heads=4, kv_heads=None, q_len=96, k_len=None, head_dim=32, grad=False):
    generator = torch.Generator().manual_seed(0)
    kv_heads, k_len = kv_heads or heads, k_len or q_len
    shapes = [(batch, heads, q_len, head_dim)] + 2 * [(batch, kv_heads, k_len, head_dim)]
    return [torch.randn(s, generator=generator, requires_grad=grad) for s in shapes]


def positions(q_len, k_len=None):
    k_len = k_len or q_len
    return torch.arange(k_len - q_len, k_len)[:, None], torch.arange(k_len)[None, :]


class PackageTest(unittest.TestCase):
    def assert_close(self, got, expected, tolerance=1e-5):
        self.assertEqual(got.shape, expected.shape)
        self.assertLess((got - expected).abs().max().item(), tolerance)


class InstallTest(PackageTest):
    def test_comes_from_the_wheel(self):
        self.assertIn("site-packages", lace.__file__)
        self.assertEqual(os.path.dirname(lace.__file__), str(lace.library_path.parent))
        self.assertEqual(importlib.metadata.version("lace-attention"), lace.__version__)
        self.assertEqual(importlib.metadata.requires("lace-attention"), ["torch==2.11.*"])
        self.assertTrue(os.path.exists(os.path.join(os.path.dirname(lace.__file__), "py.typed")))

    def test_library_has_no_run_path(self):
        with open(lace.library_path, "rb") as file:
            content = file.read()
        self.assertNotIn(b"/torch/lib", content)

    def test_imports_nothing_of_transformers(self):
        self.assertNotIn("transformers", sys.modules)


class PatternTest(PackageTest):
    def test_text_and_algebra(self):
        window = lace.Pattern("local( 16 )")
        self.assertEqual(str(window | "sinks(2)"), "local(16) | sinks(2)")
        self.assertEqual(str("sinks(2)" | window), "sinks(2) | local(16)")
        self.assertEqual(str((window | "sinks(2)") & "block(8) | dense").count("&"), 1)
        self.assertEqual(window.bidirectional().text, "bidirectional(local(16))")
        self.assertFalse(window.bidirectional().causal)
        self.assertEqual(lace.Pattern("fixed(8, 2, 4)").heads, 4)
        mixed = lace.Pattern.per_head([(1, window | "sinks(2)"), (3, "dense")])
        self.assertEqual(mixed.heads, 4)

    def test_is_a_value(self):
        pattern = lace.Pattern("local(16)|sinks(2)")
        for same in (
            lace.Pattern(pattern),
            copy.deepcopy(pattern),
            pickle.loads(pickle.dumps(pattern)),
        ):
            self.assertEqual(same, pattern)
            self.assertEqual(hash(same), hash(pattern))
        self.assertNotEqual(pattern, lace.Pattern("local(16)"))
        self.assertEqual(eval(repr(pattern), {"Pattern": lace.Pattern}), pattern)

    def test_intersection_of_unions(self):
        pattern = lace.Pattern("local(4) | sinks(3)") & "block(8) | strided(5)"
        i, j = positions(40)
        left = (i - j < 4) | (j < 3)
        right = (i // 8 == j // 8) | ((i - j) % 5 == 0)
        self.assertTrue(torch.equal(pattern.mask(40)[0], left & right & (j <= i)))

    def test_mask_of_last_queries_and_heads(self):
        mask = lace.Pattern("heads(1*local(4), 1*sinks(3))").mask(10, 40)
        i, j = positions(10, 40)
        self.assertTrue(torch.equal(mask[0], (i - j < 4) & (j <= i)))
        self.assertTrue(torch.equal(mask[1], (j < 3) & (j <= i)))

    def test_from_blocks(self):
        live = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5
        i, j = positions(70)
        spread = live.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, :70, :70]
        for causal in (True, False):
            pattern = lace.Pattern.from_blocks(live, 32, causal=causal)
            self.assertEqual(pattern.heads, 2)
            self.assertTrue(torch.equal(pattern.mask(70), spread & (j <= i) if causal else spread))
        self.assertEqual(pattern, lace.Pattern.from_blocks(live.clone(), 32, causal=False))

    def test_errors(self):
        with self.assertRaisesRegex(RuntimeError, "locl"):
            lace.Pattern("locl(3)")
        with self.assertRaisesRegex(lace.Error, r"\[pattern\] a pattern is a text, got int"):
            lace.Pattern(3)
        with self.assertRaisesRegex(lace.Error, r"\[from_blocks\] live must be bool"):
            lace.Pattern.from_blocks(torch.zeros(2, 3, 3), 32)


class ExplainTest(PackageTest):
    def test_figures(self):
        figures = lace.explain("local(16) | strided(16)", 256, heads=2)
        live = lace.Pattern("local(16) | strided(16)").mask(256)
        self.assertEqual(figures.live_pairs, 2 * int(live.sum()))
        self.assertEqual(figures.max_keys, int(live.sum(-1).max()))
        self.assertAlmostEqual(figures.saved, 1 - int(live.sum()) / (256 * 257 / 2))
        self.assertEqual(figures.layers_to_full_reach, 2)
        self.assertIn("after 2 layers", str(figures))
        self.assertEqual(figures.figures["tile"], [128, 128])

    def test_picture(self):
        svg = lace.explain(["local(8)", lace.Pattern("strided(8)")], 64)._repr_svg_()
        self.assertTrue(svg.lstrip().startswith("<svg"))
        self.assertIn("strided(8)", svg)

    def test_errors(self):
        with self.assertRaisesRegex(RuntimeError, r"\[explain\] tile must be"):
            lace.explain("dense", 64, tile=(10, 128))
        with self.assertRaisesRegex(RuntimeError, r"\[explain\] seq_len must be"):
            lace.explain("dense", 0)


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

    def test_what_the_library_lacks_is_an_error(self):
        q, k, v = tensors()
        self.assertIsInstance(lace.NotSupportedError("x"), NotImplementedError)
        with self.assertRaisesRegex(
            lace.NotSupportedError, r"\[attention\] softcap is not computed"
        ):
            lace.attention(q, k, v, "dense", softcap=30.0)

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


class MaskedTest(PackageTest):
    """scaled_dot_product_attention and flex_attention: what they run, and what they hand on."""

    def masks(self, n):
        """Name, mask_mod, and the pattern that says it (None: none does; "": a block mask)."""
        short = [48, 16, 64, 32, n]
        document = torch.repeat_interleave(torch.arange(5), torch.tensor(short))
        odd = torch.repeat_interleave(torch.arange(5), torch.tensor([47, 17, *short[2:]]))
        return [
            ("causal", lambda b, h, q, k: q >= k, "dense"),
            ("all", lambda b, h, q, k: q >= 0, "bidirectional(dense)"),
            ("window", lambda b, h, q, k: (q >= k) & (q - k < 37), "local(37)"),
            ("two-sided", lambda b, h, q, k: (q - k).abs() <= 21, "bidirectional(local(42))"),
            ("lopsided", lambda b, h, q, k: (q - k <= 21) & (k - q <= 20), None),
            ("documents", lambda b, h, q, k: (document[q] == document[k]) & (q >= k), ""),
            ("two-sided documents", lambda b, h, q, k: document[q] == document[k], ""),
            ("odd documents", lambda b, h, q, k: odd[q] == odd[k], "bidirectional(dense)"),
            ("causal ones", lambda b, h, q, k: (odd[q] == odd[k]) & (q >= k), "dense"),
            (
                "ones with windows",
                lambda b, h, q, k: (odd[q] == odd[k]) & (q >= k) & (q - k < 20),
                "local(20)",
            ),
            ("lopsided ones", lambda b, h, q, k: (odd[q] == odd[k]) & (q - k < 20), None),
            ("a head each", lambda b, h, q, k: (q // 16 + k // 16 + h) % 3 == 0, ""),
            ("first keys", lambda b, h, q, k: (q // 128 == k // 128) | (k < 128), ""),
            ("a pair less", lambda b, h, q, k: (q >= k) & ~((q == 9) & (k == 3)), None),
        ]

    @staticmethod
    def pattern_of_mask(mask, query, k_len):
        groups, _ = lace._sdpa._read_once(mask, query, k_len)
        return groups[0].pattern if groups else None

    @staticmethod
    def pattern_of_block_mask(block_mask, query, key):
        readings, _ = lace._flex._read_once(block_mask, query, key)
        return readings[0].pattern if readings else None

    @staticmethod
    def dense(mask_mod, batch, heads, n):
        b, h, i = torch.arange(batch), torch.arange(heads), torch.arange(n)
        for dims in [(None, None, None, 0), (None, None, 0, None), (None, 0, None, None)]:
            mask_mod = torch.vmap(mask_mod, dims)
        return torch.vmap(mask_mod, (0, None, None, None))(b, h, i, i)

    def test_masks_are_read_exactly(self):
        for n in (256, 130):
            q, k, v = tensors(q_len=n)
            for name, mask_mod, expected_pattern in self.masks(n):
                block_mask = create_block_mask(mask_mod, None, 4, n, n, device="cpu")
                mask = self.dense(mask_mod, 1, 4, n)
                expected = F.scaled_dot_product_attention(q, k, v, mask)
                for call, argument, reader in [
                    (lace.scaled_dot_product_attention, "attn_mask", self.pattern_of_mask),
                    (lace.flex_attention, "block_mask", self.pattern_of_block_mask),
                ]:
                    with self.subTest(n=n, mask=name, call=call.__name__):
                        value = mask if argument == "attn_mask" else block_mask
                        with warnings.catch_warnings():
                            warnings.simplefilter("ignore")
                            self.assert_close(call(q, k, v, **{argument: value}), expected)
                        pattern = reader(value, q, n if argument == "attn_mask" else k)
                        if expected_pattern is None:
                            self.assertIsNone(pattern)
                        elif expected_pattern:
                            self.assertEqual(pattern.text, expected_pattern)
                        else:
                            self.assertIn("mask(", pattern.text)

    def test_a_mask_that_changed_is_read_again(self):
        q, k, v = tensors()
        mask = torch.ones(96, 96, dtype=torch.bool).tril()
        for _ in range(2):
            expected = F.scaled_dot_product_attention(q, k, v, mask)
            self.assert_close(lace.scaled_dot_product_attention(q, k, v, mask), expected)
            mask[:, :] = torch.ones(96, 96, dtype=torch.bool)

    def test_last_queries(self):
        q, k, v = tensors(q_len=40, k_len=96)
        i, j = positions(40, 96)
        for mask, text in [
            (j <= i, "dense"),
            ((j <= i) & (i - j < 7), "local(7)"),
            ((i - j).abs() <= 7, "bidirectional(local(14))"),
            ((i // 32 == j // 32) & (j <= i), "mask("),
        ]:
            expected = F.scaled_dot_product_attention(q, k, v, mask)
            self.assert_close(lace.scaled_dot_product_attention(q, k, v, mask), expected)
            self.assertIn(text, self.pattern_of_mask(mask, q, 96).text)
        q, mask = q[:, :, -1:], (i - j < 7)[-1:]
        expected = F.scaled_dot_product_attention(q, k, v, mask)
        self.assert_close(lace.scaled_dot_product_attention(q, k, v, mask), expected)

    def test_torch_signature(self):
        for sizes in ({}, {"q_len": 40, "k_len": 96}, {"kv_heads": 2}):
            for causal in (False, True):
                q, k, v = tensors(**sizes)
                options = {"is_causal": causal, "scale": 0.2, "enable_gqa": True}
                self.assert_close(
                    lace.scaled_dot_product_attention(q, k, v, **options),
                    F.scaled_dot_product_attention(q, k, v, **options),
                )
        q, k, v = (t[0] for t in tensors())
        got = lace.scaled_dot_product_attention(q, k, v, is_causal=True)
        self.assert_close(got, F.scaled_dot_product_attention(q, k, v, is_causal=True))
        q, k, v = (t[None].expand(3, -1, -1, -1, -1) for t in tensors())
        got = lace.scaled_dot_product_attention(q, k, v)
        self.assert_close(got, F.scaled_dot_product_attention(q, k, v))

    def test_others_are_handed_on_with_one_warning(self):
        lace._library._warned.clear()
        q, k, v = tensors()
        bias = torch.randn(96, 96, generator=torch.Generator().manual_seed(1))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                got = lace.scaled_dot_product_attention(q, k, v, bias)
                self.assert_close(got, F.scaled_dot_product_attention(q, k, v, bias))
        ours = [str(w.message) for w in caught if "lace" in str(w.message)]
        self.assertEqual(len(ours), 1)
        self.assertIn("float masks", ours[0])
        # More queries than keys, too.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = lace.scaled_dot_product_attention(k, q[:, :, :40], v[:, :, :40])
        self.assert_close(got, F.scaled_dot_product_attention(k, q[:, :, :40], v[:, :, :40]))

    def test_key_padding(self):
        q, k, v = tensors(batch=4)
        i, j = positions(96)
        lens, begins = torch.tensor([70, 96, 33, 70]), torch.tensor([5, 0, 60, 5])
        keys = (j < lens[:, None, None])[:, None]
        from_left = (j >= begins[:, None, None])[:, None]
        for name, mask, count in [
            ("right", keys, 3),
            ("right, every row alike", keys.expand(4, 4, 96, 96), 3),
            ("right, causal", keys & (j <= i), 3),
            ("right, window", keys & (j <= i) & (i - j < 40), 3),
            ("right, two-sided window", keys & ((i - j).abs() <= 20), 3),
            ("left, causal", from_left & (j <= i), 3),
            ("left, window", from_left & (j <= i) & (i - j < 40), 3),
            ("left", from_left, None),
            ("each a band", (j <= i) & (i - j < lens[:, None, None, None]), 3),
        ]:
            with self.subTest(name):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore" if count is None else "error")
                    got = lace.scaled_dot_product_attention(q, k, v, mask)
                expected = F.scaled_dot_product_attention(q, k, v, mask)
                live = mask.any(-1, keepdim=True).expand(*expected.shape[:-1], 1)
                self.assert_close(got * live, torch.where(live, expected, 0))
                self.assertTrue((got.masked_select(~live) == 0).all())
                groups, _ = lace._sdpa._read_once(mask, q, 96)
                self.assertEqual(len(groups), count or 0)

    def test_many_masks_in_a_batch_are_handed_on(self):
        q, k, v = tensors(batch=20)
        mask = torch.arange(96) < torch.arange(20, 40)[:, None, None, None]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = lace.scaled_dot_product_attention(q, k, v, mask)
        self.assertEqual(lace._sdpa._read_once(mask, q, 96)[0], [])
        self.assert_close(got, F.scaled_dot_product_attention(q, k, v, mask))

    def test_gradients(self):
        live = torch.rand(6, 6, generator=torch.Generator().manual_seed(2)) < 0.5
        live |= torch.eye(6, dtype=torch.bool)
        mask = live.repeat_interleave(16, 0).repeat_interleave(16, 1)
        results = []
        for call in (lace.scaled_dot_product_attention, F.scaled_dot_product_attention):
            inputs = tensors(grad=True)
            call(*inputs, mask).square().sum().backward()
            results.append([t.grad for t in inputs])
        for got, expected in zip(*results, strict=True):
            self.assert_close(got, expected, 1e-4)

    def test_flex_lse(self):
        q, k, v = tensors()
        block_mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, 96, 96, device="cpu")
        out, lse = lace.flex_attention(q, k, v, block_mask=block_mask, return_lse=True)
        logits = (q @ k.mT / math.sqrt(32)).masked_fill(
            ~torch.ones(96, 96).tril().bool(), -math.inf
        )
        self.assert_close(lse, logits.logsumexp(-1))

    def test_flex_masks_of_each_batch_element(self):
        n = 300
        q, k, v = tensors(batch=4, q_len=n)
        lens = torch.tensor([70, n, 200, 70])
        document = torch.stack([torch.arange(n) // size for size in (40, n, 100, 40)])
        for name, mask_mod, count in [
            ("padding", lambda b, h, i, j: j < lens[b], 3),
            ("padding, causal", lambda b, h, i, j: (i >= j) & (j < lens[b]), 3),
            ("padding, window", lambda b, h, i, j: (i >= j) & (i - j < 50) & (j < lens[b]), 3),
            ("left padding", lambda b, h, i, j: (i >= j) & (j >= n - lens[b]), 3),
            ("left padding, two-sided", lambda b, h, i, j: j >= n - lens[b], None),
            ("documents", lambda b, h, i, j: (i >= j) & (document[b, i] == document[b, j]), 3),
            ("windows", lambda b, h, i, j: (i >= j) & (i - j < lens[b]), 3),
        ]:
            with self.subTest(name):
                block_mask = create_block_mask(mask_mod, 4, None, n, n, device="cpu")
                mask = self.dense(mask_mod, 4, 1, n)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore" if count is None else "error")
                    out, lse = lace.flex_attention(q, k, v, block_mask=block_mask, return_lse=True)
                expected = F.scaled_dot_product_attention(q, k, v, mask)
                live = mask.any(-1, keepdim=True)
                self.assert_close(out * live, torch.where(live, expected, 0))
                logits = (q @ k.mT / math.sqrt(32)).masked_fill(~mask, -math.inf)
                live = live[..., 0].expand(lse.shape)
                self.assert_close(lse[live], logits.logsumexp(-1)[live])
                readings, _ = lace._flex._read_once(block_mask, q, k)
                self.assertEqual(len(readings), count or 0)

    def test_errors(self):
        q, k, v = tensors()
        causal = torch.ones(96, 96, dtype=torch.bool).tril()
        for options, message in [
            ({"dropout_p": 0.1}, "dropout_p must be 0, got 0.1"),
            ({"attn_mask": causal, "is_causal": True}, "exclude each other"),
            ({"attn_mask": causal[:5]}, "must be broadcastable"),
        ]:
            with self.assertRaisesRegex(lace.Error, message):
                lace.scaled_dot_product_attention(q, k, v, **options)
        with self.assertRaisesRegex(lace.Error, "give enable_gqa=True"):
            lace.scaled_dot_product_attention(q, k[:, :2], v[:, :2])
        block_mask = create_block_mask(lambda b, h, i, j: i >= j, 3, None, 96, 96, device="cpu")
        with self.assertRaisesRegex(lace.Error, "block_mask is of 3 batch elements"):
            lace.flex_attention(q, k, v, block_mask=block_mask)
        with self.assertRaisesRegex(lace.Error, "score_mod is not computed: a factor goes into"):
            lace.flex_attention(q, k, v, score_mod=lambda s, b, h, i, j: s + i)


class LayerTest(PackageTest):
    def test_equals_its_formula(self):
        torch.manual_seed(0)
        layer = lace.nn.SparseSelfAttention(64, 4, "local(8)", kv_heads=2, rotary=100.0, bias=True)
        x = torch.randn(2, 40, 64)
        q, k, v = layer.qkv(x).split([64, 32, 32], dim=-1)
        q, k, v = (t.view(2, 40, -1, 16).transpose(1, 2) for t in (q, k, v))
        turn = torch.polar(
            torch.ones(40, 8), torch.outer(torch.arange(40.0), 100.0 ** -(torch.arange(8) / 8))
        )

        def rotate(t):  # as complex numbers
            t = torch.complex(t[..., :8], t[..., 8:]) * turn
            return torch.cat([t.real, t.imag], -1)

        i, j = positions(40)
        mask = (i - j < 8) & (j <= i)
        out = F.scaled_dot_product_attention(rotate(q), rotate(k), v, mask, enable_gqa=True)
        expected = layer.out(out.transpose(1, 2).reshape(2, 40, 64))
        self.assert_close(layer(x), expected)
        shifted = layer(x, positions=torch.arange(40) + 5)  # only differences count
        self.assert_close(shifted, expected, 1e-4)

    def test_trains_compiled(self):
        torch.manual_seed(0)
        layer = lace.nn.SparseSelfAttention(32, 4, "local(8) | sinks(1)", rotary=True)
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        x = torch.randn(2, 24, 32)
        compiled(x).square().sum().backward()
        grads = [p.grad.clone() for p in layer.parameters()]
        layer.zero_grad()
        layer(x).square().sum().backward()
        for got, parameter in zip(grads, layer.parameters(), strict=True):
            self.assert_close(got, parameter.grad, 1e-4)

    def test_errors(self):
        for arguments, options, message in [
            ((65, 4, "dense"), {}, "heads must divide dim, got 4 and 65"),
            ((64, 4, "dense"), {"kv_heads": 3}, "a multiple of kv_heads, got 4 and 3"),
            ((64, 4, "fixed(8, 2, 3)"), {}, "tells 3 heads apart"),
            ((60, 4, "dense"), {"rotary": True}, r"\[Rotary\] head_dim must be even, got 15"),
        ]:
            with self.assertRaisesRegex(lace.Error, message):
                lace.nn.SparseSelfAttention(*arguments, **options)


if __name__ == "__main__":
    unittest.main(verbosity=2)
