"""`python -m edge.cli`: the same as `hygroma`."""

import sys

from edge.cli.main import main

sys.exit(main())
