"""Which signals there are and what they are measured against, apart from the compiled loops that measure them: to read what was
measured needs none of these, nor the 60 MB of memory that their compiler takes.
"""

from collections.abc import Mapping

MOSTLY_UNSPACED = 0.3
"""Share of letters from scripts without spaces above which a document is judged by characters, not by words."""

STOP_WORDS: Mapping[str, tuple[str, ...]] = {
    "en": ("the", "be", "to", "of", "and", "that", "have", "with"),
    "cs": ("a", "je", "se", "v", "na", "to", "že", "s"),
    "da": ("og", "i", "at", "det", "er", "en", "til", "af"),
    "de": ("der", "die", "und", "in", "den", "zu", "das", "mit"),
    "el": ("και", "το", "να", "του", "η", "της", "με", "που"),
    "es": ("de", "la", "que", "el", "en", "y", "a", "los"),
    "fi": ("ja", "on", "ei", "että", "se", "oli", "hän", "mutta"),
    "fr": ("de", "la", "et", "le", "les", "des", "en", "que"),
    "hu": ("a", "az", "és", "hogy", "nem", "is", "egy", "meg"),
    "it": ("di", "e", "che", "la", "il", "per", "un", "in"),
    "nl": ("de", "van", "het", "een", "en", "in", "is", "dat"),
    "no": ("og", "i", "det", "er", "på", "til", "en", "av"),
    "pl": ("w", "i", "na", "nie", "się", "z", "do", "że"),
    "pt": ("de", "a", "que", "o", "e", "do", "da", "em"),
    "ro": ("de", "și", "în", "a", "la", "cu", "pe", "că"),
    "ru": ("и", "в", "не", "на", "что", "с", "он", "как"),
    "sv": ("och", "i", "att", "det", "som", "en", "på", "är"),
    "tr": ("ve", "bir", "bu", "da", "de", "için", "ile", "çok"),
    "uk": ("і", "в", "не", "на", "що", "з", "та", "як"),
}
"""Words of which a document should have two different ones: Gopher's for English, common ones of other languages."""

TOP_SIZES, DUPLICATE_SIZES = (2, 3, 4), (5, 6, 7, 8, 9, 10)
"""Words of the n-grams whose commonest one counts, and of those whose every repeat counts (arXiv:2112.11446, table A1)."""

_GRAMS = {
    **{f"top_{n}_gram_character_fraction": f"share of the characters in the commonest run of {n} words" for n in TOP_SIZES},
    **{f"duplicate_{n}_gram_character_fraction": f"share of the characters in runs of {n} words seen before" for n in DUPLICATE_SIZES},
}

SIGNALS = {
    "length": "Unicode characters",
    "characters": "Unicode characters that are not white space",
    "words": "words with more in them than punctuation",
    "mean_word_characters": "characters of those words / words",
    "hash_word_ratio": "hash signs for each word, punctuation counted as words",
    "ellipsis_word_ratio": "ellipses for each word, punctuation counted as words",
    "alphabetic_word_fraction": "share of words, punctuation counted as words, that have a letter in them",
    "stop_words": "how many of the eight commonest words of its language a document has",
    "unspaced_fraction": "share of the letters that belong to scripts without spaces between words",
    "lines": "lines with text",
    "bullet_line_fraction": "share of lines that begin with a bullet",
    "ellipsis_line_fraction": "share of lines that end with an ellipsis",
    "duplicate_line_fraction": "share of lines that repeat an earlier line",
    "duplicate_line_character_fraction": "share of the characters that stand in lines that repeat an earlier one",
    "duplicate_paragraph_fraction": "share of paragraphs that repeat an earlier one",
    "duplicate_paragraph_character_fraction": "share of the characters that stand in paragraphs that repeat an earlier one",
    **_GRAMS,
    "c4_kept_line_fraction": "share of lines that C4's line rules keep",
    "c4_sentences": "sentences in the lines that C4's line rules keep",
    "c4_curly_bracket_lines": "lines with a curly bracket, of those that C4 would keep",
    "c4_lorem_ipsum_lines": 'lines with "lorem ipsum", of those that C4 would keep',
    "third_longest_line_characters": "characters of the third longest line",
    "line_end_fraction": "share of lines that end a sentence",
    "short_line_fraction": "share of lines of at most 30 characters",
    "repeated_line_character_fraction": "share of the characters, newlines left out, in lines that repeat an earlier one",
    "newline_word_ratio": "newlines for each word, punctuation counted as words",
    "uppercase_line_fraction": "share of lines whose letters are mostly capitals",
    "numeric_line_fraction": "share of lines of numbers alone",
    "counter_line_fraction": "share of lines of a number and one word",
    "one_word_line_fraction": "share of lines of one word",
    "refinedweb_word_fraction": "share of the words that stand in lines of the last four kinds",
    "few_word_line_fraction": "share of lines of fewer than three words between white space",
    "commonest_word_fraction": "share of the commonest word, between white space",
    "letter_fraction": "share of the characters that are letters",
    "paragraphs": "runs of lines between blank lines",
    "mission_score": "the mission documents' quality score, 0 to 1",
}
"""Every signal, without its `signal_` prefix, and what it measures."""
