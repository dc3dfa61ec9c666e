"""udrl demo at a tiny size: its stages, its last screen, and that it goes on instead of starting over."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

import udrl.cli.main as cli
import udrl.demo


@pytest.mark.slow
@pytest.mark.filterwarnings("default:target .* is beyond what")
def test_demo_shows_one_input_under_three_commands_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = functools.partial(udrl.demo.demo, num_inputs=60, samples=2, steps=10, bench_inputs=2)
    monkeypatch.setattr(udrl.demo, "demo", small)
    run = tmp_path / "demo"
    assert cli.run(["demo", "--run", str(run)]) == 0
    out, err = capsys.readouterr()
    for stage in ("1/4 synth", "2/4 train", "3/4 bench", "4/4 one input"):
        assert stage in err
    assert out.startswith(f"input: {udrl.demo.INPUT}\n")
    assert out.count("asked for relevance ") == out.count("  achieved relevance ") == 3
    assert f"open the report:  {run / 'bench' / 'relevance' / 'report.html'}\n" in out
    assert (run / "bench" / "relevance" / "report.html").is_file()
    assert f"generate --run {run} --task text-to-image --target-relevance" in out

    before = (run / "student" / "model.safetensors").stat().st_mtime_ns
    assert cli.run(["demo", "--run", str(run)]) == 0
    again = capsys.readouterr().out
    assert (run / "student" / "model.safetensors").stat().st_mtime_ns == before, "not trained a second time"
    assert again.split("open the report")[0].splitlines()[:-1] == out.split("open the report")[0].splitlines()[:-1]
