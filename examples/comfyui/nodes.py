"""The node: an input and a command go in, texts come out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .client import rewrite

FREE = -1.0
"""Relevance that is not commanded."""


class Rewrite(io.ComfyNode):
    """Lets a student write for a text, under a command."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Say what goes in and what comes out."""
        return io.Schema(
            node_id="UdrlRewrite",
            display_name="Rewrite Prompt (udrl)",
            category="text/udrl",
            description="Let a small model rewrite a prompt: how faithful and how long is a number.",
            inputs=[
                io.String.Input("text", multiline=True, tooltip="The input that is written for."),
                io.String.Input("task", default="", tooltip="May stay empty where the student knows one task."),
                io.Float.Input(
                    "relevance", default=FREE, min=-1.0, max=1.0, step=0.01,
                    tooltip="How faithful to the input, 0 to 1; below 0: not commanded.",
                ),
                io.Int.Input("length", default=0, min=0, max=1000, tooltip="Words; 0: not commanded."),
                io.Int.Input("variants", default=1, min=1, max=128, tooltip="How many texts."),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**31 - 1, control_after_generate=True,
                    tooltip="The same seed gives the same texts.",
                ),
                io.String.Input("server", default="http://127.0.0.1:8000", tooltip="Where udrl serve listens."),
                io.String.Input("student", default="", tooltip="May stay empty where the server has one."),
            ],
            outputs=[
                io.String.Output("first", display_name="text", tooltip="The first variant."),
                io.String.Output(
                    "all", display_name="variants", is_output_list=True,
                    tooltip="All variants: what follows runs once for each.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        text: str,
        task: str,
        relevance: float,
        length: int,
        variants: int,
        seed: int,
        server: str,
        student: str,
    ) -> io.NodeOutput:
        """Return the first variant, and all of them."""
        fields: dict[str, Any] = {"prompt": text, "n": variants, "seed": seed}
        named = {"task": task.strip(), "model": student.strip(), "length": length}
        fields |= {name: value for name, value in named.items() if value}
        if relevance >= 0:
            fields["relevance"] = relevance
        texts = rewrite(server.strip(), fields)
        return io.NodeOutput(texts[0], texts)
