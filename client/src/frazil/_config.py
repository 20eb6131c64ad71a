"""Where the server is, and the token for it."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from frazil.errors import NotConfigured


@dataclass(frozen=True)
class Settings:
    """Address and token of one workspace. The token never shows in a repr."""

    address: str
    token: str = field(repr=False)


def load_settings() -> Settings:
    """Environment first, then the file written by a login, then the one of a `pc dev` that runs on this machine."""
    address, token = os.environ.get("FRAZIL_ADDRESS"), os.environ.get("FRAZIL_TOKEN")
    if address and token:
        return checked_settings(address, token)
    looked_at = [_config_path(), _dev_path()]
    for path in looked_at:
        found = _read(path)
        if found is not None:
            # One of the two variables alone overrides that half: another token for the same address, say.
            return checked_settings(address or found[0], token or found[1])
    missing = [name for name, value in (("FRAZIL_ADDRESS", address), ("FRAZIL_TOKEN", token)) if not value]
    raise NotConfigured(
        f"no Frazil server is configured: {' and '.join(missing)} not set, and there is neither "
        f"{looked_at[0]} nor {looked_at[1]}",
        hint="start a server on this machine with `pc dev`, or log in to one with frazil.login(address, token), "
        "or set FRAZIL_ADDRESS and FRAZIL_TOKEN",
    )


def write_settings(settings: Settings) -> Path:
    """Writes the config file, readable by its owner only, in one step."""
    path = _config_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".config-")  # mkstemp makes it 0600.
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"address": settings.address, "token": settings.token}, file)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def checked_settings(address: str, token: str) -> Settings:
    """Without the white space that a file or a terminal puts around them. The error does not show the token."""
    token = token.strip()
    if not token:
        raise NotConfigured("the token is empty")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise NotConfigured(
            "the token contains characters that no token has", hint="copy it again, without line breaks and quotes"
        )
    return Settings(_checked(address.strip()), token)


def _checked(address: str) -> str:
    try:
        parts = urlsplit(address)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or not address.isprintable() or " " in address:
        raise NotConfigured(
            f"{address!r} is not an address of a Frazil server", hint="it looks like https://frazil.example.com"
        )
    return address.rstrip("/")


def _config_path() -> Path:
    given = os.environ.get("FRAZIL_CONFIG")
    return Path(given).expanduser() if given else Path("~/.config/frazil/config.json").expanduser()


def _dev_path() -> Path:
    return Path(os.environ.get("FRAZIL_HOME") or "~/.frazil").expanduser() / "dev.json"


def _read(path: Path) -> tuple[str, str] | None:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise NotConfigured(f"{path} could not be read: {reason}") from error
    try:
        content = json.loads(text)
        address, token = content["address"], content["token"]
    except (ValueError, KeyError, TypeError):
        raise NotConfigured(f'{path} is not a config file of the form {{"address": ..., "token": ...}}') from None
    if not isinstance(address, str) or not isinstance(token, str) or not address or not token:
        raise NotConfigured(f"{path}: address and token must be text")
    return address, token
