"""Lines for a person: on the console (with a progress bar when it is a terminal) and in ``log.txt``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from tqdm import tqdm

logger = logging.getLogger("vggdist")


class _ConsoleHandler(logging.Handler):
    """Writes each line above the progress bar, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def start_logging(is_root: bool, rank: int, log_file: Path | None) -> None:
    """Send rank 0's lines to the console and to ``log_file``; of other ranks only warnings and errors, with their rank."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(logging.INFO if is_root else logging.WARNING)
    console = _ConsoleHandler()
    console.setFormatter(logging.Formatter("%(message)s" if is_root else f"rank {rank}: %(message)s"))
    logger.addHandler(console)
    if log_file is not None:
        file = logging.FileHandler(log_file)
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
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
