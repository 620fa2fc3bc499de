"""How the command line comes to the credentials of a study's MLflow store, which no study keeps."""

from __future__ import annotations

import getpass
import sys

import typer


def ask_for_secret(tracking_uri: str) -> None:
    """Asks for the password or token that a store was reached with, or says where it is taken from.

    Where there is nobody to ask, connecting says what is missing.
    """
    from samtune.formatting import printable
    from samtune.tracking.credentials import HIDDEN, add_secret, missing_secret, secret_variables
    from samtune.tracking.uris import is_server

    if HIDDEN not in tracking_uri:
        return
    wanted = missing_secret(tracking_uri)
    if wanted is None:
        if is_server(tracking_uri) and (variables := secret_variables()):
            typer.echo(f"the credentials for {printable(tracking_uri)} are those of {variables}", err=True)
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    if secret := getpass.getpass(f"{printable(wanted)} (not kept with a study): ", stream=sys.stderr):
        add_secret(tracking_uri, secret)
