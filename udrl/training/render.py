"""``udrl render``: training rows with their command attached, for those who train elsewhere."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from udrl.arguments import checked
from udrl.commands import CommandSpace
from udrl.data.episode import Episode
from udrl.data.episodes import read_episodes
from udrl.data.run import Run
from udrl.errors import StudentError
from udrl.files import replacing_file
from udrl.progress import track
from udrl.tokenizer import decode, encode, student_tokenizer
from udrl.training.examples import achieved

CHUNK = 1000


def rows(episodes: list[Episode], tokenizer: Any, space: CommandSpace) -> Iterator[dict[str, Any]]:
    """Yield one row an episode: ``prompt`` and ``completion`` as text, and both as ids.

    ``prompt_ids`` ends with the command's ids; ``completion_ids`` ends with the end token. ``prompt`` shows the command
    in angle brackets for people: it is not what the student reads, since control ids have no text (where the student is
    commanded in text, it is).
    """
    for start in range(0, len(episodes), CHUNK):
        part = episodes[start : start + CHUNK]
        inputs = encode(tokenizer, [e.input for e in part])
        completions = encode(tokenizer, [e.completion for e in part])
        for episode, text, written in zip(part, inputs, completions, strict=True):
            positions = space.positions(episode.task, achieved(episode))
            control = space.render(episode.task, dict(positions))
            yield {
                "episode_id": episode.episode_id,
                "task": episode.task,
                "split": episode.split,
                "prompt": f"{decode(tokenizer, text)}{space.shown(episode.task, dict(positions))}",
                "completion": episode.completion,
                "prompt_ids": space.prompt(text, control),
                "completion_ids": [*written, tokenizer.eos_token_id],
            }


@checked
def render(run: Path | str = "runs/default", *, output: Path | str, splits: tuple[str, ...] = ("train",)) -> int:
    """Write the run's kept episodes as JSON lines of rendered training rows to ``output``; return their number.

    The tokenizer and command space are those of the run's student, which must have been trained (one step does).
    Raises StudentError where there is none.
    """
    run_folder = Run(run)
    run_folder.check()
    if not run_folder.student.is_dir():
        raise StudentError(
            f"{run_folder.path} has no student, whose tokenizer and bins rendering needs: "
            f"run udrl train --run {run_folder.path} first"
        )
    space = CommandSpace.load(run_folder.student)
    tokenizer = student_tokenizer(run_folder.student)
    kept = read_episodes(run_folder.episodes, splits=splits)
    episodes = [episode for episode in kept if episode.task in space.tasks]
    if unknown := sorted({episode.task for episode in kept} - set(space.tasks)):
        warnings.warn(f"the student does not know {', '.join(unknown)}: those episodes are left out", stacklevel=2)
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(track("render", total=len(episodes), unit="rows")) as bar, replacing_file(target) as file:
        for row in rows(episodes, tokenizer, space):
            file.write(f"{json.dumps(row, ensure_ascii=False)}\n".encode())
            bar.update()
    return len(episodes)
