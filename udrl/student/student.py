"""A trained student: takes inputs and commands, returns completions."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from udrl.arguments import checked
from udrl.commands import AUTO, LENGTH, Command, CommandSpace, Target
from udrl.decoding.engine import Engine
from udrl.decoding.governor import Clauses, Governor
from udrl.decoding.loop import decode_requests
from udrl.decoding.requests import Decoded, Request
from udrl.decoding.sampling import Sampling
from udrl.decoding.streaming import TextUnderWay
from udrl.decoding.wording import Vocabulary, Wording, Writer
from udrl.errors import StudentError, UsageError, damaged
from udrl.forks import settle
from udrl.student.calibration import Calibration
from udrl.student.engines.choice import load_engine
from udrl.student.location import student_folder
from udrl.student.prompts import fit_prompts, random_streams
from udrl.student.targets import Clamped, positions_of, warn_clamped
from udrl.tokenizer import decode, saved_ends, student_tokenizer

SAMPLING = Sampling(temperature=0.2, top_p=0.95, no_repeat=5)
"""What a student ships with unless training says otherwise."""


@dataclass(frozen=True)
class Generation:
    """One completion. finish_reason: "stop" (ended by the student) or "length" (cut); tokens: ids written.

    unmet: the words that were required and are not in it. clamped: the targets that the student cannot reach, by
    attribute. together: completions that were computed at once, this one among them.
    """

    completion: str
    finish_reason: str
    tokens: int
    unmet: tuple[str, ...] = ()
    clamped: Mapping[str, Clamped] = field(default_factory=lambda: MappingProxyType({}))
    together: int = field(default=1, compare=False)


class Student:
    """The behaviour function: completions for inputs under commands.

    Each item has its own random stream. In float32, results do not depend on which other inputs share a batch; bf16
    rounds and int8 scales with the whole batch, so that there they may: ``batch_size=1`` makes each its own.
    """

    def __init__(
        self,
        computes: Engine,
        tokenizer: Any,
        *,
        name: str,
        calibration: Calibration | None = None,
        sampling: Sampling = SAMPLING,
        ends: Sequence[int] = (),
    ) -> None:
        """ends: ids that end a completion, where the tokenizer's end is not the only one."""
        self.computes = computes
        self.ends = tuple(ends) or (tokenizer.eos_token_id,)
        self.tokenizer = tokenizer
        self.name = name
        self.calibration = calibration
        self.sampling = sampling

    @property
    def space(self) -> CommandSpace:
        """The command space: tasks, attributes, bins."""
        return self.computes.space

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that this student can be commanded to do."""
        return self.space.tasks

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of the attributes that a command can set."""
        return tuple(a.name for a in self.space.attributes)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return self.computes.parameters

    @property
    def engine(self) -> str:
        """What computes: torch or onnx."""
        return self.computes.name

    @property
    def precision(self) -> str:
        """Number format of the matrix products."""
        return self.computes.precision

    # -- commands ----------------------------------------------------------------------------------------------------

    @checked
    def reachable(self, task: str, attribute: str, *, length: float | None = None) -> tuple[float, float]:
        """Return the lowest and highest mean value of ``attribute`` that some command achieves on validation inputs.

        length: at this length in words, where the attribute is a reward. Without calibration: the 5 % and 95 %
        quantiles of the training episodes.
        """
        self.space.task_id(task)
        curve = self.calibration.curve(task, attribute, length) if self.calibration else None
        if curve is not None:
            return curve.reachable
        return self.space.quantile(task, attribute, 0.05), self.space.quantile(task, attribute, 0.95)

    @checked
    def commanded(self, task: str, targets: Mapping[str, Target]) -> Command:
        """Return the command of ``targets``, in which "auto" asks for the highest value of a reward that is reached.

        That is the highest at the length that is asked for beside it. Raises UsageError for a length of "auto".
        """
        known = {name: target for name, target in targets.items() if target != AUTO}
        self.space.check(Command(task, known))
        if targets.get(LENGTH) == AUTO:
            raise UsageError("there is no best length: give a number of words, or leave length open")
        length = known.get(LENGTH)
        return Command(
            task,
            {name: self.reachable(task, name, length=length)[1] if t == AUTO else t for name, t in targets.items()},
        )

    def positions(self, command: Command, *, calibrated: bool = True) -> Mapping[str, float | None]:
        """Turn targets into positions of the command space, calibrated ones where known, and warn of clamped ones."""
        calibration = self.calibration if calibrated else None
        positions = positions_of(command, self.space, calibration)
        warn_clamped(command, positions.clamped, calibration)
        return positions.of

    def rendered(
        self, commands: Sequence[Command], *, calibrated: bool = True, warn: bool = True
    ) -> list[tuple[list[int], Mapping[str, Clamped]]]:
        """Return each command as the ids that end a prompt, and what of it was clamped, with a warning if asked."""
        cache: dict[tuple[str, tuple[tuple[str, float], ...]], tuple[list[int], Mapping[str, Clamped]]] = {}
        calibration = self.calibration if calibrated else None
        made = []
        for command in commands:
            key = (command.task, tuple(sorted(command.targets.items())))
            if key not in cache:
                positions = positions_of(command, self.space, calibration)
                cache[key] = self.space.render(command.task, positions.of), positions.clamped
                if warn:
                    warn_clamped(command, positions.clamped, calibration)
            made.append(cache[key])
        return made

    # -- writing -----------------------------------------------------------------------------------------------------

    @checked
    def generate(
        self,
        inputs: Sequence[str],
        commands: Sequence[Command],
        *,
        seeds: Sequence[int] | int = 0,
        sampling: Sampling | None = None,
        wording: Wording | None = None,
        calibrated: bool = True,
        batch_size: int = 128,
        progress: Callable[[int], object] | None = None,
        warn: bool = True,
    ) -> list[Generation]:
        """Write one completion for each input under the command beside it.

        seeds: one an item, or one for all (items that are equal then differ). sampling: None is what the student
        ships with. wording: words to require and to ban. progress: called with the number of completions that were
        just finished. warn: of targets that are clamped, which the results name in any case.
        """
        if len(inputs) != len(commands):
            raise UsageError(f"{len(inputs)} inputs need as many commands, got {len(commands)}")
        rendered = self.rendered(commands, calibrated=calibrated, warn=warn)
        lengths = [_kept_length(command, clamped) for command, (_, clamped) in zip(commands, rendered, strict=True)]
        written = self.generate_ids(
            inputs,
            [control for control, _ in rendered],
            lengths=lengths if calibrated else None,
            seeds=seeds,
            sampling=sampling,
            wording=wording,
            batch_size=batch_size,
            progress=progress,
        )
        return [replace(one, clamped=clamped) for one, (_, clamped) in zip(written, rendered, strict=True)]

    @checked
    def prompt_ids(
        self, inputs: Sequence[str], commands: Sequence[Command], *, calibrated: bool = True
    ) -> list[list[int]]:
        """Return each input under the command beside it as token ids: what `generate` continues, for other servers.

        They are not to write control ids: whoever samples allows ``range(student.space.base)`` only.
        """
        controls = [control for control, _ in self.rendered(commands, calibrated=calibrated)]
        return [list(one.prompt) for one in self.requests(inputs, controls)]

    @checked
    def generate_ids(
        self,
        inputs: Sequence[str],
        controls: Sequence[Sequence[int]],
        *,
        lengths: Sequence[int | None] | None = None,
        seeds: Sequence[int] | int = 0,
        sampling: Sampling | None = None,
        wording: Wording | None = None,
        batch_size: int = 128,
        progress: Callable[[int], object] | None = None,
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[Generation]:
        """Write completions for inputs under commands that are rendered already (`CommandSpace.render`).

        lengths: see `requests`.
        """
        requests = self.requests(inputs, controls, lengths=lengths, seeds=seeds, sampling=sampling, wording=wording)
        # like commands write like lengths, and like lengths end together
        order = sorted(range(len(requests)), key=lambda i: (tuple(controls[i]), len(requests[i].prompt)))
        results: dict[int, Generation] = {}
        together = min(batch_size, len(requests))
        for step in decode_requests(self.computes, [requests[i] for i in order], most=batch_size):
            if step.token is not None and on_token is not None:
                on_token(order[step.handle], step.token)
            if step.decoded is not None:
                results[order[step.handle]] = replace(self.generation(step.decoded, wording), together=together)
                if progress is not None:
                    progress(1)
        return [results[i] for i in range(len(requests))]

    @checked
    def stream(
        self,
        text: str,
        command: Command,
        *,
        seed: int = 0,
        sampling: Sampling | None = None,
        wording: Wording | None = None,
        calibrated: bool = True,
    ) -> Generator[str, None, Generation]:
        """Write one completion as `generate` does and yield its text as it comes, in whole words.

        The parts together are the completion; the generator's return value is the `Generation`.
        """
        [(control, clamped)] = self.rendered([command], calibrated=calibrated)
        length = _kept_length(command, clamped) if calibrated else None
        requests = self.requests([text], [control], lengths=[length], seeds=[seed], sampling=sampling, wording=wording)
        shown = TextUnderWay(self.tokenizer)
        for step in decode_requests(self.computes, requests):
            if step.token is not None and (part := shown.add(step.token)):
                yield part
        assert step.decoded is not None
        one = self.generation(step.decoded, wording)
        if part := shown.rest(one.completion):
            yield part
        return replace(one, clamped=clamped)

    def decoded(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``."""
        return decode(self.tokenizer, ids)

    def generation(self, one: Decoded, wording: Wording | None = None) -> Generation:
        """Return what was written for one of `requests`; a character that was cut in the middle is left out."""
        text = self.decoded(one.ids)
        text = text if one.stopped else text.rstrip("\ufffd")
        unmet = wording.unmet(text) if wording else ()
        return Generation(text, "stop" if one.stopped else "length", len(one.ids) + one.stopped, unmet)

    def _unasked(self, prompt: Sequence[int], control: Sequence[int]) -> list[int]:
        """Return ``prompt`` with every attribute open and the same task."""
        task = self.space.task_of(control)
        return self.space.prompt(prompt[: -len(control)], self.space.render(task, {}))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What each text id stands for; raises StudentError where the tokenizer is not byte-level."""
        return Vocabulary(self.tokenizer, self.space.base, self.ends)

    @cached_property
    def _clauses(self) -> Clauses:
        return Clauses(self.tokenizer, self.space.base, self.ends)

    @checked
    def requests(
        self,
        inputs: Sequence[str],
        controls: Sequence[Sequence[int]],
        *,
        lengths: Sequence[int | None] | None = None,
        seeds: Sequence[int] | int = 0,
        sampling: Sampling | None = None,
        wording: Wording | None = None,
        likeliest: int | None = None,
        warn: bool = True,
    ) -> list[Request]:
        """Return what a `Decoder` continues for inputs under commands that are `rendered`; as `generate` takes them.

        lengths: the words that each is to have, which the sampling's ``length_control`` keeps (None: open).
        likeliest: of how many ids chances are told (`Request`). warn: of inputs that are longer than the context
        allows; their requests say that they are ``cut`` in any case.
        """
        settle(self.computes.device)
        sampling = sampling or self.sampling
        fitted = fit_prompts(self.tokenizer, self.computes, inputs, controls, sampling.max_tokens, warn=warn)
        streams = random_streams([one.ids for one in fitted], seeds)
        lengths = [None] * len(fitted) if lengths is None else lengths
        return [
            Request(
                one.ids,
                stream,
                sampling,
                one.limit,
                self.ends,
                None if sampling.guidance == 1 else self._unasked(one.ids, control),
                Writer(wording, self.vocabulary, one.limit) if wording else None,
                one.is_cut,
                likeliest,
                self._governor(length, sampling),
            )
            for one, control, length, stream in zip(fitted, controls, lengths, streams, strict=True)
        ]

    def _governor(self, length: int | None, sampling: Sampling) -> Governor | None:
        if length is None or sampling.length_control == "off":
            return None
        return Governor(length, self._clauses, is_soft=sampling.length_control == "soft")


def _kept_length(command: Command, clamped: Mapping[str, Clamped]) -> int | None:
    """Return the length in words that ``command`` asks for, or the nearest that is reached; None if it is open."""
    length = command.targets.get(LENGTH)
    if length is None:
        return None
    if LENGTH in clamped:
        low, high = clamped[LENGTH].reachable
        length = min(max(length, low), high)
    return max(1, round(length))


@checked
def load_student(path: Path | str, *, device: str = "auto", precision: str = "auto", engine: str = "auto") -> Student:
    """Load the student of a run folder, a checkpoint folder that ``udrl train`` wrote, or one that ships, by its name.

    device: "auto" is the GPU where there is one. precision: of torch: "auto" (bf16 where the hardware multiplies it
    itself, else fp32), "fp32" or "bf16". engine: one of `udrl.decoding.engine.ENGINES`; "auto" is the best verified
    export (`udrl export`) on a CPU, unless a precision is asked for, else torch.
    Raises StudentError where there is none, or where its files do not belong together.
    """
    settle()
    folder = student_folder(path)
    if not folder.is_dir():
        raise StudentError(f"there is no student at {path}: train one with udrl train --run {path}")
    for file in folder.iterdir():
        if not file.is_file() and not file.is_dir():  # reading a pipe waits for ever where nobody writes
            raise StudentError(f"{file} is no regular file: restore it or train again")
    space, calibration = CommandSpace.load(folder), Calibration.load(folder)
    with damaged(StudentError, f"{folder} cannot be loaded as a student: it", "train again", errors=(Exception,)):
        sampling = Sampling(**calibration.sampling) if calibration else SAMPLING
        computes = load_engine(
            folder, space, sampling=asdict(sampling), engine=engine, device=device, precision=precision
        )
        tokenizer = student_tokenizer(folder, light=computes.name != "torch")
        ends = saved_ends(folder, tokenizer)
    name = folder.parent.name if folder.name == "student" else folder.name
    return Student(computes, tokenizer, name=name, calibration=calibration, sampling=sampling, ends=ends)
