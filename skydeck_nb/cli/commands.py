"""The commands and their options, and which part carries each out.

Decides words, options and help. A command with a name is about experiments,
without one about the background loop. Refuses to do anything itself; what a
command needs is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from skydeck_nb.cli.place import Deck

F = TypeVar("F", bound=Callable[..., Any])

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _told(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """An option of the deck, before the command's name or after it: the last one counts."""
    deck = context.ensure_object(Deck)
    if value is not None and parameter.name is not None:
        setattr(deck, parameter.name, value)


def deck_options(command: F) -> F:
    """``--db-path`` and ``--backend``."""
    path = click.option(
        "--db-path",
        metavar="FILE",
        expose_value=False,
        callback=_told,
        is_eager=True,
        help="The deck's database; else SKYDECK_DB_PATH, config.toml, ~/.skydeck/local.db.",
    )
    backend = click.option(
        "--backend",
        type=click.Choice(["local", "skypilot", "fake"]),
        expose_value=False,
        callback=_told,
        is_eager=True,
        help="Where jobs run; else the one that the database was made for.",
    )
    return path(backend(command))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON; times are ISO 8601, spans seconds.")
names_argument = click.argument("names", metavar="[NAME]...", nargs=-1)


@click.group(invoke_without_command=True, context_settings=CONTEXT)
@click.version_option(package_name="skydeck-nb", message="skydeck %(version)s")
@deck_options
@click.pass_context
def skydeck(context: click.Context) -> None:
    """Run fleets of training runs from a notebook, and look after them from a shell.

    Alone, it opens JupyterLab. NAME may be a glob such as 'ppo-*' (quote it). `--traceback`, with any
    command, shows where an unexpected error came from.
    """
    context.ensure_object(Deck)
    if context.invoked_subcommand is None:
        from skydeck_nb.cli.lab import lab

        lab(None, browser=None)


@skydeck.command("lab")
@click.option("--port", type=click.IntRange(1, 65535), help="Listen there; else a free one is taken.")
@click.option("--browser/--no-browser", default=None, help="Open a browser; else where there is a screen.")
@click.argument("jupyter", nargs=-1, type=click.UNPROCESSED)
def lab_command(port: int | None, browser: bool | None, jupyter: tuple[str, ...]) -> None:
    """Open JupyterLab; what follows `--` goes to it."""
    from skydeck_nb.cli.lab import lab

    lab(port, browser=browser, more=jupyter)


@skydeck.command("ls")
@click.argument("selection", nargs=-1)
@json_option
@deck_options
@click.pass_obj
def ls_command(deck: Deck, selection: tuple[str, ...], as_json: bool) -> None:
    """List experiments: all, or those of these names."""
    from skydeck_nb.cli.reading import ls

    ls(deck, selection, as_json=as_json)


@skydeck.command("status", short_help="Say who leads, what runs, and how old that is.")
@json_option
@deck_options
@click.pass_obj
def status_command(deck: Deck, as_json: bool) -> None:
    """Say who leads the deck, how old its listing is, what runs, and whether the background loop does."""
    from skydeck_nb.cli.reading import status

    status(deck, as_json=as_json)


@skydeck.command("start", short_help="Start experiments, or the background loop.")
@names_argument
@deck_options
@click.pass_obj
def start_command(deck: Deck, names: tuple[str, ...]) -> None:
    """Start experiments; without a name, the background loop."""
    if names:
        from skydeck_nb.cli.asking import ask

        ask(deck, "start", names)
    else:
        from skydeck_nb.cli import looping

        looping.start(deck)


@skydeck.command("stop", short_help="Stop experiments, or the background loop.")
@names_argument
@deck_options
@click.pass_obj
def stop_command(deck: Deck, names: tuple[str, ...]) -> None:
    """Stop experiments; without a name, the background loop: what runs goes on."""
    if names:
        from skydeck_nb.cli.asking import ask

        ask(deck, "stop", names)
    else:
        from skydeck_nb.cli import looping

        looping.stop(deck)


@skydeck.command("restart", short_help="Run experiments again, or the loop.")
@names_argument
@deck_options
@click.pass_obj
def restart_command(deck: Deck, names: tuple[str, ...]) -> None:
    """Run experiments again, whatever they do; without a name, the background loop, with the settings of now."""
    if names:
        from skydeck_nb.cli.asking import ask

        ask(deck, "restart", names)
    else:
        from skydeck_nb.cli import looping

        looping.restart(deck)


@skydeck.command("logs", short_help="Show output of experiments, or the loop's log.")
@names_argument
@click.option("-n", "--lines", type=click.IntRange(min=0), default=200, show_default=True, help="How many of the last.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@deck_options
@click.pass_obj
def logs_command(deck: Deck, names: tuple[str, ...], lines: int, follow: bool) -> None:
    """Show the output of experiments; without a name, the background loop's log."""
    from skydeck_nb.cli import logs

    if names:
        logs.of_experiments(deck, names, lines, follow=follow)
    else:
        logs.of_loop(deck, lines, follow=follow)
