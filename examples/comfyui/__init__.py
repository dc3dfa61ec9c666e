"""ComfyUI loads this folder from ``custom_nodes``: one node that asks a running ``udrl serve``."""

from comfy_api.latest import ComfyExtension, io

from .nodes import Rewrite

WEB_DIRECTORY = "./web"
"""Where ComfyUI finds the node's help page: ``docs/`` in it."""


class Extension(ComfyExtension):
    """What ComfyUI asks for nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the nodes."""
        return [Rewrite]


async def comfy_entrypoint() -> Extension:
    """Return the extension; ComfyUI calls this when it has loaded the folder."""
    return Extension()
