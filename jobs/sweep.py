r"""A sweep: every trial is the experiment with changed keys, and no artifact is made twice.

ray job submit --working-dir . -- python jobs/sweep.py experiments/demo-sweep.yaml tune_spaces/demo.yaml \
    --set storage=/shared/raysel
"""

import sys

from raysel.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "sweep")
    main()
