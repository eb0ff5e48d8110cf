"""The servers that tests start do what tests expect of them."""

from __future__ import annotations

import imaplib
import json
import secrets
import smtplib
import socket
import struct
import urllib.request

import pytest
from postroom.config import SocketAddress
from postroom.testing.cicap import CIcapInstance
from postroom.testing.clamd import EICAR, SIGNATURE, ClamdInstance
from postroom.testing.dovecot import DovecotInstance
from postroom.testing.processes import Child, ServerFailed, connect, find_program
from postroom.testing.redis import RedisInstance, SentinelInstance
from postroom.testing.rspamd import RspamdInstance
from postroom.testing.sink import SinkServer
from postroom.testing.smtp import SmtpClient
from postroom.testing.spamd import GTUBE, SpamdInstance
from requirements import require

pytestmark = pytest.mark.xdist_group("private-servers")


def ask(address: SocketAddress, question: bytes) -> bytes:
    """All that is answered until the server hangs up."""
    answer = b""
    with connect(address) as connection:
        connection.sendall(question)
        connection.shutdown(socket.SHUT_WR)
        while octets := connection.recv(65536):
            answer += octets
    return answer


@pytest.mark.parametrize(("content", "answer"), [(EICAR, f"{SIGNATURE}.UNOFFICIAL FOUND"), (b"harmless", "OK")])
def test_clamd_knows_eicar(clamd: ClamdInstance, content: bytes, answer: str) -> None:
    chunk = struct.pack(">I", len(content)) + content + struct.pack(">I", 0)
    said = ask(SocketAddress("unix", path=str(clamd.socket)), b"zINSTREAM\0" + chunk)
    assert said == f"stream: {answer}\0".encode()


def test_cicap_asks_clamd(cicap: CIcapInstance) -> None:
    header = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
    request = f"RESPMOD {cicap.url} ICAP/1.0\r\nHost: localhost\r\nConnection: close\r\nAllow: 204\r\n"
    request += f"Encapsulated: res-hdr=0, res-body={len(header)}\r\n\r\n"
    body = f"{len(EICAR):x}\r\n".encode() + EICAR + b"\r\n0\r\n\r\n"
    said = ask(SocketAddress("inet", "127.0.0.1", cicap.port), request.encode() + header + body)
    assert b"X-Infection-Found:" in said
    assert SIGNATURE.encode() in said


def test_spamd_knows_gtube(spamd: SpamdInstance) -> None:
    mail = f"Subject: buy\r\n\r\n{GTUBE}\r\n".encode()
    said = ask(spamd.address, f"SYMBOLS SPAMC/1.5\r\nContent-length: {len(mail)}\r\n\r\n".encode() + mail)
    assert b"Spam: True" in said
    assert b"GTUBE" in said


def test_rspamd_knows_gtube(rspamd: RspamdInstance) -> None:
    mail = f"Subject: buy\r\n\r\n{GTUBE}\r\n".encode()
    request = urllib.request.Request(f"http://127.0.0.1:{rspamd.port}/checkv2", data=mail)
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["action"] == "reject"


def test_dovecot_takes_mail_and_shows_it(dovecot: DovecotInstance) -> None:
    account = dovecot.accounts[0]
    subject = secrets.token_hex(8)  # other tests of this worker deliver to the same mailbox
    with smtplib.LMTP("127.0.0.1", dovecot.lmtp_port) as lmtp:
        lmtp.sendmail("a@example.org", [account.address], f"Subject: {subject}\r\n\r\nhello\r\n")
    with imaplib.IMAP4("127.0.0.1", dovecot.imap_port) as box:
        box.login(account.address, account.password)
        box.select("INBOX")
        (found,) = box.search(None, "SUBJECT", subject)[1]
    assert len(found.split()) == 1


def test_redis_alone_comes_back_after_a_crash(redis_server: RedisInstance) -> None:
    require("redis-server")
    with RedisInstance(password="open sesame") as server:
        assert server.command("SET", "a", "b") == "+OK\r\n"
        server.kill()
        server.start_again()
        assert server.command("GET", "a") == "$-1\r\n"
    assert redis_server.command("PING") == "+PONG\r\n"


def test_redis_as_a_cluster_and_behind_a_sentinel() -> None:
    require("redis-server")
    with RedisInstance(cluster=True) as server:
        assert server.command("SET", "a", "b") == "+OK\r\n"
    with RedisInstance() as server, SentinelInstance(server) as sentinel:
        import redis

        with redis.Redis(port=sentinel.port, decode_responses=True) as client:
            assert client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME postroom")[1] == str(server.port)


def test_sinks_keep_what_they_get(sink: SinkServer, lmtp_sink: SinkServer) -> None:
    sink.refuse["no@x.example"] = "550 5.1.1 no such user"
    with SmtpClient(sink.port) as smtp:
        smtp.ehlo()
        sent = smtp.send("a@x.example", ["b@x.example", "no@x.example"], b"Subject: a\n b\n\n.dot\n")
    assert (sent.ok, sent.recipients["no@x.example"].code) == (True, 550)
    (received,) = sink.received
    assert received.recipients == ("b@x.example",)
    assert received.mail == b"Subject: a\r\n b\r\n\r\n.dot\r\n"
    assert received.field("subject") == ["a b"]
    words = "LHLO x\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nRCPT TO:<c@x.example>\r\nDATA\r\nhi\r\n.\r\n"
    said = ask(SocketAddress("inet", "127.0.0.1", lmtp_sink.port), words.encode())
    assert said.count(b"250 2.0.0 kept\r\n") == 2
    assert lmtp_sink.received[0].recipients == ("b@x.example", "c@x.example")


def test_a_server_that_ends_at_once_is_named_with_its_log(tmp_path_factory: pytest.TempPathFactory) -> None:
    shell = find_program("sh")
    assert shell
    child = Child([shell, "-c", "echo something is wrong; exit 3"], tmp_path_factory.mktemp("child") / "log")
    with pytest.raises(ServerFailed, match="status 3:\nsomething is wrong"):
        child.wait_until(lambda: False, "it answers")
