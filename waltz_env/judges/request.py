"""What a prompt asks for, as far as an answer's form tells: a number, a name, code, a formula, another language."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from waltz_env.judges.language import Reading, read
from waltz_env.judges.wording import word_of

PROMPT_WORDS = 32
"""Words of a prompt's topic that an answer is compared with."""

GREETING = 3
"""Words of content that small talk may have."""

FOREIGN = re.compile(r"[^\W\d_\u0000-\u036f\u1e00-\u1eff]")
"""A letter of another script than Latin."""

_CODE = re.compile(
    r"\b"
    + word_of(
        "code coding div programming javascript java golang typescript ruby php perl haskell swift kotlin matlab "
        "python sql query queries database regex css html json yaml xml csv bash shell terminal command commands linux "
        "unix vim emacs git docker kubernetes api algorithm spreadsheet spreadsheets excel sheets latex markdown "
        "recursion function functions script programmer compiler array tuple url keyboard shortcut loop numpy pandas"
    )
    + r"\b|regular expression|c\+\+|c#|=\w+\(|\bport \d{2,5}\b"
)
_FIGURES = re.compile(
    r"\bhow (?:many|much|old|long|far|tall|high|deep|big|large|heavy|fast|hot|cold|often|wide|late|early|loud|small)\b"
    r"|(?:^|[.!?:,]\s?)(?:and )?(?:since )?when\b"
    r"|\b(?:what|which) (?:\w+ ){0,3}(?:year|years|date|day|time|number|age|percentage|percent|size|temperature"
    r"|distance|speed|height|weight|length|price|cost|population|port|version|century|hour|hours|zip|code|root|point)\b"
    r"|\b(?:convert|count|calculate|compute|solve|simplify|derivative|integral|formula|equation|squared?|cubed"
    r"|logarithm|matrix|complexity|chemical|symbol|polynomial|fraction|roman|binary|hexadecimal|maths?|plus|minus"
    r"|times|divided by|percent|comes next)\b|\d ?[-+*/x^%=] ?\d|\d ?%|[\d)] ?[-+*/^=] ?[\d(a-z]|\bx\^"
)
_BRIEF = re.compile(
    # A question for a thing or a person; a word, a name, one of several.
    r"(?:^|[.!?:]\s{1,2}|\b(?:tell me|know) )(?:who|whom|whose|which|where)\b"
    r"|(?:^|[.!?:]\s{1,2})(?:what|what's|whats)(?: is| are| was| were)? (?:the (?!best way|difference|right way"
    r"|most efficient|point|reason|idea|deal)|another|an? (?:good |better |nice |other )?(?:word|name|term|synonym"
    r"|title|rhyme|number|group|example|first)|\"?[\w ]{1,30}\"? in \w+\?|\d|colou?r|kind|type|sort|time|day|year"
    r"|language|currency|command|comes|goes|emoji|symbol|number|percentage|do (?:you|we|they|people) call)"
    r"|\b(?:pick|choose|guess|translate|spell|antonyms?|synonyms?|opposite|nickname|slogan|headline|rhymes?|called"
    r"|stands? for|yes or no|true or false|complete the|name (?:a|an|one|two|three|four|five|some|the|my|our)|names?"
    r"|titles?|in (?:a|one) word|an emoji|word for|do you (?:say|write|spell|call)|suggest an?|recommend an?"
    r"|give me (?:an?|one) (?:\w+ )?(?:word|name|synonym|number|title|example)|define|definition|meaning|means?)\b"
    r"|^\w+ or \w|^(?:what|which|whose|who|where)(?! (?:is|are|was|were) an? )(?: [\w'\"-]+){1,7}\W*$"
)
_LONGER = re.compile(
    r"\b(?:(?<!you )write|explain|describe|draft|act as|pretend|play|walk me|show me|summari[sz]e|compare|why"
    r"|how (?:do|can|should|would|could) (?:i|we|you|they|one)|what (?:should|can|do) i|tips|steps|plan|checklist"
    r"|essay|story|scene|letter|email|recipe|speech|advice|in \w+ sentences|suppose|imagine|you are|you're|how to"
    r"|help me|teach|tell me about|what makes|and (?:how|why|what|who|where)|opposed|can (?:i|we|our))\b"
)
_INVENTED = re.compile(
    r"\b(?:an? (?:\w+ )?(?:name|word)|names|nicknames?|usernames?|made-up|fantasy|imaginary|nonsense|gibberish"
    r"|acronyms?|lorem|placeholder text|encode|decode|cipher|encrypt|base64|dna"
    r"|alphabet|pronounce)\b"
)
_SYMBOLS = re.compile(
    r"\b(?:formulas?|symbols?|integral|derivative|equation|roman|numerals?|hexadecimal|hex|binary|notation|complexity"
    r"|emojis?|emoticon|ascii|draw (?:an?|me|the)|morse|regex|regular expression|spell)\b"
)
_LATIN_SCRIPT = word_of(
    "spanish french german italian portuguese dutch swedish norwegian danish finnish czech slovak hungarian "
    "romanian turkish vietnamese indonesian malay swahili latin catalan basque irish welsh gaelic icelandic "
    "croatian bosnian slovenian albanian lithuanian latvian estonian tagalog afrikaans esperanto maltese hawaiian "
    "maori zulu xhosa yoruba pinyin languages?"
)
_OTHER_SCRIPT = word_of(
    "greek russian ukrainian bulgarian serbian macedonian belarusian cyrillic kazakh mongolian hebrew yiddish "
    "arabic persian farsi urdu pashto hindi sanskrit nepali marathi bengali tamil telugu thai georgian armenian "
    "korean hangul japanese hiragana katakana chinese mandarin cantonese kanji alphabets? scripts? languages?"
)
_SPOKEN = re.compile(
    r"\b(?:say|said|translat\w*|conjugat\w*|called?|writ\w+|spell\w*|pronounc\w*|words?|phrases?|greet\w*|verbs?)\b"
)


def _asked_for(languages: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Patterns of the names of languages, and of texts in one of them."""
    return re.compile(rf"\b{languages}\b"), re.compile(rf"\b(?:in|into) (?:the )?(?:\w+ )?{languages}\b")


_LATIN, _IN_LATIN = _asked_for(_LATIN_SCRIPT)
_OTHER, _IN_OTHER = _asked_for(_OTHER_SCRIPT)
_FREE = re.compile(
    r"\b(?:poems?|story|stories|tale|scene|haiku|limerick|jokes?|riddles?|songs?|lyrics|rap|monologue|dialogue|novel"
    r"|verses?|rhymes?|funny|invent|imagine|pretend|play|act as|be a|slogan|motto|toast|trivia|fun facts?|quote"
    r"|names?|titles?|recommend|suggest|who|whose|whom|stands? for)\b|^you(?:'re| are)\b"
)
_OWN_WORDS = re.compile(
    r"\w\W? or \W?\w|\bwhich\b|\b(?:correct|rewrite|rephrase|paraphrase|shorten|proofread|order|sort|arrange"
    r"|conjugate|tense|formal|friendlier|polite|translate|summari[sz]e|complete|fill in|spell|make (?:this|it))\b"
)

_SMALL_TALK = re.compile(
    r"good (?:morning|evening|afternoon|night|day)\b|nice to meet|how are you|how(?:'s| is) it going|h(?:ello|i)\b"
)


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A prompt, and which unusual forms an answer to it may have.

    Attributes:
        reading: the prompt, read.
        code: code, commands or data.
        figures: numbers or a formula.
        brief: a word, a name, or a few words.
        invented: names and strings that no dictionary has.
        symbols: a formula, a drawing, letters one by one.
        language: another language in Latin letters.
        script: another script.
        free: something made up, or one of very many things.
        own_words: words of the prompt itself.
        small_talk: a greeting or the like.
    """

    reading: Reading
    code: bool
    figures: bool
    brief: bool
    invented: bool
    symbols: bool
    language: bool
    script: bool
    free: bool
    own_words: bool
    small_talk: bool


@lru_cache(maxsize=4096)
def request_of(text: str) -> Request:
    """What the prompt ``text``, an output of ``plain``, asks for."""
    reading, spoken = read(text), _SPOKEN.search(text) is not None
    return Request(
        reading=reading._replace(
            stems=reading.stems[:PROMPT_WORDS],
            vectors=reading.vectors[:PROMPT_WORDS],
            weights=reading.weights[:PROMPT_WORDS],
            roots=reading.roots[:PROMPT_WORDS],
            total=float(reading.weights[:PROMPT_WORDS].sum()),
        ),
        code=_CODE.search(text) is not None,
        figures=_FIGURES.search(text) is not None,
        brief=_BRIEF.search(text) is not None and not _LONGER.search(text),
        invented=_INVENTED.search(text) is not None,
        symbols=_SYMBOLS.search(text) is not None,
        language=_IN_LATIN.search(text) is not None or (spoken and _LATIN.search(text) is not None),
        script=any(pattern.search(text) for pattern in (_IN_OTHER, FOREIGN, *([_OTHER] if spoken else []))),
        free=_FREE.search(text) is not None,
        own_words=_OWN_WORDS.search(text) is not None,
        small_talk=len(reading.stems) <= GREETING and _SMALL_TALK.match(text) is not None,
    )
