"""`postroom doctor` on a Postfix: each thing that is wrong is found, and its remedy named."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from postroom.backends.barrier import find_barrier
from postroom.config import Config, parse_config
from postroom.hookspecs import Diagnosis, FindingLevel
from postroom.mta.maps import NAMES
from postroom.mta.postfix_doctor import diagnose_postfix
from postroom.testing.processes import find_program

from .conftest import House


def findings(house: House, config: Config | None = None) -> dict[str, Diagnosis]:
    house.age()
    found = diagnose_postfix(config or Config(), house.directory)
    return {each.subject: each for each in found if each.level is not FindingLevel.OK}


def test_before_installing_it_says_what_to_do(house: House) -> None:
    found = findings(house)
    for name in ("smtpd_milters", "non_smtpd_milters"):
        assert found[name].level is FindingLevel.ERROR
        assert found[name].remedy == "postroom postfix install --reload"


def test_installed_nothing_of_ours_is_wrong(house: House) -> None:
    house.postfix("install")
    found = findings(house)
    assert not [each for each in found.values() if each.level is FindingLevel.ERROR]
    assert not {"smtpd_milters", "milter_command_timeout", "virtual_transport", "before-local"} & set(found)


def drop_milter(house: House) -> None:
    house.line_of_postconf("-e", "non_smtpd_milters = inet:127.0.0.1:1")


def lower_time(house: House) -> None:
    house.line_of_postconf("-e", "milter_command_timeout = 10s")


def drop_service(house: House) -> None:
    house.line_of_postconf("-MX", "postroom/unix")


def stray_comma(house: House) -> None:
    house.line_of_postconf("-e", "smtpd_milters = , inet:localhost:12768")


def other_transport(house: House) -> None:
    house.line_of_postconf("-e", "virtual_transport = mailman")


def lose_program(house: House) -> None:
    house.line_of_postconf("-M", "postroom/unix=postroom unix - n n - - pipe user=nobody argv=/gone/postroom-deliver")


@pytest.mark.parametrize(
    ("break_it", "subject", "level", "text"),
    [
        (drop_milter, "non_smtpd_milters", FindingLevel.ERROR, "our milter is not in it"),
        (lower_time, "milter_command_timeout", FindingLevel.ERROR, "waits 10 s in"),
        (drop_service, "virtual_transport", FindingLevel.ERROR, "master.cf has no service postroom/unix"),
        (stray_comma, "smtpd_milters", FindingLevel.WARNING, "has empty entries"),
        (other_transport, "before-local", FindingLevel.WARNING, "passes before-local by"),
        (lose_program, "postroom/unix", FindingLevel.ERROR, "/gone/postroom-deliver is not there"),
    ],
)
def test_what_broke_is_found(
    house: House, break_it: Callable[[House], None], subject: str, level: FindingLevel, text: str
) -> None:
    house.postfix("install")
    break_it(house)
    found = findings(house)[subject]
    assert found.level is level
    assert text in found.text
    assert found.remedy


def test_a_map_that_is_missing_or_older_than_its_source_is_found(house: House, tmp_path: Path) -> None:
    source = tmp_path / "virtual"
    house.write(f"virtual_alias_maps = hash:{source}\nsmtp_tls_session_cache_database = btree:{tmp_path}/cache\n")
    subject = f"virtual_alias_maps: hash:{source}"
    found = findings(house)
    assert found[subject].level is FindingLevel.ERROR
    assert "postroom restore" in found[subject].remedy
    assert not [each for each in found if "cache" in each]
    source.write_text('# c\n"a b"@local.test\n  b@local.test\nC@local.test b@local.test\n')
    assert findings(house)[subject].remedy == f"postmap hash:{source}"
    house.line_of_postconf("-h", "mail_version")
    index = source.with_name("virtual.db")
    subprocess.run([find_program("postmap") or "", "-c", house.directory, f"hash:{source}"], check=True, timeout=60)
    os.utime(source, (100, 100))
    assert subject not in findings(house)
    whole = index.read_bytes()
    for octets in (b"", whole[:5000], whole[:4096], b"\0" * len(whole)):  # as a full disk leaves it
        index.write_bytes(octets)
        damaged = findings(house)[subject]
        assert damaged.level is FindingLevel.ERROR
        assert "virtual.db" in damaged.text or "lacks 2 of the keys" in damaged.text
    index.write_bytes(whole)
    os.utime(index, (50, 50))
    assert findings(house)[subject].level is FindingLevel.WARNING
    assert "newer than virtual.db" in findings(house)[subject].text


def test_maps_that_are_lost_hide_nothing_else(house: House, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    for name in NAMES:
        (maps / name).write_text("a b\n")
        (maps / f"{name}.db").touch()
    house.postfix("install", "--maps", str(maps))
    shutil.rmtree(maps)
    house.age()
    found = [each for each in diagnose_postfix(Config(), house.directory) if each.level is not FindingLevel.OK]
    assert any("run `postroom restore`" in each.text for each in found)
    assert {each.remedy for each in found if each.subject.endswith(f":{maps}/vmailbox")} == {"postroom restore"}
    assert all(each.remedy for each in found)
    assert "not running" in found[-1].text  # the last check


def test_a_milter_that_a_chroot_keeps_out_hides_nothing_else(house: House) -> None:
    house.write("virtual_alias_maps = hash:/gone/virtual\n", "smtp inet n - y - - smtpd\n")
    config = parse_config('[milter]\nlisten = ["unix:/run/elsewhere/milter.sock"]\n', "test")
    house.age()
    found = [each for each in diagnose_postfix(config, house.directory) if each.level is FindingLevel.ERROR]
    assert any("runs in a chroot" in each.text for each in found)
    assert any("/gone/virtual" in each.subject for each in found)
    assert all(each.remedy for each in found)


def test_terms_of_our_own_entry_count(house: House) -> None:
    house.write("smtpd_milters = inet:127.0.0.1:1\nmilter_default_action = accept\nmilter_command_timeout = 10s\n")
    house.postfix("install")
    found = findings(house)
    assert "milter_default_action" not in found
    assert "milter_command_timeout" not in found


def test_a_socket_that_postfix_may_not_use_is_found(house: House, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    (run / "lmtp.sock").touch()
    config = parse_config(f'[paths]\nrun = "{run}"\n', "test")
    found = findings(house, config)["lmtp"]
    assert "keeps it out" in found.text
    assert '[server] group = "postfix"' in found.remedy


def test_who_may_reach_a_socket(tmp_path: Path) -> None:
    inner = tmp_path / "run"
    inner.mkdir()
    socket = inner / "s"
    socket.touch()
    stranger = [path for path in reversed(socket.parents) if not path.stat().st_mode & 1]
    assert find_barrier(socket, 4711, [4712]) == (stranger or [socket])[0]
    inner.chmod(0o750)
    socket.chmod(0o660)
    own = (socket.stat().st_uid, socket.stat().st_gid)
    assert find_barrier(socket, 0, []) is None
    if own[0]:
        assert find_barrier(socket, own[0], []) is None


def test_where_there_is_no_postfix_nothing_is_wrong(tmp_path: Path) -> None:
    (found,) = diagnose_postfix(Config(), tmp_path)
    assert found.level is FindingLevel.WARNING
    assert "main.cf: no such file" in found.text


def test_the_command_shows_it(house: House) -> None:
    house.postfix("install")
    found = house.line.json("doctor", "--postfix-config", str(house.directory), status=1)
    subjects = {each["what"] for each in found}
    assert {"smtpd_milters", "maps", "registrations", "postfix install"} & subjects >= {
        "smtpd_milters",
        "registrations",
    }
    assert all(each["remedy"] for each in found if each["level"] == "error")
