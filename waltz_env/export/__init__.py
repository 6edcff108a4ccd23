"""What a run has made, handed on: weights with a model card, games and preferences for other people's libraries."""
