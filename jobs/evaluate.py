"""The line up to the evaluation results of the base and the tuned model.

ray job submit --working-dir . -- python jobs/evaluate.py experiments/demo.yaml --set storage=/shared/raysel
"""

import sys

from raysel.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    main()
