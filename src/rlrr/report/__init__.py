"""Pictures and pages that several commands draw."""

from rlrr.errors import require

require("report")
