"""What the server answers: the texts of the student alone, whoever else asks; and a clear error for everything else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from serving import Server, lines_of, serving
from tiny_answering import TASK, TEXTS, tiny_student

from udrl.commands import Command
from udrl.decoding.wording import Wording
from udrl.serve.shapes import token_name
from udrl.student.student import Generation, Student
from udrl.words import count_words

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def student() -> Student:
    return tiny_student()


@pytest.fixture(scope="module")
def server(student: Student) -> Iterator[Server]:
    with serving({"tiny": student}) as one:
        yield one


def alone(student: Student, text: str, seed: int, length: float | None = None, **how: Any) -> Generation:
    wording = how.pop("wording", None)
    command = Command(TASK, {} if length is None else {"length": length})
    sampling = replace(student.sampling, **how)
    return student.generate([text], [command], seeds=[seed], sampling=sampling, wording=wording, warn=False)[0]


def test_completion_is_the_text_of_the_student_alone_and_its_usage(server: Server, student: Student) -> None:
    answer = server.post(prompt=TEXTS[0], length=9, seed=3).json()
    expected = alone(student, TEXTS[0], 3, 9.0)
    assert answer["choices"][0]["text"] == expected.completion
    assert answer["choices"][0]["finish_reason"] == expected.finish_reason
    read = len(student.prompt_ids([TEXTS[0]], [Command(TASK, {"length": 9.0})])[0])
    assert answer["usage"] == {
        "prompt_tokens": read,
        "completion_tokens": expected.tokens,
        "total_tokens": read + expected.tokens,
    }
    assert (answer["object"], answer["model"]) == ("text_completion", "tiny")
    block = answer["udrl"]
    assert (block["task"], block["command"], block["seed"]) == (TASK, {"length": 9}, 3)
    assert block["reachable"] == {"length": [4.0, 30.0]}
    assert block["achieved"] == {"length": float(count_words(expected.completion))}
    assert (block["clamped"], block["unmet"], block["ignored"], block["cut"]) == ({}, [], [], False)


def test_each_of_many_requests_at_once_gets_what_it_gets_alone(server: Server, student: Student) -> None:
    asked = [
        {
            "prompt": TEXTS[k % len(TEXTS)], "seed": k, "length": 5 + k % 20, "max_tokens": 3 + 2 * k % 31,
            "temperature": (0.0, 0.7, 1.3)[k % 3], "guidance": (1.0, 1.0, 1.5, 0.0)[k % 4], "stream": k % 5 == 0,
            "ban": ["fox", "red"] if k % 6 == 0 else [],
        }
        for k in range(36)
    ]  # fmt: skip

    def ask(body: dict[str, Any]) -> str:
        response = server.post(**body)
        assert response.status_code == 200, response.text
        if body["stream"]:
            return "".join(choice["text"] for line in lines_of(response.text) for choice in line["choices"])
        text: str = response.json()["choices"][0]["text"]
        return text

    with ThreadPoolExecutor(12) as pool:
        got = list(pool.map(ask, asked))
    for body, text in zip(asked, got, strict=True):
        how = {name: body[name] for name in ("max_tokens", "temperature", "guidance")}
        wording = Wording(ban=tuple(body["ban"])) if body["ban"] else None
        assert text == alone(student, body["prompt"], body["seed"], body["length"], wording=wording, **how).completion


def test_prompts_and_choices_are_numbered_as_openai_numbers_them(server: Server, student: Student) -> None:
    answer = server.post(prompt=[TEXTS[0], TEXTS[3]], n=2, seed=5).json()
    expected = [alone(student, text, seed).completion for text in (TEXTS[0], TEXTS[3]) for seed in (5, 6)]
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert [choice["udrl"]["seed"] for choice in answer["choices"]] == [5, 6, 5, 6]


def test_a_request_without_a_seed_gets_another_text_each_time_and_the_seed_that_gives_it_again(
    server: Server, student: Student
) -> None:
    seeds = [server.post(prompt=TEXTS[0]).json()["udrl"]["seed"] for _ in range(3)]
    assert len(set(seeds)) == 3
    answer = server.post(prompt=TEXTS[0]).json()
    assert answer["choices"][0]["text"] == alone(student, TEXTS[0], answer["udrl"]["seed"]).completion


def test_stream_of_a_chat_is_the_whole_answer_in_parts(server: Server, student: Student) -> None:
    body = {
        "messages": [{"role": "user", "content": TEXTS[3]}], "seed": 4, "n": 2, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    lines = lines_of(server.post(CHAT, **body).text)
    texts = ["", ""]
    ends: dict[int, str] = {}
    for line in lines[:-1]:
        assert line["object"] == "chat.completion.chunk"
        assert line["usage"] is None
        [choice] = line["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
        if choice["finish_reason"]:
            ends[choice["index"]] = choice["finish_reason"]
            assert line["udrl"]["seed"] == 4 + choice["index"]
    expected = [alone(student, TEXTS[3], seed) for seed in (4, 5)]
    assert texts == [one.completion for one in expected]
    assert ends == {index: one.finish_reason for index, one in enumerate(expected)}
    assert [line["choices"][0]["delta"] for line in lines[:2]] == [{"role": "assistant", "content": ""}] * 2
    assert lines[-1]["choices"] == []
    assert lines[-1]["usage"]["completion_tokens"] == sum(one.tokens for one in expected)
    assert len({line["id"] for line in lines}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_ends_a_completion_and_is_not_in_it(server: Server, student: Student, stream: bool) -> None:
    whole = alone(student, TEXTS[3], 2).completion
    stop = whole[len(whole) // 2 :][:3]
    response = server.post(prompt=TEXTS[3], seed=2, stop=[stop, "never there"], stream=stream)
    if stream:
        choices = [choice for line in lines_of(response.text) for choice in line["choices"]]
        text, reason = "".join(choice["text"] for choice in choices), choices[-1]["finish_reason"]
    else:
        [choice] = response.json()["choices"]
        text, reason = choice["text"], choice["finish_reason"]
        assert response.json()["usage"]["completion_tokens"] < alone(student, TEXTS[3], 2).tokens
    assert (text, reason) == (whole[: whole.index(stop)], "stop")


def test_what_is_beyond_reach_is_clamped_and_told(server: Server, student: Student) -> None:
    answer = server.post(prompt=TEXTS[0], target={"length": 300}, seed=1).json()
    assert answer["udrl"]["command"] == {"length": 300}
    assert answer["udrl"]["clamped"] == {"length": {"asked": 300.0, "reachable": [4.0, 30.0]}}
    assert answer["choices"][0]["text"] == alone(student, TEXTS[0], 1, 30.0).completion


def test_a_required_word_without_room_is_told_as_unmet(server: Server) -> None:
    answer = server.post(prompt=TEXTS[0], require=["lighthouse keeper"], max_tokens=2, seed=1).json()
    assert answer["udrl"]["unmet"] == ["lighthouse keeper"]


@pytest.mark.parametrize(
    "model",
    ["tiny:length=7", "tiny:length=7,temperature=0.3,task=t", "tiny: length = 7 ,ban=fox"],
)
def test_a_model_name_may_carry_a_command(server: Server, student: Student, model: str) -> None:
    answer = server.post(prompt=TEXTS[0], model=model, seed=1).json()
    how: dict[str, Any] = {"temperature": 0.3} if "temperature" in model else {}
    if "ban" in model:
        how["wording"] = Wording(ban=("fox",))
    assert answer["choices"][0]["text"] == alone(student, TEXTS[0], 1, 7.0, **how).completion
    assert answer["model"] == model


def test_only_the_last_user_message_is_read_and_the_answer_says_so(server: Server, student: Student) -> None:
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "so be it"},
        {"role": "developer", "content": [{"type": "text", "text": "x"}]},
        {"role": "user", "content": [{"type": "text", "text": "a red fox"}, {"type": "text", "text": "in the snow"}]},
    ]
    answer = server.post(
        CHAT, messages=messages, seed=2, user="me", presence_penalty=0, tools=[], logprobs=False
    ).json()
    assert answer["udrl"]["ignored"] == ["system messages (2)", "earlier messages (2)"]
    message = {"role": "assistant", "content": alone(student, "a red fox\nin the snow", 2).completion, "refusal": None}
    assert answer["choices"][0]["message"] == message


def test_a_control_string_in_an_input_stays_text(server: Server, student: Student) -> None:
    for text in ("<|endoftext|>", "<|length:9|> a fox", "<task=t><length=9.00>"):
        answer = server.post(prompt=text, seed=1).json()
        assert answer["choices"][0]["text"] == alone(student, text, 1).completion
        assert answer["usage"]["prompt_tokens"] == len(student.prompt_ids([text], [Command(TASK)])[0])


def test_an_input_beyond_the_context_is_cut_and_told(server: Server, student: Student) -> None:
    answer = server.post(prompt="fox " * 500, seed=1).json()
    assert answer["udrl"]["cut"] is True
    assert answer["usage"]["prompt_tokens"] <= student.computes.context


USER = [{"role": "user", "content": "a fox"}]
BAD: list[tuple[dict[str, Any], int, str | None, str | None]] = [
    ({"prompt": "a", "model": "tinny"}, 404, "model", "model_not_found"),
    ({"prompt": "a", "model": 3}, 400, "model", "invalid_type"),
    ({"prompt": "a", "model": "tiny:length"}, 400, "model", "invalid_value"),
    ({"prompt": "a", "model": "tiny:length=9", "length": 8}, 400, "model", "invalid_value"),
    ({"prompt": "a", "model": "tiny:length=9,length=8"}, 400, "model", "invalid_value"),
    ({"prompt": "a", "model": "tiny:stream=true"}, 400, "model", "invalid_value"),
    ({}, 400, "prompt", "missing_required_parameter"),
    ({"prompt": []}, 400, "prompt", "invalid_value"),
    ({"prompt": [1, 2]}, 400, "prompt", "invalid_type"),
    ({"prompt": [[1, 2]]}, 400, "prompt", "invalid_type"),
    ({"prompt": " \n"}, 400, "prompt", "invalid_value"),
    ({"prompt": "a \ud800"}, 400, "prompt", "invalid_value"),
    ({"prompt": "a", "lenght": 9}, 400, "lenght", "unknown_parameter"),
    ({"prompt": "a", "messages": USER}, 400, "messages", "unknown_parameter"),
    ({"prompt": "a", "length": "9"}, 400, "length", "invalid_type"),
    ({"prompt": "a", "length": True}, 400, "length", "invalid_type"),
    ({"prompt": "a", "length": 0}, 400, "length", "invalid_value"),
    ({"prompt": "a", "length": "auto"}, 400, "length", "invalid_value"),
    ({"prompt": "a", "length": 9, "target": {"length": 9}}, 400, "length", "invalid_value"),
    ({"prompt": "a", "relevance": 0.5}, 400, "relevance", "invalid_value"),
    ({"prompt": "a", "target": {"mood": 1}}, 400, "mood", "invalid_value"),
    ({"prompt": "a", "target": 3}, 400, "target", "invalid_type"),
    ({"prompt": "a", "task": "poem"}, 400, "task", "invalid_value"),
    ({"prompt": "a", "n": 0}, 400, "n", "invalid_value"),
    ({"prompt": "a", "n": 1.5}, 400, "n", "invalid_value"),
    ({"prompt": "a", "n": 129}, 400, None, "invalid_value"),
    ({"prompt": ["a"] * 65, "n": 2}, 400, None, "invalid_value"),
    ({"prompt": "a", "seed": "1"}, 400, "seed", "invalid_type"),
    ({"prompt": "a", "temperature": -1}, 400, "temperature", "invalid_value"),
    ({"prompt": "a", "top_p": 0}, 400, "top_p", "invalid_value"),
    ({"prompt": "a", "top_k": 1.5}, 400, "top_k", "invalid_value"),
    ({"prompt": "a", "max_tokens": 0}, 400, "max_tokens", "invalid_value"),
    ({"prompt": "a", "max_tokens": 5, "max_completion_tokens": 5}, 400, "max_tokens", None),
    ({"prompt": "a", "stop": ["a", ""]}, 400, "stop", "invalid_value"),
    ({"prompt": "a", "stop": 5}, 400, "stop", "invalid_type"),
    ({"prompt": "a", "stop": ["x"] * 17}, 400, "stop", "invalid_value"),
    ({"prompt": "a", "stream": 1}, 400, "stream", "invalid_type"),
    ({"prompt": "a", "stream_options": {"include_usage": True}}, 400, "stream_options", "invalid_value"),
    ({"prompt": "a", "stream": True, "stream_options": {"x": 1}}, 400, "stream_options", "unknown_parameter"),
    ({"prompt": "a", "stream": True, "closest_of": 2, "length": 9}, 400, None, "invalid_value"),
    ({"prompt": "a", "best_of": 2, "closest_of": 2, "length": 9}, 400, None, "invalid_value"),
    ({"prompt": "a", "closest_of": 2}, 400, None, "invalid_value"),
    ({"prompt": "a", "ladder": {"length": 9}}, 400, "ladder.length", "invalid_type"),
    ({"prompt": "a", "ladder": {"length": [9, "x"]}}, 400, "ladder.length", "invalid_type"),
    ({"prompt": "a", "ladder": {"length": [9]}, "length": 9}, 400, "ladder.length", None),
    ({"prompt": "a", "ladder": {"length": [9]}, "n": 2}, 400, "n", "invalid_value"),
    ({"prompt": "a", "ladder": {"mood": [1]}}, 400, None, "invalid_value"),
    ({"prompt": "a", "ban": "!"}, 400, "ban", "invalid_value"),
    ({"prompt": "a", "ban": ["fox"], "require": ["fox"]}, 400, "require", "invalid_value"),
    ({"prompt": "a", "tools": [{}]}, 400, "tools", "unsupported_parameter"),
    ({"prompt": "a", "response_format": {"type": "json_object"}}, 400, "response_format", "unsupported_parameter"),
    ({"prompt": "a", "presence_penalty": 0.5}, 400, "presence_penalty", "unsupported_parameter"),
    ({"prompt": "a", "logit_bias": {"5": 1}}, 400, "logit_bias", "unsupported_parameter"),
    ({"prompt": "a", "logprobs": 21}, 400, "logprobs", "invalid_value"),
    ({"prompt": "a", "logprobs": True}, 400, "logprobs", "invalid_type"),
    ({"prompt": "a", "logprobs": 1, "stream": True}, 400, "logprobs", "invalid_value"),
    ({"messages": USER, "top_logprobs": 2}, 400, "top_logprobs", "invalid_value"),
    ({"prompt": "a", "top_logprobs": 2}, 400, "top_logprobs", "unknown_parameter"),
    ({"prompt": "a", "echo": True}, 400, "echo", "unsupported_parameter"),
    ({"prompt": "a", "suffix": "b"}, 400, "suffix", "unsupported_parameter"),
    ({"messages": []}, 400, "messages", "missing_required_parameter"),
    ({"messages": "a fox"}, 400, "messages", "missing_required_parameter"),
    ({"messages": [{"role": "system", "content": "x"}]}, 400, "messages", "invalid_value"),
    ({"messages": ["x"]}, 400, "messages[0]", "invalid_type"),
    ({"messages": [{"role": "king", "content": "x"}]}, 400, "messages[0]", None),
    ({"messages": [*USER, {"role": "assistant", "content": "The"}]}, 400, "messages[1]", "unsupported_value"),
    ({"messages": [{"role": "user", "content": None}]}, 400, "messages[0].content", "invalid_type"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content", "invalid_type"),
    ({"messages": USER, "prompt": "a"}, 400, "prompt", "unknown_parameter"),
]


@pytest.mark.parametrize(("body", "status", "param", "code"), BAD, ids=[str(case[0])[:70] for case in BAD])
def test_what_cannot_be_honoured_is_refused_by_name(
    server: Server, body: dict[str, Any], status: int, param: str | None, code: str | None
) -> None:
    response = server.request(json.dumps(body).encode(), CHAT if ("messages" in body and "prompt" not in body) or
                              (body.get("messages") == USER and param == "prompt") else "/v1/completions")  # fmt: skip
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code), error["message"]
    assert error["message"]
    assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, "no JSON"),
        (b'{"prompt": "a fox"', 400, "no JSON"),
        (b'["a"]', 400, "must be a JSON object, got a list"),
        (b'{"prompt": "\xff"}', 400, "not UTF-8 at byte 13"),
        (b'{"prompt": "a", "temperature": NaN}', 400, "NaN"),
        (b'{"prompt": "a", "seed": 1, "seed": 2}', 400, "'seed' is given twice"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", 400, "no JSON that can be read"),
        (b'{"prompt": ' + b"[" * 100_000, 400, "nested too deeply"),
        (b'{"prompt": "' + b"a" * 10_000_000 + b'"}', 413, "1,048,576 bytes"),
    ],
)
def test_a_broken_body_is_told_what_is_wrong(server: Server, body: bytes, status: int, told: str) -> None:
    response = server.request(body)
    assert response.status_code == status
    assert told in response.json()["error"]["message"]


def test_a_compressed_body_and_unknown_addresses_are_refused_in_the_same_shape(server: Server) -> None:
    assert server.request(b"x", **{"content-encoding": "gzip"}).status_code == 415
    for path, status in (("/v1/embeddings", 404), ("/v1/models", 405)):
        response = server.post(path)
        assert (response.status_code, set(response.json()["error"])) == (status, {"message", "type", "param", "code"})


def test_a_ladder_is_one_choice_a_rung_and_each_text_once(server: Server, student: Student) -> None:
    answer = server.post(prompt=TEXTS[3], ladder={"length": [5, 20, 300, 400]}, seed=2).json()
    expected = [alone(student, TEXTS[3], 2, length).completion for length in (5.0, 20.0, 30.0)]
    assert [choice["text"] for choice in answer["choices"]] == list(dict.fromkeys(expected))
    assert answer["choices"][0]["udrl"]["command"] == {"length": 5}
    assert set(answer["choices"][-1]["udrl"]["clamped"]) == {"length"}
    assert answer["usage"]["completion_tokens"] >= len(answer["choices"])


def test_an_id_that_is_part_of_a_character_is_named_by_its_bytes() -> None:
    assert [token_name(piece) for piece in (b" fox", "猫".encode(), b"\xf0\x9f")] == [" fox", "猫", "bytes:\\xf0\\x9f"]


def test_chances_are_those_of_the_network_for_each_id_that_is_written(server: Server, student: Student) -> None:
    body = {"seed": 1, "max_tokens": 4, "temperature": 0.0}
    completion = server.post(prompt=TEXTS[0], logprobs=2, **body).json()
    told = completion["choices"][0]["logprobs"]
    [prompt] = student.prompt_ids([TEXTS[0]], [Command(TASK)])
    session, logits = student.computes.start([prompt])
    for place in range(completion["usage"]["completion_tokens"]):
        logarithms = logits[0].astype(float) - np.log(np.exp(logits[0].astype(float)).sum())
        token = int(logits[0].argmax())
        assert told["tokens"][place] == token_name(student.vocabulary.pieces[token])
        assert told["token_logprobs"][place] == pytest.approx(logarithms[token], abs=1e-4)
        assert sorted(told["top_logprobs"][place].values())[-1] == told["token_logprobs"][place]
        logits = session.step(np.array([token]))
    chat = server.post(CHAT, messages=[{"role": "user", "content": TEXTS[0]}], logprobs=True, top_logprobs=1, **body)
    content = chat.json()["choices"][0]["logprobs"]["content"]
    assert [one["logprob"] for one in content] == told["token_logprobs"]
    assert [one["top_logprobs"][0]["token"] for one in content] == told["tokens"]
    written = b"".join(bytes(one["bytes"]) for one in content).decode("utf-8", "replace")
    assert written.removeprefix(" ").rstrip("\ufffd") == completion["choices"][0]["text"]
    assert server.post(prompt=TEXTS[0], **body).json()["choices"][0]["logprobs"] is None
