"""A data set is described by one value, and what cannot be described so is one clear error."""

import pickle
from dataclasses import replace

import pytest

from captcha_assets.dataset import CAPTCHA, DatasetError, DatasetSpec, LabelError, load_dataset

PHOTOS = DatasetSpec(
    name="photos",
    classes=("sea lion", "harbour_seal"),
    height=40,
    width=48,
    channels=3,
    formats=("png", "jpeg"),
    label_from="folder",
)


@pytest.mark.parametrize(
    ("member", "label"),
    [("a_1.png", "a"), ("Dataset/n_00017.png", "n"), ("x_x_1/7_é.PNG", "7"), ("2_a.b.png", "2")],
)
def test_a_file_name_states_the_label(member: str, label: str) -> None:
    assert CAPTCHA.label_of(member) == label


@pytest.mark.parametrize(
    ("member", "why"),
    [
        ("a1.png", "is not named <label>_<n>.png"),
        ("a_.png", "is not named <label>_<n>.png"),
        ("_1.png", "is not named <label>_<n>.png"),
        ("a_1.jpg", "is not named <label>_<n>.png"),
        ("a_1", "is not named <label>_<n>.png"),
        ("z_1.png", "label 'z' is not one of 2345678abcdefgmnpwxy"),
        ("a_b_1.png", "label 'a_b' is not one of 2345678abcdefgmnpwxy"),
    ],
)
def test_a_file_name_without_a_label_says_why(member: str, why: str) -> None:
    with pytest.raises(LabelError) as caught:
        CAPTCHA.label_of(member)
    assert why in str(caught.value)


def test_a_folder_states_the_label() -> None:
    assert PHOTOS.label_of("some/where/sea lion/1.jpg") == "sea lion"
    assert PHOTOS.label_of("harbour_seal/any_name") == "harbour_seal"
    for member, why in {
        "1.jpg": "lies in no folder",
        "cat/1.jpg": "not one of sea lion, harbour_seal",
    }.items():
        with pytest.raises(LabelError, match=why):
            PHOTOS.label_of(member)


def test_a_spec_says_the_shape_of_an_image() -> None:
    assert (CAPTCHA.shape, CAPTCHA.pixel_bytes, CAPTCHA.size, CAPTCHA.mode) == ((52, 32), 1664, "32x52", "L")
    assert (PHOTOS.shape, PHOTOS.pixel_bytes, PHOTOS.mode) == ((40, 48, 3), 5760, "RGB")
    assert PHOTOS.suffixes == (".png", ".jpg", ".jpeg")


def test_worker_processes_get_an_equal_spec() -> None:
    assert pickle.loads(pickle.dumps(PHOTOS)) == PHOTOS


def test_another_spec_has_another_version() -> None:
    assert CAPTCHA.version == replace(CAPTCHA).version
    assert CAPTCHA.version != replace(CAPTCHA, other_sizes="resize").version
    assert CAPTCHA.version == replace(CAPTCHA, license="CC0-1.0").version, (
        "what is only shown makes nothing stale"
    )
    assert CAPTCHA.shown_version != replace(CAPTCHA, license="CC0-1.0").shown_version


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": "My Data"}, "lower case letters"),
        ({"classes": ("a",)}, "two classes"),
        ({"classes": ("a", "a")}, "twice"),
        ({"classes": ("a", "b/c")}, "a slash"),
        ({"height": 7}, "8 pixels a side or more"),
        ({"channels": 2}, "channels is 1"),
        ({"formats": ("gif",)}, "formats names png, jpeg, or both"),
        ({"formats": ()}, "formats names png, jpeg, or both"),
        ({"label_from": "path"}, "label_from"),
        ({"other_sizes": "crop"}, "other_sizes"),
        ({"largest_file": 0}, "largest_file"),
        ({"license": None}, "license is text"),
        ({"description": ("a", "b")}, "description is text"),
        ({"classes": "ab"}, "classes is a tuple of texts"),
        ({"classes": (1, 2)}, "classes is a tuple of texts"),
        ({"height": 8.0}, "height is a whole number"),
        ({"channels": True}, "channels is a whole number"),
        ({"brightness": 5}, "brightness is a tuple of the lowest and the highest value"),
        ({"contrast": (5, 1)}, "contrast is a tuple of the lowest and the highest value"),
        ({"contrast": (float("nan"), 1)}, "contrast is a tuple of the lowest and the highest value"),
        ({"class_shares": {"a": float("inf"), "b": 0.5}}, "class_shares maps a class to a number"),
        ({"class_shares": dict.fromkeys(CAPTCHA.classes, -0.05)}, "a share of class_shares is below 0"),
        ({"class_shares": {"a": 1.0}}, "class_shares names each class once"),
        ({"near_duplicate_correlation": 1.5}, "near_duplicate_correlation"),
    ],
)
def test_what_cannot_be_a_data_set_is_one_clear_error(changes: dict, why: str) -> None:
    with pytest.raises(DatasetError, match=why) as caught:
        replace(CAPTCHA, **changes)
    assert "\n" not in str(caught.value)


def test_a_data_set_is_loaded_by_its_address() -> None:
    assert load_dataset(None) is CAPTCHA
    assert load_dataset("captcha_assets.dataset:CAPTCHA") is CAPTCHA
    assert load_dataset("captcha_assets_tests.defs.digits:DATASET").name == "digits"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("no_such_module:X", "No module named"),
        ("captcha_assets.dataset:X", "the module captcha_assets.dataset has no X"),
        ("captcha_assets.dataset:LabelError", "LabelError is no DatasetSpec"),
    ],
)
def test_a_data_set_that_is_not_there_is_one_clear_error(address: str, why: str) -> None:
    with pytest.raises(DatasetError, match=f"CAPTCHA_DATASET='{address}' cannot be used: .*{why}"):
        load_dataset(address)
