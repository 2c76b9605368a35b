"""The command line as a person meets it: help at once, errors in words, exit codes that scripts can use."""

import errno
import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import grainline
from grainline import cli
from grainline.documents import AlreadyTold, DocumentError, GrainlineError

VERBS = {name: verb for group in cli.VERBS.values() for name, verb in group.items()}


def command(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "grainline", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | environment,
    )


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == cli.main([]) == cli.main(["help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, verb in VERBS.items():
        assert any(line.split(verb.summary)[0].strip() == name for line in lines if verb.summary in line)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_is_a_function_of_typed_arguments(name: str) -> None:
    run = importlib.import_module(f"grainline.cli.{VERBS[name].module}").run
    signature = inspect.signature(run, eval_str=True)
    assert signature.return_annotation is int
    documented = inspect.getdoc(run) or ""
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        assert f"\n    {parameter.name}: " in documented, f"{parameter.name} isn't explained"
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            assert parameter.default is not inspect.Parameter.empty, f"option {parameter.name} has no default"


def test_reading_a_command_line_leaves_the_verb_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    run = importlib.import_module("grainline.cli.train").run
    before = inspect.signature(run)
    assert cli.main(["train", "--help"]) == 0
    assert inspect.signature(run) == before


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_helps_without_torch(name: str) -> None:
    code = (
        "import sys; from grainline.cli import main; code = main(sys.argv[1:]);"
        "slow = {'torch', 'transformers', 'matplotlib', 'fastapi'} & set(sys.modules);"
        "sys.exit(f'{slow} imported' if slow else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *name.split(), "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"usage: grainline {name}" in done.stdout


@pytest.mark.parametrize("code", ["import grainline", "import grainline.cli; grainline.cli.main(['--help'])"])
def test_the_door_opens_without_anything_heavy(code: str) -> None:
    check = "import sys; assert not {'torch', 'numpy', 'pydantic', 'rich', 'tyro'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"{code}; {check}"], check=True, capture_output=True, timeout=60)


def test_documents_know_no_torch() -> None:
    code = (
        "import sys, grainline; grainline.Recipe, grainline.Plan, grainline.Cluster, grainline.ModelConfig;"
        "import grainline.hardware; assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"grainline {grainline.__version__}\n"


def test_an_unknown_verb_is_answered_by_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian", "recipe.toml"]) == cli.MENDABLE == 2
    assert "there is no verb 'trian'. Did you mean 'train'?" in capsys.readouterr().err


def test_a_wrong_argument_is_answered_by_the_nearest() -> None:
    done = command("doctor", "--foldr", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--folder" in done.stderr


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Put an error into the list and the verb 'doctor' raises it."""
    errors: list[BaseException] = []

    def run() -> int:
        """Raise."""
        raise errors[0]

    monkeypatch.setattr("grainline.cli.doctor.run", run)
    return errors


MEND_DISK = " Free some space, or write to another disk, and run this again."
MEND_MEMORY = """\
grainline: there isn't enough memory for this. A smaller model, shorter sequences, or fewer
  of them per pass take less; grainline train --dry-run says how much.
"""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (GrainlineError("mend this"), 2, "grainline: mend this\n"),
        (AlreadyTold("mend this"), 2, ""),
        (DocumentError(["x: is required."], "r.toml"), 2, "grainline: r.toml: x: is required.\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, f"grainline: No space left on device.{MEND_DISK}\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), 2, "grainline: /a/b: Permission denied.\n"),
        (
            ModuleNotFoundError("No module named 'a.b'", name="a.b"),
            2,
            f"grainline: the package 'a' is missing. Install it, e.g.\n  {sys.executable} -m pip install a\n",
        ),
        (
            ModuleNotFoundError("No module named 'fcntl'", name="fcntl"),
            2,
            "grainline: this Python lacks its own module 'fcntl'.\n"
            "  Complete Pythons on Linux and macOS have it: use another one.\n",
        ),
        (MemoryError(), 2, MEND_MEMORY),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. can't allocate memory: …"), 2, MEND_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), 2, MEND_MEMORY),
        (KeyboardInterrupt(), 130, "\nInterrupted.\n"),
        (SystemExit(3), 3, ""),
        (SystemExit(), 0, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_expected_end_is_told_without_a_traceback(
    raising: list[BaseException], error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    raising.append(error)
    assert cli.main(["doctor"]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", words)


def test_an_unexpected_error_is_short_unless_debugging(
    raising: list[BaseException], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    raising.append(ZeroDivisionError("by nought"))
    monkeypatch.delenv(cli.DEBUG, raising=False)
    assert cli.main(["doctor"]) == 1
    short = capsys.readouterr().err
    assert "unexpected ZeroDivisionError: by nought" in short
    assert f"{Path(__file__).name}:" in short
    assert "Traceback" not in short
    monkeypatch.setenv(cli.DEBUG, "1")
    assert cli.main(["doctor"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "grainline", "--help"],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (cli.PIPE_CLOSED, "")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that is neither Linux nor macOS, and tells nothing by files."""
    from grainline.hardware import processor

    monkeypatch.delenv(cli.ANYWHERE, raising=False)
    monkeypatch.setattr("platform.system", lambda: "Windows")
    monkeypatch.setattr("platform.machine", lambda: "AMD64")
    for look in (processor.name, processor.features, processor.memory, processor.usable_cores):
        monkeypatch.setattr(look, "__defaults__", (tmp_path / "no root",))
    monkeypatch.setattr("grainline.cli.doctor._torch_fits", lambda: False)  # nothing is measured


@pytest.mark.usefixtures("elsewhere")
def test_other_platforms_are_refused_plainly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["--help"]) == 0
    capsys.readouterr()
    assert cli.main(["hardware", "--no-measure"]) == 2
    told = capsys.readouterr().err
    assert "for Linux on x86-64 and aarch64 and for macOS on Apple silicon; this is Windows AMD64" in told
    monkeypatch.setenv(cli.ANYWHERE, "1")
    assert cli.main(["hardware", "--no-measure"]) == 0


@pytest.mark.usefixtures("elsewhere")
def test_doctor_examines_other_platforms_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def states() -> dict[str, str]:
        assert cli.main(["doctor", "--json", "--folder", str(tmp_path)]) == 1
        return {check["name"]: check["state"] for check in json.loads(capsys.readouterr().out)}

    assert {"platform": "missing", "memory": "limited", "writing": "ok"}.items() <= states().items()
    monkeypatch.setenv(cli.ANYWHERE, "1")
    assert states()["platform"] == "limited"


def test_doctor_answers_in_json(tmp_path: Path) -> None:
    done = command("doctor", "--json", "--folder", str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache"))
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert {"Python", "platform", "packages", "torch", "bfloat16", "memory", "disk", "writing"} <= set(checks)
    assert {check["state"] for check in checks.values()} <= {"ok", "limited", "missing"}
    assert all(check["mend"] for check in checks.values() if check["state"] == "missing")
    assert done.returncode == int(any(check["state"] == "missing" for check in checks.values())) == 0, done.stdout


def test_no_standard_output_is_no_error() -> None:
    done = subprocess.run(
        ["sh", "-c", f"'{sys.executable}' -m grainline --version >&-"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
