"""The cases of heed-bench in PyTorch (eager), with the same arguments and the same JSON.

    torch_bench.py [--list] [--case NAME] [--threads N] [--seconds S] [--device cpu|cuda] [--precision f32|bf16]

bf16 is autocast, which is to PyTorch what mixed precision is to heed.
"""
import math
import sys

import peer
import torch
import torch.nn.functional as F
from torch import nn


def sgemm(m, n, k):
    a, b = torch.randn(m, k), torch.randn(k, n)

    def run():
        with torch.inference_mode():
            torch.matmul(a, b)
    return run


def softmax_seed():
    x = torch.randn(128, 32, 8, 8)

    def run():
        with torch.inference_mode():
            torch.softmax(x, -1)
    return run


def mha_seed(backward, weights=False):
    layer = nn.MultiheadAttention(128, 32, bias=False, batch_first=True)
    x, gradient = torch.randn(128, 8, 128), torch.randn(128, 8, 128)

    def forward_only():
        with torch.inference_mode():
            layer(x, x, x, need_weights=weights, average_attn_weights=False)

    def both():
        layer.zero_grad(set_to_none=True)
        x.grad = None
        layer(x, x, x, need_weights=False)[0].backward(gradient)

    x.requires_grad_(backward)
    layer.train(backward)
    return both if backward else forward_only


def attention(batch, heads, length, width, backward, causal=True, dropout=0.0, bias=False):
    q, k, v, gradient = (torch.randn(batch, heads, length, width) for _ in range(4))
    inputs = [q, k, v]
    mask = None
    if bias:
        mask = torch.randn(1, heads, length, length)
        inputs.append(mask)
    for t in inputs:
        t.requires_grad_(backward)

    def attend():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout)

    def forward_only():
        with torch.inference_mode():
            attend()

    def both():
        for t in inputs:
            t.grad = None
        attend().backward(gradient)

    return both if backward else forward_only


def decode(heads, kv_heads, keys, width):
    q, k, v = torch.randn(1, heads, 1, width), torch.randn(1, kv_heads, keys, width), torch.randn(1, kv_heads, keys, width)

    def run():
        with torch.inference_mode():
            F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    return run


def t5_buckets(length, buckets=32, most=128):
    """The bucket of every distance key − query (Raffel et al. 2020, section 2.1), both directions."""
    distance = torch.arange(length)[None, :] - torch.arange(length)[:, None]
    half, far = buckets // 2, distance.abs()
    exact = half // 2
    log = exact + (torch.log(far.clamp(min=1) / exact) / math.log(most / exact) * (half - exact)).long()
    return torch.where(distance > 0, half, 0) + torch.where(far < exact, far, log.clamp(max=half - 1))


def attention_t5(heads, length, width):
    """A table that learns, gathered to a dense bias: PyTorch has no other way."""
    q, k, v, gradient = (torch.randn(1, heads, length, width) for _ in range(4))
    table, bucket = torch.randn(heads, 32), t5_buckets(length)
    inputs = [q, k, v, table]
    for t in inputs:
        t.requires_grad_(True)

    def run():
        for t in inputs:
            t.grad = None
        F.scaled_dot_product_attention(q, k, v, attn_mask=table[:, bucket][None]).backward(gradient)
    return run


def attention_window(heads, length, width, keys):
    """FlexAttention, compiled; PyTorch's fused attention knows no windows."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    q, k, v = (torch.randn(1, heads, length, width) for _ in range(3))
    mask = create_block_mask(lambda b, h, i, j: (j <= i) & (i - j < keys), None, None, length, length, device=q.device.type)
    compiled = torch.compile(flex_attention)

    def run():
        with torch.no_grad():
            compiled(q, k, v, block_mask=mask)
    return run


class Block(nn.Module):
    """A pre-norm block of GPT-2."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    """Decoder only, learned positions, the token table also as output."""

    def __init__(self, vocabulary, length, layers, heads, width):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.layers = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.norm(x), self.tokens.weight)


def gpt_step(layers, heads, width, length, batch, vocabulary):
    model = GPT(vocabulary, length, layers, heads, width)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    # fused: the fastest AdamW that PyTorch has
    optim = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
                              lr=1e-4, fused=True)
    x, y = (torch.randint(0, vocabulary, (batch, length)) for _ in range(2))

    def run():
        optim.zero_grad(set_to_none=True)
        F.cross_entropy(model(x).view(-1, vocabulary), y.view(-1)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optim.step()
    return run


def memory(function):
    """A function of two tensors [4096, 4096], without gradients."""
    x, y = torch.randn(4096, 4096), torch.randn(4096, 4096)

    def run():
        with torch.inference_mode():
            function(x, y)
    return run


def norm(backward):
    x, gradient = torch.randn(4096, 4096), torch.randn(4096, 4096)
    weight, bias = torch.randn(4096), torch.randn(4096)
    x.requires_grad_(backward)

    def run():
        x.grad = None
        with torch.set_grad_enabled(backward):
            y = F.layer_norm(x, (4096,), weight, bias)
        if backward:
            y.backward(gradient)
    return run


def residual():
    x, branch = torch.randn(4096, 768, requires_grad=True), torch.randn(4096, 768, requires_grad=True)
    weight, bias, gradient = torch.randn(768), torch.randn(768), torch.randn(4096, 768)

    def run():
        x.grad = branch.grad = None
        F.layer_norm(x + F.dropout(branch, 0.1), (768,), weight, bias).backward(gradient)
    return run


def loss():
    x, target = torch.randn(1024, 50257, requires_grad=True), torch.full((1024,), 7)

    def run():
        x.grad = None
        F.cross_entropy(x, target).backward()
    return run


def adamw():
    weight, gradient = torch.zeros(4096, 4096, requires_grad=True), torch.randn(4096, 4096)
    optim = torch.optim.AdamW([weight], lr=1e-4, fused=True)

    def run():
        weight.grad = None
        (weight * 1).backward(gradient)
        nn.utils.clip_grad_norm_([weight], 1.0)
        optim.step()
    return run


CASES = {
    "sgemm_256": lambda: sgemm(256, 256, 256),
    "sgemm_1024": lambda: sgemm(1024, 1024, 1024),
    "sgemm_mlp": lambda: sgemm(2048, 1536, 384),
    "sgemm_narrow": lambda: sgemm(1024, 128, 128),
    "softmax_seed": softmax_seed,
    "mha_seed_fwd": lambda: mha_seed(False),
    "mha_seed_weights_fwd": lambda: mha_seed(False, weights=True),
    "mha_seed_fwdbwd": lambda: mha_seed(True),
    "attn_dropout_4096_fwdbwd": lambda: attention(1, 4, 4096, 64, True, dropout=0.1),
    "attn_bias_4096_fwdbwd": lambda: attention(1, 4, 4096, 64, True, causal=False, bias=True),
    "decode_32h_4096": lambda: decode(32, 8, 4096, 128),
    "attn_t5_4096_fwdbwd": lambda: attention_t5(4, 4096, 64),
    "attn_window_2048_fwd": lambda: attention_window(4, 2048, 64, 256),
    "gpt_nano_step": lambda: gpt_step(4, 4, 128, 64, 12, 65),
    "gpt_mini_step": lambda: gpt_step(6, 6, 384, 256, 8, 256),
    "gpt2_124m_step": lambda: gpt_step(12, 12, 768, 64, 4, 50257),
    "memory_add": lambda: memory(torch.add),
    "memory_transpose": lambda: memory(lambda x, y: x.t().contiguous()),
    "memory_gelu": lambda: memory(lambda x, y: F.gelu(x)),
    "memory_softmax": lambda: memory(lambda x, y: torch.softmax(x, -1)),
    "memory_norm_fwd": lambda: norm(False),
    "memory_norm_fwdbwd": lambda: norm(True),
    "memory_residual_fwdbwd": residual,
    "memory_loss_fwdbwd": loss,
    "memory_adamw": adamw,
}
for _name, _size in {"b8h12s128d64": (8, 12, 128, 64), "b4h8s512d64c": (4, 8, 512, 64),
                     "b1h8s2048d64c": (1, 8, 2048, 64), "b1h4s8192d64c": (1, 4, 8192, 64)}.items():
    for _suffix, _backward in {"fwd": False, "fwdbwd": True}.items():
        CASES[f"attn_{_name}_{_suffix}"] = (
            lambda size=_size, backward=_backward, causal=_name.endswith("c"): attention(*size, backward, causal))


def prepare(arguments):
    torch.manual_seed(1)
    torch.set_default_device(arguments.device)
    if arguments.precision == "bf16":
        torch.autocast(arguments.device, torch.bfloat16).__enter__()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    about = {"threads": torch.get_num_threads(), "torch": torch.__version__, "precision": arguments.precision}
    return about, None if arguments.device == "cpu" else torch.cuda.synchronize


if __name__ == "__main__":
    sys.exit(peer.main(CASES, prepare))
