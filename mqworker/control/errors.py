"""How a request to the Service fails: raised on the main thread, received by the HTTP thread that has asked."""


class ControlError(Exception):
    """A request that cannot be carried out.

    `kind` is conflict | unknown_job | unknown_message | unknown_slot | unknown_source | unknown_stage |
    unknown_selection | unknown_operation | count | filter | busy | storage | deadline | draining | refused |
    unavailable | internal; the broker admin uses the last four as well, and those about selections and operations.
    """

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


class ChangeRefused(Exception):  # noqa: N818 - the program is not at fault
    """The user's code refused parameters, or cannot be imported; `fields` says (field, what is wrong).

    `code`: it is the code in the folder, or that of an earlier generation, that cannot be used.
    """

    def __init__(self, fields: list[tuple[str, str]], problems: list[str], *, code: bool = False) -> None:
        self.fields = fields
        self.code = code
        self.problems = problems
        super().__init__("; ".join([f"{field}: {problem}" for field, problem in fields] + problems))
