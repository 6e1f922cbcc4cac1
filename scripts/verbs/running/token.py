"""`precedent token`: make, list and revoke access tokens of a service.

precedent token create alice --scope read --tokens tokens.json
"""

from datetime import timedelta
from pathlib import Path

import click

from scripts.terminal import refused_for, say, say_json
from service.errors import TokensError
from service.guard.tokens import SCOPES, create_token, now, read_tokens, revoke_token

FILE = click.option(
    "--tokens", "path", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File of access tokens."
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.group()
def command() -> None:
    """Make, list and revoke access tokens. A running service notices changes at once.

    \b
    precedent token create alice --scope read --tokens tokens.json
    precedent token revoke alice --tokens tokens.json
    """


@command.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(list(SCOPES)),
    help="What the token allows; repeat for several, for no scope includes another. "
    + "; ".join(f"{name}: {says}" for name, says in SCOPES.items())
    + ".",
)
@click.option("--days", type=click.IntRange(1, 36500), help="Days after which the token expires (default: never).")
@FILE
@AS_JSON
def create(name: str, scopes: tuple[str, ...], days: int | None, path: Path, as_json: bool) -> None:
    """Create a token and print it, once.

    The file holds only its hash, so a lost token cannot be shown again. The file is created if need be.

    \b
    precedent token create alice --scope read --scope vectors --days 365 --tokens tokens.json
    """
    with refused_for(TokensError):
        secret = create_token(path, name, scopes, lifetime=None if days is None else timedelta(days=days))
    say("This token is shown once. Send it as: Authorization: Bearer TOKEN", err=True)
    if as_json:
        say_json({"name": name, "scopes": scopes, "token": secret})
    else:
        say(secret)


@command.command(name="list")
@FILE
@AS_JSON
def list_(path: Path, as_json: bool) -> None:
    """List the tokens by name, with scopes and states."""
    with refused_for(TokensError):
        tokens = read_tokens(path)
    today = now()
    if as_json:
        shown = [{**token.model_dump(mode="json", exclude={"sha256"}), "state": token.state(today)} for token in tokens]
        say_json(shown, indent=2)
        return
    for token in tokens:
        until = f", until {token.expires:%Y-%m-%d}" if token.expires is not None else ""
        say(f"{token.name}: {token.state(today)}, {' '.join(token.scopes)}, made {token.created:%Y-%m-%d}{until}")


@command.command()
@click.argument("name")
@FILE
@AS_JSON
def revoke(name: str, path: Path, as_json: bool) -> None:
    """Revoke a token at once. Its name cannot be used again, because the audit log refers to it."""
    with refused_for(TokensError):
        revoke_token(path, name)
    if as_json:
        say_json({"name": name, "state": "revoked"})
    else:
        say(f"{name}: revoked")
