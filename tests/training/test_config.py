"""The recipe's defaults, and which differences between two recipes matter."""

from __future__ import annotations

from pathlib import Path

from aminet_fast.training.config import TrainConfig, differences
from tests.training.tiny import MODEL, tiny


def test_defaults_are_the_papers_recipe() -> None:
    config = TrainConfig()
    assert (config.lr, config.betas, config.batch_size, config.loss) == (2e-4, (0.9, 0.99), 32, "l1")
    assert config.total_steps(18_000, 1) == 84_375
    assert config.total_steps(18_000, 4) == 21_094
    assert (config.schedule, config.warmup_steps) == ("constant", 0)
    assert str(config.folder()) == "runs/aminet"


def test_differences_name_what_matters(tmp_path: Path) -> None:
    old = tiny(tmp_path).to_dict()
    new = tiny(tmp_path, workers=3, log_every=7, lr=0.5, model={**MODEL, "width": 8, "heads": [1, 1, 1, 1]}).to_dict()
    assert differences(old, new) == {
        "lr": (1e-3, 0.5),
        "model.width": (4, 8),
        "model.heads": ([1, 2, 4, 8], [1, 1, 1, 1]),
    }


def test_a_field_that_an_old_run_did_not_have_is_at_its_default(tmp_path: Path) -> None:
    old, new = tiny(tmp_path).to_dict(), tiny(tmp_path).to_dict()
    del old["augment"], old["model"]["skaf_mix"]
    assert differences(old, new) == {}
    assert differences(old, {**new, "augment": "none"}) == {"augment": ("full", "none")}
