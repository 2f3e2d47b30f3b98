"""Settings out of range."""

import pytest


@pytest.mark.parametrize(
    'fields, message',
    [
        (dict(steps=0), 'steps must be in'),
        (dict(batch_size=4, accumulate=8), 'accumulate must be in 1..4'),
        (dict(lr=0.0), 'lr must be in'),
    ],
)
def test_settings_out_of_range(fields, message):
    from difflow.training import Settings

    with pytest.raises(ValueError, match=message):
        Settings(**fields)
