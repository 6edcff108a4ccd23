"""What checks a learner without a language model: a toy policy, games that seconds solve, the conformance checks."""
