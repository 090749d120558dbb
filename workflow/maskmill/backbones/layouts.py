"""Where a checkpoint keeps its backbone.

Training code saves a backbone within others: in wrappers (`state_dict`, `model`), below prefixes (`module.encoder_q.`),
beside a second network (a teacher, a momentum encoder), heads, queues and optimisers. Instead of a list of them, the
tensors are found by the names that the wanted architecture has itself, below whatever prefix these lie. Names that
are spelt in another way (transformers, blocks in chunks) are respelt first. docs/backbones.md lists what was tried.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from maskmill.errors import WeightsError

if TYPE_CHECKING:
    import torch

LEAST = 0.3  # share of an architecture's names below a prefix, for it to be a network of this architecture
DEPTH = 20  # mappings within mappings that are looked into; no training code has as many
WRAPPING = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # of torch, anywhere within a name
AVERAGED = re.compile(r"(teacher|ema)(_.*)?|.*_ema")  # weights averaged over training: preferred to all others
SECOND = re.compile(r"(student|momentum|target)(_.*)?|.*_(k|momentum)")  # what no published code reads out
CHUNK = re.compile(r"(^|\.)blocks\.\d+\.(\d+\.)(?=norm|attn|mlp|ls)")  # blocks.<chunk>.<block>. of DINOv2's training
PATCHES = "embeddings.patch_embeddings.projection.weight"  # by which names of transformers are known
LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias|lambda1)")
IN_LAYER = {
    "layernorm_before": "norm1", "layernorm_after": "norm2", "norm1": "norm1", "norm2": "norm2",
    "attention.output.dense": "attn.proj", "layer_scale1": "ls1", "layer_scale2": "ls2",
    "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    "mlp.weights_in": "mlp.fc1", "mlp.weights_out": "mlp.fc2",
}  # fmt: skip
EMBEDDINGS = {
    "embeddings.cls_token": "cls_token", "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed", "embeddings.register_tokens": "register_tokens",
    PATCHES: "patch_embed.proj.weight", PATCHES.replace("weight", "bias"): "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight", "layernorm.bias": "norm.bias",
}  # fmt: skip
State = dict[str, "torch.Tensor"]


def backbone_of(body: Any, wanted: Collection[str], origin: str) -> tuple[State, str]:
    """The tensors of a backbone by the names of its architecture, and a sentence on the choice where there was one.

    Args:
        body: what the file holds. wanted: names of the architecture's own state dict. origin: the file, for messages.

    Raises:
        WeightsError: no tensors; or several different networks of this architecture, none of which is a teacher's.
    """
    tensors = _respelt(dict(_tensors(body)), wanted)
    if not tensors:
        raise WeightsError(f"{origin}: holds no tensors by name; save model.state_dict()")
    roots = _roots(tensors, wanted)
    if not roots:
        return _largest(tensors), ""
    first = [root for root in roots if _rank(root) == _rank(roots[0])]
    states = {root: _below(tensors, root) for root in first}
    chosen = first[0]
    for other in first[1:]:
        if not _equal(states[chosen], states[other], wanted):
            raise WeightsError(
                f"{origin}: holds several networks of this architecture, below {_listed(first)}; save the state dict "
                "of the one that you mean in a file of its own"
            )
    rest = [root for root in roots if root not in first]
    return states[chosen], f"{origin}: took {_listed([chosen])}, not {_listed(rest)}" if rest else ""


def _tensors(
    body: Any, prefix: str = "", depth: int = 0, seen: set[int] | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of all mappings within mappings, names joined by dots; each mapping once, so that this ends."""
    import torch

    seen = set() if seen is None else seen
    if not isinstance(body, Mapping) or id(body) in seen or depth > DEPTH:
        return
    seen.add(id(body))
    for key, value in body.items():
        name = ".".join(part for part in f"{prefix}{key}".split(".") if part not in WRAPPING)
        if isinstance(value, torch.Tensor):
            yield name, value
        else:
            yield from _tensors(value, f"{name}.", depth + 1, seen)


def _respelt(tensors: State, wanted: Collection[str]) -> State:
    """Names of other spellings as the architecture has them; all others stay."""
    if "blocks.0.norm1.weight" not in wanted:
        return tensors
    found = {CHUNK.sub(r"\1blocks.\2", name): tensor for name, tensor in tensors.items()}
    for name in tensors:
        if name == PATCHES or name.endswith(f".{PATCHES}"):
            prefix = name.removesuffix(PATCHES)
            inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            found |= {prefix + k: v for k, v in _of_transformers(inside).items()}
    return found


def _of_transformers(given: State) -> State:
    """The ViT and DINOv2 of transformers in the names of their origin: query, key and value are one matrix there."""
    import torch

    found = {EMBEDDINGS[name]: tensor for name, tensor in given.items() if name in EMBEDDINGS}
    for name, tensor in given.items():
        match = LAYER.fullmatch(name)
        if match is None:
            continue
        number, part, kind = match.groups()
        if part == "attention.attention.query":
            parts = [given.get(name.replace("query", each)) for each in ("query", "key", "value")]
            if not any(each is None for each in parts):
                found[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat([each for each in parts if each is not None])
        elif part in IN_LAYER:
            found[f"blocks.{number}.{IN_LAYER[part]}.{'gamma' if kind == 'lambda1' else kind}"] = tensor
    return found


def _roots(tensors: State, wanted: Collection[str]) -> list[str]:
    """Prefixes below which a network of the architecture lies, by rank and length."""
    names, counts = set(wanted), Counter[str]()
    for name in tensors:
        parts = name.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in names:
                counts[".".join(parts[:i])] += 1
    most = max(counts.values(), default=0)
    found = [root for root, count in counts.items() if count >= max(most / 2, LEAST * len(names))]
    return sorted(found, key=lambda root: (_rank(root), len(root), root))


def _rank(root: str) -> int:
    """0: weights averaged over training. 1: neither. 2: a network beside the one that is meant."""
    ranks = [0 if AVERAGED.fullmatch(part) else 2 if SECOND.fullmatch(part) else 1 for part in root.split(".")]
    return next((rank for rank in reversed(ranks) if rank != 1), 1)


def _below(tensors: State, root: str) -> State:
    prefix = f"{root}." if root else ""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _equal(one: State, other: State, wanted: Collection[str]) -> bool:
    """Whether both hold the same network: training code often has it under two names."""
    import torch

    names = [name for name in wanted if name in one or name in other]
    return all(name in one and name in other and torch.equal(one[name], other[name]) for name in names)


def _largest(tensors: State) -> State:
    """Without a name of the architecture: the tensors of the wrapper with most of them, for timm's own renaming."""
    counts = Counter(name.split(".")[0] for name in tensors)
    word, count = counts.most_common(1)[0]
    return _below(tensors, word) if count > len(tensors) / 2 and word in _WRAPPERS else tensors


_WRAPPERS = {"state_dict_ema", "model_ema", "state_dict", "model", "teacher", "student", "module"}


def _listed(roots: Sequence[str]) -> str:
    return ", ".join(root or "no prefix" for root in roots)
