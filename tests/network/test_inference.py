"""Evaluating leaves no trace, also where several threads do so with modules that they share; ensembles by value."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from aminet_fast import AMINet, upscale_images
from aminet_fast.network import inference
from aminet_fast.network.inference import evaluating, restore


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


class Visitor:
    """Another thread that evaluates a model from `enter` to `leave`."""

    def __init__(self, model: nn.Module) -> None:
        self._model, self._inside, self._go = model, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with evaluating(self._model):
            self._inside.set()
            assert self._go.wait(30)

    def enter(self) -> Visitor:
        self._thread.start()
        assert self._inside.wait(30)
        return self

    def leave(self) -> None:
        self._go.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def mixed() -> nn.Sequential:
    """In training mode but for one module, and the modules of `part_of`."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3), nn.Identity())).train()
    model[1][0].eval()
    return model


@pytest.mark.parametrize("first_out", [0, 1, 2])
def test_the_last_of_several_threads_puts_every_module_back(mixed: nn.Sequential, first_out: int) -> None:
    before = modes(mixed)
    visitors = [Visitor(mixed).enter() for _ in range(3)]
    visitors.pop(first_out).leave()
    assert not any(modes(mixed))
    visitors.pop().leave()
    assert not any(modes(mixed))
    visitors.pop().leave()
    assert modes(mixed) == before
    assert torch.is_grad_enabled()
    assert not inference._held


def test_models_that_share_modules(mixed: nn.Sequential) -> None:
    other = nn.Sequential(mixed[0], nn.Identity()).train()
    before = modes(mixed), modes(other)
    one = Visitor(mixed).enter()
    two = Visitor(other).enter()
    one.leave()
    assert modes(other) == [False, False, False]
    assert mixed.training  # its own again, but for the shared module
    two.leave()
    assert (modes(mixed), modes(other)) == before


def test_train_called_meanwhile_is_kept_and_disturbs_no_later_evaluation(mixed: nn.Sequential) -> None:
    one = Visitor(mixed.eval()).enter()
    mixed.train()
    two = Visitor(mixed).enter()
    assert not any(modes(mixed))
    two.leave()
    one.leave()
    assert all(modes(mixed))


class Stubborn(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> Stubborn:
        with evaluating(nn.Identity()):  # the lock is this thread's already
            raise RuntimeError("will not")


def test_errors_leave_it_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), Stubborn(3))
    with pytest.raises(RuntimeError, match="will not"), evaluating(model):
        pass
    with pytest.raises(OSError, match="inside"), evaluating(model[0]):
        raise OSError("inside")
    assert all(modes(model))
    assert not inference._held


def test_modules_that_come_go_and_are_copied_meanwhile(mixed: nn.Sequential) -> None:
    with evaluating(mixed):
        for twin in (copy.deepcopy(mixed), pickle.loads(pickle.dumps(mixed))):
            assert not any(modes(twin))
        mixed[1] = nn.ReLU()  # nobody else holds the old one
    assert mixed.training
    assert mixed[1].training
    assert not inference._held


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """work(0) ... work(count - 1) at once; an error of one is raised here."""
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_pictures_of_four_threads_are_those_of_one() -> None:
    """Of a model in training mode, whose BatchNorm would else take statistics of the pictures."""
    model = AMINet("aminet-nano").train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    levels = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    pictures = [Image.fromarray(picture) for picture in levels]
    alone = [upscale_images(model, [picture])[0] for picture in pictures]
    # Who put it in eval mode leaves when the others are about to run it.
    visitor, about_to = Visitor(model).enter(), threading.Barrier(4, action=lambda: visitor.leave())

    def wait(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        about_to.wait(30)

    hook = model.register_forward_pre_hook(wait)
    together: dict[int, list[Image.Image]] = {}
    in_threads(4, lambda i: together.update({i: upscale_images(model, [pictures[i]])}))
    hook.remove()
    assert [together[i][0].tobytes() for i in range(4)] == [picture.tobytes() for picture in alone]
    assert all(modes(model))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


class Columns(nn.Module):
    """Adds each column's number, of the columns that it is given, and remembers the shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(x.shape))
        return x + torch.arange(x.shape[-1])


@pytest.mark.parametrize(("width", "padded"), [(32, 32), (21, 32), (1, 16)])
def test_a_flip_ensemble_is_the_mean_of_both_results(width: int, padded: int) -> None:
    x = torch.randint(-128, 128, (2, 3, 16, width), generator=torch.Generator().manual_seed(0)) / 128
    before, model = x.clone(), Columns()
    assert torch.equal(restore(model, x), x + torch.arange(width))
    assert torch.equal(restore(model, x, ensemble="flip"), x + (width - 1) / 2)
    assert model.shapes == [(2, 3, 16, padded)] * 3  # no batch of twice as many
    assert torch.equal(x, before)


def test_a_flip_ensemble_of_a_network_that_mixes_pixels() -> None:
    torch.manual_seed(0)
    model, x = nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False), torch.randn(2, 3, 16, 21)
    mirrored = restore(model, x.flip(-1)).flip(-1)
    found = restore(model, x, ensemble="flip")
    assert torch.equal(found, (restore(model, x) + mirrored) / 2)
    assert not torch.equal(found, mirrored)
    half = restore(model, x, ensemble="flip", autocast=True)
    assert half.dtype == torch.float32
    assert 0 < (half - found).abs().max() < 0.05


def test_another_ensemble_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^ensemble is 'mirror', wanted none or flip$"):
        restore(nn.Identity(), torch.zeros(1, 3, 16, 16), ensemble="mirror")  # type: ignore[arg-type]
