"""`freeze`: the same numbers from what is prepared once, and no stale ones."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from aminet_fast import AMINet, AMINetConfig, freeze, load_model, reference, unfreeze
from aminet_fast.ops import batch_norm_affine, norm_act_conv_prepack, skaf_descriptor_prepack

CONFIG = AMINetConfig(width=8, hourglass_width=8)


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


def test_what_is_kept_is_what_runs(model: AMINet, x: torch.Tensor) -> None:
    expected = freeze(model)(x)
    with torch.no_grad():
        model.enc[0].skaf.convs[0].weight.mul_(3)
        model.enc[0].rdfe.frm.bn[0].weight.mul_(3)
    packed = skaf_descriptor_prepack([torch.zeros(8, 8, k, k) for k in (5, 7)]) is not None
    if packed:  # kernels are there: neither change is seen before the next `freeze`
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    changed = freeze(model)(x)
    assert (changed - expected).abs().max() > 1e-4
    torch.testing.assert_close(changed, unfreeze(model)(x), rtol=1e-6, atol=1e-6)


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


def test_what_was_kept_on_another_device_is_left_alone(model: AMINet) -> None:
    frm, x = freeze(model).enc[0].rdfe.frm, torch.empty(1, 8, 2, 2)
    bn = frm.bn[0]
    kept = bn.affine_kept
    assert frm._affine(bn, None, None, x, [], 2) == [kept, kept]
    bn.affine_kept = tuple(t.to("meta") for t in kept)
    ((scale, shift),) = frm._affine(bn, None, None, x, [])
    assert scale.device.type == shift.device.type == "cpu"
    packed = frm.packed[torch.float32]
    assert frm._packed(x) is packed
    frm.packed = {torch.float32: [p if p is None else p.to("meta") for p in packed]}
    assert all(p is None or p.device.type == "cpu" for p in frm._packed(x))


@pytest.mark.skipif(
    norm_act_conv_prepack([torch.zeros(8, 8, 3, 3)], [1], [False])[0] is None, reason="no kernels that pack weights"
)
def test_the_convolutions_of_frm_run_on_what_is_kept(model: AMINet, x: torch.Tensor) -> None:
    expected = freeze(model)(x)
    frm = model.enc[0].rdfe.frm
    with torch.no_grad():
        for conv in (frm.conv[0], frm.hourglass.b2[0].conv, frm.hourglass.b3[0].conv):
            conv.weight.mul_(3)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    frm.hourglass.plus.conv.weight.requires_grad_(True)  # one of them is thawed: all are laid out anew
    assert (model(x) - expected).abs().max() > 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_norms_are_folded_in_float32(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    parameters = [torch.rand(64, generator=g).add(0.1).to(dtype) for _ in range(4)]
    ((scale, shift),) = batch_norm_affine(*parameters)
    assert scale.dtype == shift.dtype == torch.float32
    (exact,) = batch_norm_affine(*(p.double() for p in parameters))
    torch.testing.assert_close((scale.double(), shift.double()), exact, rtol=1e-5, atol=1e-6)
