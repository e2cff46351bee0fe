"""How the command behaves whatever the subcommand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import recon_cli
from recon_cli.cli.app import main
from tests.conftest import AUTHORS_RANKING
from tests.relations.making import of_five_tasks
from tests.results.making import results

COMMANDS = [
    "init", "inspect", "profile", "rank", "split", "compare-rankings", "verify", "extract", "unsplit", "diff",
    "methods", "compare-conflicts", "train", "compare-results", "run", "report", "tasks", "search",
]  # fmt: skip


def start(
    *arguments: object, cwd: Path, code: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `recon` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code or "from recon_cli.cli.app import main; raise SystemExit(main())",
         *(str(argument) for argument in arguments)],
        cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
    )  # fmt: skip


def test_the_version_is_printed(recon):
    assert recon("--version").succeeds().out == f"recon {recon_cli.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(recon, command):
    assert f"Usage: recon {command}" in recon(command, "--help").succeeds().out
    assert command in recon("--help").out


@pytest.mark.parametrize(
    "arguments", [["no-such"], ["rank"], ["rank", "x", "--no-such"], ["rank", "x", "-S", "abc"], ["split"], []]
)
def test_wrong_usage_ends_with_code_2(recon, arguments):
    result = recon(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert "Usage: recon" in result.err


def test_the_module_is_the_command(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "recon_cli", "--version"], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert result.stdout.startswith("recon ")


NEEDS_NO_TORCH = {
    "help": ["--help"],
    "version": ["--version"],
    "init": ["init", "new.yaml"],
    "profile --help": ["profile", "--help"],
    "profile of a bad config": ["profile", "bad.yaml", "-o", "s.json"],
    "run --help": ["run", "--help"],
    "run of a bad config": ["run", "bad.yaml", "-o", "out"],
    "run of a config without validation": ["run", "alone.yaml", "-o", "out"],
    "run of contradicting stages": ["run", "whole.yaml", "-o", "out", "--from", "split", "--until", "rank"],
    "rank": ["rank", "ranking.json", "-o", "r.json"],
    "rank of scores": ["rank", "scores.json", "-S", "0", "--json"],
    "search of a bad config": ["search", "bad.yaml", "--method", "conal", "-o", "s.json"],
    "tasks": ["tasks", "scores.json", "-S", "0", "--layer", "body.0"],
    "tasks of more than two": ["tasks", "five.json"],
    "compare-rankings": ["compare-rankings", "ranking.json", "ranking.json"],
    "compare-rankings of stages": ["compare-rankings", "scores.json", "--stages", "-S", "-0.05"],
    "compare-conflicts": ["compare-conflicts", "scores.json", "run", "-o", "c.json"],
    "compare-results": ["compare-results", "run", "single", "-o", "d.json"],
    "split": ["split", "model.safetensors", "--layers", "conv", "--tasks", "a,b", "-o", "b.safetensors"],
    "split of a ranking": ["split", "model.safetensors", "--ranking", "ranking2.json", "--top-k", "1", "--dry-run"],
    "split within limits": [
        "split", "model.safetensors", "--ranking", "ranking2.json", "--max-params", "99%", "--dry-run"
    ],
    "tradeoff": ["tradeoff", "ranking2.json"],
    "transfer": ["transfer", "ranking.json", "--tasks", "a,b", "-o", "t.json"],
    "verify": ["verify", "branched.safetensors", "--source", "model.safetensors"],
    "inspect": ["inspect", "branched.safetensors"],
    "inspect of a torch file": ["inspect", "training.ckpt", "--json"],
    "inspect of a document": ["inspect", "scores.json"],
    "extract": ["extract", "branched.safetensors", "--task", "a", "-o", "plain.pt"],
    "unsplit": ["unsplit", "branched.safetensors", "--average", "-o", "shared.safetensors"],
    "diff": ["diff", "model.safetensors", "model.safetensors"],
    "a mistake": ["rank", "none.json"],
}  # fmt: skip

MISTAKES = {
    "profile of a bad config", "run of a bad config", "run of a config without validation",
    "run of contradicting stages", "search of a bad config", "a mistake",
}  # fmt: skip


@pytest.fixture
def files(recon, scores, ranking, checkpoint, config, tmp_path):
    """The files that the commands of `NEEDS_NO_TORCH` name."""
    (tmp_path / "bad.yaml").write_text("a: 1")
    config("alone.yaml")
    config("whole.yaml", validation={"target": "tests.networks:two_task_data"})
    weights = torch.zeros(4, 4)
    torch.save({"epoch": 1, "model": {"a.weight": weights, "b.weight": weights.t()}}, tmp_path / "training.ckpt")
    ranking.rename(tmp_path / "ranking2.json")
    of_five_tasks(10).write(tmp_path / "five.json")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "scores.json").write_bytes(scores.read_bytes())
    for name in ("run", "single"):
        (tmp_path / name).mkdir(exist_ok=True)
        results({"a/loss": 1.0}, single_task=name == "single").write(tmp_path / name / "results.json")
    (tmp_path / "ranking.json").write_bytes(AUTHORS_RANKING.read_bytes())
    recon("split", checkpoint, "--layers", "conv", "--tasks", "a,b", "-o", "branched.safetensors").succeeds()
    return tmp_path


def test_no_command_imports_what_it_does_not_need(files):
    for name, arguments in NEEDS_NO_TORCH.items():
        code = (
            "import sys; from recon_cli.cli.app import main; code = main()\n"
            "found = {'torch', 'numpy', 'scipy'} & set(sys.modules)\n"
            "assert not found, found\n"
            "raise SystemExit(code)"
        )
        result = start(*arguments, cwd=files, code=code)
        assert "AssertionError" not in result.stderr, (name, result.stderr)
        assert result.returncode == (2 if name in MISTAKES else 0), (name, result.stderr)


def test_importing_the_package_imports_no_torch(tmp_path):
    code = "import sys, recon_cli; assert 'torch' not in sys.modules; recon_cli.branch; assert 'torch' in sys.modules"
    assert start(cwd=tmp_path, code=code).returncode == 0


def test_unknown_names_of_the_package_are_attribute_errors():
    with pytest.raises(AttributeError, match="no_such"):
        _ = recon_cli.no_such


def test_completion_works_and_imports_no_torch(tmp_path):
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
        "from recon_cli.cli.app import main; raise SystemExit(main())"
    )
    result = start(cwd=tmp_path, code=code, _RECON_COMPLETE="complete_bash", COMP_WORDS="recon com", COMP_CWORD="1")
    assert "compare-rankings" in result.stdout
    assert result.stderr.strip() == "False"


@pytest.mark.parametrize("mode", ["--json", "--quiet"])
def test_standard_output_carries_data_only(recon, files, mode):
    for arguments in (
        ["rank", "ranking.json", mode],
        ["tasks", "scores.json", mode],
        ["compare-rankings", "ranking.json", "ranking.json", mode],
        ["compare-conflicts", "scores.json", "run", mode],
        ["compare-results", "run", "single", "--single-task", "single", mode],
        ["split", "model.safetensors", "--layers", "conv", "--tasks", "a,b", "--dry-run", mode],
        ["verify", "branched.safetensors", "--source", "model.safetensors", mode],
        ["inspect", "training.ckpt", mode],
        ["extract", "branched.safetensors", "--task", "a", "-o", "plain.safetensors", mode],
        ["unsplit", "branched.safetensors", "-o", "shared.safetensors", mode],
        ["diff", "model.safetensors", "model.safetensors", mode],
    ):
        result = recon(*arguments).succeeds()
        if mode == "--json":
            assert result.document["schema"].startswith("recon.")
        else:
            assert (result.out, result.err) == ("", "")


def test_no_colour_and_no_control_characters_without_a_terminal(recon, files):
    for arguments in (["rank", "ranking.json"], ["rank", "scores.json", "-S", "0"], ["rank", "none.json"], ["--help"]):
        result = recon(*arguments)
        assert "\x1b" not in result.out + result.err


def test_a_reader_that_leaves_early_is_no_error(files):
    import json

    (files / "big.json").write_text(json.dumps({f"layer{i}": 1 for i in range(20_000)}))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-m", "recon_cli", "rank", "big.json", "--json"],
        cwd=files, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "{\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0


def test_names_beyond_ascii_are_shown_in_any_locale(tmp_path):
    (tmp_path / "r.json").write_text('{"größe": 2, "層": 1}', encoding="utf-8")
    for locale in ("C", "C.UTF-8", "POSIX"):
        result = start("rank", "r.json", cwd=tmp_path, LC_ALL=locale, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
        assert result.returncode == 0, result.stderr
        assert "2" in result.stdout


def test_a_traceback_is_shown_only_on_request(tmp_path):
    assert "Traceback" not in start("rank", "none.json", cwd=tmp_path).stderr
    asked = start("rank", "none.json", cwd=tmp_path, RECON_DEBUG="1")
    assert "Traceback" in asked.stderr
    assert asked.returncode == 2


def test_a_full_disk_is_one_sentence(recon, files, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = sorted(Path().iterdir())
    arguments = ["split", "model.safetensors", "--layers", "conv", "--tasks", "a,b", "-o", "c.safetensors"]
    recon(*arguments).refuses("No space left on device")
    assert sorted(Path().iterdir()) == before


def test_an_error_of_our_own_is_reported_as_such(monkeypatch, capsys):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("this should not happen")

    monkeypatch.setattr("recon_cli.cli.output.Output.choose", broken)
    assert main(["rank", "x.json"]) == 2
    assert "Recon failed unexpectedly with RuntimeError: this should not happen" in capsys.readouterr().err


def test_no_line_for_people_ends_in_blanks(recon):
    lines = recon("methods").succeeds().out.splitlines()
    assert any(line.startswith("pcgrad ") for line in lines)
    assert [line for line in lines if line != line.rstrip()] == []
