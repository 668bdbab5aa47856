"""One story a document: `python experiments/stories.py tinystories_train_first4MB_lowercased.txt stories.txt`.

In that file (5511 TinyStories, Eldan & Li, arXiv 2305.07759; CDLA-Sharing-1.0) paragraphs are apart by an empty line
and stories by the end of a line alone. `ingle` wants a line with <|endoftext|> between documents.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def main() -> None:
    source, out = map(Path, sys.argv[1:])
    stories = [story.strip() for story in re.split(r"(?<!\n)\n(?!\n)", source.read_text())]
    out.write_text("\n<|endoftext|>\n".join(story for story in stories if story) + "\n")


if __name__ == "__main__":
    main()
