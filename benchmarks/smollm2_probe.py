"""What does SmolLM2-135M-Instruct know about a request before it answers? ASR of a linear classifier at a given ORR.

Fits a logistic regression to the original model's hidden states under the conversation agent's prompt (last token, and
mean over tokens) on ``builtin:train``, cross-validated with folds that share no topic. A pair on this model could reach
these rates by refusing exactly what the classifier flags.

    python benchmarks/smollm2_probe.py                                # a minute on a CPU core
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from waltz_env.agents import load_smollm2
from waltz_env.agents.prompt_encoder import PromptEncoder
from waltz_env.game import Game
from waltz_env.presets.smollm2 import TEMPLATES
from waltz_env.prompts import PromptSet
from waltz_env.types import CONVERSATION

LAYERS = (15, 22, 30)
ORR = (0.05, 0.1, 0.2)


def main() -> None:
    """Prints one row per layer."""
    prompts = PromptSet.load("builtin:train")
    harmful = np.array([prompt.harmful for prompt in prompts])
    topics = [prompt.topic for prompt in prompts]
    print("| layer |" + "".join(f" ASR at ORR {100 * orr:.0f} % |" for orr in ORR))
    print("|---" * (1 + len(ORR)) + "|")
    for layer, states in hidden_states(prompts).items():
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000, class_weight="balanced"))
        scores = cross_val_predict(model, states, harmful, groups=topics, cv=GroupKFold(8), method="predict_proba")[
            :, 1
        ]
        rates = [float((scores[harmful] <= np.quantile(scores[~harmful], 1 - orr)).mean()) for orr in ORR]
        print(f"| {layer} |" + "".join(f" {100 * rate:.0f} |" for rate in rates), flush=True)


@torch.no_grad()
def hidden_states(prompts: PromptSet) -> dict[int, NDArray[np.float32]]:
    """Per layer, (prompts, 2 x width) float32: the last token's state and the mean over tokens."""
    model, tokenizer = load_smollm2()
    encoder = PromptEncoder(tokenizer, TEMPLATES[CONVERSATION], max_tokens=512)
    found: dict[int, list[torch.Tensor]] = {layer: [] for layer in LAYERS}
    for prompt in tqdm(prompts, desc="prompts"):
        (ids,) = encoder.encode([Game(prompt).observe(CONVERSATION)])
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        for layer, rows in found.items():
            rows.append(torch.cat([states[layer][0, -1], states[layer][0].mean(0)]))
    return {layer: torch.stack(rows).float().numpy() for layer, rows in found.items()}


if __name__ == "__main__":
    main()
