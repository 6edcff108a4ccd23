"""Settings of the whole suite."""

from hypothesis import settings

# No deadline: how long an example takes says more about the machine than about the code.
settings.register_profile("waltz", deadline=None)
settings.load_profile("waltz")
