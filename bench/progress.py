"""A progress bar where tqdm is installed and someone is looking."""

from types import TracebackType

try:
    from tqdm import tqdm
except ImportError:  # a machine that only runs the benchmark need not have it
    tqdm = None

_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


class Progress:
    """Counts up to `total`; text goes above the bar."""

    def __init__(self, total: int) -> None:
        # disable=None: no bar where the output is no terminal, such as a log.
        self._bar = tqdm and tqdm(total=total, bar_format=_FORMAT, dynamic_ncols=True, disable=None)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def describe(self, text: str) -> None:
        if self._bar is not None:
            self._bar.set_description(text)

    def reach(self, done: float) -> None:
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def write(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)
