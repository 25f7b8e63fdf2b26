"""Binding keys of topic exchanges: words separated by dots, where `*` stands for one word, `#` for any number.

Pure; used by the embedded broker, where each exchange is a topic exchange, and by the rules of the configuration. (AMQP
0-9-1 specification, 3.1.3.3.) The keys come from others, so the time is bounded by the product of their lengths.
"""


def matches(binding_key: str, routing_key: str) -> bool:
    """Return whether a topic exchange routes a message with this routing key through a binding with this binding key.

    As in RabbitMQ, an empty key has no word at all.
    """
    if binding_key == routing_key:
        return True
    words = routing_key.split(".") if routing_key else []
    reached = {0}  # the numbers of routing-key words that the binding-key words so far can match
    for word in binding_key.split(".") if binding_key else ():
        if word == "#":
            reached = set(range(min(reached), len(words) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(words) and word in ("*", words[at])}
        if not reached:
            return False
    return len(words) in reached
