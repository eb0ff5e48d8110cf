from postroom.mail import AddField
from postroom.testing import message
from postroom.verdict import Action
from postroom_tagline import Settings, handler


def test_adds_the_line_once() -> None:
    first = handler.before_remote(message(), Settings(text="hello"))
    assert first.edits == (AddField(b"X-Tagline", b" hello"),)
    again = handler.before_remote(message().with_edits(first.edits), Settings())
    assert again.action is Action.SKIP
