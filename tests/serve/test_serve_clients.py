"""Real clients of the API: OpenAI's, and Hugging Face's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest
from huggingface_hub import InferenceClient
from serving import Server, serving
from tiny_answering import TASK, TEXTS, tiny_student

from udrl.commands import Command
from udrl.student.student import Student


@pytest.fixture(scope="module")
def student() -> Student:
    return tiny_student()


@pytest.fixture(scope="module")
def server(student: Student) -> Iterator[Server]:
    with serving({"tiny": student}, queue=4, batch_size=1) as one:
        yield one


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one


@pytest.fixture(scope="module")
def expected(student: Student) -> str:
    return student.generate([TEXTS[0]], [Command(TASK, {"length": 9.0})], seeds=[3])[0].completion


def test_openai_lists_students(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.owned_by) == ("tiny", "udrl")
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="did you mean tiny"):
        client.models.retrieve("tinny")


def test_openai_completes_and_chats(client: openai.OpenAI, expected: str) -> None:
    done = client.completions.create(model="tiny", prompt=TEXTS[0], seed=3, extra_body={"length": 9})
    assert done.choices[0].text == expected
    assert done.model_extra is not None
    assert done.model_extra["udrl"]["command"] == {"length": 9}
    chat = client.chat.completions.create(
        model="tiny:length=9", messages=[{"role": "user", "content": TEXTS[0]}], seed=3
    )
    assert chat.choices[0].message.content == expected
    assert chat.usage == done.usage


def test_openai_streams(client: openai.OpenAI, expected: str) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tiny:length=9",
            messages=[{"role": "user", "content": TEXTS[0]}],
            seed=3,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == expected
    assert chunks[-1].usage is not None
    texts = client.completions.create(model="tiny", prompt=TEXTS[0], seed=3, stream=True, extra_body={"length": 9})
    assert "".join(chunk.choices[0].text for chunk in texts) == expected


def test_openai_asks_asynchronously(server: Server, student: Student) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            made = [client.completions.create(model="tiny", prompt=text, seed=1) for text in TEXTS]
            whole = [done.choices[0].text for done in await asyncio.gather(*made)]
            stream = await client.completions.create(model="tiny", prompt=TEXTS[0], seed=1, stream=True)
            return [*whole, "".join([chunk.choices[0].text async for chunk in stream])]

    alone = [one.completion for one in student.generate(TEXTS, [Command(TASK)] * len(TEXTS), seeds=[1] * len(TEXTS))]
    assert asyncio.run(ask()) == [*alone, alone[0]]


def test_openai_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="a", extra_body={"lenght": 9})
    assert (caught.value.param, caught.value.code) == ("lenght", "unknown_parameter")
    with pytest.raises(openai.RateLimitError) as busy:
        client.completions.create(model="tiny", prompt=["a"] * 6)
    assert int(busy.value.response.headers["retry-after"]) >= 1


def test_hugging_faces_client_chats_and_streams(server: Server, expected: str) -> None:
    client = InferenceClient(base_url=f"{server.url}/v1", api_key="none")
    messages = [{"role": "user", "content": TEXTS[0]}]
    chat = client.chat_completion(messages, model="tiny", seed=3, extra_body={"length": 9})
    assert chat.choices[0].message.content == expected
    chunks = client.chat_completion(messages, model="tiny:length=9", seed=3, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
