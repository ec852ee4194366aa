"""`python -m trainer` is `realmix-train`."""

import os

from trainer.cli import main
from trainer.reproduce.child import ASKED, end_with_parent

if os.environ.pop(ASKED, None):
    end_with_parent()
main()
