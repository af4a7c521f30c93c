"""`python -m pykrun`."""

import sys

from pykrun.cli import main

sys.exit(main())
