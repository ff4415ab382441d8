"""Cases of heed-bench in JAX (jit), with the same arguments and the same JSON.

    jax_bench.py [--list] [--case NAME] [--threads N] [--seconds S]

XLA sizes its pool of threads by the processors that the process may use, so --threads N pins the process to N of them.
"""
import os
import sys

import peer


def normal(seed, *size):
    import jax
    return jax.random.normal(jax.random.PRNGKey(seed), size)


def attend(q, k, v, causal):
    """[batch, heads, length, width], by einsum and softmax: what jax.nn.dot_product_attention does on a CPU."""
    import jax
    import jax.numpy as jnp
    s = jnp.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5
    if causal:
        s = jnp.where(jnp.tril(jnp.ones(s.shape[-2:], bool)), s, -jnp.inf)
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(s, -1), v)


def runner(function, arguments, gradient, backward):
    """One call of the jitted function, or of its gradients with respect to all arguments."""
    import jax
    if backward:
        def step(*args):
            _, pull = jax.vjp(function, *args)
            return pull(gradient)
        compiled = jax.jit(step)
    else:
        compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*arguments))


def attention(batch, heads, length, width, backward, causal):
    q, k, v, gradient = (normal(i, batch, heads, length, width) for i in range(4))
    return runner(lambda q, k, v: attend(q, k, v, causal), (q, k, v), gradient, backward)


def mha_seed(backward):
    def block(x, w_in, w_out):
        batch, length, width = x.shape
        q, k, v = ((x @ w_in).reshape(batch, length, 3, 32, 4).transpose(2, 0, 3, 1, 4))
        y = attend(q, k, v, False).transpose(0, 2, 1, 3).reshape(batch, length, width)
        return y @ w_out
    arguments = normal(0, 128, 8, 128), normal(1, 128, 384) * 0.1, normal(2, 128, 128) * 0.1
    return runner(block, arguments, normal(3, 128, 8, 128), backward)


CASES = {"mha_seed_fwd": lambda: mha_seed(False), "mha_seed_fwdbwd": lambda: mha_seed(True)}
for _name, _size in {"b8h12s128d64": (8, 12, 128, 64), "b1h8s2048d64c": (1, 8, 2048, 64)}.items():
    for _suffix, _backward in {"fwd": False, "fwdbwd": True}.items():
        CASES[f"attn_{_name}_{_suffix}"] = (
            lambda size=_size, backward=_backward, causal=_name.endswith("c"): attention(*size, backward, causal))


def prepare(arguments):
    if arguments.device != "cpu" or arguments.precision != "f32":
        sys.exit("jax_bench: only --device cpu and --precision f32")
    if arguments.threads:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:arguments.threads])
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    return {"threads": len(os.sched_getaffinity(0)), "jax": jax.__version__}, None


if __name__ == "__main__":
    sys.exit(peer.main(CASES, prepare))
