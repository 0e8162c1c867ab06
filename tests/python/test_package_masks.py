"""Masks that are tensors: lace.scaled_dot_product_attention, lace.flex_attention, block_mask.

Usage: test_package_masks.py [unittest options], on an interpreter that has the package.
"""

import math
import unittest
import unittest.mock
import warnings

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

import lace

from package_case import PackageTest, positions, tensors


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
        readings, _ = lace._flex.read_once(block_mask, query, key)
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

    @staticmethod
    def drawn_mask(generator):
        """A mask [heads, q_len, k_len] of a band that lace has, between some keys or in documents,
        or of blocks; and whether it is exactly that, or has a pair too many or few."""
        draw = lambda low, high: int(torch.randint(low, high, (), generator=generator))
        k_len = (17, 32, 64, 70, 96, 130)[draw(0, 6)]
        kind = ("band", "right", "left", "documents", "blocks")[draw(0, 5)]
        q_len = k_len if kind == "documents" else draw(1, k_len + 1)
        i, j = positions(q_len, k_len)
        high = draw(1, k_len + 1)
        low = -high if kind != "left" and draw(0, 2) else 0
        mask = (i - j >= low) & (i - j <= high)
        if kind == "right":
            mask &= j < draw(1, k_len + 1)
        elif kind == "left":
            mask &= j >= draw(0, k_len)
        elif kind == "documents":
            document = (torch.rand(k_len, generator=generator) < 0.05).cumsum(0)
            mask &= document[i] == document[j]
        elif kind == "blocks":
            live = torch.rand(-(-k_len // 16), -(-k_len // 16), generator=generator) < 0.5
            mask = live[i // 16, j // 16]
        exact = draw(0, 3) > 0
        if not exact:
            mask[draw(0, q_len), draw(0, k_len)] ^= True
        return mask.expand(draw(1, 3), q_len, k_len), exact

    def test_random_masks_are_read_exactly(self):
        generator = torch.Generator().manual_seed(1)
        read = 0
        for number in range(600):
            mask, exact = self.drawn_mask(generator)
            heads, q_len, k_len = mask.shape
            reading = lace._masks.read_mask(mask, q_len)
            if reading is None:
                self.assertFalse(exact, f"draw {number}")
                continue
            read += 1
            if reading.bounds is None:
                said = reading.pattern.mask(q_len, k_len, heads)
                if reading.keys is not None:
                    begin, end = reading.keys
                    said[..., :begin] = said[..., end:] = False
            else:
                lengths = reading.bounds.diff().tolist()
                said = torch.block_diag(*[reading.pattern.mask(n)[0] for n in lengths]).bool()
            self.assertTrue((said == mask).all(), f"draw {number}: {reading.pattern.text}")
            q, k, v = tensors(batch=2, heads=2, q_len=q_len, k_len=k_len, head_dim=16)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                got = lace.scaled_dot_product_attention(q, k, v, mask)
            live = mask.any(-1, keepdim=True)
            expected = F.scaled_dot_product_attention(q, k, v, mask | ~live)
            self.assert_close(got, torch.where(live, expected, 0))
        self.assertGreater(read, 300)

    def test_one_query_of_a_padded_cache(self):
        q, k, v = tensors(batch=20, q_len=1, k_len=96)
        begins = torch.arange(0, 80, 4)[:, None, None, None]
        for mask in (torch.arange(96) >= begins, torch.arange(96) < begins + 9):
            groups, _ = lace._sdpa._read_once(mask, q, 96)
            self.assertEqual(len(groups), 1)
            got = lace.scaled_dot_product_attention(q, k, v, mask)
            self.assert_close(got, F.scaled_dot_product_attention(q, k, v, mask))

    def test_what_is_read_in_inference_mode_serves_training(self):
        q, k, v = tensors(grad=True)
        i, j = positions(96)
        mask = (j >= 50) & (j <= i)
        block_mask = create_block_mask(
            lambda b, h, i, j: (j >= 50) & (j <= i), None, None, 96, 96, device="cpu"
        )
        for call, of in [(lace.scaled_dot_product_attention, mask), (lace.flex_attention, block_mask)]:
            option = {"block_mask" if call is lace.flex_attention else "attn_mask": of}
            with torch.inference_mode():
                expected = call(q, k, v, **option)
                if of is mask:  # one without a version
                    self.assert_close(call(q, k, v, mask.clone()), expected)
            out = call(q, k, v, **option)
            self.assert_close(out, expected)
            out.sum().backward()

    def test_mapped_calls_with_padding(self):
        q, k, v = (t.view(8, 1, 96, 32) for t in tensors())
        mask = torch.arange(96) >= 50

        def attend(call):
            return torch.vmap(torch.func.grad(lambda *qkv: call(*qkv, mask).square().sum()))(q, k, v)

        want = attend(F.scaled_dot_product_attention)
        self.assert_close(attend(lace.scaled_dot_product_attention), want)

    def test_empty_tensors(self):
        for shape in ((0, 2, 8, 16), (2, 2, 0, 16)):
            q = torch.zeros(shape)
            mask = torch.ones(*shape[:-1], shape[-2], dtype=torch.bool)
            for options in ({}, {"is_causal": True}, {"attn_mask": mask}):
                self.assertEqual(lace.scaled_dot_product_attention(q, q, q, **options).shape, shape)

    def test_the_same_keys_for_all_queries_are_read_as_such(self):
        for heads, q_len, k_len in [(1, 2, 96), (2, 70, 96), (1, 130, 130)]:
            drawn = torch.rand(40, heads, k_len, generator=torch.Generator().manual_seed(2))
            for row in drawn < torch.linspace(0.01, 1, 40)[:, None, None]:
                some = [row, torch.arange(k_len) < row.sum(), torch.arange(k_len) % 64 < 32]
                for keys in (x.expand(heads, k_len)[:, None] for x in some):
                    got = lace._masks.read_mask(keys, q_len)
                    want = lace._masks.read_mask(keys.repeat(1, q_len, 1), q_len)
                    self.assertEqual(repr(got), repr(want))
        # A million tokens: a terabyte, if each query had keys of its own.
        n = 2**20
        keys = torch.arange(n) < n - 5
        for mask in (keys, keys.expand(3, 1, n, n)):
            groups, _ = lace._sdpa._look(mask, (3, 4, n, n), torch.device("cpu"))
            rows = [group.sequences.unique(dim=0).tolist() for group in groups]
            self.assertEqual(rows, [[[0, n, 0, 0, n - 5, 0]]])

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
            ("right", keys, 1),
            ("right, every row alike", keys.expand(4, 4, 96, 96), 1),
            ("right, causal", keys & (j <= i), 1),
            ("right, window", keys & (j <= i) & (i - j < 40), 1),
            ("right, two-sided window", keys & ((i - j).abs() <= 20), 1),
            ("left, causal", from_left & (j <= i), 1),
            ("left, window", from_left & (j <= i) & (i - j < 40), 2),  # one begins within it
            ("left, two-sided window", from_left & ((i - j).abs() <= 20), 1),
            ("left", from_left, 1),
            ("on both sides", keys & from_left, 1),
            ("both, causal", keys & from_left & (j <= i), 2),  # one has no keys
            ("of one element in all", keys[:1], 1),
            ("none", keys | True, 1),
            ("each a band", (j <= i) & (i - j < lens[:, None, None, None]), 3),
            ("bands with padding", from_left & (j <= i) & (i - j < lens[:, None, None, None]), 3),
        ]:
            with self.subTest(name):
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    got = lace.scaled_dot_product_attention(q, k, v, mask)
                expected = F.scaled_dot_product_attention(q, k, v, mask)
                live = mask.any(-1, keepdim=True).expand(*expected.shape[:-1], 1)
                self.assert_close(got * live, torch.where(live, expected, 0))
                self.assertTrue((got.masked_select(~live) == 0).all())
                groups, _ = lace._sdpa._read_once(mask, q, 96)
                self.assertEqual(len(groups), count)

    def test_many_masks_in_a_batch_are_handed_on(self):
        q, k, v = tensors(batch=20)
        i, j = positions(96)
        mask = (j <= i) & (i - j < torch.arange(20, 40)[:, None, None, None])
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
            ("padding", lambda b, h, i, j: j < lens[b], 1),
            ("padding, causal", lambda b, h, i, j: (i >= j) & (j < lens[b]), 1),
            ("padding, window", lambda b, h, i, j: (i >= j) & (i - j < 50) & (j < lens[b]), 1),
            ("left padding", lambda b, h, i, j: (i >= j) & (j >= n - lens[b]), 1),
            ("left padding, two-sided", lambda b, h, i, j: j >= n - lens[b], 1),
            ("documents", lambda b, h, i, j: (i >= j) & (document[b, i] == document[b, j]), 3),
            ("windows", lambda b, h, i, j: (i >= j) & (i - j < lens[b]), 3),
        ]:
            with self.subTest(name):
                block_mask = create_block_mask(mask_mod, 4, None, n, n, device="cpu")
                mask = self.dense(mask_mod, 4, 1, n)
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    out, lse = lace.flex_attention(q, k, v, block_mask=block_mask, return_lse=True)
                expected = F.scaled_dot_product_attention(q, k, v, mask)
                live = mask.any(-1, keepdim=True)
                self.assert_close(out * live, torch.where(live, expected, 0))
                logits = (q @ k.mT / math.sqrt(32)).masked_fill(~mask, -math.inf)
                live = live[..., 0].expand(lse.shape)
                self.assert_close(lse[live], logits.logsumexp(-1)[live])
                readings, _ = lace._flex.read_once(block_mask, q, k)
                self.assertEqual(len(readings), count)

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
        for wide in (causal[:5], causal[:1].expand(3, 1, 1, 96), causal[:1].expand(2, 1, 1, 1, 96)):
            with self.assertRaisesRegex(lace.Error, r"broadcastable to \[2, 4, 1, 96\], got"):
                lace.scaled_dot_product_attention(q[:, :, :1], k, v, wide)
        with self.assertRaisesRegex(lace.Error, "give enable_gqa=True"):
            lace.scaled_dot_product_attention(q, k[:, :2], v[:, :2])
        block_mask = create_block_mask(lambda b, h, i, j: i >= j, 3, None, 96, 96, device="cpu")
        with self.assertRaisesRegex(lace.Error, "block_mask is of 3 batch elements"):
            lace.flex_attention(q, k, v, block_mask=block_mask)
        with self.assertRaisesRegex(lace.Error, "score_mod is not computed: a factor goes into"):
            lace.flex_attention(q, k, v, score_mod=lambda s, b, h, i, j: s + i)


class BlockMaskTest(PackageTest):
    """lace.attention with a mask of blocks that is a tensor, or FlexAttention's BlockMask."""

    def live(self, seed=0, heads=4):
        live = torch.rand(heads, 6, 6, generator=torch.Generator().manual_seed(seed)) < 0.4
        return live | torch.eye(6, dtype=torch.bool)

    @staticmethod
    def spread(live, length=96):
        return live.repeat_interleave(16, -1).repeat_interleave(16, -2)[..., :length, :length]

    def test_keeps_patterns_to_live_blocks(self):
        for length in (96, 85):
            q, k, v = tensors(q_len=length)
            for text in ("dense", "bidirectional(dense)", "local(20) | sinks(3)"):
                for live in (self.live(), self.live()[:1], self.live()[0]):
                    mask = self.spread(live, length) & lace.Pattern(text).mask(length)
                    got = lace.attention(q, k, v, text, block_mask=live, block_size=16)
                    self.assert_close(got, F.scaled_dot_product_attention(q, k, v, mask))
        # The last queries; beyond the blocks nothing is live.
        q, k, v = tensors(q_len=40, k_len=96)
        mask = self.spread(self.live()) & lace.Pattern("dense").mask(96)
        got = lace.attention(q, k, v, "dense", block_mask=self.live(), block_size=16)
        self.assert_close(got, F.scaled_dot_product_attention(q, k, v, mask[:, -40:]))
        q, k, v = tensors(q_len=96)
        few = lace.attention(q, k, v, "dense", block_mask=self.live()[:, :2, :2], block_size=16)
        self.assertTrue((few[:, :, 32:] == 0).all())

    @staticmethod
    def index_tensors(live):
        return (
            live.sum(-1, dtype=torch.int32)[None],
            live.int().argsort(dim=-1, descending=True, stable=True).int()[None],
        )

    def test_block_masks_without_a_mask_mod(self):
        whole, cut = self.live(1) & ~self.live(2), self.live(2)
        mask = self.spread(whole | cut)
        for heads in (4, 1):
            block_mask = BlockMask.from_kv_blocks(
                *self.index_tensors(cut[:heads]),
                *self.index_tensors(whole[:heads]),
                BLOCK_SIZE=16,
                seq_lengths=(96, 96),
            )
            live, size = lace.live_blocks(block_mask)
            self.assertTrue(torch.equal(live, (whole | cut)[:heads]))
            self.assertEqual(size, 16)
            with unittest.mock.patch.object(lace._flex, "read_block_mask") as reads:
                ours, theirs = tensors(grad=True), tensors(grad=True)
                expected = F.scaled_dot_product_attention(*theirs, mask[:heads])
                got, lse = lace.flex_attention(*ours, block_mask=block_mask, return_lse=True)
                self.assert_close(got, expected)
                self.assertEqual(lse.shape, ours[0].shape[:3])
                self.assert_close(lace.attention(*ours, block_mask), expected)
                reads.assert_not_called()
            got.square().sum().backward()
            expected.square().sum().backward()
            for a, b in zip(ours, theirs, strict=True):
                self.assert_close(a.grad, b.grad, 1e-4)
        # Its tensors may change from call to call.
        q, k, v = tensors()
        block_mask.kv_num_blocks.zero_()
        expected = F.scaled_dot_product_attention(q, k, v, self.spread(whole[:1]))
        seen = self.spread(whole[:1]).any(-1, keepdim=True)
        self.assert_close(
            lace.flex_attention(q, k, v, block_mask=block_mask), expected.masked_fill(~seen, 0)
        )

    def test_live_blocks_beside_a_pattern_say_what_a_causal_block_mask_says(self):
        live = self.spread(self.live()[:1])[0]
        block_mask = create_block_mask(
            lambda b, h, i, j: live[i, j] & (i >= j), None, None, 96, 96, "cpu", BLOCK_SIZE=16
        )
        q, k, v = tensors()
        blocks, size = lace.live_blocks(block_mask)
        self.assert_close(
            lace.attention(q, k, v, "dense", block_mask=blocks, block_size=size),
            F.scaled_dot_product_attention(q, k, v, live.tril()),
        )

    def test_says_which_block_masks_are_no_tensor_of_blocks(self):
        everything = lambda b, h, i, j: i >= 0  # noqa: E731
        of_two = create_block_mask(everything, 2, None, 96, 96, "cpu", BLOCK_SIZE=16)
        oblong = create_block_mask(everything, None, None, 96, 96, "cpu", BLOCK_SIZE=(16, 32))
        longer = create_block_mask(everything, None, None, 96, 192, "cpu", BLOCK_SIZE=16)
        for block_mask, reason in [(of_two, "2 batch"), (oblong, "16 × 32"), (longer, "6 × 12")]:
            with self.assertRaisesRegex(lace.Error, reason):
                lace.live_blocks(block_mask)

    def test_gradients_and_lengths(self):
        lens = torch.tensor([70, 96])
        mask = self.spread(self.live()) & lace.Pattern("dense").mask(96)
        mask = mask & (torch.arange(96) < lens[:, None, None, None])
        rows = (torch.arange(96) < lens[:, None])[:, None, :, None]
        options = {"block_mask": self.live(), "block_size": 16, "k_lens": lens}
        ours, theirs = tensors(grad=True), tensors(grad=True)
        got = lace.attention(*ours, "dense", **options)
        expected = F.scaled_dot_product_attention(*theirs, mask) * rows
        self.assert_close(got, expected)
        (got.square().sum()).backward()
        (expected.square().sum()).backward()
        for a, b in zip(ours, theirs, strict=True):
            self.assert_close(a.grad, b.grad, 1e-4)

    def test_a_mask_that_changed_before_backward_is_an_error(self):
        q, k, v = tensors(grad=True)
        live = self.live()
        out = lace.attention(q, k, v, "dense", block_mask=live, block_size=16)
        live[:] = True
        with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
            out.sum().backward()

    def test_one_compiled_graph_for_all_masks(self):
        def call(q, k, v, live):
            return lace.attention(q, k, v, "dense", block_mask=live, block_size=16)

        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
        for seed in range(3):
            results = []
            for run in (compiled, call):
                inputs = tensors(grad=True)
                out = run(*inputs, self.live(seed))
                results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
            for got, expected in zip(*results, strict=True):
                self.assert_close(got, expected, 1e-6)
        self.assertEqual(torch._dynamo.utils.counters["stats"]["unique_graphs"], 1)

    def test_transforms(self):
        q, k, v = (torch.stack([t, t.flip(0)]) for t in tensors(grad=False))
        lives = torch.stack([self.live(0), self.live(1)])

        def loss(q, k, v, live):
            out = lace.attention(q, k, v, "dense", block_mask=live, block_size=16)
            return out.square().sum()

        for live, dim in ((lives[0], None), (lives, 0)):
            each = torch.func.vmap(torch.func.grad(loss), (0, 0, 0, dim))(q, k, v, live)
            for b in range(2):
                leaf = q[b].clone().requires_grad_()
                loss(leaf, k[b], v[b], live if dim is None else live[b]).backward()
                self.assert_close(each[b], leaf.grad, 1e-4)

    def test_flex_masks_as_patterns(self):
        q, k, v = tensors()
        sinks = torch.randn(4, generator=torch.Generator().manual_seed(1))
        block_mask = create_block_mask(
            lambda b, h, i, j: (i >= j) & (i - j < 30), None, None, 96, 96, device="cpu"
        )
        options = {"sinks": sinks, "softcap": 2.0, "scale": 0.3, "return_lse": True}
        got = lace.attention(q, k, v, block_mask, **options)
        for a, b in zip(got, lace.attention(q, k, v, "local(30)", **options), strict=True):
            self.assert_close(a, b)
        odd = create_block_mask(lambda b, h, i, j: i + j != 9, None, None, 96, 96, device="cpu")
        with self.assertRaisesRegex(lace.Error, r"\[attention\] no pattern of lace says what"):
            lace.attention(q, k, v, odd)
        with self.assertRaisesRegex(lace.Error, "no other mask, no lengths"):
            lace.attention(q, k, v, block_mask, k_lens=40)
        with self.assertRaisesRegex(lace.Error, "a BlockMask stands for the pattern"):
            lace.attention(q, k, v, "dense", block_mask=block_mask)

    def test_errors(self):
        q, k, v = tensors()
        for live, size, message in [
            (torch.zeros(4, 3, 3), 16, "block_mask must be bool .heads or 1, blocks, blocks., got"),
            (torch.ones(4, 3, 2, dtype=torch.bool), 16, "block_mask must be bool"),
            (torch.ones(3, 6, 6, dtype=torch.bool), 16, "must be of 1 head or 4, got 3"),
            (torch.ones(6, 6, dtype=torch.bool), None, "block_size must be positive, got 0"),
        ]:
            with self.assertRaisesRegex(RuntimeError, message):
                lace.attention(q, k, v, "dense", block_mask=live, block_size=size)


if __name__ == "__main__":
    unittest.main(verbosity=2)
