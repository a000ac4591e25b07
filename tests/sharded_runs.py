"""For torchrun: each line of a file is a command of `python -m gpt_tiny`, run one after the other by the same processes."""

import shlex
import sys
from pathlib import Path

from gpt_tiny.__main__ import main
from gpt_tiny.sharded import Sharded, leave

if __name__ == "__main__":
    world = Sharded()
    leave(world, max(main(shlex.split(line), world) for line in Path(sys.argv[1]).read_text("utf-8").splitlines()))
