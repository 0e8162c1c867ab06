"""lace.Pattern and lace.explain.

Usage: test_package_patterns.py [unittest options], on an interpreter that has the package.
"""

import copy
import pickle
import unittest

import torch

import lace

from package_case import PackageTest, positions


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


if __name__ == "__main__":
    unittest.main(verbosity=2)
