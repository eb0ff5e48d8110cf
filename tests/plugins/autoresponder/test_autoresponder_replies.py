"""The reply as a mail: header, text, HTML, attachments; and whatever a peer writes, it stays one mail."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plugins.autoresponder.responding import ALICE, BOB, MAIL, Console, Desk, parsed
from postroom.mail import Address, Message, parse_message
from postroom.mail import Field as MailField
from postroom.testing import FakeServices
from postroom_autoresponder.decision import Silence
from postroom_autoresponder.facts import MAX_REFERENCES, addresses_in, decoded, header_facts
from postroom_autoresponder.reply import Head, Wording, build_reply, text_of_html
from postroom_autoresponder.responder import Attachment, Responder
from postroom_autoresponder.settings import AutoresponderSettings
from postroom_autoresponder.template import MAX_SUBJECT, TemplateError, render, render_subject

NAMES = {
    "date", "from", "to", "subject", "message-id", "reply-to", "in-reply-to", "references", "auto-submitted",
    "x-auto-response-suppress", "content-type", "content-transfer-encoding", "mime-version",
}  # fmt: skip


def test_text_html_and_attachments_make_one_mail(here: FakeServices, tmp_path: Path) -> None:
    html, picture = tmp_path / "away.html", tmp_path / "Straße.png"
    html.write_text(
        "<html><head><title>x</title></head><body><p>Dear ${name},</p><p>I am <b>away</b>.</p></body></html>"
    )
    picture.write_bytes(bytes(range(256)) * 100)
    Console(here).set("--text", "Grüße, ${name}.", "--html-file", str(html), "--attach", str(picture), "--name", "Bob")
    desk = Desk(here)
    assert desk.receive(MAIL.replace(b"From: Alice", b'From: "<b>Alice"')) is None
    reply = desk.reply()
    assert reply["From"] == f"Bob <{BOB}>"
    assert reply.get_content_type() == "multipart/mixed"
    plain, rich = reply.get_body(("plain",)), reply.get_body(("html",))
    assert plain is not None
    assert rich is not None
    assert plain.get_content() == "Grüße, <b>Alice.\n"
    assert "Dear &lt;b&gt;Alice," in rich.get_content()
    (attachment,) = reply.iter_attachments()
    assert (attachment.get_filename(), attachment.get_content_type()) == ("Straße.png", "image/png")
    assert attachment.get_content() == picture.read_bytes()


def test_html_alone_comes_with_its_text(here: FakeServices, tmp_path: Path) -> None:
    html = tmp_path / "away.html"
    html.write_text("<style>p {}</style><p>I am\naway.</p><p>Bye<br>Bob</p>")
    Console(here).set("--html-file", str(html))
    desk = Desk(here)
    assert desk.receive() is None
    plain = desk.reply().get_body(("plain",))
    assert plain is not None
    assert plain.get_content() == "I am away.\n\nBye\nBob\n"


def test_every_line_is_short_and_ends_with_crlf(here: FakeServices) -> None:
    Console(here).set("--text", "x" * 5000 + "\r\n.\n\rGrüße")
    desk = Desk(here)
    desk.receive(MAIL.replace(b"hello", b"a very long subject " * 40, 1))
    octets = desk.sent[0].mail
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", octets)
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    assert octets.isascii()
    assert len(desk.reply()["Subject"]) <= MAX_SUBJECT
    assert "x" * 5000 in desk.reply().get_content()


def test_the_dates_and_ids_are_ours(here: FakeServices) -> None:
    Console(here).set()
    desk = Desk(here)
    desk.receive()
    assert desk.reply()["Date"].datetime.timestamp() == here.clock.now()
    assert re.fullmatch(r"<autoreply\.[0-9a-f]{24}@recipient\.example>", desk.reply()["Message-ID"])


def test_huge_references_are_bounded(here: FakeServices) -> None:
    many = b"\r\n ".join(b"<%d@x.example>" % number for number in range(200_000))
    Console(here).set()
    desk = Desk(here)
    assert desk.receive(b"References: " + many + b"\r\nMessage-ID: <last@x.example>\r\n" + MAIL) is None
    references = desk.reply()["References"].split()
    assert len(references) == MAX_REFERENCES
    assert references[0] == "<0@x.example>"
    assert references[-2:] == ["<199999@x.example>", "<last@x.example>"]
    assert len(desk.sent[0].mail) < 5000


@pytest.mark.parametrize("address", ["grüße@straße.example", '"odd, local"@x.example', "a=b+c@x.example"])
def test_an_unusual_sender_gets_its_reply(here: FakeServices, address: str) -> None:
    Console(here).set()
    desk = Desk(here, AutoresponderSettings(authenticated_only=False))
    assert desk.receive(sender=address) is None
    assert desk.sent[0].recipients == (Address(address),)
    assert b"\r\nTo: " in desk.sent[0].mail
    assert address.encode() in desk.sent[0].mail


def test_a_domain_goes_out_as_every_mail_server_takes_it(here: FakeServices) -> None:
    """RFC 5891 4.4; only a local part outside of ASCII asks for RFC 6531."""
    Console(here).set("--text", "x", "--reply-to", "office@bücher.example", address="bob@bücher.example")
    desk = Desk(here, AutoresponderSettings(authenticated_only=False))
    mail = MAIL.replace(b"bob@recipient.example", "bob@bücher.example".encode())
    assert desk.receive(mail, sender="alice@straße.example", recipient="bob@bücher.example") is None
    assert desk.sent[0].recipients == (Address("alice@xn--strae-oqa.example"),)
    assert desk.sent[0].mail.isascii()
    assert desk.reply()["From"] == "bob@xn--bcher-kva.example"
    assert desk.reply()["Reply-To"] == "office@xn--bcher-kva.example"
    assert desk.reply()["To"] == "alice@xn--strae-oqa.example"


@pytest.mark.parametrize("word", ["x", "ü", "word ", "😀"])
def test_a_long_subject_is_cut_and_folded(here: FakeServices, word: str) -> None:
    """RFC 5322 2.1.1: no line of more than 78 characters where that can be had."""
    Console(here).set()
    desk = Desk(here)
    desk.receive(MAIL.replace(b"hello", (word * 400).encode(), 1))
    assert max(map(len, desk.sent[0].mail.split(b"\r\n"))) <= 78
    assert len(desk.reply()["Subject"]) == MAX_SUBJECT
    assert desk.reply()["Subject"].endswith("…")


def test_a_word_that_is_longer_than_a_line_is_folded(here: FakeServices) -> None:
    Console(here).set()
    desk = Desk(here)
    desk.receive(MAIL.replace(b"hello", b"x" * 160, 1))
    assert max(map(len, desk.sent[0].mail.split(b"\r\n"))) <= 78
    assert desk.reply()["Subject"] == "Re: " + "x" * 160


def test_writers_and_broken_words_without_end_are_read_as_far_as_counts(here: FakeServices) -> None:
    writers = b"".join(b"Sender: s%d@sender.example, %b\r\n" % (number, b"(" * 60_000) for number in range(200))
    Console(here).set()
    desk = Desk(here)
    assert desk.receive(writers + MAIL.replace(b"hello", b"=?a?b?x?= " * 20_000 + b"=?utf-8?q?=C3=BC?=", 1)) is None
    assert desk.reply()["Subject"].startswith("Re: =?a?b?x?= =?a?b?x?=")


def test_a_subject_of_many_encoded_words_is_read_to_the_cut(here: FakeServices) -> None:
    Console(here).set()
    desk = Desk(here)
    desk.receive(MAIL.replace(b"hello", b"\r\n ".join([b"=?UTF-8?B?8J+YgA==?="] * 400), 1))
    assert desk.reply()["Subject"] == "Re: " + "😀" * (MAX_SUBJECT - 5) + "…"


@pytest.mark.parametrize(
    "address", ["alice", "@x.example", "a\r\nRCPT TO:<b>@x.example", "a\udcff@x.example", "a> b@x.example", "a" * 400]
)
def test_what_is_no_address_gets_none(here: FakeServices, address: str) -> None:
    Console(here).set()
    desk = Desk(here, AutoresponderSettings(authenticated_only=False))
    assert desk.receive(sender=address) is Silence.NO_ADDRESS
    assert not desk.sent


ODD = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([
        b"=?utf-8?q?a=0D=0ABcc:_e@e.example?=", b"=?utf-8?b?DQpCY2M6IGVAZS5leGFtcGxl?=", b"((((((" * 500, b'"' * 99,
        b"=?utf-8?q?" + b"=C3=BC" * 80 + b"?=", b"a\x00b", b"=?", b"=?=?=", b"${subject} $x $$", b"<<<<>>>>,,,;;;:::",
        "\u2028Bcc: e@e.example".encode(), b"x\r\n\tBcc: e@e.example", b"\xff\xfe" * 20,
    ]),
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(subject=ODD, name=ODD, message_id=ODD, references=ODD, to=ODD, date=ODD, owner=st.text(max_size=50))
def test_nothing_that_a_peer_writes_adds_a_field(
    subject: bytes, name: bytes, message_id: bytes, references: bytes, to: bytes, date: bytes, owner: str
) -> None:
    raw = {b"Subject": subject, b"From": name + b" <a@b.example>", b"Message-ID": message_id, b"To": to, b"Date": date}
    fields = tuple(MailField(key, b" " + value) for key, value in {**raw, b"References": references}.items())
    facts = header_facts(Message(fields))
    values = {"subject": facts.subject, "name": facts.sender_name, "date": facts.date}
    wording = Wording(render_subject("${subject} ${name} ${date}", values), render("${name}\n${subject}", values), "")
    shown = "".join(character for character in owner if character.isprintable())
    head = Head(Address(BOB), shown, Address(ALICE), "", "<x@y.example>", 0.0, facts)
    octets = build_reply(head, wording, ())
    assert octets.isascii()
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    message = parse_message(octets)
    assert {field.name.lower().decode() for field in message.fields} <= NAMES
    assert len(message.fields) == len({field.name for field in message.fields})
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", octets)
    assert not re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", message.header())
    reply = parsed(octets)
    assert " ".join(str(reply["Subject"]).split()) == " ".join(wording.subject.split())


@settings(max_examples=200, deadline=None)
@given(ODD)
def test_reading_addresses_ends(text: bytes) -> None:
    list(addresses_in(text.decode("utf-8", "surrogateescape")))
    decoded(text.decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("a@x.example, b@y.example", ["a@x.example", "b@y.example"]),
        ('"c@z.example" <a@x.example>', ["a@x.example"]),
        ('"c@z.example"', []),
        ("(b@y.example (c@z.example)) a@x.example (d)", ["a@x.example"]),
        ("group: a@x.example, B <b@y.example>;, c@z.example", ["a@x.example", "b@y.example", "c@z.example"]),
        ("undisclosed-recipients:;", []),
        ('"odd, one"@x.example', ['"odd, one"@x.example']),
        ("<@r.example,@s.example:a@x.example>", ["a@x.example"]),
        ("Broken <a@x.example", ["a@x.example"]),
        ("a @ x.example", ["a@x.example"]),
    ],
)
def test_addresses_are_found_where_they_are(text: str, addresses: list[str]) -> None:
    assert [str(each) for each in addresses_in(text)] == addresses


def test_a_mail_that_nests_without_end_is_answered_in_time(here: FakeServices) -> None:
    nested = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level) for level in range(3000)
    )
    Console(here).set("--text", "x", "--if-body", "needle")
    desk = Desk(here)
    head = b"To: " + b"(" * 100_000 + b"\r\nCc: bob@recipient.example\r\nMIME-Version: 1.0\r\n"
    assert desk.receive(head + nested + b"\r\n\r\nneedle\r\n") is None
    assert desk.receive(head + nested, sender="other@sender.example") is Silence.CONDITION


@pytest.mark.parametrize("text", ["costs $5", "${nothing}", "$", "${subject", "${subject.__class__}", "${Subject}"])
def test_a_wrong_template_is_refused_when_it_is_set(here: FakeServices, text: str) -> None:
    for option in ("--text", "--subject"):
        result = Console(here).run("set", BOB, "--text", "fine", option, text)
        assert result.exit_code == 2
        assert option.removeprefix("--") in result.output
    with pytest.raises(TemplateError):
        render(text, {"subject": "x"})
    with pytest.raises(ValueError):
        AutoresponderSettings(text=text)


def test_values_are_never_taken_for_templates(here: FakeServices) -> None:
    Console(here).set("--text", "You wrote: ${subject}")
    desk = Desk(here)
    desk.receive(MAIL.replace(b"hello", b"${mailbox} $nothing", 1))
    assert desk.reply().get_content() == "You wrote: ${mailbox} $nothing\n"


def test_text_of_html_is_what_is_read() -> None:
    assert text_of_html("a &amp; b<script>evil()</script><ul><li>one<li>two</ul>") == "a & b\n\none\ntwo\n"
    assert text_of_html("<p") in ("\n", "<p\n")


def test_an_attachment_of_an_odd_type_is_sent_all_the_same() -> None:
    head = Head(Address(BOB), "", Address(ALICE), "", "<x@y>", 0.0, header_facts(Message()))
    octets = build_reply(head, Wording("s", "t", ""), (Attachment('a"\\b.bin', "odd", b"\0\r\n"),))
    (attachment,) = parsed(octets).iter_attachments()
    assert attachment.get_payload(decode=True) == b"\0\r\n"


def test_a_new_text_is_a_new_edition_and_other_settings_are_not() -> None:
    plain = Responder(text="one")
    assert plain.edition == Responder(text="one", addresses=("a@b",), forward="c@d", enabled=False).edition
    assert plain.edition != Responder(text="two").edition


@pytest.mark.parametrize("name", ["notice.eml", "page.mht"])
def test_a_whole_mail_is_attached_as_a_file(here: FakeServices, tmp_path: Path, name: str) -> None:
    """RFC 2045 6.4: a part of type message is never in base64, and a reply never has lines of another host's making."""
    path = tmp_path / name
    path.write_bytes(b"From: carol@sender.example\n\n" + b"\xff" * 1200 + b"\r")
    Console(here).set("--text", "See the notice.", "--attach", str(path))
    desk = Desk(here)
    assert desk.receive() is None
    octets = desk.sent[-1].mail
    assert octets.count(b"\n") == octets.count(b"\r") == octets.count(b"\r\n")
    (attachment,) = desk.reply().iter_attachments()
    assert (attachment.get_filename(), attachment.get_content_type()) == (name, "application/octet-stream")
    assert attachment.get_content() == path.read_bytes()
