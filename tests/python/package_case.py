"""What the tests of the package share."""

import unittest

import torch


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
