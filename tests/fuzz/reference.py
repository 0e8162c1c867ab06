"""Masked attention in float64, forward and backward, with what a kernel may be off by.

The reference is dense and written from its formulas:
    s = scale · q kᵀ    p = softmax of s over the live pairs    out = p v    lse = log Σ exp s
    dP = dout vᵀ    δ = Σ dout · out    dS = p (dP − δ)
    dq = scale · dS k    dk = scale · dSᵀ q    dv = pᵀ dout
A row without live pairs has p = 0, out = 0, lse = −∞. A sink is one more logit without a value:
    Σ exp s is larger by exp sink    dsink = −Σ exp(sink − lse) δ
and where the loss depends on lse too, δ is smaller by dlse. With a softcap c
    t = tanh(scale · q kᵀ / c)    s = c · t    dS = p (dP − δ) (1 − t²)

The error model follows each rounding through these formulas to every element. A kernel computes in
float32 (unit roundoff u; float64 for float64 inputs) and rounds to the inputs' 16 bits (unit
roundoff ε) p, dS and its results, nothing else.
  Roundings in u are added up by their absolute values, the worst case of each: a sum of n terms is
off by n u Σ |terms|; a logit by u of its products, its scaling and the subtraction of the maximum,
which its weight then is relatively. The worst case is far from what happens, but u is small.
  Roundings in ε of different weights have signs that know nothing of each other, where inputs are
random. By Hoeffding's inequality a sum of such errors, each at most c_i, is beyond t √Σ c_i² with a
probability of at most 2 exp(−t²/2): t = 9 makes that 5·10⁻¹⁸ an element. Inputs that are not random
(constants; logits so close together that their weights round alike) get Σ c_i instead. All
together, as a root mean square, independent errors come to less than √Σ c_i² (a rounding error is
at most c, but c/√3 in the mean); twice that is allowed, since a few of them decide on many
elements.
  Numbers below the smallest normal one may be flushed to 0, weights a little earlier.
  cpu_avx512_bf16 multiplies bf16 with vdpbf16ps, which counts operands and sums below 2⁻¹²⁶ as 0
  (Intel's manual: denormals are zero, results are flushed). What an operand, scale · dS above all,
  may lose so is at most its own size, and what a sum may is at most its terms': both are followed
  to every element by their sizes in the case at hand, never more than 2⁻¹²⁶ each.
"""

import math
from dataclasses import dataclass

import torch

DEVIATIONS = 9  # t
FEWEST = 256  # elements of which a root mean square says something


@dataclass
class Precision:
    """Of a kernel's arithmetic on inputs of one dtype."""

    unit: float  # u
    rounding: float  # ε of p and dS; 0 where they stay as they are
    result: float  # of the results
    floor: float  # what p, dS and results may be off by at least
    tiny: float  # what else may be flushed to 0
    exponential: float  # relative error of exp, absolute of log
    denormal: float = 0  # below which operands and sums of products are 0; 0 where none are


def precision(dtype, device, kernel=""):
    functions = 2**-20 if device == "cuda" else 2**-21
    if (kernel, dtype) == ("cpu_avx512_bf16", torch.bfloat16):
        return Precision(2**-24, 2**-8, 2**-8, 2**-124, 2**-126, functions, 2**-126)
    if dtype == torch.float64:
        return Precision(2**-52, 0, 2**-52, 2.0**-1000, 2.0**-1000, 2**-49)
    if dtype == torch.float32:
        return Precision(2**-24, 0, 2**-24, 2**-124, 2**-126, functions)
    if dtype == torch.bfloat16:
        return Precision(2**-24, 2**-8, 2**-8, 2**-124, 2**-126, functions)
    return Precision(2**-24, 2**-11, 2**-11, 2**-24, 2**-126, functions)


@dataclass
class Expected:
    """A result in float64; `worst` bounds the error of each element, `spread` (None: not known) the
    root mean square of all."""

    value: torch.Tensor
    worst: torch.Tensor
    spread: torch.Tensor | None


def root_mean_square(tensor):
    return tensor.square().mean().sqrt()


def combine(value, linear, squares, total, rounding, independent):
    """linear: Σ of errors in u; squares and total: Σ c² and Σ c of those in ε. What is rounded last
    is wrong already: of errors, at most 4 ε more."""
    linear, total = linear * (1 + 4 * rounding), total * (1 + 4 * rounding)
    deviation = squares.sqrt()
    if not independent:
        return Expected(value, linear + total, None)
    worst = linear + torch.minimum(total, DEVIATIONS * deviation)
    return Expected(value, worst, root_mean_square(linear) + 2 * root_mean_square(deviation))


def flushed(a, b, denormal, a_off=0):
    """What a @ b may lose where operands and sums below `denormal` count as 0, and a is off by
    a_off."""
    if denormal == 0:
        return 0
    a, b = a.abs() + a_off, b.abs()
    sums = (a @ b).clamp(max=a.shape[-1] * denormal)
    return a.clamp(max=denormal) @ b + a @ b.clamp(max=denormal) + sums


def attention64(
    q, k, v, live, scale, dout, dtype, independent, kernel="", sinks=None, dlse=None, softcap=None,
    device=None,
):  # fmt: skip
    """Of tensors [batch, heads or kv_heads, rows, head_dim] in float64 and live [heads, q, k] or
    [batch, heads, q, k]: a dict of Expected by name; out and lse, and unless dout is None dq, dk
    and dv, and dsinks. sinks: a logit [batch or 1, heads, q, 1], −∞ in rows that have none. device:
    whose results are expected, if not that of q."""
    eps = precision(dtype, device or q.device.type, kernel)
    u = eps.unit
    batch, heads, q_len, qk_dim = q.shape
    kv_heads, k_len, v_dim = k.shape[1], k.shape[2], v.shape[3]
    group = heads // kv_heads
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    kt, vt = k.transpose(2, 3), v.transpose(2, 3)

    # Forward.
    dots = q @ kt
    logits, slope = scale * dots, 1
    if softcap is not None:
        tangent = (logits / softcap).tanh()
        logits, slope = softcap * tangent, 1 - tangent.square()
    s = logits.masked_fill(~live, -math.inf)
    highest = s.amax(-1, keepdim=True)
    has_keys = live.any(-1, keepdim=True)
    if sinks is not None:
        highest = torch.maximum(highest, sinks)
        has_keys = has_keys | sinks.isfinite()
    shift = highest.masked_fill(~has_keys, 0)
    p = (s - shift).exp()
    total = p.sum(-1, keepdim=True)
    sunk = (sinks - shift).exp() if sinks is not None else torch.zeros_like(total)
    total = (total + sunk).masked_fill(~has_keys, 1)
    p, sunk = p / total, sunk / total
    out = p @ v
    lse = (total.log() + shift).masked_fill(~has_keys, -math.inf)

    # What a weight is off by: relatively by `off`, and by `floor` at least.
    products = q.abs() @ kt.abs()
    off = products * ((qk_dim + 2) * u * abs(scale) + eps.tiny)
    off += flushed(q, kt, eps.denormal) * abs(scale)
    slope_off = 0
    if softcap is not None:  # no slope is more than 1, and no logit further off than from −c to c
        off = (off + 2 * u * dots.abs() * abs(scale)).clamp(max=2 * softcap)
        off += eps.exponential * logits.abs()
        slope_off = (off / softcap) * (2 * tangent.abs() + off / softcap) + 4 * u
    off += 6 * u * (logits.abs() + shift.abs())
    off = torch.expm1((off + eps.exponential).clamp(max=30))
    floor = eps.floor * live
    p_off = p * off
    row_off = p_off.sum(-1, keepdim=True) + k_len * u  # of the sum of a row
    lse_off = row_off.clamp(max=50) + 4 * u * (
        lse.masked_fill(~has_keys, 0).abs() + shift.abs() + 8
    )
    lse_off = lse_off + eps.exponential
    if sinks is not None:  # joined in the precision of lse, and out rounded once more
        lse_off = lse_off + 8 * u * (1 + sinks.masked_fill(sinks.isinf(), 0).abs())
    result = {"lse": Expected(lse.squeeze(-1), lse_off.squeeze(-1), None)}
    # Nothing is known of a weight that may be wrong by more than all there is.
    weight_off = (p_off + p * (row_off + k_len * u)).clamp(max=2) + floor
    absolute_v = v.abs()
    mixed_off = weight_off @ absolute_v
    mixed_off = mixed_off + flushed(p, v, eps.denormal, weight_off)
    if sinks is not None:
        mixed_off = mixed_off + out.abs() * (eps.result + lse_off) + eps.floor
    out_linear = mixed_off + eps.result * out.abs() + eps.floor
    rounded = eps.rounding * p
    out_squares = rounded.square() @ v.square()
    out_squares += rounded.square().sum(-1, keepdim=True) * out.square()
    out_total = rounded @ absolute_v + rounded.sum(-1, keepdim=True) * out.abs()
    result["out"] = combine(out, out_linear, out_squares, out_total, eps.result, independent)
    if dout is None:
        return result

    # Backward.
    dp = dout @ vt
    delta = (dout * out).sum(-1, keepdim=True)
    if dlse is not None:
        delta = delta - dlse.unsqueeze(-1)
    sloped = p * slope
    ds = sloped * (dp - delta)

    def to_keys(tensor):  # the sum over the query heads of a key head
        return tensor.view(batch, kv_heads, group, k_len, -1).sum(2)

    absolute_dout, absolute_q, absolute_k = dout.abs(), q.abs(), k.abs()
    dp_size = dp.abs() + delta.abs()
    # δ is made of out as it was rounded: wrong by as much for a whole row.
    delta_linear = (absolute_dout * (mixed_off + v_dim * u * out.abs())).sum(-1, keepdim=True)
    delta_linear = delta_linear + 2 * u * delta.abs()
    delta_total = eps.result * (absolute_dout * out.abs()).sum(-1, keepdim=True)
    delta_total = delta_total + (rounded * dp_size).sum(-1, keepdim=True)
    delta_squares = (eps.result * dout * out).square().sum(-1, keepdim=True)
    delta_squares = delta_squares + (rounded * dp_size).square().sum(-1, keepdim=True)

    # Weights are computed again, from logits and lse: nothing keeps those of huge logits below 1.
    p_relative = torch.expm1((off.log1p() + lse_off).clamp(max=30))
    p_linear = p * p_relative + floor
    ds_linear = p_linear * dp_size + p * (v_dim * u * (absolute_dout @ absolute_v.transpose(2, 3)))
    ds_linear = ds_linear + p * (delta_linear + flushed(dout, vt, eps.denormal))
    ds_linear = ds_linear * (slope + slope_off) + p * dp_size * slope_off
    ds_linear = ds_linear + eps.floor * live
    ds_rounded = eps.rounding * ds.abs()
    size = abs(scale)
    queries, keys = (k_len + 4) * u, (q_len * group + 4) * u
    operand, operand_off = size * ds, size * ds_linear  # as dS is multiplied with q and k

    dq = scale * (ds @ k)
    dq_linear = size * ((ds_linear + queries * ds.abs()) @ absolute_k)
    dq_linear = dq_linear + eps.tiny * (ds.abs() @ absolute_k) + eps.result * dq.abs() + eps.floor
    dq_linear = dq_linear + flushed(operand, k, eps.denormal, operand_off)
    towards = (sloped @ k).abs()
    dq_squares = size**2 * (ds_rounded.square() @ k.square() + delta_squares * towards.square())
    dq_total = size * (ds_rounded @ absolute_k + delta_total * towards)
    result["dq"] = combine(dq, dq_linear, dq_squares, dq_total, eps.result, independent)

    dk = to_keys(scale * (ds.transpose(2, 3) @ q))
    dk_linear = size * ((ds_linear + keys * ds.abs()).transpose(2, 3) @ absolute_q)
    dk_linear = dk_linear + eps.tiny * (ds.abs().transpose(2, 3) @ absolute_q)
    dk_linear = dk_linear + flushed(
        operand.transpose(2, 3), q, eps.denormal, operand_off.transpose(2, 3)
    )
    dk_linear = to_keys(dk_linear) + eps.result * dk.abs() + eps.floor
    each = ds_rounded.square() + sloped.square() * delta_squares
    dk_squares = size**2 * to_keys(each.transpose(2, 3) @ q.square())
    dk_total = size * to_keys((ds_rounded + sloped * delta_total).transpose(2, 3) @ absolute_q)
    result["dk"] = combine(dk, dk_linear, dk_squares, dk_total, eps.result, independent)

    if sinks is not None:
        of_rows = -sunk * delta
        off = of_rows.abs() * (torch.expm1(lse_off.clamp(max=30)) + batch * q_len * u)
        off = off + sunk * (delta_linear + delta_total) + eps.tiny * (1 + delta.abs())
        result["dsinks"] = Expected(of_rows.sum((0, 2, 3)), off.sum((0, 2, 3)), None)

    dv = to_keys(p.transpose(2, 3) @ dout)
    dv_linear = (p_linear + keys * p).transpose(2, 3) @ absolute_dout
    dv_linear += flushed(p.transpose(2, 3), dout, eps.denormal, p_linear.transpose(2, 3))
    dv_linear = to_keys(dv_linear) + eps.result * dv.abs() + eps.floor
    dv_squares = to_keys(rounded.square().transpose(2, 3) @ dout.square())
    dv_total = to_keys(rounded.transpose(2, 3) @ absolute_dout)
    result["dv"] = combine(dv, dv_linear, dv_squares, dv_total, eps.result, independent)
    return result


def measure(got, expected, dtype, largest, usual):
    """Four numbers, on the device: the largest error over its bound (more than 1 is a fault), the
    root mean square over its (0 if that is not known), and what the reader of a summary wants: the
    largest error over `largest`, and the root mean square over `usual`."""
    got, want = got.double(), expected.value
    if dtype == torch.float16:  # beyond which a rounding is infinite
        got, want = got.clamp(-6e4, 6e4), want.clamp(-6e4, 6e4)
    error = (got - want).abs().masked_fill(got == want, 0)
    ratio = (error / expected.worst).masked_fill(error == 0, 0).nan_to_num(nan=math.inf)
    error = error.nan_to_num(nan=math.inf)
    rms = root_mean_square(error)
    spread = error.new_zeros(())
    if expected.spread is not None and error.numel() >= FEWEST:
        spread = rms / expected.spread
    return torch.stack([ratio.amax(), spread, error.amax() / largest, rms / usual])


def sizes(expected):
    """The largest value and the root mean square of each result by name; of gradients, which may
    cancel to nothing, those of the largest gradient; of lse at least 1."""
    result = {}
    for name, one in expected.items():
        value = one.value.abs().masked_fill(one.value.isinf(), 0)
        result[name] = [value.amax(), root_mean_square(value)]
    if "dq" in expected:
        gradients = [torch.stack(result[name]) for name in ("dq", "dk", "dv")]
        result["dq"] = result["dk"] = result["dv"] = list(torch.stack(gradients).amax(0))
    result["lse"] = [size.clamp(min=1) for size in result["lse"]]
    return result


def worst_element(got, expected):
    """Where the largest error over its bound is, in words."""
    error = (got.double() - expected.value).abs().masked_fill(got.double() == expected.value, 0)
    ratio = (error / expected.worst).masked_fill(error == 0, 0).nan_to_num(nan=math.inf)
    wrong = int((ratio > 1).sum())
    place = torch.unravel_index(ratio.argmax(), ratio.shape)
    return (
        f"at {[int(p) for p in place]} is {got[place].item():.9g}, not "
        f"{expected.value[place].item():.9g} ± {expected.worst[place].item():.3g}; "
        f"{wrong} of {ratio.numel()} elements are off"
    )
