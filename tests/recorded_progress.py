"""A progress that records what is reported to it."""

from cache_schema.progress import Progress


class RecordedProgress(Progress):
    def __init__(self) -> None:
        self.totals: list[float] = []
        self.amounts: list[float] = []
        self.statuses: list[str] = []
        self.messages: list[str] = []

    def expect(self, total: float) -> None:
        self.totals.append(total)

    def advance(self, amount: float = 1, status: str = "") -> None:
        self.amounts.append(amount)
        self.statuses.append(status)

    def message(self, text: str) -> None:
        self.messages.append(text)
