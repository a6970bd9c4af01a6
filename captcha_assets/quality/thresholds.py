"""Every threshold of the quality checks with its reason, and the list of the checks. Imports nothing heavy.

A *blocking* check stops the flow: what it judges must not go on. The others warn: someone should look.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

# --- a delivery: its image table ------------------------------------------------------------------

#: Above this share of refused members a delivery is mostly bad: more was refused than taken, so that it
#: is likelier the wrong archive than one with a few bad files.
MAX_REJECTED = 0.5
#: Above this share someone should look at the reasons: the public data sets have none or a handful.
MANY_REJECTED = 0.05

#: Share of images that may lie outside of the three ranges: single washed-out images are part of the
#: true data, but one in twenty means that the delivery was scaled, inverted or cut differently.
MAX_OUT_OF_RANGE = 0.05

#: A class's share may differ from what is known of the alphabet by this part of itself ...
CLASS_TOLERANCE = 0.25
#: ... or by this many standard deviations of a random draw, whichever is more: with twenty classes a
#: just delivery is blamed once in some 800 deliveries.
CLASS_SIGMAS = 4.0

# --- all deliveries together: the image index -----------------------------------------------------

#: Above this share of images with contradicting labels the labelling itself is in doubt.
MAX_CONFLICTS = 0.01

# --- the splits -----------------------------------------------------------------------------------

# The ratios only warn, because no one can mend them: an image keeps its split for ever, so that a removed
# batch leaves its classes uneven, and so do new near-duplicates, which take the split of their group.

#: The promise: of each class, each split holds its share within this many images ...
EXACT_IMAGES = 1.0
#: ... or this part of the class, whichever is more. (Near-duplicates stay together, so that the largest
#: group of a class is allowed as well.) A class that lost images to a removal, an exclusion or another label
#: is promised nothing.
EXACT_SHARE = 0.005
#: Beyond this many images and this part of the class, figures of a class no longer mean what they say.
ROUGH_IMAGES = 3.0
ROUGH_SHARE = 0.05

#: Above this share of images held back (they would tie two splits together), near-duplicates are found
#: where there are none, or deliveries repeat each other.
MAX_HELD_BACK = 0.01


class Check(NamedTuple):
    """One check: its name (letters, digits and underscores), what it is for, whether it blocks."""

    name: str
    description: str
    blocking: bool


#: The checks of each table, in the order of a verdict's findings.
CHECKS: dict[str, tuple[Check, ...]] = {
    "image_table": (
        Check("columns_and_types", "Every column is there, of its type, without empty values.", True),
        Check("not_empty", "The delivery holds usable images.", True),
        Check("share_of_rejects", "The delivery is not mostly bad.", True),
        Check("unique_members", "No file of the delivery is taken twice.", True),
        Check("labels_in_alphabet", "Every label is one of the known classes.", True),
        Check("image_size", "Every image has exactly the known number of pixels.", True),
        Check(
            "statistics_in_range",
            "Brightness, contrast and foreground are those of readable characters.",
            True,
        ),
        Check("few_rejects", "Hardly any member of the delivery is refused.", False),
        Check("every_class_present", "Every class has images; a partial delivery need not.", False),
        Check("class_balance", "The classes are as frequent as they are known to be.", False),
    ),
    "image_index": (
        Check("columns_and_types", "Every column is there, of its type, without empty values.", True),
        Check("unique_images", "Every distinct image stands in the index once.", True),
        Check("labels_in_alphabet", "Usable images carry a known class; contradicted ones none.", True),
        Check("groups_consistent", "A near-duplicate group is named after its smallest image.", True),
        Check("share_of_conflicts", "Hardly any image has contradicting labels.", False),
    ),
    "splits": (
        Check("columns_and_types", "Every column is there, of its type, without empty values.", True),
        Check("unique_images", "Every image has one place.", True),
        Check("no_image_in_two_splits", "No image is both learned from and tested on.", True),
        Check("no_group_in_two_splits", "A group of near-duplicates has one place.", True),
        Check("no_near_duplicate_in_two_splits", "Nothing leaks: near-duplicates share a split.", True),
        Check("split_or_reason", "An image is in a known split, or held back with a reason.", True),
        Check("no_conflict_placed", "No image with contradicting labels is learned from.", True),
        Check("agrees_with_index", "Every image stands in the index, with the same label.", True),
        Check("no_image_forgotten", "Every usable image of the index has a row.", True),
        Check("assignments_kept", "Every split is the one that was recorded.", True),
        Check("ratios", "Each class is spread over the splits roughly as it should be.", False),
        Check(
            "ratios_exact",
            "Each class that lost no image is spread as promised: within one image or 0.5 %.",
            False,
        ),
        Check("held_back", "Hardly any image is held back.", False),
    ),
}

# --- drift of a delivery ---------------------------------------------------------------------------
# With thousands of images every p-value is tiny, so that a difference nobody would see counts as
# significant. An alarm therefore asks for more: a difference beyond what is tolerated, by more than chance
# explains. With few images chance rules, with many the tolerance.

#: Rate of alarms among undisturbed deliveries, all features together (divided among them).
FALSE_ALARMS = 0.01
#: Images cut from one picture resemble each other, so that many tell less than their number: real ones
#: are worth 1/1.4 of independent ones, generated ones 1/1.5; the rest is margin. (Their classes do not
#: depend on each other.)
DESIGN_EFFECT = 2.0
#: Tolerated difference of the distributions of a statistic: at most this share of the images would have to
#: change places (the Kolmogorov-Smirnov distance). A shift by a quarter of a standard deviation.
TOLERATED_DISTANCE = 0.1
#: Tolerated change of a class's frequency, as a part of itself; as in `CLASS_TOLERANCE`.
TOLERATED_CLASS_CHANGE = 0.25
#: Tolerated shift of the class's mean images, in standard deviations of single images, along the
#: directions in which images of one class differ most.
TOLERATED_SHAPE_SHIFT = 0.1


def version_of(values: Mapping[str, Any]) -> str:
    """Return the version of thresholds and checks by name: their limits count, descriptions do not.

    Args:
        values: the constants of this module; names in upper case count.
    """
    counting = {name: value for name, value in values.items() if name.isupper() and name != "VERSION"}
    checks = counting.get("CHECKS", {})
    counting["CHECKS"] = {
        table: [(check.name, check.blocking) for check in named] for table, named in checks.items()
    }
    return hashlib.sha256(repr(sorted(counting.items())).encode()).hexdigest()[:8]


#: Another version validates anew what was validated by the last one.
VERSION = version_of(globals())
