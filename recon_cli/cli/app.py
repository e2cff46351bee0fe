"""The command `recon`: its subcommands, and how a run of it ends."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from recon_cli._version import __version__
from recon_cli.cli import (
    compare_conflicts,
    compare_rankings,
    compare_results,
    diff,
    extract,
    init,
    inspect,
    methods,
    profile,
    rank,
    run,
    search,
    split,
    tasks,
    tradeoff,
    train,
    transfer,
    unsplit,
    verify,
)
from recon_cli.cli import report as report_command
from recon_cli.cli.errors import DONE, INTERRUPTED, TERMINATED, report

app = typer.Typer(
    name="recon",
    help="Finds the layers where the tasks of a multi-task network fight, and splits them in its checkpoint.",
    epilog="Exit codes: 0 done, 1 a check failed, 2 wrong usage, config or input, 130 or 143 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help starts in half the time, and reads well in a log.
    rich_markup_mode=None,
)
app.command("init", short_help="Write a config to start from.")(init.command)
app.command("inspect", short_help="Show what is in a file.")(inspect.command)
app.command("profile", short_help="Measure conflicts layer by layer.")(profile.command)
app.command("rank", short_help="Rank the layers by their conflicts.")(rank.command)
app.command("tasks", short_help="Which tasks conflict, and which get along.")(tasks.command)
app.command("transfer", short_help="Take a ranking over to another network.")(transfer.command)
app.command("tradeoff", short_help="What splits remove, for what cost.")(tradeoff.command)
app.command("search", short_help="Search which tasks share which modules.")(search.command)
app.command("split", short_help="Split layers of a checkpoint.")(split.command)
app.command("train", short_help="Train the network, or the branched one.")(train.command)
app.command("run", short_help="Do all of it: profile, rank, split, train, compare.")(run.command)
app.command("compare-rankings", short_help="Compare rankings with each other.")(compare_rankings.command)
app.command("compare-conflicts", short_help="Compare conflicts of runs.")(compare_conflicts.command)
app.command("compare-results", short_help="Compare what trainings came to.")(compare_results.command)
app.command("report", short_help="Show it all on one page, or as pictures.")(report_command.command)
app.command("verify", short_help="Check a branched checkpoint.")(verify.command)
app.command("extract", short_help="Write one task's plain checkpoint.")(extract.command)
app.command("unsplit", short_help="Write the shared checkpoint again.")(unsplit.command)
app.command("diff", short_help="Compare two checkpoints.")(diff.command)
app.command("methods", short_help="List the update rules.")(methods.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"recon {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `recon`.

    :param arguments: the command line without the program's name; default: the process's own.
    :returns: the exit code.
    """
    # PyTorch warns about a missing numpy, which nothing here needs.
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    # Whoever started the command may have closed these; they stay open until the process ends.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Names may hold characters that the terminal's encoding lacks.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="recon", standalone_mode=False)
        sys.stdout.flush()
        # Typer ends an interrupted command in one of two ways, by its version.
        return report(KeyboardInterrupt()) if code == INTERRUPTED else code or DONE
    except BrokenPipeError:
        return _reader_left()
    except (typer.Abort, KeyboardInterrupt):
        return report(KeyboardInterrupt())
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            return _reader_left()
        if end.code == TERMINATED:
            return report(end)
        return end.code if isinstance(end.code, int) else DONE
    except Exception as error:  # noqa: BLE001  (the last place that can turn an error into a message)
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            # Wrong usage: typer knows best how to say it.
            with contextlib.suppress(OSError):
                error.show()
            return int(error.exit_code)
        return report(error)


def _reader_left() -> int:
    # Whoever read the output has had enough (`recon rank ... | head`); every file was written before.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return DONE
