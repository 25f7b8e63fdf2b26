"""Large results are taken out of their outcomes, which are small frames then, and put back by the Producer.

Pure; `take_out` serves Consumers, `put_back` lanes. Between the two the bodies go through a lane's hatch
(mqworker/consumer/hatch.py).
"""

from collections.abc import Iterator, Sequence

import msgspec

from mqworker.ipc.consumer_messages import LARGE, Failure, Outcome, Outcomes, ResultMessage


def take_out(outcome: Outcome) -> tuple[Outcome, list[bytes]]:
    """Return the outcome without its large bodies, and these."""
    bodies = [result.body for result in outcome.results if result.body is not None and len(result.body) > LARGE]
    if not bodies:
        return outcome, bodies
    results = tuple(_without(result) for result in outcome.results)
    return msgspec.structs.replace(outcome, results=results), bodies


def _without(result: ResultMessage) -> ResultMessage:
    large = result.body is not None and len(result.body) > LARGE
    return msgspec.structs.replace(result, body=b"", in_pieces=len(result.body or b"")) if large else result


def put_back(outcomes: Outcomes, bodies: Sequence[bytes], problem: Exception | None = None) -> Outcomes:
    """Return the outcomes with these bodies in their places; an outcome whose bodies are not all there has failed.

    `problem` says why they may not be.
    """
    left = iter(bodies)
    return msgspec.structs.replace(outcomes, outcomes=[_whole(outcome, left, problem) for outcome in outcomes.outcomes])


def _whole(outcome: Outcome, bodies: Iterator[bytes], problem: Exception | None) -> Outcome:
    results = []
    for result in outcome.results:
        body = next(bodies, b"") if result.in_pieces else result.body
        if result.in_pieces and len(body or b"") != result.in_pieces:
            return _failed(outcome, result.in_pieces, problem)
        results.append(msgspec.structs.replace(result, body=body, in_pieces=0))
    return msgspec.structs.replace(outcome, results=tuple(results))


def _failed(outcome: Outcome, size: int, problem: Exception | None) -> Outcome:
    if isinstance(problem, MemoryError):
        failure = Failure("memory", "MemoryError", f"the Producer had no memory for its result of {size:,} bytes")
    else:
        why = f": {problem}" if problem else ""
        failure = Failure("error", "DamagedResult", f"its result of {size:,} bytes did not arrive as it was sent{why}")
    return Outcome(outcome.seq, outcome.duration, outcome.generation, failure=failure)
