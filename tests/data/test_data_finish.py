"""What finish reasons say."""

import pytest

from udrl.data.finish import finish_of


@pytest.mark.parametrize(
    ("finish", "reasons"),
    [
        (
            "finished",
            "stop STOP eos EOS_TOKEN end_turn stop_sequence FinishReason.STOP FINISH_REASON_STOP COMPLETE endTurn",
        ),
        (
            "unfinished",
            "length max_tokens MAX_TOKENS MODEL_LENGTH model-length maxTokens not_finished unheard_of limit",
        ),
        ("failed", "error content_filter SAFETY tool_calls function_call ERROR_TOXIC refusal toolUse abort RECITATION"),
    ],
)
def test_finish_of_reads_every_spelling(finish: str, reasons: str) -> None:
    assert {reason: finish_of(reason) for reason in reasons.split()} == dict.fromkeys(reasons.split(), finish)


def test_finish_of_takes_no_reason_for_finished() -> None:
    assert [finish_of(reason) for reason in (None, "", " ")] == ["finished"] * 3
