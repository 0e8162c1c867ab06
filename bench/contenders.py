"""The contenders of bench/peers.py: who computes a row's pattern, or something near it, and how."""

import ctypes
import os
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention_rows import chosen_blocks, keep

CONTENDERS = ["lace", "fa3", "fa4", "cudnn", "fa2", "flex", "flex2"]


# ---- functions of q, k, v [batch, n, heads, head_dim] --------------------------------------------


@dataclass
class Contender:
    run: object          # (q, k, v) -> out, or outs that are not joined
    what: str
    exact: bool = True   # computes the row's pattern
    parameters: tuple = ()  # that get gradients too
    make_mask: object = None  # () -> a mask of the row, made anew
    listing_kernels: str = ""  # what the names of those have that list what is live


def swap(x):
    return x.transpose(1, 2)


def bounds(row):
    """cu_seqlens of the row's documents."""
    lengths = torch.tensor((0, *row.documents), device="cuda")
    return lengths.cumsum(0).int()


def lace_documents(row):
    cu, ops = bounds(row), torch.ops.lace

    def run(q, k, v):
        places = ops.packed_sequences(cu, cu)
        return ops.attention(q[0], k[0], v[0], row.pattern, sequences=places,
                             max_len=max(row.documents))[0].unsqueeze(0)
    return Contender(run, "torch.ops.lace.attention of packed sequences")


def sinks_of(row):
    """[heads] of a row with learned sinks, the same for all contenders."""
    if not row.learned_sinks:
        return None
    return torch.linspace(-2, 2, row.heads, device="cuda").requires_grad_()


def lace_blocks(row):
    live = torch.from_numpy(chosen_blocks(row, row.n)).cuda()

    def run(q, k, v):
        return swap(torch.ops.lace.attention(swap(q), swap(k), swap(v), row.pattern,
                                             block_mask=live, block_size=row.l)[0])
    return Contender(run, "torch.ops.lace.attention with a mask of blocks", listing_kernels="LiveLaunch")


def lace_attention(row):
    if row.documents:
        return lace_documents(row)
    if row.kind == "blocks":
        return lace_blocks(row)
    sinks = sinks_of(row)

    def run(q, k, v):
        return swap(torch.ops.lace.attention(swap(q), swap(k), swap(v), row.pattern,
                                             sinks=sinks)[0])
    return Contender(run, "torch.ops.lace.attention", parameters=() if sinks is None else (sinks,))


def load_flash3(path):
    """torch.ops.flash_attn_3, from a library of PyTorch operations."""
    path = os.path.abspath(path)
    runtime = os.path.join(os.path.dirname(path), "libcudart.so.12")
    if os.path.exists(runtime):  # what the library may have been linked to
        ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)
    torch.ops.load_library(path)


class FlashAttention3(torch.autograd.Function):
    @staticmethod
    def forward(context, q, k, v, causal, left, right, documents):
        out, lse, *_ = torch.ops.flash_attn_3.fwd(
            q, k, v, is_causal=causal, window_size_left=left, window_size_right=right,
            num_splits=1, **documents)
        context.save_for_backward(q, k, v, out, lse)
        context.rest = (causal, left, right, documents)
        return out

    @staticmethod
    def backward(context, dout):
        q, k, v, out, lse = context.saved_tensors
        causal, left, right, documents = context.rest
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        torch.ops.flash_attn_3.bwd(
            dout, q, k, v, out, lse, dq, dk, dv, is_causal=causal, window_size_left=left,
            window_size_right=right, deterministic=False, **documents)
        return dq, dk, dv, None, None, None, None


def flash3(q, k, v, causal=True, left=-1, right=-1):
    return FlashAttention3.apply(q, k, v, causal, left, right, {})


def flash3_documents(row):
    cu, longest = bounds(row), max(row.documents)
    documents = dict(cu_seqlens_q=cu, cu_seqlens_k=cu, max_seqlen_q=longest, max_seqlen_k=longest)

    def run(q, k, v, causal=True, left=-1, right=-1):
        return FlashAttention3.apply(q[0], k[0], v[0], causal, left, right, documents).unsqueeze(0)
    return dense_documents(row, run)


def dense_documents(row, run):
    """A dense kernel of packed documents on the row, or its window (None where it has neither)."""
    if row.kind == "dense":
        return Contender(run, "dense, varlen")
    if row.kind == "sinks":
        return Contender(lambda q, k, v: run(q, k, v, False, row.l - 1, 0),
                         "window without sinks, varlen", exact=False)
    return None


def flash4(row):
    """FlashAttention-4, of the package flash-attn-4: it compiles its kernels at their first call,
    and takes learned sinks as an argument."""
    from flash_attn.cute import flash_attn_func, flash_attn_varlen_func
    sinks = sinks_of(row)
    cu, longest = bounds(row), max(row.documents, default=0)

    def attend(q, k, v, causal=True, left=None, right=None):
        options = dict(causal=causal, window_size=(left, right), learnable_sink=sinks)
        if row.documents:
            out = flash_attn_varlen_func(q[0], k[0], v[0], cu_seqlens_q=cu, cu_seqlens_k=cu,
                                         max_seqlen_q=longest, max_seqlen_k=longest, **options)
        else:
            out = flash_attn_func(q, k, v, **options)
        out = out[0] if isinstance(out, tuple) else out
        return out.unsqueeze(0) if row.documents else out
    if row.documents:
        return dense_documents(row, attend)
    contender = dense_kernel(row, attend,
                             lambda q, k, v, left, right: attend(q, k, v, False, left, right))
    if sinks is not None and contender is not None:
        return Contender(contender.run, "window with learned sinks", parameters=(sinks,))
    return contender


def sdpa(backend):
    def run(q, k, v, causal=True):
        grouped = dict(enable_gqa=True) if q.shape[2] != k.shape[2] else {}
        with sdpa_kernel(backend):
            return swap(F.scaled_dot_product_attention(swap(q), swap(k), swap(v),
                                                       is_causal=causal, **grouped))
    return run


def flash2_window(q, k, v, left, right):
    return torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, q.shape[1], k.shape[1], 0.0, right == 0, False,
        window_size_left=left, window_size_right=right)[0]


def strided_view(x, l):
    batch, n, heads, dim = x.shape
    return x.view(batch, n // l, l * heads, dim)


def block_view(x, l):
    batch, n, heads, dim = x.shape
    return x.view(batch * (n // l), l, heads, dim)


def dense_kernel(row, dense, window):
    """A dense kernel on the row, by a view or its window (None where it has none)."""
    l = row.l
    on_stride = lambda q, k, v: dense(*[strided_view(x, l) for x in (q, k, v)]).view(q.shape)
    if row.kind == "dense":
        return Contender(lambda q, k, v: dense(q, k, v, causal=row.causal), "dense")
    if row.kind == "strided":
        return Contender(on_stride, "dense on the residue view")
    if row.kind == "block":
        return Contender(lambda q, k, v: dense(*[block_view(x, l) for x in (q, k, v)]).view(
            q.shape), "dense on the block view")
    if window is None:
        return None
    if row.kind == "local":
        what = "window without learned sinks" if row.learned_sinks else "window"
        return Contender(lambda q, k, v: window(q, k, v, l - 1, 0), what,
                         exact=not row.learned_sinks)
    if row.kind == "merged":
        return Contender(lambda q, k, v: (on_stride(q, k, v), window(q, k, v, l - 1, 0)),
                         "residue view and window, not joined", exact=False)
    if row.kind == "sinks":
        return Contender(lambda q, k, v: window(q, k, v, l - 1, 0), "window without sinks",
                         exact=False)
    if row.kind == "longformer":
        return Contender(lambda q, k, v: window(q, k, v, 256, 256),
                         "window without global tokens", exact=False)
    return None


class Flex:
    """FlexAttention, compiled once for this process."""
    compiled = None

    @classmethod
    def load(cls):
        if cls.compiled is None:
            from torch.nn.attention import flex_attention
            torch._dynamo.config.cache_size_limit = torch._dynamo.config.recompile_limit = 512
            cls.module = flex_attention
            cls.compiled = torch.compile(flex_attention.flex_attention, dynamic=False)
            cls.join = torch.compile(join, dynamic=False)
            cls.sink = torch.compile(join_sinks, dynamic=False)
        return cls

    @classmethod
    def mask(cls, kept, heads, queries, keys, device="cuda"):
        """The BlockMask of kept(head, query, key), rows by rows: create_block_mask has the whole mask
        in memory at once, or compiles a kernel that takes Triton minutes."""
        size, rows = 128, 1024
        head = torch.arange(heads or 1, device=device).view(-1, 1, 1)
        key = torch.arange(keys, device=device)
        counts = []
        for first in range(0, queries, rows):
            query = torch.arange(first, min(first + rows, queries), device=device).view(-1, 1)
            mask = kept(head, query, key).expand(len(head), len(query), keys)
            mask = F.pad(mask, (0, -keys % size, 0, -len(query) % size))
            blocks = mask.view(len(head), mask.shape[1] // size, size, mask.shape[2] // size, size)
            counts.append(blocks.sum((2, 4)))
        counts = torch.cat(counts, 1).unsqueeze(0)  # live pairs of each block

        def ordered(chosen):
            return (chosen.sum(-1, dtype=torch.int32),
                    chosen.int().argsort(dim=-1, descending=True, stable=True).int())
        full = counts == size * size
        return cls.module.BlockMask.from_kv_blocks(
            *ordered((counts > 0) & ~full), *ordered(full), BLOCK_SIZE=size,
            mask_mod=lambda b, h, i, j: kept(h, i, j), seq_lengths=(queries, keys))


def join(out1, lse1, out2, lse2):
    lse = torch.logaddexp(lse1, lse2)
    return (out1 * torch.exp(lse1 - lse).unsqueeze(-1)
            + out2 * torch.exp(lse2 - lse).unsqueeze(-1)).to(out1.dtype)


def join_sinks(out, lse, sinks):
    return (out * torch.sigmoid(lse - sinks.view(1, -1, 1)).unsqueeze(-1)).to(out.dtype)


def flex_attention(row):
    flex = Flex.load()
    per_head = row.kind in ("stripes", "bigbird")
    mask = flex.mask(keep(row, row.n), row.heads if per_head else None, row.n, row.n)
    grouped = row.heads != row.kv_heads
    if row.learned_sinks:
        sinks = sinks_of(row)

        def run(q, k, v):
            out, lse = flex.compiled(swap(q), swap(k), swap(v), block_mask=mask,
                                     enable_gqa=grouped, return_lse=True)
            return swap(flex.sink(out, lse, sinks))
        return Contender(run, "FlexAttention, its sinks joined by log-sum-exp",
                         parameters=(sinks,))
    made = None
    if row.kind == "blocks":
        kept = keep(row, row.n)
        made = lambda: flex.module.create_block_mask(
            lambda b, h, i, j: kept(h, i, j), None, None, row.n, row.n, device="cuda")
    return Contender(lambda q, k, v: swap(flex.compiled(
        swap(q), swap(k), swap(v), block_mask=mask, enable_gqa=grouped)), "FlexAttention",
        make_mask=made)


def flex_two_passes(row):
    l, c, n = row.l, row.c, row.n
    if row.documents or row.kind not in ("fixed", "merged"):
        return None
    flex = Flex.load()

    def attend(q, k, v, mask):
        return flex.compiled(swap(q), swap(k), swap(v), block_mask=mask, return_lse=True)

    if row.kind == "fixed":
        blocks = flex.mask(lambda h, i, j: (i >= j) & (i // l == j // l), None, n, n)
        columns = flex.mask(lambda h, i, j: j // c < i // l, None, n, n // l * c)

        def gather(x):
            batch, _, heads, dim = x.shape
            return x.view(batch, n // l, l, heads, dim)[:, :, l - c:].reshape(
                batch, n // l * c, heads, dim)

        def run(q, k, v):
            out1, lse1 = attend(q, k, v, blocks)
            out2, lse2 = attend(q, gather(k), gather(v), columns)
            return swap(flex.join(out1, lse1, out2, lse2))
        return Contender(run, "FlexAttention on blocks and gathered summaries, joined")

    window = flex.mask(lambda h, i, j: (i > j) & (i - j < l), None, n, n)  # without j = i
    residues = flex.mask(lambda h, i, j: i >= j, None, n // l, n // l)

    def run(q, k, v):
        out1, lse1 = attend(q, k, v, window)
        out2, lse2 = attend(*[strided_view(x, l) for x in (q, k, v)], residues)
        out2 = swap(swap(out2).reshape(q.shape))
        lse2 = swap(swap(lse2).reshape(q.shape[:3]))
        return swap(flex.join(out1, lse1, out2, lse2))
    return Contender(run, "FlexAttention on window and residue view, joined")


def make_contender(name, row):
    """The contender, or None where it cannot run the row."""
    if name == "lace":
        return lace_attention(row)
    if row.documents and name in ("fa3", "cudnn", "fa2"):
        return flash3_documents(row) if name == "fa3" else None
    if name == "fa4":
        return flash4(row)
    if name == "fa3":
        window = lambda q, k, v, left, right: flash3(q, k, v, False, left, right)
        return dense_kernel(row, flash3, window)
    if name == "cudnn":
        return dense_kernel(row, sdpa(SDPBackend.CUDNN_ATTENTION), None)
    if name == "fa2":
        return dense_kernel(row, sdpa(SDPBackend.FLASH_ATTENTION), flash2_window)
    return flex_attention(row) if name == "flex" else flex_two_passes(row)
