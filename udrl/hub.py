"""Datasets and students to the Hugging Face hub, by its own client; private unless asked otherwise.

The token comes from the environment (HF_TOKEN) and nowhere else; HF_ENDPOINT names another service. Nothing is written
to the run.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from udrl.data.dataset_card import PLACE, run_facts
from udrl.data.episodes import iterate_episodes, reward_names, write_episodes
from udrl.data.facts import HygieneFacts, TeacherFacts
from udrl.data.hygiene import said
from udrl.data.run import Run
from udrl.errors import RunError, UdrlError, UsageError
from udrl.hub_reach import is_of_transport

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

TOKEN = "HF_TOKEN"
Kind = Literal["dataset", "model"]

_FREE = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-3.0", "bsd-2-clause", "bsd-3-clause", "unlicense")
"""Licences of recorded outputs that ask for no more than attribution, which the card gives."""


class HubError(UdrlError):
    """The hub cannot be reached, or refuses."""


@dataclass(frozen=True)
class PushReport:
    """What was sent. url: where it is; private: who sees it; files: names; episodes: rows, where it is a dataset."""

    repo: str
    url: str
    private: bool
    files: tuple[str, ...]
    episodes: int | None = None


def limits(run: Run) -> dict[str, str]:
    """Return what the licences of the run's teachers say of their outputs, by teacher, where that is not "no limits".

    Recorded outputs are free under a permissive licence; where none is stated, they are not.
    """
    teachers = run.facts().synth.teachers
    return {name: f"{card.licence}: {card.outputs}" for name, card in teachers.items() if not _is_free(card)}


def _is_free(card: TeacherFacts) -> bool:
    if card.backend == "recorded":
        return all(licence.strip() in _FREE for licence in card.licence.casefold().split(","))
    return card.outputs.startswith("no limits")


def push(
    run: Run | Path | str,
    *,
    kind: Kind = "dataset",
    repo: str | None = None,
    private: bool = True,
    rejected: bool = False,
    accept_licence: bool = False,
) -> PushReport:
    """Send the run's episodes, or its student, to the hub, and return where they are.

    repo: ``ORG/NAME``, or a name in the token's own account (None: ``udrl-`` and the run's name). It is made where it
    is missing; one that exists keeps its visibility, and a public one is refused unless ``private`` is False.
    Files of the same names are replaced.
    rejected: send episodes that a rule rejected as well. accept_licence: say that the limits which a teacher's
    licence sets on its outputs are kept; without it a run with such a teacher is refused.

    Raises UsageError (no token, a strange name, a licence with limits, a public repository), RunError (nothing to
    send), HubError.
    """
    run = run if isinstance(run, Run) else Run(run)
    run.check()
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise UsageError(f"no token for the hub: make one that may write and set {TOKEN} in the environment")
    if not accept_licence and (limiting := limits(run)):
        name, said = next(iter(limiting.items()))
        raise UsageError(
            f"teacher '{name}' limits what its outputs may be used for ({said.rstrip('.')}): "
            "make sure that sharing them is allowed, then repeat with --accept-licence"
        )
    name = repo or f"udrl-{run.path.absolute().name}"
    with _hub_errors(name), tempfile.TemporaryDirectory(prefix="udrl-push-") as scratch:
        folder, episodes = _prepared(run, Path(scratch) / "push", kind=kind, rejected=rejected)
        repository, url, private = _upload(folder, name, token=token, kind=kind, private=private)
        files = tuple(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
    return PushReport(repository, url, private, files, episodes)


def _upload(folder: Path, name: str, *, token: str, kind: Kind, private: bool) -> tuple[str, str, bool]:
    """Return the repository's full name, its address, and whether it is private."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)
    made = api.create_repo(name, repo_type=kind, private=private, exist_ok=True)
    hidden = bool(api.repo_info(made.repo_id, repo_type=kind).private)
    if private and not hidden:
        raise UsageError(
            f"{made} exists and is public: make it private there, name another --repo, or repeat with --public"
        )
    card = folder / "README.md"
    if kind == "dataset":
        card.write_text(card.read_text(encoding="utf-8").replace(PLACE, made.repo_id), encoding="utf-8")
    api.upload_folder(repo_id=made.repo_id, repo_type=kind, folder_path=folder, commit_message="udrl push")
    return made.repo_id, str(made), hidden


def _prepared(run: Run, folder: Path, *, kind: Kind, rejected: bool) -> tuple[Path, int | None]:
    """Return the folder to send, and how many episodes are in it."""
    if kind == "model":
        if not (run.student / "config.json").is_file():
            raise RunError(f"{run.student} holds no student: run 'udrl train --run {run.path}' first")
        shutil.copytree(run.student, folder, ignore=shutil.ignore_patterns("checkpoints", "*.pt", ".*"))
        return folder, None
    known = run.facts()
    facts = {**run_facts(run), **(said(known.hygiene) if HygieneFacts.KEY in known.stages else {})}
    facts["rejected episodes"] = "included, see rejected_by" if rejected else "left out"
    rows = iterate_episodes(run.episodes, kept=not rejected)
    counts = write_episodes(folder, rows, reward_names=reward_names(run.episodes), card_facts=facts)
    if not counts["total"]:
        raise RunError(f"{run.episodes} holds no episodes to send: every one was rejected")
    for split in ("train", "validation", "test"):
        if not counts[split]:
            (folder / f"{split}.parquet").unlink()
    return folder, counts["total"]


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        yield
    except UdrlError:
        raise
    except Exception as error:
        # The client wraps what went wrong with one file of several in an error of its own.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if isinstance(cause, HFValidationError):
            raise UsageError(f"'{name}' is no name of a repository: give --repo ORG/NAME") from error
        if isinstance(cause, OfflineModeIsEnabled):
            raise HubError("the hub's client is set to be offline: unset HF_HUB_OFFLINE") from error
        if isinstance(cause, HfHubHTTPError):
            raise HubError(f"{endpoint} {_refusal(cause, name)}") from error
        if is_of_transport(cause):
            said = str(cause) or type(cause).__name__
            raise HubError(f"{endpoint} cannot be reached ({said}): check the network and HF_ENDPOINT") from error
        raise


def _refusal(error: HfHubHTTPError, name: str) -> str:
    """Return what the service answered, and what to do."""
    status = error.response.status_code if error.response is not None else 0
    said = (error.server_message or "").strip().partition("\n")[0] or "no reason given"
    known = {
        401: f"does not know the token in {TOKEN}: make a new one that may write",
        403: f"does not let the token in {TOKEN} write to '{name}': make one that may, or name another --repo",
        404: f"has no place for '{name}': check --repo ORG/NAME, and that the token may see it",
    }
    return known.get(status, f"answered {status} ({said}): try again later")
