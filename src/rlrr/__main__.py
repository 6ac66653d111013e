"""`python -m rlrr` is the command `rlrr`."""

import sys

from rlrr.cli.main import main

sys.exit(main())
