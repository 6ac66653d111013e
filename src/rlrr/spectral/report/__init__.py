"""The report of `rlrr analyze`: panels, pictures and the page around them."""

from rlrr.errors import require

require("report")
