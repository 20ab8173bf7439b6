"""A progress that remembers what it heard."""

from cache_schema.progress import Progress


class Heard(Progress):
    def __init__(self) -> None:
        self.expected: list[float] = []
        self.amounts: list[float] = []
        self.statuses: list[str] = []
        self.said: list[str] = []

    def expect(self, total: float) -> None:
        self.expected.append(total)

    def advance(self, amount: float = 1, status: str = "") -> None:
        self.amounts.append(amount)
        self.statuses.append(status)

    def say(self, text: str) -> None:
        self.said.append(text)
