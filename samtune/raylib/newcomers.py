"""Closes a listening socket to newcomers, although a library goes on to listen on it."""

from __future__ import annotations

import ctypes
import socket
import sys

_SO_ATTACH_FILTER = 26  # of Linux; Python has no name for it
_RETURN = 0x06


class _Instruction(ctypes.Structure):
    """`struct sock_filter`."""

    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def refuse_newcomers(listener: socket.socket) -> bool:
    """From now on the kernel drops every packet to the listening socket: nobody connects any more.

    Connections that there are stay, and so does the socket itself, for every descriptor of it.

    Returns:
        Whether it is so: only Linux can do it.
    """
    if sys.platform != "linux":
        return False
    drop_all = (_Instruction * 1)(_Instruction(_RETURN, 0, 0, 0))
    program = _Program(1, ctypes.cast(drop_all, ctypes.POINTER(_Instruction)))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
    except OSError:  # not in every sandbox
        return False
    return True
