"""Run the README's tour and write what it printed beside its commands: `make docs`.

An output that says the same as before is left as it is, so that a run changes only what changed.
"""

from __future__ import annotations

from tests.docs.likeness import varied
from tests.docs.snippets import Block, with_outputs
from tests.docs.tour import README, outputs_of


def main() -> None:
    """Rewrite README.md; say which outputs are new."""
    page = README.read_text("utf-8")
    new: dict[Block, str] = {}
    for snippet, text in outputs_of(page).items():
        if snippet.output is None:
            if text:
                print(
                    f"{snippet.name}: prints something, and the page has no place for it:\n{text}"
                )
        elif varied(text) != varied(snippet.output.text):
            print(f"{snippet.name}: new output")
            new[snippet.output] = text
    README.write_text(with_outputs(page, new), "utf-8")
    print(f"{len(new)} outputs rewritten")


if __name__ == "__main__":
    main()
