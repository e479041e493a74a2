"""Shuts Horovod down and starts it again in the same process, with the new ranks of an elastic job."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket

import horovod.mxnet as hvd

from vggdist.collectives.terminate import completes
from vggdist.collectives.world import World
from vggdist.config.errors import Dismissed, RunError
from vggdist.environment.network_interfaces import open_sockets

_UNASSIGNED = "-1"


def reinitialize() -> World:
    """Shut Horovod down and initialise it again; waits until all ranks of the new generation are connected.

    Raises:
        Dismissed: this process is not one of the new ranks.
        RunError: the ranks did not connect. Horovod cannot be started in this process after that.
    """
    hvd.shutdown()
    os.environ["HOROVOD_RANK"] = _UNASSIGNED
    worlds: list[World] = []
    if completes(lambda: worlds.append(World())):
        os.environ["HOROVOD_RANK"], os.environ["HOROVOD_SIZE"] = str(worlds[0].rank), str(worlds[0].size)
        return worlds[0]
    # When the launcher assigns a rank, Horovod sets the variable in the C environment only.
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    if getenv(b"HOROVOD_RANK") == _UNASSIGNED.encode():
        raise Dismissed("this process exits: its host is no longer part of the job")
    raise RunError("the ranks did not reconnect; start the same command again to continue from the newest checkpoint")


def disconnect(world: World) -> None:
    """Close this process's connections to the other ranks, so that none of them waits for this process.

    When a rank dies, Gloo reports it only to the ranks that wait for it at that time. A rank that waits for a surviving rank
    would otherwise wait until Horovod's timeout (30 s).
    """
    for name, number in open_sockets().items():
        if name in world.connections:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
                connection.shutdown(socket.SHUT_RDWR)
