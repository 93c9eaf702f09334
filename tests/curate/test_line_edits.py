"""Lines taken out as by the papers' own rules; the edited text of C4 is that of datatrove 0.10.1."""

from bloomery.core.documents import document_table
from bloomery.curate.line_edits import edit_lines

PAGE = (
    "Home\nThe bloom is hammered while it is hot.[12]\n  Read more about it...\nToo short.\nPlease enable JavaScript to read this page.\n"
    'This site uses cookies, as most of them do.\nHe said that it was "iron"\n\nThe slag [edit] runs out of it!\n'
    + "x" * 1001
    + " is a long word.\nWhat is left is wrought iron?"
)


def test_c4_leaves_what_datatrove_leaves_and_counts_what_went():
    table, counts = edit_lines(document_table([{"id": "a", "text": PAGE, "url": "u"}, {"id": "b", "text": "Home"}]), ["c4"])
    rows = table.to_pylist()
    assert rows[0]["text"] == (
        'The bloom is hammered while it is hot.\nHe said that it was "iron"\nThe slag  runs out of it!\nWhat is left is wrought iron?'
    )
    assert rows[0]["id"] == "a" and rows[0]["url"] == "u" and rows[1]["text"] == ""
    assert counts == {
        "edited/c4_few_words": 1,
        "edited/c4_javascript": 1,
        "edited/c4_long_word": 1,
        "edited/c4_no_line_end": 3,
        "edited/c4_policy": 1,
    }


def test_refinedweb_takes_out_menus_counters_and_shouting_and_leaves_blank_lines():
    text = "MENU AND SEARCH\n\nThe bloom is hot.\n\n3 likes\n2022\nShare\nIt is hammered."
    table, counts = edit_lines(document_table([{"id": "a", "text": text}]), ["refinedweb"])
    assert table.to_pylist()[0]["text"] == "The bloom is hot.\n\nIt is hammered."
    assert counts == {f"edited/refinedweb_{kind}": 1 for kind in ("counter", "numeric", "one_word", "uppercase")}


def test_no_edits_leave_the_table_as_it_is():
    table = document_table([{"id": "a", "text": PAGE}])
    assert edit_lines(table, []).table is table
