"""Architectures: what differs between families of networks, one file each."""
