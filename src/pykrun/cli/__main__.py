"""`python -m pykrun.cli`."""

import sys

from pykrun.cli import main

sys.exit(main())
