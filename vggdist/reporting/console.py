"""Lines for a person: on the console (with a progress bar when it is a terminal) and in ``log.txt``."""

from __future__ import annotations

import logging
import sys
from logging.handlers import MemoryHandler
from pathlib import Path

from tqdm import tqdm

logger = logging.getLogger("vggdist")

_KEPT_LINES = 1000
_NEVER = logging.CRITICAL + 1


class _ConsoleHandler(logging.Handler):
    """Writes each line above the progress bar, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def start_logging(rank: int) -> None:
    """Send rank 0's lines to the console, of other ranks only warnings and errors, with their rank.

    Rank 0's lines are kept for :func:`open_log`.
    """
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    console = _ConsoleHandler()
    console.setFormatter(logging.Formatter("%(message)s" if rank == 0 else f"rank {rank}: %(message)s"))
    logger.addHandler(console)
    if rank == 0:
        logger.addHandler(MemoryHandler(_KEPT_LINES, flushLevel=_NEVER))


def open_log(path: Path) -> None:
    """Append rank 0's lines to a file, those included that were logged since :func:`start_logging`."""
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for handler in list(logger.handlers):
        if isinstance(handler, MemoryHandler):
            handler.setTarget(file)
            logger.removeHandler(handler)
            handler.close()
    logger.addHandler(file)


class Console:
    """The training as lines of text."""

    def __init__(self, first_step: int, total_steps: int, bar: bool) -> None:
        """Begin to write.

        Args:
            bar: show a progress bar where the output is a terminal. Open MPI gives each rank one of its own, and passes
                on whole lines only, so a bar would never be seen there.
        """
        self._total = total_steps
        self._bar = tqdm(
            total=total_steps,
            initial=first_step,
            unit="step",
            dynamic_ncols=True,
            leave=False,
            disable=not (bar and sys.stdout.isatty()),
            file=sys.stdout,
        )

    def advance(self, step: int) -> None:
        """Move the progress bar to the number of finished steps."""
        self._bar.update(step - self._bar.n)

    def training(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        """One line of an interval's metrics; on a terminal the bar shows them instead."""
        text = (
            f"loss {metrics['train/loss_moving_average']:.4f}  top1 {metrics['train/top1(%)']:.2f} %  "
            f"lr {metrics['optim/learning_rate']:.5f}  {metrics['throughput/images_per_s']:.0f} images/s"
        )
        if self._bar.disable:
            logger.info("step %*d/%d  epoch %.2f  %s", len(str(self._total)), step, self._total, epoch, text)
        else:
            self._bar.set_postfix_str(text)

    def evaluation(self, step: int, epoch: float, part: str, metrics: dict[str, float]) -> None:
        """One line of an evaluation."""
        values = "  ".join(f"{key.partition('/')[2]} {value:.4g}" for key, value in metrics.items())
        logger.info("%s set after epoch %.4g (step %d):  %s", part, epoch, step, values)

    def close(self) -> None:
        """Remove the progress bar."""
        self._bar.close()
