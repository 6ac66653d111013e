"""Pictures, tables and pages that several commands draw; pictures and pages need the extra `report`."""
