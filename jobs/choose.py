"""The line up to the selected subset. (A file named select.py would shadow the standard library here.)

ray job submit --working-dir . -- python jobs/choose.py experiments/demo.yaml --set storage=/shared/raysel
"""

import sys

from raysel.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "select")
    main()
