"""Where ``waltz_env.judges.RequestClassifier`` was before version 0.2."""

from waltz_env.lazy import lazy_attributes

__getattr__, __dir__ = lazy_attributes(
    __name__, renamed={"RequestClassifier": "waltz_env.judges.request_classifier.RequestClassifier"}
)
