"""Many runs beside each other, and beside what the paper prints."""
