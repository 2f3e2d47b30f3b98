"""Settings out of range."""

import pytest


@pytest.mark.parametrize(
    'fields, message',
    [
        (dict(steps=0), 'steps must be an integer in'),
        (dict(batch_size=4, accumulate=8), 'accumulate must be an integer in 1..4'),
        (dict(lr=0.0), 'lr must be a number in'),
    ],
)
def test_settings_out_of_range(fields, message):
    from difflow.training import Settings

    with pytest.raises(ValueError, match=message):
        Settings(**fields)
