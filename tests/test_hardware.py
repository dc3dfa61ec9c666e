"""What a machine computes with: asked without torch where that suffices, and one sentence where a device is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from udrl import hardware
from udrl.errors import HardwareError, UsageError
from udrl.hardware import choose_device, choose_precision, describe_in_line


def test_hardware_is_asked_without_torch_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    processors = tmp_path / "cpuinfo"
    monkeypatch.setattr(hardware, "PROCESSORS", processors)
    for line, precision in (
        ("flags : fpu avx512f", "fp32"),
        ("flags : fpu amx_bf16", "bf16"),
        ("Features : bf16", "bf16"),
    ):
        processors.write_text(f"processor : 0\n{line}\n")
        assert choose_precision("auto", "cpu") == precision
    monkeypatch.setattr(hardware, "GPU_FILES", (str(tmp_path / "none"),))
    assert choose_device("auto") == "cpu"


def test_hardware_asks_torch_for_bf16_where_the_system_lists_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hardware, "PROCESSORS", tmp_path / "none")
    for capabilities, expected in (({"avx512_bf16": True}, "bf16"), ({"avx512_f": True}, "fp32")):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda found=capabilities: found)
        assert choose_precision("auto", "cpu") == expected
        assert choose_precision("fp32", "cpu") == "fp32"
    with pytest.raises(UsageError, match="fp16"):
        choose_precision("fp16", "cpu")


@pytest.mark.parametrize("device", ["cuda:9", "tpu", "cpu:x", ""])
def test_hardware_device_that_cannot_be_used_is_one_sentence(device: str) -> None:
    with pytest.raises(HardwareError, match=f"device '{device}' cannot be used .*: try --device cpu"):
        choose_device(device)


def test_hardware_is_one_line() -> None:
    assert "cores" in describe_in_line()
    assert "\n" not in describe_in_line()
