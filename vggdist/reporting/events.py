"""TensorBoard's event files, written by the calling thread.

tensorboardX's own writer uses a thread, which ends when the disk is full; the next events then block forever.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from tensorboardX.proto.api_pb2 import Status
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.proto.tensor_pb2 import TensorProto
from tensorboardX.record_writer import masked_crc32c

from vggdist.reporting.append_only_file import AppendOnlyFile

PATTERN = "events.out.tfevents.*"
"""Pattern of the files' names."""
_VERSION = "brain.Event:2"


class EventFile:
    """The event file of one process; a full disk is handled by :class:`AppendOnlyFile`."""

    def __init__(self, directory: Path, suffix: str = "", purge_step: int | None = None) -> None:
        """Start a file in a folder of event files.

        Args:
            suffix: end of the file's name.
            purge_step: TensorBoard hides the events of earlier files from this step on.
        """
        # TensorBoard reads the files of a folder in the order of their names: microseconds, since an elastic run can restart
        # within a second.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}{suffix}"
        self._file = AppendOnlyFile(directory / name)
        events = [Event(wall_time=time.time(), file_version=_VERSION)]
        if purge_step is not None:
            events.append(Event(wall_time=time.time(), step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self._file.append(*map(_record, events))

    @property
    def lost(self) -> int:
        """Records that could not be written."""
        return self._file.lost

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Append a point to each of several curves, with exactly these names."""
        self._append(step, *(Summary.Value(tag=name, simple_value=value) for name, value in values.items()))

    def image(self, step: int, name: str, picture: Image.Image) -> None:
        """Append a picture in RGB."""
        content = io.BytesIO()
        picture.save(content, "PNG")
        width, height = picture.size
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=content.getvalue())
        self._append(step, Summary.Value(tag=name, image=image))

    def text(self, step: int, name: str, lines: str) -> None:
        """Append preformatted text."""
        markdown = "\n".join(f"    {line}" for line in lines.splitlines())
        tensor = TensorProto(dtype="DT_STRING", string_val=[markdown.encode()])
        self._append(step, Summary.Value(tag=name, metadata=_metadata("text"), tensor=tensor))

    def hyper_parameters(self, step: int, values: Mapping[str, bool | float | str]) -> None:
        """Record the values by which TensorBoard's HParams page compares runs; the first ones of a run are used."""
        start = SessionStartInfo(start_time_secs=time.time())
        for name, value in values.items():
            kind = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
            setattr(start.hparams[name], kind, value)
        self._session(step, "start", HParamsPluginData(session_start_info=start))

    def finished(self, step: int) -> None:
        """Record for the HParams page that the run has finished."""
        end = SessionEndInfo(status=Status.Value("STATUS_SUCCESS"), end_time_secs=time.time())
        self._session(step, "end", HParamsPluginData(session_end_info=end))

    def _session(self, step: int, kind: str, data: HParamsPluginData) -> None:
        metadata = _metadata("hparams", data.SerializeToString())
        tensor = TensorProto(dtype="DT_FLOAT", tensor_shape={"dim": [{"size": 0}]})  # the page requires one
        self._append(step, Summary.Value(tag=f"_hparams_/session_{kind}_info", metadata=metadata, tensor=tensor))

    def _append(self, step: int, *values: Summary.Value) -> None:
        self._file.append(_record(Event(wall_time=time.time(), step=step, summary=Summary(value=values))))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _metadata(plugin: str, content: bytes = b"") -> SummaryMetadata:
    return SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin, content=content))


def _record(event: Event) -> bytes:
    """An event in TFRecord framing: length, checksum of the length, content, checksum of the content."""
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", masked_crc32c(length)) + content + struct.pack("<I", masked_crc32c(content))
