"""Running a finished adapter: predictions and measurements."""
