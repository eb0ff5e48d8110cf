"""`postroom postfix`: what it makes of main.cf and master.cf, and that nothing of it is left when it is taken out."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mta_houses import UNUSUAL
from postroom.mta import postfix, postfix_state, postfix_tool
from requirements import require_root

from .conftest import MASTER, House

OURS = "inet:127.0.0.1:12768"


@pytest.mark.parametrize("name", UNUSUAL)
def test_taken_out_every_file_is_as_it_was(house: House, name: str) -> None:
    house.write(UNUSUAL[name])
    before = house.files()
    house.postfix("install")
    installed = house.files()
    assert installed["main.cf"] != before["main.cf"]
    house.postfix("install")
    assert house.files() == installed
    house.postfix("status")
    house.postfix("uninstall")
    assert house.files() == before


@pytest.mark.parametrize("name", UNUSUAL)
def test_other_changes_meanwhile_stay_and_ours_go_back_as_they_were_written(house: House, name: str) -> None:
    house.write(UNUSUAL[name])
    before = house.main.read_text(errors="surrogateescape")
    house.postfix("install")
    with house.main.open("a") as file:
        file.write("# a note\nmaximal_queue_lifetime = 3d\n")
    with house.master.open("a") as file:
        file.write("submission inet n - n - - smtpd\n")
    house.postfix("uninstall")
    text = house.main.read_text(errors="surrogateescape")
    lines = before if before.endswith("\n") or not before else f"{before}\n"
    if name == "set twice":  # the text of two entries is not put back, their meaning is
        assert house.setting("smtpd_milters") == "inet:127.0.0.1:8891"
    else:
        assert text == lines + "# a note\nmaximal_queue_lifetime = 3d\n"
    assert "postroom" not in house.master.read_text()
    assert "submission" in house.master.read_text()


@pytest.mark.parametrize("name", UNUSUAL)
def test_postfix_reads_every_result(house: House, name: str) -> None:
    house.write(UNUSUAL[name])
    house.postfix("install")
    for milters in ("smtpd_milters", "non_smtpd_milters"):
        assert OURS in house.line_of_postconf("-x", milters)
    assert house.setting("virtual_transport").startswith("postroom:unix:/")
    assert house.line_of_postconf("-M", "postroom/unix").split()[7] == "lmtp"


def test_it_joins_other_milters_where_it_shall_stand(house: House) -> None:
    house.write("smtpd_milters = inet:127.0.0.1:1, { unix:/x, connect_timeout=5s, default_action=accept }\n")
    house.postfix("install")
    other = "inet:127.0.0.1:1, { unix:/x, connect_timeout=5s, default_action=accept }"
    assert house.setting("smtpd_milters") == f"{OURS}, {other}"
    house.postfix("install", "--position", "last")
    assert house.setting("smtpd_milters") == f"{other}, {OURS}"
    house.postfix("install")
    assert house.setting("smtpd_milters") == f"{other}, {OURS}"
    house.postfix("install", "--position", "2")
    one, two = other.split(", ", 1)
    assert house.setting("smtpd_milters") == f"{one}, {OURS}, {two}"
    assert "neither first" in (house.postfix("install", "--position", "0", status=2) or house.line.err)


def test_empty_entries_of_others_are_cleaned(house: House) -> None:
    house.write(f"smtpd_milters = ,, {OURS} inet:127.0.0.1:12345\nnon_smtpd_milters = ,, {OURS}\n")
    house.postfix("install")
    assert house.setting("smtpd_milters") == f"{OURS}, inet:127.0.0.1:12345"
    assert house.setting("non_smtpd_milters") == OURS


def test_one_that_is_there_already_is_not_added_again(house: House) -> None:
    house.write(
        "mymilters = { inet:localhost:12768, command_timeout=40s }\nsmtpd_milters = $mymilters\n"
        "non_smtpd_milters = inet:LOCALHOST:12768\n"
    )
    house.postfix("install")
    assert house.setting("smtpd_milters") == "$mymilters"
    assert house.setting("non_smtpd_milters") == "inet:LOCALHOST:12768"


@pytest.mark.parametrize(
    "text",
    [
        "smtpd_milters = inet:127.0.0.1:1\nnon_smtpd_milters = $smtpd_milters\n",
        "smtpd_milters = $non_smtpd_milters\nnon_smtpd_milters = inet:127.0.0.1:1\n",
        "mine = $(smtpd_milters)\nsmtpd_milters = inet:127.0.0.1:1\nnon_smtpd_milters = ${mine?{$mine}}\n",
    ],
)
def test_a_list_that_follows_the_other_has_us_once(house: House, text: str) -> None:
    house.write(text)
    before = house.files()
    house.postfix("install")
    house.postfix("install")
    house.postfix("status")
    lines = house.line_of_postconf("-x", "smtpd_milters", "non_smtpd_milters").splitlines()
    assert {line.partition(" = ")[2] for line in lines} == {f"{OURS}, inet:127.0.0.1:1"}
    house.postfix("uninstall")
    assert house.files() == before


def test_one_that_only_asks_whether_the_other_is_set_follows_nothing(house: House) -> None:
    house.write("smtpd_milters = inet:127.0.0.1:1\nnon_smtpd_milters = ${smtpd_milters?inet:127.0.0.1:2}\n")
    house.postfix("install")
    assert house.line_of_postconf("-xh", "non_smtpd_milters").strip() == f"{OURS}, inet:127.0.0.1:2"


def test_a_milter_that_joined_meanwhile_stays_and_ours_goes(house: House) -> None:
    house.write("smtpd_milters = inet:127.0.0.1:1\n")
    house.postfix("install")
    house.write(house.main.read_text().replace("inet:127.0.0.1:1\n", "inet:127.0.0.1:1, inet:127.0.0.1:2\n"))
    house.postfix("uninstall")
    assert house.setting("smtpd_milters") == "inet:127.0.0.1:1, inet:127.0.0.1:2"
    assert "smtpd_milters was changed meanwhile" in house.line.err


def test_a_setting_that_somebody_changed_is_left_and_reported(house: House) -> None:
    house.write("virtual_transport = virtual\n")
    house.postfix("install")
    text = re.sub(r"virtual_transport = .*", "virtual_transport = lmtp:unix:/other", house.main.read_text())
    house.main.write_text(text)
    house.postfix("status", status=1)
    assert "1 of" in house.line.err
    house.postfix("uninstall")
    assert house.setting("virtual_transport") == "lmtp:unix:/other"
    assert "virtual_transport was changed meanwhile and keeps 'lmtp:unix:/other'" in house.line.err
    assert OURS not in house.main.read_text()


def test_what_drifted_is_told_and_put_right(house: House) -> None:
    house.postfix("install")
    items = json.loads(house.postfix("status", "--json"))
    assert {each["standing"] for each in items} == {"in place"}
    house.line_of_postconf("-X", "non_smtpd_milters")
    house.line_of_postconf("-MX", "postroom/unix")
    found = json.loads(house.postfix("status", "--json", status=1))
    standing = {each["setting"]: each["standing"] for each in found}
    assert standing["non_smtpd_milters"] == "missing"
    assert standing["postroom/unix"] == "missing"
    assert standing["smtpd_milters"] == "in place"
    house.postfix("install")
    house.postfix("status")
    assert house.setting("non_smtpd_milters") == OURS


def test_a_milter_of_another_joins_without_being_drift(house: House) -> None:
    house.postfix("install")
    house.line_of_postconf("-e", f"smtpd_milters = {OURS}, inet:127.0.0.1:8891")
    house.postfix("status")


def test_a_changed_configuration_shows_as_outdated_until_it_is_installed_again(house: House) -> None:
    before = house.files()
    house.postfix("install")
    with house.line.config.open("a") as file:
        file.write('[milter]\nlisten = ["inet:127.0.0.1:12799"]\ncontent_timeout = "400s"\n')
    found = json.loads(house.postfix("status", "--json", status=1))
    assert {each["setting"] for each in found if each["standing"] == "outdated"} == {
        "smtpd_milters", "non_smtpd_milters", "milter_content_timeout",
    }  # fmt: skip
    house.postfix("install")
    assert house.setting("smtpd_milters") == "inet:127.0.0.1:12799"
    assert house.setting("milter_content_timeout") == "430s"
    house.postfix("uninstall")
    assert house.files() == before


def test_a_dry_run_shows_the_difference_and_changes_nothing(house: House) -> None:
    before = house.files()
    shown = house.postfix("install", "--dry-run")
    assert house.files() == before
    added = {line[1:] for line in shown.splitlines() if line.startswith("+") and not line.startswith("+++")}
    house.postfix("install")
    assert added == set(house.main.read_text().splitlines() + house.master.read_text().splitlines()) - {
        line for content, *_ in before.values() for line in content.decode().splitlines()
    }
    installed = house.files()
    back = house.postfix("uninstall", "--dry-run")
    assert f"-smtpd_milters = {OURS}" in back
    assert house.files() == installed
    changes = json.loads(house.postfix("uninstall", "--dry-run", "--json"))
    assert {"file": "main.cf", "name": "smtpd_milters", "before": OURS, "after": None} in changes


def test_others_keep_the_terms_that_somebody_chose_for_them(house: House) -> None:
    house.write("smtpd_milters = inet:127.0.0.1:1\nmilter_default_action = accept\nmilter_command_timeout = 10s\n")
    house.postfix("install")
    assert house.setting("milter_default_action") == "accept"
    assert house.setting("smtpd_milters") == (
        "{ " + OURS + ", default_action=tempfail, command_timeout=30s }, inet:127.0.0.1:1"
    )


def test_alone_the_common_settings_are_set(house: House) -> None:
    house.write("milter_default_action = accept\nmilter_command_timeout = 10s\n")
    house.postfix("install")
    assert house.setting("milter_default_action") == "tempfail"
    assert house.setting("milter_command_timeout") == "30s"
    assert house.setting("milter_content_timeout") == "300s"
    assert "{client_ptr}" in house.setting("milter_connect_macros")


def test_mail_by_pipe_goes_one_recipient_at_a_time(house: House) -> None:
    before = house.files()
    house.postfix("install", "--local", "pipe", "--user", "nobody", "--recipient-limit", "7")
    entry = house.line_of_postconf("-M", "postroom/unix")
    assert "flags=DORhu user=nobody null_sender= argv=/" in entry
    assert "postroom-deliver -f ${sender} -d ${recipient}" in entry
    assert house.setting("virtual_transport") == "postroom"
    assert house.setting("postroom_destination_recipient_limit") == "1"
    house.postfix("install", "--local", "none")
    assert "virtual_transport" not in house.main.read_text()
    assert "postroom" not in house.master.read_text()
    house.postfix("uninstall")
    assert house.files() == before


def test_a_user_that_pipe_does_not_run_is_refused(house: House) -> None:
    before = house.files()
    house.postfix("install", "--local", "pipe", "--user", "root", status=2)
    assert "pipe(8) runs nothing as root" in house.line.err
    house.postfix("install", "--local", "pipe", "--user", "nobody-of-that-name", status=2)
    assert house.files() == before


def test_lmtp_waits_as_long_as_our_handlers_may_take(house: House) -> None:
    house.postfix("install", "--recipient-limit", "5")
    assert "-o lmtp_data_done_timeout=1530s" in house.line_of_postconf("-M", "postroom/unix")
    assert house.setting("postroom_destination_recipient_limit") == "5"


def test_services_that_pass_us_by_are_named(house: House) -> None:
    house.postfix("install")
    assert "127.0.0.1:10025/inet: -o smtpd_milters: empty" in house.line.err
    assert "127.0.0.1:10025/inet: no_milters" in house.line.err


def test_a_socket_that_a_chroot_hides_is_refused_or_written_relative(house: House) -> None:
    house.master.write_text(house.master.read_text().replace("n       -       n  ", "n       -       y  "))
    text = house.line.config.read_text()
    house.line.config.write_text(text + '[milter]\nlisten = ["unix:/run/postroom/milter.sock"]\n')
    house.postfix("install", status=1)
    assert "smtp/inet runs in a chroot and cannot reach unix:/run/postroom/milter.sock" in house.line.err
    house.main.write_text("queue_directory = /var/spool/other\n")
    house.line.config.write_text(text + '[milter]\nlisten = ["unix:/var/spool/other/postroom/milter.sock"]\n')
    house.postfix("install")
    assert house.setting("smtpd_milters") == "unix:postroom/milter.sock"


def test_maps_and_logins_are_joined_on_request(house: House, tmp_path: Path) -> None:
    house.write("virtual_alias_maps = hash:/etc/aliases-2\nsmtpd_sender_restrictions = permit_mynetworks\n")
    before = house.files()
    maps = tmp_path / "maps"
    maps.mkdir()
    house.postfix("install", "--maps", str(maps), status=1)
    assert "run `postroom restore`" in house.line.err
    for name in ("virtual_domains", "vmailbox", "virtual", "transport", "sdd_transport_maps", "blacklists"):
        (maps / name).touch()
    house.postfix("install", "--maps", str(maps), "--sasl", "private/auth")
    kind = house.setting("default_database_type")
    assert house.setting("virtual_alias_maps") == f"hash:/etc/aliases-2, {kind}:{maps}/virtual"
    assert house.setting("virtual_mailbox_domains") == f"$virtual_mailbox_maps, {kind}:{maps}/virtual_domains"
    assert house.setting("sender_dependent_default_transport_maps") == f"{kind}:{maps}/sdd_transport_maps"
    assert house.setting("smtpd_sender_restrictions") == (
        f"check_sender_access {kind}:{maps}/blacklists, permit_mynetworks"
    )
    assert house.setting("smtpd_sasl_path") == "private/auth"
    house.postfix("install")
    house.postfix("status")
    house.line_of_postconf("-e", "soft_bounce = no")
    house.line_of_postconf("-X", "soft_bounce")
    house.postfix("uninstall")
    assert house.files() == before


def test_the_mailman_transport_that_was_there_comes_back(house: House, tmp_path: Path) -> None:
    program = tmp_path / "postfix-mailman"
    program.write_text("#!/bin/sh\n")
    before = house.files()
    house.postfix("install", "--mailman", str(program), "--mailman-user", "nobody")
    assert f"user=nobody argv={program} ${{nexthop}} ${{user}} ${{recipient}}" in house.line_of_postconf("-M")
    house.postfix("uninstall")
    assert house.files() == before


def test_owner_and_mode_stay(house: House) -> None:
    require_root()
    for path in (house.main, house.master):
        os.chown(path, 65534, 65534)
        path.chmod(0o640)
    house.postfix("install")
    for path in (house.main, house.master):
        assert (path.stat().st_mode & 0o777, path.stat().st_uid, path.stat().st_gid) == (0o640, 65534, 65534)


def test_links_stay_and_what_they_lead_to_is_edited(house: House, tmp_path: Path) -> None:
    require_root()
    real = tmp_path / "elsewhere.cf"
    house.main.rename(real)
    house.main.symlink_to("../elsewhere.cf")
    os.chown(real, 65534, 65534)
    real.chmod(0o640)
    text = real.read_text()
    house.postfix("install")
    assert house.main.readlink() == Path("../elsewhere.cf")
    assert OURS in real.read_text()
    assert (real.stat().st_mode & 0o777, real.stat().st_uid, real.stat().st_gid) == (0o640, 65534, 65534)
    with real.open("a") as file:
        file.write("soft_bounce = no\n")
    house.postfix("uninstall")
    assert house.main.readlink() == Path("../elsewhere.cf")
    assert real.read_text() == text + "soft_bounce = no\n"
    assert (real.stat().st_mode & 0o777, real.stat().st_uid) == (0o640, 65534)


def test_each_instance_is_its_own(house: House, other_house: House) -> None:
    before = other_house.files()
    house.postfix("install")
    assert other_house.files() == before
    other_house.postfix("status", status=1)
    other_house.postfix("install", "--position", "last")
    house.postfix("uninstall")
    other_house.postfix("status")
    house.postfix("uninstall", status=1)
    assert "is not installed in" in house.line.err


def test_a_transport_that_is_still_used_stays(house: House) -> None:
    house.postfix("install")
    house.line_of_postconf("-e", "virtual_transport = postroom:inet:[192.0.2.1]:24")
    house.postfix("uninstall")
    assert house.setting("virtual_transport") == "postroom:inet:[192.0.2.1]:24"
    assert house.line_of_postconf("-M", "postroom/unix").split()[7] == "lmtp"
    assert "postroom/unix is still named in main.cf" in house.line.err


def test_a_service_that_names_our_milter_by_itself_is_told(house: House) -> None:
    house.postfix("install")
    house.line_of_postconf("-P", f"smtp/inet/smtpd_milters={OURS}")
    house.postfix("uninstall")
    assert "smtp/inet/smtpd_milters still names our milter" in house.line.err
    assert "10025" not in house.line.err  # its list is empty


def test_nothing_is_begun_when_postconf_fails(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    before = house.files()

    def fails(*_: object) -> None:
        raise postfix_tool.PostfixFailed("no space left")

    monkeypatch.setattr(postfix_tool.Postfix, "edit", fails)
    house.postfix("install", status=1)
    assert house.files() == before


SEVERAL_LINES = (
    "smtpd_milters =\n  inet:127.0.0.1:1\n# c\n  inet:127.0.0.1:2\nvirtual_transport=virtual\nmyorigin = a.example"
)
KILLED = """
import os, sys
from postroom.cli.main import postroom, run
from postroom.mta import postfix, postfix_state, postfix_tool
write, left = postfix_tool.write_text, [int(sys.argv.pop(1))]
def killed(path, text):
    if str(path).startswith(sys.argv[-1]):
        left[0] -= 1
        if not left[0]:
            os._exit(99)
    write(path, text)
for each in (postfix, postfix_state, postfix_tool):
    each.write_text = killed
run(postroom, sys.argv[1:], "postroom")
"""


def kill(house: House, verb: str, at: int, *options: str) -> None:
    """The command dies when it is about to write its `at`th file in Postfix' directory."""
    house.age()
    command = ["--config", str(house.line.config), "postfix", verb, *options, "--postfix-config", str(house.directory)]
    died = subprocess.run(
        [sys.executable, "-c", KILLED, str(at), *command], capture_output=True, timeout=300, check=False
    )
    assert died.returncode == 99, died.stderr


@pytest.mark.parametrize("at", [1, 2, 3])  # the record, master.cf, main.cf
def test_a_half_done_installation_is_taken_out_octet_for_octet(house: House, at: int) -> None:
    house.write(SEVERAL_LINES, MASTER.rstrip("\n"))
    before = house.files()
    kill(house, "install", at, "--mailman", "/bin/true")
    house.postfix("uninstall", status=1 if at == 1 else 0)  # nothing had begun
    assert house.files() == before


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_half_done_installation_is_finished(house: House, at: int) -> None:
    house.write(SEVERAL_LINES, MASTER.rstrip("\n"))
    before = house.files()
    kill(house, "install", at, "--mailman", "/bin/true")
    house.postfix("install", "--mailman", "/bin/true")
    house.postfix("status")
    house.postfix("uninstall")
    assert house.files() == before


@pytest.mark.parametrize("at", [1, 2])  # main.cf, master.cf
def test_a_half_done_removal_is_finished(house: House, at: int) -> None:
    house.write(SEVERAL_LINES)
    before = house.main.read_bytes(), house.master.read_bytes()
    house.postfix("install", "--mailman", "/bin/true")
    for path in (house.main, house.master):  # somebody else changes both
        path.write_bytes(path.read_bytes() + b"# a note\n")
    kill(house, "uninstall", at)
    house.postfix("uninstall")
    notes = (b"\n# a note\n", b"# a note\n")
    assert (house.main.read_bytes(), house.master.read_bytes()) == tuple(map(bytes.__add__, before, notes))
    assert {path.name for path in house.directory.iterdir()} == {"main.cf", "master.cf"}


def test_a_change_while_it_works_is_not_overwritten(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    real = postfix_state.write_state

    def changed_meanwhile(directory: Path, state: postfix_state.State) -> None:
        real(directory, state)
        house.main.write_text("myorigin = b.example\n")

    with monkeypatch.context() as patched:
        patched.setattr(postfix, "write_state", changed_meanwhile)
        house.postfix("install", status=75)
    assert "changed by somebody else meanwhile" in house.line.err
    assert house.main.read_text() == "myorigin = b.example\n"
    house.postfix("install")
    house.postfix("uninstall")
    assert house.main.read_text() == "myorigin = b.example\n"


def test_a_service_comes_back_in_its_own_lines_when_others_changed_the_file(house: House) -> None:
    house.write("", MASTER)
    house.postfix("install", "--mailman", "/bin/true")
    with house.master.open("a") as file:
        file.write("submission inet n - n - - smtpd\n")
    house.postfix("uninstall")
    assert house.master.read_text() == MASTER + "submission inet n - n - - smtpd\n"


def test_what_is_no_postfix_is_said_in_one_line(house: House, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    house.line("postfix", "install", "--postfix-config", str(empty), status=1)
    assert (
        house.line.err
        == f"postroom: {empty}/main.cf: no such file; give the directory of main.cf with --postfix-config\n"
    )


def test_a_macro_that_is_none_is_shown(house: House) -> None:
    house.write("virtual_alias_maps = regexp:{{/^a@b$/ c@d}}\n")
    before = house.files()
    house.postfix("install", status=1)
    assert "macro processing error" in house.line.err
    assert "regexp:{{/^a@b$/ c@d}}" in house.line.err
    assert house.line.err.count("\n") == 1
    assert house.files() == before


def test_a_file_that_nobody_may_replace_is_named(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if Path(target) == house.main:  # as the kernel does with `chattr +i`
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path), None, str(target))
        return replace(path, target)

    before = house.files()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        house.postfix("install", status=1)
        assert f"{house.main}: Operation not permitted: `lsattr {house.main}`" in house.line.err
    house.postfix("uninstall")
    assert house.files() == before


def test_a_postfix_that_does_not_run_needs_no_reload(house: House) -> None:
    house.postfix("install", "--reload")
    assert "not reloaded: Postfix is not running: it reads its files when it starts" in house.line.err
