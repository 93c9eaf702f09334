"""Language identification: accuracy and speed of py3langid, of our compiled loops over its model, and of CLD2, in one run.

    python bench/language.py LANGID_FOLDER [--documents FILE...]

LANGID_FOLDER has udhr2.jsonl.gz ({code, text}) and wiki_chunks_small_languages.jsonl.gz ({lang, text}). Accuracy counts texts in
languages that py3langid knows, on the first 1,000 characters; of the others it tells how many are called English with a
score of 0.65 or more, which is what would let them into an English corpus.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from bloomery.core.documents import read_documents
from bloomery.core.files import read_jsonl
from bloomery.curate.language import Language, identify_language, load_identifier

LETTERS = 1000
SAME = {"nb": "no", "nn": "no", "bs": "hr", "sh": "hr", "simple": "en", "fil": "tl"}
"""Codes that are taken for one another."""
TWO_LETTERS = (
    "eng en deu de fra fr spa es ita it por pt nld nl rus ru ukr uk pol pl ces cs slk sk slv sl hrv hr srp sr bul bg ron ro hun hu "
    "fin fi est et lav lv lvs lv lit lt swe sv dan da nob no nno no isl is gle ga cym cy eus eu cat ca glg gl ell el tur tr ara ar "
    "arb ar heb he fas fa pes fa hin hi ben bn tam ta tel te kan kn mal ml guj gu pan pa mar mr urd ur nep ne sin si tha th lao lo "
    "khm km mya my vie vi ind id zlm ms jpn ja kor ko cmn zh kat ka hye hy kaz kk mon mn khk mn swa sw swh sw afr af zul zu xho xh "
    "amh am som so mlt mt sqi sq als sq mkd mk bel be epo eo lat la"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", nargs="*", type=Path, default=[])
    arguments = parser.parse_args()
    theirs = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifiers: dict[str, Callable[[str], Language]] = {
        "py3langid": lambda text: Language(*theirs.classify(text)),
        "ours": load_identifier("py3langid"),
        "pycld2": load_identifier("cld2"),
    }
    known = {SAME.get(code, code) for code in theirs.labels}
    pairs = TWO_LETTERS.split()
    two = dict(zip(pairs[::2], pairs[1::2], strict=True))
    udhr = [(two.get(row["code"].split("_")[0], row["code"]), row["text"]) for row in read_jsonl(arguments.folder / "udhr2.jsonl.gz")]
    wiki = [(row["lang"], row["text"]) for row in read_jsonl(arguments.folder / "wiki_chunks_small_languages.jsonl.gz")]
    for name, rows in (("udhr2", udhr), ("wiki chunks", wiki)):
        measure_accuracy(name, [(SAME.get(code, code), text[:LETTERS]) for code, text in rows], known, identifiers)
    texts = [text or "" for path in arguments.documents for text in read_documents(path).column("text").to_pylist()]
    compare_speed("udhr2 and wiki chunks", [text for _, text in udhr + wiki], identifiers)
    if texts:
        compare_speed("documents", texts, identifiers)


def measure_accuracy(name: str, rows: list[tuple[str, str]], known: set[str], identifiers: dict[str, Callable[[str], Language]]) -> None:
    inside = [(code, text) for code, text in rows if code in known]
    outside = [text for code, text in rows if code not in known]
    for identifier, identify in identifiers.items():
        answers = [identify(text) for _, text in inside]
        right = sum(SAME.get(answer.code, answer.code) == code for answer, (code, _) in zip(answers, inside, strict=True))
        english = sum(answer.code == "en" and answer.score >= 0.65 for answer in map(identify, outside))
        of_known = f"{right / len(inside):.3f} of {len(inside)} right" if inside else "none in a known language"
        print(f"{name:12s} {identifier:10s} {of_known}; {english} of {len(outside)} in other languages called English")


def compare_speed(name: str, texts: list[str], identifiers: dict[str, Callable[[str], Language]]) -> None:
    best = dict.fromkeys(identifiers, float("inf"))
    answers: dict[str, list[str]] = {}
    for identifier, identify in identifiers.items():
        answers[identifier] = [identify_language(text, identifier=identify).code for text in texts]
    for _ in range(3):
        for identifier, identify in identifiers.items():
            start = time.process_time()
            for text in texts:
                identify_language(text, identifier=identify)
            best[identifier] = min(best[identifier], time.process_time() - start)
    same = sum(a == b for a, b in zip(answers["ours"], answers["py3langid"], strict=True))
    print(f"{name}: {len(texts)} texts, up to 2,000 characters of each; ours says what py3langid says for {same}")
    for identifier, seconds in best.items():
        print(f"  {identifier:10s} {len(texts) / seconds:8,.0f} texts/s, {best['py3langid'] / seconds:5.2f} x py3langid")


if __name__ == "__main__":
    main()
