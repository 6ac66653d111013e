"""The report of `rlrr analyze`: panels, pictures and the page around them."""
