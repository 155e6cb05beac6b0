"""Fast modules and `accelerate`: what they change, what they leave, and that they can be undone."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from aminet_fast import AMINet, AMINetConfig, accelerate, decelerate, reference
from aminet_fast.network import modules

TINY = AMINetConfig(width=4, heads=(1, 2, 2, 4), hourglass_width=6)
PLAIN = {plain: fast for classes in modules.FAST.values() for plain, fast in classes.items()}


def kinds(model: nn.Module) -> set[type]:
    return {type(m) for m in model.modules()} & (set(PLAIN) | set(PLAIN.values()))


def test_fast_modules_override_forward_alone() -> None:
    allowed = {"forward", "front", "add_to", "backend", "train"}  # what others call; the rest is private to the class
    for plain, fast in PLAIN.items():
        assert issubclass(fast, plain)
        changed = {name for name in vars(fast) if hasattr(plain, name) and name not in vars(nn.Module)}
        public = {name for name in vars(fast) if not name.startswith("_")}
        assert changed - allowed - {"__module__", "__doc__"} == set()
        assert public <= allowed | {"refine", "packed", "prepacked", "children_of_operator"}
        assert "__init__" not in vars(fast)


def test_aminet_is_fast_unless_told_otherwise() -> None:
    assert kinds(AMINet(TINY)) == set(PLAIN.values())
    assert kinds(AMINet(TINY, backend="cpu")) == set(PLAIN.values())
    assert kinds(AMINet(TINY, backend="reference")) == set(PLAIN)


def test_the_state_dict_is_the_same() -> None:
    fast, plain = AMINet(TINY), reference.AMINet(TINY)
    assert list(fast.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(fast.state_dict())
    fast.load_state_dict(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(fast.state_dict().values(), plain.state_dict().values(), strict=True))


@pytest.mark.parametrize("option", modules.FAST)
def test_each_option_by_itself(option: str) -> None:
    off = dict.fromkeys(modules.FAST, False)
    model = accelerate(reference.AMINet(TINY), **(off | {option: True}))
    expected = {fast if fast in modules.FAST[option].values() else plain for plain, fast in PLAIN.items()}
    assert kinds(model) == expected
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    y = model.double().eval()(x)
    torch.testing.assert_close(y, decelerate(model)(x), rtol=1e-9, atol=1e-9)


def test_undoing_leaves_no_trace() -> None:
    model = reference.AMINet(TINY)
    before = {name: (type(m), set(m.__dict__)) for name, m in model.named_modules()}
    ids = [id(p) for p in model.parameters()]
    assert accelerate(model, backend="cpu") is model
    model(torch.zeros(1, 3, 32, 32))
    assert all(m.backend == "cpu" for m in model.modules() if type(m) in PLAIN.values())
    assert decelerate(model) is model
    assert {name: (type(m), set(m.__dict__)) for name, m in model.named_modules()} == before
    assert [id(p) for p in model.parameters()] == ids


def test_only_this_model_changes() -> None:
    first, second = reference.AMINet(TINY), reference.AMINet(TINY)
    accelerate(first)
    assert kinds(second) == set(PLAIN)
    assert kinds(reference.AMINet(TINY)) == set(PLAIN)


def test_hooks_optimizer_and_mode_survive() -> None:
    model = reference.AMINet(TINY).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    model.enc[0].register_forward_hook(lambda *_: seen.append(1))
    accelerate(model)
    assert not model.training
    model.train()(torch.randn(1, 3, 32, 32)).square().mean().backward()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert seen == [1]
    assert sum(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)) > len(before) / 2


def test_copies_and_pickles_stay_fast() -> None:
    model = AMINet(TINY, backend="cpu").eval()
    x = torch.randn(1, 3, 32, 32)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert kinds(other) == kinds(model)
        torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)


def test_the_variable_decides_for_models_without_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, model = torch.randn(1, 3, 32, 32, dtype=torch.float64), AMINet(TINY).double().eval()
    plain = copy.deepcopy(model)
    monkeypatch.setenv("AMINET_FAST_BACKEND", "reference")
    torch.testing.assert_close(model(x), decelerate(plain)(x), rtol=1e-12, atol=1e-12)
    monkeypatch.setenv("AMINET_FAST_BACKEND", "warp")
    with pytest.raises(ValueError, match="AMINET_FAST_BACKEND='warp' is unknown"):
        model(x)


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got dict"):
        accelerate({})  # type: ignore[type-var]
    with pytest.raises(ValueError, match="Linear holds no module of an AMINet"):
        accelerate(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="backend='fast' is unknown: use one of auto, reference"):
        accelerate(reference.AMINet(TINY), backend="fast")
    with pytest.raises(ValueError, match="backend='fast' is unknown"):
        AMINet(TINY, backend="fast")


def test_saved_and_loaded_with_a_backend(tmp_path) -> None:
    from aminet_fast import load_model

    AMINet(TINY).save_pretrained(tmp_path)
    assert kinds(load_model(tmp_path, backend="reference")) == set(PLAIN)
    assert kinds(AMINet.from_pretrained(tmp_path, backend="reference")) == set(PLAIN)
    assert kinds(AMINet.from_pretrained(tmp_path)) == set(PLAIN.values())


def test_the_commands_take_a_backend(tmp_path) -> None:
    from aminet_fast.network.inference import load_network
    from aminet_fast.training import TrainConfig

    with pytest.raises(ValueError, match=r"backend is 'warp'; it must be one of auto, reference"):
        TrainConfig(backend="warp")
    AMINet(TINY).save_pretrained(tmp_path)
    assert kinds(load_network(str(tmp_path), torch.device("cpu"), "reference")) == set(PLAIN)
    assert kinds(load_network(str(tmp_path), torch.device("cpu"))) == set(PLAIN.values())


def test_hooks_on_frm_run_though_rdfe_adds_to_it() -> None:
    model = AMINet(TINY).eval()
    x = torch.randn(1, 3, 32, 32)
    expected = model(x)
    seen: list[torch.Size] = []
    frm = model.enc[0].rdfe.frm
    frm.register_forward_hook(lambda module, given, output: seen.append(output.shape))
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-6)
    assert seen == [torch.Size([1, 4, 32, 32])]


def test_synchronised_batch_norms_are_left_to_torch() -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(AMINet(TINY))
    called: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.register_forward_pre_hook(lambda module, given: called.append(module))
    model.eval()(torch.randn(1, 3, 32, 32))
    assert set(called) == {m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)}
