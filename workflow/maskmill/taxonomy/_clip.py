"""Image-text models of open_clip, whose image towers include timm's: found by name, loaded, and asked for embeddings.

open_clip is an optional package. Nothing here imports it before `load`; its names are read from its files.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from maskmill.errors import ConfigError, WeightsError, nearest
from maskmill.images.listing import content_fingerprint
from maskmill.reading import SPECIAL, is_special

if TYPE_CHECKING:
    import numpy as np
    import torch

FOLDER = "local-dir:"
WITH_WEIGHTS = ("hf-hub:", FOLDER)  # names of models that bring their weights
CONFIG = "open_clip_config.json"  # of a model in a folder
SENTENCES = 64  # that the text tower reads at once


class Tower(Protocol):
    """An image-text model at work.

    Attributes:
        size: (height, width) of its images. mean: [3], of the input normalisation, for RGB in 0..1.
        scale: its logit scale. device: where it runs. about: what it is, in words, with a digest of the weights.
    """

    size: tuple[int, int]
    mean: Sequence[float]
    scale: float
    device: torch.device
    about: str

    def encode_image(self, images: np.ndarray) -> np.ndarray:
        """Embeddings [b, d] float32, of any length, of uint8 RGB [b, H, W, 3] of its size."""

    def encode_text(self, sentences: Sequence[str]) -> np.ndarray:
        """Embeddings [n, d] float32, of any length."""


@dataclass(eq=False)
class OpenClip:
    """A model of open_clip as a `Tower`; computes in float32."""

    model: Any
    tokenizer: Any
    device: torch.device
    size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]
    scale: float
    about: str

    def encode_image(self, images: np.ndarray) -> np.ndarray:
        """As `Tower.encode_image`."""
        import torch

        mean, std = (torch.tensor(each, device=self.device).view(1, 3, 1, 1) for each in (self.mean, self.std))
        with torch.inference_mode():
            x = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() / 255  # [b, 3, H, W]
            return _array(self.model.encode_image((x - mean) / std))

    def encode_text(self, sentences: Sequence[str]) -> np.ndarray:
        """As `Tower.encode_text`."""
        import numpy as np
        import torch

        found = []
        with torch.inference_mode():
            for start in range(0, len(sentences), SENTENCES):
                tokens = self.tokenizer(list(sentences[start : start + SENTENCES])).to(self.device)
                found.append(_array(self.model.encode_text(tokens)))
        return np.concatenate(found)


def _array(found: torch.Tensor) -> np.ndarray:
    value: np.ndarray = found.float().cpu().numpy()
    return value


def check(model: str, pretrained: str | None, checkpoint: str | None) -> None:
    """What can be said of a model without importing anything; nothing of its name where open_clip is not installed.

    Raises:
        ConfigError: an unknown name, with the nearest one; a checkpoint or a folder that is not there.
    """
    known = models()
    if model.startswith(FOLDER):
        folder = Path(model.removeprefix(FOLDER))
        if not (folder / CONFIG).is_file():
            raise ConfigError(f"taxonomy.model: {model!r}: {folder / CONFIG} does not exist; give a folder with it")
    elif known and not model.startswith(WITH_WEIGHTS) and _clean(model) not in known:
        raise ConfigError(
            f"taxonomy.model: {model!r} is no model of the installed open_clip{nearest(model, known)}; all names: "
            'python -c "import open_clip; print(open_clip.list_models())"'
        )
    tags = sorted(_tags(_clean(model)))
    if pretrained is not None and tags and pretrained.lower().replace("-", "_") not in tags:
        raise ConfigError(
            f"taxonomy.pretrained: {pretrained!r}: no such weights of {model}{nearest(pretrained, tags)}; "
            f"known: {', '.join(tags)}"
        )
    if checkpoint is not None:
        if not Path(checkpoint).exists():
            raise ConfigError(
                f"taxonomy.checkpoint: {checkpoint!r} does not exist; give a file with weights of {model}"
            )
        if not Path(checkpoint).is_file() or is_special(checkpoint):
            raise ConfigError(f"taxonomy.checkpoint: {checkpoint!r} is a folder or {SPECIAL}; give a file")


def _clean(model: str) -> str:
    return model.replace("/", "-")  # as open_clip does


def _package() -> Path | None:
    """The folder of open_clip, if it is installed."""
    spec = importlib.util.find_spec("open_clip")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


@cache
def models() -> frozenset[str]:
    """Names of the models that open_clip has a configuration of; empty without open_clip."""
    folder = _package()
    return frozenset() if folder is None else frozenset(file.stem for file in (folder / "model_configs").glob("*.json"))


@cache
def _tags(model: str) -> frozenset[str]:
    """Tags of the pretrained weights of a model, as open_clip's source names them; empty where it says none."""
    folder = _package()
    file = None if folder is None else folder / "pretrained.py"
    if file is None or not file.is_file():
        return frozenset()
    found: dict[str, frozenset[str]] = {}
    for each in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(each, ast.Assign) or not isinstance(each.targets[0], ast.Name):
            continue
        if isinstance(each.value, ast.Call):
            found[each.targets[0].id] = _keywords(each.value)
        elif isinstance(each.value, ast.Dict) and each.targets[0].id == "_PRETRAINED":
            for key, value in zip(each.value.keys, each.value.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == model.removesuffix("-quickgelu"):
                    return (
                        _keywords(value) if isinstance(value, ast.Call) else found.get(ast.unparse(value), frozenset())
                    )
    return frozenset()


def _keywords(call: ast.Call) -> frozenset[str]:
    return frozenset(word.arg for word in call.keywords if word.arg)


def content(model: str, checkpoint: str | None) -> list[str]:
    """Fingerprints of the files that the weights are in; none of weights that open_clip downloads."""
    if checkpoint is not None:
        return [content_fingerprint(checkpoint)]
    if model.startswith(FOLDER):
        files = sorted(file for file in Path(model.removeprefix(FOLDER)).glob("*") if file.is_file())
        return [f"{file.name} {content_fingerprint(str(file))}" for file in files]
    return []


def load(model: str, pretrained: str | None, checkpoint: str | None, device: torch.device) -> Tower:
    """The model with its weights; nothing but tensors is read from files.

    Args:
        pretrained: open_clip's tag; beside a checkpoint it says whose normalisation to take.

    Raises:
        WeightsError: the package is missing, a download fails, or the weights do not fit; says the way out.
    """
    from maskmill.backbones.network import import_timm

    import_timm()  # with what it does for torchvision, which open_clip imports too
    try:
        import open_clip
    except ImportError as error:
        raise WeightsError(f'taxonomy.source: text needs open_clip_torch ({error}); pip install -e ".[text]"') from None
    source = checkpoint or pretrained or "its own weights"
    try:
        network = open_clip.create_model(model, **_weights(open_clip, model, pretrained, checkpoint))
    except Exception as error:  # of hub clients, unpickling, foreign formats, tensors that do not fit
        raise _unloaded(model, pretrained, checkpoint, error) from None
    try:
        tokenizer = open_clip.get_tokenizer(model)
    except Exception as error:  # of transformers, which may not be there, and of hub clients
        raise WeightsError(
            f"taxonomy.model: {model}: its tokenizer does not load ({_reason(error)}); it needs the Python package "
            "transformers and, once, a network; or take a model with CLIP's own tokenizer, as ViT-B-32"
        ) from None
    seen = open_clip.get_model_preprocess_cfg(network)
    size = seen["size"]
    return OpenClip(
        network.eval().requires_grad_(False).to(device),
        tokenizer,
        device,
        (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1])),
        tuple(seen["mean"]),
        tuple(seen["std"]),
        float(network.logit_scale.detach().exp().max()),
        f"{model}, {source} (sha256 {_digest(network.state_dict())[:16]})",
    )


def _weights(open_clip: Any, model: str, pretrained: str | None, checkpoint: str | None) -> Mapping[str, Any]:
    """Arguments of `create_model`, which may never leave weights at random or fetch those of one tower alone."""
    found: dict[str, Any] = {"precision": "fp32", "require_pretrained": True, "pretrained_text": False}
    if model.startswith(WITH_WEIGHTS):
        return found
    if checkpoint is None:
        return found | {"pretrained": pretrained}
    if Path(checkpoint).suffix in (".npz", ".npy"):
        raise ValueError("numpy archives are not read; save the weights as safetensors")
    tag = pretrained or next(iter(open_clip.list_pretrained_tags_by_model(model)), "")
    seen = open_clip.get_pretrained_cfg(model, tag)
    look = {key: seen[key] for key in ("mean", "std") if key in seen}
    return found | {"pretrained": str(Path(checkpoint).absolute()), "force_preprocess_cfg": look}


def _unloaded(model: str, pretrained: str | None, checkpoint: str | None, error: Exception) -> WeightsError:
    reason = _reason(error)
    if checkpoint is not None:
        return WeightsError(
            f"taxonomy.checkpoint: {checkpoint}: does not load as {model} ({reason}); give its weights as "
            "safetensors or as a torch file of tensors, and check taxonomy.model"
        )
    what = model if pretrained is None else f"the weights {pretrained!r} of {model}"
    advice = "check the folder" if model.startswith(FOLDER) else (
        "without a network give taxonomy.checkpoint: /path/to/weights, or model: local-dir:/path; text towers "
        "of transformers need that package too"
    )  # fmt: skip
    return WeightsError(f"taxonomy.model: open_clip could not load {what} ({reason}); {advice}")


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _digest(state: Mapping[str, torch.Tensor]) -> str:
    from maskmill.backbones.weights_file import digest

    return digest({name: tensor.detach().cpu() for name, tensor in state.items()})
