"""`lazyvid fit`: trains what a YAML file describes, through Lightning."""

from __future__ import annotations

import importlib.util
import sys

import typer

LIGHTNING_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""What stands after the command is handed on as it is."""


def fit_command(context: typer.Context) -> None:
    """Train with Lightning from a YAML file: [bold]lazyvid fit --config configs/folder.yaml[/].

    All further arguments are LightningCLI's: --trainer.max_epochs 3, --data.init_args.batch_size 8, --print_config.
    """
    missing = [name for name in ("lightning", "jsonargparse") if importlib.util.find_spec(name) is None]
    if missing:
        raise typer.BadParameter(f"{' and '.join(missing)} not installed: pip install 'lazyvid[lightning]'.")
    from lazyvid.training.run import run  # only this command needs Lightning

    sys.argv[1:] = ["fit", *context.args]
    run()
