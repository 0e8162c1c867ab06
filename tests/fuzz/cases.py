"""Cases for the fuzzer: each a pure function of the seed, its number and the kernel.

A case is numbers and names only; build() makes its tensors on a device.
"""

import random
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from pattern_draw import EDGES, PatternDraw, log_uniform
from sequences import Sequences, draw_sequences

LONGEST = 1700
MOST_HEADS = 12
SHORT_NAMES = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


@dataclass
class Profile:
    """What a kernel computes, and how much of it is drawn for a case."""

    device: str
    dtypes: list
    most_dim: int
    multiple: int  # of which most head dims are
    pairs: int  # most of batch · heads · q_len · k_len, but four times that for a few cases
    work: int  # most of pairs · head dims
    aligned: bool = False  # rows must begin at multiples of 16 bytes
    positive_scale: bool = False
    block_masks: float = 0.1  # share of the cases


CPU = Profile("cpu", [torch.float32, torch.bfloat16, torch.float16], 512, 1, 200_000, 10_000_000)
PROFILES = {
    "cuda_sm90": Profile(
        "cuda", [torch.bfloat16, torch.float16], 256, 8, 8_000_000, 1_000_000_000, True, True
    ),
    "cuda_portable": Profile(
        "cuda", [torch.bfloat16, torch.float16], 256, 8, 4_000_000, 500_000_000
    ),
    "cpu_avx512_bf16": CPU,
    "cpu_avx512": CPU,
    "cpu_avx2": CPU,
    "cpu_portable": CPU,
    "reference": Profile("cpu", list(SHORT_NAMES), 512, 1, 20_000, 1_000_000),
}
FEW = 0.03  # share of the cases that break what a kernel asks for, to see it refuse
ODD = 0.15  # share of head dims that are no multiples, for a kernel that gets them filled up


# ---- views --------------------------------------------------------------------------------------


@dataclass
class View:
    """How a tensor [batch, heads, rows, head_dim] lies in a storage of its own."""

    kind: str
    order: tuple = (0, 1, 2, 3)  # of dimensions, outermost first
    pads: tuple = (0, 0, 0, 0)  # elements after each dimension
    steps: tuple = (1, 1, 1, 1)
    offset: int = 0
    expanded: tuple = ()  # dimensions of stride 0
    row_stride: int = 0  # of rows that overlap

    def strides(self, sizes):
        """Strides, and the elements from the first to the last."""
        strides, extent = [0] * 4, 1
        for dim in reversed(self.order):
            strides[dim] = extent * self.steps[dim]
            if dim == 2 and self.row_stride:
                strides[dim] = self.row_stride
            size = 1 if dim in self.expanded else sizes[dim]
            last = (size - 1) * strides[dim] + extent
            extent = last + self.steps[dim] - 1 + self.pads[dim]
        extent = -(-extent // 8) * 8
        for dim in self.expanded:
            strides[dim] = 0
        return strides, extent

    def build(self, sizes, values, dtype, device):
        """The storage and the view of it; what no view shows of the storage is NaN."""
        strides, extent = self.strides(sizes)
        storage = torch.full((self.offset + extent + 8,), torch.nan, dtype=dtype, device=device)
        stored = [1 if dim in self.expanded else size for dim, size in enumerate(sizes)]
        if self.row_stride:
            storage.copy_(values((storage.numel(),)))
        else:
            storage.as_strided(stored, strides, self.offset).copy_(values(stored))
        return storage, storage.as_strided(sizes, strides, self.offset)

    def text(self):
        fields = [f"{name}={getattr(self, name)}" for name in ("order", "pads", "steps", "offset")]
        extra = f" expanded={self.expanded}" if self.expanded else ""
        extra += f" row_stride={self.row_stride}" if self.row_stride else ""
        return f"{self.kind}({' '.join(fields)}{extra})"


def draw_view(rng, aligned):
    """aligned: of rows at multiples of 8 elements, and no stride of 0."""
    unit = 8 if aligned else rng.choice([1, 1, 8])
    pads = tuple(unit * rng.choice([0, 1, 2, 5]) for _ in range(3))
    offset = unit * rng.choice([0, 1, 3])
    kinds = {
        "contiguous": (5, {}),
        "heads_within_rows": (5, {"order": (0, 2, 1, 3)}),
        "padded": (3, {"pads": (*pads[:2], 0, pads[2]), "offset": offset}),
        "offset": (2, {"offset": offset}),
        "permuted": (3, {"order": (*rng.sample(range(3), 3), 3), "pads": (*pads, 0)}),
        "rows_apart": (2, {"steps": (1, 1, rng.choice([2, 3]), 1), "offset": offset}),
        "elements_apart": (1, {"steps": (1, 1, 1, 2), "offset": offset}),
        "rows_innermost": (1, {"order": (0, 1, 3, 2), "offset": offset}),
        "overlapping": (1, {"row_stride": 8 if aligned else rng.choice([1, 5, 8])}),
    }
    if not aligned:
        dims = rng.choice([(0,), (1,), (2,), (0, 1), (0, 1, 2)])
        kinds["expanded"] = (2, {"expanded": dims})
    kind = rng.choices(list(kinds), [weight for weight, _ in kinds.values()])[0]
    return View(kind, **kinds[kind][1])


# ---- values -------------------------------------------------------------------------------------


@dataclass
class Values:
    kind: str
    size: float

    def text(self):
        return f"{self.kind}({self.size:g})"

    def make(self, sizes, gen, device):
        if self.kind == "constant":
            return torch.full(sizes, self.size, device=device)
        values = torch.randn(sizes, generator=gen, device=device) * self.size
        if self.kind == "spikes":  # rows (or elements, of a storage) that are much larger
            rows = torch.rand((*sizes[:-1], 1), generator=gen, device=device) < 0.05
            values *= torch.where(rows, 20.0, 1.0)
        return values


def draw_values(rng, dtype):
    x = rng.random()
    if x < 0.7:
        return Values("normal", rng.choice([1.0, 1.0, 1.0, 0.3, 2.0]))
    if x < 0.82:
        return Values("spikes", rng.choice([0.3, 1.0]))
    if x < 0.9:
        return Values("constant", rng.choice([0.0, 1.0, -2.5, 0.1]))
    if dtype == torch.float16:
        return Values("normal", rng.choice([1e-3, 5.0]))
    return Values("normal", rng.choice([1e-3, 1e-20, 30.0, 300.0]))


# ---- a case -------------------------------------------------------------------------------------


@dataclass
class Case:
    seed: int
    number: int
    dtype: torch.dtype
    batch: int
    heads: int
    kv_heads: int
    q_len: int
    k_len: int
    qk_dim: int
    v_dim: int
    pattern: object
    scale: float | None
    deterministic: str  # "no", "argument" or "global": of libtorch
    backward: bool
    wanted: tuple  # which of q, k, v need gradients
    again: bool  # called a second time, with other_threads
    threads: int
    other_threads: int
    storage: str  # "apart", "fused" or "shared"
    views: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)
    values_seed: int = 0
    sequences: Sequences | None = None
    sinks: list | None = None  # of each head
    of_lse: bool = False  # the loss depends on lse too
    softcap: float | None = None
    block_mask: tuple | None = None  # of the pattern's pairs: bool [heads or 1, …], block size

    def text(self):
        gradients = f"gradients of {' '.join(self.wanted)}" if self.backward else "forward only"
        again = f", again with {self.other_threads} threads" if self.again else ""
        lines = [
            f"pattern   {self.pattern.text()}",
            f"shapes    {SHORT_NAMES[self.dtype]} batch {self.batch} "
            f"heads {self.heads}/{self.kv_heads} lengths {self.q_len}/{self.k_len} "
            f"head dims {self.qk_dim}/{self.v_dim}",
            f"call      scale {self.scale}, deterministic: {self.deterministic}, "
            f"threads {self.threads}, {gradients}{again}",
            f"storage   {self.storage}",
        ]
        for name, view in self.views.items():
            lines.append(
                f"{name:<9} {self.values[name].text()} {view.text() if view else ''}".rstrip()
            )
        if self.sequences:
            lines.append(f"sequences {self.sequences.text()}")
        if self.sinks:
            lines.append(f"sinks     {self.sinks}")
        if self.block_mask:
            live, size = self.block_mask
            lines.append(f"blocks    {list(live.shape)} of {size}, {int(live.sum())} live")
        if self.softcap:
            lines.append(f"softcap   {self.softcap}")
        if self.of_lse:
            lines.append("loss      of lse too")
        for mask in self.pattern.masks:
            lines.append(
                f"mask      {list(mask.live.shape)} in blocks of {mask.block_size}, "
                f"{int(mask.live.sum())} of {mask.live.numel()} live"
            )
        return "\n".join(lines)

    def block_pairs(self, length):
        """Of `length` positions with themselves those in live blocks: bool [heads or 1, length,
        length]."""
        live, size = self.block_mask
        live = live.expand(1, *live.shape) if live.dim() == 2 else live
        pairs = torch.zeros((len(live), length, length), dtype=torch.bool)
        inside = live.repeat_interleave(size, 1).repeat_interleave(size, 2)[:, :length, :length]
        pairs[:, : inside.shape[1], : inside.shape[2]] = inside
        return pairs

    def actual_scale(self):
        return self.qk_dim**-0.5 if self.scale is None else self.scale

    def independent(self):
        """Whether the roundings of weights have nothing to do with each other: random inputs, all
        different, and logits that spread over many units in the last place."""
        spread = abs(self.actual_scale()) * self.qk_dim**0.5
        for name, values in self.values.items():
            view = self.views[name]
            if values.kind == "constant" or values.size < 0.1 or (view and view.expanded):
                return False
            if name in "qk":
                spread *= values.size
        return spread >= 0.1 and (self.softcap is None or spread <= self.softcap)

    def build(self, device):
        """q, k, v and dout by name, and the storages behind them."""
        gen = torch.Generator(device).manual_seed(self.values_seed)
        sizes = {
            "q": (self.batch, self.heads, self.q_len, self.qk_dim),
            "k": (self.batch, self.kv_heads, self.k_len, self.qk_dim),
            "v": (self.batch, self.kv_heads, self.k_len, self.v_dim),
            "dout": (self.batch, self.heads, self.q_len, self.v_dim),
        }
        tensors, storages = {}, []
        if self.storage == "fused":
            storages.append(self.fuse(sizes, tensors, gen, device))
        for name, view in self.views.items():
            if view is None:
                continue
            values = partial(self.values[name].make, gen=gen, device=device)
            storage, tensors[name] = view.build(sizes[name], values, self.dtype, device)
            storages.append(storage)
        if self.storage == "shared":
            tensors["q"] = tensors["k"][:, :, self.k_len - self.q_len :]
            tensors["v"] = tensors["k"][..., : self.v_dim]
        return tensors, storages

    def fuse(self, sizes, tensors, gen, device):
        """q, k and v side by side in each row, as one product of a layer gives them."""
        widths = {name: sizes[name][1] * sizes[name][3] for name in "qkv"}
        storage = torch.full(
            (self.batch, self.k_len, sum(widths.values())),
            torch.nan,
            dtype=self.dtype,
            device=device,
        )
        begin = 0
        for name, width in widths.items():
            rows = storage[:, self.k_len - sizes[name][2] :, begin : begin + width]
            rows = rows.unflatten(2, (sizes[name][1], sizes[name][3])).transpose(1, 2)
            rows.copy_(self.values[name].make(sizes[name], gen, device))
            tensors[name] = rows
            begin += width
        return storage


def draw_length(rng):
    x = rng.random()
    if x < 0.35:
        return rng.choice(
            [63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257, 383, 385, 512, 1024]
        )
    if x < 0.45:
        return rng.randint(1, 40)
    return log_uniform(rng, 1, LONGEST)


def draw_lengths(rng, pairs):
    k_len = draw_length(rng)
    q_len = k_len
    if rng.random() < 0.4:
        q_len = rng.choice(
            [1, rng.randint(1, k_len), min(k_len, rng.choice(EDGES)), max(1, k_len - 1)]
        )
    if q_len * k_len > pairs:
        if rng.random() < 0.5:
            q_len = max(1, pairs // k_len)
        else:
            k_len = max(1, int(pairs**0.5))
            q_len = min(q_len, k_len)
    return q_len, k_len


def draw_heads(rng, most):
    """heads and kv_heads"""
    kv_heads, group = rng.choice([(1, 1), (2, 1), (4, 1), (12, 1), (3, 1), (1, 4), (1, 12), (2, 2),
                                  (3, 4), (2, 6), (4, 3), (1, 5), (1, 2), (6, 2)])  # fmt: skip
    while kv_heads * group > most:
        if kv_heads > 1 and (group == 1 or rng.random() < 0.5):
            kv_heads -= 1
        else:
            group -= 1
    return kv_heads * group, kv_heads


def draw_dim(rng, profile, multiple, most):
    usual = [8, 16, 32, 40, 64, 64, 80, 96, 128, 128, 192, 256, 512]
    if multiple == 1 and rng.random() < 0.5:
        dim = rng.choice([1, 2, 3, 7, 9, 36, 100, 129, 264, log_uniform(rng, 1, profile.most_dim)])
    elif rng.random() < 0.6:
        dim = rng.choice([dim for dim in usual if dim <= profile.most_dim])
    else:
        dim = 8 * rng.randint(1, profile.most_dim // 8)
    return dim if dim <= most else max(multiple, most // multiple * multiple)


def draw_dims(rng, profile, pairs):
    multiple, most = profile.multiple, profile.most_dim
    if multiple > 1 and rng.random() < ODD:
        multiple = 1
    most = min(most, max(profile.multiple, profile.work // pairs // 2))
    qk_dim = draw_dim(rng, profile, multiple, most)
    same = rng.random() < 0.4
    return qk_dim, qk_dim if same else draw_dim(rng, profile, multiple, most)


def draw_scale(rng, positive):
    x = rng.random()
    if x < 0.5:
        return None
    scale = rng.choice([1e-3, 0.05, 0.3, 1.0, 4.0, 1e-46, 1e-40, rng.uniform(0.01, 1.5)])
    if positive and rng.random() >= FEW:
        return scale if scale > 1e-37 else 1e-36  # a normal float32
    return rng.choice([scale, -scale, 0.0, -0.2])


def draw_storage(rng, case, aligned):
    one_size = case.heads == case.kv_heads and case.v_dim <= case.qk_dim
    if rng.random() < 0.15:
        case.storage = "fused"
    elif one_size and rng.random() < 0.1:
        case.storage = "shared"
    for name in ("q", "k", "v", "dout"):
        if name == "dout" and not case.backward:
            continue
        view = draw_view(rng, aligned and name != "dout")
        own = (
            name == "dout" or case.storage == "apart" or (case.storage == "shared" and name == "k")
        )
        case.views[name] = view if own else None
        case.values[name] = draw_values(rng, case.dtype)


def draw_case(kernel, seed, number, folder, small=False, masked=False):
    """folder: where its masks' files will lie. small: of a sixteenth of the size. masked: with a
    mask of blocks."""
    profile = replace(PROFILES[kernel], **({"block_masks": 1.0} if masked else {}))
    if small:
        profile = replace(profile, pairs=profile.pairs // 16, work=profile.work // 16)
    rng = random.Random(f"lace {kernel} {seed} {number}")
    large = rng.random() < 0.03
    pairs = 4 * profile.pairs if large else log_uniform(rng, 1000, profile.pairs)
    q_len, k_len = draw_lengths(rng, pairs)
    most = min(MOST_HEADS, max(1, pairs // (q_len * k_len)))
    heads, kv_heads = draw_heads(rng, most)
    batch = rng.choice([1, 1, 2, 3])
    batch = min(batch, max(1, pairs // (q_len * k_len * heads)))
    qk_dim, v_dim = draw_dims(rng, profile, batch * heads * q_len * k_len)
    threads = rng.choices([1, 2, 3], [3, 6, 1])[0]
    case = Case(
        seed=seed,
        number=number,
        dtype=rng.choice(profile.dtypes),
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        q_len=q_len,
        k_len=k_len,
        qk_dim=qk_dim,
        v_dim=v_dim,
        pattern=PatternDraw(rng, heads, k_len, folder, f"{seed}-{number}").pattern(),
        scale=draw_scale(rng, profile.positive_scale),
        deterministic=rng.choices(["no", "argument", "global"], [6, 3, 1])[0],
        backward=rng.random() < 0.85,
        wanted=rng.choice([("q", "k", "v")] * 5 + [("q",), ("k",), ("v",), ("k", "v")]),
        again=rng.random() < 0.15,
        threads=threads,
        other_threads=rng.choice([n for n in (1, 2, 3) if n != threads]),
        storage="apart",
        values_seed=rng.getrandbits(63),
    )
    draw_storage(rng, case, profile.aligned and rng.random() >= FEW)
    case.sequences = draw_sequences(rng, case)
    if rng.random() < 0.25:
        case.sinks = [rng.choice([-100.0, -3.0, 0.0, rng.gauss(0, 2), 8.0]) for _ in range(heads)]
    case.of_lse = case.backward and rng.random() < 0.3
    if rng.random() < 0.2:
        case.softcap = rng.choice([0.5, 2.0, 10.0, 30.0, 50.0, rng.uniform(0.3, 100)])
    if rng.random() < profile.block_masks:
        positions = case.sequences.positions() if case.sequences else k_len
        size = rng.choice([1, 16, 24, 64, 128, rng.randint(1, 200)])
        size = max(size, -(-positions // 64))  # 64 blocks at most
        blocks = max(1, -(-positions // size) - rng.choice([0, 0, 0, 1]))
        shape = rng.choice([(blocks, blocks), (1, blocks, blocks), (heads, blocks, blocks)])
        share, gen = rng.choice([0.1, 0.5, 0.9]), torch.Generator().manual_seed(rng.getrandbits(63))
        case.block_mask = (torch.rand(shape, generator=gen) < share, size)
    return case
