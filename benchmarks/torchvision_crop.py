"""torchvision's RandomResizedCrop, timed in a separate process, which may use another environment than limbeck.

Run as a file, with the size of the images as arguments. For every line on standard input one pass over the images is
timed, and its processor time is printed, in seconds. Nothing of limbeck is imported.
"""

import sys
import time


def main() -> None:
    """Print the seconds of one pass for every input line."""
    import torch
    import torchvision
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    count, height, width, size = map(int, sys.argv[1:5])
    images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
    crop = v2.RandomResizedCrop(size)
    print(torchvision.__version__, torch.__version__, flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        for image in images:
            crop(image)
        print(time.process_time() - began, flush=True)


if __name__ == "__main__":
    main()
