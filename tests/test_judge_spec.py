from __future__ import annotations

from pathlib import Path

import pytest

from tests.games import WordJudge
from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.errors import UsageError
from waltz_env.judges import (
    AgreementJudge,
    LlamaGuardJudge,
    Qwen3GuardJudge,
    RubricJudge,
    RuleJudge,
    WildGuardJudge,
    load_judge,
)
from waltz_env.judges.completers import ServerCompleter

SERVER = "http://127.0.0.1:9/v1"  # nothing is asked while a judge is made


def test_a_judge_on_a_server_is_named_by_its_address_and_model() -> None:
    judge = load_judge(f"wildguard@{SERVER}#mine")
    assert isinstance(judge, WildGuardJudge)
    assert isinstance(judge.model, ServerCompleter)
    assert judge.model.name == "mine"
    default = load_judge(f"llama-guard-3@{SERVER}")
    assert isinstance(default, LlamaGuardJudge)
    assert default.model.name == "meta-llama/Llama-Guard-3-8B"
    assert isinstance(load_judge(f"rubric@{SERVER}#any-chat-model"), RubricJudge)
    for spec in ("qwen3guard", "qwen3guard-loose"):
        qwen = load_judge(f"{spec}@{SERVER}")
        assert isinstance(qwen, Qwen3GuardJudge)
        assert qwen.name == f"{spec}:Qwen/Qwen3Guard-Gen-4B"


def test_judges_joined_in_one_spec_share_a_model_in_this_process(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    judge = load_judge(f"any(llama-guard-3:{tmp_path}, llama-guard-3-prompt:{tmp_path})")
    assert isinstance(judge, AgreementJudge)
    response, prompt = judge.judges
    assert isinstance(response, LlamaGuardJudge)
    assert isinstance(prompt, LlamaGuardJudge)
    assert (response.checked, prompt.checked) == ("response", "prompt")
    assert response.model is prompt.model


def test_a_judge_of_one_s_own_is_named_by_its_path() -> None:
    assert isinstance(load_judge("tests.games:WordJudge"), WordJudge)
    joined = load_judge("any(rules,tests.games:WordJudge)")
    assert isinstance(joined, AgreementJudge)
    assert [type(judge) for judge in joined.judges] == [RuleJudge, WordJudge]


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("rule", "Unknown judge 'rule'. Did you mean 'rules'?"),
        ("wildgard", "Did you mean 'wildguard'?"),
        ("wildgard:folder", "Nothing could be imported from 'wildgard:folder'"),
        ("wildgard:folder", "Did you mean 'wildguard'?"),
        (f"wildgard@{SERVER}", "Did you mean 'wildguard'?"),
        ("tests.games:BOMB", "a waltz_env.protocols.Judge is expected"),
        ("rules:model", "takes no model"),
        (f"rubric@{SERVER}", "needs a model"),
        ("majority(rules,embeding)", "Did you mean 'embedding'?"),
        ("", "Unknown judge"),
    ],
)
def test_a_spec_that_names_no_judge_says_what_to_do(spec: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        load_judge(spec)
    assert hint in str(error.value)
