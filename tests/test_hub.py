"""Pushing to a stand-in of the hub."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from hub_stand_in import GOOD, READ_ONLY, Hub, handler

from udrl.cli.main import run as cli
from udrl.data.episode import SPLITS
from udrl.data.episodes import read_episodes
from udrl.data.run import Run
from udrl.errors import RunError, UsageError
from udrl.hub import TOKEN, HubError, limits, push
from udrl.teacher.synthesis.synth import synth
from udrl.training.train import train

# The client's own way of sending a file is deprecated by the library beneath it.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import constants

    told = Hub(tmp_path / "hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(told))
    server.daemon_threads = True
    told.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", told.url)
    monkeypatch.setenv(TOKEN, GOOD)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a binary protocol that only the hub speaks
    yield told
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scored run with rejected episodes."""
    run = tmp_path_factory.mktemp("hub") / "mine"
    synth(run, tasks=["search-query"], num_inputs=40, samples=4, rewards=("novelty",))
    return run


@pytest.fixture(scope="module")
def trained(made: Path) -> Path:
    """The same run with a student, which obeys nothing yet."""
    train(
        made,
        student="gpt2-mini",
        steps=2,
        batch_size=8,
        vocab_size=400,
        calibration_inputs=0,
        device="cpu",
        precision="fp32",
    )
    return made


def fresh(folder: Path, **card: str) -> Path:
    """Make a small run, unscored, whose teacher's card says ``card``."""
    synth(folder, tasks=["search-query"], num_inputs=5, samples=1, score=False)
    facts = json.loads((folder / "run.json").read_text())
    facts["stages"]["synth"]["teachers"]["builtin"].update(card)
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


def test_push_dataset_is_private_and_loads_again(hub: Hub, made: Path, tmp_path: Path) -> None:
    import datasets

    report = push(made, repo="org/mine")
    assert report.private
    assert hub.repos == {"datasets/org/mine": "private"}
    assert report.repo == "org/mine"
    assert report.url == f"{hub.url}/datasets/org/mine"
    files = hub.files("datasets/org/mine")
    assert set(report.files) == set(files) == {"README.md", *(f"{split}.parquet" for split in SPLITS)}
    loaded = datasets.load_dataset(str(hub.folder / "datasets/org/mine"), cache_dir=str(tmp_path / "cache"))
    for split in SPLITS:
        kept = read_episodes(Run(made).episodes, splits=(split,))
        assert [row["episode_id"] for row in loaded[split]] == [episode.episode_id for episode in kept]
        assert [row["completion"] for row in loaded[split]] == [episode.completion for episode in kept]
        assert [row["returns"]["novelty"] for row in loaded[split]] == [e.returns["novelty"] for e in kept]
        assert set(loaded[split]["rejected_by"]) == {None}
    assert b'load_dataset("org/mine")' in files["README.md"]
    assert GOOD.encode() not in b"".join(files.values())
    assert GOOD not in (made / "run.json").read_text()


def test_episodes_load_as_they_lie_in_the_run(made: Path, tmp_path: Path) -> None:
    import datasets

    run = Run(made)
    every = {split: read_episodes(run.episodes, splits=(split,), kept=False) for split in SPLITS}
    by_card = datasets.load_dataset(str(run.episodes), cache_dir=str(tmp_path / "a"))
    assert {split: rows.num_rows for split, rows in by_card.items()} == {s: len(rows) for s, rows in every.items()}
    by_file = datasets.load_dataset(
        "parquet", data_files=str(run.episodes / "train.parquet"), cache_dir=str(tmp_path / "b")
    )
    row, episode = by_file["train"][3], every["train"][3]
    assert {name: row[name] for name in vars(episode) if name != "returns"} == {
        name: value for name, value in vars(episode).items() if name != "returns"
    }
    assert row["returns"] == dict(episode.returns)


def test_unscored_episodes_are_pushed_and_load(hub: Hub, tmp_path: Path) -> None:
    import datasets

    run = fresh(tmp_path / "unscored")
    report = push(run)
    there = hub.folder / "datasets/me/udrl-unscored"
    loaded = datasets.load_dataset(str(there), cache_dir=str(tmp_path / "cache"))
    rows = [row for split in loaded.values() for row in split]
    assert len(rows) == report.episodes == len(read_episodes(Run(run).episodes, splits=SPLITS))
    assert {row["returns"]["relevance"] if row["returns"] else None for row in rows} == {None}
    # A split without episodes is no file, and the card does not name it: datasets refuses such a split.
    named = yaml.safe_load((there / "README.md").read_text().split("---\n")[1])["configs"][0]["data_files"]
    assert {entry["split"] for entry in named} == set(loaded)
    assert {entry["path"] for entry in named} == {path.name for path in there.glob("*.parquet")}


def test_push_sends_rejected_episodes_only_when_asked(hub: Hub, made: Path) -> None:
    everything = read_episodes(Run(made).episodes, splits=SPLITS, kept=False)
    kept = [episode for episode in everything if episode.rejected_by is None]
    assert len(kept) < len(everything)
    assert push(made).episodes == len(kept)
    assert push(made, rejected=True).episodes == len(everything)
    assert hub.repos == {"datasets/me/udrl-mine": "private"}
    sent = read_episodes(hub.folder / "datasets/me/udrl-mine", splits=("train",), kept=False)
    assert sent == [episode for episode in everything if episode.split == "train"]


def test_push_keeps_a_repository_that_exists(hub: Hub, made: Path) -> None:
    there = hub.folder / "datasets/org/old"
    there.mkdir(parents=True)
    (there / "notes.md").write_text("mine")
    (there / "README.md").write_text("old")
    hub.repos["datasets/org/old"] = "private"
    assert push(made, repo="org/old", private=False).private  # visibility is the repository's own
    assert hub.repos["datasets/org/old"] == "private"
    files = hub.files("datasets/org/old")
    assert files["notes.md"] == b"mine"
    assert b"# Episodes" in files["README.md"]


def test_push_does_not_publish_into_a_public_repository_unasked(hub: Hub, made: Path) -> None:
    hub.repos["datasets/org/open"] = "public"
    with pytest.raises(UsageError, match="is public"):
        push(made, repo="org/open")
    assert hub.files("datasets/org/open") == {}
    assert not push(made, repo="org/open", private=False).private
    assert "train.parquet" in hub.files("datasets/org/open")


def test_push_student(hub: Hub, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["push", "--student", "--public", "--repo", "org/small", "--run", str(trained), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert hub.repos == {"models/org/small": "public"}
    assert (report["private"], report["episodes"], report["url"]) == (False, None, f"{hub.url}/org/small")
    files = hub.files("models/org/small")
    student = Run(trained).student
    for name in ("README.md", "config.json", "command_space.json", "model.safetensors"):
        assert files[name] == (student / name).read_bytes(), name
    assert not [name for name in files if name.endswith((".pt", ".bin")) or "checkpoint" in name]


def test_pushed_student_generates_as_the_run_does(hub: Hub, trained: Path) -> None:
    import udrl

    push(trained, kind="model", repo="org/small")
    command = udrl.Command("search-query", {})
    said = [
        udrl.load(folder).generate(["a red fox"], [command], seeds=[3])[0].completion
        for folder in (trained, hub.folder / "models/org/small")
    ]
    assert said[0] == said[1]


def test_push_without_a_student_says_what_to_run(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fresh(tmp_path / "run")
    assert cli(["push", "--student", "--run", str(run)]) == 1
    assert "udrl train --run" in capsys.readouterr().err
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "repo", "said"),
    [
        ("hf_wrong", "mine", "does not know the token"),
        (READ_ONLY, "org/mine", "does not let the token"),
        (GOOD, "elsewhere/mine", "does not let the token"),
    ],
)
def test_push_refusals_are_one_line(
    hub: Hub,
    made: Path,
    token: str,
    repo: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(TOKEN, token)
    assert cli(["push", "--dataset", "--run", str(made), "--repo", repo]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert hub.url in lines[0]
    assert token not in lines[0]
    assert hub.repos == {}


def test_push_says_why_a_file_was_not_taken(hub: Hub, made: Path) -> None:
    hub.broken = 413
    with pytest.raises(HubError, match=r"answered 413 \(storage quota exceeded\)"):
        push(made)


@pytest.mark.parametrize("name", ["three/parts/here", "with space", "-dash", "org/", "a--b"])
def test_push_to_no_name_of_a_repository(hub: Hub, made: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["push", "--dataset", "--run", str(made), f"--repo={name}"]) == 2
    assert f"'{name}' is no name of a repository" in capsys.readouterr().err
    assert hub.requests == []


def test_push_to_a_service_that_cannot_be_reached(
    hub: Hub, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert cli(["push", "--dataset", "--run", str(made)]) == 1
    error = capsys.readouterr().err
    assert "http://127.0.0.1:9 cannot be reached" in error
    assert len(error.strip().splitlines()) == 1


def test_push_offline_without_token_or_choice(
    hub: Hub, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert cli(["push", "--dataset", "--run", str(made)]) == 1
    assert "unset HF_HUB_OFFLINE" in capsys.readouterr().err
    monkeypatch.delenv(TOKEN)
    assert cli(["push", "--dataset", "--run", str(made)]) == 2
    assert "set HF_TOKEN" in capsys.readouterr().err
    assert cli(["push", "--run", str(made)]) == 2
    assert "--dataset or --student" in capsys.readouterr().err
    assert hub.requests == []


def test_push_of_no_run_or_nothing_kept(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["push", "--dataset", "--run", str(tmp_path / "none")]) == 1
    assert "there is no run" in capsys.readouterr().err
    empty = tmp_path / "empty"
    table = tmp_path / "said.jsonl"
    refusals = ({"input": f"a fox, number {n}", "output": "I'm sorry, but I can't help with that."} for n in range(3))
    table.write_text("".join(json.dumps({**row, "licence": "mit"}) + "\n" for row in refusals))
    with pytest.raises(RunError, match="3 refusal"):
        synth(empty, teacher=f"recorded:{table}", score=False)
    assert cli(["push", "--dataset", "--accept-licence", "--run", str(empty)]) == 1
    assert "every one was rejected" in capsys.readouterr().err
    assert hub.requests == []


def test_push_asks_for_the_licence_of_a_teacher_with_limits(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "may not be used to improve any other large language model"
    run = fresh(tmp_path / "limited", licence="llama3", outputs=said)
    assert cli(["push", "--dataset", "--run", str(run)]) == 2
    error = capsys.readouterr().err
    assert "--accept-licence" in error
    assert said in error
    assert hub.requests == []
    assert cli(["push", "--dataset", "--accept-licence", "--run", str(run)]) == 0
    card = hub.files("datasets/me/udrl-limited")["README.md"].decode()
    assert "license: llama3\n" in card
    assert said in card


@pytest.mark.parametrize(
    ("backend", "licence", "free"),
    [
        ("builtin", "apache-2.0", True),
        ("recorded", "mit", True),
        ("recorded", "mit, CC-BY-4.0", True),
        ("recorded", "unknown", False),
        ("recorded", "mit, cc-by-nc-4.0", False),
    ],
)
def test_limits_of_recorded_outputs_are_those_of_their_licence(
    tmp_path: Path, backend: str, licence: str, free: bool
) -> None:
    run = fresh(tmp_path / "run", backend=backend, licence=licence)
    assert (limits(Run(run)) == {}) == free


def test_a_licence_that_the_hub_does_not_know_is_named(hub: Hub, tmp_path: Path) -> None:
    push(fresh(tmp_path / "odd", licence='Our "own" terms: v2'), accept_licence=True)
    header = yaml.safe_load(hub.files("datasets/me/udrl-odd")["README.md"].decode().split("---\n")[1])
    assert (header["license"], header["license_name"]) == ("other", 'Our "own" terms: v2')
