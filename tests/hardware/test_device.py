"""Which device computes: chosen where nobody says, and known to be there where somebody does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import grainline
from grainline.cli import main
from grainline.documents import GrainlineError
from grainline.hardware import choose_device, look


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_goes_first() -> None:
    assert choose_device() == choose_device("auto") == choose_device("cuda") == "cuda"
    assert [choose_device(name) for name in ("cpu", "cuda:0", "cuda:1")] == ["cpu", "cuda:0", "cuda:1"]
    with pytest.raises(GrainlineError, match=r"'cuda:2'.*there is cpu, cuda:0, cuda:1\."):
        choose_device("cuda:2")


@pytest.mark.usefixtures("no_gpu")
def test_an_apple_gpu_goes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device() == choose_device("mps") == "mps"


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "nonsense", "", "meta"])
def test_a_device_that_is_not_here_is_answered_with_those_that_are(name: str) -> None:
    with pytest.raises(GrainlineError, match=rf"device '{name}': .*\(a build for .*\) there is cpu\."):
        choose_device(name)


def test_the_choice_is_what_the_machine_says() -> None:
    assert choose_device() == look(measure=False).device_type


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    "command", [["generate", "MODEL", "hello"], ["serve", "MODEL", "--port", "0"], ["eval", "MODEL", "--text", "TEXT"]]
)
def test_every_verb_answers_it(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("Some text.")
    command = [str(tmp_path / "text.txt") if word == "TEXT" else word for word in command]
    for device in ("cuda", "nonsense"):
        assert main([*command, "--device", device]) == 2
        assert f"device '{device}': torch finds no such device here" in capsys.readouterr().err


@pytest.mark.usefixtures("no_gpu")
def test_so_does_loading_a_model() -> None:
    with pytest.raises(GrainlineError, match="torch finds no such device here"):
        grainline.load("MODEL", device="cuda")
