"""``ion-core completion``."""

from __future__ import annotations

import click

from ion_core.cli.options import verbose_option
from ion_core.cli.output import out

HOW = {
    "bash": 'eval "$(ion-core completion bash)"',
    "zsh": 'eval "$(ion-core completion zsh)"',
    "fish": "ion-core completion fish | source",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(HOW)))
@verbose_option
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print what has bash, zsh or fish complete the command line.

    Commands, options, modules, event types and ids: modules and types are those of the configuration, ids those of the
    newest flows and events, where they are kept on this machine. To have it in every shell, add the line to ~/.bashrc,
    to ~/.zshrc after compinit, or to ~/.config/fish/config.fish.

    \b
    Examples:
      eval "$(ion-core completion bash)"
      eval "$(ion-core completion zsh)"
      ion-core completion fish | source
    """
    from ion_core.cli.completing import script

    root = ctx.find_root()
    out(script(root.command, root.info_name or "ion-core", shell), whole=True)
