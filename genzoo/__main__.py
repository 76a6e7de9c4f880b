"""`python -m genzoo`: the command line."""

import sys

from genzoo.cli import main

sys.exit(main())
