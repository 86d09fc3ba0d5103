"""Test each quality flag in English and Chinese: texts it must mark, texts it must not mark, and no exception."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from math import exp
from random import Random

import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.core.dialogue import STAGES, Conversation, Stage, Turn
from batchgen.core.prompts import build_prompt
from batchgen.dataset.quality import flags, patterns
from batchgen.dataset.quality.flags import (
    ALL_FIELDS,
    CONTEXT_SCHEMA,
    FLAGS,
    JUDGED_FLAGS,
    LABELS,
    TURNS_SCHEMA,
    find_flag,
    labels_by_turn,
    labels_for,
    turns_frame,
)
from batchgen.dataset.quality.similarity import echoes, is_repetitive, scripts, shingles
from batchgen.dataset.quality.survey import MAD_TO_DEVIATION, MIN_DEVIATION, OUTLIER_DEVIATIONS, survey
from tests.support.bench import REPOSITORY, SHARED

PLAIN = Turn(
    "How do I store bread?", "Put it in a sealed bag in the sun.", "Keep it dry, in paper, at room temperature."
)
CHINESE = Turn("面包怎么保存？", "装进密封袋，放在太阳下面。", "用纸包好，放在室温干燥的地方。")

STORM = (
    "The storm reached the coast at night and tore the roofs off four houses before the fire brigade could get there. "
)
LONG_CHINESE = (
    "台风在夜里抵达海岸，消防队赶到之前已经掀翻了四座房子的屋顶，街道上到处都是碎瓦和折断的树枝，没有人受伤。"
)


def marks(*dialogues: Sequence[Turn]) -> list[set[str]]:
    """The labels of every turn of some dialogues that form a dataset."""
    turns = turns_frame(Conversation(number, tuple(turns)) for number, turns in enumerate(dialogues, start=1))
    return [set(found) for found in labels_by_turn(survey([turns]).add_context(turns))]


no_dataset = cache(lambda: survey([]))


def last(*turns: Turn) -> set[str]:
    """The labels of the last turn of one dialogue, without those that compare it with other dialogues."""
    frame = turns_frame([Conversation(1, turns)])
    return set(labels_by_turn(no_dataset().add_context(frame))[-1])


def later(**fields: str) -> set[str]:
    """The labels of a second round that has no flags but for `fields`."""
    second = Turn("And for how many days?", "About a month, I think.", "Two to four days; freeze what is left.")
    return last(PLAIN, second._replace(**fields))


def later_chinese(**fields: str) -> set[str]:
    second = Turn("能放几天？", "大概一个月吧。", "两到四天，吃不完就冷冻。")
    return last(CHINESE, second._replace(**fields))


EDGES = {patterns.WORD_GAP: r"\b.{0,80}\b", patterns.WORD_START: r"\b", patterns.WORD_END: r"\b"}
PIECES = (
    *("I", "I'm sorry", "unfortunately", "As an AI", "cannot", "not able", "to", "help", "provide", "would you like"),
    *("me to", "some", "let me know if", "feel free to", "ask", "how can", "help you", "please", "wonder", "tell"),
    *("what", "the", "i", "want to know", "here is the", "corrected", "answer", "BEGINNING OF CONVERSATION:"),
    *("é", "ſ", "\u212a", "我不能", "吗", "’", "_", "1", "-", " ", " ", " ", "\n", ". ", "x" * 78, "? "),
)


@pytest.mark.parametrize("name", ["REFUSAL", "OFFER", "ASKING", "TEMPLATE"])
@settings(deadline=None)
@given(pieces=st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), min_size=1, max_size=20))
def test_what_is_consumed_beside_a_word_is_what_its_edge_asks_for(name: str, pieces: list[str]) -> None:
    quick = plainly = getattr(patterns, name)
    for consumed, edge in EDGES.items():
        plainly = plainly.replace(consumed, edge)
    assert plainly != quick
    texts = pl.Series([*pieces, " ".join(pieces)])
    assert texts.str.contains(quick).to_list() == texts.str.contains(plainly).to_list()


ECHO_WORDS = st.lists(st.sampled_from(["rain ", "storm ", "屋顶", "é", "x", ", "]), max_size=60).map("".join)


@given(
    dialogues=st.lists(st.lists(st.tuples(*[ECHO_WORDS] * 3), min_size=1, max_size=3), min_size=1, max_size=4),
    quoted=st.lists(st.tuples(*[st.integers(0, 35)] * 2, st.integers(0, 60), st.integers(20, 130)), max_size=4),
    pairs=st.sampled_from([1, 10_000]),
)
def test_whoever_was_shown_a_text_may_echo_it(
    dialogues: list[list[tuple[str, str, str]]], quoted: list[tuple[int, int, int, int]], pairs: int
) -> None:
    """The search in bulk finds the same as a comparison of each pair of texts."""
    texts = [[list(turn) for turn in dialogue] for dialogue in dialogues]
    cells = [(turn, field) for dialogue in texts for turn in dialogue for field in range(3)]
    for source, target, start, length in quoted:
        (one, which), (other, at) = cells[source % len(cells)], cells[target % len(cells)]
        other[at] = other[at][:9] + one[which][start : start + length] + other[at][9:]
    turns = turns_frame(Conversation(n, tuple(Turn(*turn) for turn in dialogue)) for n, dialogue in enumerate(texts))
    earlier: dict[str, tuple[int, ...]] = {"question": (1, 2), "answer": (0, 2), "correction": (0, 1, 2)}
    for place, field in enumerate(ALL_FIELDS):
        expected = [
            any(
                echoes(turn[place].encode(), source.encode())
                for source in (
                    *turn[: 1 if place else 0],
                    *(one[which] for one in dialogue[:at] for which in earlier[field]),
                )
            )
            for dialogue in texts
            for at, turn in enumerate(dialogue)
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flags, "MAX_PAIRS", pairs)
            assert FLAGS["prompt_echo"].find(turns, field).to_list() == expected


def test_good_turns_have_no_flag() -> None:
    assert marks([PLAIN], [CHINESE]) == [set(), set()]
    assert later() == set()
    assert later_chinese() == set()


@pytest.mark.parametrize(("answer", "equal"), [("Two days.", True), ("Two days .", False), ("放两天。", True)])
def test_correction_equals_answer(answer: str, *, equal: bool) -> None:
    correction = answer if equal else "Two days."
    assert ("correction_equals_answer" in later(answer=answer, correction=correction)) is equal


@pytest.mark.parametrize("text", [STORM, LONG_CHINESE])
def test_correction_nearly_answer(text: str) -> None:
    nearly = text[:-1] + "!"
    assert "correction_nearly_answer" in later(answer=text, correction=nearly)
    assert "correction_nearly_answer" not in later(answer=text, correction=text)
    assert "correction_nearly_answer" not in later(answer=text, correction=text[: len(text) * 2 // 3])


@pytest.mark.parametrize(
    ("first", "second", "flagged"),
    [
        ("How do I store bread?", "how do I store bread", True),
        ("How do I store fresh bread in summer?", "How do I store fresh bread in summers?", True),
        ("How do I store bread?", "How do I bake bread?", False),
        ("面包怎么保存？", "面包，怎么保存？", True),
        ("面包怎么保存？", "面包怎么烤？", False),
        ("?!", "?!", True),
    ],
)
def test_question_repeats(first: str, second: str, *, flagged: bool) -> None:
    turns = (PLAIN._replace(question=first), PLAIN._replace(question="Why?"), PLAIN._replace(question=second))
    assert ("question_repeats" in last(*turns)) is flagged
    assert "question_repeats" not in marks([PLAIN], [PLAIN])[1]  # another conversation may ask the same


@pytest.mark.parametrize(
    ("question", "flagged"),
    [
        ("That is very helpful, thank you.", True),
        ("Bread should be kept dry.", True),
        ("谢谢你，很有帮助。", True),
        ("我不喜欢吃面包。", True),
        ("How long", False),
        ("Tell me more about paper bags.", False),
        ("Could you give an example", False),
        ("I'd like to know more about paper", False),
        ("Really?", False),
        ("真的？", False),
        ("وماذا عن الثلاجة؟", False),
        ("请举个例子。", False),
        ("那怎么冷冻呢", False),
        ("介绍一下冷冻的方法", False),
    ],
)
def test_question_asks_nothing(question: str, *, flagged: bool) -> None:
    assert ("question_asks_nothing" in later(question=question)) is flagged
    assert "question_asks_nothing" not in last(PLAIN._replace(question=question))  # a seed may be a statement


@pytest.mark.parametrize(
    ("question", "flagged"),
    [
        ("Would you like me to list some recipes?", True),
        ("Would you like some tips on freezing?", True),
        ("Let me know if you need more help.", True),
        ("How can I help you today?", True),
        ("需要我为您详细介绍冷冻的方法吗？", True),
        ("如果您还有其他问题，请随时告诉我。", True),
        ("Shall I put it in the fridge?", False),
        ("How can I help my neighbour?", False),
        ("Would you freeze it?", False),
        ("需要我自己买纸袋吗？", False),
        ("我可以放冰箱吗？", False),
    ],
)
def test_question_offers(question: str, *, flagged: bool) -> None:
    assert ("question_offers" in later(question=question)) is flagged


@pytest.mark.parametrize(
    ("text", "flagged"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m really sorry, but I cannot assist with this request.", True),
        ("I cannot provide instructions for that.", True),
        ("As an AI language model, I am not able to give medical advice.", True),
        ("很抱歉，我不能回答这个问题。", True),
        ("我无法提供这类信息。", True),
        ("作为一个人工智能语言模型，我无法确定。", True),
        ("You cannot help but love it.", False),
        ("I am sorry to hear about your bread.", False),
        ("Bread cannot be stored in the sun.", False),
        ("很抱歉听到这个消息。", False),
        ("面包不能放在太阳下。", False),
        (STORM * 3 + "I cannot help with that.", False),
    ],
)
def test_refusal_names_its_field(text: str, *, flagged: bool) -> None:
    assert ("refusal:answer" in later(answer=text)) is flagged
    assert ("refusal:correction" in later(correction=text)) is flagged
    assert "refusal:answer" not in later(correction=text)


@pytest.mark.parametrize(
    ("seed", "text", "flagged"),
    [
        (PLAIN, "面包放两到四天，吃不完就冷冻起来。", True),
        (PLAIN, "Хлеб хранят два дня в бумажном пакете.", True),
        (CHINESE, "Keep it for two to four days and freeze the rest.", True),
        (CHINESE, "パンは紙に包んで、すずしいところにおいてください。", True),
        (CHINESE, "빵은 종이에 싸서 서늘한 곳에 두세요.", True),
        (PLAIN, "The Chinese word is 面包 and it means bread.", False),
        (CHINESE, "用 Python 写一个脚本，提醒自己两天后吃面包。", False),
        (PLAIN, "面包", False),
        (PLAIN, "1234567890 1234567890", False),
    ],
)
def test_language_drift(seed: Turn, text: str, *, flagged: bool) -> None:
    for field in ALL_FIELDS:
        turn = seed._replace(question="?", **{field: text}) if field != "question" else seed._replace(question=text)
        assert (f"language_drift:{field}" in last(seed, turn)) is flagged
    assert not {label for label in last(Turn(text, text, text)) if "drift" in label}  # drift is measured from the seed


@pytest.mark.parametrize(
    ("text", "flagged"),
    [
        ("<think>The user wants bread.</think> Two days.", True),
        ("Two days.<|eot_id|>", True),
        ("[INST] Two days. [/INST]", True),
        ("assistant: Two days.", True),
        ("Two days.\nAssistant: And then?", True),
        ("Here is the corrected answer: two days.", True),
        ("Corrected answer: two days.", True),
        ("**Answer:** two days.", True),
        ("```json\n{}\n```", True),
        ('{"correction": "Two days."}', True),
        ("以下是修改后的回答：两天。", True),
        ("回答：两天。", True),
        ("助手：两天。", True),
        ("Two days. The answer: eat it.", False),
        ("```python\nprint(2)\n```", False),
        ("Use `<br>` between x < 3 and y > 4.", False),
        ("Here is a better way to store it.", False),
        ("两天。答案就这么简单。", False),
        ("这个问题的关键是干燥。", False),
    ],
)
def test_template_artefact(text: str, *, flagged: bool) -> None:
    assert ("template_artefact:correction" in later(correction=text)) is flagged


@pytest.mark.parametrize("stage", STAGES)
def test_leaked_instruction(stage: Stage) -> None:
    """Every long enough sentence of the prompts is found, at any configured length."""
    system = build_prompt(Conversation(1, (PLAIN,)), stage, target_characters=777, history_messages=16).system
    for sentence in system.split(". "):
        said = later(correction=f"Sure. {sentence.upper()}")
        assert ("leaked_instruction:correction" in said) is (sentence != "Do not mention this."), sentence
    assert "leaked_instruction:answer" not in later(answer="Rewrite the answer in your own words. Input: none.")


@pytest.mark.parametrize(
    ("instructions", "text", "leaked"),
    [
        ("Ask what a child of eight would ask.\nBe kind.", "ask what a child of eight would ask", True),
        ("Ask what a child of eight would ask.\nBe kind.", "What would a child of eight ask? Be kind.", False),
        ("用八岁孩子的口吻提出下一个问题。不要客气。", "好的，用八岁孩子的口吻提出下一个问题", True),
        ("用八岁孩子的口吻提出下一个问题。不要客气。", "不要客气。", False),
    ],
)
def test_a_leak_of_the_configuration_s_own_instructions(instructions: str, text: str, *, leaked: bool) -> None:
    turns = turns_frame([Conversation(1, (PLAIN, PLAIN._replace(correction=text)))])
    assert find_flag("leaked_instruction", turns, "correction", (instructions,)).to_list() == [False, leaked]
    assert find_flag("leaked_instruction", turns, "correction").to_list() == [False, False]


@pytest.mark.parametrize(
    ("text", "flagged"),
    [
        ("I like bread and I like it a lot. " * 12, True),
        (STORM + "and so on and so on and so on and so on and so on " * 4, True),
        ("我喜欢面包，非常喜欢。" * 12, True),
        ("ha" * 200, True),
        (STORM, False),
        (LONG_CHINESE, False),
        ("no " * 20, False),
        ("\n".join(f"{n}. Step {n} takes {n * 7} minutes." for n in range(1, 30)), False),
        ("def f(x):\n" + "\n".join(f"        y{n} = x * {n}" for n in range(9)), False),
    ],
)
def test_degenerate_repetition(text: str, *, flagged: bool) -> None:
    assert ("degenerate_repetition:answer" in later(answer=text)) is flagged
    assert is_repetitive(text) is flagged


def test_length_outlier_is_measured_per_round_and_field() -> None:
    usual = [[PLAIN, PLAIN._replace(question=f"And in week {n}?", answer="x" * (90 + n % 20))] for n in range(40)]
    usual[7][1] = usual[7][1]._replace(answer="x" * 900)
    usual[8][1] = usual[8][1]._replace(answer="x" * 9)
    usual[9][1] = usual[9][1]._replace(answer="x" * 150)  # within a factor of two
    found = [number for number, said in enumerate(marks(*usual)) if "length_outlier:answer" in said]
    assert found == [15, 17]
    assert not any("length_outlier:answer" in said for said in marks(*usual[:12]))  # too few texts for a usual length


@pytest.mark.parametrize("text", [STORM, LONG_CHINESE])
def test_prompt_echo(text: str) -> None:
    first = PLAIN._replace(question=text, correction=text[::-1] * 2)
    assert "prompt_echo:answer" in last(first._replace(answer=text))
    assert "prompt_echo:answer" in last(first._replace(answer=f"You asked: {text} Well."))
    assert "prompt_echo:correction" in last(first._replace(correction=f"You asked: {text}"))
    assert "prompt_echo:question" in last(first, PLAIN._replace(question=f"You said {first.correction} Why?"))
    assert not any("echo" in label for label in last(first._replace(answer=text[::-1], correction=text[::-1])))
    assert not any("echo" in label for label in last(first, PLAIN._replace(question=text)))


@given(st.binary(max_size=50), st.binary(min_size=120, max_size=300), st.binary(max_size=50), st.binary(max_size=50))
def test_a_long_common_run_is_found_wherever_it_lies(before: bytes, run: bytes, after: bytes, other: bytes) -> None:
    assert echoes(before + run + after, other + run)


@pytest.mark.parametrize(
    ("winner", "flags"),
    [
        ("correction", set()),
        ("inconsistent", {"correction_not_better"}),
        ("answer", {"correction_not_better", "answer_not_worse"}),
        ("tie", {"correction_not_better", "answer_not_worse"}),
        (None, set()),
    ],
)
def test_flags_of_judged_turns(winner: str | None, flags: set[str]) -> None:
    """Only the judged turn has them: another turn of the conversation, and the same round of others, do not."""
    turns = turns_frame(Conversation(number, (PLAIN, PLAIN)) for number in (4, 5, 6))
    judged = [(5, 2, winner), (1, 1, "answer"), (9, 1, "answer")] if winner else []
    found = [JUDGED_FLAGS & {*labels} for labels in labels_by_turn(survey([turns], judged=judged).add_context(turns))]
    assert found == [set(), set(), set(), flags, set(), set()]


def test_near_duplicate_marks_the_later_conversation() -> None:
    words = " ".join(f"word{n}" for n in range(200))
    copy = PLAIN._replace(answer=words + " end", correction=words[::-1])
    other = PLAIN._replace(answer=words.replace("word", "other"), correction=words[::-1].replace("drow", "rehto"))
    found = marks([copy], [other], [copy._replace(answer=words + " END!")], [copy])
    assert ["near_duplicate" in said for said in found] == [False, False, True, True]
    text = "".join(chr(0x4E00 + n * 7 % 5000) for n in range(400))
    found = marks([Turn(text, "甲", "乙")], [Turn(text[::-1], "甲", "乙")], [Turn(text + "吗", "甲", "乙")])
    assert ["near_duplicate" in said for said in found] == [False, False, True]


@pytest.mark.slow
def test_chunks_do_not_change_what_is_found() -> None:
    dialogues = [
        Conversation(n, (PLAIN._replace(answer="x" * (n % 30 + 1)), PLAIN._replace(question=STORM[n % 7 :])))
        for n in range(1, 60)
    ]
    chunks = [turns_frame(dialogues[at : at + 7]) for at in range(0, len(dialogues), 7)]
    whole, parts = survey([turns_frame(dialogues)]), survey(chunks)
    assert whole.lengths.equals(parts.lengths)
    assert whole.copies.equals(parts.copies)
    together = labels_by_turn(whole.add_context(turns_frame(dialogues)))
    assert together == [found for chunk in chunks for found in labels_by_turn(parts.add_context(chunk))]


@pytest.mark.parametrize("size", [20, 21, 200])
def test_usual_lengths_are_medians_of_logarithms(size: int) -> None:
    """Only counts of lengths are stored; the bounds equal those of the formula over all lengths."""
    chance = Random(size)
    sizes = [chance.randrange(1, 60) for _ in range(size)]
    turns = turns_frame(
        Conversation(number, (Turn("q", "a" * many, "c"),)) for number, many in enumerate(sizes, start=1)
    )
    logarithms = (pl.Series(sizes) + 1).log()
    middle = logarithms.median()
    assert isinstance(middle, float)
    spread = (logarithms - middle).abs().median()
    assert isinstance(spread, float)
    reach = OUTLIER_DEVIATIONS * max(spread * MAD_TO_DEVIATION, MIN_DEVIATION)
    found = survey([turns]).lengths.row(0, named=True)
    assert found["answer_least"] == pytest.approx(exp(middle - reach) - 1)
    assert found["answer_most"] == pytest.approx(exp(middle + reach) - 1)
    assert survey([turns.head(19)]).lengths.row(0, named=True)["answer_most"] is None


TEXT = st.text(max_size=60) | st.text(
    st.sampled_from("a? 吗。\n`{\"'<|\u2028\u0085\ufeff\U0001f469\u200d"), max_size=300
)
DIALOGUE = st.lists(st.builds(Turn, TEXT, TEXT, TEXT), min_size=1, max_size=4)


@given(st.lists(DIALOGUE, max_size=4))
@pytest.mark.slow
def test_no_text_makes_a_flag_fall(dialogues: list[list[Turn]]) -> None:
    turns = turns_frame(Conversation(number, tuple(each)) for number, each in enumerate(dialogues, start=1))
    measured = survey([turns]).add_context(turns)
    assert dict(measured.schema) == {**TURNS_SCHEMA, **CONTEXT_SCHEMA}
    for name, field in LABELS.values():
        found = FLAGS[name].find(measured, field)
        assert found.dtype == pl.Boolean, name
        assert (found.len(), found.null_count()) == (turns.height, 0), name
    assert len(labels_by_turn(measured)) == turns.height
    assert all(map(shingles, turns["question"]))


def test_an_empty_dataset_has_no_flags() -> None:
    nothing = turns_frame([])
    assert labels_by_turn(survey([]).add_context(nothing)) == []
    assert scripts("...") == {}


def test_names_are_read_as_people_mean_them() -> None:
    assert labels_for("refusal") == ("refusal:answer", "refusal:correction")
    assert labels_for("refusal:answer") == ("refusal:answer",)
    assert labels_for("near_duplicate") == ("near_duplicate",)
    assert labels_for("refusal:question") == labels_for("nonsense") == labels_for("") == ()


def test_flags_are_described() -> None:
    page = (REPOSITORY / "docs" / "data-dictionary.md").read_text("utf-8")
    assert [label for label in LABELS if f"`{label}`" not in page] == []
    assert all(flag.find.__doc__ for flag in FLAGS.values())


def test_real_conversations() -> None:
    """Shares on a real run over a random sample of aligner-20K. Its copied corrections are a known 13.5 %."""
    source = SHARED / "aligner20k" / "round3_history.jsonl"
    if not source.exists():
        pytest.skip("the real rows are not at hand")
    rows = [orjson.loads(line) for line in source.read_bytes().splitlines()]
    dialogues = [Conversation(n, tuple(Turn(**turn) for turn in row["rounds"])) for n, row in enumerate(rows, start=1)]
    turns = turns_frame(dialogues)
    counts = Counter(
        (label, number)
        for number, found in zip(turns["round"], labels_by_turn(survey([turns]).add_context(turns)), strict=True)
        for label in found
    )
    assert [counts["correction_equals_answer", number] for number in (1, 2, 3)] == [27, 0, 0]
    assert 26 <= counts["refusal:answer", 1] <= 50
    assert 40 <= counts["refusal:correction", 1] <= 60
    assert 10 <= counts["question_offers", 2] + counts["question_offers", 3] <= 20
    for quiet in ("language_drift", "leaked_instruction", "degenerate_repetition", "near_duplicate"):
        assert not any(label.startswith(quiet) for label, _ in counts)
