"""Upside-down RL distillation for tiny multitask generators."""

__version__ = "0.1.0"
