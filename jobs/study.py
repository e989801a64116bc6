r"""A study: one question of the papers, small, with its answer as a page.

ray job submit --working-dir . -- python jobs/study.py rho --set storage=/shared/raysel
"""

import sys

from raysel.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "study")
    main()
