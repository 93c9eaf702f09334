"""What the tests of data stages share: a small web, and comparison of whole folders."""

from pathlib import Path

from bloomery.core.documents import document_table, write_documents
from bloomery.curate.warc import WrittenPage, write_warc

SUBJECTS = ["furnace", "harbour", "orchard", "library", "mountain", "engine", "market", "weaver", "bridge", "garden"]
VERBS = ["holds", "needs", "shows", "keeps", "brings", "leaves", "covers", "feeds"]
OBJECTS = ["charcoal", "stone", "letters", "apples", "winter", "iron", "water", "silence", "bread", "ropes", "lamps"]


def article(number: int, *, sentences: int = 14) -> str:
    """A text of English words, different for every number."""
    lines = []
    for i in range(sentences):
        k = number * 7919 + i * 104729
        subject, verb, thing = SUBJECTS[k % 10], VERBS[k // 10 % 8], OBJECTS[k // 80 % 11]
        lines.append(f"The {subject} of number {k % 9973} {verb} the {thing} that have to be with and of {OBJECTS[k // 880 % 11]}.")
    return "\n".join(lines)


def write_web(folder: Path, *, files: int = 4, pages: int = 6) -> Path:
    """WARC files of articles between navigation, with one duplicate and one broken file among them."""
    for number in range(files):
        made = []
        for page in range(pages):
            subject = 0 if page == 5 else number * 100 + page
            paragraphs = "".join(f"<p>{line}</p>" for line in article(subject).split("\n"))
            html = f"<html><head><title>Page {page}</title></head><body><nav><a href=/>Home</a></nav><main>{paragraphs}</main></body></html>"
            made.append(WrittenPage(f"https://{number}.example/{page}", html.encode()))
        write_warc(folder / f"{number}.warc.gz", made)
    (folder / "broken.warc.gz").write_bytes(b"\x1f\x8b\x08 this is not gzip")
    return folder


def write_articles(path: Path, numbers: list[int], **columns: str) -> Path:
    """One Parquet file of articles."""
    write_documents(path, document_table([{"id": f"{path.parent.name}-{path.stem}-{n}", "text": article(n), **columns} for n in numbers]))
    return path


def read_folder(folder: Path) -> dict[str, bytes]:
    """Every file of an output folder but scratch, by name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith(".")}
