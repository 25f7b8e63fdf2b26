"""From "module:name" to jobs: what is accepted, and the exact sentence for everything that is not."""

import sys

import pytest

from mqworker.jobs.loading import JobLoadError, load_chain, load_job

ACCEPTED = {
    "def f(body): return body": (set(), None),
    "def f(body, /): return body": (set(), None),
    "def f(message): return message": (set(), None),
    "def f(body, params): return body": ({"params"}, None),
    "def f(body, *, log, message, params): return body": ({"params", "message", "log"}, None),
    "def f(body, params=None, other=3): return body": ({"params"}, None),
    "def f(body, params=None, /): return body": (set(), None),
    "def f(*args): return args": (set(), None),
    "def f(body, **kwargs): return body": (set(), None),
    "f = lambda body, log: body": ({"log"}, None),
    "import functools\nf = functools.partial(lambda body, k: k, k=1)": (set(), None),
    "from math import sqrt as f": (set(), None),
    "f = max": (set(), None),
    "class f:\n def handle(self, body): pass": (set(), set()),
    "class f:\n def handle(self, body, params, log): pass\n def setup(self, log): pass": ({"params", "log"}, {"log"}),
    "class f:\n def __init__(self, a=1): pass\n def handle(*args): pass\n def teardown(self): pass": (set(), set()),
    "class f:\n @staticmethod\n def handle(body, message): pass": ({"message"}, set()),
    "class f:\n @classmethod\n def handle(cls, body, message): pass": ({"message"}, set()),
    "class C:\n def __call__(self, body, log): pass\nf = C()": ({"log"}, None),
    "class f(dict):\n def handle(self, body): pass": (set(), set()),
    "def f(body, deadline): pass": ({"deadline"}, None),
    "def f(body, deadline=None): pass": ({"deadline"}, None),
    "def f(body, deadline=float('inf')): pass": ({"deadline"}, None),
    "def f(body, deadline=30): pass": (set(), None),
    "class f:\n def handle(self, body, *, deadline=1.5): pass": (set(), set()),
    "class f:\n scope = 'global'\n def handle(self, body): pass": (set(), set()),
}
ASYNC = {
    "async def f(body, log): pass": True,
    "async def f(body): yield 1": True,
    "import functools\nasync def g(body, k): pass\nf = functools.partial(g, k=1)": True,
    "class C:\n async def __call__(self, body): pass\nf = C()": True,
    "class f:\n async def handle(self, body): pass\n def setup(self): pass\n async def teardown(self): pass": True,
    "def f(body): pass": False,
    "class f:\n scope = 'thread'\n def handle(self, body): pass": False,
}
SELF = "first argument is the decoded body, passed by position"
REFUSED = {
    "def f(): pass": f"it takes no positional argument; its {SELF}",
    "def f(*, body): pass": f"it takes no positional argument; its {SELF}",
    "def f(body, parms): pass": "it takes 'parms', which mqworker does not pass; did you mean 'params'?",
    "def f(body, x): pass": "it takes 'x', which mqworker does not pass; the first argument is the body; "
    "by name it may take params, message, log, deadline (or be the name of a [shared.NAME]); any other needs a default",
    "def f(body, *, x): pass": "it takes 'x', which mqworker does not pass; the first argument is the body; "
    "by name it may take params, message, log, deadline (or be the name of a [shared.NAME]); any other needs a default",
    "def f(body, log, /): pass": "it takes 'log', which mqworker does not pass; 'log' is passed by name: "
    "write it after the '/'",
    "class f:\n def handle(self, body): pass\n async def setup(self): pass": "its setup is an async function, but its "
    "handle is not; write a plain one",
    "class f:\n async def handle(self, body): pass\n async def setup(self): yield": "its setup yields, so calling it "
    "does nothing; write it without yield",
    "class f:\n scope = 'threads'\n def handle(self, body): pass": "its scope is 'threads'; write scope = \"thread\"",
    "class f:\n scope = 'thread'\n async def handle(self, body): pass": "its scope is a thread, but its handle is an "
    "async function, which runs in the only thread of the loop; leave the scope out: there is one instance "
    "for the loop",
    "class f:\n def handle(self, body): pass\n def setup(self): yield": "its setup yields, so calling it does nothing; "
    "write it without yield",
    "f = 3": "it is an int, which cannot be called; name a function, or a class with a method handle",
    "class f: pass": "the class f has no method handle; write def handle(self, body)",
    "class f:\n def handle(self): pass": f"its handle takes no positional argument; its {SELF}",
    "class f:\n def __init__(self, n): pass\n def handle(self, body): pass": "the class f cannot be instantiated "
    "without arguments; give its arguments defaults, and move what needs parameters to def setup(self, params)",
    "class f:\n def handle(self, body): pass\n def setup(self, message): pass": "its setup takes 'message', "
    "which mqworker does not pass; by name it may take params, log; any other needs a default",
    "class f:\n def handle(self, body): pass\n def teardown(self, log): pass": "its teardown takes 'log', which "
    "mqworker does not pass; it must take no arguments",
    "Params = 3\ndef f(body): pass": "its module's Params cannot validate parameters; make it a dataclass, "
    "a msgspec.Struct or a pydantic model",
    "import dataclasses\n@dataclasses.dataclass\nclass Params:\n a: 'Nope'\ndef f(body): pass": "its module's Params "
    "cannot be read: name 'Nope' is not defined; use annotations that msgspec can convert",
}  # fmt: skip


@pytest.mark.parametrize("source", ACCEPTED)
def test_jobs_are_bound_by_their_signature(folder, source):
    """Each form of a job gets the arguments of its signature."""
    arguments, setup_arguments = ACCEPTED[source]
    job = load_job("jobs_here:f", folder(jobs_here=source))
    assert (job.arguments, job.setup_arguments) == (arguments, setup_arguments)


@pytest.mark.parametrize("source", ASYNC)
def test_jobs_may_be_async(folder, source):
    """Functions, generators, callables and classes, and what wraps them openly."""
    job = load_job("jobs_here:f", folder(jobs_here=source))
    assert job.is_async is ASYNC[source]
    assert job.for_each_thread is ("scope" in source)


@pytest.mark.parametrize("source", REFUSED)
def test_jobs_that_cannot_be_called_are_refused(folder, source):
    """Each job that could not be called is refused with place, cause and fix, before any message is touched."""
    with pytest.raises(JobLoadError) as caught:
        load_job("jobs_here:f", folder(jobs_here=source))
    assert str(caught.value) == f'job "jobs_here:f": {REFUSED[source]}'


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("primes_here", 'a job is written module:name; for example "primes:largest" for largest in primes.py'),
        ("a b:c", 'a job is written module:name; for example "primes:largest" for largest in primes.py'),
        ("primes_here:", 'a job is written module:name; for example "primes:largest" for largest in primes.py'),
        ("..x:f", 'a job is written module:name; for example "primes:largest" for largest in primes.py'),
        (
            "prime_here:count",
            "there is no module 'prime_here' in {}, and none is installed; did you mean 'primes_here'?",
        ),
        ("zzz_zz:count", "there is no module 'zzz_zz' in {}, and none is installed; {} has: pack, primes_here"),
        ("pack.stepz:f", "there is no module 'pack.stepz' in {}, and none is installed; did you mean 'pack.steps'?"),
        ("pak.steps:f", "there is no module 'pak' in {}, and none is installed; did you mean 'pack.steps'?"),
        ("primes_here:cuont", "primes_here has no 'cuont'; did you mean 'count'?"),
        ("primes_here:zz", "primes_here has no 'zz'; it has: Holder, count"),
        ("primes_here:Holder.zz", "primes_here.Holder has no 'zz'; it has: run"),
    ],
)
def test_a_misspelt_job_is_told_what_there_is(folder, spec, sentence):
    """For a wrong name the error suggests the nearest right one, or lists what exists."""
    source = (
        "from math import pi\nclass Holder:\n @staticmethod\n def run(body): return body\ndef count(body): return 1"
    )
    root = folder(primes_here=source, pack__steps="def f(body): return body")
    with pytest.raises(JobLoadError) as caught:
        load_job(spec, root)
    assert str(caught.value) == f'job "{spec}": {sentence.replace("{}", str(root))}'


def test_a_chain_is_loaded_in_order_from_files_and_packages(folder):
    """Both parts of a spec may be dotted; the folder is put first on the path, once."""
    root = folder(
        primes_here="class Holder:\n @staticmethod\n def run(body): return body",
        pack__steps="import dataclasses\n@dataclasses.dataclass\nclass Params:\n a: int = 1\ndef f(body): return body",
    )
    jobs = load_chain(["primes_here:Holder.run", "pack.steps:f", "primes_here:Holder.run"], root)
    assert [job.spec for job in jobs] == ["primes_here:Holder.run", "pack.steps:f", "primes_here:Holder.run"]
    assert jobs[0].params_type is None
    assert jobs[1].params_type.__name__ == "Params"
    assert sys.path[0] == str(root)
    assert sys.path.count(str(root)) == 1


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import sys\nsys.exit('bye')", "importing broken_here raised SystemExit: bye"),
        ("1 / 0", "importing broken_here raised ZeroDivisionError: division by zero"),
        ("raise AssertionError", "importing broken_here raised AssertionError"),
        (
            "import not_there_at_all",
            "importing broken_here raised ModuleNotFoundError: No module named 'not_there_at_all'",
        ),
        ("def f(:", "importing broken_here raised SyntaxError: invalid syntax (broken_here.py, line 1)"),
    ],
)
def test_code_that_raises_when_imported_is_shown_with_its_traceback(folder, source, cause):
    """The traceback starts in the user's file and contains nothing of mqworker or the import system."""
    root = folder(broken_here=source)
    with pytest.raises(JobLoadError) as caught:
        load_job("broken_here:f", root)
    error = caught.value
    assert (error.place, error.cause) == ('job "broken_here:f"', cause)
    assert error.fix == "fix it, so that the module can be imported"
    assert f'File "{root}/broken_here.py", line' in error.detail.splitlines()[0 if "def" in source else 1]
    assert "importlib" not in error.detail
    assert "mqworker/jobs" not in error.detail


def test_a_file_hidden_by_another_module_is_told(folder):
    """A user's queue.py cannot be imported when Python's own already is, and this is reported."""
    root = folder(queue="def f(body): return body")
    with pytest.raises(JobLoadError, match=r"queue\.py is hidden by another module 'queue' .*; give it another name"):
        load_job("queue:f", root)


def test_a_file_and_a_package_of_one_name_are_one_module(folder):
    """Where both exist, we take the package, as Python does."""
    root = folder(both_here="", both_here__f="")
    (root / "both_here" / "__init__.py").write_text("def f(body): return 'package'")
    assert load_job("both_here:f", root).target(1) == "package"


SHARED = """\
class Rule:
    shared = True
    def handle(self, body, now): return body

class Counts:
    def add(self, body): return body

class Lame:
    shared = True

class Odd:
    shared = "yes"
    def handle(self, body): return body

def asks(body, counts): return counts.add(body)
"""


def test_shared_objects_are_links_and_arguments(folder):
    """A shared class is a link, under its configured name or that of the class; others ask for one by its name."""
    root = folder(shared_jobs_here=SHARED)
    named = {"counts": "shared_jobs_here:Counts", "rule": "shared_jobs_here:Rule"}
    rule, asks = load_chain(["shared_jobs_here:Rule", "shared_jobs_here:asks"], root, shared=named)
    assert (rule.shared, asks.shared, asks.arguments) == ("rule", "", {"counts"})
    assert load_job("shared_jobs_here:Rule", root).shared == "shared_jobs_here.Rule"
    with pytest.raises(JobLoadError, match="takes 'counts', which mqworker does not pass"):
        load_job("shared_jobs_here:asks", root)
    with pytest.raises(JobLoadError, match="the class Lame has no method handle"):
        load_job("shared_jobs_here:Lame", root)
    with pytest.raises(JobLoadError, match="its attribute shared is a str; write shared = True"):
        load_job("shared_jobs_here:Odd", root)
