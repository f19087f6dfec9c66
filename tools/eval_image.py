"""The five likeliest classes of an image, in the words of older scripts for Caffe; the same as `streamexport eval`.

python tools/eval_image.py --proto resnet50.prototxt --model resnet50.caffemodel --image cat.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from streamexport.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
