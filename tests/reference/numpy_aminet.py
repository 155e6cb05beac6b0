"""AMINet's forward pass a second time, in NumPy: equations and parameter names, nothing of PyTorch.

Every function takes its parameters as a dict of arrays whose keys are the names in the module's state_dict,
so `aminet(x, {k: v.numpy() for k, v in model.state_dict().items()})` is the whole network at its default
structure. Widths and numbers of heads are read from the arrays. Feature maps are [N, C, H, W], float64
throughout. In training mode batch normalisation uses the batch's statistics and updates the running ones in
the dict, in place.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = np.ndarray
Params = dict[str, Array]

EPS = 1e-5  # of layer and batch normalisation
MOMENTUM = 0.1  # of batch normalisation's running statistics
SLOPE = 0.2  # of every leaky ReLU


def within(p: Params, name: str) -> Params:
    """The parameters of the submodule `name`, under the names they have inside it."""
    inner = {k[len(name) + 1 :]: v for k, v in p.items() if k.startswith(name + ".")}
    if not inner:
        raise KeyError(f"no parameter below {name!r}")
    return inner


def per_channel(v: Array) -> Array:
    return v.reshape(-1, 1, 1)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def relu(x: Array, slope: float | Array = 0.0) -> Array:
    return np.where(x > 0, x, slope * x)


def conv2d(x: Array, p: Params, *, stride: int = 1, reflect: bool = False, depthwise: bool = False) -> Array:
    """Cross-correlation of odd size k, padded by k // 2 on every side, plus `bias` if there is one."""
    w = p["weight"]  # [C_out, C_in, k, k], or [C, 1, k, k] where depthwise
    k = w.shape[-1]
    border = ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2))
    padded = np.pad(x, border, mode="reflect" if reflect else "constant")
    windows = sliding_window_view(padded, (k, k), axis=(2, 3))[:, :, ::stride, ::stride]  # [N, C, H', W', k, k]
    if depthwise:
        y = np.einsum("nchwij,cij->nchw", windows, w[:, 0])
    else:
        y = np.moveaxis(np.tensordot(windows, w, axes=((1, 4, 5), (1, 2, 3))), -1, 1)
    return y + per_channel(p["bias"]) if "bias" in p else y


def batch_norm(x: Array, p: Params, training: bool) -> Array:
    if training:
        count = x.size // x.shape[1]
        mean, var = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))  # normalises by the biased variance,
        for name, now in (
            ("running_mean", mean),
            ("running_var", var * count / (count - 1)),
        ):  # keeps the unbiased
            p[name][...] = (1 - MOMENTUM) * p[name] + MOMENTUM * now
        p["num_batches_tracked"][...] += 1
    else:
        mean, var = p["running_mean"], p["running_var"]
    normal = (x - per_channel(mean)) / np.sqrt(per_channel(var) + EPS)
    return normal * per_channel(p["weight"]) + per_channel(p["bias"])


def layer_norm(x: Array, p: Params) -> Array:
    """Over the channels of each pixel."""
    normal = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + EPS)
    return normal * per_channel(p["weight"]) + per_channel(p["bias"])


def attention(y: Array, p: Params) -> Array:
    """Self-attention between the channels of a head (Eq. 2-6), q and k of unit length over the positions."""
    n, c, h, w = y.shape
    heads = len(p["temperature"])
    qkv = conv2d(conv2d(y, within(p, "qkv")), within(p, "qkv_dw"), depthwise=True)
    q, k, v = np.moveaxis(qkv.reshape(n, 3, heads, c // heads, h * w), 1, 0)
    q, k = (t / np.sqrt((t**2).sum(axis=-1, keepdims=True)) for t in (q, k))
    score = np.einsum("bhip,bhjp->bhij", q, k) * p["temperature"]
    weight = np.exp(score - score.max(axis=-1, keepdims=True))
    weight /= weight.sum(axis=-1, keepdims=True)
    mixed = np.einsum("bhij,bhjp->bhip", weight, v).reshape(n, c, h, w)
    return conv2d(mixed, within(p, "proj"))


def hourglass(x: Array, p: Params, training: bool) -> Array:
    """A gate in (0, 1) for each pixel, from full and half size."""

    def block(t: Array, name: str, stride: int = 1) -> Array:
        t = conv2d(t, within(p, name + ".conv"), stride=stride, reflect=True)
        return relu(batch_norm(t, within(p, name + ".bn"), training), SLOPE)

    full = block(x, "b1.0")
    half = block(block(x, "b2.0", stride=2), "plus")
    back = block(half.repeat(2, axis=2).repeat(2, axis=3), "b3.0")
    return x * sigmoid(conv2d(full + back, within(p, "out"), reflect=True))


def feature_refinement(z: Array, p: Params, training: bool) -> Array:
    for i in range(2):
        z = relu(batch_norm(z, within(p, f"bn.{i}"), training), SLOPE)
        z = conv2d(z, within(p, f"conv.{i}"))
    return hourglass(batch_norm(z, within(p, "bn.2"), training), within(p, "hourglass"), training)


def attention_unit(f: Array, p: Params) -> Array:
    """[N, 3C, H, W] to one weight for each of C channels, [N, C, 1, 1]."""
    pooled = f.mean(axis=(2, 3), keepdims=True)
    return sigmoid(conv2d(relu(conv2d(pooled, within(p, "reduce"))), within(p, "expand")))


def rdfe(y: Array, p: Params, training: bool) -> Array:
    """Depthwise 3x3, 5x5 and 7x7 branches, weighed, filtered again, joined and refined (Eq. 7-11)."""
    f = [conv2d(y, within(p, f"dw1.{i}"), depthwise=True) for i in range(3)]
    a = attention_unit(np.concatenate(f, axis=1), within(p, "au"))
    f = [conv2d(f[i] * a, within(p, f"dw2.{i}"), depthwise=True) for i in range(3)]
    z = conv2d(np.concatenate(f, axis=1), within(p, "fuse")) + y
    return z + feature_refinement(z, within(p, "frm"), training)


def skaf(s: Array, p: Params) -> tuple[Array, Array]:
    """The weights of two branches, [N, 1, H, W] each (Eq. 12-15)."""
    u = np.concatenate([conv2d(s, within(p, f"convs.{i}")) for i in range(2)], axis=1)
    m = np.concatenate([u.mean(axis=1, keepdims=True), u.max(axis=1, keepdims=True)], axis=1)
    gates = sigmoid(conv2d(m, within(p, "mix")))
    return gates[:, :1], gates[:, 1:]


def edff(encoder: Array, decoder: Array, p: Params) -> Array:
    """Eq. 16-17."""
    both = np.concatenate([encoder, decoder], axis=1)
    w1, w2 = skaf(conv2d(both, within(p, "reduce")), within(p, "skaf"))
    return encoder * w1 + decoder * w2


def lgfi(x: Array, p: Params, training: bool) -> Array:
    y = layer_norm(x, within(p, "norm"))
    g = attention(y, within(p, "sa"))
    local = rdfe(y, within(p, "rdfe"), training)
    w1, w2 = skaf(g + local, within(p, "skaf"))
    return x + g * w1 + local * w2


def up(x: Array, p: Params) -> Array:
    """[N, 2C, H, W] to [N, C, 2H, 2W]: 1x1 convolution, pixel shuffle, PReLU."""
    x = conv2d(x, within(p, "0"))
    n, c, h, w = x.shape
    x = x.reshape(n, c // 4, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w)
    return relu(x, p["2.weight"])


def aminet(image: Array, p: Params, training: bool = False) -> Array:
    """[N, 3, H, W] upsampled faces to restored ones; H and W divisible by 16."""
    x = conv2d(image, within(p, "head"))
    skips = []
    for i in range(3):
        x = lgfi(x, within(p, f"enc.{i}"), training)
        skips.append(x)
        x = conv2d(x, within(p, f"down.{i}"), stride=2)
    for i in range(2):
        x = lgfi(x, within(p, f"mid.{i}"), training)
    for i in range(3):
        x = edff(skips.pop(), up(x, within(p, f"up.{i}")), within(p, f"edff.{i}"))
        x = lgfi(x, within(p, f"dec.{i}"), training)
    return conv2d(x, within(p, "tail")) + image
