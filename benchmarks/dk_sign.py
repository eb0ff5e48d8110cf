"""Signing: ours beside plain dkimpy, same mails, same key, alternating in one run.

`python -m benchmarks.dk_sign [--seconds 3]`: prints signatures a second and the ratio for each size of mail.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import dkim
from postroom.config import Config, Paths
from postroom.mail import TrafficClass, parse_message
from postroom.testing import FakeServices, envelope
from postroom_dk.keystore import KeyState, KeyStore
from postroom_dk.privatekey import KeyType, make_key
from postroom_dk.sign import DkSign, SignSettings

HEADER = b"".join(
    [
        b"From: Alice <alice@sender.example>\r\nTo: bob@recipient.example\r\nSubject: load\r\n",
        b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\nMessage-ID: <1@sender.example>\r\n",
        *(b"X-Field-%d: some value of a field that nobody signs\r\n" % number for number in range(15)),
    ]
)
SIZES = {"4 KB": 4 << 10, "100 KB": 100 << 10, "1 MB": 1 << 20}
ROUNDS = 10


def mail_of(size: int) -> bytes:
    line = b"the quick brown fox jumps over the lazy dog,  and again and again. \r\n"
    return HEADER + b"\r\n" + line * (size // len(line))


def compare(contenders: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Calls a second of each, taking turns so that what else the machine does hits all alike."""
    calls, spent = dict.fromkeys(contenders, 0), dict.fromkeys(contenders, 0.0)
    for _ in range(ROUNDS):
        for name, call in contenders.items():
            started = time.perf_counter()
            while time.perf_counter() - started < seconds / ROUNDS / len(contenders):
                call()
                calls[name] += 1
            spent[name] += time.perf_counter() - started
    return {name: calls[name] / spent[name] for name in contenders}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each size of mail")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as directory:
        state = Path(directory)
        key = make_key(KeyType.RSA, 2048)
        KeyStore(state / "dkim").add("sender.example", "s", key, KeyState.ACTIVE)
        services = FakeServices(state, config=Config(paths=Paths(state=state)))
        handler, settings = DkSign(), SignSettings()
        sent = envelope("alice@sender.example", traffic=TrafficClass.AUTHENTICATED)
        print(f"{'mail':>8} {'ours/s':>10} {'dkimpy/s':>10} {'ratio':>7}")
        for name, size in SIZES.items():
            octets = mail_of(size)
            message = parse_message(octets)
            rates = compare(
                {
                    "ours": lambda message=message: handler.before_remote(sent, message, settings, services),  # type: ignore[misc]
                    "dkimpy": lambda octets=octets: dkim.sign(  # type: ignore[misc]
                        octets, b"s", b"sender.example", key.traditional_pem, canonicalize=(b"relaxed", b"relaxed")
                    ),
                },
                seconds,
            )
            print(f"{name:>8} {rates['ours']:10.0f} {rates['dkimpy']:10.0f} {rates['ours'] / rates['dkimpy']:7.1f}")


if __name__ == "__main__":
    main()
