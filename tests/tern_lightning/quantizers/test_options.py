"""What the options of methods may be."""

import pytest

from tern_lightning.quantizers import get_quantizer


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("seq", {"eps": 0}),
        ("sherry", {"warmup": 0}),
        ("hestia", {"temperature": 0}),
        ("hestia", {"end": 0.1}),
    ],
)
def test_options(method, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be .*got {next(iter(options.values()))}"):
        get_quantizer(method, **options)
