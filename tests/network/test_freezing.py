"""`freeze`: the same numbers from what is prepared once, and no stale ones."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from aminet_fast import AMINet, AMINetConfig, decelerate, freeze, load_model, reference, unfreeze
from aminet_fast.network import fast_frm, modules
from aminet_fast.ops import batch_norm_affine, norm_act_conv_prepack

CONFIG = AMINetConfig(width=8, hourglass_width=8)
needs_kernels = pytest.mark.skipif(
    norm_act_conv_prepack([torch.zeros(8, 8, 3, 3)], [1], [False])[0] is None, reason="no kernels that pack weights"
)


@pytest.fixture
def model() -> AMINet:
    torch.manual_seed(0)
    model = AMINet(CONFIG)
    model(torch.randn(2, 3, 32, 32))  # moves the running statistics off their defaults
    return model.eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_numbers_stay(model: AMINet, x: torch.Tensor) -> None:
    expected = model(x)
    assert not freeze(model)(x).requires_grad
    torch.testing.assert_close(model(x), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(copy.deepcopy(model)(x), model(x), rtol=0, atol=0)


def given_packed(model: AMINet, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many calls of operators in a forward pass were given what `freeze` kept."""
    count = 0

    def counting(operator: Callable[..., Any]) -> Callable[..., Any]:
        at = list(inspect.signature(operator).parameters).index("packed")

        def call(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += (args[at] if len(args) > at else options.get("packed")) is not None
            return operator(*args, **options)

        return call

    with monkeypatch.context() as patch:
        for module, name in ((modules, "skaf_descriptor"), (fast_frm, "norm_act_conv")):
            patch.setattr(module, name, counting(getattr(module, name)))
        model(x)
    return count


ALL_PACKED = 8 * 6 + 11  # FRM's convolutions, and SKAFs


@needs_kernels
def test_what_is_kept_is_what_runs(model: AMINet, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    assert given_packed(model, x, monkeypatch) == 0
    assert given_packed(freeze(model), x, monkeypatch) == ALL_PACKED
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert given_packed(copied, x, monkeypatch) == ALL_PACKED


def averaged(model: AMINet) -> AMINet:
    """As one keeps an average of a frozen network beside its training."""
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    for seed in (7, 8):
        torch.manual_seed(seed)
        other = AMINet(CONFIG)
        average.update_parameters(other)
    return average.module


def changed_in_place(model: AMINet) -> AMINet:
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    return model


def replaced(model: AMINet) -> AMINet:
    for part in list(model.modules()):
        for name, p in list(part.named_parameters(recurse=False)):
            setattr(part, name, torch.nn.Parameter(p.detach() * 1.5, requires_grad=False))
    return model


def pointed_elsewhere(model: AMINet) -> AMINet:
    vector = torch.nn.utils.parameters_to_vector(model.parameters())
    torch.nn.utils.vector_to_parameters(1.5 * vector, model.parameters())
    return model


def moved_statistics(model: AMINet) -> AMINet:
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.mul_(1.5)
    return model


def stepped(model: AMINet) -> AMINet:
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    return model


def of_another_eps(model: AMINet) -> AMINet:
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eps = 0.1
    return model


def in_double(model: AMINet) -> AMINet:
    return model.double().float()


@pytest.mark.parametrize(
    "change",
    [averaged, changed_in_place, replaced, pointed_elsewhere, moved_statistics, stepped, of_another_eps, in_double],
    ids=lambda change: change.__name__,
)
def test_frozen_and_then_changed(
    model: AMINet,
    x: torch.Tensor,
    change: Callable[[AMINet], AMINet],
) -> None:
    before = freeze(model)(x)
    model = change(model)
    found = model(x)
    torch.testing.assert_close(found, unfreeze(copy.deepcopy(model)).eval()(x), rtol=1e-6, atol=1e-6)
    assert (found - before).abs().max() > 1e-3 or change is in_double
    torch.testing.assert_close(freeze(model)(x), found, rtol=1e-6, atol=1e-6)  # frozen again: as they are now


@pytest.mark.parametrize("change", [None, changed_in_place, replaced, pointed_elsewhere])
def test_frozen_changed_and_then_compiled(model: AMINet, change: Callable[[AMINet], AMINet] | None) -> None:
    """In one graph; and an exported program has none of what was kept."""
    freeze(model)
    if change is not None:
        model = change(model)
    part, x = model.enc[0], torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = decelerate(copy.deepcopy(part))(x)
    graphs: list[Any] = []
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(part, backend=lambda g, _: graphs.append(g) or g, fullgraph=True)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)
        assert len(graphs) == 1
        if change is None:
            packs = [n for g in graphs for n in g.graph.nodes if n.op == "placeholder" and "made" in n.name]
            assert packs
            replaced(part)
            torch.testing.assert_close(compiled(x), decelerate(copy.deepcopy(part))(x), rtol=1e-5, atol=1e-5)
        exported = torch.export.export(part, (x,), strict=False).module()
        torch.testing.assert_close(exported(x), part(x), rtol=1e-5, atol=1e-5)


def test_frozen_in_inference_mode(model: AMINet, x: torch.Tensor) -> None:
    with torch.inference_mode():
        freeze(model)
        kept = [vars(part)["affine_kept"].made for part in model.modules() if "affine_kept" in vars(part)]
        assert kept
        assert not any(t.is_inference() for made in kept for _, pair in made.values() for t in pair)
        expected = model(x)
    x.requires_grad_(True)
    found = model(x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(found.square().mean(), x)
    plain = unfreeze(copy.deepcopy(model)).eval()
    (wanted,) = torch.autograd.grad(plain(x).square().mean(), x)
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-7)


def test_a_network_made_in_inference_mode(x: torch.Tensor) -> None:
    with torch.inference_mode():
        model = freeze(AMINet(CONFIG))
        torch.testing.assert_close(model(x), unfreeze(copy.deepcopy(model)).eval()(x), rtol=1e-6, atol=1e-6)


def test_loading_a_state_dict_forgets(model: AMINet, x: torch.Tensor) -> None:
    torch.manual_seed(5)
    other = AMINet(CONFIG).eval()
    freeze(model).load_state_dict(other.state_dict())
    torch.testing.assert_close(model(x), other(x), rtol=1e-6, atol=1e-6)
    freeze(model).enc[0].load_state_dict(AMINet(CONFIG).enc[0].state_dict())  # a part alone
    torch.testing.assert_close(model(x), copy.deepcopy(unfreeze(model))(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("way", ["itself", "deepcopy", "pickle"])
def test_loading_a_part_of_what_was_packed_forgets(model: AMINet, x: torch.Tensor, way: str) -> None:
    """Weights of a convolution in FRM and of one in SKAF, which the modules around them keep packed."""
    freeze(model)
    model = {"itself": model, "deepcopy": copy.deepcopy(model)}.get(way) or pickle.loads(pickle.dumps(model))
    before = model(x)
    for part in (model.enc[0].rdfe.frm.conv[0], model.enc[0].skaf.convs[0]):
        part.load_state_dict({name: 3 * value for name, value in part.state_dict().items()})
    found = model(x)
    assert (found - before).abs().max() > 1e-4
    torch.testing.assert_close(found, copy.deepcopy(unfreeze(model))(x), rtol=1e-6, atol=1e-6)


def test_training_again(model: AMINet, x: torch.Tensor) -> None:
    model.tail.weight.requires_grad_(False)
    plain = copy.deepcopy(model)
    unfreeze(freeze(model)).train()
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in plain.parameters()]
    for network in (model, plain.train()):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        network(x).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(model.eval()(x), plain.eval()(x), rtol=1e-5, atol=1e-5)


def test_another_dtype_is_not_served_from_what_was_kept(model: AMINet, x: torch.Tensor) -> None:
    expected = copy.deepcopy(model).double()(x.double())
    torch.testing.assert_close(freeze(model).double()(x.double()), expected, rtol=1e-12, atol=1e-12)


def test_it_belongs_to_no_state_dict(model: AMINet, tmp_path) -> None:
    keys = list(model.state_dict())
    freeze(model).save_pretrained(tmp_path)
    assert list(model.state_dict()) == keys
    assert list(load_model(tmp_path).state_dict()) == keys


def test_plain_modules_have_nothing_to_prepare(x: torch.Tensor) -> None:
    model = reference.AMINet(CONFIG).eval()
    expected = model(x)
    torch.testing.assert_close(freeze(model)(x), expected, rtol=0, atol=0)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        freeze("aminet")  # type: ignore[type-var]


def test_a_part_that_is_thawed_is_what_runs_and_learns(model: AMINet, x: torch.Tensor) -> None:
    frm, skaf = model.enc[0].rdfe.frm, model.enc[0].skaf
    freeze(model)
    for parameter in (frm.bn[1].bias, skaf.convs[1].weight):
        parameter.requires_grad_(True)
        model(x).square().mean().backward()
        assert parameter.grad is not None
        before = model(x)
        with torch.no_grad():
            parameter.add_(0.5)
        assert (model(x) - before).abs().max() > 1e-4


def test_running_statistics_that_move_on_are_seen(model: AMINet, x: torch.Tensor) -> None:
    freeze(model).train()(3 * x)  # as update_bn does
    model.eval()
    torch.testing.assert_close(model(x), copy.deepcopy(unfreeze(model))(x), rtol=1e-6, atol=1e-6)


def test_assigned_parameters_are_thawed(model: AMINet, x: torch.Tensor) -> None:
    model.tail.weight.requires_grad_(False)
    wanted = [p.requires_grad for p in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    freeze(model).load_state_dict(state, assign=True)
    unfreeze(model).train()(x).square().mean().backward()
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert [p.grad is not None for p in model.parameters()] == wanted


def test_a_frozen_network_can_be_pickled(model: AMINet, x: torch.Tensor) -> None:
    again = pickle.loads(pickle.dumps(freeze(model)))
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    again.load_state_dict(AMINet(CONFIG).state_dict())
    torch.testing.assert_close(again(x), copy.deepcopy(unfreeze(again))(x), rtol=1e-6, atol=1e-6)


def test_what_was_kept_for_other_tensors_is_left_alone(model: AMINet) -> None:
    frm, x = freeze(model).enc[0].rdfe.frm, torch.empty(1, 8, 2, 2)
    bn = frm.bn[0]
    ((_, kept),) = bn.affine_kept.made.values()
    assert frm._affine(bn, None, None, x, [], 2) == [kept, kept]
    bn.running_mean = bn.running_mean.clone()
    ((scale, _),) = frm._affine(bn, None, None, x, [])
    assert scale is not kept[0]
    weights = [conv.weight for conv in frm._convolutions()]
    assert frm._packed(weights, x) is frm.packed.made[torch.float32]
    assert frm._packed(weights, x.bfloat16()) == [None] * 6
    weights[2].requires_grad_(True)
    assert frm._packed(weights, x) == [None] * 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_norms_are_folded_in_float32(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    parameters = [torch.rand(64, generator=g).add(0.1).to(dtype) for _ in range(4)]
    ((scale, shift),) = batch_norm_affine(*parameters)
    assert scale.dtype == shift.dtype == torch.float32
    (exact,) = batch_norm_affine(*(p.double() for p in parameters))
    torch.testing.assert_close((scale.double(), shift.double()), exact, rtol=1e-5, atol=1e-6)
