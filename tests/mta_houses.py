"""Texts of main.cf as administrators really leave them."""

from __future__ import annotations

from collections.abc import Mapping

UNUSUAL: Mapping[str, str] = {
    "plain": "compatibility_level = 3.6\nsmtpd_milters = inet:127.0.0.1:8891\n",
    "empty": "",
    "no line end": "compatibility_level = 3.6\nmyorigin = example.org",
    "several lines": (
        "smtpd_milters =\n\tinet:127.0.0.1:8891\n\n  # ours below\n   { unix:/a/b, connect_timeout=5s,\n"
        "     default_action=accept }\n  inet:127.0.0.1:8892\n# end\nmyorigin = example.org\n"
    ),
    "no blanks": "smtpd_milters=inet:127.0.0.1:8891\nvirtual_transport=virtual\nnon_smtpd_milters=\n",
    "blanks": "smtpd_milters  =   inet:127.0.0.1:8891   inet:127.0.0.1:8892   \nvirtual_transport\t=\tvirtual\n",
    "commas of others": "smtpd_milters = , unix:/ct.sock\nnon_smtpd_milters = ,, unix:/ct.sock ,\n",
    "macros": "mymilters = inet:127.0.0.1:8891\nsmtpd_milters = $mymilters\nnon_smtpd_milters = ${mymilters}\n",
    "set twice": "smtpd_milters = inet:127.0.0.1:1\nsmtpd_milters =\n  inet:127.0.0.1:8891\n",
    "no UTF-8": "# caf\udce9\nmydestination = caf\udce9.example\nvirtual_transport = virtual\n",
    "terms of others": "milter_default_action = accept\nmilter_protocol = 2\nsmtpd_milters = inet:127.0.0.1:8891\n",
    "line ends of other worlds": (
        "# a\u2028b = c\nvirtual_transport=vir\x85tual\nsmtpd_milters = inet:127.0.0.1:8891,\x0c\n"
        "  inet:127.0.0.1:8892\nmyorigin = a.example\u00a0\n# a\rb\n"
    ),
    "carriage returns": "# written elsewhere\r\nmyorigin = example.org\nvirtual_transport = virtual\n",
}
