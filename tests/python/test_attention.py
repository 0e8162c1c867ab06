"""torch.ops.lace.attention: loaded as a user does, checked by PyTorch's own means.

Usage: test_attention.py PATH/liblace_torch.so [unittest options]
"""

import json
import math
import sys
import tempfile
import os
import unittest

import torch
import torch.nn.functional as F

PATTERN = "local(16) | strided(8)"


def live_pairs(q_len, k_len):
    """PATTERN's mask, written once more: [q_len, k_len], the queries the last of the positions."""
    i = torch.arange(k_len - q_len, k_len)[:, None]
    j = torch.arange(k_len)[None, :]
    return (j <= i) & ((i - j < 16) | ((i - j) % 8 == 0))


def inputs(dtype=torch.float32, requires_grad=True, q_len=96, k_len=96, heads=4, kv_heads=4):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, heads, q_len, 32), (2, kv_heads, k_len, 32), (2, kv_heads, k_len, 32)]
    return [
        torch.randn(shape, generator=generator).to(dtype).requires_grad_(requires_grad)
        for shape in shapes
    ]


def attend(q, k, v, pattern=PATTERN, **options):
    return torch.ops.lace.attention(q, k, v, pattern, **options)[0]


def peer(q, k, v, **options):
    mask = live_pairs(q.shape[2], k.shape[2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True, **options)


def gradients(function, tensors):
    out = function(*tensors)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return [out, *torch.autograd.grad((out * weights).sum(), tensors)]


def write_mask(path, live):
    """A mask file of blocks of 32: live [blocks, blocks] of 0 and 1."""
    blocks = len(live)
    header = json.dumps(
        {
            "__metadata__": {"block_size": "32"},
            "mask": {
                "dtype": "BOOL",
                "shape": [1, blocks, blocks],
                "data_offsets": [0, blocks * blocks],
            },
        }
    ).encode()
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(bytes(bit for row in live for bit in row))


class AttentionTest(unittest.TestCase):
    def assert_close(self, got, expected, tolerance):
        for a, b in zip(got, expected, strict=True):
            self.assertEqual(a.dtype, b.dtype)
            self.assertEqual(a.shape, b.shape)
            error = (a.double() - b.double()).abs().max().item()
            self.assertLess(error, tolerance * max(1, b.abs().max().item()))

    def test_equals_masked_scaled_dot_product_attention(self):
        for dtype, tolerance in [
            (torch.float64, 1e-12),
            (torch.float32, 1e-5),
            (torch.bfloat16, 2e-2),
        ]:
            for sizes in [{}, {"q_len": 50}, {"kv_heads": 2}]:
                with self.subTest(dtype=dtype, **sizes):
                    tensors = inputs(dtype, **sizes)
                    self.assert_close(
                        gradients(attend, tensors), gradients(peer, tensors), tolerance
                    )

    def test_scale(self):
        tensors = inputs()
        self.assert_close([attend(*tensors, scale=0.5)], [peer(*tensors, scale=0.5)], 1e-5)

    def test_dense_equals_causal(self):
        tensors = inputs()
        expected = gradients(
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), tensors
        )
        got = gradients(lambda q, k, v: attend(q, k, v, "dense"), tensors)
        self.assert_close(got, expected, 1e-5)

    def test_lse(self):
        q, k, v = inputs(requires_grad=False)
        logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
        logits = logits.masked_fill(~live_pairs(96, 96), -math.inf)
        lse = torch.ops.lace.attention(q, k, v, PATTERN)[1]
        # Not logsumexp: its first call in a process may be less exact (pytorch issue 188792).
        expected = logits.amax(-1) - logits.log_softmax(-1).amax(-1)
        self.assert_close([lse], [expected], 1e-5)

    def test_gradients_of_lse_and_sinks(self):
        def attend_all(q, k, v, sinks):
            return torch.cat(
                [t.flatten() for t in torch.ops.lace.attention(q, k, v, PATTERN, sinks=sinks)]
            )

        def peer_all(q, k, v, sinks):
            logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
            logits = logits.masked_fill(~live_pairs(q.shape[2], k.shape[2]), -math.inf)
            column = sinks.view(1, -1, 1, 1).expand(*logits.shape[:3], 1)
            weights = torch.cat([logits, column], 3).log_softmax(3)
            lse = sinks.view(1, -1, 1) - weights[..., -1]
            return torch.cat([(weights[..., :-1].exp() @ v).flatten(), lse.flatten()])

        sinks = torch.tensor([-1.0, 0.0, 1.0, 4.0], requires_grad=True)
        tensors = [*inputs(), sinks]
        expected = gradients(peer_all, tensors)
        self.assert_close(gradients(attend_all, tensors), expected, 1e-5)
        torch._dynamo.reset()
        compiled = torch.compile(attend_all, backend="aot_eager", fullgraph=True)
        self.assert_close(gradients(compiled, tensors), expected, 1e-5)
        small = [t[:1, :2, :12, :8].double().detach().requires_grad_() for t in inputs()]
        few = sinks[:2].double().detach().requires_grad_()
        self.assertTrue(torch.autograd.gradcheck(attend_all, [*small, few]))

    def test_softcap(self):
        def peer(q, k, v):
            logits = 2 * torch.tanh(q @ k.transpose(2, 3) / math.sqrt(q.shape[3]) / 2)
            live = live_pairs(q.shape[2], k.shape[2])
            return logits.masked_fill(~live, -math.inf).softmax(-1) @ v

        def capped(q, k, v):
            return attend(q, k, v, softcap=2.0)

        tensors = inputs()
        expected = gradients(peer, tensors)
        self.assert_close(gradients(capped, tensors), expected, 1e-5)
        torch._dynamo.reset()
        compiled = torch.compile(capped, backend="aot_eager", fullgraph=True)
        self.assert_close(gradients(compiled, tensors), expected, 1e-5)
        small = [t[:1, :2, :12, :8].double().detach().requires_grad_() for t in inputs()]
        self.assertTrue(torch.autograd.gradcheck(capped, small))

    def test_second_backward_is_an_error(self):
        q, k, v = inputs()
        (first,) = torch.autograd.grad(attend(q, k, v).sum(), [q], create_graph=True)
        with self.assertRaisesRegex(RuntimeError, "can be differentiated once"):
            first.sum().backward()

    def test_gradcheck(self):
        tensors = [t[:1, :2, :12, :8].detach().requires_grad_() for t in inputs(torch.float64)]
        self.assertTrue(torch.autograd.gradcheck(attend, tensors))

    def test_autocast(self):
        q, k, v = inputs()
        with torch.autocast("cpu", torch.bfloat16):
            out = attend(q, k, v)
            expected = peer(q, k, v)
        self.assertEqual(out.dtype, torch.bfloat16)
        self.assert_close([out], [expected], 2e-2)
        out.sum().backward()
        self.assertEqual(q.grad.dtype, torch.float32)

    def test_meta_tensors(self):
        """Shapes, dtypes and strides as those of real tensors, without a kernel."""
        strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in inputs()]
        odd = [t[..., :7] for t in inputs(torch.bfloat16)]
        for tensors in (inputs(), inputs(torch.float64, kv_heads=2), strided, odd):
            tensors = [t.detach() for t in tensors]
            real = torch.ops.lace.attention(*tensors, PATTERN, softcap=3.0)
            shapes = [
                torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")
                for t in tensors
            ]
            meta = torch.ops.lace.attention(*shapes, PATTERN, softcap=3.0)
            for a, b in zip(real, meta, strict=True):
                self.assertEqual((a.shape, a.stride(), a.dtype), (b.shape, b.stride(), b.dtype))
                self.assertEqual(b.device.type, "meta")

    def test_opcheck(self):
        strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in inputs()]
        for tensors in [inputs(), inputs(requires_grad=False), inputs(kv_heads=2), strided]:
            torch.library.opcheck(
                torch.ops.lace.attention.default, (*tensors, PATTERN), {"scale": 0.25}
            )
        q, k, v = inputs(requires_grad=False)
        out, lse = torch.ops.lace.attention(q, k, v, PATTERN)
        torch.library.opcheck(
            torch.ops.lace.attention_backward.default,
            (torch.ones_like(out), q, k, v, out, lse, PATTERN),
        )
        sinks = torch.zeros(4, requires_grad=True)
        torch.library.opcheck(
            torch.ops.lace.attention.default,
            (*inputs(), PATTERN),
            {"sinks": sinks, "softcap": 5.0},
        )
        live = torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.5
        torch.library.opcheck(
            torch.ops.lace.attention.default,
            (*inputs(), PATTERN),
            {"block_mask": live, "block_size": 16},
        )
        odd = [t[..., :7] for t in inputs()]
        torch.library.opcheck(torch.ops.lace.attention.default, (*odd, PATTERN))
        torch.library.opcheck(
            torch.ops.lace.attention_backward.default,
            (torch.ones_like(out), q, k, v, out, lse, PATTERN),
            {"sinks": sinks.detach(), "dlse": torch.ones_like(lse), "softcap": 5.0},
        )

    def test_compile_traces_forward_and_backward(self):
        torch._dynamo.reset()
        compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
        for sizes in [{}, {"q_len": 64, "k_len": 64}, {"q_len": 40, "k_len": 80}]:
            tensors = inputs(**sizes)
            self.assert_close(gradients(compiled, tensors), gradients(attend, tensors), 1e-7)

    def test_compile_with_inductor(self):
        def layer(x, weight):
            q, k, v = (x @ weight).view(2, 96, 3, 4, 8).unbind(2)
            out = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
            return torch.relu(out.transpose(1, 2).reshape(2, 96, 32))

        torch._dynamo.reset()
        generator = torch.Generator().manual_seed(0)
        tensors = [
            torch.randn(shape, generator=generator, requires_grad=True)
            for shape in [(2, 96, 32), (32, 96)]
        ]
        compiled = torch.compile(layer, fullgraph=True)
        self.assert_close(gradients(compiled, tensors), gradients(layer, tensors), 1e-5)

    def test_backward_uses_the_mask_that_forward_saw(self):
        old, new = [[1, 0, 0], [0, 1, 0], [1, 0, 1]], [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
        offloaded = torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda t: t)
        torch._dynamo.reset()
        compiled = torch.compile(attend, backend="aot_eager", fullgraph=True)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "m.safetensors")
            pattern = f'mask("{path}")'

            def both(call, after=None):
                tensors = inputs()
                write_mask(path, old)
                out = call(*tensors, pattern)
                if after is not None:
                    write_mask(path, after)
                weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
                return [out, *torch.autograd.grad((out * weights).sum(), tensors)]

            expected = both(attend)
            for call in (attend, compiled):
                self.assert_close(both(call, after=new), expected, 1e-7)
            with offloaded:
                self.assert_close(both(attend, after=new), expected, 1e-7)
            # The next forward sees the new file.
            write_mask(path, new)
            changed = attend(*inputs(), pattern)
            self.assertGreater((changed - expected[0]).abs().max().item(), 1e-2)

    def test_errors_name_the_argument(self):
        q, k, v = inputs()
        with self.assertRaisesRegex(RuntimeError, r"\[attention\] head_dim of k is 16, q has 32"):
            attend(q, k[..., :16], v)
        with self.assertRaisesRegex(RuntimeError, "locl"):
            attend(q, k, v, "locl(16)")


if __name__ == "__main__":
    torch.ops.load_library(sys.argv.pop(1))
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        unittest.main(verbosity=2)
