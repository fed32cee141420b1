"""What a search finds: a rule of the protocol that was broken."""


class Violation(Exception):
    """`rule` names the invariant, the text says what happened."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule
        self.text = text


def demand(holds: bool, rule: str, text: str) -> None:
    """Raise unless the rule holds."""
    if not holds:
        raise Violation(rule, text)
