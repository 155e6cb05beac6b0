"""AMINetConfig: validation that names the field, and files that give the same configuration back."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from aminet_fast import AMINetConfig, get_config, list_configs


@pytest.mark.parametrize("name", list_configs())
def test_yaml_and_json_round_trip(name: str, tmp_path) -> None:
    config = get_config(name)
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    (tmp_path / "c.json").write_text(config.to_json())
    assert AMINetConfig.from_file(tmp_path / "c.yaml") == config
    assert AMINetConfig.from_file(tmp_path / "c.json") == config
    assert AMINetConfig.from_dict(config.to_dict()) == config


def test_names_give_different_networks() -> None:
    assert len({get_config(name) for name in list_configs()}) == len(list_configs())


def test_there_is_one_configuration_for_every_ablation_row() -> None:
    rows = {"sa", "rdfe", "skaf"}, {"au", "frm"}, {"conv5", "conv7", "max", "avg", "pools"}
    names = list_configs()
    assert {n.removeprefix("lgfi-without-") for n in names if n.startswith("lgfi-without-")} == rows[0]
    assert {n.removeprefix("rdfe-without-") for n in names if n.startswith("rdfe-without-")} == rows[1]
    assert rows[2] <= {n.removeprefix("skaf-without-") for n in names if n.startswith("skaf-without-")}
    assert {"transformer", "ffn", "skaf-nowhere"} <= set(names)
    assert {f"rdfe-single-{k}x{k}" for k in (3, 5, 7)} <= set(names)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("width", 0, ValueError),
        ("width", 24.0, TypeError),
        ("width", True, TypeError),
        ("heads", (1, 2, 4), ValueError),
        ("heads", (1, 2, 5, 8), ValueError),
        ("heads", (0, 2, 4, 8), ValueError),
        ("heads", "1248", TypeError),
        ("block", "resnet", ValueError),
        ("attention_scale", "none", ValueError),
        ("rdfe_kernels", (), ValueError),
        ("rdfe_kernels", (3, 4), ValueError),
        ("rdfe_kernels", (3, 3), ValueError),
        ("skaf_kernels", (5.0,), TypeError),
        ("skaf_pools", ("avg", "min"), ValueError),
        ("frm_convs", 0, ValueError),
        ("hourglass_depth", 5, ValueError),
        ("ffn_expansion", "2", TypeError),
        ("ffn_expansion", 0.0, ValueError),
        ("frm", 1, TypeError),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=field):
        AMINetConfig(**{field: value})


def test_no_branch_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no branch"):
        AMINetConfig(sa=False, local="none")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no field depth"):
        AMINetConfig.from_dict({"depth": 3})
    with pytest.raises(ValueError, match="'amynet'; there are aminet, "):
        get_config("amynet")


def test_a_file_that_holds_no_mapping(tmp_path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump([1, 2]))
    with pytest.raises(ValueError, match="no mapping"):
        AMINetConfig.from_file(tmp_path / "c.yaml")


def test_a_file_that_gives_a_field_twice(tmp_path) -> None:
    for name, text in (("c.yaml", "width: 12\nffn_depth: 2\nwidth: 24\n"), ("c.json", '{"width": 12,\n\n"width": 24}')):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{name} gives width twice, on line 1 and on line 3"):
            AMINetConfig.from_file(tmp_path / name)
    (tmp_path / "c.yaml").write_text("# the paper's\n")
    assert AMINetConfig.from_file(tmp_path / "c.yaml") == AMINetConfig()
    (tmp_path / "c.json").write_text('{\n\t"ffn_expansion": 2e0\n}')
    assert AMINetConfig.from_file(tmp_path / "c.json").ffn_expansion == 2.0


def test_it_cannot_change_under_a_built_network() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        AMINetConfig().width = 12  # type: ignore[misc]


def test_multiple_follows_the_hourglass() -> None:
    assert AMINetConfig().multiple == 16
    assert AMINetConfig(hourglass_depth=3).multiple == 64
    assert get_config("rdfe-without-frm").multiple == 8
    assert get_config("transformer").multiple == 8
