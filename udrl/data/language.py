"""Whether a completion is in another language than what it answers: by script, and by function words.

No model and no dependency: letters say the script, and within the Latin one the most frequent function words say the
language. Names and made-up words hold neither, so they cannot be taken for a language. A completion is compared with
everything that the teacher was shown; what cannot be told is taken for right.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence

from udrl.words import folded_words

LEAST_WORDS = 6
"""So many function words of another language are needed ..."""

LEAST_SHARE = 0.12
"""... which are at least this share of all words ..."""

LEAST_LEAD = 3.0
"""... and this many times as frequent as those of the language that was expected."""

LEAST_LETTERS = 0.01
"""A passage in another script counts where its letters are this share of the text."""

_SCRIPTS = {
    "han": ("\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af", 5),
    "cyrillic": ("\u0400-\u04ff", 12),
    "arabic": ("\u0600-\u06ff", 12),
    "hebrew": ("\u0590-\u05ff", 12),
    "indic": ("\u0900-\u0dff", 12),
    "thai": ("\u0e00-\u0e7f", 12),
    "greek": ("\u0370-\u03ff", 12),
}
"""Letters of a script, and how many in a row (with spaces between) are more than a symbol. Japanese and Korean letters
count with the Chinese ones."""

_RUNS = {
    name: re.compile(f"[{letters}](?:[^\\w{letters}]{{0,2}}[{letters}]){{{least - 1}}}")
    for name, (letters, least) in _SCRIPTS.items()
}
_LETTER = {name: re.compile(f"[{letters}]") for name, (letters, _) in _SCRIPTS.items()}
_QUOTED = re.compile(
    r"\"[^\"\n]{1,80}\"|“[^”\n]{1,80}”|«[^»\n]{1,80}»|「[^」\n]{1,80}」|'[^'\n]{1,80}'|\([^)\n]{1,80}\)"
)

_TRANSLATES = re.compile(
    r"\b(?:translat|multiling|biling|übersetz|tradu[iczs]|traducción|tradução|vertaal|przetłumacz|översätt|terjemah)"
    r"|перевед|перевод|翻译|翻譯|翻訳|번역|ترجم|अनुवाद",
    re.IGNORECASE,
)
_ASKS_FOR = re.compile(rf"{_TRANSLATES.pattern}|\blanguages?\b", re.IGNORECASE)
_NAMES = {
    "han": ("chinese", "mandarin", "cantonese", "japanese", "korean", "kanji", "hiragana", "katakana", "hangul"),
    "cyrillic": ("russian", "ukrainian", "bulgarian", "serbian", "cyrillic"),
    "arabic": ("arabic", "persian", "farsi", "urdu"),
    "indic": ("hindi", "bengali", "tamil", "telugu", "marathi", "sanskrit"),
    "german": ("german", "deutsch"),
    "french": ("french", "français"),
    "spanish": ("spanish", "español", "castellano"),
    "italian": ("italian",),
    "portuguese": ("portuguese", "português"),
    "dutch": ("dutch", "nederlands"),
    "polish": ("polish", "polsk"),
    "swedish": ("swedish", "svenska"),
    "turkish": ("turkish", "türkçe"),
    "vietnamese": ("vietnamese", "tiếng việt"),
}
"""What names a script or a language, where it is not its own name alone. A request that names one may be answered in
it."""

_FUNCTION_WORDS = {
    "english": "the and of to is that with for are as this it be by at from or his her its their an which was you",
    "german": "der und das ist nicht ein eine mit für auf dem den sich auch von zu wird einer einem einen oder als",
    "french": "le la les et des est une dans pour qui sur avec pas du au vous ce cette sont aux plus leur ses nous",
    "spanish": "el los las que en una por con para del es un su se como más al lo sus está son pero muy",
    "italian": "il che di è un per una con del della sono gli nel alla le dei delle si più anche come al lo",
    "portuguese": "o os que em um uma para com não da do é dos das na no ao mais por se sua seu como são",
    "dutch": "het een van en de dat niet op met voor zijn aan er om te ook maar bij door naar over wordt",
    "polish": "w na z się nie jest że jak od po oraz dla przez ale za są który która które",
    "swedish": "och att det som en är på av för med den till inte har ett om men var eller från kan",
    "turkish": "ve bir bu için ile da de olarak daha çok olan gibi en kadar ama veya her ne değil",
    "indonesian": "yang dan di dengan untuk dari ini pada adalah dalam itu tidak ke akan atau juga oleh sebuah",
    "vietnamese": "và của là có một trong được cho với các không những này để người từ trên khi như",
}
_LANGUAGES = {name: frozenset(words.split()) for name, words in _FUNCTION_WORDS.items()}

_LANGUAGES_OF = {
    word: tuple(name for name, known in _LANGUAGES.items() if word in known)
    for word in sorted(frozenset().union(*_LANGUAGES.values()))
}


def is_foreign(text: str, *, words: Sequence[str], request: str, given: str) -> bool:
    """Tell whether ``text``, or a passage of it, is in a language that neither ``request`` nor ``given`` is in.

    words: the folded words of ``text``. request: all that the teacher was shown; given: the input alone. A script
    counts where a run of its letters stands outside of quotation marks and brackets and the request has none of it; a
    language of the Latin script by LEAST_WORDS, LEAST_SHARE and LEAST_LEAD.
    """
    if _TRANSLATES.search(request) or _ASKS_FOR.search(given):
        return False
    if not text.isascii():
        bare = _QUOTED.sub(" ", text)
        for script, run in _RUNS.items():
            found_letters = len(_LETTER[script].findall(bare)) if run.search(bare) else 0
            if found_letters >= LEAST_LETTERS * len(bare) > 0 and not _LETTER[script].search(request):
                return not _is_named(script, request)
    language, count = _language(words)
    if language is None or count < max(LEAST_WORDS, LEAST_SHARE * len(words)):
        return False
    if not given.isascii() or _is_named(language, request) or not _LANGUAGES[language].isdisjoint(folded_words(given)):
        return False  # a short input tells its language poorly: the benefit of the doubt
    expected = _of(request)
    if expected is None or language == expected:
        return False
    return count >= LEAST_LEAD * sum(word in _LANGUAGES[expected] for word in words)


def _is_named(name: str, request: str) -> bool:
    folded = request.casefold()
    return any(word in folded for word in _NAMES.get(name, (name,)))


def _language(words: Sequence[str]) -> tuple[str | None, int]:
    """Return the language with the most function words among ``words``, and how many; None where there is none."""
    counts = Counter(name for word in words for name in _LANGUAGES_OF.get(word, ()))
    return counts.most_common(1)[0] if counts else (None, 0)


@functools.lru_cache(maxsize=1024)
def _of(text: str) -> str | None:
    """Return the language of which a text holds at least three different function words, and of no other as many."""
    words = set(folded_words(text))
    counts = sorted(((len(words & known), name) for name, known in _LANGUAGES.items()), reverse=True)
    return counts[0][1] if counts[0][0] > max(2, counts[1][0]) else None
