"""Another data set than CAPTCHA characters, as a user of the library describes it: scikit-learn's digits."""

from captcha_assets.dataset import DatasetSpec

DATASET = DatasetSpec(
    name="digits", classes=tuple("0123456789"), height=8, width=8, near_duplicate_correlation=0.9999
)
