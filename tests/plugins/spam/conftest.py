"""A spamd that knows one user's preferences, and learns; started once a worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from plugins.spam.filtering import Desk
from postroom.testing.redis import RedisInstance
from postroom.testing.rspamd import RspamdInstance
from postroom.testing.spamd import SpamdInstance
from requirements import require, require_root

PREFERENCES = {
    "strict@recipient.example": ("required_score -5", "score NO_RELAYS 3.5"),
    "strict": ("score NO_RECEIVED 9.5", "score NO_RELAYS 9.5"),
}

FORCED = ("soft reject", "greylist", "discard", "quarantine", "rewrite subject", "add header", "reject")
FORCES = """
rspamd_config:register_symbol{ name = "FORCES", type = "prefilter", priority = 10, callback = function(task)
  local action = task:get_header("X-Act")
  if action then task:set_pre_result{ action = action, message = "as the field says", module = "test" } end
end }
"""
"""A field X-Act names the action that rspamd takes, before all other rules."""
FILES = {
    "actions.conf": 'quarantine { flags = ["no_threshold"]; } discard { flags = ["no_threshold"]; }',
    "settings.conf": 'skip { priority = high; from = "skip@friend.example"; apply { flags = ["skip"]; } }',
}


@pytest.fixture(scope="session")
def own_spamd() -> Iterator[SpamdInstance]:
    require("spamd")
    require_root()
    with SpamdInstance(("allow_user_rules 1",), preferences=PREFERENCES, learns=True) as server:
        yield server


@pytest.fixture(scope="session")
def learning_rspamd(redis_server: RedisInstance) -> Iterator[RspamdInstance]:
    """Starts slowly: its tests are one xdist group."""
    require("rspamd")
    require_root()
    with RspamdInstance(redis_server.port, password="q1w2e3r4", files=FILES, lua=FORCES) as server:
        yield server


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)
