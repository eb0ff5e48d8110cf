"""A wrong configuration is named by file, key and remedy; a right one says what it means."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest
from postroom.config import (
    Config,
    ConfigError,
    Duration,
    Size,
    SocketAddress,
    build_from_context,
    load_config,
    parse_config,
    parse_duration,
    parse_size,
    parse_socket,
    setting,
)
from postroom.registration import OnError


def test_every_key_has_a_default() -> None:
    assert parse_config("", "x.toml") == Config(source="x.toml")


def test_a_whole_file() -> None:
    config = parse_config(
        """
        [milter]
        listen = ["inet:127.0.0.1:12768", "unix:/run/postroom/milter.sock"]
        stage_timeout = "20s"
        max_message = "50M"
        before_data = "rcpt"
        [host]
        networks = ["10.0.0.1/8", "2001:db8::/32"]
        [handlers.grey]
        wait = "5m"
        """,
        "x.toml",
    )
    assert config.milter.listen == (
        SocketAddress("inet", "127.0.0.1", 12768),
        SocketAddress("unix", path="/run/postroom/milter.sock"),
    )
    assert config.milter.stage_timeout == Duration(20)
    assert config.milter.max_message == 50 << 20
    assert config.host.networks == (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))
    assert config.handlers == {"grey": {"wait": "5m"}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[milter]\nworker = 2", ["x.toml: [milter]", "'worker'", "did you mean 'workers'"]),
        ("[milter]\nworkers = '2'", ["[milter]: workers", "no whole number"]),
        ("[milter]\nworkers = true", ["no whole number"]),
        ("[milter]\nworkers = -1", ["too small"]),
        ("[milter]\nlisten = ['127.0.0.1:1']", ["no socket", "inet:127.0.0.1:12768"]),
        ("[milter]\nlisten = 'inet:127.0.0.1:1'", ["no list"]),
        ("[milter]\nlisten = ['inet:127.0.0.1:99999']", ["no socket"]),
        ("[milter]\nengine = 'fast'", ["not one of native, libmilter"]),
        ("[milter]\nstage_timeout = 'soon'", ["no duration", '"5m"']),
        ("[milter]\nmax_message = '1 elephant'", ["no size"]),
        ("[milster]", ["unknown table [milster]", "did you mean [milter]"]),
        ("milter = 1", ["milter is a table"]),
        ("[handlers]\ngrey = 1", ["write [handlers.grey]"]),
        ("[paths]\nstate = 'relative'", ["no absolute path"]),
        ("[host]\nnetworks = ['ten']", ["no network"]),
        ("[redis]\nsentinel = ['a:1']", ["sentinel needs service"]),
        ("[delivery]\nkind = 'lmtp'", ["needs next_hop"]),
        ("[log]\ntarget = 'printer'", ["neither"]),
        ("[milter", ["no valid TOML"]),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "x.toml")
    assert "\n" not in str(caught.value)
    for word in ["x.toml", *words]:
        assert word in str(caught.value)


def test_a_file_that_was_asked_for_has_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(str(tmp_path / "none.toml"))
    monkeypatch.setenv("POSTROOM_CONFIG", str(tmp_path / "other.toml"))
    with pytest.raises(ConfigError, match=r"other\.toml"):
        load_config()
    (tmp_path / "other.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config()


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("36d", 3110400), ("500ms", 0.5), ("7", 7)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(str(Duration(seconds))) == seconds


@pytest.mark.parametrize(("text", "octets"), [("50M", 50 << 20), ("64k", 65536), ("1GiB", 1 << 30), ("12", 12)])
def test_sizes(text: str, octets: int) -> None:
    assert parse_size(text) == octets
    assert parse_size(str(Size(octets))) == octets


@pytest.mark.parametrize("text", ["inet:127.0.0.1:25", "inet:mx.example:25", "inet6:[::1]:25", "unix:/a/b"])
def test_sockets_read_as_they_are_written(text: str) -> None:
    assert str(parse_socket(text)) == text


@dataclass(frozen=True)
class Settings:
    level: int = setting(1, help="", least=1, most=6)
    text: str = setting("", help="")
    debug: bool = setting(False, help="", word=True)
    wait: Duration = setting(Duration(300), help="")
    names: tuple[str, ...] = setting((), help="")
    on_error: OnError | None = setting(None, help="")


def test_a_context_overlays_the_table() -> None:
    base = Settings(level=3, text="x")
    settings = build_from_context(
        Settings, 'debug, wait=5m, text="a, \\"b\\"", names=one two, on_error=skip', "context", base
    )
    assert settings == Settings(3, 'a, "b"', True, Duration(300), ("one", "two"), OnError.SKIP)


@pytest.mark.parametrize(
    ("context", "word"),
    [
        ("level=7", "too large"),
        ("level=x", "no whole number"),
        ("verbose", "one of these words: debug"),
        ("level", "key=value"),
        ("level=1, level=2", "twice"),
        ('text="open', "never closed"),
        ("lewel=1", "did you mean 'level'"),
    ],
)
def test_a_wrong_context_is_refused(context: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        build_from_context(Settings, context, "context")


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "postroom.toml"
    path.write_bytes(b"\xef\xbb\xbf[milter]\nworkers = 3\n")
    assert load_config(str(path)).milter.workers == 3
