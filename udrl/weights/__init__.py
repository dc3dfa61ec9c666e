"""Pretrained weights from anywhere: the hub, a folder, a GGUF file, or a package that carries one."""
