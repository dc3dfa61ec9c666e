"""The one check of a checkpoint that somebody else made, before it is trained on.

It is a causal language model that transformers knows, with a tokenizer and finite weights; no code of its own is ever
run. Its end tokens are settled once, no text reaches an id that a command will have, and what is computed here is what
transformers computes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from udrl.architecture import architecture_of, kind_of
from udrl.architecture.packing import pack
from udrl.errors import StudentError
from udrl.student.engines.pytorch import TorchEngine
from udrl.tokenizer import decode, encode, ends_among, load_tokenizer
from udrl.training.presets import FROM_SCRATCH
from udrl.weights.gguf_checkpoint import check_finite
from udrl.weights.sources import Weights, find_weights

if TYPE_CHECKING:
    from udrl.student.network import StudentModel

Loaded = TypeVar("Loaded")
CLOSE = 1e-3
"""Largest difference of two computations of the same logits, as a share of the largest logit: float32 rounds less."""
EQUAL = 1e-6
"""The same of one computation whose later ids alone differ."""
LOOKED_AT = 2000
"""Training texts whose way through the tokenizer and back is checked."""
SHOWN = 60


def admit(weights: Weights | str) -> tuple[Any, Any]:
    """Load ``weights``, or those that a name finds; return their language model and its tokenizer.

    The model's config and the tokenizer then name the same end, and the embedding has a row for every id of the
    tokenizer. Raises StudentError for what cannot be trained, and as `find_weights` and `Weights.folder` do, in one
    sentence.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    weights = find_weights(weights) if isinstance(weights, str) else weights
    source, folder = weights.name, weights.folder()
    here = {"local_files_only": True, "trust_remote_code": False}
    _check_kind(folder, source)
    tokenizer = _loaded(f"the tokenizer of '{source}'", lambda: load_tokenizer(folder, **here))
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise StudentError(f"the tokenizer of '{source}' has no fast version (tokenizer.json): use another model")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what is missing is said below
    try:
        model, report = _loaded(
            f"the weights of '{source}'",
            lambda: AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **here
            ),
        )
    finally:
        logging.set_verbosity(verbosity)
    if missing := sorted(report["missing_keys"]):
        raise StudentError(
            f"'{source}' is not a whole causal language model, since it lacks weights (such as {missing[0]}): use "
            "another model"
        )
    check_finite(model, source)
    _add_rows(model, tokenizer, source)
    settle_ends(model, tokenizer, source)
    architecture_of(model.config).prepare(model)
    return model.eval(), tokenizer


def _loaded(what: str, load: Callable[[], Loaded]) -> Loaded:
    """Return what ``load`` does; the many errors of the libraries become one sentence."""
    try:
        return load()
    except MemoryError:
        raise
    except Exception as error:  # tokenizers raises bare ones
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        raise StudentError(
            f"{what} cannot be loaded ({first}): check the name and that its files are whole, accept its licence and "
            "set HF_TOKEN if it is gated, download it where the hub is reachable and pass the folder, or "
            f"{FROM_SCRATCH}"
        ) from error


def _check_kind(folder: Path, source: str) -> None:
    """Raise StudentError unless the config in ``folder`` is of a causal language model that transformers knows."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

    said, _ = _loaded(
        f"the weights of '{source}'", lambda: PreTrainedConfig.get_config_dict(folder, local_files_only=True)
    )
    kind = kind_of(said)
    if kind not in CONFIG_MAPPING:
        why = "is of no kind that transformers knows"
        if said.get("auto_map"):
            why = "needs code of its own (auto_map in its config.json), which udrl never runs"
        raise StudentError(f"'{source}' ({kind}) {why}: use another model")
    if CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING or said.get("is_encoder_decoder"):
        raise StudentError(
            f"'{source}' ({kind}) is not a causal language model: use one that writes from left to right"
        )


@torch.no_grad()
def _add_rows(model: Any, tokenizer: Any, source: str) -> None:
    """Give ids that were added to the tokenizer alone rows of their own, so that no command takes their place.

    They begin as the mean of the others. Raises StudentError where more than added tokens is missing.
    """
    rows = len(model.get_input_embeddings().weight)
    beyond = {token: index for token, index in tokenizer.get_vocab().items() if index >= rows}
    if not beyond:
        return
    if beyond.keys() - tokenizer.get_added_vocab().keys():
        raise StudentError(
            f"the tokenizer of '{source}' has {len(beyond)} ids that the model's {rows} embedding rows do not reach: "
            "the two belong to different models, put the right tokenizer there"
        )
    model.resize_token_embeddings(1 + max(beyond.values()), mean_resizing=False)
    head = model.get_output_embeddings()
    for layer in (model.get_input_embeddings(), head):
        layer.weight[rows:] = layer.weight[:rows].mean(0)
    if getattr(head, "bias", None) is not None:
        head.bias[rows:] = head.bias[:rows].mean()
    shown = ", ".join(sorted(beyond, key=beyond.__getitem__)[:3])
    warnings.warn(
        f"{len(beyond)} tokens were added to the tokenizer of '{source}' ({shown}) without rows in its embedding: they "
        "get rows that begin as the mean of the others",
        stacklevel=4,
    )


def settle_ends(model: Any, tokenizer: Any, source: str) -> None:
    """Settle what ends an answer, see `ends_among`, and write it into the model's config and the tokenizer.

    Raises StudentError where nothing does, or where a text can spell an end.
    """
    rows, generation = len(model.get_input_embeddings().weight), getattr(model, "generation_config", None)
    declared = (getattr(generation, "eos_token_id", None), model.config.get_text_config().eos_token_id)
    ends = [one for one in ends_among(tokenizer.eos_token_id, *declared) if one < rows]
    if not ends or tokenizer.convert_ids_to_tokens(ends[0]) is None:
        raise StudentError(
            f"neither the tokenizer nor the config of '{source}' names an end token that both have: set eos_token in "
            "its tokenizer_config.json"
        )
    if tokenizer.eos_token_id != ends[0]:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.eos_token_id = ends[0] if len(ends) == 1 else ends
    for name in filter(None, tokenizer.convert_ids_to_tokens(ends)):
        for ids in encode(tokenizer, [name, f"a{name}b", f"a {name} b"]):
            if not set(ends).isdisjoint(ids):
                raise StudentError(
                    f"the tokenizer of '{source}' takes the text '{name}' for the end of a completion: use a model "
                    "whose tokenizer keeps special tokens apart from text"
                )


def check_computation(student: StudentModel, texts: Sequence[Sequence[int]], source: str) -> None:
    """Compare training and answering with transformers' own forward on some ``texts``, as ids without commands.

    Raises StudentError where they differ, or where a later id changes what an earlier one predicts.
    """
    rows = sorted(([*ids][: min(48, student.context - 2)] for ids in texts if len(ids) > 3), key=len)[-3:]
    rows = [ids[: len(ids) - k] if len(ids) > k + 3 else ids for k, ids in enumerate(reversed(rows))]  # lengths differ
    if not rows:
        return
    named, was_training = f"'{source}' ({kind_of(student.model.config)})", student.training
    student.eval()
    try:
        with torch.no_grad():
            expected = _computed(named, lambda: [_plain_logits(student, ids) for ids in rows])
            changed = _computed(
                named, lambda: [_plain_logits(student, ids[:2] + ids[:1] * len(ids[2:])) for ids in rows]
            )
            if not all(_close(one[:2], other[:2], EQUAL) for one, other in zip(changed, expected, strict=True)):
                raise StudentError(f"{named} is not a causal language model: use one that writes from left to right")
            trained = _computed(named, lambda: _training_logits(student, rows))
            answered = _computed(named, lambda: _answering_logits(student, rows))
    finally:
        student.train(was_training)
    for what, computed, wanted in (
        ("training", trained, torch.cat(expected)),
        ("answering", answered, torch.stack([logits[-1] for logits in expected])),
    ):
        if not _close(computed, wanted):
            raise StudentError(
                f"{named} is not supported: {what} computes other logits than transformers does (they "
                f"differ by {float((computed - wanted).abs().max()):.2g}), use another model"
            )


def _computed(named: str, compute: Callable[[], Loaded]) -> Loaded:
    """Return what ``compute`` does; what an unknown architecture makes of it becomes one sentence."""
    try:
        return compute()
    except MemoryError:
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        raise StudentError(
            f"{named} cannot be trained and asked as a causal language model of transformers ({first}): use another one"
        ) from error


def _close(computed: Tensor, wanted: Tensor, share: float = CLOSE) -> bool:
    return computed.shape == wanted.shape and bool((computed - wanted).abs().max() <= share * wanted.abs().max())


def _plain_logits(student: StudentModel, ids: Sequence[int]) -> Tensor:
    """Return what transformers computes behind every id."""
    logits: Tensor = student.model(input_ids=torch.tensor([ids], device=student.rows.weight.device)).logits[0].float()
    return logits


def _training_logits(student: StudentModel, rows: Sequence[list[int]]) -> Tensor:
    """Return the logits behind every id, computed as training does, in the order of ``rows``."""
    batch = pack([ids[:1] for ids in rows], [[*ids[1:], 0] for ids in rows], groups=2).to(student.rows.weight.device)
    logits = student.logits(batch)
    return torch.cat([logits[batch.sequence == row] for row in range(len(rows))])


def _answering_logits(student: StudentModel, rows: Sequence[list[int]]) -> Tensor:
    """Return the logits behind the last id of each row, which is read behind the others as answering does."""
    session, _ = TorchEngine(student).start([ids[:-1] for ids in rows])
    return torch.from_numpy(session.step(np.array([ids[-1] for ids in rows]))).to(student.rows.weight.device)


def warn_of_lost(tokenizer: Any, texts: Sequence[str]) -> None:
    """Warn where the tokenizer does not give back some of ``texts`` as they were, with their share and an example."""
    looked = texts[:: -(-len(texts) // LOOKED_AT)] if texts else []
    lost = [
        (text, back)
        for text, ids in zip(looked, encode(tokenizer, looked), strict=True)
        if (back := decode(tokenizer, ids)) != text
    ]
    if lost:
        text, back = lost[0]
        at = next((k for k, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back)))
        start = max(0, at - SHOWN // 2)
        warnings.warn(
            f"the tokenizer does not give back {len(lost) / len(looked):.0%} of the training texts ({len(lost):,} of "
            f"{len(looked):,} looked at): {text[start : start + SHOWN]!r} becomes {back[start : start + SHOWN]!r}, and "
            "the student cannot write what is lost: take a model with a byte-level tokenizer if that matters",
            stacklevel=3,
        )
