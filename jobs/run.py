"""The whole line, from corpus to report.

ray job submit --working-dir . -- python jobs/run.py experiments/demo.yaml --set storage=/shared/raysel
"""

import sys

from raysel.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "run")
    main()
