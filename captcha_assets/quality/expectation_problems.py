"""What a failed expectation found, in plain words: the column, how many rows, an example."""

from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

#: The values of an unexpected row that name an image, each with the one that names its batch.
IMAGE_COLUMNS = {
    "image_id": "batch",
    "near_duplicate": "batch_of_near_duplicate",
    "missing_image": "batch",
}

#: What is wrong with a row, by the type of the expectation; in braces its arguments.
_OF_A_ROW = {
    "expect_column_values_to_be_null": "the column {column} is not empty",
    "expect_column_values_to_not_be_null": "the column {column} is empty",
    "expect_column_values_to_be_in_set": "the column {column} has a value that is none of {value_set}",
    "expect_column_values_to_not_be_in_set": "the column {column} has the value {value_set}",
    "expect_column_values_to_be_between": "the column {column} is not between {min_value} and {max_value}",
    "expect_column_values_to_be_unique": "the column {column} has a value that another row has too",
    "expect_column_pair_values_to_be_equal": "the columns {column_A} and {column_B} differ",
    "expect_column_pair_values_a_to_be_greater_than_b": "the column {column_B} exceeds the column {column_A}",
}
#: Characters of an example.
_LONGEST = 120


def problem_of(stored: Mapping[str, Any]) -> str:
    """Return what a failed expectation found, and what it is for.

    Args:
        stored: the result as Great Expectations writes it.
    """
    notes = stored["expectation_config"]["notes"].rstrip(".")
    return f"{found_in_words(stored, example=True)}; expected: {notes[:1].lower()}{notes[1:]}"


def found_in_words(stored: Mapping[str, Any], *, example: bool = False) -> str:
    """Return what a failed expectation found.

    Args:
        stored: the result as Great Expectations writes it.
        example: name a row too, where the expectation is one of rows.
    """
    config, result = stored["expectation_config"], stored["result"]
    if errors := error_messages(stored["exception_info"]):
        return f"could not be validated: {'; '.join(errors)}"
    if missing := result.get("partial_missing_list"):
        return f"no row has the {config['kwargs'].get('column', 'value')} {value_in_words(missing)}"
    if "unexpected_count" not in result:
        return f"found {value_in_words(result.get('observed_value'))}"
    return f"{_of_a_row(config)} in {_rows(config['kwargs'], result)}{_example(result) if example else ''}"


def _of_a_row(config: Mapping[str, Any]) -> str:
    """Return what is wrong with each of the unexpected rows."""
    given = {
        name: shorten(value_in_words(value), 60, placeholder="...")
        for name, value in config["kwargs"].items()
        if value is not None
    }
    try:
        return _OF_A_ROW[config["type"]].format_map(given)
    except KeyError:  # an expectation that somebody added, or one that leaves an argument out
        return "it is otherwise"


def _rows(arguments: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    unexpected, rows = result["unexpected_count"], result.get("element_count", 0)
    share = f"{100 * unexpected / rows:.3g} %" if rows else ""
    if (mostly := arguments.get("mostly", 1)) < 1:
        share += f", where at most {100 * (1 - mostly):.3g} % are accepted"
    return f"{unexpected:,} of {rows:,} rows" + (f" ({share})" if share else "")


def _example(result: Mapping[str, Any]) -> str:
    """Return the first unexpected row; of ids of images nothing can be read, where there is more."""
    row: Mapping[str, Any] = next(iter(result.get("partial_unexpected_index_list") or ()), {})
    named = {name: value for name, value in row.items() if name not in IMAGE_COLUMNS} or row
    words = ", ".join(f"{name} {value_in_words(value)}" for name, value in named.items())
    return f", for example {shorten(words, _LONGEST, placeholder='...')}" if words else ""


def value_in_words(value: Any) -> str:
    """Return a value of an argument or of a row as people read it."""
    if isinstance(value, Mapping):  # a row condition
        return str(value.get("pass_through_filter", dict(value)))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(value_in_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def error_messages(exception_info: Mapping[str, Any]) -> list[str]:
    """Return why an expectation could not be validated: one exception, or one for each metric."""
    infos = [exception_info] if "raised_exception" in exception_info else exception_info.values()
    return list(dict.fromkeys(str(one["exception_message"]) for one in infos if one["raised_exception"]))
