"""JAX on one thread: the whole step is one compiled function, images are NHWC inside, what is old is given away.

Batch norm keeps no running statistics.
"""

import functools
import math
import os

os.environ["NPROC"] = "1"  # threads of the CPU client
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
from jax import lax


def make(workload, settings):
    forward = _transformer if workload.text else _layers
    weights = {name: jnp.asarray(_laid_out(name, w)) for name, w in workload.weights().items()}
    state = [{name: jnp.zeros_like(w) for name, w in weights.items()} for _ in ("first", "second moment")]
    update = {"sgd": _sgd, "adam": _adam}[workload.optimizer]

    def loss_of(w, x, y):
        p = jax.nn.log_softmax(forward(workload.network, w, x))
        return -jnp.take_along_axis(p, y[..., None], -1).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def train(w, state, t, x, y):
        loss, g = jax.value_and_grad(loss_of)(w, x, y)
        moved = {name: update(w[name], g[name], state[0][name], state[1][name], t + 1, workload.lr) for name in w}
        w, m, v = ({name: three[i] for name, three in moved.items()} for i in range(3))
        return w, [m, v], t + 1, loss

    held = [weights, state, jnp.float32(0.0)]

    def step(batch):
        *held[:], loss = train(*held, *batch)
        loss = float(loss)
        jax.block_until_ready(held)
        return loss

    return lambda x, y: (jnp.asarray(x), jnp.asarray(y)), step


def _laid_out(name, w):
    """Weights as JAX likes them: (inputs, outputs), kernels (K, K, C, O)."""
    if w.ndim == 4:
        return w.transpose(2, 3, 1, 0)
    return w if name in ("tokens.weight", "positions.weight") else w.T


def _sgd(w, g, m, v, t, lr):
    m = 0.9 * m + g
    return w - lr * m, m, v


def _adam(w, g, m, v, t, lr):
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g * g
    c1, c2 = (-jnp.expm1(t * math.log(b)) for b in (0.9, 0.999))  # 1 - b^t, which float32 would cancel
    return w - lr * (m / c1) / (jnp.sqrt(v / c2) + 1e-8), m, v


def _layers(network, w, x):
    if x.ndim == 4:
        x = x.transpose(0, 2, 3, 1)
    for i, layer in enumerate(network):
        weight, bias = w.get(f"{i}.weight"), w.get(f"{i}.bias", 0.0)
        if layer.kind == "Linear":
            x = x @ weight + bias
        elif layer.kind == "Conv2d":
            around = [(layer.options.get("padding", 0),) * 2] * 2
            x = lax.conv_general_dilated(x, weight, (1, 1), around, dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias
        elif layer.kind == "BatchNorm2d":
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            x = (x - mean) * lax.rsqrt(var + 1e-5) * weight + bias
        elif layer.kind == "AvgPool2d":
            n, h, width, c = x.shape
            x = x.reshape(n, h // 2, 2, width // 2, 2, c).mean((2, 4))
        elif layer.kind == "MaxPool2d":
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        elif layer.kind == "Flatten":
            x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        else:
            x = {"ReLU": jax.nn.relu, "Sigmoid": jax.nn.sigmoid}[layer.kind](x)
    return x


def _transformer(t, w, x):
    def linear(x, name):
        return x @ w[f"{name}weight"] + w[f"{name}bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    n, length = x.shape
    y = w["tokens.weight"][x] + w["positions.weight"]
    causal = jnp.tril(jnp.ones((length, length), bool))
    for block in (f"blocks.{i}." for i in range(t.layers)):
        qkv = linear(norm(y, f"{block}norm1"), f"{block}self_attn.in_proj_")
        q, k, v = qkv.reshape(n, length, 3, t.heads, -1).transpose(2, 0, 3, 1, 4)
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        attended = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf)) @ v
        attended = attended.transpose(0, 2, 1, 3).reshape(n, length, -1)
        y = y + linear(attended, f"{block}self_attn.out_proj.")
        hidden = jax.nn.gelu(linear(norm(y, f"{block}norm2"), f"{block}linear1."), approximate=False)
        y = y + linear(hidden, f"{block}linear2.")
    return linear(norm(y, "norm"), "head.")
