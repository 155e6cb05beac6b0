"""Scores of a network on faces, beside bicubic's (``aminet evaluate``)."""

from __future__ import annotations

from .config import EvaluateConfig
from .run import evaluate
from .scores import OnBatch, Quality, Scores, evaluate_model, evaluate_protocols

__all__ = ["EvaluateConfig", "OnBatch", "Quality", "Scores", "evaluate", "evaluate_model", "evaluate_protocols"]
