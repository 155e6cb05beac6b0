"""Inference with weights that do not change: what is made of them is made once, not at every call."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ..ops import batch_norm_affine
from .children import Fused
from .fast_frm import FastFeatureRefinement
from .packed import Packed

Model = TypeVar("Model", bound=nn.Module)


def freeze(model: Model) -> Model:
    """Prepare a fast AMINet for inference with these very weights, in place.

    Puts it in eval mode, switches the gradients of its parameters off, keeps weights as their kernels want them (on the
    CPU SKAF's, 1.7 times their size again, and FRM's, up to 1.8 times; on CUDA devices those of all operators, in
    their own dtype and float32 ones in bfloat16 too) and folds each batch normalisation into the one scale and shift
    that it is in eval mode. The numbers stay. Call `unfreeze` to train again.

    What is kept is of no use for other weights: it is left unused, and the model slower, where a weight was changed in
    place, replaced or moved to another device, or needs its gradient; it is forgotten in training mode and when a state
    dict is loaded. `freeze` again then. Two changes go unnoticed: through ``.data`` (``p.data.mul_(2)``), and in
    place after torch.compile has compiled the network.

    Args:
        model: An `AMINet`, or what `accelerate` was called on; other modules have nothing to prepare.

    Returns:
        The model itself.

    Raises TypeError: model is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"freeze: model must be a torch.nn.Module, got {type(model).__name__}")
    unfreeze(model).eval()
    model.__dict__["_trained"] = [name for name, p in model.named_parameters() if p.requires_grad]
    model.requires_grad_(False)
    # Whoever freezes in inference mode may still ask for gradients of images later.
    with torch.inference_mode(False), torch.no_grad():
        for module in model.modules():
            if isinstance(module, Fused) and module.fits():
                _prepare(module)
    return model


def _prepare(module: Fused) -> None:
    """Keep what is made of the weights of one fast module."""
    prepacked = getattr(module, "prepacked", None)  # where the kernels want weights in another layout
    if prepacked is not None and (packed := prepacked()) is not None and packed.made:
        _keep(module, "packed", packed)
    if isinstance(module, FastFeatureRefinement):
        for bn in module.modules():
            if isinstance(bn, nn.BatchNorm2d) and bn.running_mean is not None:
                mean, var = bn.running_mean, cast(Tensor, bn.running_var)
                pair = batch_norm_affine(bn.weight, bn.bias, mean, var, bn.eps)[0]
                _keep(bn, "affine_kept", Packed([bn.weight, bn.bias, mean, var], {pair[0].dtype: (bn.eps, pair)}))


def unfreeze(model: Model) -> Model:
    """Undo `freeze`, but for the mode: parameters that needed their gradients do so again. Returns the model itself."""
    trained = set(model.__dict__.pop("_trained", ()))  # by name: load_state_dict(assign=True) brings other tensors
    for name, parameter in model.named_parameters():
        if name in trained:
            parameter.requires_grad_(True)
    for module in model.modules():
        _forget(module)
    return model


def _keep(module: nn.Module, name: str, packed: Packed) -> None:
    """As a plain attribute: it belongs to no state dict."""
    module.__dict__[name] = packed
    # Hooks run for the module that a state dict is loaded into and those in it, however that comes about; what is kept
    # may be made of the weights of any that is in this one.
    forget = partial(_forget_loaded, module)
    module.__dict__["_frozen"] = [part.register_load_state_dict_post_hook(forget) for part in module.modules()]


def _forget_loaded(holder: nn.Module, _module: nn.Module, _keys: Any) -> None:
    """A hook that can be copied and pickled with its modules. It stays until `unfreeze`: hooks are being run."""
    _drop(holder)


def _forget(module: nn.Module) -> None:
    if (handles := module.__dict__.pop("_frozen", None)) is not None:
        for handle in handles:
            handle.remove()
        _drop(module)


def _drop(module: nn.Module) -> None:
    for name in ("packed", "affine_kept"):
        module.__dict__.pop(name, None)
