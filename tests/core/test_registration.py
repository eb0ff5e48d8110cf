"""The words of a registration are what mail is compared with."""

from __future__ import annotations

import pytest
from postroom.registration import Type, check_address


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('"Odd User"@Example.NET', '"odd user"@example.net'),
        ('"a,b"@example.net', '"a,b"@example.net'),
        ('"bob"@example.net', "bob@example.net"),
        ("bob@[192.0.2.1]", "bob@[192.0.2.1]"),
        ("bob@ex\u00e4mple.net", "bob@xn--exmple-cua.net"),
    ],
)
def test_an_address_is_kept_as_mail_servers_tell_it(text: str, key: str) -> None:
    assert check_address(Type.RECIPIENT, text) == key
    assert check_address(Type.RECIPIENT, key) == key
