"""Writes the values that tests/test_goldens.c compares with: PyTorch's, computed in float64 from inputs that are exact in float32,
and stored as float32. Made with PyTorch 2.15; run again only to add to them.

    python tests/goldens/make.py
"""
import json
import os
import struct

import torch
import torch.nn.functional as F
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))
torch.set_default_dtype(torch.float64)


def rounded(*size, scale=1.0):
    """Normal numbers that float32 holds exactly."""
    return (torch.randn(*size) * scale).float().double()


def leaf(*size, scale=1.0):
    return rounded(*size, scale=scale).requires_grad_()


def round_parameters(module):
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(rounded(*p.shape, scale=0.5) + (1.0 if "norm" in name and "weight" in name else 0.0))
            p.copy_(p.float().double())


def save(name, tensors):
    """The safetensors format: 8 bytes length, JSON, data. Wide elements first, so that all are aligned."""
    header, data = {}, b""
    kinds = {torch.float64: ("F32", torch.float32), torch.int64: ("I32", torch.int32), torch.bool: ("BOOL", torch.bool)}
    for key in sorted(tensors, key=lambda k: (tensors[k].dtype == torch.bool, k)):
        word, dtype = kinds[tensors[key].dtype]
        t = tensors[key].detach().to(dtype).contiguous()
        raw = bytes(t.flatten().view(torch.uint8).tolist()) if t.numel() else b""
        header[key] = {"dtype": word, "shape": list(t.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(HERE, name + ".safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


# ---- multi-head attention ----

def projections(layer):
    """The names heed has for them -> (tensor that holds it, its rows)."""
    width = layer.embed_dim
    if layer.in_proj_weight is not None:
        rows = {part: (layer.in_proj_weight, slice(i * width, (i + 1) * width)) for i, part in enumerate("qkv")}
    else:
        rows = {"q": (layer.q_proj_weight, slice(None)), "k": (layer.k_proj_weight, slice(None)),
                "v": (layer.v_proj_weight, slice(None))}
    named = {part + ".weight": where for part, where in rows.items()}
    named["out.weight"] = (layer.out_proj.weight, slice(None))
    if layer.in_proj_bias is not None:
        named.update({part + ".bias": (layer.in_proj_bias, slice(i * width, (i + 1) * width))
                      for i, part in enumerate("qkv")})
        named["out.bias"] = (layer.out_proj.bias, slice(None))
    return named


def mha_case(prefix, tensors, layer, query, key, value, names, **masks):
    y, weights = layer(query, key, value, need_weights=True, average_attn_weights=False, **masks)
    dy, dweights = rounded(*y.shape), rounded(*weights.shape)
    ((y * dy).sum() + (weights * dweights).sum()).backward()
    tensors.update({prefix + "y": y, prefix + "weights": weights, prefix + "dy": dy, prefix + "dweights": dweights})
    for name, t in names.items():
        tensors[prefix + name] = t
        tensors[prefix + "grad." + name] = t.grad
    for name, (t, rows) in projections(layer).items():
        tensors[prefix + name] = t[rows]
        tensors[prefix + "grad." + name] = t.grad[rows]


def mha():
    tensors = {}
    layer = nn.MultiheadAttention(16, 4, batch_first=True)
    round_parameters(layer)
    x = leaf(2, 7, 16)
    causal = torch.triu(torch.ones(7, 7, dtype=torch.bool), 1)
    mha_case("causal.", tensors, layer, x, x, x, {"query": x}, attn_mask=causal)

    layer = nn.MultiheadAttention(12, 3, kdim=8, vdim=10, batch_first=True)
    round_parameters(layer)
    q, k, v = leaf(3, 5, 12), leaf(3, 9, 8), leaf(3, 9, 10)
    lengths = torch.tensor([9, 1, 4])
    tensors["cross.lengths"] = lengths
    mha_case("cross.", tensors, layer, q, k, v, {"query": q, "key": k, "value": v},
             key_padding_mask=torch.arange(9)[None, :] >= lengths[:, None])

    layer = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
    round_parameters(layer)
    q, k, bias = leaf(2, 4, 8), leaf(2, 6, 8), leaf(2, 2, 4, 6)
    mha_case("bias.", tensors, layer, q, k, k, {"query": q, "key": k, "bias": bias},
             attn_mask=bias.reshape(4, 4, 6))
    save("mha", tensors)


# ---- encoder layers ----

def encoder():
    tensors = {}
    for prefix, norm_first in (("post.", False), ("pre.", True)):
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, activation="gelu", batch_first=True,
                                           norm_first=norm_first)
        round_parameters(layer)
        x, dy = leaf(2, 6, 16), rounded(2, 6, 16)
        y = layer(x, src_mask=torch.triu(torch.ones(6, 6, dtype=torch.bool), 1))
        (y * dy).sum().backward()
        tensors.update({prefix + "x": x, prefix + "dy": dy, prefix + "y": y, prefix + "grad.x": x.grad})
        named = {"attention." + name: where for name, where in projections(layer.self_attn).items()}
        for mine, theirs in (("feed_forward.in", layer.linear1), ("feed_forward.out", layer.linear2),
                             ("norm1", layer.norm1), ("norm2", layer.norm2)):
            named[mine + ".weight"], named[mine + ".bias"] = ((theirs.weight, slice(None)), (theirs.bias, slice(None)))
        for name, (t, rows) in named.items():
            tensors[prefix + "param." + name] = t[rows]
            tensors[prefix + "grad.param." + name] = t.grad[rows]
    save("encoder", tensors)


# ---- single operations ----

def layer_norm():
    x, weight, bias, dy = leaf(5, 3, 33, scale=3.0), leaf(33), leaf(33), rounded(5, 3, 33)
    y = F.layer_norm(x, (33,), weight, bias, eps=1e-5)
    (y * dy).sum().backward()
    save("layer_norm", {"x": x, "weight": weight, "bias": bias, "dy": dy, "y": y, "grad.x": x.grad,
                        "grad.weight": weight.grad, "grad.bias": bias.grad})


def cross_entropy():
    tensors = {}
    target = torch.tensor([[3, 0, 8], [-100, 2, 2], [8, -100, 5]])
    tensors["target"] = target
    cases = {"mean.": {}, "sum.": {"reduction": "sum"}, "ignore.": {"ignore_index": 2},
             "smooth.": {"label_smoothing": 0.1},
             "all.": {"reduction": "sum", "ignore_index": 8, "label_smoothing": 0.25}}
    logits = rounded(3, 3, 9, scale=2.0)
    tensors["logits"] = logits
    for prefix, options in cases.items():
        x = logits.clone().requires_grad_()
        wanted = target
        if "ignore_index" in options:  # an index of one's own: then −100 is no target
            wanted = torch.where(target < 0, 0, target)
        loss = F.cross_entropy(x.view(-1, 9), wanted.view(-1), **options)
        loss.backward()
        tensors.update({prefix + "loss": loss, prefix + "grad.logits": x.grad})
    save("cross_entropy", tensors)


def adamw():
    tensors = {}
    weight, bias = leaf(4, 6), leaf(4)
    tensors.update({"before.weight": weight.clone(), "before.bias": bias.clone()})
    optim = torch.optim.AdamW([{"params": [weight], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}],
                              lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    for step in range(5):
        weight.grad, bias.grad = rounded(4, 6), rounded(4)
        tensors.update({f"gradient.{step}.weight": weight.grad.clone(), f"gradient.{step}.bias": bias.grad.clone()})
        if step >= 3:
            nn.utils.clip_grad_norm_([weight, bias], 1.0)
        optim.step()
    tensors.update({"after.weight": weight, "after.bias": bias})
    save("adamw", tensors)


def rotary():
    """By complex numbers: pair i of position p times e^(i·p·theta_i)."""
    tensors = {}
    for prefix, half, base, rotated, offset in (("pairs.", False, 10000.0, 12, 0), ("half.", True, 500.0, 8, 77)):
        x, dy = leaf(2, 3, 9, 12), rounded(2, 3, 9, 12)
        angles = torch.outer(torch.arange(9) + float(offset), base ** (-torch.arange(0, rotated, 2) / rotated))
        turned, rest = x[..., :rotated], x[..., rotated:]
        pairs = turned.unflatten(-1, (2, -1)).transpose(-1, -2) if half else turned.unflatten(-1, (-1, 2))
        pairs = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angles), angles))
        y = torch.cat(((pairs.transpose(-1, -2) if half else pairs).flatten(-2), rest), -1)
        (y * dy).sum().backward()
        tensors.update({prefix + "x": x, prefix + "dy": dy, prefix + "y": y, prefix + "grad.x": x.grad})
    save("rotary", tensors)


# ---- a whole step of a GPT ----

class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, mask):
        n = self.norm1(x)
        x = x + self.attention(n, n, n, attn_mask=mask, need_weights=False)[0]
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


def gpt():
    vocabulary, length, width = 17, 8, 16
    tokens_table, positions = leaf(vocabulary, width, scale=0.2), leaf(length, width, scale=0.2)
    blocks = [Block(width, 2) for _ in range(2)]
    norm = nn.LayerNorm(width)
    for module in (*blocks, norm):
        round_parameters(module)
    with torch.no_grad():
        norm.weight.copy_((norm.weight + 1).float().double())
    named = {"tokens.weight": (tokens_table, slice(None)), "positions.weight": (positions, slice(None)),
             "norm.weight": (norm.weight, slice(None)), "norm.bias": (norm.bias, slice(None))}
    for i, block in enumerate(blocks):
        prefix = f"layers.{i}."
        named.update({prefix + "attention." + name: where for name, where in projections(block.attention).items()})
        for mine, theirs in (("feed_forward.in", block.up), ("feed_forward.out", block.down), ("norm1", block.norm1),
                             ("norm2", block.norm2)):
            named[prefix + mine + ".weight"] = (theirs.weight, slice(None))
            named[prefix + mine + ".bias"] = (theirs.bias, slice(None))
    tensors = {"param." + name: t[rows].clone() for name, (t, rows) in named.items()}

    tokens, targets = torch.randint(0, vocabulary, (3, length)), torch.randint(0, vocabulary, (3, length))
    x = F.embedding(tokens, tokens_table) + positions
    mask = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
    for block in blocks:
        x = block(x, mask)
    logits = F.linear(norm(x), tokens_table)
    loss = F.cross_entropy(logits.view(-1, vocabulary), targets.view(-1))
    loss.backward()
    tensors.update({"tokens": tokens, "targets": targets, "logits": logits, "loss": loss})
    tensors.update({"grad." + name: t.grad[rows].clone() for name, (t, rows) in named.items()})

    # eps is large because the gradients of the keys' biases are zero but for rounding, and Adam would blow that up.
    parameters = list({id(t): t for t, _ in named.values()}.values())
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optim = torch.optim.AdamW([{"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
                               {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0}],
                              lr=1e-3, betas=(0.9, 0.999), eps=1e-4)
    optim.step()
    tensors.update({"after." + name: t[rows] for name, (t, rows) in named.items()})
    save("gpt", tensors)


if __name__ == "__main__":
    for seed, make in enumerate((mha, encoder, layer_norm, cross_entropy, adamw, gpt, rotary)):
        torch.manual_seed(seed)
        make()
