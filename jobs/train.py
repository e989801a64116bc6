"""The line up to the tuned model.

ray job submit --working-dir . -- python jobs/train.py experiments/demo.yaml --set storage=/shared/raysel
"""

import sys

from raysel.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
