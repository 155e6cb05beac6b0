"""The perceptual loss of Eq. 19: L1 between VGG19's features of two pictures, with weights from a file at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS = "vgg19-dcbb9e9d.pth"  # torchvision's VGG19_Weights.IMAGENET1K_V1
SOURCE = f"https://download.pytorch.org/models/{WEIGHTS}"
LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of RGB in [0, 1]
_BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))  # convolutions of a block, and their channels


def _layout() -> dict[str, nn.Module]:
    """VGG19's feature stack (configuration E of arXiv 1409.1556) by name, in torchvision's order, without weights."""
    layers: dict[str, nn.Module] = {}
    channels = 3
    for b, (depth, wider) in enumerate(_BLOCKS, 1):
        for i in range(1, depth + 1):
            layers[f"conv{b}_{i}"] = nn.Conv2d(channels, wider, 3, padding=1, device="meta")
            layers[f"relu{b}_{i}"] = nn.ReLU(inplace=False)  # the convolution's output may be asked for, too
            channels = wider
        layers[f"pool{b}"] = nn.MaxPool2d(2)
    return layers


LAYER_NAMES = tuple(_layout())


class VGG19Features(nn.Module):
    """Pictures [N, 3, H, W], RGB in [-1, 1] -> one feature map a layer, shallowest first.

    The stack is cut off behind the last layer that is asked for. It is frozen: gradients reach the pictures alone.

    Args:
        weights: torchvision's state dict of VGG19, ``features.0.weight`` and so on (its classifier is not used), in a
            .pth file, read with nothing but tensors allowed in it, or a .safetensors file.
        layers: Names as ``relu3_1``, the activation of the third block's first convolution; ``conv3_1`` is the same
            before its ReLU, ``pool3`` the block's end.

    Raises:
        ValueError: a layer has no such name; the file holds something else, is cut short, or has other shapes.
        FileNotFoundError: there is no such file.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str | Path, layers: Sequence[str] = LAYERS) -> None:
        super().__init__()
        check_layers(layers)
        self.layers = sorted(set(layers), key=LAYER_NAMES.index)
        kept = LAYER_NAMES.index(self.layers[-1]) + 1
        self.features = nn.Sequential(*list(_layout().values())[:kept])
        self.load_state_dict(_read(Path(weights), self.state_dict()), assign=True)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        x = ((pictures + 1) / 2 - self.mean) / self.std
        outputs = []
        for name, layer in zip(LAYER_NAMES, self.features, strict=False):
            x = layer(x)
            if name in self.layers:
                outputs.append(x)
        return outputs


class PerceptualLoss(nn.Module):
    """Eq. 19: the sum over layers of the mean absolute difference between two pictures' features, a float32 scalar.

    Args:
        features: Where the features come from; pictures are in its range, [-1, 1].
    """

    def __init__(self, features: VGG19Features) -> None:
        super().__init__()
        self.features = features

    def forward(self, pictures: Tensor, wanted: Tensor) -> Tensor:
        """Both [N, 3, H, W]; gradients reach ``pictures`` alone."""
        with torch.no_grad():
            targets = self.features(wanted)
        outputs = self.features(pictures)
        return torch.stack([F.l1_loss(a, b) for a, b in zip(outputs, targets, strict=True)]).sum()


def check_layers(layers: Sequence[str], option: str = "layers") -> None:
    """Raises ValueError when there is no layer, or a name is none of VGG19's; the message names the option."""
    unknown = [name for name in layers if name not in LAYER_NAMES]
    if unknown or not layers:
        raise ValueError(
            f"{option} is {list(layers)!r}; it takes names of VGG19's layers: conv1_1 to conv5_4, relu1_1 to relu5_4,"
            " pool1 to pool5"
        )


def find_vgg19(path: str | None, option: str = "--gan.vgg") -> Path:
    """The file of VGG19's weights: ``path``, or without it torchvision's in PyTorch's cache. Nothing is downloaded.

    Raises FileNotFoundError that says what to fetch from where, and which option to set.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    found = cached if path is None else Path(path).expanduser()
    if not found.is_file():
        raise FileNotFoundError(
            f"no weights of VGG19 at {found}, and nothing is downloaded: fetch {SOURCE}, and give the file with"
            f" {option} FILE or put it at {cached}"
        )
    return found


def _read(file: Path, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors of a state dict in a file that have the names and shapes of ``wanted``, in float32."""
    if file.suffix == ".safetensors":
        from ..network.weights import read_safetensors  # the command's options, which name layers, need not wait for it

        state: object = read_safetensors(file)
    else:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever the unpickler meets in a file that is something else
            raise ValueError(f"{file} does not load as weights ({str(error).splitlines()[0]})") from error
    tensors = state if isinstance(state, dict) else {}
    bad = [k for k, v in wanted.items() if getattr(tensors.get(k), "shape", None) != v.shape]
    if bad:
        raise ValueError(f"{file} holds no weights of VGG19: {bad[0]} is missing or of another shape; fetch {SOURCE}")
    return {k: tensors[k].float() for k in wanted}
