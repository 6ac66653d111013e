"""Many runs beside each other, and beside what the paper prints."""

from rlrr.errors import require

require("compare")
