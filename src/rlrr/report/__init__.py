"""Pictures and pages that several commands draw."""
