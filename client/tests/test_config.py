"""Where the address and the token come from, in which order."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from fake_server import TOKEN, FakeServer

import frazil as pc
from frazil._config import Settings, load_settings


def write(path: Path, address: str, token: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"address": address, "token": token}))


def test_nothing_configured_says_what_to_do() -> None:
    with pytest.raises(pc.NotConfigured) as raised:
        pc.jobs()
    for part in ("FRAZIL_ADDRESS", "FRAZIL_TOKEN", "pc dev", "login"):
        assert part in str(raised.value)


def test_the_environment_goes_before_the_login_and_that_before_the_dev_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "frazil-home" / "dev.json", "http://dev:1", "dev")
    assert load_settings() == Settings("http://dev:1", "dev")
    write(tmp_path / "home" / ".config" / "frazil" / "config.json", "http://login:1/", "login")
    assert load_settings() == Settings("http://login:1", "login")
    write(tmp_path / "other.json", "http://other:1", "other")
    monkeypatch.setenv("FRAZIL_CONFIG", str(tmp_path / "other.json"))
    assert load_settings() == Settings("http://other:1", "other")
    monkeypatch.setenv("FRAZIL_TOKEN", "env")
    assert load_settings() == Settings("http://other:1", "env")
    monkeypatch.setenv("FRAZIL_ADDRESS", "https://env")
    assert load_settings() == Settings("https://env", "env")


def test_the_dev_server_is_found_below_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRAZIL_HOME")
    write(tmp_path / "home" / ".frazil" / "dev.json", "http://dev:1", "dev")
    assert load_settings() == Settings("http://dev:1", "dev")


def test_a_dev_server_that_starts_later_is_found(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FRAZIL_ADDRESS")
    monkeypatch.delenv("FRAZIL_TOKEN")
    with pytest.raises(pc.NotConfigured):
        pc.jobs()
    write(tmp_path / "frazil-home" / "dev.json", server.address, TOKEN)
    assert pc.jobs() == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"address": 1, "token": "x"}', '{"address": "", "token": "x"}'])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "frazil-home" / "dev.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(pc.NotConfigured, match=r"dev\.json"):
        load_settings()


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "frazil-home" / "dev.json"
    path.parent.mkdir()
    path.write_bytes(b'{"address": "\xff"}')
    with pytest.raises(pc.NotConfigured, match=r"dev\.json.*UTF-8"):
        load_settings()


@pytest.mark.parametrize(
    "address", ["localhost:8080", "http://", "http://[::1", "http://host:port", "https://a host", "http://ho\nst"]
)
def test_what_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("FRAZIL_ADDRESS", address)
    monkeypatch.setenv("FRAZIL_TOKEN", "x")
    with pytest.raises(pc.NotConfigured, match="not an address"):
        load_settings()


def test_white_space_around_address_and_token_is_none_of_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAZIL_ADDRESS", " https://frazil.example.com/\n")
    monkeypatch.setenv("FRAZIL_TOKEN", "frz_secret\n")
    assert load_settings() == Settings("https://frazil.example.com", "frz_secret")


@pytest.mark.parametrize("token", ["frz_\nsecret", "frz_ secret", "frz_sécret", "frz_\x00secret", " \n"])
def test_what_is_no_token_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("FRAZIL_ADDRESS", "https://frazil.example.com")
    monkeypatch.setenv("FRAZIL_TOKEN", token.replace("\x00", "\x01"))
    with pytest.raises(pc.NotConfigured, match="token") as raised:
        load_settings()
    assert "cret" not in str(raised.value)


def test_a_login_is_checked_and_kept_for_its_owner_only(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FRAZIL_ADDRESS")
    monkeypatch.delenv("FRAZIL_TOKEN")
    path = tmp_path / "home" / ".config" / "frazil" / "config.json"
    with pytest.raises(pc.Unauthenticated):
        pc.login(server.address, "frz_wrong")
    assert not path.exists()
    assert pc.login(server.address + "/", TOKEN) == "testing"
    assert json.loads(path.read_text()) == {"address": server.address, "token": TOKEN}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert pc.jobs() == []


def test_a_token_never_shows() -> None:
    assert "hush" not in repr(Settings("http://x", "hush"))
