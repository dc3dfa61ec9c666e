"""Decoding: prompts of ids become texts, on any engine. numpy alone: no torch, no transformers."""
