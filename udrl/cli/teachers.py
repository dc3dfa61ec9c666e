"""udrl teachers: who can write."""

from __future__ import annotations

import click

from udrl.cli.common import common_options, emit, table


@click.command("teachers", short_help="List the teacher cards, or check a card of your own.")
@click.argument("names", nargs=-1, metavar="[TEACHER]...")
@common_options(run=None, seed=False)
def command(names: tuple[str, ...], *, as_json: bool) -> None:
    """List the shipped teacher cards, or show the named ones: a name, or a YAML file, which is checked."""
    from udrl.teacher.backends.recorded import WRITTEN
    from udrl.teacher.cards import load_card, shipped_cards

    cards = [load_card(name) for name in names or shipped_cards()]
    if names:
        text = "\n\n".join(
            "\n".join(
                [
                    f"name: {card.name}",
                    f"title: {card.title}",
                    f"description: {card.description}",
                    f"model: {card.model}" + (f" ({card.revision})" if card.revision else ""),
                    f"backend: {card.backend}",
                    f"licence: {card.licence.name}; outputs: {card.licence.outputs}",
                    f"path: {card.path}",
                ]
            )
            for card in cards
        )
    else:
        heads = ("teacher", "backend", "licence", "what it is")
        rows = [(card.name, card.backend, card.licence.name, card.title) for card in cards]
        rows.append((WRITTEN, "recorded", "apache-2.0", "Completions of six tasks that ship with udrl"))
        text = table([heads, *rows]) + "\n\nuse one: udrl synth --teacher NAME; edit a copy: udrl init"
    emit({"teachers": cards}, as_json=as_json, text=text)
