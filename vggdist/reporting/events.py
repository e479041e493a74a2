"""TensorBoard's event files, written by the calling thread.

tensorboardX's own writer hands events to a thread, which ends when the disk is full; the next events then wait for ever.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from vggdist.reporting.appended import AppendedFile

_VERSION = "brain.Event:2"


class EventFile:
    """One process's curves and images; a full disk is dealt with as :class:`AppendedFile` does."""

    def __init__(self, directory: Path, suffix: str = "", purge_step: int | None = None) -> None:
        """Begin a file in a folder of event files.

        Args:
            suffix: end of the file's name.
            purge_step: TensorBoard hides what earlier files have of this step and later ones.
        """
        # TensorBoard reads the files of a folder in the order of their names: microseconds, since an elastic run can begin
        # anew within a second.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}{suffix}"
        self._file = AppendedFile(directory / name)
        events = [Event(wall_time=time.time(), file_version=_VERSION)]
        if purge_step is not None:
            events.append(Event(wall_time=time.time(), step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self._file.append(*map(_record, events))

    @property
    def lost(self) -> int:
        """Records that could not be written."""
        return self._file.lost

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Append a point to each of several curves, under exactly these names."""
        self.summary(step, Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()]))

    def summary(self, step: int, summary: Summary) -> None:
        """Append a summary."""
        self._file.append(_record(Event(wall_time=time.time(), step=step, summary=summary)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _record(event: Event) -> bytes:
    """An event as TFRecord frames it: length, checksum of the length, content, checksum of the content."""
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", masked_crc32c(length)) + content + struct.pack("<I", masked_crc32c(content))
