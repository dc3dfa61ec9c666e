"""``python -m udrl`` is ``udrl``."""

from udrl.cli.main import main

main()
