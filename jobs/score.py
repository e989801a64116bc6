"""The line up to the separability scores.

ray job submit --working-dir . -- python jobs/score.py experiments/demo.yaml --set storage=/shared/raysel
"""

import sys

from raysel.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "score")
    main()
