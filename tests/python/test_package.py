"""The package `lace`, as installed from its wheel: what it brings, and its layers.

Usage: test_package.py [unittest options], on an interpreter that has the package.
"""

import importlib.metadata
import os
import sys
import unittest

import torch
import torch.nn.functional as F

import lace

from package_case import PackageTest, positions


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
