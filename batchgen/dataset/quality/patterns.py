"""Patterns that quality flags look for, in English and Chinese. Constants, in the syntax of Rust's `regex` crate.

They prefer precision to recall: a flag on every second good text would be useless.
"""

# ruff: noqa: RUF001 - Chinese punctuation is meant

from __future__ import annotations

# These replace `\b`. They consume the character beside a word, which makes no difference to whether a text matches. The
# fast automaton of `regex` stops at the first non-ASCII character if a pattern has `\b`.
WORD_START = r"(?:^|\W)"
WORD_END = r"(?:\W|$)"
WORD_GAP = r"(?:\W|\W.{0,78}\W)"  # \b.{0,80}\b between two words

_NOT = r"(?:can(?:no|['’])?t|cannot|unable|not able|won['’]t|will not|not (?:comfortable|possible|appropriate))"
_SORRY = r"(?:i(?:['’]?m| am) (?:\w+ )?sorry|sorry|unfortunately|(?:my )?apologies|i apologi[sz]e|i understand)"
_HELP = (
    r"(?:help|assist|provide|support|comply|fulfill?|answer|offer|give|share|engage|discuss|create|write|generate"
    r"|participate|condone|encourage|endorse|recommend|in good conscience)"
)

# A refusal says so at its beginning; the same words further down are usually part of an answer.
REFUSAL_CHARACTERS = 160
REFUSAL = (
    rf"(?is)^\W*{_SORRY}{WORD_GAP}{_NOT}{WORD_END}"
    rf"|{WORD_START}I(?:['’]m| am)? {_NOT} (?:to |be able to )?{_HELP}{WORD_END}"
    rf"|{WORD_START}as an? (?:AI|artificial intelligence|(?:large )?language model){WORD_GAP}"
    rf"(?:{_NOT}|(?:don['’]t|do not) (?:have the ability|{_HELP})){WORD_END}"
    r"|^\W*(?:非常|很|十分)?(?:抱歉|对不起|不好意思|遗憾).{0,40}(?:不能|无法|没办法|不便|不可以|不会)"
    r"|我(?:不能|无法|没有办法|没办法|不会|不便)(?:帮|为|提供|回答|协助|支持|满足|参与|讨论|生成|给|执行)"
    r"|作为(?:一个|一名|一款)?(?:AI|人工智能|(?:大型)?语言模型)[^。，\n]{0,12}，我?[^。，\n]{0,12}(?:不能|无法|不会)"
)

# What an assistant says, in a question of the user.
OFFER = (
    rf"(?i){WORD_START}(?:would|do) you (?:like|want|prefer|need) me to{WORD_END}"
    rf"|{WORD_START}would you like (?:(?:some|more|any|additional|further|to know) )+"
    rf"|{WORD_START}let me know if{WORD_END}"
    rf"|{WORD_START}(?:feel free to|don['’]t hesitate to) (?:ask|reach|contact){WORD_END}"
    rf"|{WORD_START}i(?:['’]d| would) be (?:happy|glad) to (?:help|assist|provide|explain|share|give|offer){WORD_END}"
    rf"|{WORD_START}how (?:can|may) i (?:help|assist) you{WORD_END}"
    rf"|{WORD_START}is there anything else (?:you|i can){WORD_END}"
    rf"|{WORD_START}i can (?:help|assist|provide) you{WORD_END}"
    r"|需要我们?[^，。？！?]{0,12}?(?:您|你|提供|解释|推荐|介绍|列|详细|进一步|继续|帮|举|整理|生成|写|再|说明|分享)"
    r"[^。？！?]{0,40}[吗么]"
    r"|要不要我(?:们)?(?:为|帮|给|再|继续|来)|(?:想|希望|要)(?:让)?我(?:们)?(?:为|帮|给)(?:您|你)"
    r"|如果?(?:您|你)?(?:还)?(?:有|需要)[^。]{0,24}(?:告诉我|问我|联系我|随时)"
    r"|我(?:们)?(?:可以|能|很乐意|很高兴)(?:为|帮|给)(?:您|你)"
    r"|还有(?:什么|其他)[^。]{0,10}(?:可以|能)帮(?:您|你|到)|随时(?:告诉|问|联系)我"
)

# U+037E is the Greek question mark; the others are Arabic, Armenian, Ethiopic, Limbu, Vai and typographic ones.
_QUESTION_MARK = "[?？¿؟\u037e՞፧᥅⁇⁈⁉‽⸮꘏︖﹖]"
_SENTENCE_START = r"(?:^|[.!,:;\n]\s*)(?:(?:and|so|then|now|but|also|well|ok|okay|yes|no|thanks)[,!.]* )*"
ASKING = (
    rf"(?i){_QUESTION_MARK}"
    rf"|{WORD_START}(?:what|how|why|when|where|who|whom|whose|which|please|wonder(?:ing)?|curious){WORD_END}"
    rf"|{_SENTENCE_START}(?:can|could|would|should|shall|will|do|does|did|is|are|am|was|were|may|might|have|has)(?:n['’]t)?"
    rf" (?:i|you|we|they|he|she|it|there|this|that|these|those|the|a|an|my|your|any|some){WORD_END}"
    rf"|{_SENTENCE_START}(?:tell|explain|describe|give|show|list|name|help|suggest|recommend|compare|elaborate|clarify|write"
    rf"|share|define|summari[sz]e|translate|provide|walk|teach|let['’]s|go on|continue){WORD_END}"
    rf"|{WORD_START}i(?:['’]d| would)? (?:want|need|like|love)(?: you)?(?: to)?"
    rf" (?:know|hear|see|understand|learn|more){WORD_END}"
    r"|什么|怎|为何|如何|哪|谁|多少|几(?:个|种|天|次|点|岁|年|月|号|步)|是否|吗|呢|何时|何处|何种|[么]\W*$"
    r"|能不能|可不可以|会不会|有没有|是不是|要不要|请|帮我|告诉我|解释|介绍|说明|举例|举个|推荐|想知道|想了解"
    r"|^(?:用.{1,16}?)?(?:查|写|编写|列|总结|翻译|分析|比较|生成|继续|展开|详细|说说|谈谈|讲|教|给我)"
    r"|か\W*$|ですか|ますか|ください|까\W*$|나요|어떻게|무엇|왜"
)

_ROLE = r"(?:assistant|user|human|system|bot|AI|助手|用户|系统)"
_LABEL = (
    r"(?:corrected |improved |revised |better |final |original |follow[- ]up )?"
    r"(?:answer|correction|response|question|reply|comment|version|A|Q|回答|答案|修正|更正|纠正|回复|问题|追问)"
)
_ONE = r"(?:an?|the|my|your)"
_EDITED = r"(?:corrected|improved|revised|rewritten|better|refined|edited)"

TEMPLATE = "|".join(
    (
        r"(?is)</?think(?:ing)?>|<\|[^|>\s]{1,40}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>",
        r"^\s*<s>|</s>\s*$",
        rf"{WORD_START}BEGINNING OF CONVERSATION:|(?m:^#{{2,4}} ?(?:instruction|response|input|assistant):)",
        rf"^[\s*#]*{_ROLE}[ *]*[:：]|(?m:^[ \t*#]*assistant[ \t*]*:)",
        rf"^[\s*#]*{_LABEL}[ *]*[:：]",
        (
            rf"{WORD_START}(?:here(?:['’]s| is)|below is) {_ONE} (?:\w+ )?{_EDITED}"
            rf" (?:\w+ )?(?:answer|version|response){WORD_END}"
        ),
        r"(?:修改|改进|修正|更正|优化|润色|纠正)(?:过)?后的(?:回答|答案|版本|回复)",
        r"^\s*```(?:json|markdown|md|te?xt|plaintext)?[ \t]*\n(?:[^`]|`[^`]|``[^`])*```\s*$",
        r'^\s*\{\s*"(?:question|answer|correction|response|text|reply|content)"\s*:',
    )
)

# A Han, kana or Hangul character says about as much as three letters.
LETTERS_PER_CHARACTER = {"han": 3, "kana": 3, "hangul": 3}
LANGUAGES = {  # the ISO 639-1 code of a writing system's usual language
    "latin": "en",
    "han": "zh",
    "kana": "ja",
    "hangul": "ko",
    "cyrillic": "ru",
    "greek": "el",
    "arabic": "ar",
    "hebrew": "he",
    "indic": "hi",
    "thai": "th",
}
