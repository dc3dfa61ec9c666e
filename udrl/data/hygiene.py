"""What keeps an episode out of training, or changes its texts, because of where it would do harm.

Inputs that a benchmark asks as well (``udrl.data.decontamination``) and personal data (``udrl.data.pii``). Both act
when episodes are built: the ledger stays as it was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from udrl.data import decontamination, pii
from udrl.data.decontamination import Contamination
from udrl.data.facts import DecontaminationFacts, HygieneFacts
from udrl.data.index import LedgerIndex
from udrl.data.inputs import input_id
from udrl.data.known_answers import read_answers, store_answers
from udrl.data.ledger import Ledger, LedgerRecord
from udrl.data.pii import PiiMode
from udrl.data.run import Run
from udrl.encoder import Encoder
from udrl.errors import UsageError


@dataclass(frozen=True)
class Hygiene:
    """What is asked for; None: as the last time in this run, or the default.

    suites: whose inputs must not be trained on, names or files (default: all that ship; empty: none).
    pii: ``off`` (default), ``mask`` or ``reject``.
    """

    suites: Sequence[str | Path] | None = None
    pii: PiiMode | None = None


@dataclass(frozen=True)
class Screen:
    """What is done to the responses while episodes are built. asked: the suites that the next building of episodes
    looks at, too, as run.json names them; None: all that ship."""

    contamination: Contamination = field(default_factory=Contamination)
    pii: PiiMode = "off"
    asked: tuple[str, ...] | None = None

    def __call__(self, record: LedgerRecord, reason: str | None) -> tuple[LedgerRecord, str | None]:
        """Return the response as its episode has it, and the rule that rejects it (``reason``: one that did before).

        With ``mask`` the input and the completion are masked, in rejected ones too, and ``sampling`` names what was
        (``masked``). The input id stays that of the text as it was, and so does the split.
        """
        if reason is None and record.input_id in self.contamination.input_ids:
            reason = decontamination.RULE
        if (
            self.pii == "reject"
            and reason is None
            and (pii.has_pii(record.input) or pii.has_pii(record.completion or ""))
        ):
            reason = pii.RULE
        if self.pii == "mask":
            given, of_input = pii.mask(record.input)
            written, of_completion = pii.mask(record.completion or "")
            if kinds := dict.fromkeys(of_input + of_completion):
                sampling = {**record.sampling, pii.MASKED: ", ".join(kinds)}
                record = replace(record, input=given, completion=written, sampling=sampling)
        return record, reason

    def facts(self) -> HygieneFacts:
        """Return what run.json says of it."""
        contamination = self.contamination
        return HygieneFacts(
            self.pii,
            DecontaminationFacts(
                suites=tuple(Path(suite).name for suite in contamination.suites),
                held_out=contamination.held_out,
                inputs=contamination.inputs,
                contaminated=len(contamination.input_ids),
                counts=dict(contamination.counts),
                ngram=decontamination.NGRAM,
                similarity=decontamination.SIMILAR if contamination.similarity else None,
                asked=self.asked,
            ),
        )

    def card_facts(self) -> dict[str, object]:
        """Return the lines of it in the dataset card."""
        return said(self.facts())


def said(facts: HygieneFacts) -> dict[str, object]:
    """Return in words, line by line, what run.json records of it."""
    kept_out = facts.decontamination
    lines: dict[str, object] = {"benchmark suites kept out of training": ", ".join(kept_out.suites) or "none"}
    if kept_out.suites:
        by = ", ".join(f"{count} by {how}" for how, count in kept_out.counts.items())
        lines["contaminated inputs"] = f"{kept_out.contaminated} of {kept_out.inputs}{f' ({by})' if by else ''}"
    return {**lines, "personal data": _PII_SAID[facts.pii]}


_PII_SAID = {
    "off": "not looked for",
    "mask": "e-mail addresses, phone numbers, IBANs, cards, IP addresses and credentials in URLs are masked",
    "reject": "episodes with e-mail addresses, phone numbers, IBANs, cards, IP addresses or credentials are rejected",
}


def screen(run: Run, ledger: Ledger, wanted: Hygiene, *, encoder: Encoder | None = None) -> Screen:
    """Look for inputs of benchmark suites among those of ``ledger``, and return what building episodes then does.

    encoder: compares meanings as well as words. Raises UsageError for an unknown suite or mode, TaskError and
    InputError for a suite's file that cannot be read.
    """
    mode = _mode(run, wanted)
    asked = run.facts().hygiene.decontamination.asked
    if wanted.suites is not None:
        asked = tuple(decontamination.lasting_name(suite) for suite in wanted.suites)
    texts = decontamination.suite_inputs(asked if wanted.suites is None else wanted.suites)
    contamination = (
        decontamination.find_contaminated(_inputs(ledger), texts, encoder=encoder) if texts else Contamination()
    )
    return Screen(contamination, mode, asked)


def store_masked_answers(run: Run, ledger: Ledger, wanted: Hygiene) -> None:
    """Where texts are masked, add the run's known answers under the ids that its inputs have as episodes hold them.

    Where masking makes one text of inputs whose answers differ, or are not all known, nobody knows that text's answer.
    """
    answers = read_answers(run.path)
    if not answers or _mode(run, wanted) != "mask":
        return
    by_masked: dict[str, str | None] = {}
    for identity, text in _inputs(ledger):
        masked, kinds = pii.mask(text)
        if kinds:
            answer = answers.get(identity)
            if by_masked.setdefault(input_id(masked), answer) != answer:
                by_masked[input_id(masked)] = None
    known = {identity: answer for identity, answer in by_masked.items() if answer is not None}
    store_answers(run.path, known, unknown=by_masked.keys() - known.keys())


def _mode(run: Run, wanted: Hygiene) -> PiiMode:
    mode: PiiMode = wanted.pii or run.facts().hygiene.pii
    if mode not in pii.MODES:
        raise UsageError(f"personal data can be treated as {', '.join(pii.MODES)}, found '{mode}'")
    return mode


def _inputs(ledger: Ledger) -> Iterator[tuple[str, str]]:
    """Yield input id and text of the first response to each input of each task."""
    index = LedgerIndex(ledger)
    for rows in index.groups():
        record = ledger.read(index.span(rows[0]))
        yield record.input_id, record.input
