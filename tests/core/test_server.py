"""The server with real processes: reload, stop, stale sockets, socket activation, systemd's notifications."""

from __future__ import annotations

import signal
import socket
import stat
import threading
from pathlib import Path

import pytest
from core.server_process import LIMIT, Client, Server
from postroom.server import WorkerKind


def test_both_kinds_of_worker_serve_and_stop_with_status_0(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.wait_serving()
        with server.connect() as milter, server.connect(WorkerKind.LMTP) as lmtp:
            assert milter.ask()[1] == "milter"
            assert lmtp.ask()[1] == "lmtp"
        assert (tmp_path / "run/postroom.pid").read_text() == f"{server.process.pid}\n"
        assert stat.S_IMODE((tmp_path / "run/lmtp.sock").stat().st_mode) == 0o660
        assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o750
        server.signal(signal.SIGTERM)
        assert server.process.wait(LIMIT) == 0
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == []


def test_a_stop_during_the_start_is_a_stop(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.wait_line("listening")
        server.signal(signal.SIGTERM)
        assert server.process.wait(LIMIT) == 0
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == []


def test_a_mail_in_hand_is_finished_before_the_end(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.wait_serving()
        with server.connect() as client:
            pid = client.ask()[0]
            client.say("slow")
            server.signal(signal.SIGTERM)
            server.wait_line("stopping")
            server.slow_until.touch()
            assert client.hear()[0] == pid
        assert server.process.wait(LIMIT) == 0


def test_a_second_term_hurries(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.wait_serving()
        with server.connect() as client:
            client.ask()
            server.signal(signal.SIGTERM)
            server.wait_line("stopping")
            assert server.process.poll() is None
            server.signal(signal.SIGTERM)
            assert server.process.wait(LIMIT) == 0


def test_reload_under_load_refuses_no_connection(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.wait_serving()
        address = server.address()
        stop, failures, answers = threading.Event(), list[BaseException](), set[tuple[str, ...]]()

        def load() -> None:
            try:
                while not stop.is_set():
                    with Client(address) as client:
                        answers.add(tuple(client.ask()))
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for round_ in (2, 3):
            server.write_config(
                f'[host]\nname = "round{round_}"\n[milter]\nlisten = ["inet:127.0.0.1:0"]\nworkers = 2\n'
            )
            server.signal(signal.SIGHUP)
            server.wait_serving(round_)
            server.wait(lambda name=f"round{round_}": any(name in each for each in answers), "new configuration")
        server.wait_line("worker left", 6)
        stop.set()
        for thread in threads:
            thread.join(LIMIT)
        assert not failures
        assert len({pid for pid, *_ in answers}) >= 4


def test_connections_made_before_a_reload_keep_their_worker(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.wait_serving()
        with server.connect() as client:
            before = client.ask()
            server.signal(signal.SIGHUP)
            server.wait_serving(2)
            with server.connect() as newer:
                assert newer.ask()[0] != before[0]
            assert client.ask() == before
        server.wait_line("worker left", 3)


@pytest.mark.parametrize(
    "fault", ["[milter\n", '[milter]\nlisten = ["unix:/proc/none/socket"]\n', '[log]\ntarget = "x"\n']
)
def test_a_bad_configuration_changes_nothing(tmp_path: Path, fault: str) -> None:
    with Server(tmp_path) as server:
        server.wait_serving()
        with server.connect() as client:
            before = client.ask()
            server.config_path.write_text(fault)
            server.signal(signal.SIGHUP)
            why = server.wait_line("reload failed, the old configuration stays").facts["why"]
            assert "\n" not in why
            assert client.ask() == before
            with server.connect() as another:
                assert int(another.ask()[0]) in server.worker_pids()
        assert server.lines("worker left") == []
        server.write_config("")
        server.signal(signal.SIGHUP)
        server.wait_serving(2)


def test_workers_that_cannot_start_leave_the_old_ones_in_place(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        server.wait_serving()
        server.fail_when.touch()
        server.signal(signal.SIGHUP)
        server.wait_line("worker died", 3)
        with server.connect() as client:
            client.ask()
        assert server.lines("worker left") == []
        server.fail_when.unlink()
        server.wait_serving(2)
        with server.connect() as client:
            client.ask()


def test_a_reload_opens_and_closes_what_changed(tmp_path: Path) -> None:
    old, new = tmp_path / "old.sock", tmp_path / "new.sock"
    with Server(tmp_path, f'[milter]\nlisten = ["unix:{old}"]\nworkers = 1\n') as server:
        server.wait_serving()
        server.write_config(f'[milter]\nlisten = ["unix:{new}"]\nworkers = 1\n')
        server.signal(signal.SIGHUP)
        server.wait_line("no longer listening")
        assert not old.exists()
        assert server.address().path == str(new)
        with server.connect() as client:
            client.ask()


def test_a_stale_unix_socket_is_replaced_and_a_used_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "milter.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    config = f'[milter]\nlisten = ["unix:{path}"]\nworkers = 1\n'
    with Server(tmp_path / "one", config) as server:
        server.wait_serving()
        with Server(tmp_path / "two", config) as second:
            assert second.process.wait(LIMIT) != 0
            last = (tmp_path / "two/stderr").read_text().splitlines()[-1]
            assert last.endswith(
                f"cannot listen on unix:{path}: somebody listens there; "
                "is postroom running already? Stop what listens there, or change `listen`"
            )
        with server.connect() as client:
            client.ask()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with Server(tmp_path, f'[milter]\nlisten = ["unix:{path}"]\n') as server:
        assert server.process.wait(LIMIT) != 0
    assert path.read_text() == "data"
    assert "that is no socket" in (tmp_path / "stderr").read_text()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Server(tmp_path, f'[milter]\nlisten = ["inet:127.0.0.1:{port}"]\n') as server:
            assert server.process.wait(LIMIT) != 0
    assert f"cannot listen on inet:127.0.0.1:{port}: Address already in use" in (tmp_path / "stderr").read_text()


def test_systemd_passes_the_socket_and_hears_how_we_are(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as passed,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
    ):
        systemd.settimeout(LIMIT)
        systemd.bind(str(tmp_path / "notify"))
        environment = {
            "LISTEN_FDS": "1",
            "LISTEN_FDNAMES": "milter",
            "PASSED_SOCKET": str(passed.fileno()),
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "200000",
        }
        config = '[milter]\nlisten = ["inet:127.0.0.1:1"]\nworkers = 2\n'
        with Server(tmp_path, config, environment, passed=[passed.fileno()]) as server:
            server.wait_serving()
            heard = systemd.recv(4096)
            while b"READY=1" not in heard:
                heard = systemd.recv(4096)
            assert b"STATUS=3 workers" in heard
            assert systemd.recv(4096) == b"WATCHDOG=1"
            with socket.create_connection(passed.getsockname(), LIMIT) as connection:
                connection.sendall(b"hello\n")
                assert connection.recv(100).split()[1] == b"milter"
            server.signal(signal.SIGHUP)
            while not heard.startswith(b"RELOADING=1\nMONOTONIC_USEC="):
                heard = systemd.recv(4096)
            while not heard.startswith(b"READY=1"):
                heard = systemd.recv(4096)
            server.signal(signal.SIGTERM)
            while not heard.startswith(b"STOPPING=1"):
                heard = systemd.recv(4096)
            assert server.process.wait(LIMIT) == 0
