"""The window against a list: whatever is settled when, results leave once, in the order of the lines, and bounded."""

from hashlib import sha256

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mqworker.brokers.files.reader import LineBatch
from mqworker.brokers.files.window import Extent, Window

MOST_LINES, MOST_BYTES = 12, 400
TEXTS = st.sampled_from([b"", b"  ", b"a", b"bcd", b"\r", b"x" * 30])


def digest(data):
    """Return a running digest."""
    return sha256(data)


class Windows(RuleBasedStateMachine):
    """Batches come, lines are taken, come back and are settled; portions are stored, or lost with the process."""

    def __init__(self):
        super().__init__()
        self.data = b""  # all that was read
        self.texts = []  # its lines, and whether they are blank
        self.begin(Extent())

    def begin(self, place):
        """Start a run that goes on at a place."""
        self.window = Window(place, MOST_LINES, MOST_BYTES)
        self.place = place
        self.out = {}  # by number
        self.made = {}  # results of each, by number
        self.storing = None
        if place.line < len(self.texts):
            self.batch(self.texts[place.line :], place.offset, place.line + 1)

    def batch(self, texts, offset, first):
        data = b"".join(text + b"\n" for text in texts)
        self.data = self.data[:offset] + data
        before, after = digest(self.data[:offset]), digest(self.data)
        self.window.add(LineBatch(first, offset, list(texts), len(data), before, after, offset + len(data)))

    @precondition(lambda self: self.window.wants and len(self.texts) < 60)
    @rule(texts=st.lists(TEXTS, min_size=1, max_size=8))
    def read(self, texts):
        """Read more lines."""
        first = len(self.texts) + 1
        self.texts += texts
        self.batch(texts, len(self.data), first)

    @rule()
    def take(self):
        """Take a line; those that come are in order, but for those that come back."""
        line = self.window.take()
        if line is None:
            return
        assert line.number not in self.out
        assert line.body == self.texts[line.number - 1]
        assert line.body.strip()
        self.out[line.number] = line

    @precondition(lambda self: self.out)
    @rule(data=st.data(), results=st.lists(st.sampled_from([b"r", b"s" * 20]), max_size=3), dead=st.booleans())
    def settle(self, data, results, dead):
        """Give a line results or a letter, and settle it."""
        line = self.out.pop(data.draw(st.sampled_from(sorted(self.out))))
        for result in results:
            self.window.add_result(line, result)
        if dead:
            self.window.kill(line, b"letter")
        self.made[line.number] = ([], [b"letter"]) if dead else (results, [])
        self.window.settle(line)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def back(self, data):
        """Let a line be computed again: it comes before others."""
        line = self.out.pop(data.draw(st.sampled_from(sorted(self.out))))
        self.window.back(line)
        assert self.window.take() is line
        self.out[line.number] = line

    @precondition(lambda self: self.storing is None)
    @rule()
    def portion(self):
        """Begin to store what is ready."""
        self.storing = self.window.portion()

    @precondition(lambda self: self.storing is not None)
    @rule()
    def stored(self):
        """A portion is stored: it is what was made of the lines that follow those before, and the place is right."""
        portion, self.storing = self.storing, None
        numbers = range(self.place.line + 1, portion.place.line + 1)
        assert len(numbers) == portion.lines
        made = [self.made.get(number, ([], [])) for number in numbers]
        assert portion.results == [result for results, _ in made for result in results]
        assert portion.dead == [letter for _, letters in made for letter in letters]
        assert all(number in self.made or not self.texts[number - 1].strip() for number in numbers)
        assert portion.place.offset == sum(len(text) + 1 for text in self.texts[: portion.place.line])
        assert portion.place.digest == sha256(self.data[: portion.place.offset]).hexdigest()
        self.place = portion.place
        self.window.stored(portion)

    @rule()
    def killed(self):
        """Begin again at what is stored."""
        self.begin(self.place)

    @invariant()
    def bounded(self):
        """Never more than the bound is taken and not stored, by one line and its results."""
        taken = max([self.place.line, *self.out, *self.made])
        assert taken - self.place.line <= MOST_LINES

    def teardown(self):
        """In the end everything can be settled and stored, and then nothing is left and nothing counted."""
        self.window.ended = True
        while True:
            if self.storing is None:
                self.portion()
            if self.storing is not None:
                self.stored()
            self.take()
            for number in list(self.out):
                self.made[number] = ([], [])
                self.window.settle(self.out.pop(number))
            if self.window.done and self.storing is None and not self.window._ready:
                break
        assert self.place.line == len(self.texts)
        assert (self.window._lines, self.window._bytes, self.window.behind) == (0, 0, 0)


TestWindows = pytest.mark.untraced(Windows.TestCase)  # slow under it, and other tests show what is covered
TestWindows.settings = settings(max_examples=200, stateful_step_count=60)


def test_blank_lines_need_no_computing():
    """Lines of blanks are settled when they are passed, and leave nothing."""
    window = Window(Extent())
    data = b"\n \n\t\r\n1\n\n"
    window.add(LineBatch(1, 0, data.split(b"\n")[:-1], len(data), digest(b""), digest(data), len(data)))
    window.ended = True
    line = window.take()
    assert (line.number, line.body, line.offset) == (4, b"1", 6)
    assert window.take() is None
    window.settle(line)
    assert window.done
    portion = window.portion()
    assert (portion.results, portion.lines, portion.place.offset) == ([], 5, len(data))


def test_a_line_that_takes_long_bounds_what_waits_for_it():
    """With the first line out, no more lines are taken than the bound, however many are settled behind it."""
    window = Window(Extent(), most_lines=10)
    window.add(LineBatch(1, 0, [b"1"] * 50, 100, digest(b""), digest(b""), 100))
    first = window.take()
    taken = 1
    while (line := window.take()) is not None:
        taken += 1
        window.settle(line)
    assert (taken, window.behind, window.portion()) == (10, 9, None)
    window.settle(first)
    portion = window.portion()
    assert portion.lines == 10
    assert window.take() is None
    window.stored(portion)
    assert window.take() is not None
